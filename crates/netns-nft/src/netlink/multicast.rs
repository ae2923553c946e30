//! `MulticastSocket`: receives the notifications of a netlink subsystem in a network namespace.
//!
//! The kernel drops notifications that do not fit the receive buffer, and reports that with `ENOBUFS`. A filter in the
//! kernel discards the notifications of one other socket's transactions: a large transaction of the agent itself would
//! fill the buffer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recvfrom, setsockopt,
    socket, sockopt,
};
use nix::{libc, setsockopt_impl, sockopt_impl};

use crate::error::Error;
use crate::netlink::membership::{Membership, WriterId};
use crate::netlink::socket::RECEIVE_BYTES;

/// The size of the receive buffer in the kernel.
const BUFFER_BYTES: usize = 4 << 20;
/// The offset of the port id in a netlink header.
const PORT_OFFSET: u32 = 12;

sockopt_impl!(
    /// The program that decides which messages reach the socket.
    AttachFilter,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_FILTER,
    libc::sock_fprog
);

/// A socket that receives notifications.
#[derive(Debug)]
pub(crate) struct MulticastSocket {
    member: Arc<Membership>,
    port: u32,
    buffer: Vec<u8>,
}

/// The result of receiving.
#[derive(Debug)]
pub(crate) enum Received<'a> {
    /// One datagram with messages of one transaction.
    Messages(&'a [u8]),
    /// The kernel dropped notifications.
    Lost,
    /// There is no further notification now.
    Nothing,
}

impl MulticastSocket {
    /// Opens a socket in the network namespace of this thread that receives the notifications of a group of netfilter.
    /// Those of the writer's transactions are discarded.
    pub(crate) fn open(group: u32, writer: WriterId) -> Result<Self, Error> {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let protocol = SockProtocol::NetlinkNetFilter;
            let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            // Without CAP_NET_ADMIN the limit of the system applies.
            if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
                let _ = setsockopt(&fd, sockopt::RcvBuf, &BUFFER_BYTES);
            }
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
            discard_from(&fd, writer.port)?;
            Ok::<_, nix::Error>((Membership::new(fd, group, writer)?, port))
        };
        let (member, port) = open().map_err(|error| Error::Open(error.into()))?;
        Ok(Self { member, port, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// The port id of this socket, which the replies to its own requests have.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Replaces the writer.
    pub(crate) fn set_writer(&self, writer: WriterId) -> Result<(), Error> {
        self.member.set_writer(writer);
        discard_from(&self.member.fd, writer.port).map_err(|error| Error::Open(error.into()))
    }

    /// Receives one datagram, without waiting.
    pub(crate) fn receive(&mut self) -> Result<Received<'_>, Error> {
        match recvfrom::<NetlinkAddr>(self.member.fd.as_raw_fd(), &mut self.buffer) {
            Ok((length, sender)) => {
                // A process can send to this socket as well; the port id of the kernel is 0.
                let is_from_kernel = sender.is_some_and(|sender| sender.pid() == 0);
                let length = if is_from_kernel { length } else { 0 };
                Ok(Received::Messages(self.buffer.get(..length).unwrap_or_default()))
            }
            Err(nix::Error::EAGAIN) => Ok(Received::Nothing),
            Err(nix::Error::ENOBUFS) => Ok(Received::Lost),
            Err(error) => Err(Error::Receive(error.into())),
        }
    }
}

impl AsFd for MulticastSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.member.fd.as_fd()
    }
}

/// Discards the notifications of the transactions of the socket with this port id from now on.
fn discard_from(fd: &OwnedFd, port: u32) -> nix::Result<()> {
    let mut program = port_filter(port);
    let length = u16::try_from(program.len()).expect("a program of four instructions");
    setsockopt(fd, AttachFilter, &libc::sock_fprog { len: length, filter: program.as_mut_ptr() })
}

/// A program of the kernel's packet filter: discards a datagram whose first message has this port id. All messages of
/// a datagram belong to one transaction.
fn port_filter(port: u32) -> [libc::sock_filter; 4] {
    /// The result that keeps the whole datagram.
    const KEEP: u32 = u32::MAX;
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, PORT_OFFSET),
        // The filter reads numbers in network byte order, and netlink has that of the host.
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            u32::from_be_bytes(port.to_ne_bytes()),
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, KEEP),
    ]
}
