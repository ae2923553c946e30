//! `PodRelay`: the relay's state for one network namespace: a pod's, or the node's.
//!
//! Schedulers, the health of backends and session affinity are tracked for each network namespace, as kernel rules
//! do: a backend that one pod cannot reach may be reachable from another. The memory for this state is bounded; the
//! traffic totals of evicted portals are kept.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use netns_nft::NetnsId;
use proxy_core::portal::{Portal, PortalKey, Portals};
use support::lock;
use tokio::sync::watch;

use crate::load_balancer::{LoadBalancer, Selection};
use crate::report::TrafficTotals;
use crate::served_netns::ServedNetns;
use crate::udp_socket::FlowKey;

/// The maximum number of addresses in `reported_at`. The use of further addresses is reported once there is room.
const REPORTED_MAX: usize = 1_024;
/// The use of an address is reported at most once in this time, so that connections do not overload the agent.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// The number of load balancers from which on idle ones are evicted.
const LOAD_BALANCERS_MAX: usize = 1_024;
/// The number of backends and sticky clients of all portals from which on those without a connection are evicted.
const ENTRIES_MAX: usize = 16_384;
/// The number of selections between two checks of `ENTRIES_MAX`.
const CHECK_INTERVAL: usize = 1_024;

/// The relay's state for one network namespace.
#[derive(Debug)]
pub(crate) struct PodRelay {
    pub(crate) id: NetnsId,
    pub(crate) netns: ServedNetns,
    /// The port on which the relay listens.
    pub(crate) port: u16,
    pub(crate) portals: watch::Receiver<Portals>,
    load_balancers: Mutex<HashMap<PortalKey, LoadBalancer>>,
    /// The totals of evicted load balancers, until the next `gc`.
    evicted_totals: Mutex<TrafficTotals>,
    selections: AtomicUsize,
    /// When the use of an address was last reported.
    reported_at: Mutex<HashMap<IpAddr, Instant>>,
    /// The number of open connections and flows.
    pub(crate) connections: Arc<AtomicUsize>,
    /// The number of connections that wait for a first backend.
    pub(crate) pending: Arc<AtomicUsize>,
}

impl PodRelay {
    /// Returns the initial state.
    pub(crate) fn new(id: NetnsId, netns: ServedNetns, port: u16, portals: watch::Receiver<Portals>) -> Self {
        Self {
            id,
            netns,
            port,
            portals,
            load_balancers: Mutex::default(),
            evicted_totals: Mutex::default(),
            selections: AtomicUsize::default(),
            reported_at: Mutex::default(),
            connections: Arc::default(),
            pending: Arc::default(),
        }
    }

    /// Returns the original destination of a redirected UDP flow.
    pub(crate) fn original_destination(&self, flow: FlowKey) -> Option<SocketAddr> {
        self.netns.original_udp_destination(flow.client, SocketAddr::new(flow.local, self.port))
    }

    /// Returns the current state of a portal.
    pub(crate) fn portal(&self, key: PortalKey) -> Option<Portal> {
        self.portals.borrow().get(key).cloned()
    }

    /// Whether to report the use of an address: it belongs to a service, its use was not reported within
    /// `REPORT_INTERVAL`, and the network namespace is a pod's, which can have portals on demand.
    pub(crate) fn should_report_use(&self, address: IpAddr, now: Instant) -> bool {
        if self.netns.is_node() || self.portals.borrow().at(address).next().is_none() {
            return false;
        }
        let mut reported_at = lock(&self.reported_at);
        if reported_at.len() >= REPORTED_MAX {
            reported_at.retain(|_, last| now < *last + REPORT_INTERVAL);
            if reported_at.len() >= REPORTED_MAX {
                return false;
            }
        }
        let is_due = reported_at.get(&address).is_none_or(|last| now >= *last + REPORT_INTERVAL);
        if is_due {
            reported_at.insert(address, now);
        }
        is_due
    }

    /// Closes pooled sockets, and removes portals that no longer exist. Returns the traffic totals of all load
    /// balancers that were removed since the last call.
    pub(crate) fn gc(&self, now: Instant) -> TrafficTotals {
        self.netns.clear_sockets();
        lock(&self.reported_at).clear();
        let portals = self.portals.borrow().clone();
        let mut removed = std::mem::take(&mut *lock(&self.evicted_totals));
        lock(&self.load_balancers).retain(|key, balancer| {
            balancer.gc(portals.get(*key), now);
            let is_kept = !balancer.is_idle() || portals.get(*key).is_some();
            if !is_kept {
                removed += balancer.counters.totals();
            }
            is_kept
        });
        removed
    }

    /// Returns the traffic totals of all portals, including evicted ones since the last `gc`.
    pub(crate) fn totals(&self) -> TrafficTotals {
        let mut totals = *lock(&self.evicted_totals);
        lock(&self.load_balancers).values().for_each(|balancer| totals += balancer.counters.totals());
        totals
    }

    /// Calls a function with the load balancer of a portal, which is created if necessary.
    pub(crate) fn with_load_balancer<T>(
        &self,
        key: PortalKey,
        call: impl FnOnce(&mut LoadBalancer) -> T,
    ) -> T {
        let mut balancers = lock(&self.load_balancers);
        if balancers.len() >= LOAD_BALANCERS_MAX && !balancers.contains_key(&key) {
            self.evict_idle(&mut balancers);
        }
        call(balancers.entry(key).or_default())
    }

    /// Removes load balancers without connections, and keeps their totals.
    fn evict_idle(&self, balancers: &mut HashMap<PortalKey, LoadBalancer>) {
        let mut totals = lock(&self.evicted_totals);
        balancers.retain(|_, balancer| {
            let is_kept = !balancer.is_idle();
            if !is_kept {
                *totals += balancer.counters.totals();
            }
            is_kept
        });
    }

    /// Enforces `ENTRIES_MAX` at every `CHECK_INTERVAL`th call.
    fn limit_entries(&self) {
        if self.selections.fetch_add(1, Ordering::Relaxed) % CHECK_INTERVAL != CHECK_INTERVAL - 1 {
            return;
        }
        let mut balancers = lock(&self.load_balancers);
        if balancers.values().map(LoadBalancer::entries).sum::<usize>() > ENTRIES_MAX {
            self.evict_idle(&mut balancers);
            balancers.values_mut().for_each(LoadBalancer::evict_idle);
        }
    }

    /// Locks and returns all load balancers.
    pub(crate) fn load_balancers(&self) -> MutexGuard<'_, HashMap<PortalKey, LoadBalancer>> {
        lock(&self.load_balancers)
    }
}

/// A connection that its backend counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct BackendLease {
    pod: Arc<PodRelay>,
    pub(crate) key: PortalKey,
    pub(crate) backend: SocketAddr,
}

impl BackendLease {
    /// Selects a backend, and counts the connection at once, so that concurrent selections see it.
    pub(crate) fn acquire(
        pod: &Arc<PodRelay>,
        portal: &Portal,
        client: IpAddr,
        tried: &[SocketAddr],
    ) -> Option<(Self, Selection)> {
        let key = portal.key;
        pod.limit_entries();
        let selection = pod.with_load_balancer(key, |balancer| {
            let selection = balancer.select(portal, client, tried, Instant::now())?;
            balancer.connection_opened(selection.backend);
            Some(selection)
        })?;
        Some((Self { pod: Arc::clone(pod), key, backend: selection.backend }, selection))
    }

    /// Records the time from the first byte of the client to the first byte of the backend.
    pub(crate) fn record_response_time(&self, delay_us: u32) {
        self.pod.with_load_balancer(self.key, |balancer| {
            balancer.record_response_time(self.backend, delay_us);
        });
    }
}

impl Drop for BackendLease {
    fn drop(&mut self) {
        self.pod.with_load_balancer(self.key, |balancer| balancer.connection_closed(self.backend));
    }
}
