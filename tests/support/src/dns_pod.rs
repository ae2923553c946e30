//! A pod whose DNS queries reach responders: the agent's sockets through a DNS table, otherwise the backend of the
//! ordinary portal.
//!
//! A responder answers each message with its name, the client's address and the message, so that a test sees who
//! received the query, and from which address.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use netns_nft::{DNS_ARMED_TIME, DnsRedirect, DnsTable, DnsTableSettings};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use proxy_core::ruleset::Ruleset;
use proxy_core::sample::{slice, svc};

use crate::backend_server::REPLY_TIMEOUT;
use crate::namespace::{add_address, in_new_netns, run};
use crate::pod::Pod;
use crate::ruleset_loader::ruleset_of;

/// The DNS addresses of the pod that have a portal.
pub const DNS: [&str; 2] = ["10.96.0.10:53", "[2001:db8:96::10]:53"];
/// The addresses of the pod.
pub const POD_ADDRESSES: [&str; 2] = ["10.240.0.2", "2001:db8:240::2"];
/// The name of the agent's responders.
pub const AGENT: &str = "agent";
/// The name of the portal's backend.
pub const PORTAL: &str = "portal";
const BACKENDS: [&str; 2] = ["10.1.0.1:5353", "[2001:db8:1::1]:5353"];

/// How a client sends a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryWay {
    ConnectedUdp,
    UnconnectedUdp,
    Tcp,
}

impl QueryWay {
    pub const ALL: [Self; 3] = [Self::ConnectedUdp, Self::UnconnectedUdp, Self::Tcp];

    /// Sends a message, and returns the name of the responder.
    pub fn ask(self, server: &str) -> io::Result<String> {
        self.ask_with(server, 0, REPLY_TIMEOUT)
    }

    /// As `ask`, with a priority of the socket and a timeout.
    pub fn ask_with(self, server: &str, priority: u32, timeout: Duration) -> io::Result<String> {
        let server = server.parse().expect("an address and port");
        let mut client = DnsClient::new(self, server, priority, timeout)?;
        client.exchange("query").map(|response| response.name)
    }
}

/// A response, in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub name: String,
    /// The address of the client, as the responder sees it.
    pub peer: IpAddr,
}

/// A client's socket.
pub enum DnsClient {
    Udp { socket: UdpSocket, server: SocketAddr, is_connected: bool },
    Tcp(TcpStream),
}

impl DnsClient {
    pub fn new(way: QueryWay, server: SocketAddr, priority: u32, timeout: Duration) -> io::Result<Self> {
        let (family, any): (_, IpAddr) = match server {
            SocketAddr::V4(_) => (AddressFamily::Inet, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (AddressFamily::Inet6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let open = |kind| {
            let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
            let microseconds = i64::try_from(timeout.as_micros()).expect("a short time");
            let limit = TimeVal::new(microseconds / 1_000_000, microseconds % 1_000_000);
            setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
            setsockopt(&fd, sockopt::SendTimeout, &limit)?;
            setsockopt(&fd, sockopt::Priority, &priority.cast_signed())?;
            Ok::<OwnedFd, io::Error>(fd)
        };
        if way == QueryWay::Tcp {
            let fd = open(SockType::Stream)?;
            connect(fd.as_raw_fd(), &SockaddrStorage::from(server))?;
            return Ok(Self::Tcp(fd.into()));
        }
        let fd = open(SockType::Datagram)?;
        nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, 0)))?;
        let (socket, is_connected) = (UdpSocket::from(fd), way == QueryWay::ConnectedUdp);
        if is_connected {
            socket.connect(server)?;
        }
        Ok(Self::Udp { socket, server, is_connected })
    }

    /// Sends a message and receives its response, which must come from the server's address.
    pub fn exchange(&mut self, message: &str) -> io::Result<Response> {
        let mut buffer = [0; 8 << 10];
        let length = match self {
            Self::Udp { socket, server, is_connected } => {
                if *is_connected {
                    socket.send(message.as_bytes())?;
                } else {
                    socket.send_to(message.as_bytes(), *server)?;
                }
                let (length, from) = socket.recv_from(&mut buffer)?;
                assert_eq!(from, *server, "the source of the response");
                length
            }
            Self::Tcp(stream) => {
                stream.write_all(message.as_bytes())?;
                stream.read(&mut buffer)?
            }
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let mut parts = text.splitn(3, ' ');
        let (name, peer) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        assert_eq!(parts.next(), Some(message), "the message in the response");
        Ok(Response { name: name.to_owned(), peer: peer.parse().expect("the client's address") })
    }
}

/// Starts a responder on a UDP socket and a TCP listener at these addresses. Returns their ports.
pub fn respond(name: impl fmt::Display, udp: SocketAddr, tcp: SocketAddr) -> (u16, u16) {
    let name = name.to_string();
    let socket = UdpSocket::bind(udp).expect("bind the UDP socket");
    let listener = TcpListener::bind(tcp).expect("listen");
    let ports =
        (socket.local_addr().expect("an address").port(), listener.local_addr().expect("an address").port());
    let response = move |peer: SocketAddr, message: &[u8]| {
        [format!("{name} {} ", peer.ip()).as_bytes(), message].concat()
    };
    let respond_udp = response.clone();
    thread::spawn(move || {
        let mut buffer = [0; 8 << 10];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&respond_udp(peer, &buffer[..length]), peer);
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let (peer, response) = (stream.peer_addr().expect("a client"), response.clone());
            thread::spawn(move || {
                let mut buffer = [0; 8 << 10];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&response(peer, &buffer[..length]));
                }
            });
        }
    });
    ports
}

/// Starts a responder of the agent for a DNS address, on free ports of the loopback address in this thread's network
/// namespace.
pub fn respond_as_agent(name: impl fmt::Display, dns: &str) -> DnsRedirect {
    let dns: SocketAddr = dns.parse().expect("an address and port");
    let loopback: IpAddr =
        if dns.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let any_port = SocketAddr::new(loopback, 0);
    let (udp_port, tcp_port) = respond(name, any_port, any_port);
    DnsRedirect { address: dns.ip(), udp_port, tcp_port }
}

/// Starts the agent's responders for both DNS addresses in the pod.
pub fn agent_redirects(pod: &Pod) -> Vec<DnsRedirect> {
    pod.within(|| DNS.map(|dns| respond_as_agent(AGENT, dns)).into())
}

/// Creates a table that is not armed, and whose elements have this timeout.
pub fn create_with(pod: &Pod, redirects: &[DnsRedirect], armed_time: Duration) -> DnsTable {
    let socket = pod.netns.socket().expect("a socket");
    let settings = DnsTableSettings { armed_time, ..DnsTableSettings::default() };
    DnsTable::create(socket, redirects, settings).expect("the DNS table").0
}

/// Creates a table with the agent's responders for both DNS addresses, and arms it.
pub fn arm(pod: &Pod) -> DnsTable {
    let table = create_with(pod, &agent_redirects(pod), DNS_ARMED_TIME);
    table.arm().expect("arm");
    table
}

/// Asserts that queries to both DNS addresses reach this responder on all ways.
#[track_caller]
pub fn assert_reaches(pod: &Pod, name: &str) {
    for dns in DNS {
        for way in QueryWay::ALL {
            let found = pod.within(|| way.ask(dns)).unwrap_or_else(|why| panic!("{way:?} to {dns}: {why}"));
            assert_eq!(found, name, "{way:?} to {dns}");
        }
    }
}

/// Runs `body` with a pod whose DNS portals lead to a backend on the node. This thread's network namespace is the node.
pub fn in_dns_pod(body: impl FnOnce(&Pod) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let pod = Pod::routed("pod0", "10.240.0", "2001:db8:240:");
        for backend in BACKENDS {
            let backend: SocketAddr = backend.parse().expect("an address and port");
            add_address(&backend.ip().to_string());
            respond(PORTAL, backend, backend);
        }
        let service = svc("dns").ip("10.96.0.10").ip("2001:db8:96::10").udp("u", 53).tcp("t", 53);
        let endpoints = slice("dns").udp("u", 5353).tcp("t", 5353).at("10.1.0.1").at("2001:db8:1::1");
        pod.change(&Ruleset::empty(), &ruleset_of([service.into(), endpoints.into()]));
        body(&pod);
    });
}
