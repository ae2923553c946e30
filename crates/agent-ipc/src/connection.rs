//! The agent's socket: `send_request` for clients, `Listener` and `Connection` for the agent.
//!
//! A connection carries one message in each direction, and every wait has a timeout. Only root and the user of the
//! agent may connect.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use support::with_causes;
use thiserror::Error;

use crate::attachment::AttachmentKey;
use crate::list::{read_list, write_list};
use crate::message::{Message, Reply, Request};
use crate::packet::{MessageError, receive, send, set_deadline};

/// The default path of the agent's socket.
pub const SOCKET_DEFAULT: &str = "/run/portico/agent.sock";

/// Pods start in bursts. A client beyond this waits in `connect`, until its timeout.
const BACKLOG: i32 = 1024;

/// Why a request has no reply.
#[derive(Debug, Error)]
pub enum RequestError {
    /// No agent is running.
    #[error("no agent is listening on {}", socket.display())]
    Absent {
        /// The path of the socket.
        socket: PathBuf,
        /// The error of `connect`.
        #[source]
        source: io::Error,
    },
    /// An agent is running, but the exchange failed.
    #[error("request to agent at {} failed", socket.display())]
    Failed {
        /// The path of the socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: MessageError,
    },
}

impl RequestError {
    /// Whether no agent is running, so that the plugin must program the pod.
    #[must_use]
    pub fn is_agent_down(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// Whether the request exceeds the size of a message.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Failed { source: MessageError::TooLarge, .. })
    }

    /// Whether a retry can succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Absent { .. } => true,
            Self::Failed { source, .. } => {
                matches!(source, MessageError::TimedOut | MessageError::Closed | MessageError::Io(_))
            }
        }
    }
}

/// Sends a request to the agent, and waits for its reply until the timeout.
///
/// # Errors
/// If no agent is running, or there is no valid reply.
pub fn send_request(
    path: &Path,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    timeout: Duration,
) -> Result<(Reply, Option<OwnedFd>), RequestError> {
    exchange(path, request, netns, timeout).map(|(reply, descriptor, _)| (reply.body, descriptor))
}

/// Makes the agent remove all attachments of a network except these, in a file if they exceed the size of a message.
///
/// # Errors
/// If no agent is running, or there is no valid reply.
pub fn request_gc(
    path: &Path,
    network: &str,
    valid: &[AttachmentKey],
    timeout: Duration,
) -> Result<Reply, RequestError> {
    let request = Request::Gc { network: network.to_owned(), valid: valid.to_owned() };
    match send_request(path, &request, None, timeout) {
        Err(error) if error.is_too_large() => {}
        answer => return answer.map(|(reply, _)| reply),
    }
    let list = write_list(valid).map_err(|source| RequestError::Failed {
        socket: path.to_owned(),
        source: MessageError::Io(source),
    })?;
    let request = Request::GcList { network: network.to_owned() };
    send_request(path, &request, Some(list.as_fd()), timeout).map(|(reply, _)| reply)
}

/// Sends a request and receives the reply. Returns the connection, too.
pub(crate) fn exchange(
    path: &Path,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    timeout: Duration,
) -> Result<(Message<Reply>, Option<OwnedFd>, OwnedFd), RequestError> {
    let deadline = Instant::now() + timeout;
    let failed = |source| RequestError::Failed { socket: path.to_owned(), source };
    let socket = seqpacket().map_err(|error| failed(error.into()))?;
    set_deadline(socket.as_fd(), Timeout::Send, deadline).map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
    retry_on_intr(|| connect(&socket, &address)).map_err(|error| match error {
        Errno::NOENT | Errno::CONNREFUSED => {
            RequestError::Absent { socket: path.to_owned(), source: error.into() }
        }
        other => failed(other.into()),
    })?;
    let exchange = || {
        send(socket.as_fd(), request, netns)?;
        set_deadline(socket.as_fd(), Timeout::Recv, deadline)?;
        receive::<Reply>(socket.as_fd())
    };
    let (reply, descriptor) = exchange().map_err(failed)?;
    Ok((reply, descriptor, socket))
}

/// The agent's socket, on which it accepts connections.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// Locked until this agent exits or hands over, so that no other agent listens on the same path.
    lock: Arc<File>,
}

/// The exclusive right of an agent to listen on its path.
#[derive(Debug, Clone)]
pub struct SocketOwnership(Arc<File>);

impl SocketOwnership {
    /// Releases the path for another agent.
    ///
    /// # Errors
    /// If the file system reports an error.
    pub fn release(&self) -> io::Result<()> {
        self.0.unlock()
    }

    /// Waits until no other agent owns the path, and acquires it.
    ///
    /// # Errors
    /// If the file system reports an error.
    pub fn acquire(&self) -> io::Result<()> {
        self.0.lock()
    }
}

impl Listener {
    /// Listens on a path. Replaces the socket of an agent that is no longer running.
    ///
    /// # Errors
    /// If another agent is listening on the path, the path is not a socket, or the file system reports an error.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        // Only for the owner: a process that can open the file can lock it, and prevent the agent from starting.
        let mut private = OpenOptions::new();
        let lock = private
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.with_added_extension("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => {
                let why = format!("an agent is already listening on {}", path.display());
                io::Error::new(io::ErrorKind::AddrInUse, why)
            }
            fs::TryLockError::Error(error) => error,
        })?;
        remove_stale(path)?;
        let socket = seqpacket()?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Clients cannot connect before `listen`, so none connects before the mode is set.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        Ok(Self { socket: socket.into(), lock: Arc::new(lock) })
    }

    /// The exclusive right to listen on this path.
    #[must_use]
    pub fn ownership(&self) -> SocketOwnership {
        SocketOwnership(Arc::clone(&self.lock))
    }

    /// Sets whether `accept` returns immediately if no client is waiting, as an event loop needs it. The default is to
    /// wait.
    ///
    /// # Errors
    /// If the kernel reports an error.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// If no file descriptor is available, or the listener is non-blocking and no client is waiting.
    pub fn accept(&self) -> io::Result<Connection> {
        Ok(Connection(self.socket.accept()?.0))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why a request was rejected. The peer has received a reply with the reason.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The peer is neither root nor the user of the agent.
    #[error("permission denied for uid {uid}: only root may connect")]
    PermissionDenied {
        /// The user id of the peer.
        uid: u32,
    },
    /// The request requires a network namespace.
    #[error("request carried no netns file descriptor")]
    MissingNetns,
    /// The list of attachments is missing or invalid.
    #[error("failed to read the list of attachments")]
    List(#[source] io::Error),
    /// There is no valid request.
    #[error("failed to receive request")]
    Message(#[source] MessageError),
}

/// A connection from one client, for one request and one reply.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    /// Receives the request, and the file descriptor that was sent along. A request that needs a network namespace
    /// always has one.
    ///
    /// # Errors
    /// If there is no valid and permitted request until the timeout; the peer has received a reply then.
    pub fn receive(&self, timeout: Duration) -> Result<(Message<Request>, Option<OwnedFd>), ReceiveError> {
        let received = self.receive_request(Instant::now() + timeout);
        if let Err(error) = &received {
            let refused = Reply::Refused { message: with_causes(error), transient: false };
            // The peer may have closed the connection.
            let _ = self.reply(&refused, None);
        }
        received
    }

    /// Sends a reply.
    ///
    /// # Errors
    /// If the peer closed the connection or does not read.
    pub fn reply(&self, reply: &Reply, descriptor: Option<BorrowedFd<'_>>) -> Result<(), MessageError> {
        send(self.0.as_fd(), reply, descriptor)
    }

    /// Waits until the peer closes the connection, and passes the socket of each request for DNS sockets to
    /// `share_dns`.
    pub fn wait_for_close(&self, share_dns: impl Fn(OwnedFd)) {
        if set_socket_timeout(&self.0, Timeout::Recv, None).is_err() {
            return;
        }
        // The protocol has no other second request; any error counts as the end.
        while let Ok((message, descriptor)) = receive::<Request>(self.0.as_fd()) {
            if let (Request::ShareDns, Some(socket)) = (message.body, descriptor) {
                share_dns(socket);
            }
        }
    }

    fn receive_request(
        &self,
        deadline: Instant,
    ) -> Result<(Message<Request>, Option<OwnedFd>), ReceiveError> {
        let socket = self.0.as_fd();
        set_deadline(socket, Timeout::Recv, deadline).map_err(ReceiveError::Message)?;
        set_deadline(socket, Timeout::Send, deadline).map_err(ReceiveError::Message)?;
        // Read before the check of the peer: closing a socket with unread bytes discards the reply as well.
        let received = receive::<Request>(socket);
        // Not with rustix, which rejects process id 0: a peer in another pid namespace has that.
        let peer = getsockopt(&socket, sockopt::PeerCredentials)
            .map_err(|error| ReceiveError::Message(MessageError::Io(error.into())))?;
        if peer.uid() != 0 && peer.uid() != rustix::process::geteuid().as_raw() {
            return Err(ReceiveError::PermissionDenied { uid: peer.uid() });
        }
        let (message, descriptor) = received.map_err(ReceiveError::Message)?;
        if descriptor.is_none() && message.body.needs_netns() {
            return Err(ReceiveError::MissingNetns);
        }
        let Message { version, body } = message;
        match (body, descriptor) {
            (Request::GcList { network }, Some(list)) => {
                let valid = read_list(list).map_err(ReceiveError::List)?;
                Ok((Message { version, body: Request::Gc { network, valid } }, None))
            }
            (Request::GcList { .. }, None) => Err(ReceiveError::List(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no file descriptor was sent along",
            ))),
            (body, descriptor) => Ok((Message { version, body }, descriptor)),
        }
    }
}

fn seqpacket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Removes the socket of an agent that is no longer running, and no other file.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => {
            let why = format!("{} exists and is not a socket", path.display());
            Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
