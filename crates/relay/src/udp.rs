//! The UDP side of a network namespace: tells flows from one another, and bounds them.
//!
//! What must not go in here: what a flow does.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connection::admitted;
use crate::datagram::{Ends, Mouth};
use crate::flow::{Flow, carry};
use crate::place::Place;
use crate::queue::{Queue, Taken};
use crate::worker::{PAUSE, Tools};

/// So many flows of one network namespace are carried by a worker at a time; what comes then is dropped.
pub(crate) const FLOWS_MAX: usize = 4_096;

/// Takes datagrams until it is told to finish, and waits for the last flows to end.
pub(crate) async fn listen(
    tools: Rc<Tools>,
    place: Arc<Place>,
    socket: OwnedFd,
    mut finishing: watch::Receiver<bool>,
) {
    let Ok(mouth) = Mouth::new(socket) else { return };
    let mut flows = Flows { mouth: Rc::new(mouth), open: HashMap::new(), tasks: JoinSet::new() };
    let taken = Taken::default();
    loop {
        tokio::select! {
            received = flows.mouth.receive(&tools.buffers.datagram) => match received {
                Ok(Some((bytes, ends))) => flows.give(&tools, &place, bytes, ends, &taken),
                // One that cannot be told from others.
                Ok(None) => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(over) = flows.tasks.join_next(), if !flows.tasks.is_empty() => {
                // There may be a new one already between these ends.
                if let Ok(ends) = over && flows.open.get(&ends).is_some_and(Queue::is_over) {
                    flows.open.remove(&ends);
                }
            }
            _ = finishing.changed() => break,
        }
    }
    flows.open.clear();
    while flows.tasks.join_next().await.is_some() {}
}

/// The flows of one network namespace.
struct Flows {
    mouth: Rc<Mouth>,
    open: HashMap<Ends, Queue>,
    tasks: JoinSet<Ends>,
}

impl Flows {
    /// Gives a datagram to its flow, which may be a new one.
    fn give(&mut self, tools: &Rc<Tools>, place: &Arc<Place>, length: usize, ends: Ends, taken: &Taken) {
        let buffer = tools.buffers.datagram.borrow();
        let bytes = buffer.get(..length).unwrap_or_default();
        if self.open.get(&ends).is_some_and(|flow| flow.put(bytes, taken)) {
            return;
        }
        if self.tasks.len() >= FLOWS_MAX {
            tools.limits.over_pod();
            return;
        }
        let Some(entered) = tools.limits.enter(place) else { return };
        let Some(key) = wanted(tools, place, ends) else { return };
        let (queue, datagrams) = Queue::new();
        queue.put(bytes, taken);
        self.open.insert(ends, queue);
        let (tools, place, mouth) = (Rc::clone(tools), Arc::clone(place), Rc::clone(&self.mouth));
        self.tasks.spawn_local(async move {
            carry(Flow { tools, place, mouth, ends, key }, datagrams).await;
            drop(entered);
            ends
        });
    }
}

/// The portal to which a new flow wanted to go.
fn wanted(tools: &Tools, place: &Place, ends: Ends) -> Option<PortalKey> {
    let redirected = Some(ends).filter(|ends| place.serves_at(ends.ours));
    let Some(wanted) = redirected.and_then(|ends| place.original_destination(ends)) else {
        tools.limits.strangers.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    let key = PortalKey { address: wanted.ip(), protocol: Protocol::Udp, port: wanted.port() };
    admitted(tools, place, key, ends.client.ip()).map(|_| key)
}
