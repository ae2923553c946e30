//! `UdpSession`: relays the datagrams of one flow between its client and a backend.
//!
//! A session ends after an idle time that is shorter than the timeout of the kernel's conntrack entry. Otherwise a
//! later flow with the same addresses, which the kernel may translate from another portal, would join the session.
//! If the backend refuses (ICMP port unreachable), the session continues with another backend, to which it resends
//! the last unanswered datagram.

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

use crate::datagram_queue::QueuedDatagram;
use crate::dial::{ATTEMPTS_MAX, AttemptError, connect_from_pod_or_node, is_unreachable, wait_for_backend};
use crate::load_balancer::{InFlightGuard, Selection};
use crate::netns_socket_factory::SocketKind;
use crate::pod_relay::{BackendLease, PodRelay};
use crate::udp_socket::{FlowKey, UdpRelaySocket};
use crate::worker::WorkerContext;

/// The idle time of a flow without replies; its conntrack entry expires after 30 s.
const UNREPLIED_IDLE: Duration = Duration::from_secs(20);
/// The idle time after one request and one reply, which is often the whole exchange, as with DNS.
const SINGLE_REQUEST_IDLE: Duration = Duration::from_secs(5);
/// The idle time of all other flows; their conntrack entries expire after 120 s.
const IDLE: Duration = Duration::from_secs(60);
/// The maximum size of a datagram that is resent to another backend. Most requests are smaller, and parts of a
/// stream are worth no copy.
const RESEND_BYTES_MAX: usize = 2 << 10;

/// A flow, its portal, and the sockets and state that it shares with others.
pub(crate) struct UdpSession {
    pub(crate) context: Rc<WorkerContext>,
    pub(crate) pod: Arc<PodRelay>,
    /// The socket that receives from the client.
    pub(crate) socket: Rc<UdpRelaySocket>,
    pub(crate) flow: FlowKey,
    pub(crate) key: PortalKey,
}

/// A socket that is connected to a backend.
struct BackendSocket {
    socket: UdpSocket,
    lease: BackendLease,
}

/// The result of sending to a backend or receiving from it.
#[derive(Debug)]
enum BackendEvent {
    Sent,
    /// A reply of this length was forwarded.
    Replied(usize),
    Refused,
    /// The portal does not lead to the backend any more.
    Removed,
}

impl UdpSession {
    /// Relays datagrams until the session is idle, no backend is left, or the relay shuts down.
    pub(crate) async fn run(self, mut datagrams: Receiver<QueuedDatagram>) {
        let counters = self.pod.with_load_balancer(self.key, |balancer| Arc::clone(&balancer.counters));
        counters.connections.fetch_add(1, Ordering::Relaxed);
        let _in_flight = InFlightGuard::new(&counters);
        let mut tried = Vec::new();
        let mut backend = self.connect_next(&mut tried).await;
        let mut unreplied: Option<Box<[u8]>> = None;
        let (mut requests, mut replies, mut last) = (0_u64, 0_u64, Instant::now());
        while let Some(BackendSocket { socket, lease }) = &backend {
            let event = tokio::select! {
                datagram = datagrams.recv() => {
                    // The queue is closed when the relay shuts down.
                    let Some(datagram) = datagram else { return };
                    (requests, last) = (requests + 1, Instant::now());
                    counters.sent.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                    unreplied = (datagram.len() <= RESEND_BYTES_MAX).then(|| (*datagram).into());
                    match self.is_backend_removed(lease.backend) {
                        true => BackendEvent::Removed,
                        false => send_to_backend(socket, &datagram).await,
                    }
                }
                event = self.forward_reply(socket) => event,
                () = sleep_until((last + idle_timeout(requests, replies)).into()) => return,
            };
            match event {
                BackendEvent::Sent => continue,
                BackendEvent::Replied(bytes) => {
                    (replies, last, unreplied) = (replies + 1, Instant::now(), None);
                    tried.clear();
                    counters.received.fetch_add(bytes as u64, Ordering::Relaxed);
                    continue;
                }
                BackendEvent::Removed => {}
                BackendEvent::Refused => {
                    self.record_failure(&mut tried, lease.backend);
                    counters.retries.fetch_add(1, Ordering::Relaxed);
                }
            }
            backend = self.connect_next(&mut tried).await;
            if let (Some(backend), Some(datagram)) = (&backend, &unreplied) {
                // If this backend refuses as well, the next iteration receives its error.
                let _ = send_to_backend(&backend.socket, datagram).await;
            }
        }
        counters.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Receives a reply and sends it to the client. An ICMP port unreachable surfaces only as a socket error, not as
    /// readable data.
    async fn forward_reply(&self, backend: &UdpSocket) -> BackendEvent {
        let received = backend.async_io(Interest::READABLE.add(Interest::ERROR), || {
            let mut buffer = self.context.buffers.datagram.borrow_mut();
            let (bytes, _) = rustix::net::recv(backend, &mut **buffer, RecvFlags::DONTWAIT)?;
            // If the client has closed its socket, the session ends by its idle time.
            let _ = self.socket.send_reply(buffer.get(..bytes).unwrap_or_default(), self.flow);
            Ok(bytes)
        });
        received.await.map_or(BackendEvent::Refused, BackendEvent::Replied)
    }

    fn is_backend_removed(&self, backend: SocketAddr) -> bool {
        let portals = self.pod.portals.borrow();
        portals.get(self.key).is_none_or(|portal| portal.backends.binary_search(&backend).is_err())
    }

    fn record_failure(&self, tried: &mut Vec<SocketAddr>, backend: SocketAddr) {
        tried.push(backend);
        let client = self.flow.client.ip();
        self.pod.with_load_balancer(self.key, |balancer| {
            balancer.record_failure(client, backend, Instant::now());
        });
    }

    /// Connects to a backend that was not tried yet, and waits for one if the portal holds connections.
    async fn connect_next(&self, tried: &mut Vec<SocketAddr>) -> Option<BackendSocket> {
        let (pod, client) = (&self.pod, self.flow.client.ip());
        while tried.len() < ATTEMPTS_MAX {
            let portal = wait_for_backend(pod, self.key, Instant::now()).await.ok()?;
            let (lease, selection) = BackendLease::acquire(pod, &portal, client, tried)?;
            match attempt(pod, &portal, selection).await {
                Ok((socket, selection)) => {
                    pod.with_load_balancer(self.key, |balancer| {
                        balancer.record_success(&portal, client, selection, Instant::now());
                    });
                    return Some(BackendSocket { socket, lease });
                }
                Err(AttemptError::NoSocket) => {
                    self.context.limits.count_no_socket();
                    return None;
                }
                Err(_) => self.record_failure(tried, selection.backend),
            }
        }
        None
    }
}

/// Returns the idle time after which a session ends.
fn idle_timeout(requests: u64, replies: u64) -> Duration {
    match (requests, replies) {
        (_, 0) => UNREPLIED_IDLE,
        (1, 1) => SINGLE_REQUEST_IDLE,
        _ => IDLE,
    }
}

/// Sends a datagram to a backend. One that is too large or finds no memory is dropped: that is no failure of the
/// backend.
async fn send_to_backend(socket: &UdpSocket, datagram: &[u8]) -> BackendEvent {
    match socket.send(datagram).await {
        Ok(_) => BackendEvent::Sent,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::MSGSIZE | Errno::NOBUFS | Errno::NOMEM) => BackendEvent::Sent,
            _ => BackendEvent::Refused,
        },
    }
}

async fn attempt(
    pod: &PodRelay,
    portal: &Portal,
    selection: Selection,
) -> Result<(UdpSocket, Selection), AttemptError> {
    let connect = async |socket| connect(socket, selection.backend).await;
    connect_from_pod_or_node(pod, portal, selection, SocketKind::Datagram, connect).await
}

async fn connect(socket: OwnedFd, backend: SocketAddr) -> Result<UdpSocket, AttemptError> {
    let socket = UdpSocket::from_std(socket.into()).map_err(|_| AttemptError::NoSocket)?;
    match socket.connect(backend).await {
        Ok(()) => Ok(socket),
        Err(error) if is_unreachable(&error) => Err(AttemptError::Unreachable),
        Err(_) => Err(AttemptError::Refused),
    }
}
