//! The UDP side of a network namespace: tells flows from one another, and bounds them.
//!
//! What must not go in here: what a flow does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connection::admitted;
use crate::datagram::{Ends, Mouth};
use crate::flow::{DATAGRAM_BYTES, Datagram, Flow, carry};
use crate::place::Place;
use crate::worker::Tools;

/// So many flows of one network namespace are carried by a worker at a time; what comes then is dropped.
pub(crate) const FLOWS_MAX: usize = 4_096;
/// So many datagrams wait where a flow has no backend yet; what comes then is dropped.
const WAITING_MAX: usize = 16;

/// Takes datagrams until it is told to finish, and waits for the last flows to end.
pub(crate) async fn listen(
    tools: Rc<Tools>,
    place: Arc<Place>,
    socket: OwnedFd,
    mut finishing: watch::Receiver<bool>,
) {
    let Ok(mouth) = Mouth::new(socket) else { return };
    let mouth = Rc::new(mouth);
    let answers = Rc::new(RefCell::new(vec![0; DATAGRAM_BYTES].into_boxed_slice()));
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut open: HashMap<Ends, Sender<Datagram>> = HashMap::new();
    let mut flows = JoinSet::new();
    loop {
        let (bytes, ends) = tokio::select! {
            received = mouth.receive(&mut buffer) => match received {
                Ok(received) => received,
                // A datagram that cannot be told, or an error that belongs to an earlier one.
                Err(_) => continue,
            },
            Some(over) = flows.join_next(), if !flows.is_empty() => {
                if let Ok(ends) = over {
                    open.remove(&ends);
                }
                continue;
            }
            _ = finishing.changed() => break,
        };
        let datagram = buffer.get(..bytes).unwrap_or_default();
        if let Some(flow) = open.get(&ends) {
            // Where there is no room it is lost, as datagrams may be.
            let _ = flow.try_send(datagram.into());
            continue;
        }
        if flows.len() >= FLOWS_MAX {
            tools.totals.over_limit.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let Some(key) = wanted(&tools, &place, ends) else { continue };
        let (sender, datagrams) = channel(WAITING_MAX);
        let _ = sender.try_send(datagram.into());
        open.insert(ends, sender);
        let flow = Flow { place: Arc::clone(&place), mouth: Rc::clone(&mouth), ends, key };
        let (tools, answers) = (Rc::clone(&tools), Rc::clone(&answers));
        flows.spawn_local(async move {
            match tools.totals.enter(tools.connections_max) {
                Some(_entered) => carry(flow, datagrams, answers).await,
                None => drop(tools.totals.over_limit.fetch_add(1, Ordering::Relaxed)),
            }
            ends
        });
    }
    open.clear();
    while flows.join_next().await.is_some() {}
}

/// The portal to which a new flow wanted to go.
fn wanted(tools: &Tools, place: &Place, ends: Ends) -> Option<PortalKey> {
    let Some(wanted) = place.original_destination(ends) else {
        tools.totals.strangers.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    let key = PortalKey { address: wanted.ip(), protocol: Protocol::Udp, port: wanted.port() };
    admitted(tools, place, key, ends.client.ip()).map(|_| key)
}
