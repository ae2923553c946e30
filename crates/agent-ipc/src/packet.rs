//! One packet on a SOCK_SEQPACKET socket: at most 64 KiB of JSON, and at most one file descriptor.
//!
//! Whatever the peer sends, no file descriptor is leaked, and a packet beyond the limits is rejected as a whole.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::message::{Message, VERSION, is_supported_version};

/// The maximum size of a message, which fits the kernel's socket buffers.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// The kernel's maximum of file descriptors in one packet. The buffer has room for all, so that all are closed.
const DESCRIPTORS_MAX: usize = 253;

/// Why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The deadline has passed.
    #[error("timed out waiting for a message")]
    TimedOut,
    /// The peer closed the connection.
    #[error("connection closed without a message")]
    Closed,
    /// The message is larger than the limit.
    #[error("message exceeds {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    /// There are more file descriptors than one, or than this process may open.
    #[error("expected at most one file descriptor, got several")]
    Descriptors,
    /// The peer's version is not supported.
    #[error("unsupported protocol version {theirs} (supported: {} to {})", VERSION - 1, VERSION + 1)]
    Version {
        /// The peer's version.
        theirs: u32,
    },
    /// The message is not valid JSON, or not a message of the protocol.
    #[error("malformed message")]
    Malformed(#[source] serde_json::Error),
    /// The kernel reported an error.
    #[error("socket I/O failed")]
    Io(#[source] io::Error),
}

impl From<rustix::io::Errno> for MessageError {
    fn from(error: rustix::io::Errno) -> Self {
        match error {
            rustix::io::Errno::AGAIN => Self::TimedOut,
            rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => Self::Closed,
            other => Self::Io(other.into()),
        }
    }
}

/// Makes blocking operations on a socket end at the deadline.
pub(crate) fn set_deadline(
    socket: BorrowedFd<'_>,
    which: Timeout,
    deadline: Instant,
) -> Result<(), MessageError> {
    // Zero would mean no timeout.
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    Ok(set_socket_timeout(socket, which, Some(left))?)
}

/// Sends a message of this version.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    body: &T,
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), MessageError> {
    let bytes = serde_json::to_vec(&Message { version: VERSION, body }).map_err(MessageError::Malformed)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLarge);
    }
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    if descriptor.is_some() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptor.as_slice()));
    }
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives a message of a supported version, and the file descriptor that was sent along.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<(Message<T>, Option<OwnedFd>), MessageError> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut room);
    let received = retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(MessageError::TooLarge);
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > 1 {
        return Err(MessageError::Descriptors);
    }
    if received.bytes == 0 {
        return Err(MessageError::Closed);
    }
    Ok((parse(bytes.get(..received.bytes).unwrap_or_default())?, descriptors.pop()))
}

/// Checks the version first: a message of another version may have any form.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<Message<T>, MessageError> {
    #[derive(Deserialize)]
    struct Envelope {
        version: u32,
    }
    let Envelope { version } = serde_json::from_slice(bytes).map_err(MessageError::Malformed)?;
    if !is_supported_version(version) {
        return Err(MessageError::Version { theirs: version });
    }
    serde_json::from_slice(bytes).map_err(MessageError::Malformed)
}
