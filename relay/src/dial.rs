//! `dial`: a connection to a backend of a portal, one that answers.
//!
//! Backends are tried one after the other: who refuses costs nothing, who does not answer a quarter of a second, and
//! more each time. What must not go in here: what the connection is used for.

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
use crate::opener::Kind;
use crate::place::{Lease, Place};
use crate::seat::Seat;

/// How long a backend may take to answer, try by try. What refuses at once takes no try.
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

/// Reaches a backend of the portal for this client, another than those that were tried already.
pub(crate) async fn dial(
    place: &Arc<Place>,
    key: PortalKey,
    client: IpAddr,
    mut tried: Vec<SocketAddr>,
) -> Result<Reached, NotReached> {
    let mut patience = PATIENCE.iter();
    let mut wait = patience.next();
    let mut was_silent = false;
    let since = Instant::now();
    loop {
        let portal = ready(place, key, since).await?;
        let Some(patient) = wait else { return Err(NotReached::NoBackend) };
        let Some((lease, chosen)) = Lease::take(place, &portal, client, &tried) else {
            if !was_silent {
                return Err(NotReached::NoBackend);
            }
            // All were tried, and some may only have been slow; or many clients came at once, and would again.
            (was_silent, tried) = (false, Vec::new());
            sleep(patient.mul_f64(fastrand::f64() / 2.0)).await;
            continue;
        };
        match attempt(place, &portal, chosen, *patient).await {
            Ok((stream, chosen)) => {
                place.account(key, |account| account.reached(&portal, client, chosen, Instant::now()));
                return Ok(Reached { stream, lease });
            }
            Err(Failed::NoSocket) => return Err(NotReached::NoSocket),
            Err(failed) => {
                if matches!(failed, Failed::Silent) {
                    (was_silent, wait) = (true, patience.next());
                }
                tried.push(chosen.backend);
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
    patience: Duration,
) -> Result<(TcpStream, Chosen), Failed> {
    let connect = async |socket| connect(socket, chosen.backend, patience).await;
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
    let connected = async |by_node| {
        let socket = place.socket(kind, family, by_node).await.map_err(|_| Failed::NoSocket)?;
        connect(socket).await
    };
    let by_node = match portal.dial {
        Dial::Pod => false,
        Dial::Node => true,
        Dial::Auto => chosen.by_node,
    };
    match connected(by_node).await {
        Err(Failed::Unreachable | Failed::Silent) if portal.dial == Dial::Auto && !by_node => {
            Ok((connected(true).await?, Chosen { by_node: true, ..chosen }))
        }
        reached => Ok((reached?, Chosen { by_node, ..chosen })),
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
