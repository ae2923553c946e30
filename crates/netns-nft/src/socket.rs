//! `Socket`: a netlink socket that belongs to one network namespace for as long as it is open.
//!
//! A socket stays in the network namespace in which it was opened, so a thread of its own enters, opens and
//! ends; nobody ever has to find the way back. An open socket keeps its network namespace alive: drop it
//! with the pod.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockopt, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};
use proxy_core::plan::Op;

use crate::attribute::HEADER_BYTES;
use crate::encode::Batch;
use crate::error::Error;

/// What one receive takes; the kernel's messages are smaller.
const ANSWER_BYTES: usize = 64 << 10;
/// The kernel counts its own book-keeping against a socket's buffer, too.
const SEND_BUFFER_FACTOR: usize = 2;

sockopt_impl!(
    /// Errors come without the message they are about, which may be larger than what one receive takes.
    ShortErrors,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_CAP_ACK,
    bool
);
sockopt_impl!(
    /// The number of a network namespace.
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;

/// A netlink socket to nf_tables in one network namespace.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// One message from the kernel.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

impl Socket {
    /// Opens a socket in the network namespace of this thread.
    ///
    /// # Errors
    /// Where the kernel has no netfilter netlink, or no descriptor is left.
    pub fn open() -> Result<Self, Error> {
        Self::open_to(SockProtocol::NetlinkNetFilter)
    }

    /// Opens a socket to another part of the kernel.
    pub(crate) fn open_to(protocol: SockProtocol) -> Result<Self, Error> {
        let open = || {
            let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            setsockopt(&fd, ShortErrors, &true)?;
            Ok::<_, nix::Error>(fd)
        };
        open().map(Self).map_err(|error| Error::Open(error.into()))
    }

    /// The kernel's number of the network namespace that this socket is in.
    ///
    /// # Errors
    /// Where the kernel does not tell (before 5.14).
    pub(crate) fn netns_cookie(&self) -> Result<u64, Error> {
        getsockopt(&self.0, NetnsCookie).map_err(|error| Error::Open(error.into()))
    }

    /// Applies a transaction: all of it, or nothing and an error that names the operation.
    ///
    /// # Errors
    /// Where the kernel refuses it, or does not get it whole.
    pub fn apply(&self, batch: &Batch) -> Result<(), Error> {
        let bytes = batch.len();
        if bytes == 0 {
            return Ok(());
        }
        let room = bytes.saturating_mul(SEND_BUFFER_FACTOR);
        // Without the privilege the ordinary limit holds, and sending says whether it was enough.
        if setsockopt(&self.0, sockopt::SndBufForce, &room).is_err() {
            let _ = setsockopt(&self.0, sockopt::SndBuf, &room);
        }
        self.send(&batch.bytes).map_err(|source| Error::Send { bytes, source })?;
        let (mut refused, mut acknowledged) = (None, false);
        let end = self.receive(|answer| {
            match error_of(answer) {
                Some(source) if refused.is_none() => {
                    let op: Option<Op> =
                        usize::try_from(answer.sequence).ok().and_then(|at| *batch.ops.get(at)?);
                    refused = Some(Error::Refused { op, source });
                }
                Some(_) => {}
                None => acknowledged |= answer.kind == KIND_ERROR,
            }
            false
        });
        match (refused, end) {
            (Some(refused), _) => Err(refused),
            (None, Err(source)) if !acknowledged => Err(Error::Receive(source)),
            (None, _) => Ok(()),
        }
    }

    /// Sends one request and hands each answer to `take`, until the kernel says that it is done.
    pub(crate) fn ask(&self, request: &[u8], mut take: impl FnMut(&Answer<'_>)) -> io::Result<()> {
        self.ask_while(request, &mut |answer| {
            take(answer);
            ControlFlow::Continue(())
        })
    }

    /// The same, until `take` wants no more answers. The kernel may have more to say then, so that this socket can only
    /// be closed, which ends a dump that is under way.
    pub(crate) fn ask_while(
        &self,
        request: &[u8],
        take: &mut dyn FnMut(&Answer<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.send(request)?;
        let mut end = Ok(());
        self.receive(|answer| match ends(answer) {
            Some(told) => {
                end = told;
                true
            }
            None => take(answer).is_break(),
        })?;
        end
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = sendto(self.0.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Receives until `done` says so. The kernel works while it is sent to, so that all answers to a
    /// transaction are there already: where there is none left, none will come.
    fn receive(&self, mut done: impl FnMut(&Answer<'_>) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                // There were more errors than the socket holds; the first are there.
                Err(nix::Error::ENOBUFS) => continue,
                other => other?,
            };
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((answer, behind)) = split(rest) {
                if done(&answer) {
                    return Ok(());
                }
                rest = behind;
            }
        }
    }
}

/// How an answer ends the answers to a request; none: more are to come.
pub(crate) fn ends(answer: &Answer<'_>) -> Option<io::Result<()>> {
    matches!(answer.kind, KIND_DONE | KIND_ERROR).then(|| error_of(answer).map_or(Ok(()), Err))
}

/// The error that an answer carries; an acknowledgement and the end of a list carry none.
fn error_of(answer: &Answer<'_>) -> Option<io::Error> {
    let code = i32::from_ne_bytes(*answer.body.first_chunk::<4>()?);
    (matches!(answer.kind, KIND_ERROR | KIND_DONE) && code != 0).then(|| io::Error::from_raw_os_error(-code))
}

/// The first message in some bytes, and what is behind it.
pub(crate) fn split(bytes: &[u8]) -> Option<(Answer<'_>, &[u8])> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let length = usize::try_from(u32::from_ne_bytes(*header.first_chunk()?)).ok()?;
    let answer = Answer {
        kind: u16::from_ne_bytes([header[4], header[5]]),
        sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
        body: bytes.get(HEADER_BYTES..length)?,
    };
    Some((answer, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}
