//! A relayed connection from its beginning to its end.
//!
//! What must not go in here: how a backend is found, and how bytes go.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use proxy_core::portal::{Portal, PortalKey};
use proxy_core::service::Protocol;
use rustix::net::sockopt;
use tokio::net::TcpStream;

use crate::account::{Active, Tally};
use crate::dial::{Attempts, NotReached, Reached, dial};
use crate::exchange::{End, Stalling, exchange};
use crate::place::Place;
use crate::worker::Tools;

/// So many backends may break off before they are told anything; the client then learns that they do.
const UNUSED_MAX: usize = 4;

/// Serves a client from the moment at which it is connected. What is dropped here is reset.
pub(crate) async fn serve(tools: Rc<Tools>, place: Arc<Place>, client: TcpStream, peer: SocketAddr) {
    let Some(_entered) = tools.limits.enter(&place) else { return };
    let buffers = tools.limits.buffers();
    buffers.bound(&client);
    // On its own heap, so that a connection that is under way does not hold the room of its beginning.
    let mut attempts = Box::new(Attempts::new(buffers));
    let begun = Box::pin(begin(&tools, &place, &client, peer, &mut attempts)).await;
    let Some((tally, Reached { mut stream, mut lease })) = begun else { return };
    let _active = Active::new(&tally);
    let (key, source) = (lease.key, peer.ip().to_canonical());
    let stalls = &tools.limits.stalls;
    let stalling = Stalling { stalls, netns: place.id, bytes: buffers.stalled_bytes() };
    for _ in 0..UNUSED_MAX {
        match exchange(&client, &stream, &tools.buffers, &tally, &lease, &stalling).await {
            End::Over => return,
            End::Unused => {}
        }
        let backend = lease.backend;
        tally.retries.fetch_add(1, Ordering::Relaxed);
        place.account(key, |account| account.failed(source, backend, Instant::now()));
        attempts.failed(backend);
        let Some(reached) = Box::pin(reach(&tools, &place, key, source, &tally, &mut attempts)).await else {
            return;
        };
        Reached { stream, lease } = reached;
    }
}

async fn begin(
    tools: &Tools,
    place: &Arc<Place>,
    client: &TcpStream,
    peer: SocketAddr,
    attempts: &mut Attempts,
) -> Option<(Arc<Tally>, Reached)> {
    let source = peer.ip().to_canonical();
    let Some(key) = original(place, client, peer) else {
        tools.limits.strangers.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    admitted(tools, place, key, source)?;
    let tally = place.account(key, |account| Arc::clone(&account.tally));
    tally.connections.fetch_add(1, Ordering::Relaxed);
    let reached = reach(tools, place, key, source, &tally, attempts).await?;
    Some((tally, reached))
}

async fn reach(
    tools: &Tools,
    place: &Arc<Place>,
    key: PortalKey,
    source: IpAddr,
    tally: &Tally,
    attempts: &mut Attempts,
) -> Option<Reached> {
    match dial(place, key, source, attempts).await {
        Ok(reached) => Some(reached),
        Err(NotReached::NoBackend) => {
            tally.failed.fetch_add(1, Ordering::Relaxed);
            None
        }
        Err(NotReached::NoSocket) => {
            tools.limits.no_socket();
            None
        }
    }
}

/// The portal to which a client wanted to go, if it is one and this client may use it. That it was used is told where
/// the kernel could serve it, or could refuse what comes there.
pub(crate) fn admitted(tools: &Tools, place: &Place, key: PortalKey, source: IpAddr) -> Option<Portal> {
    let Some(portal) = place.portal(key) else {
        // Somebody came to an address that is nobody's.
        tools.limits.strangers.fetch_add(1, Ordering::Relaxed);
        tools.used(place, key);
        return None;
    };
    if !portal.is_relayed() {
        tools.used(place, key);
    }
    let may =
        portal.sources.as_ref().is_none_or(|sources| sources.iter().any(|range| range.contains(&source)));
    may.then_some(portal)
}

/// Where the client wanted to go; none: to the relay itself, or it is neither the pod nor one of its guests.
fn original(place: &Place, client: &TcpStream, peer: SocketAddr) -> Option<PortalKey> {
    let ours = client.local_addr().ok()?;
    if !place.serves_at(ours.ip().to_canonical()) {
        return None;
    }
    let is_v4 = peer.ip().to_canonical().is_ipv4();
    let wanted: SocketAddr = if is_v4 {
        sockopt::ip_original_dst(client).ok()?.into()
    } else {
        sockopt::ipv6_original_dst(client).ok()?.into()
    };
    if (wanted.ip(), wanted.port()) == (ours.ip().to_canonical(), ours.port()) {
        return None;
    }
    Some(PortalKey { address: wanted.ip(), protocol: Protocol::Tcp, port: wanted.port() })
}
