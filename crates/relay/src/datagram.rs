//! `Mouth`: the socket by which a network namespace's redirected datagrams come and answers go.
//!
//! A datagram was redirected to some address of the pod, and only what comes back from that very address is
//! translated back; so each is received with its address, and answered from it. What must not go in here: whose
//! datagrams they are.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket as StdSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The largest datagram there is.
pub(crate) const DATAGRAM_BYTES: usize = 64 << 10;

/// The two ends of a flow as its datagrams show them: the client, and our address to which it was redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) ours: IpAddr,
}

/// The socket.
#[derive(Debug)]
pub(crate) struct Mouth {
    socket: UdpSocket,
    /// It is an IPv6 socket, to which IPv4 addresses are mapped ones.
    is_v6: bool,
}

impl Mouth {
    /// Takes a bound socket.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = StdSocket::from(socket);
        let is_v6 = socket.local_addr()?.is_ipv6();
        if is_v6 {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        Ok(Self { socket: UdpSocket::from_std(socket)?, is_v6 })
    }

    /// The next datagram: how long it is, and whose; none: that is not to be told.
    pub(crate) async fn receive(&self, buffer: &RefCell<Box<[u8]>>) -> io::Result<Option<(usize, Ends)>> {
        self.socket.async_io(Interest::READABLE, || self.take(&mut buffer.borrow_mut())).await
    }

    fn take(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Ends)>> {
        let mut parts = [IoSliceMut::new(buffer)];
        let mut room = nix::cmsg_space!(in6_pktinfo, in_pktinfo);
        let fd = self.socket.as_raw_fd();
        let taken = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut room), MsgFlags::MSG_DONTWAIT)?;
        let ours = taken.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => None,
        });
        let client = taken.address.as_ref().and_then(address);
        let (Some(ours), Some(client)) = (ours, client) else { return Ok(None) };
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Ok(Some((taken.bytes, Ends { client, ours: ours.to_canonical() })))
    }

    /// Sends an answer. One for which there is no room is lost, as datagrams may be.
    pub(crate) fn answer(&self, bytes: &[u8], ends: Ends) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let sent = if self.is_v6 {
            let mapped = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            let info = in6_pktinfo_of(mapped(ends.ours).octets());
            let client = SocketAddrV6::new(mapped(ends.client.ip()), ends.client.port(), 0, 0);
            let messages = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &parts, &messages, flags, Some(&SockaddrIn6::from(client)))
        } else {
            let (IpAddr::V4(ours), SocketAddr::V4(client)) = (ends.ours, ends.client) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let info = in_pktinfo_of(ours.octets());
            let messages = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &parts, &messages, flags, Some(&SockaddrIn::from(client)))
        };
        match sent {
            Ok(_) | Err(nix::Error::EAGAIN | nix::Error::ENOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn in6_pktinfo_of(octets: [u8; 16]) -> in6_pktinfo {
    in6_pktinfo { ipi6_addr: nix::libc::in6_addr { s6_addr: octets }, ipi6_ifindex: 0 }
}

fn in_pktinfo_of(octets: [u8; 4]) -> in_pktinfo {
    let address = nix::libc::in_addr { s_addr: u32::from_ne_bytes(octets) };
    in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().into(), v6.port())))
}
