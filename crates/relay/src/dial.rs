//! `dial`: a connection to a backend of a portal, one that answers.
//!
//! Backends are tried one after the other, and not many of them: one that does not answer costs a quarter of a second,
//! and more each time. What must not go in here: what the connection is used for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy_core::address::Family;
use proxy_core::portal::{Portal, PortalKey, Verdict};
use proxy_core::service::{Dial, Protocol};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout, timeout_at};

use crate::account::Chosen;
use crate::limits::BufferSize;
use crate::opener::Kind;
use crate::place::{Lease, Place};
use crate::seat::Seat;

/// So many backends are tried for one connection, and so long, apart from the wait for a first backend. Those that
/// failed are left alone for a while, so the next connection tries others.
pub(crate) const ATTEMPTS_MAX: usize = 8;
const DIAL_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a backend may take to answer: the first that does not, the second, and so on.
pub(crate) const PATIENCE: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// So many connections of a network namespace may wait for a first backend.
pub(crate) const HELD_MAX: usize = 1_024;

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotReached {
    /// There is no backend that answers, or none at all.
    NoBackend,
    /// No socket is to be had here, so no backend was asked.
    NoSocket,
}

/// A connection to a backend.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) stream: TcpStream,
    pub(crate) lease: Lease,
}

/// Why an attempt failed.
pub(crate) enum Failed {
    /// No socket is to be had here. The backend has no part in it.
    NoSocket,
    /// The backend, or the way to it, said no.
    Refused,
    /// Nobody leads there.
    Unreachable,
    /// Nothing came back.
    Silent,
}

/// What a client's connection has spent on backends so far. It is bounded for the connection as a whole, however many
/// backends its portal has, so that nobody makes the relay scan a network.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// How large the buffers of the backend's socket may be.
    buffers: BufferSize,
    /// Those that failed, and are not tried again while others are left.
    tried: Vec<SocketAddr>,
    count: usize,
    /// The time that was spent on attempts; to wait for a first backend does not count.
    spent: Duration,
    /// How many did not answer, which makes the next wait longer.
    silent: usize,
    /// Whether one of those in `tried` did not answer.
    was_silent: bool,
}

impl Attempts {
    /// None yet, for a connection whose buffers may be so large.
    pub(crate) fn new(buffers: BufferSize) -> Self {
        let (tried, spent) = Default::default();
        Self { buffers, tried, count: 0, spent, silent: 0, was_silent: false }
    }

    /// A backend failed after it was reached.
    pub(crate) fn failed(&mut self, backend: SocketAddr) {
        self.tried.push(backend);
    }

    /// How long the next backend may take; none: enough was tried.
    fn patience(&self) -> Option<Duration> {
        let left = DIAL_TIME_MAX.checked_sub(self.spent).filter(|left| !left.is_zero())?;
        let patience = PATIENCE.get(self.silent).filter(|_| self.count < ATTEMPTS_MAX)?;
        Some(left.min(*patience))
    }

    /// Counts the time that some work takes, which ends when there is no more left.
    async fn timed<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let (begun, left) = (Instant::now(), DIAL_TIME_MAX.saturating_sub(self.spent));
        let done = timeout(left, work).await;
        self.spent += begun.elapsed();
        done.ok()
    }
}

/// Reaches a backend of the portal for this client, another than those that were tried already.
pub(crate) async fn dial(
    place: &Arc<Place>,
    key: PortalKey,
    client: IpAddr,
    attempts: &mut Attempts,
) -> Result<Reached, NotReached> {
    let since = Instant::now();
    loop {
        let portal = ready(place, key, since).await?;
        let patience = attempts.patience().ok_or(NotReached::NoBackend)?;
        let Some((lease, chosen)) = Lease::take(place, &portal, client, &attempts.tried) else {
            if !std::mem::take(&mut attempts.was_silent) {
                return Err(NotReached::NoBackend);
            }
            // All were tried, and some may only have been slow; or many clients came at once, and would again.
            attempts.tried.clear();
            attempts.timed(sleep(patience.mul_f64(fastrand::f64() / 2.0))).await;
            continue;
        };
        attempts.count += 1;
        let buffers = attempts.buffers;
        let outcome = attempts.timed(attempt(place, &portal, chosen, (patience, buffers))).await;
        match outcome.unwrap_or(Err(Failed::Silent)) {
            Ok((stream, chosen)) => {
                place.account(key, |account| account.reached(&portal, client, chosen, Instant::now()));
                return Ok(Reached { stream, lease });
            }
            Err(Failed::NoSocket) => return Err(NotReached::NoSocket),
            Err(failed) => {
                if matches!(failed, Failed::Silent) {
                    (attempts.was_silent, attempts.silent) = (true, attempts.silent + 1);
                }
                attempts.failed(chosen.backend);
                place.account(key, |account| {
                    account.failed(client, chosen.backend, Instant::now());
                    account.tally.retries.fetch_add(1, Ordering::Relaxed);
                });
            }
        }
    }
}

/// The portal as soon as it has a backend, if that is within the time for which it holds connections.
pub(crate) async fn ready(place: &Place, key: PortalKey, since: Instant) -> Result<Portal, NotReached> {
    let portal = place.portal(key).ok_or(NotReached::NoBackend)?;
    let hold_ms = match (portal.verdict, portal.hold_ms) {
        (Verdict::Forward, _) => return Ok(portal),
        (Verdict::Reject, Some(hold_ms)) => hold_ms,
        (Verdict::Reject, None) | (Verdict::Drop, _) => return Err(NotReached::NoBackend),
    };
    let until = since + Duration::from_millis(hold_ms.into());
    let Some(_waiting) = Seat::take(&place.held, HELD_MAX) else { return Err(NotReached::NoBackend) };
    let mut portals = place.portals.clone();
    loop {
        // Looked at after the clone, so that no change is missed.
        match place.portal(key) {
            Some(portal) if portal.verdict == Verdict::Forward => return Ok(portal),
            Some(_) => {}
            None => return Err(NotReached::NoBackend),
        }
        match timeout_at(until.into(), portals.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(NotReached::NoBackend),
        }
    }
}

/// One attempt.
async fn attempt(
    place: &Place,
    portal: &Portal,
    chosen: Chosen,
    (patience, buffers): (Duration, BufferSize),
) -> Result<(TcpStream, Chosen), Failed> {
    let connect = async |socket: OwnedFd| {
        buffers.bound(&socket);
        connect(socket, chosen.backend, patience).await
    };
    by_some_way(place, portal, chosen, Kind::Stream, connect).await
}

/// Reaches a backend by sockets of the pod, of the node, or of where it leads somewhere.
pub(crate) async fn by_some_way<T>(
    place: &Place,
    portal: &Portal,
    chosen: Chosen,
    kind: Kind,
    connect: impl AsyncFn(OwnedFd) -> Result<T, Failed>,
) -> Result<(T, Chosen), Failed> {
    if is_portal(place, chosen.backend, portal.key.protocol) {
        return Err(Failed::Refused);
    }
    let family = Family::of(chosen.backend.ip());
    let connected = async |via_node| {
        let socket = place.socket(kind, family, via_node).await.map_err(|_| Failed::NoSocket)?;
        connect(socket).await
    };
    let via_node = match portal.dial {
        Dial::Pod => false,
        Dial::Node => true,
        Dial::Auto => chosen.via_node,
    };
    match connected(via_node).await {
        Err(Failed::Unreachable | Failed::Silent) if portal.dial == Dial::Auto && !via_node => {
            Ok((connected(true).await?, Chosen { via_node: true, ..chosen }))
        }
        reached => Ok((reached?, Chosen { via_node, ..chosen })),
    }
}

/// A connection from here to a portal would come back to the relay, and again: the kernel translates an address
/// only once, and so do we.
fn is_portal(place: &Place, backend: SocketAddr, protocol: Protocol) -> bool {
    let key = PortalKey { address: backend.ip(), protocol, port: backend.port() };
    let portals = place.portals.borrow();
    portals.get(key).is_some() || portals.service_ranges().iter().any(|range| range.contains(&backend.ip()))
}

async fn connect(socket: OwnedFd, backend: SocketAddr, patience: Duration) -> Result<TcpStream, Failed> {
    let socket = TcpSocket::from_std_stream(socket.into());
    match timeout(patience, socket.connect(backend)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_unreachable(&error) => Err(Failed::Unreachable),
        Ok(Err(_)) => Err(Failed::Refused),
        Err(_) => Err(Failed::Silent),
    }
}

/// Whether the way is what failed, and not its end. What a black hole swallows is called an invalid argument.
pub(crate) fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, HostUnreachable, InvalidInput, NetworkDown, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        AddrNotAvailable | HostUnreachable | InvalidInput | NetworkDown | NetworkUnreachable | TimedOut
    )
}
