//! The UDP listener of a network namespace: it assigns datagrams to sessions, and limits the number of sessions.
//!
//! Each worker has its own listener. The kernel selects the listener by the addresses of a datagram, so all
//! datagrams of a flow arrive at one worker.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connection::admit;
use crate::datagram_queue::{DatagramQueue, QueuedBytes};
use crate::pod_relay::PodRelay;
use crate::udp_session::UdpSession;
use crate::udp_socket::{FlowKey, UdpRelaySocket};
use crate::worker::{RETRY_DELAY, WorkerContext};

/// The maximum number of sessions of one network namespace and worker. Datagrams of further flows are dropped.
pub(crate) const SESSIONS_MAX: usize = 4_096;

/// Receives datagrams until the shutdown begins, and then waits for the last session to end.
pub(crate) async fn listen(
    context: Rc<WorkerContext>,
    pod: Arc<PodRelay>,
    socket: OwnedFd,
    mut shutdown: watch::Receiver<bool>,
) {
    let Ok(socket) = UdpRelaySocket::new(socket) else { return };
    let mut sessions = UdpSessions {
        socket: Rc::new(socket),
        queues: HashMap::new(),
        queued: QueuedBytes::default(),
        tasks: JoinSet::new(),
    };
    loop {
        tokio::select! {
            received = sessions.socket.receive(&context.buffers.datagram) => match received {
                Ok(Some((bytes, flow))) => sessions.enqueue(&context, &pod, bytes, flow),
                // The flow of this datagram is unknown.
                Ok(None) => {}
                Err(_) => tokio::time::sleep(RETRY_DELAY).await,
            },
            Some(ended) = sessions.tasks.join_next(), if !sessions.tasks.is_empty() => {
                // The flow may have a new session already.
                if let Ok(flow) = ended && sessions.queues.get(&flow).is_some_and(DatagramQueue::is_closed) {
                    sessions.queues.remove(&flow);
                }
            }
            _ = shutdown.changed() => break,
        }
    }
    sessions.queues.clear();
    while sessions.tasks.join_next().await.is_some() {}
}

/// The sessions of one network namespace and worker.
struct UdpSessions {
    socket: Rc<UdpRelaySocket>,
    queues: HashMap<FlowKey, DatagramQueue>,
    queued: QueuedBytes,
    tasks: JoinSet<FlowKey>,
}

impl UdpSessions {
    /// Appends the received datagram to the queue of its session, and starts the session if it is new.
    fn enqueue(&mut self, context: &Rc<WorkerContext>, pod: &Arc<PodRelay>, length: usize, flow: FlowKey) {
        let buffer = context.buffers.datagram.borrow();
        let bytes = buffer.get(..length).unwrap_or_default();
        if self.queues.get(&flow).is_some_and(|queue| queue.push(bytes, &self.queued)) {
            return;
        }
        if self.tasks.len() >= SESSIONS_MAX {
            context.limits.count_over_pod();
            return;
        }
        let Some(permits) = context.limits.acquire(pod) else { return };
        let Some(key) = requested_portal(context, pod, flow) else { return };
        let (queue, datagrams) = DatagramQueue::new();
        queue.push(bytes, &self.queued);
        self.queues.insert(flow, queue);
        let (context, pod, socket) = (Rc::clone(context), Arc::clone(pod), Rc::clone(&self.socket));
        self.tasks.spawn_local(async move {
            UdpSession { context, pod, socket, flow, key }.run(datagrams).await;
            drop(permits);
            flow
        });
    }
}

/// Returns the portal of a new flow, unless it matches none or the portal does not admit the client.
fn requested_portal(context: &WorkerContext, pod: &PodRelay, flow: FlowKey) -> Option<PortalKey> {
    let redirected = Some(flow).filter(|flow| pod.netns.serves_at(flow.local));
    let Some(destination) = redirected.and_then(|flow| pod.original_destination(flow)) else {
        context.limits.count_unmatched();
        return None;
    };
    let key = pod.netns.portal_key(Protocol::Udp, destination)?;
    admit(context, pod, key, flow.client.ip()).map(|_| key)
}
