//! `Opener`: a thread that opens sockets in other network namespaces, and does nothing else.
//!
//! A socket belongs to the network namespace in which it was opened, whoever uses it later. To enter costs 3 us,
//! so it opens several at a time. When nothing more is asked for it goes home: a thread keeps the network namespace
//! alive that it is in, after its pod, too. What must not go in here: what sockets are for.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use proxy_core::address::Family;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::lock::lock;

/// After so long without a word the other end is asked whether it is still there.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// It is asked so often, this many times.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
pub(crate) const KEEPALIVE_COUNT: u32 = 4;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Datagram,
}

type Sockets = io::Result<Vec<OwnedFd>>;

struct Order {
    netns: Arc<OwnedFd>,
    family: Family,
    kind: Kind,
    count: usize,
    sockets: oneshot::Sender<Sockets>,
}

/// Opens sockets in network namespaces.
#[derive(Debug, Clone)]
pub(crate) struct Opener(Arc<Mutex<Sender<Order>>>);

impl Opener {
    /// Starts its thread, which ends with the last handle.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, orders) = channel();
        let home = File::open("/proc/thread-self/ns/net")?;
        thread::Builder::new().name("relay-opener".to_owned()).spawn(move || serve(&orders, &home))?;
        Ok(Self(Arc::new(Mutex::new(sender))))
    }

    /// Opens so many sockets in there.
    pub(crate) async fn open(
        &self,
        netns: Arc<OwnedFd>,
        family: Family,
        kind: Kind,
        count: usize,
    ) -> Sockets {
        let (sockets, opened) = oneshot::channel();
        let order = Order { netns, family, kind, count, sockets };
        let sent = lock(&self.0).send(order);
        sent.map_err(|_| io::Error::other("the thread that opens sockets has ended"))?;
        opened.await.map_err(|_| io::Error::other("the thread that opens sockets has ended"))?
    }
}

fn serve(orders: &Receiver<Order>, home: &File) {
    while let Ok(first) = orders.recv() {
        let mut next = Some(first);
        while let Some(Order { netns, family, kind, count, sockets }) = next {
            let opened = enter(netns.as_ref()).and_then(|()| several(family, kind, count));
            // Whoever asked may have gone.
            let _ = sockets.send(opened);
            next = orders.try_recv().ok();
        }
        // It came from there, so it may go there.
        let _ = enter(home);
    }
}

fn enter(netns: impl AsFd) -> io::Result<()> {
    Ok(move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// As many as there are descriptors for, if at least one.
fn several(family: Family, kind: Kind, count: usize) -> Sockets {
    let mut sockets = vec![one(family, kind)?];
    sockets.extend((1..count).map_while(|_| one(family, kind).ok()));
    Ok(sockets)
}

/// Opens a socket here.
pub(crate) fn one(family: Family, kind: Kind) -> Result<OwnedFd, Errno> {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind_of = if kind == Kind::Stream { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = rustix::net::socket_with(family, kind_of, flags, None)?;
    if kind == Kind::Stream {
        set_stream_options(&socket)?;
    }
    Ok(socket)
}

/// What every connection has, on both sides: accepted ones inherit it from their listener. One that is closed
/// before both sides have said all is reset, however that comes: if this process is killed, too, nobody takes what
/// has come so far for everything.
pub(crate) fn set_stream_options(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    Ok(())
}
