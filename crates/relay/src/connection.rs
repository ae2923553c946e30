//! `serve`: a relayed TCP connection from its accept to its end.
//!
//! It finds the portal of the connection, dials a backend, and copies bytes. Dropping a socket resets its connection,
//! unless both directions have finished.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use proxy_core::portal::{Portal, PortalKey};
use proxy_core::service::Protocol;
use rustix::net::sockopt;
use tokio::net::TcpStream;

use crate::copy_bidirectional::{CopyOutcome, StallContext, copy_bidirectional};
use crate::dial::{Attempts, BackendConnection, DialError, dial};
use crate::load_balancer::{InFlightGuard, TrafficCounters};
use crate::pod_relay::PodRelay;
use crate::worker::WorkerContext;

/// The maximum number of backends of one connection that close it before any byte was copied. After the last of them
/// the client's connection is reset.
const UNUSED_MAX: usize = 4;

/// Serves an accepted connection.
pub(crate) async fn serve(
    context: Rc<WorkerContext>,
    pod: Arc<PodRelay>,
    client: TcpStream,
    peer: SocketAddr,
) {
    let Some(_permits) = context.limits.acquire(&pod) else { return };
    let buffers = context.limits.buffers();
    buffers.apply(&client);
    // The state of dialling is boxed, so that the task of an established connection does not contain it.
    let mut attempts = Box::new(Attempts::new(buffers));
    let established = Box::pin(establish(&context, &pod, &client, peer, &mut attempts)).await;
    let Some((counters, BackendConnection { mut stream, mut lease })) = established else { return };
    let _in_flight = InFlightGuard::new(&counters);
    let (key, source) = (lease.key, peer.ip().to_canonical());
    let stalls = &context.limits.stalls;
    let stall = StallContext { stalls, netns: pod.id, bytes: buffers.stalled_bytes() };
    for _ in 0..UNUSED_MAX {
        match copy_bidirectional(&client, &stream, &context.buffers, &counters, &lease, &stall).await {
            CopyOutcome::Finished => return,
            CopyOutcome::BackendUnused => {}
        }
        let backend = lease.backend;
        counters.retries.fetch_add(1, Ordering::Relaxed);
        pod.with_load_balancer(key, |balancer| balancer.record_failure(source, backend, Instant::now()));
        attempts.exclude(backend);
        let dialled = Box::pin(dial_counted(&context, &pod, key, source, &counters, &mut attempts)).await;
        let Some(connection) = dialled else { return };
        BackendConnection { stream, lease } = connection;
    }
}

/// Finds the portal of a new connection, and connects to a backend.
async fn establish(
    context: &WorkerContext,
    pod: &Arc<PodRelay>,
    client: &TcpStream,
    peer: SocketAddr,
    attempts: &mut Attempts,
) -> Option<(Arc<TrafficCounters>, BackendConnection)> {
    let source = peer.ip().to_canonical();
    let Some(key) = redirected_from(pod, client, peer) else {
        context.limits.count_unmatched();
        return None;
    };
    admit(context, pod, key, source)?;
    let counters = pod.with_load_balancer(key, |balancer| Arc::clone(&balancer.counters));
    counters.connections.fetch_add(1, Ordering::Relaxed);
    let connection = dial_counted(context, pod, key, source, &counters, attempts).await?;
    Some((counters, connection))
}

/// Dials a backend, and counts failures.
async fn dial_counted(
    context: &WorkerContext,
    pod: &Arc<PodRelay>,
    key: PortalKey,
    source: IpAddr,
    counters: &TrafficCounters,
    attempts: &mut Attempts,
) -> Option<BackendConnection> {
    match dial(pod, key, source, attempts).await {
        Ok(connection) => Some(connection),
        Err(DialError::NoBackend) => {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            None
        }
        Err(DialError::NoSocket) => {
            context.limits.count_no_socket();
            None
        }
    }
}

/// Returns the portal of a new connection or flow, if it exists and admits this client. Reports the use of an address
/// if the kernel could serve or reject such connections itself.
pub(crate) fn admit(
    context: &WorkerContext,
    pod: &PodRelay,
    key: PortalKey,
    source: IpAddr,
) -> Option<Portal> {
    let Some(portal) = pod.portal(key) else {
        context.limits.count_unmatched();
        context.report_use(pod, key);
        return None;
    };
    if !portal.is_relayed() {
        context.report_use(pod, key);
    }
    let is_admitted =
        portal.sources.as_ref().is_none_or(|sources| sources.iter().any(|range| range.contains(&source)));
    is_admitted.then_some(portal)
}

/// Returns the portal of a redirected connection, by its original destination, or `None` if it was not redirected or comes neither
/// from this network namespace nor from a guest of its pod.
fn redirected_from(pod: &PodRelay, client: &TcpStream, peer: SocketAddr) -> Option<PortalKey> {
    let local = client.local_addr().ok()?;
    if !pod.netns.serves_at(local.ip().to_canonical()) {
        return None;
    }
    let is_v4 = peer.ip().to_canonical().is_ipv4();
    let original: SocketAddr = if is_v4 {
        sockopt::ip_original_dst(client).ok()?.into()
    } else {
        sockopt::ipv6_original_dst(client).ok()?.into()
    };
    if (original.ip(), original.port()) == (local.ip().to_canonical(), local.port()) {
        return None;
    }
    pod.netns.portal_key(Protocol::Tcp, original)
}
