//! `Netns`: another network namespace, held by a descriptor, and its identity.
//!
//! Whoever works in it does so on a thread of its own that never comes back, so that no other work can end
//! up in there. The network namespace that this process is in is refused before anything is done: portals
//! of a pod have no business on the node.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::socket::Socket;

/// This thread's network namespace; `/proc/self` would be that of the first thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// The identity of a network namespace. Inodes are used again; the kernel's cookie is not, until a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// The device of its file.
    pub dev: u64,
    /// The inode of its file.
    pub inode: u64,
    /// The kernel's own number.
    pub cookie: u64,
}

/// Another network namespace. As long as it is held, it lives.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    id: NetnsId,
}

impl Netns {
    /// Opens the one behind a path.
    ///
    /// # Errors
    /// Where nothing or something else is behind the path, it is our own, or it may not be entered.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::Enter)?;
        Self::from_fd(file.into())
    }

    /// Takes one by its descriptor.
    ///
    /// # Errors
    /// As `open`.
    pub fn from_fd(file: OwnedFd) -> Result<Self, Error> {
        Self::with_socket(file).map(|(netns, _)| netns)
    }

    /// Takes one by its descriptor, together with a socket to nf_tables in there: one way in serves both.
    ///
    /// # Errors
    /// As `open`, or no socket is to be had.
    pub fn with_socket(file: OwnedFd) -> Result<(Self, Socket), Error> {
        let place = place(&file)?;
        if place == self::place(&File::open(OWN).map_err(Error::Enter)?)? {
            return Err(Error::Own);
        }
        let open = || {
            let socket = Socket::open()?;
            let cookie = socket.netns_cookie()?;
            Ok::<_, Error>((socket, cookie))
        };
        let (socket, cookie) = within(&file, open)??;
        Ok((Self { file, id: NetnsId { dev: place.0, inode: place.1, cookie } }, socket))
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` in there, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// Where it cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        within(&self.file, work)
    }

    /// A socket to nf_tables in there.
    ///
    /// # Errors
    /// Where it cannot be entered or no socket is to be had.
    pub fn socket(&self) -> Result<Socket, Error> {
        self.within(Socket::open)?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn place(file: &impl AsFd) -> Result<(u64, u64), Error> {
    let stat = fstat(file).map_err(|error| Error::Enter(error.into()))?;
    Ok((stat.st_dev, stat.st_ino))
}

fn within<T: Send>(file: &OwnedFd, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let entered = || {
        setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| match error {
            nix::Error::EINVAL => Error::NoNetns,
            other => Error::Enter(other.into()),
        })?;
        Ok(work())
    };
    let joined = thread::scope(|scope| scope.spawn(entered).join());
    joined.unwrap_or_else(|_| Err(Error::Enter(io::Error::other("the thread that entered ended early"))))
}
