//! The sockets on which the relay listens in a network namespace.
//!
//! Each worker has its own sockets on the same port (SO_REUSEPORT). The kernel distributes connections over them, and
//! a new agent can listen while the old one still does. They listen on all addresses, since connections that a pod
//! forwards for a guest are redirected to the address of the interface on which they arrived.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use proxy_core::address::Family;
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::netns_socket_factory::{SocketKind, open_socket, set_stream_options};

/// The length of the accept queue; the kernel limits it to net.core.somaxconn.
const BACKLOG: i32 = 4_096;
/// Moves connections in the accept queue of a closed listener to another listener on the same port.
const MIGRATE_REQUESTS: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// The sockets of one worker.
#[derive(Debug)]
pub(crate) struct ListenerSockets {
    pub(crate) stream: OwnedFd,
    pub(crate) datagram: OwnedFd,
}

/// Opens the sockets of all workers in the network namespace of the calling thread.
pub(crate) fn open_listeners(port: u16, workers: usize) -> io::Result<Vec<ListenerSockets>> {
    // If /proc is read-only, an upgrade of the agent can reset connections that are not accepted yet.
    let _ = fs::write(MIGRATE_REQUESTS, "1");
    (0..workers)
        .map(|_| Ok(ListenerSockets { stream: listen(port)?, datagram: bind(SocketKind::Datagram, port)? }))
        .collect()
}

fn listen(port: u16) -> io::Result<OwnedFd> {
    let socket = bind(SocketKind::Stream, port)?;
    set_stream_options(&socket)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Returns a socket for both families, or only for IPv4 if the pod has no IPv6.
fn bind(kind: SocketKind, port: u16) -> io::Result<OwnedFd> {
    match bind_to(Family::V6, kind, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
            Ok(bind_to(Family::V4, kind, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?)
        }
        socket => Ok(socket?),
    }
}

fn bind_to(family: Family, kind: SocketKind, address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = open_socket(family, kind)?;
    if family == Family::V6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}
