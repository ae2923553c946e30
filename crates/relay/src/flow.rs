//! A UDP flow: the datagrams between one client and the backend that was chosen for it.
//!
//! It ends when nothing was said for a while, sooner than the kernel forgets it, so that what stands for a flow here
//! is never another flow there. A backend that refuses is exchanged for the next, and is told again what nobody has
//! answered. What must not go in here: how datagrams are told from one another.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy_core::portal::{Portal, PortalKey};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep_until;

use crate::account::{Active, Chosen};
use crate::datagram::{Ends, Mouth};
use crate::dial::{ATTEMPTS_MAX, Failed, by_some_way, is_unreachable, ready};
use crate::opener::Kind;
use crate::place::{Lease, Place};
use crate::queue::Datagram;
use crate::worker::Tools;

/// A flow without an answer is over after so long; the kernel forgets it after 30 s.
const UNANSWERED_IDLE: Duration = Duration::from_secs(20);
/// One question and one answer were all, most likely: as with DNS.
const ASKED_ONCE_IDLE: Duration = Duration::from_secs(5);
/// A conversation may have pauses; the kernel forgets it after 120 s.
const IDLE: Duration = Duration::from_secs(60);
/// What nobody has answered is told again up to this length: a question as a rule, and not a part of a stream.
const TOLD_AGAIN_BYTES_MAX: usize = 2 << 10;

/// What a flow has to do with.
pub(crate) struct Flow {
    pub(crate) tools: Rc<Tools>,
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
pub(crate) async fn carry(flow: Flow, mut datagrams: Receiver<Datagram>) {
    let tally = flow.place.account(flow.key, |account| Arc::clone(&account.tally));
    tally.connections.fetch_add(1, Ordering::Relaxed);
    let _active = Active::new(&tally);
    let mut tried = Vec::new();
    let mut reached = reach(&flow, &mut tried).await;
    let mut unanswered: Option<Box<[u8]>> = None;
    let (mut asked, mut answered, mut last) = (0_u64, 0_u64, Instant::now());
    while let Some(Reached { socket, lease }) = &reached {
        let heard = tokio::select! {
            datagram = datagrams.recv() => {
                // The relay finishes.
                let Some(datagram) = datagram else { return };
                (asked, last) = (asked + 1, Instant::now());
                tally.sent.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                unanswered = (datagram.len() <= TOLD_AGAIN_BYTES_MAX).then(|| (*datagram).into());
                if is_gone(&flow, lease.backend) { Heard::Gone } else { told(socket, &datagram).await }
            }
            answer = answer(socket, &flow) => answer,
            () = sleep_until((last + idle(asked, answered)).into()) => return,
        };
        match heard {
            Heard::Nothing => continue,
            Heard::Answer(bytes) => {
                (answered, last, unanswered) = (answered + 1, Instant::now(), None);
                tried.clear();
                tally.received.fetch_add(bytes as u64, Ordering::Relaxed);
                continue;
            }
            Heard::Gone => {}
            Heard::Refusal => {
                failed(&flow, &mut tried, lease.backend);
                tally.retries.fetch_add(1, Ordering::Relaxed);
            }
        }
        reached = reach(&flow, &mut tried).await;
        if let (Some(reached), Some(datagram)) = (&reached, &unanswered) {
            // If it refuses as well, that is heard soon.
            let _ = told(&reached.socket, datagram).await;
        }
    }
    tally.failed.fetch_add(1, Ordering::Relaxed);
}

/// What is heard of a backend.
#[derive(Debug)]
enum Heard {
    Nothing,
    Answer(usize),
    Refusal,
    /// The portal does not lead there any more.
    Gone,
}

/// How long a flow may be silent after so many questions and answers.
fn idle(asked: u64, answered: u64) -> Duration {
    match (asked, answered) {
        (_, 0) => UNANSWERED_IDLE,
        (1, 1) => ASKED_ONCE_IDLE,
        _ => IDLE,
    }
}

/// Tells a backend. What does not fit is lost, as datagrams may be, and no backend's fault.
async fn told(socket: &UdpSocket, datagram: &[u8]) -> Heard {
    match socket.send(datagram).await {
        Ok(_) => Heard::Nothing,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::MSGSIZE | Errno::NOBUFS | Errno::NOMEM) => Heard::Nothing,
            _ => Heard::Refusal,
        },
    }
}

/// That a backend refuses is told as an error alone, not as something to be read.
async fn answer(socket: &UdpSocket, flow: &Flow) -> Heard {
    let received = socket.async_io(Interest::READABLE.add(Interest::ERROR), || {
        let mut buffer = flow.tools.buffers.datagram.borrow_mut();
        let (bytes, _) = rustix::net::recv(socket, &mut **buffer, RecvFlags::DONTWAIT)?;
        // A client that is gone needs no answer; the flow ends by its time.
        let _ = flow.mouth.answer(buffer.get(..bytes).unwrap_or_default(), flow.ends);
        Ok(bytes)
    });
    received.await.map_or(Heard::Refusal, Heard::Answer)
}

/// Whether the portal does not lead to this backend any more.
fn is_gone(flow: &Flow, backend: SocketAddr) -> bool {
    let portals = flow.place.portals.borrow();
    portals.get(flow.key).is_none_or(|portal| portal.backends.binary_search(&backend).is_err())
}

fn failed(flow: &Flow, tried: &mut Vec<SocketAddr>, backend: SocketAddr) {
    tried.push(backend);
    let client = flow.ends.client.ip();
    flow.place.account(flow.key, |account| account.failed(client, backend, Instant::now()));
}

/// A backend that was not tried yet, as soon as there is one.
async fn reach(flow: &Flow, tried: &mut Vec<SocketAddr>) -> Option<Reached> {
    let Flow { place, key, ends, .. } = flow;
    let client = ends.client.ip();
    while tried.len() < ATTEMPTS_MAX {
        let portal = ready(place, *key, Instant::now()).await.ok()?;
        let (lease, chosen) = Lease::take(place, &portal, client, tried)?;
        match connected(place, &portal, chosen).await {
            Ok((socket, chosen)) => {
                place.account(*key, |account| account.reached(&portal, client, chosen, Instant::now()));
                return Some(Reached { socket, lease });
            }
            Err(Failed::NoSocket) => {
                flow.tools.limits.no_socket();
                return None;
            }
            Err(_) => failed(flow, tried, chosen.backend),
        }
    }
    None
}

async fn connected(place: &Place, portal: &Portal, chosen: Chosen) -> Result<(UdpSocket, Chosen), Failed> {
    let connect = async |socket| connect(socket, chosen.backend).await;
    by_some_way(place, portal, chosen, Kind::Datagram, connect).await
}

async fn connect(socket: OwnedFd, backend: SocketAddr) -> Result<UdpSocket, Failed> {
    let socket = UdpSocket::from_std(socket.into()).map_err(|_| Failed::NoSocket)?;
    match socket.connect(backend).await {
        Ok(()) => Ok(socket),
        Err(error) if is_unreachable(&error) => Err(Failed::Unreachable),
        Err(_) => Err(Failed::Refused),
    }
}
