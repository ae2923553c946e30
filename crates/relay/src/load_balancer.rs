//! `LoadBalancer`: the backends of one portal in one network namespace, and the selection among them.
//!
//! It holds what the schedulers need (the position of round robin, the open connections and the response time of
//! each backend), ejected backends, and session affinity. Response times are smoothed like TCP's round-trip time:
//!
//! ```text
//! delay = 7/8 * delay + 1/8 * sample        (the first sample as it is)
//! ```
//! `Scheduler::select` of proxy-core computes the expected delay of a backend as `(connections + 1) * delay`. The
//! load balancer has no I/O, and its methods take the time as an argument.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proxy_core::portal::Portal;
use proxy_core::scheduler::{Load, ScheduleInput};
use proxy_core::service::Scheduler;

use crate::report::TrafficTotals;

/// The time for which a backend that failed is ejected: it is selected only if no other backend is left.
pub(crate) const EJECTION_TIME: Duration = Duration::from_secs(5);
/// The maximum number of clients with session affinity. Connections of further clients have no affinity.
const CLIENTS_MAX: usize = 4_096;

/// The state of one portal.
#[derive(Debug, Default)]
pub(crate) struct LoadBalancer {
    /// The slot after the last selection.
    next: usize,
    backends: HashMap<SocketAddr, BackendState>,
    /// The backend of each client with session affinity, and when the affinity expires.
    clients: HashMap<IpAddr, (SocketAddr, Instant)>,
    pub(crate) counters: Arc<TrafficCounters>,
}

/// The state of one backend.
#[derive(Debug, Default, Clone)]
pub(crate) struct BackendState {
    pub(crate) load: Load,
    ejected_until: Option<Instant>,
    /// Whether it was last reached from the node.
    pub(crate) via_node: bool,
    /// Connections since the start.
    pub(crate) connections: u64,
    /// Failed attempts since the start.
    pub(crate) failures: u64,
}

/// The traffic of one portal.
#[derive(Debug, Default)]
pub(crate) struct TrafficCounters {
    pub(crate) connections: AtomicU64,
    /// Open connections and flows.
    pub(crate) active: AtomicU64,
    /// Bytes from clients to backends.
    pub(crate) sent: AtomicU64,
    /// Bytes from backends to clients.
    pub(crate) received: AtomicU64,
    /// Attempts to connect to a further backend after one had failed.
    pub(crate) retries: AtomicU64,
    /// Connections and flows that found no backend.
    pub(crate) failed: AtomicU64,
}

impl TrafficCounters {
    /// Returns the current values, without `active`.
    pub(crate) fn totals(&self) -> TrafficTotals {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TrafficTotals {
            connections: load(&self.connections),
            sent: load(&self.sent),
            received: load(&self.received),
            retries: load(&self.retries),
            failed: load(&self.failed),
        }
    }
}

/// Counts a connection as active until it is dropped.
pub(crate) struct InFlightGuard<'a>(&'a TrafficCounters);

impl<'a> InFlightGuard<'a> {
    pub(crate) fn new(counters: &'a TrafficCounters) -> Self {
        counters.active.fetch_add(1, Ordering::Relaxed);
        Self(counters)
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A selected backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) backend: SocketAddr,
    /// Whether it was last reached from the node.
    pub(crate) via_node: bool,
}

impl LoadBalancer {
    /// Selects a backend that is not in `tried`: the client's own if it has session affinity, otherwise one by the
    /// portal's scheduler. Ejected backends are selected only if no other is left.
    pub(crate) fn select(
        &mut self,
        portal: &Portal,
        client: IpAddr,
        tried: &[SocketAddr],
        now: Instant,
    ) -> Option<Selection> {
        let is_untried = |backend: &SocketAddr| !tried.contains(backend);
        let sticky = self.sticky_backend(portal, client, now).filter(is_untried);
        if let Some(backend) = sticky.filter(|backend| !self.is_ejected(backend, now)) {
            return Some(self.selection(backend));
        }
        let draw = fastrand::u64(..);
        let turn = ScheduleInput { next: self.next, draw, source: client, destination: portal.key.address };
        let scheduler = portal.scheduler.unwrap_or(Scheduler::RoundRobin);
        let untried = |backend: &SocketAddr| is_untried(backend).then(|| self.load(backend));
        let healthy = |backend: &SocketAddr| untried(backend).filter(|_| !self.is_ejected(backend, now));
        let slot = scheduler.select(&portal.backends, healthy, turn);
        let slot = slot.or_else(|| scheduler.select(&portal.backends, untried, turn))?;
        self.next = slot + 1;
        portal.backends.get(slot).map(|backend| self.selection(*backend))
    }

    /// Returns the backend to which a client has session affinity, if the portal still has it.
    fn sticky_backend(&self, portal: &Portal, client: IpAddr, now: Instant) -> Option<SocketAddr> {
        portal.affinity_s?;
        let (backend, until) = self.clients.get(&client)?;
        (now < *until && portal.backends.binary_search(backend).is_ok()).then_some(*backend)
    }

    fn selection(&self, backend: SocketAddr) -> Selection {
        Selection { backend, via_node: self.backends.get(&backend).is_some_and(|state| state.via_node) }
    }

    fn load(&self, backend: &SocketAddr) -> Load {
        self.backends.get(backend).map(|state| state.load).unwrap_or_default()
    }

    fn is_ejected(&self, backend: &SocketAddr, now: Instant) -> bool {
        self.backends.get(backend).is_some_and(|state| state.is_ejected(now))
    }

    /// Counts an open connection of a backend.
    pub(crate) fn connection_opened(&mut self, backend: SocketAddr) {
        self.backends.entry(backend).or_default().load.connections += 1;
    }

    /// Counts a closed connection of a backend.
    pub(crate) fn connection_closed(&mut self, backend: SocketAddr) {
        if let Some(state) = self.backends.get_mut(&backend) {
            state.load.connections = state.load.connections.saturating_sub(1);
        }
    }

    /// Records a connection that a backend accepted: ends its ejection, and renews the session affinity of the client.
    pub(crate) fn record_success(
        &mut self,
        portal: &Portal,
        client: IpAddr,
        selection: Selection,
        now: Instant,
    ) {
        let state = self.backends.entry(selection.backend).or_default();
        (state.ejected_until, state.via_node) = (None, selection.via_node);
        state.connections += 1;
        let Some(affinity_s) = portal.affinity_s else { return };
        if self.clients.len() < CLIENTS_MAX || self.clients.contains_key(&client) {
            let until = now + Duration::from_secs(affinity_s.into());
            self.clients.insert(client, (selection.backend, until));
        }
    }

    /// Records a failed attempt: ejects the backend, and ends the client's session affinity to it.
    pub(crate) fn record_failure(&mut self, client: IpAddr, backend: SocketAddr, now: Instant) {
        let state = self.backends.entry(backend).or_default();
        state.failures += 1;
        state.via_node = false;
        state.ejected_until = Some(now + EJECTION_TIME);
        if self.clients.get(&client).is_some_and(|(sticky, _)| *sticky == backend) {
            self.clients.remove(&client);
        }
    }

    /// Adds a sample to the smoothed response time of a backend. A time of 0 means unknown, so samples are at least
    /// 1 us.
    pub(crate) fn record_response_time(&mut self, backend: SocketAddr, delay_us: u32) {
        let Some(state) = self.backends.get_mut(&backend) else { return };
        let (old, new) = (state.load.delay_us, delay_us.max(1));
        state.load.delay_us = if old == 0 { new } else { (old - old / 8).saturating_add(new / 8) };
    }

    /// Removes clients whose session affinity has expired, and backends that are not the portal's and have no
    /// connection.
    pub(crate) fn gc(&mut self, portal: Option<&Portal>, now: Instant) {
        self.clients.retain(|_, (_, until)| now < *until);
        let is_current = |backend: &SocketAddr| {
            portal.is_some_and(|portal| portal.backends.binary_search(backend).is_ok())
        };
        self.backends.retain(|backend, state| state.load.connections > 0 || is_current(backend));
    }

    /// Whether no connection is active or about to be: a connection clones `counters` before it counts itself.
    pub(crate) fn is_idle(&self) -> bool {
        self.counters.active.load(Ordering::Relaxed) == 0 && Arc::strong_count(&self.counters) == 1
    }

    /// Returns the number of stored backends and clients.
    pub(crate) fn entries(&self) -> usize {
        self.backends.len() + self.clients.len()
    }

    /// Removes all clients, and backends without connections.
    pub(crate) fn evict_idle(&mut self) {
        self.clients = HashMap::new();
        self.backends.retain(|_, state| state.load.connections > 0);
        self.backends.shrink_to_fit();
    }

    pub(crate) fn backends(&self) -> impl Iterator<Item = (&SocketAddr, &BackendState)> {
        self.backends.iter()
    }
}

impl BackendState {
    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests;
