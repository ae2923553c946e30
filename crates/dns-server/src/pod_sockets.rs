//! `PodSockets`: the sockets of the server inside the network namespace of one pod, and the table that leads to them.
//!
//! Each DNS address of the pod has its own sockets, because replies are rewritten without state: the port from which a
//! reply is sent identifies the address that the client asked. The kernel chooses the ports.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use netns_nft::{DnsRedirect, DnsTable, DnsTableSettings, GenerationSpan, Netns, Socket};
use proxy_core::address::Family;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use thiserror::Error;

/// The length of the accept queue of a pod.
const BACKLOG: i32 = 128;

/// Why the server cannot answer the queries of a pod.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The network namespace could not be entered.
    #[error("failed to enter netns for DNS sockets")]
    Enter(#[source] netns_nft::Error),
    /// A socket could not be opened.
    #[error("failed to open DNS sockets in pod netns")]
    Sockets(#[source] io::Error),
    /// The pod has no address of the family of any of its DNS addresses.
    #[error("pod has no loopback address of the family of its DNS addresses")]
    NoFamily,
    /// The table could not be created.
    #[error("failed to create DNS table in pod netns")]
    Table(#[source] netns_nft::Error),
    /// The worker thread has ended.
    #[error("DNS thread has stopped")]
    Stopped,
}

/// The sockets of one DNS address.
#[derive(Debug)]
pub(crate) struct AddressSockets {
    /// The DNS address.
    pub(crate) server: IpAddr,
    pub(crate) datagram: OwnedFd,
    pub(crate) listener: OwnedFd,
}

/// The sockets of one pod.
#[derive(Debug)]
pub(crate) struct PodSockets {
    pub(crate) addresses: Vec<AddressSockets>,
    /// The client socket with which the server verifies that queries reach it.
    pub(crate) probe: OwnedFd,
    /// Dropping it removes the table.
    pub(crate) table: DnsTable,
    /// The generations of the transaction that created the table.
    pub(crate) creation: Option<GenerationSpan>,
}

impl PodSockets {
    /// Opens the sockets of these DNS addresses, and creates the table, which redirects nothing until it is armed.
    pub(crate) fn open(netns: &Netns, servers: &[IpAddr], nat_priority: i32) -> Result<Self, OpenError> {
        // All sockets are opened in one visit, since entering is the expensive part.
        let open = || {
            let mut addresses = Vec::new();
            for server in servers {
                addresses.extend(open_address(*server)?);
            }
            Ok::<_, io::Error>((addresses, open_probe()?))
        };
        let opened = netns.within(|| (open(), Socket::open())).map_err(OpenError::Enter)?;
        let (addresses, probe) = opened.0.map_err(OpenError::Sockets)?;
        if addresses.is_empty() {
            return Err(OpenError::NoFamily);
        }
        let redirects = addresses.iter().map(AddressSockets::redirect).collect::<io::Result<Vec<_>>>();
        let redirects = redirects.map_err(OpenError::Sockets)?;
        let socket = opened.1.map_err(OpenError::Enter)?;
        let settings = DnsTableSettings { nat_priority, ..DnsTableSettings::default() };
        let (table, span) = DnsTable::create(socket, &redirects, settings).map_err(OpenError::Table)?;
        Ok(Self { addresses, probe, table, creation: Some(span) })
    }
}

impl AddressSockets {
    fn redirect(&self) -> io::Result<DnsRedirect> {
        let port = |socket: &OwnedFd| {
            let address = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
            Ok::<_, io::Error>(address.port())
        };
        Ok(DnsRedirect {
            address: self.server,
            udp_port: port(&self.datagram)?,
            tcp_port: port(&self.listener)?,
        })
    }
}

/// Opens the sockets of a DNS address. None: the pod does not have this family.
fn open_address(server: IpAddr) -> io::Result<Option<AddressSockets>> {
    let loopback: SocketAddr = match Family::of(server) {
        Family::V4 => (Ipv4Addr::LOCALHOST, 0).into(),
        Family::V6 => (Ipv6Addr::LOCALHOST, 0).into(),
    };
    let open = || {
        let datagram = open_socket(Family::of(server), SocketType::DGRAM)?;
        rustix::net::bind(&datagram, &loopback)?;
        let listener = open_socket(Family::of(server), SocketType::STREAM)?;
        sockopt::set_tcp_nodelay(&listener, true)?;
        rustix::net::bind(&listener, &loopback)?;
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(AddressSockets { server, datagram, listener })
    };
    match open() {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// Opens a client socket for both families, or only for IPv4 if the kernel has no IPv6.
fn open_probe() -> io::Result<OwnedFd> {
    match open_socket(Family::V6, SocketType::DGRAM) {
        Err(Errno::AFNOSUPPORT) => Ok(open_socket(Family::V4, SocketType::DGRAM)?),
        Err(error) => Err(error.into()),
        Ok(socket) => {
            sockopt::set_ipv6_v6only(&socket, false)?;
            Ok(socket)
        }
    }
}

/// Opens a non-blocking socket in the network namespace of the calling thread.
pub(crate) fn open_socket(family: Family, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}
