//! `ProxyObserver`: a thread that observes the other service proxies of the node, and executes the requests of
//! `portico migrate`.
//!
//! It runs only in the mode `label`. Its requests come from annotations of the node: the agent has no right to write
//! objects, so the result is in its status. A request is executed once; after a restart it is executed again, which
//! changes nothing if the first time was successful.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use netns_nft::{ChainSummary, Error, KubeProxyRules, Socket};
use proxy_core::node::{Node, ServiceProxy};
use support::with_causes;

use crate::node_portals::kube_proxy_probe::{is_kube_proxy_synced, probe_kube_proxy};
use crate::node_portals::migration_report::{
    KubeProxyReport, MigrationReport, RuleRemovalReport, VerificationReport,
};
use crate::node_portals::node_status::NodeStatus;
use crate::node_portals::other_proxies::OtherProxies;
use crate::node_portals::service_proxy::KubeProxyState;
use crate::node_portals::verification::{VerifiedPortals, verify};
use crate::node_portals::worker::NodeEvent;

/// The interval at which a kube-proxy is looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// The minimum time between two listings of all chains: a node with many services has tens of thousands.
const LIST_INTERVAL: Duration = Duration::from_secs(2);
/// The same on a node that kube-proxy serves.
const IDLE_LIST_INTERVAL: Duration = Duration::from_secs(30);

/// What the worker knows about the node.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) node: Node,
    pub(crate) verified: VerifiedPortals,
}

/// The last state of the worker, and whether the worker has ended.
#[derive(Debug, Default)]
struct Slot {
    latest: Option<Observed>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Exchange {
    slot: Mutex<Slot>,
    changed: Condvar,
}

impl Exchange {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Slot)) {
        change(&mut self.slot());
        self.changed.notify_one();
    }

    /// Waits for a state, at most for the interval. Returns none at the end.
    fn next(&self, previous: Option<Observed>) -> Option<Observed> {
        let is_idle = |slot: &mut Slot| slot.latest.is_none() && !slot.is_closed;
        let slot = match previous {
            Some(_) => {
                let waited = self.changed.wait_timeout_while(self.slot(), INTERVAL, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait_while(self.slot(), is_idle).unwrap_or_else(PoisonError::into_inner),
        };
        let mut slot = slot;
        if slot.is_closed { None } else { slot.latest.take().or(previous) }
    }
}

/// Hands the state of the worker to the thread, which ends if this is dropped.
#[derive(Debug)]
pub(crate) struct ProxyObserver(Arc<Exchange>);

impl ProxyObserver {
    /// Starts the thread in the network namespace of the caller.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start(events: Sender<NodeEvent>, status: NodeStatus) -> std::io::Result<Self> {
        let exchange = Arc::new(Exchange::default());
        let observation = Observation {
            events,
            status,
            report: MigrationReport::default(),
            kube_proxy: KubeProxyState::Absent,
            listed: None,
        };
        let received = Arc::clone(&exchange);
        let run = move || observation.run(&received);
        thread::Builder::new().name("node-proxies".to_owned()).spawn(run).map(|_| Self(exchange))
    }

    /// Hands over the current state.
    pub(crate) fn update(&self, observed: Observed) {
        self.0.set(|slot| slot.latest = Some(observed));
    }
}

impl Drop for ProxyObserver {
    fn drop(&mut self) {
        self.0.set(|slot| slot.is_closed = true);
    }
}

/// The state of the thread.
#[derive(Debug)]
struct Observation {
    events: Sender<NodeEvent>,
    status: NodeStatus,
    report: MigrationReport,
    kube_proxy: KubeProxyState,
    /// The generation of the rulesets at the last listing of chains, and its time.
    listed: Option<(Option<u32>, Instant)>,
}

impl Observation {
    fn run(mut self, exchange: &Exchange) {
        let mut observed = None;
        while let Some(current) = exchange.next(observed) {
            self.observe(&current);
            self.execute(&current);
            self.status.set_migration(self.report.clone());
            observed = Some(current);
        }
    }

    fn observe(&mut self, observed: &Observed) {
        let Observed { node, verified } = observed;
        node.service_proxy.name().clone_into(&mut self.report.label);
        self.report.serving = verified.is_serving;
        let probe = probe_kube_proxy();
        let state = match (&probe, self.kube_proxy) {
            (None, _) => KubeProxyState::Absent,
            (Some(_), KubeProxyState::Synced) => KubeProxyState::Synced,
            // Its metrics are at another port; its rules decide.
            (Some(probe), _) if probe.mode.is_none() || is_kube_proxy_synced() => KubeProxyState::Synced,
            (Some(_), _) => KubeProxyState::Starting,
        };
        if state != self.kube_proxy {
            tracing::info!(?state, "kube-proxy on this node");
            self.kube_proxy = state;
            let _ = self.events.send(NodeEvent::KubeProxy(state));
        }
        let kube_proxy = &mut self.report.kube_proxy;
        kube_proxy.running = probe.is_some();
        kube_proxy.synced = state == KubeProxyState::Synced;
        kube_proxy.mode = probe.and_then(|probe| probe.mode);
        if self.is_listing_due(node.service_proxy) {
            self.list();
        }
    }

    /// Whether the rules of other programs can have changed, and were not listed a moment before.
    fn is_listing_due(&self, label: ServiceProxy) -> bool {
        let Some((generation, at)) = self.listed else { return true };
        let is_idle = label == ServiceProxy::KubeProxy;
        let interval = if is_idle { IDLE_LIST_INTERVAL } else { LIST_INTERVAL };
        // The connections of IPVS change without a change of rules.
        let is_changed = self.report.kube_proxy.ipvs || current_generation() != generation;
        at.elapsed() >= interval && is_changed
    }

    fn list(&mut self) {
        let generation = current_generation();
        let chains = match chains() {
            Ok(chains) => chains,
            Err(error) => {
                tracing::warn!(error = with_causes(&error), "failed to list the chains of the node");
                return;
            }
        };
        self.listed = Some((generation, Instant::now()));
        let OtherProxies { names, legacy_tables, has_ipvs, ipvs_connections } =
            OtherProxies::of_this_node(&chains);
        let rules = KubeProxyRules::of(&chains);
        self.report.others = names;
        self.report.kube_proxy = KubeProxyReport {
            rules: rules.to_string(),
            legacy_tables,
            ipvs: has_ipvs || rules.has_ipvs,
            ipvs_connections,
            ..std::mem::take(&mut self.report.kube_proxy)
        };
    }

    /// Executes requests that were not executed yet.
    fn execute(&mut self, Observed { node, verified, .. }: &Observed) {
        let is_served = node.service_proxy != ServiceProxy::KubeProxy;
        let request = &*node.verification;
        let done = self.report.verification.as_ref().map(|report: &VerificationReport| &*report.request);
        // The table is about to be programmed, or removed.
        let is_stable = is_served == verified.is_serving;
        if !request.is_empty() && done != Some(request) && is_stable {
            self.report.verification = Some(verify(request, verified));
        }
        let request = &*node.rule_removal;
        let is_done = self
            .report
            .rule_removal
            .as_ref()
            .is_some_and(|report| report.request == request && !report.retrying);
        if !request.is_empty() && !is_done {
            self.report.rule_removal = Some(self.remove_rules(request, node.service_proxy, verified));
            self.list();
        }
    }

    fn remove_rules(
        &self,
        request: &str,
        label: ServiceProxy,
        verified: &VerifiedPortals,
    ) -> RuleRemovalReport {
        let KubeProxyReport { running, rules, legacy_tables, ipvs, .. } = &self.report.kube_proxy;
        let report = RuleRemovalReport { request: request.to_owned(), ..RuleRemovalReport::default() };
        let later = |problem: &str| RuleRemovalReport {
            problem: Some(problem.to_owned()),
            retrying: true,
            ..report.clone()
        };
        let never = |problem: String| RuleRemovalReport { problem: Some(problem), ..report.clone() };
        if label != ServiceProxy::Portico {
            return later("the label portico.dev/service-proxy of the node is not portico");
        }
        if !verified.is_serving {
            return later("the node has no table of Portico");
        }
        if *running {
            return later("kube-proxy runs on the node");
        }
        if *ipvs {
            return never("kube-proxy has services in IPVS".to_owned());
        }
        if rules.is_empty() && legacy_tables.iter().any(|table| table == "nat") {
            return never("kube-proxy can have rules in iptables-legacy".to_owned());
        }
        match Socket::open().and_then(|socket| socket.remove_kube_proxy_rules()) {
            Ok(removed) => {
                let removed = removed.to_string();
                tracing::info!(removed, "removed the rules of kube-proxy");
                RuleRemovalReport { removed, ..report }
            }
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(error, "failed to remove the rules of kube-proxy");
                never(error)
            }
        }
    }
}

fn chains() -> Result<Vec<ChainSummary>, Error> {
    Socket::open()?.chains()
}

fn current_generation() -> Option<u32> {
    Socket::open().and_then(|socket| socket.generation()).ok()
}
