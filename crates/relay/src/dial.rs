//! `dial`: connects a client to a backend of its portal.
//!
//! Backends are tried one after the other. The first that does not accept costs 250 ms, and each further one more. The
//! limits on attempts and time apply to a client's connection as a whole, independent of the number of backends, so
//! that a portal cannot make the relay scan a network.

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

use crate::limits::BufferSize;
use crate::load_balancer::Selection;
use crate::netns_socket_factory::SocketKind;
use crate::permit::Permit;
use crate::pod_relay::{BackendLease, PodRelay};

/// The maximum number of backends that are tried for one connection. Those that failed are ejected, so the next
/// connection tries others.
pub(crate) const ATTEMPTS_MAX: usize = 8;
/// The maximum time for all attempts of one connection, without the wait for a first backend.
const DIAL_TIME_MAX: Duration = Duration::from_secs(5);
/// The timeout of an attempt, by the number of attempts that timed out before.
pub(crate) const ATTEMPT_TIMEOUTS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// The maximum number of connections of a network namespace that wait for a first backend.
pub(crate) const PENDING_MAX: usize = 1_024;

/// The reason why no backend was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialError {
    /// No backend exists or accepted in time.
    NoBackend,
    /// No socket could be opened; the backends are not at fault.
    NoSocket,
}

/// A connection to a backend.
#[derive(Debug)]
pub(crate) struct BackendConnection {
    pub(crate) stream: TcpStream,
    pub(crate) lease: BackendLease,
}

/// The reason why an attempt failed.
pub(crate) enum AttemptError {
    /// No socket could be opened; the backend is not at fault.
    NoSocket,
    /// The backend, or a device on the route to it, refused.
    Refused,
    /// No route leads to the backend.
    Unreachable,
    /// The backend did not reply.
    TimedOut,
}

/// The attempts that a client's connection has used.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// The buffer size of sockets to backends.
    buffers: BufferSize,
    /// Backends that failed. They are not tried again while others are left.
    tried: Vec<SocketAddr>,
    count: usize,
    /// The time that attempts took.
    elapsed: Duration,
    timeouts: usize,
    /// Whether a backend in `tried` timed out.
    has_timeout: bool,
}

impl Attempts {
    /// Returns the state before the first attempt.
    pub(crate) fn new(buffers: BufferSize) -> Self {
        let (tried, elapsed) = Default::default();
        Self { buffers, tried, count: 0, elapsed, timeouts: 0, has_timeout: false }
    }

    /// Excludes a backend from further attempts.
    pub(crate) fn exclude(&mut self, backend: SocketAddr) {
        self.tried.push(backend);
    }

    /// Returns the timeout of the next attempt, or `None` if the limits are reached.
    fn next_timeout(&self) -> Option<Duration> {
        let left = DIAL_TIME_MAX.checked_sub(self.elapsed).filter(|left| !left.is_zero())?;
        let timeout = ATTEMPT_TIMEOUTS.get(self.timeouts).filter(|_| self.count < ATTEMPTS_MAX)?;
        Some(left.min(*timeout))
    }

    /// Runs a future, and adds its time to `elapsed`. Returns `None` if `DIAL_TIME_MAX` is reached.
    async fn run<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let (start, left) = (Instant::now(), DIAL_TIME_MAX.saturating_sub(self.elapsed));
        let result = timeout(left, future).await;
        self.elapsed += start.elapsed();
        result.ok()
    }
}

/// Connects to a backend of the portal that this client has not tried yet.
pub(crate) async fn dial(
    pod: &Arc<PodRelay>,
    key: PortalKey,
    client: IpAddr,
    attempts: &mut Attempts,
) -> Result<BackendConnection, DialError> {
    let since = Instant::now();
    loop {
        let portal = wait_for_backend(pod, key, since).await?;
        let timeout = attempts.next_timeout().ok_or(DialError::NoBackend)?;
        let Some((lease, selection)) = BackendLease::acquire(pod, &portal, client, &attempts.tried) else {
            if !std::mem::take(&mut attempts.has_timeout) {
                return Err(DialError::NoBackend);
            }
            // All backends failed, but some may only be slow: try all again. The random delay spreads the retries of
            // clients that connected at the same time.
            attempts.tried.clear();
            attempts.run(sleep(timeout.mul_f64(fastrand::f64() / 2.0))).await;
            continue;
        };
        attempts.count += 1;
        let buffers = attempts.buffers;
        let result = attempts.run(attempt(pod, &portal, selection, timeout, buffers)).await;
        match result.unwrap_or(Err(AttemptError::TimedOut)) {
            Ok((stream, selection)) => {
                pod.with_load_balancer(key, |balancer| {
                    balancer.record_success(&portal, client, selection, Instant::now());
                });
                return Ok(BackendConnection { stream, lease });
            }
            Err(AttemptError::NoSocket) => return Err(DialError::NoSocket),
            Err(error) => {
                if matches!(error, AttemptError::TimedOut) {
                    attempts.has_timeout = true;
                    attempts.timeouts += 1;
                }
                attempts.exclude(selection.backend);
                pod.with_load_balancer(key, |balancer| {
                    balancer.record_failure(client, selection.backend, Instant::now());
                    balancer.counters.retries.fetch_add(1, Ordering::Relaxed);
                });
            }
        }
    }
}

/// Returns the portal once it has a backend. If it has none, waits until `since` plus the portal's hold time.
pub(crate) async fn wait_for_backend(
    pod: &PodRelay,
    key: PortalKey,
    since: Instant,
) -> Result<Portal, DialError> {
    let portal = pod.portal(key).ok_or(DialError::NoBackend)?;
    let hold_ms = match (portal.verdict, portal.hold_ms) {
        (Verdict::Forward, _) => return Ok(portal),
        (Verdict::Reject, Some(hold_ms)) => hold_ms,
        (Verdict::Reject, None) | (Verdict::Drop, _) => return Err(DialError::NoBackend),
    };
    let until = since + Duration::from_millis(hold_ms.into());
    let _permit = Permit::try_acquire(&pod.pending, PENDING_MAX).ok_or(DialError::NoBackend)?;
    let mut portals = pod.portals.clone();
    loop {
        // Read after the clone of the receiver, so that no change is missed.
        match pod.portal(key) {
            Some(portal) if portal.verdict == Verdict::Forward => return Ok(portal),
            Some(_) => {}
            None => return Err(DialError::NoBackend),
        }
        match timeout_at(until.into(), portals.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(DialError::NoBackend),
        }
    }
}

async fn attempt(
    pod: &PodRelay,
    portal: &Portal,
    selection: Selection,
    timeout: Duration,
    buffers: BufferSize,
) -> Result<(TcpStream, Selection), AttemptError> {
    let connect = async |socket: OwnedFd| {
        buffers.apply(&socket);
        connect(socket, selection.backend, timeout).await
    };
    connect_from_pod_or_node(pod, portal, selection, SocketKind::Stream, connect).await
}

/// Calls `connect` with a socket of the pod or of the node, as the portal's `dial` setting requires. With `auto`, a
/// backend that the pod cannot reach is tried from the node.
pub(crate) async fn connect_from_pod_or_node<T>(
    pod: &PodRelay,
    portal: &Portal,
    selection: Selection,
    kind: SocketKind,
    connect: impl AsyncFn(OwnedFd) -> Result<T, AttemptError>,
) -> Result<(T, Selection), AttemptError> {
    if is_portal(pod, selection.backend, portal.key.protocol) {
        return Err(AttemptError::Refused);
    }
    let family = Family::of(selection.backend.ip());
    let connect_via = async |via_node| {
        let socket =
            pod.netns.open_socket(kind, family, via_node).await.map_err(|_| AttemptError::NoSocket)?;
        connect(socket).await
    };
    let via_node = match portal.dial {
        _ if pod.netns.is_node() => true,
        Dial::Pod => false,
        Dial::Node => true,
        Dial::Auto => selection.via_node,
    };
    match connect_via(via_node).await {
        Err(AttemptError::Unreachable | AttemptError::TimedOut) if portal.dial == Dial::Auto && !via_node => {
            Ok((connect_via(true).await?, Selection { via_node: true, ..selection }))
        }
        result => Ok((result?, Selection { via_node, ..selection })),
    }
}

/// Whether a backend is a portal, in a service range, or on the node a loopback address. A connection to it would be redirected to the
/// relay again, without end. The kernel translates an address only once, and the relay does the same.
fn is_portal(pod: &PodRelay, backend: SocketAddr, protocol: Protocol) -> bool {
    let key = PortalKey { address: backend.ip(), protocol, port: backend.port() };
    let portals = pod.portals.borrow();
    pod.netns.redirects_to_relay(backend.ip())
        || portals.get(key).is_some()
        || portals.service_ranges().iter().any(|range| range.contains(&backend.ip()))
}

async fn connect(socket: OwnedFd, backend: SocketAddr, max: Duration) -> Result<TcpStream, AttemptError> {
    let socket = TcpSocket::from_std_stream(socket.into());
    match timeout(max, socket.connect(backend)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_unreachable(&error) => Err(AttemptError::Unreachable),
        Ok(Err(_)) => Err(AttemptError::Refused),
        Err(_) => Err(AttemptError::TimedOut),
    }
}

/// Whether an error means that no route leads to the backend. For a blackhole route, `connect` returns EINVAL.
pub(crate) fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, HostUnreachable, InvalidInput, NetworkDown, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        AddrNotAvailable | HostUnreachable | InvalidInput | NetworkDown | NetworkUnreachable | TimedOut
    )
}
