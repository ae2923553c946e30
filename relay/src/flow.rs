//! A UDP flow: the datagrams between one client and the backend that was chosen for it.
//!
//! It ends when nothing was said for a while, sooner than the kernel forgets it, so that what stands for a flow here
//! is never another flow there. A backend that refuses is exchanged for the next, and is told again what nobody has
//! answered. What must not go in here: how datagrams are told from one another.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy_core::address::Family;
use proxy_core::portal::{Portal, PortalKey};
use proxy_core::service::{Dial, Protocol};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep_until;

use crate::account::{Active, Chosen};
use crate::datagram::{Ends, Mouth};
use crate::dial::{is_portal, ready};
use crate::opener::{Kind, one};
use crate::place::{Lease, Place};

/// A flow without an answer is over after so long; the kernel forgets it after 30 s.
const UNANSWERED_IDLE: Duration = Duration::from_secs(20);
/// One question and one answer were all, most likely: as with DNS.
const ASKED_ONCE_IDLE: Duration = Duration::from_secs(5);
/// A conversation may have pauses; the kernel forgets it after 120 s.
const IDLE: Duration = Duration::from_secs(60);
/// The largest datagram there is.
pub(crate) const DATAGRAM_BYTES: usize = 64 << 10;

/// A datagram on its way to a backend.
pub(crate) type Datagram = Box<[u8]>;

/// What a flow has to do with.
pub(crate) struct Flow {
    pub(crate) place: Arc<Place>,
    pub(crate) mouth: Rc<Mouth>,
    pub(crate) ends: Ends,
    pub(crate) key: PortalKey,
}

/// A backend and the socket that leads there.
struct Reached {
    socket: UdpSocket,
    lease: Lease,
}

/// Carries datagrams until the flow is over.
pub(crate) async fn carry(flow: Flow, mut datagrams: Receiver<Datagram>, buffer: Rc<RefCell<Box<[u8]>>>) {
    let tally = flow.place.account(flow.key, |account| Arc::clone(&account.tally));
    tally.connections.fetch_add(1, Ordering::Relaxed);
    let _active = Active::new(&tally);
    let mut tried = Vec::new();
    let mut reached = reach(&flow, &mut tried).await;
    let mut unanswered: Option<Datagram> = None;
    let (mut asked, mut answered, mut last) = (0_u64, 0_u64, Instant::now());
    while let Some(Reached { socket, lease }) = &reached {
        let idle = match (asked, answered) {
            (_, 0) => UNANSWERED_IDLE,
            (1, 1) => ASKED_ONCE_IDLE,
            _ => IDLE,
        };
        let outcome = tokio::select! {
            datagram = datagrams.recv() => match datagram {
                Some(datagram) => {
                    (asked, last) = (asked + 1, Instant::now());
                    tally.sent.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                    let sent = if is_gone(&flow, lease.backend) {
                        Err(io::ErrorKind::ConnectionRefused.into())
                    } else {
                        socket.send(&datagram).await.map(drop)
                    };
                    unanswered = Some(datagram);
                    sent
                }
                None => return,
            },
            answer = answer(socket, &flow, &buffer) => answer.map(|bytes| {
                (answered, last, unanswered) = (answered + 1, Instant::now(), None);
                tried.clear();
                tally.received.fetch_add(bytes as u64, Ordering::Relaxed);
            }),
            () = sleep_until((last + idle).into()) => return,
        };
        if outcome.is_err() {
            tried.push(lease.backend);
            let (client, backend) = (flow.ends.client.ip(), lease.backend);
            flow.place.account(flow.key, |account| account.failed(client, backend, Instant::now()));
            tally.retries.fetch_add(1, Ordering::Relaxed);
            reached = reach(&flow, &mut tried).await;
            if let (Some(reached), Some(datagram)) = (&reached, &unanswered) {
                // If it refuses as well, that is heard soon.
                let _ = reached.socket.send(datagram).await;
            }
        }
    }
    tally.failed.fetch_add(1, Ordering::Relaxed);
}

async fn answer(socket: &UdpSocket, flow: &Flow, buffer: &RefCell<Box<[u8]>>) -> io::Result<usize> {
    socket.readable().await?;
    let mut buffer = buffer.borrow_mut();
    match socket.try_recv(&mut buffer) {
        Ok(bytes) => {
            let answer = buffer.get(..bytes).unwrap_or_default();
            // A client that is gone needs no answer; the flow ends by its time.
            let _ = flow.mouth.answer(answer, flow.ends);
            Ok(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    }
}

/// Whether the portal does not lead to this backend any more.
fn is_gone(flow: &Flow, backend: SocketAddr) -> bool {
    let portals = flow.place.portals.borrow();
    portals.get(flow.key).is_none_or(|portal| portal.backends.binary_search(&backend).is_err())
}

/// A backend that was not tried yet, as soon as there is one.
async fn reach(flow: &Flow, tried: &mut Vec<SocketAddr>) -> Option<Reached> {
    let Flow { place, key, ends, .. } = flow;
    let client = ends.client.ip();
    loop {
        let portal = ready(place, *key, Instant::now()).await.ok()?;
        let chosen = place.account(*key, |account| account.choose(&portal, client, tried, Instant::now()))?;
        let lease = Lease::new(Arc::clone(place), *key, &chosen);
        match connected(place, &portal, chosen).await {
            Ok((socket, chosen)) => {
                place.account(*key, |account| account.reached(&portal, client, chosen, Instant::now()));
                return Some(Reached { socket, lease });
            }
            Err(_) => {
                tried.push(chosen.backend);
                place.account(*key, |account| account.failed(client, chosen.backend, Instant::now()));
            }
        }
    }
}

async fn connected(place: &Place, portal: &Portal, chosen: Chosen) -> io::Result<(UdpSocket, Chosen)> {
    let backend = chosen.backend;
    if is_portal(place, backend, Protocol::Udp) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let family = Family::of(backend.ip());
    let from_node = async || {
        let socket = UdpSocket::from_std(one(family, Kind::Datagram)?.into())?;
        socket.connect(backend).await?;
        Ok::<_, io::Error>((socket, Chosen { by_node: true, ..chosen }))
    };
    let from_pod = async || {
        let socket = UdpSocket::from_std(place.datagram_socket(family).await?.into())?;
        socket.connect(backend).await?;
        Ok::<_, io::Error>((socket, Chosen { by_node: false, ..chosen }))
    };
    match (portal.dial, chosen.by_node) {
        (Dial::Node, _) | (Dial::Auto, true) => from_node().await,
        (Dial::Pod, _) => from_pod().await,
        (Dial::Auto, false) => match from_pod().await {
            Err(_) => from_node().await,
            reached => reached,
        },
    }
}
