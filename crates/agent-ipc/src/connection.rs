//! The two ends of the agent's socket: `ask` for the plugin, `Listener` and `Connection` for the agent.
//!
//! One message each way, then the connection ends; every wait has an end. Only root is listened to. What
//! must not go in here: what to answer.

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
use thiserror::Error;

use crate::attachment::AttachmentKey;
use crate::list::{read_list, write_list};
use crate::message::{Message, Reply, Request};
use crate::packet::{MessageError, limit, receive, send, with_causes};

/// Where the agent listens unless told otherwise.
pub const SOCKET_DEFAULT: &str = "/run/portico/agent.sock";

/// Pods start in bursts; who does not fit waits in `connect`, bounded by its patience.
const BACKLOG: i32 = 1024;

/// Why the agent was not asked, or gave no answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Nobody listens: the agent is not there.
    #[error("no agent listens at {}", socket.display())]
    Absent {
        /// Where it should.
        socket: PathBuf,
        /// Why it is known.
        #[source]
        source: io::Error,
    },
    /// It listens, but the two did not come to terms.
    #[error("ask the agent at {}", socket.display())]
    Failed {
        /// Where it listens.
        socket: PathBuf,
        /// Why.
        #[source]
        source: MessageError,
    },
}

impl RequestError {
    /// Whether the agent is not there at all, so that nobody else programs the pod.
    #[must_use]
    pub fn is_agent_down(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// Whether the request does not fit into a message.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Failed { source: MessageError::TooLarge, .. })
    }

    /// Whether trying again as it is may help.
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

/// Asks the agent, and waits no longer than `patience` for its answer.
///
/// # Errors
/// Where nobody listens, or no answer comes that is understood.
pub fn send_request(
    path: &Path,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    patience: Duration,
) -> Result<(Reply, Option<OwnedFd>), RequestError> {
    converse(path, request, netns, patience).map(|(reply, descriptor, _)| (reply, descriptor))
}

/// Has the agent forget all attachments of a network but these, however many they are.
///
/// # Errors
/// Where nobody listens, or no answer comes that is understood.
pub fn request_gc(
    path: &Path,
    network: &str,
    valid: &[AttachmentKey],
    patience: Duration,
) -> Result<Reply, RequestError> {
    let request = Request::Gc { network: network.to_owned(), valid: valid.to_owned() };
    match send_request(path, &request, None, patience) {
        Err(error) if error.is_too_large() => {}
        answer => return answer.map(|(reply, _)| reply),
    }
    let list = write_list(valid).map_err(|source| RequestError::Failed {
        socket: path.to_owned(),
        source: MessageError::Io(source),
    })?;
    let request = Request::GcList { network: network.to_owned() };
    send_request(path, &request, Some(list.as_fd()), patience).map(|(reply, _)| reply)
}

/// An agent that has retired, and relays what comes until this is dropped.
#[derive(Debug)]
pub struct OutgoingAgent {
    _conversation: OwnedFd,
}

/// Asks the agent to retire. None: no agent is there.
///
/// # Errors
/// Where it does not, or does not answer in time.
pub fn request_handover(path: &Path, patience: Duration) -> Result<Option<OutgoingAgent>, HandoverError> {
    match converse(path, &Request::Handover, None, patience) {
        Ok((Reply::Done, _, conversation)) => Ok(Some(OutgoingAgent { _conversation: conversation })),
        Ok((Reply::Refused { message, .. }, ..)) => Err(HandoverError::Refused(message)),
        Ok((Reply::File, ..)) => Err(HandoverError::Refused("it answers something else".to_owned())),
        Err(RequestError::Absent { .. }) => Ok(None),
        Err(error) => Err(HandoverError::Ask(error)),
    }
}

/// Why an agent did not retire.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// It does not want to, or does not know how.
    #[error("the agent that is there does not retire: {0}; stop it first")]
    Refused(String),
    /// It was not to be asked.
    #[error("ask the agent that is there to retire")]
    Ask(#[source] RequestError),
}

fn converse(
    path: &Path,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    patience: Duration,
) -> Result<(Reply, Option<OwnedFd>, OwnedFd), RequestError> {
    let deadline = Instant::now() + patience;
    let failed = |source| RequestError::Failed { socket: path.to_owned(), source };
    let socket = seqpacket().map_err(|error| failed(error.into()))?;
    limit(socket.as_fd(), Timeout::Send, deadline).map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
    retry_on_intr(|| connect(&socket, &address)).map_err(|error| match error {
        Errno::NOENT | Errno::CONNREFUSED => {
            RequestError::Absent { socket: path.to_owned(), source: error.into() }
        }
        other => failed(other.into()),
    })?;
    let talk = || {
        send(socket.as_fd(), request, netns)?;
        limit(socket.as_fd(), Timeout::Recv, deadline)?;
        receive::<Reply>(socket.as_fd())
    };
    let (reply, descriptor) = talk().map_err(failed)?;
    Ok((reply.body, descriptor, socket))
}

/// Where the agent listens.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// Locked as long as this agent lives and has not retired, so that no other one takes its place.
    lock: Arc<File>,
}

/// What keeps other agents from an agent's place.
#[derive(Debug, Clone)]
pub struct SocketOwnership(Arc<File>);

impl SocketOwnership {
    /// Lets another agent take the place.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn release(&self) -> io::Result<()> {
        self.0.unlock()
    }

    /// Waits until the place is free.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn acquire(&self) -> io::Result<()> {
        self.0.lock()
    }
}

impl Listener {
    /// Listens at a path, in the place of an agent that is dead.
    ///
    /// # Errors
    /// Where an agent listens already, something else is in the way, or the file system refuses.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        }
        // Whoever can open it can lock it, and so keep the agent from starting.
        let mut private = OpenOptions::new();
        let lock = private
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.with_added_extension("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => {
                let why = format!("an agent listens at {} already", path.display());
                io::Error::new(io::ErrorKind::AddrInUse, why)
            }
            fs::TryLockError::Error(error) => error,
        })?;
        remove_stale(path)?;
        let socket = seqpacket()?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before `listen`, so nobody does before the mode is right.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        Ok(Self { socket: socket.into(), lock: Arc::new(lock) })
    }

    /// The claim on this place.
    #[must_use]
    pub fn ownership(&self) -> SocketOwnership {
        SocketOwnership(Arc::clone(&self.lock))
    }

    /// Whether `accept` returns at once where nobody waits, as an event loop needs it; at first it waits.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    /// The next connection.
    ///
    /// # Errors
    /// Where no descriptor is left, or nobody waits and this is not to wait.
    pub fn accept(&self) -> io::Result<Connection> {
        Ok(Connection(self.socket.accept()?.0))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why a request is not to be served. The peer was told.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The peer is somebody else than root.
    #[error("user {uid} asks, and only root is listened to")]
    Stranger {
        /// Who it is.
        uid: u32,
    },
    /// The request speaks of a network namespace that did not come along.
    #[error("no descriptor of a network namespace came along")]
    NoNetns,
    /// The list that should come along cannot be read.
    #[error("failed to read the list of attachments")]
    List(#[source] io::Error),
    /// Nothing came that is understood.
    #[error("receive a request")]
    Message(#[source] MessageError),
}

/// One peer, one request, one reply.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    /// The request, and the descriptor that came along: always for those that speak of a network namespace.
    ///
    /// # Errors
    /// Where no request comes that is to be served; the peer has had its reply then.
    pub fn receive(&self, patience: Duration) -> Result<(Message<Request>, Option<OwnedFd>), ReceiveError> {
        let received = self.request(Instant::now() + patience);
        if let Err(error) = &received {
            let refused = Reply::Refused { message: with_causes(error), transient: false };
            // A peer that is gone needs no reply.
            let _ = self.reply(&refused, None);
        }
        received
    }

    /// Answers.
    ///
    /// # Errors
    /// Where the peer is gone or takes nothing.
    pub fn reply(&self, reply: &Reply, descriptor: Option<BorrowedFd<'_>>) -> Result<(), MessageError> {
        send(self.0.as_fd(), reply, descriptor)
    }

    /// Waits until the peer ends the conversation.
    pub fn wait_for_close(&self) {
        let is_unlimited = set_socket_timeout(&self.0, Timeout::Recv, None).is_ok();
        // Nothing more is to come; whatever else happens is an end, too.
        while is_unlimited && receive::<Request>(self.0.as_fd()).is_ok() {}
    }

    fn request(&self, deadline: Instant) -> Result<(Message<Request>, Option<OwnedFd>), ReceiveError> {
        let socket = self.0.as_fd();
        limit(socket, Timeout::Recv, deadline).map_err(ReceiveError::Message)?;
        limit(socket, Timeout::Send, deadline).map_err(ReceiveError::Message)?;
        // Read whoever it is: to close on unread bytes would throw the reply away, too.
        let received = receive::<Request>(socket);
        // Not by rustix, whose process ids are never 0: a peer of another pid namespace has that.
        let peer = getsockopt(&socket, sockopt::PeerCredentials)
            .map_err(|error| ReceiveError::Message(MessageError::Io(error.into())))?;
        if peer.uid() != 0 && peer.uid() != rustix::process::geteuid().as_raw() {
            return Err(ReceiveError::Stranger { uid: peer.uid() });
        }
        let (message, descriptor) = received.map_err(ReceiveError::Message)?;
        if descriptor.is_none() && message.body.needs_netns() {
            return Err(ReceiveError::NoNetns);
        }
        let Message { version, body } = message;
        match (body, descriptor) {
            (Request::GcList { network }, Some(list)) => {
                let valid = read_list(list).map_err(ReceiveError::List)?;
                Ok((Message { version, body: Request::Gc { network, valid } }, None))
            }
            (Request::GcList { .. }, None) => Err(ReceiveError::List(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no descriptor came along",
            ))),
            (body, descriptor) => Ok((Message { version, body }, descriptor)),
        }
    }
}

fn seqpacket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Removes what a dead agent left behind, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => {
            let why = format!("{} is there and is no socket", path.display());
            Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
