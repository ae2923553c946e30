//! `Load`: what connections, requests and answers hold together, kept within limits.
//!
//! Requests are charged as their bytes come, answers until the last byte is handed to TLS. Where there is no room, what
//! waits for its client is closed first (see `state`), so that a client that is slow or silent keeps nobody else waiting.
//! What must not go in here: HTTP.

mod state;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

pub(crate) use crate::load::state::Limits;
use crate::load::state::State;

/// Whoever waits for room looks at least so often.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The load of a server. Whoever has a clone has the same.
#[derive(Clone)]
pub(crate) struct Load(Arc<Shared>);

struct Shared {
    limits: Limits,
    state: Mutex<State>,
    /// Something was given back.
    freed: Notify,
    /// A large request has ended its turn.
    turns: Notify,
}

impl Load {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared { limits, state: Mutex::default(), freed: Notify::new(), turns: Notify::new() }))
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.state().connections()
    }

    /// How many bytes requests and answers hold.
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes()
    }

    /// A place for a connection of this peer; another connection may be closed for it. None: all are being answered.
    pub(crate) fn connection(&self, peer: IpAddr) -> Option<ConnectionLoad> {
        let (id, close) = self.state().connect(&self.0.limits, peer)?;
        Some(ConnectionLoad { load: self.clone(), id, close })
    }

    /// Closes the connection that can best be spared.
    pub(crate) fn close_one(&self) {
        self.state().close_one();
    }

    /// Waits until there are at most so many connections, those that are told to close included.
    pub(crate) async fn at_most(&self, connections: usize) {
        self.until(&self.0.freed, |state| state.connections() <= connections).await;
    }

    async fn until(&self, changed: &Notify, mut is_so: impl FnMut(&mut State) -> bool) {
        loop {
            let mut changed = pin!(changed.notified());
            changed.as_mut().enable();
            if is_so(&mut self.state()) {
                return;
            }
            // What is slow is found out by time alone.
            let _ = timeout(LOOK_INTERVAL, changed).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection, until it is dropped.
pub(crate) struct ConnectionLoad {
    load: Load,
    id: u64,
    close: Arc<Notify>,
}

impl ConnectionLoad {
    /// Waits until the place is needed for another one.
    pub(crate) async fn closed(&self) {
        self.close.notified().await;
    }

    /// Whether requests on it have not ended.
    pub(crate) fn is_in_use(&self) -> bool {
        self.load.state().is_in_use(self.id)
    }

    /// A request on it; another request may be evicted for it. None: all are being answered.
    pub(crate) fn request(&self) -> Option<RequestLoad> {
        let (id, evict) = self.load.state().begin(&self.load.0.limits, self.id)?;
        Some(RequestLoad { load: self.load.clone(), id, evict })
    }
}

impl Drop for ConnectionLoad {
    fn drop(&mut self) {
        self.load.state().disconnect(self.id);
        self.load.0.freed.notify_waiters();
    }
}

/// What a request holds, until it and its answer are gone.
pub(crate) struct RequestLoad {
    load: Load,
    id: u64,
    evict: Arc<Notify>,
}

impl RequestLoad {
    /// Waits until it is evicted.
    pub(crate) async fn evicted(&self) {
        self.evict.notified().await;
    }

    /// Takes so many bytes more, as soon as there is room.
    pub(crate) async fn grow(&self, bytes: usize) {
        let Shared { limits, freed, turns, .. } = &*self.load.0;
        self.load.until(turns, |state| state.has_turn(limits, Instant::now(), self.id, bytes)).await;
        self.load.until(freed, |state| state.grow(limits, self.id, bytes)).await;
    }

    /// All of it has come; false: it was evicted.
    pub(crate) fn arrived(&self) -> bool {
        self.load.state().arrived(self.id)
    }

    /// Nothing is left of it but an answer of so many bytes, for which there is room when this returns.
    pub(crate) async fn answered(&self, bytes: usize) {
        let ends_turn = self.load.state().answered(self.id);
        self.given_back(ends_turn);
        let Shared { limits, freed, .. } = &*self.load.0;
        self.load.until(freed, |state| state.send(limits, self.id, bytes)).await;
    }

    fn given_back(&self, ends_turn: bool) {
        self.load.0.freed.notify_waiters();
        if ends_turn {
            self.load.0.turns.notify_one();
        }
    }
}

impl Drop for RequestLoad {
    fn drop(&mut self) {
        let ends_turn = self.load.state().end(self.id);
        self.given_back(ends_turn);
    }
}
