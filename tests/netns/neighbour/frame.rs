//! `Wire`: sends crafted frames on an interface, as a container with NET_RAW can.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const TCP: u8 = 6;
/// The client's port in every frame.
const PORT: u16 = 40_000;

/// An interface, and the hardware address to which frames are sent.
pub(crate) struct Wire {
    socket: OwnedFd,
    interface: LinkAddr,
    to: [u8; 6],
}

fn interface(name: &str) -> LinkAddr {
    let all = getifaddrs().expect("the interfaces");
    let mut links =
        all.filter(|one| one.interface_name == name).filter_map(|one| Some(*one.address?.as_link_addr()?));
    links.next().expect("an interface of this name")
}

/// The hardware address of an interface.
pub(crate) fn mac_of(name: &str) -> [u8; 6] {
    interface(name).addr().expect("an Ethernet interface")
}

impl Wire {
    pub(crate) fn open(name: &str, to: [u8; 6]) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
        Self { socket: socket.expect("a raw socket"), interface: interface(name), to }
    }

    /// Sends the first packet of a connection, if both addresses are of one family.
    pub(crate) fn send_syn(&self, from: &str, to: &str) {
        let from: IpAddr = from.parse().expect("an address");
        let to: SocketAddr = to.parse().expect("an address and port");
        let packet = match (from, to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(ip)) => ipv4(&from.octets(), &ip.octets(), to.port()),
            (IpAddr::V6(from), IpAddr::V6(ip)) => ipv6(&from.octets(), &ip.octets(), to.port()),
            _ => return,
        };
        let kind: [u8; 2] = if to.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        let own = self.interface.addr().expect("an Ethernet interface");
        let frame = [&self.to[..], &own, &kind, &packet].concat();
        sendto(self.socket.as_raw_fd(), &frame, &self.interface, MsgFlags::empty()).expect("send a frame");
    }

    /// Returns the sources of the SYN-ACK segments that arrive within this time.
    pub(crate) fn syn_acks(&self, within: Duration) -> Vec<String> {
        let (mut found, until) = (Vec::new(), Instant::now() + within);
        let mut buffer = [0; 2_048];
        while Instant::now() < until {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => found.extend(syn_ack_source(&buffer[..length])),
                Err(nix::Error::EAGAIN) => std::thread::yield_now(),
                Err(why) => panic!("{why}"),
            }
        }
        found
    }
}

/// Returns the source of a frame that is a SYN-ACK for one of the sent frames.
fn syn_ack_source(frame: &[u8]) -> Option<String> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let (from, tcp): (IpAddr, &[u8]) = match kind {
        [0x08, 0x00] if packet.get(9) == Some(&TCP) => {
            (<[u8; 4]>::try_from(packet.get(12..16)?).ok()?.into(), packet.get(20..)?)
        }
        [0x86, 0xdd] if packet.get(6) == Some(&TCP) => {
            (<[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let is_ours = tcp.get(2..4)? == PORT.to_be_bytes() && tcp.get(13)? & 0x3f == SYN_ACK;
    is_ours.then(|| SocketAddr::new(from, u16::from_be_bytes([tcp[0], tcp[1]])).to_string())
}

fn tcp(pseudo: &[u8], port: u16) -> Vec<u8> {
    let [from, to] = [PORT, port].map(u16::to_be_bytes);
    let mut tcp = [&from[..], &to, &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0x20, 0, 0, 0, 0, 0]].concat();
    let sum = checksum(&[pseudo, &tcp].concat()).to_be_bytes();
    tcp[16..18].copy_from_slice(&sum);
    tcp
}

fn ipv4(from: &[u8; 4], to: &[u8; 4], port: u16) -> Vec<u8> {
    let tcp = tcp(&[&from[..], to, &[0, TCP, 0, 20]].concat(), port);
    let mut header = [&[0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, TCP, 0, 0][..], from, to].concat();
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [header, tcp].concat()
}

fn ipv6(from: &[u8; 16], to: &[u8; 16], port: u16) -> Vec<u8> {
    let tcp = tcp(&[&from[..], to, &[0, 0, 0, 20, 0, 0, 0, TCP]].concat(), port);
    [&[0x60, 0, 0, 0, 0, 20, TCP, 64][..], from, to, &tcp].concat()
}

/// The Internet checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded above")
}
