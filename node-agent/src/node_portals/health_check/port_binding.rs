//! `listen`: a listener on a port of the node that another process can have, such as a kube-proxy.
//!
//! The port is never shared (no SO_REUSEPORT): while another process has it, attempts are repeated with a back-off, and
//! the last delay is short, because a load balancer ejects a node that does not answer for a few seconds.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::net::{self as socket, AddressFamily, SocketFlags, SocketType, sockopt};
use support::Backoff;
use tokio::net::TcpListener;
use tokio::time::sleep;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The addresses of a listener.
#[derive(Debug, Clone, Copy)]
pub(super) enum ListenScope {
    /// Every address of the node, in both families.
    Node,
    /// 127.0.0.1.
    Loopback,
}

/// Listens on a port as soon as no other process has it. `on_failure` gets each error and the number of failures.
pub(super) async fn listen(
    scope: ListenScope,
    port: u16,
    mut on_failure: impl FnMut(&io::Error, u32),
) -> TcpListener {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        match bind(scope, port) {
            Ok(listener) => return listener,
            Err(error) => {
                let delay = backoff.next_delay();
                on_failure(&error, backoff.failures());
                sleep(delay).await;
            }
        }
    }
}

fn bind(scope: ListenScope, port: u16) -> io::Result<TcpListener> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match scope {
        ListenScope::Loopback => bind_address(loopback),
        ListenScope::Node => match bind_address((Ipv6Addr::UNSPECIFIED, port).into()) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
                // The kernel was started without IPv6.
                bind_address((Ipv4Addr::UNSPECIFIED, port).into())
            }
            other => other,
        },
    }
}

fn bind_address(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket::socket_with(family, SocketType::STREAM, flags, None)?;
    if address.is_ipv6() {
        // The unspecified IPv6 address includes IPv4, whatever the sysctl bindv6only says.
        sockopt::set_ipv6_v6only(&fd, false)?;
    }
    // Connections of a previous agent that are closing do not occupy the port.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    socket::bind(&fd, &address)?;
    socket::listen(&fd, BACKLOG)?;
    TcpListener::from_std(fd.into())
}
