//! `Load`: the connections, requests and memory of the server, within limits.
//!
//! A request is charged as its bytes arrive, a response until its last byte is passed to TLS. If there is no room, the
//! server closes connections and requests that wait for their client (see `state`), so that slow or idle clients do not
//! delay others. This file contains no HTTP.

mod state;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

pub(crate) use crate::load::state::Limits;
use crate::load::state::State;

/// The interval at which a waiting request checks for room, in addition to notifications.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The load of a server. Clones share it.
#[derive(Clone)]
pub(crate) struct Load(Arc<Shared>);

struct Shared {
    limits: Limits,
    state: Mutex<State>,
    /// Notified when a connection ends, or memory is released.
    freed: Notify,
    /// Notified when a large request ends its turn.
    turns: Notify,
}

impl Load {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared { limits, state: Mutex::default(), freed: Notify::new(), turns: Notify::new() }))
    }

    /// The number of connections.
    pub(crate) fn connections(&self) -> usize {
        self.state().connections.count()
    }

    /// The bytes that requests and responses hold.
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes()
    }

    /// Registers a connection of a peer, and closes another one if the limit is reached; `None` if all of those are
    /// being answered.
    pub(crate) fn connection(&self, peer: IpAddr) -> Option<ConnectionLoad> {
        let (id, close) = self.state().connections.connect(self.0.limits.connections, peer)?;
        Some(ConnectionLoad { load: self.clone(), id, close })
    }

    /// Closes the connection that is first in the order of `state`.
    pub(crate) fn close_one(&self) {
        self.state().connections.close_one();
    }

    /// Waits until there are at most this many connections, including closing ones.
    pub(crate) async fn at_most(&self, connections: usize) {
        self.until(&self.0.freed, |state| state.connections.count() <= connections).await;
    }

    async fn until(&self, changed: &Notify, mut condition: impl FnMut(&mut State) -> bool) {
        loop {
            let mut changed = pin!(changed.notified());
            changed.as_mut().enable();
            if condition(&mut self.state()) {
                return;
            }
            // A request becomes slow without a notification.
            let _ = timeout(POLL_INTERVAL, changed).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registered connection; dropping it ends it.
pub(crate) struct ConnectionLoad {
    load: Load,
    id: u64,
    close: Arc<Notify>,
}

impl ConnectionLoad {
    /// Waits until the connection must close to make room.
    pub(crate) async fn closed(&self) {
        self.close.notified().await;
    }

    /// Whether it has requests.
    pub(crate) fn is_in_use(&self) -> bool {
        self.load.state().is_in_use(self.id)
    }

    /// Registers a request, and evicts another one if the limit is reached; `None` if all of those are being answered.
    pub(crate) fn request(&self) -> Option<RequestLoad> {
        let (id, evict) = self.load.state().begin(&self.load.0.limits, self.id)?;
        Some(RequestLoad { load: self.load.clone(), id, evict })
    }
}

impl Drop for ConnectionLoad {
    fn drop(&mut self) {
        self.load.state().connections.disconnect(self.id);
        self.load.0.freed.notify_waiters();
    }
}

/// The charge of a request and its response; dropping it releases it.
pub(crate) struct RequestLoad {
    load: Load,
    id: u64,
    evict: Arc<Notify>,
}

impl RequestLoad {
    /// Waits until the request is evicted.
    pub(crate) async fn evicted(&self) {
        self.evict.notified().await;
    }

    /// Charges more bytes, as soon as there is room.
    pub(crate) async fn grow(&self, bytes: usize) {
        let Shared { limits, freed, turns, .. } = &*self.load.0;
        self.load.until(turns, |state| state.has_turn(limits, Instant::now(), self.id, bytes)).await;
        self.load.until(freed, |state| state.grow(limits, self.id, bytes)).await;
    }

    /// Records that the request is complete; returns false if it was evicted.
    pub(crate) fn arrived(&self) -> bool {
        self.load.state().arrived(self.id)
    }

    /// Releases the request and charges its response of this size; returns when there is room for it.
    pub(crate) async fn answered(&self, bytes: usize) {
        let ends_turn = self.load.state().answered(self.id);
        self.release(ends_turn);
        let Shared { limits, freed, .. } = &*self.load.0;
        self.load.until(freed, |state| state.send(limits, self.id, bytes)).await;
    }

    fn release(&self, ends_turn: bool) {
        self.load.0.freed.notify_waiters();
        if ends_turn {
            self.load.0.turns.notify_one();
        }
    }
}

impl Drop for RequestLoad {
    fn drop(&mut self) {
        let ends_turn = self.load.state().end(self.id);
        self.release(ends_turn);
    }
}
