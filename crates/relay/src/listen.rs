//! The sockets on which the relay listens in a network namespace.
//!
//! Every worker has its own, on one port; the kernel spreads connections over them, and so a new agent can listen
//! beside the old one. They listen on all addresses: what a pod forwards for a guest is redirected to the address of
//! the device it came by. What must not go in here: what is done with a connection.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use proxy_core::address::Family;
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::opener::{Kind, one, set_stream_options};

/// So many connections may wait to be taken; the kernel's own bound (net.core.somaxconn) is usually less.
const BACKLOG: i32 = 4_096;
/// Connections that wait at a listener which is closed go to another one on the same port.
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// The sockets of one worker.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) stream: OwnedFd,
    pub(crate) datagram: OwnedFd,
}

/// Opens the sockets of so many workers in the network namespace of this thread.
pub(crate) fn sockets(port: u16, workers: usize) -> io::Result<Vec<Sockets>> {
    // Where /proc is read-only an upgrade may refuse a connection that was just being made; nothing else.
    let _ = fs::write(MIGRATE, "1");
    (0..workers).map(|_| Ok(Sockets { stream: stream(port)?, datagram: datagram(port)? })).collect()
}

fn stream(port: u16) -> io::Result<OwnedFd> {
    let socket = bound(Kind::Stream, port)?;
    set_stream_options(&socket)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn datagram(port: u16) -> io::Result<OwnedFd> {
    bound(Kind::Datagram, port)
}

/// A socket of both families, or of IPv4 alone where the pod has no IPv6.
fn bound(kind: Kind, port: u16) -> io::Result<OwnedFd> {
    match bound_to(Family::V6, kind, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
            Ok(bound_to(Family::V4, kind, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?)
        }
        bound => Ok(bound?),
    }
}

fn bound_to(family: Family, kind: Kind, address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = one(family, kind)?;
    if family == Family::V6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}
