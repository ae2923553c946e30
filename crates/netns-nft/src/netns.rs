//! `Netns`: a handle of another network namespace, and its identity.
//!
//! Work in a network namespace runs on a new thread that enters it and then exits, so that no other work can end up
//! there. The network namespace of this process is rejected before anything is done: the node must not get the portals
//! of a pod.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::libc::EINVAL;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::netlink::socket::Socket;

/// The network namespace of this thread; `/proc/self` would be that of the main thread.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// The identity of a network namespace. The kernel reuses inodes, but not cookies until a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// The device of the namespace's file.
    pub dev: u64,
    /// The inode of the namespace's file.
    pub inode: u64,
    /// The kernel's cookie (`SO_NETNS_COOKIE`).
    pub cookie: u64,
}

impl NetnsId {
    /// The identity of the network namespace of this thread.
    ///
    /// # Errors
    /// If it cannot be read, or no socket can be opened.
    pub fn current() -> Result<Self, Error> {
        let (dev, inode) = dev_and_inode(&File::open(OWN_NETNS).map_err(Error::Enter)?)?;
        Ok(Self { dev, inode, cookie: Socket::open()?.netns_cookie()? })
    }
}

/// A handle of another network namespace, which it keeps alive.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    id: NetnsId,
}

impl Netns {
    /// Opens the network namespace at a path.
    ///
    /// # Errors
    /// If the path does not lead to a network namespace, if it is the one of this process, or if entering it is not
    /// permitted.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::Enter)?;
        Self::from_fd(file.into())
    }

    /// Wraps the file descriptor of a network namespace.
    ///
    /// # Errors
    /// As `open`.
    pub fn from_fd(file: OwnedFd) -> Result<Self, Error> {
        Self::with_socket(file).map(|(netns, _)| netns)
    }

    /// Wraps the file descriptor of a network namespace, and opens a socket to nf_tables there: both need to enter it
    /// once.
    ///
    /// # Errors
    /// As `open`, or if no socket can be opened.
    pub fn with_socket(file: OwnedFd) -> Result<(Self, Socket), Error> {
        let (dev, inode) = dev_and_inode(&file)?;
        if (dev, inode) == dev_and_inode(&File::open(OWN_NETNS).map_err(Error::Enter)?)? {
            return Err(Error::OwnNetns);
        }
        let open = || {
            let socket = Socket::open()?;
            let cookie = socket.netns_cookie()?;
            Ok::<_, Error>((socket, cookie))
        };
        let (socket, cookie) = within(&file, open)??;
        Ok((Self { file, id: NetnsId { dev, inode, cookie } }, socket))
    }

    /// The identity of the network namespace.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` in the network namespace, on a new thread, and waits for it.
    ///
    /// # Errors
    /// If the network namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        within(&self.file, work)
    }

    /// Opens a socket to nf_tables in the network namespace.
    ///
    /// # Errors
    /// If the network namespace cannot be entered, or no socket can be opened.
    pub fn socket(&self) -> Result<Socket, Error> {
        self.within(Socket::open)?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Moves the calling thread into a network namespace. Only a thread that does no other work should enter one.
///
/// # Errors
/// If the file is not a network namespace, or entering it is not permitted.
pub fn enter_netns(file: impl AsFd) -> io::Result<()> {
    Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
}

fn dev_and_inode(file: &impl AsFd) -> Result<(u64, u64), Error> {
    let stat = fstat(file).map_err(|error| Error::Enter(error.into()))?;
    Ok((stat.st_dev, stat.st_ino))
}

fn within<T: Send>(file: &OwnedFd, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let enter_and_work = || {
        enter_netns(file).map_err(|error| match error.raw_os_error() {
            Some(EINVAL) => Error::NotNetns,
            _ => Error::Enter(error),
        })?;
        Ok(work())
    };
    let joined = thread::scope(|scope| scope.spawn(enter_and_work).join());
    joined.unwrap_or_else(|_| {
        Err(Error::Enter(io::Error::other("the thread in the network namespace panicked")))
    })
}
