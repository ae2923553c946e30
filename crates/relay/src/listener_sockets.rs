//! The sockets on which the relay listens in a network namespace: a pod's, or the node's.
//!
//! Each worker has its own sockets on the same port (SO_REUSEPORT). The kernel distributes connections over them, and
//! a new agent can listen while the old one still does. In a pod they listen on all addresses, since connections that
//! a pod forwards for a guest are redirected to the address of the interface on which they arrived. On the node they
//! listen on the loopback addresses only, so that other hosts cannot connect to them.

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
    pub(crate) streams: Vec<OwnedFd>,
    /// None on the node.
    pub(crate) datagram: Option<OwnedFd>,
}

/// Opens the sockets of all workers in the network namespace of the calling thread, that of a pod.
pub(crate) fn open_listeners(port: u16, workers: usize) -> io::Result<Vec<ListenerSockets>> {
    migrate_requests();
    let open = |_| {
        let streams = vec![listen(bind(SocketKind::Stream, port)?)?];
        Ok(ListenerSockets { streams, datagram: Some(bind(SocketKind::Datagram, port)?) })
    };
    (0..workers).map(open).collect()
}

/// Opens the sockets of all workers at the loopback addresses of the network namespace of the calling thread, that of
/// the node. Without IPv6 they listen only at the address of IPv4. The node's sysctls stay as they are, so the kernel may
/// reset connections that the previous agent has not accepted yet.
pub(crate) fn open_loopback_listeners(port: u16, workers: usize) -> io::Result<Vec<ListenerSockets>> {
    let open = |_| {
        let v4 = bind_to(Family::V4, SocketKind::Stream, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let mut streams = vec![listen(v4)?];
        match bind_to(Family::V6, SocketKind::Stream, SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
            Ok(v6) => streams.push(listen(v6)?),
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(ListenerSockets { streams, datagram: None })
    };
    (0..workers).map(open).collect()
}

/// Moves connections of a pod that are not accepted yet to the next agent. If /proc is read-only, an upgrade can reset them.
fn migrate_requests() {
    let _ = fs::write(MIGRATE_REQUESTS, "1");
}

fn listen(socket: OwnedFd) -> io::Result<OwnedFd> {
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
