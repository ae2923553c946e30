//! One packet on a SOCK_SEQPACKET socket: at most 64 KiB of JSON, and at most one descriptor beside it.
//!
//! Whatever the peer sends, no descriptor is left open and nothing is read in part: what does not fit is
//! refused as a whole. What must not go in here: what a message says.

use std::error::Error;
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

use crate::message::{Message, VERSION, speaks};

/// What a message may take; the kernel's buffers hold it whole.
pub const BYTES_MAX: usize = 64 << 10;
/// The kernel lets nobody send more at once, so there is room for whatever comes, and all of it is closed.
const DESCRIPTORS_MAX: usize = 253;

/// Why a message did not come across.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The peer was too slow.
    #[error("nothing came in time")]
    TimedOut,
    /// The peer went away.
    #[error("the connection was closed without a message")]
    Closed,
    /// The message is too large.
    #[error("the message is larger than {BYTES_MAX} bytes")]
    TooLarge,
    /// More descriptors came along than one, or than this process may hold.
    #[error("more came along than one descriptor")]
    Descriptors,
    /// The peer is of another age.
    #[error("it is in version {theirs} of the messages, this side speaks {VERSION} and its neighbours")]
    Version {
        /// What it speaks.
        theirs: u32,
    },
    /// It is not what the two sides say to each other.
    #[error("the message cannot be understood")]
    Broken(#[source] serde_json::Error),
    /// The socket failed.
    #[error("send or receive")]
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

/// An error in one line: what was tried, and why it failed, down to the root.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let (mut line, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// Waits on this socket end when the deadline comes.
pub(crate) fn limit(socket: BorrowedFd<'_>, which: Timeout, deadline: Instant) -> Result<(), MessageError> {
    // Zero would mean to wait for ever.
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    Ok(set_socket_timeout(socket, which, Some(left))?)
}

/// Sends a message in our version.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    body: &T,
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), MessageError> {
    let bytes = serde_json::to_vec(&Message { version: VERSION, body }).map_err(MessageError::Broken)?;
    if bytes.len() > BYTES_MAX {
        return Err(MessageError::TooLarge);
    }
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut room);
    if descriptor.is_some() {
        beside.push(SendAncillaryMessage::ScmRights(descriptor.as_slice()));
    }
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives a message in a version that is understood, and the descriptor that came along.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<(Message<T>, Option<OwnedFd>), MessageError> {
    let mut bytes = vec![0; BYTES_MAX];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut room);
    let got = retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(MessageError::TooLarge);
    }
    if got.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > 1 {
        return Err(MessageError::Descriptors);
    }
    if got.bytes == 0 {
        return Err(MessageError::Closed);
    }
    Ok((understood(bytes.get(..got.bytes).unwrap_or_default())?, descriptors.pop()))
}

/// The version is looked at first: what another one says may have any shape.
fn understood<T: DeserializeOwned>(bytes: &[u8]) -> Result<Message<T>, MessageError> {
    #[derive(Deserialize)]
    struct Stamp {
        version: u32,
    }
    let Stamp { version } = serde_json::from_slice(bytes).map_err(MessageError::Broken)?;
    if !speaks(version) {
        return Err(MessageError::Version { theirs: version });
    }
    serde_json::from_slice(bytes).map_err(MessageError::Broken)
}
