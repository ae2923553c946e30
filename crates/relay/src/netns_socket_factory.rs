//! `NetnsSocketFactory`: a thread that opens sockets in other network namespaces.
//!
//! A socket belongs to the network namespace in which it was opened, and every thread can use it. Entering a network
//! namespace costs 3 us, so the thread opens several sockets at a time. When it is idle it returns to the agent's
//! network namespace: a thread keeps its network namespace alive, even after the pod was deleted.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use netns_nft::enter_netns;
use proxy_core::address::Family;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use support::lock;
use tokio::sync::oneshot;

/// The idle time after which TCP probes the peer.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// The interval between probes.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// The number of unanswered probes after which TCP aborts the connection.
pub(crate) const KEEPALIVE_COUNT: u32 = 4;

/// The type of a socket: TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketKind {
    Stream,
    Datagram,
}

/// A request to open `count` sockets in a network namespace.
struct OpenRequest {
    netns: Arc<OwnedFd>,
    family: Family,
    kind: SocketKind,
    count: usize,
    reply: oneshot::Sender<io::Result<Vec<OwnedFd>>>,
}

/// A handle to the thread; the thread ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(crate) struct NetnsSocketFactory(Arc<Mutex<Sender<OpenRequest>>>);

impl NetnsSocketFactory {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, requests) = channel();
        let home = File::open("/proc/thread-self/ns/net")?;
        thread::Builder::new().name("relay-sockets".to_owned()).spawn(move || serve(&requests, &home))?;
        Ok(Self(Arc::new(Mutex::new(sender))))
    }

    /// Opens up to `count` sockets in a network namespace, and at least one.
    pub(crate) async fn open(
        &self,
        netns: Arc<OwnedFd>,
        family: Family,
        kind: SocketKind,
        count: usize,
    ) -> io::Result<Vec<OwnedFd>> {
        let stopped = || io::Error::other("socket thread stopped");
        let (reply, sockets) = oneshot::channel();
        let request = OpenRequest { netns, family, kind, count, reply };
        lock(&self.0).send(request).map_err(|_| stopped())?;
        sockets.await.map_err(|_| stopped())?
    }
}

fn serve(requests: &Receiver<OpenRequest>, home: &File) {
    while let Ok(first) = requests.recv() {
        let mut next = Some(first);
        while let Some(OpenRequest { netns, family, kind, count, reply }) = next {
            let sockets = enter_netns(netns.as_ref()).and_then(|()| open_sockets(family, kind, count));
            // The connection that needs the socket may have been closed.
            let _ = reply.send(sockets);
            next = requests.try_recv().ok();
        }
        // The thread was in this network namespace before, so it has the permission to return.
        let _ = enter_netns(home);
    }
}

/// Opens `count` sockets, or fewer if file descriptors run out after the first.
fn open_sockets(family: Family, kind: SocketKind, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = vec![open_socket(family, kind)?];
    sockets.extend((1..count).map_while(|_| open_socket(family, kind).ok()));
    Ok(sockets)
}

/// Opens a socket in the network namespace of the calling thread.
pub(crate) fn open_socket(family: Family, kind: SocketKind) -> Result<OwnedFd, Errno> {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket_type = if kind == SocketKind::Stream { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = rustix::net::socket_with(family, socket_type, flags, None)?;
    if kind == SocketKind::Stream {
        set_stream_options(&socket)?;
    }
    Ok(socket)
}

/// Sets the options of connections to clients and backends; accepted connections inherit them from their listener.
///
/// With SO_LINGER 0, a connection that is closed before both ends have finished is reset, even if this process is
/// killed, so that a peer never mistakes a truncated stream for a complete one.
pub(crate) fn set_stream_options(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    Ok(())
}
