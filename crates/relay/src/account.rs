//! `Account`: what is remembered of one portal in one network namespace.
//!
//! Whose turn it is, how backends are doing, which client has which backend, and how much passed. Pure, with the
//! time as an argument. What must not go in here: what becomes of a connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proxy_core::portal::Portal;
use proxy_core::scheduler::{Load, Turn};
use proxy_core::service::Scheduler;

use crate::report::TrafficTotals;

/// A backend that did not answer is passed over for so long, as long as there are others.
pub(crate) const REST: Duration = Duration::from_secs(5);
/// So many clients' backends are remembered; who comes then is balanced anew each time.
const CLIENTS_MAX: usize = 4_096;

/// What is remembered of a portal.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// The place behind the last choice.
    next: usize,
    backends: HashMap<SocketAddr, Backend>,
    /// Which backend a client has, and until when.
    clients: HashMap<IpAddr, (SocketAddr, Instant)>,
    /// What passed.
    pub(crate) tally: Arc<Tally>,
}

/// How a backend is doing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Backend {
    pub(crate) load: Load,
    /// It failed, and is passed over until then.
    pub(crate) rests_until: Option<Instant>,
    /// Only the node reaches it.
    pub(crate) via_node: bool,
    /// How many connections it has had.
    pub(crate) connections: u64,
    /// How often it did not answer.
    pub(crate) failures: u64,
}

/// What passed through a portal.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections: AtomicU64,
    pub(crate) active: AtomicU64,
    /// From clients to backends.
    pub(crate) sent: AtomicU64,
    /// From backends to clients.
    pub(crate) received: AtomicU64,
    /// How often another backend had to be tried.
    pub(crate) retries: AtomicU64,
    /// How many found no backend.
    pub(crate) failed: AtomicU64,
}

impl Tally {
    /// What passed until now.
    pub(crate) fn passed(&self) -> TrafficTotals {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        TrafficTotals {
            connections: count(&self.connections),
            sent: count(&self.sent),
            received: count(&self.received),
            retries: count(&self.retries),
            failed: count(&self.failed),
        }
    }
}

/// A connection that is counted as long as this is there.
pub(crate) struct Active<'a>(&'a Tally);

impl<'a> Active<'a> {
    pub(crate) fn new(tally: &'a Tally) -> Self {
        tally.active.fetch_add(1, Ordering::Relaxed);
        Self(tally)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A backend that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) backend: SocketAddr,
    /// It is known that only the node reaches it.
    pub(crate) via_node: bool,
}

impl Account {
    /// Chooses a backend: the client's own where clients are sticky, or else one by the portal's scheduler. Those
    /// that were tried are left out, and those that rest, unless only such are left.
    pub(crate) fn choose(
        &mut self,
        portal: &Portal,
        client: IpAddr,
        tried: &[SocketAddr],
        now: Instant,
    ) -> Option<Chosen> {
        let is_open = |backend: &SocketAddr| !tried.contains(backend);
        let own = self.clients.get(&client).filter(|(_, until)| portal.affinity_s.is_some() && now < *until);
        let own = own.map(|(backend, _)| *backend);
        let own = own.filter(|backend| portal.backends.binary_search(backend).is_ok() && is_open(backend));
        if let Some(backend) = own.filter(|backend| !self.rests(backend, now)) {
            return Some(self.chosen(backend));
        }
        let draw = fastrand::u64(..);
        let turn = Turn { next: self.next, draw, source: client, destination: portal.key.address };
        let scheduler = portal.scheduler.unwrap_or(Scheduler::RoundRobin);
        let load = |backend: &SocketAddr| is_open(backend).then(|| self.load(backend));
        let awake = |backend: &SocketAddr| load(backend).filter(|_| !self.rests(backend, now));
        let place = scheduler.choice(&portal.backends, awake, turn);
        let place = place.or_else(|| scheduler.choice(&portal.backends, load, turn))?;
        self.next = place + 1;
        portal.backends.get(place).map(|backend| self.chosen(*backend))
    }

    fn chosen(&self, backend: SocketAddr) -> Chosen {
        Chosen { backend, via_node: self.backends.get(&backend).is_some_and(|known| known.via_node) }
    }

    fn load(&self, backend: &SocketAddr) -> Load {
        self.backends.get(backend).map(|known| known.load).unwrap_or_default()
    }

    fn rests(&self, backend: &SocketAddr, now: Instant) -> bool {
        let until = self.backends.get(backend).and_then(|known| known.rests_until);
        until.is_some_and(|until| now < until)
    }

    /// A backend has one connection more.
    pub(crate) fn begin(&mut self, backend: SocketAddr) {
        let known = self.backends.entry(backend).or_default();
        known.load.connections += 1;
    }

    /// It has one less.
    pub(crate) fn end(&mut self, backend: SocketAddr) {
        if let Some(known) = self.backends.get_mut(&backend) {
            known.load.connections = known.load.connections.saturating_sub(1);
        }
    }

    /// A client was taken by a backend, and stays with it where clients are sticky.
    pub(crate) fn reached(&mut self, portal: &Portal, client: IpAddr, chosen: Chosen, now: Instant) {
        let known = self.backends.entry(chosen.backend).or_default();
        (known.rests_until, known.via_node) = (None, chosen.via_node);
        known.connections += 1;
        let Some(affinity_s) = portal.affinity_s else { return };
        if self.clients.len() < CLIENTS_MAX || self.clients.contains_key(&client) {
            let until = now + Duration::from_secs(affinity_s.into());
            self.clients.insert(client, (chosen.backend, until));
        }
    }

    /// A backend did not answer: whoever had it is balanced anew.
    pub(crate) fn failed(&mut self, client: IpAddr, backend: SocketAddr, now: Instant) {
        let known = self.backends.entry(backend).or_default();
        known.failures += 1;
        known.via_node = false;
        known.rests_until = Some(now + REST);
        if self.clients.get(&client).is_some_and(|(own, _)| *own == backend) {
            self.clients.remove(&client);
        }
    }

    /// A backend took so long to answer. Old times count for seven eighths.
    pub(crate) fn answered(&mut self, backend: SocketAddr, delay_us: u32) {
        let Some(known) = self.backends.get_mut(&backend) else { return };
        let (old, new) = (known.load.delay_us, delay_us.max(1));
        known.load.delay_us = if old == 0 { new } else { (old - old / 8).saturating_add(new / 8) };
    }

    /// Forgets what is over: clients whose time is up, and backends that are gone and have no connection.
    pub(crate) fn tidy(&mut self, portal: Option<&Portal>, now: Instant) {
        self.clients.retain(|_, (_, until)| now < *until);
        let stays = |backend: &SocketAddr| {
            portal.is_some_and(|portal| portal.backends.binary_search(backend).is_ok())
        };
        self.backends.retain(|backend, known| known.load.connections > 0 || stays(backend));
    }

    /// Whether nothing is going on: no connection counts here, or is about to.
    pub(crate) fn is_idle(&self) -> bool {
        self.tally.active.load(Ordering::Relaxed) == 0 && Arc::strong_count(&self.tally) == 1
    }

    /// How many backends and clients are remembered.
    pub(crate) fn size(&self) -> usize {
        self.backends.len() + self.clients.len()
    }

    /// Forgets clients, and backends that have no connection.
    pub(crate) fn forget_idle(&mut self) {
        self.clients = HashMap::new();
        self.backends.retain(|_, known| known.load.connections > 0);
        self.backends.shrink_to_fit();
    }

    /// The backends that are known.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (&SocketAddr, &Backend)> {
        self.backends.iter()
    }
}

#[cfg(test)]
mod tests;
