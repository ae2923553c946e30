//! `Socket`: a netlink socket in a network namespace.
//!
//! A socket stays in the network namespace in which it was opened, so it suffices that the thread that opens it is
//! there. An open socket keeps its network namespace alive; drop it when the pod is deleted.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, getsockopt,
    recv, sendto, setsockopt, socket, sockopt,
};
use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};

use crate::error::Error;
use crate::netlink::attributes::HEADER_BYTES;
use crate::netlink::batch::Batch;
use crate::netlink::membership::{Suspension, WriterId};
use crate::netlink::uapi::*;

/// The size of the receive buffer; messages of the kernel are smaller.
pub(crate) const RECEIVE_BYTES: usize = 64 << 10;
/// The size of a large transaction, of about 300 services. Notifications of a smaller one take less than 0.5 ms.
const LARGE_BYTES: usize = 64 << 10;
/// The kernel counts its overhead against the buffer of a socket as well.
const SEND_BUFFER_FACTOR: usize = 2;

sockopt_impl!(
    /// Errors do not contain the message that caused them, which can be larger than the receive buffer.
    CapAck,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_CAP_ACK,
    bool
);
sockopt_impl!(
    /// The cookie of the network namespace of a socket.
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// A netlink socket to netfilter in one network namespace.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl From<OwnedFd> for Socket {
    /// Wraps a netlink socket to netfilter that another process opened.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A netlink message from the kernel.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    /// The port id of the socket whose request or transaction caused the message.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

impl Socket {
    /// Opens a socket in the network namespace of this thread.
    ///
    /// # Errors
    /// If the kernel has no netfilter netlink, or no file descriptor is available.
    pub fn open() -> Result<Self, Error> {
        Self::open_protocol(SockProtocol::NetlinkNetFilter)
    }

    /// Opens a socket for this netlink protocol.
    pub(crate) fn open_protocol(protocol: SockProtocol) -> Result<Self, Error> {
        let open = || {
            let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            setsockopt(&fd, CapAck, &true)?;
            Ok::<_, nix::Error>(fd)
        };
        open().map(Self).map_err(|error| Error::Open(error.into()))
    }

    /// The cookie of this socket's network namespace.
    ///
    /// # Errors
    /// If the kernel has no such cookies (before 5.14).
    pub(crate) fn netns_cookie(&self) -> Result<u64, Error> {
        getsockopt(&self.0, NetnsCookie).map_err(|error| Error::Open(error.into()))
    }

    /// The identity of this socket; the kernel's notifications of its transactions contain the port id.
    pub(crate) fn writer_id(&self) -> Result<WriterId, Error> {
        let address = getsockname::<NetlinkAddr>(self.0.as_raw_fd());
        let port = address.map(|address| address.pid()).map_err(|error| Error::Open(error.into()))?;
        Ok(WriterId { netns_cookie: self.netns_cookie()?, port })
    }

    /// Applies a transaction: either all of it, or nothing.
    ///
    /// # Errors
    /// If the kernel rejects an operation, which the error names, or the batch cannot be sent as a whole.
    pub fn apply(&self, batch: &Batch) -> Result<(), Error> {
        let bytes = batch.len();
        if bytes == 0 {
            return Ok(());
        }
        let buffer_size = bytes.saturating_mul(SEND_BUFFER_FACTOR);
        // Without CAP_NET_ADMIN the limit of the system applies; if it is too small, `send` fails.
        if setsockopt(&self.0, sockopt::SndBufForce, &buffer_size).is_err() {
            let _ = setsockopt(&self.0, sockopt::SndBuf, &buffer_size);
        }
        let suspension = if bytes >= LARGE_BYTES { Suspension::begin() } else { None };
        self.send(&batch.bytes).map_err(|source| Error::Send { bytes, source })?;
        let result = self.receive_result(batch);
        if let (Some(suspension), Ok(())) = (&suspension, &result) {
            suspension.count(self.writer_id()?);
        }
        result
    }

    /// Receives the result of a transaction.
    fn receive_result(&self, batch: &Batch) -> Result<(), Error> {
        let (mut rejected, mut is_acknowledged) = (None, false);
        let end = self.receive(|message| {
            match error_of(message) {
                Some(source) if rejected.is_none() => {
                    rejected = Some(Error::Rejected { op: batch.op(message.sequence), source });
                }
                Some(_) => {}
                None => is_acknowledged |= message.kind == NLMSG_ERROR,
            }
            false
        });
        match (rejected, end) {
            (Some(rejected), _) => Err(rejected),
            (None, Err(source)) if !is_acknowledged => Err(Error::Receive(source)),
            (None, _) => Ok(()),
        }
    }

    /// Sends one request and passes each reply to `handle`, until the last one.
    pub(crate) fn request(&self, request: &[u8], mut handle: impl FnMut(&Message<'_>)) -> io::Result<()> {
        self.request_while(request, &mut |message| {
            handle(message);
            ControlFlow::Continue(())
        })
    }

    /// As `request`, but stops if `handle` returns `Break`. The kernel may have more replies then, so the socket can
    /// only be closed, which ends a dump.
    pub(crate) fn request_while(
        &self,
        request: &[u8],
        handle: &mut dyn FnMut(&Message<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.send(request)?;
        let mut result = Ok(());
        self.receive(|message| match final_result(message) {
            Some(last) => {
                result = last;
                true
            }
            None => handle(message).is_break(),
        })?;
        result
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = sendto(self.0.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Receives messages until `is_done` returns true. The kernel processes a request within `sendto`, so all replies
    /// are queued already: an empty queue is an error, not a reason to wait.
    fn receive(&self, mut is_done: impl FnMut(&Message<'_>) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                // The kernel dropped replies because the queue was full; the first errors are in it.
                Err(nix::Error::ENOBUFS) => continue,
                other => other?,
            };
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((message, after)) = split_message(rest) {
                if is_done(&message) {
                    return Ok(());
                }
                rest = after;
            }
        }
    }
}

/// The result of a request, if this is the last reply to it.
pub(crate) fn final_result(message: &Message<'_>) -> Option<io::Result<()>> {
    matches!(message.kind, NLMSG_DONE | NLMSG_ERROR).then(|| error_of(message).map_or(Ok(()), Err))
}

/// The error in a message; an ACK and the end of a dump contain none.
fn error_of(message: &Message<'_>) -> Option<io::Error> {
    let code = i32::from_ne_bytes(*message.body.first_chunk::<4>()?);
    let is_error = matches!(message.kind, NLMSG_ERROR | NLMSG_DONE) && code != 0;
    is_error.then(|| io::Error::from_raw_os_error(-code))
}

/// The first message, and the bytes after it.
pub(crate) fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let length = usize::try_from(u32::from_ne_bytes(*header.first_chunk()?)).ok()?;
    let message = Message {
        kind: u16::from_ne_bytes([header[4], header[5]]),
        sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
        port: u32::from_ne_bytes([header[12], header[13], header[14], header[15]]),
        body: bytes.get(HEADER_BYTES..length)?,
    };
    Some((message, bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default()))
}
