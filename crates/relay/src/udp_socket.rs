//! `UdpRelaySocket`: the socket in a network namespace that receives redirected datagrams and sends the replies.
//!
//! The kernel redirects a datagram to one of the pod's addresses, and translates a reply back only if it comes from
//! that address. Therefore the socket learns the local address of each datagram, and sends each reply from it.

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

/// The maximum size of a UDP datagram.
pub(crate) const DATAGRAM_BYTES: usize = 64 << 10;

/// The key of a flow: the client, and the local address to which its datagrams were redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) client: SocketAddr,
    pub(crate) local: IpAddr,
}

/// A bound UDP socket that receives and sends with packet information (IP_PKTINFO).
#[derive(Debug)]
pub(crate) struct UdpRelaySocket {
    socket: UdpSocket,
    /// An IPv6 socket uses IPv4-mapped addresses for IPv4.
    is_v6: bool,
}

impl UdpRelaySocket {
    /// Enables packet information on a bound socket.
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

    /// Receives a datagram into the buffer. Returns its length and flow, or `None` if the kernel reported no addresses.
    pub(crate) async fn receive(&self, buffer: &RefCell<Box<[u8]>>) -> io::Result<Option<(usize, FlowKey)>> {
        self.socket.async_io(Interest::READABLE, || self.try_receive(&mut buffer.borrow_mut())).await
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, FlowKey)>> {
        let mut parts = [IoSliceMut::new(buffer)];
        let mut control = nix::cmsg_space!(in6_pktinfo, in_pktinfo);
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
        let local = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => None,
        });
        let client = message.address.as_ref().and_then(socket_address);
        let (Some(local), Some(client)) = (local, client) else { return Ok(None) };
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Ok(Some((message.bytes, FlowKey { client, local: local.to_canonical() })))
    }

    /// Sends a reply to the client of a flow. The datagram is dropped if the send buffer is full.
    pub(crate) fn send_reply(&self, bytes: &[u8], flow: FlowKey) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let sent = if self.is_v6 {
            let mapped = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            let info = in6_pktinfo_of(mapped(flow.local).octets());
            let client = SocketAddrV6::new(mapped(flow.client.ip()), flow.client.port(), 0, 0);
            let messages = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &parts, &messages, flags, Some(&SockaddrIn6::from(client)))
        } else {
            let (IpAddr::V4(local), SocketAddr::V4(client)) = (flow.local, flow.client) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let info = in_pktinfo_of(local.octets());
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

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().into(), v6.port())))
}
