//! `ViewState`: the desired state of all network namespaces of one view, and the batches that lead to it.
//!
//! Pods that see the same services share the ruleset, so a change is planned and encoded once, and the same bytes are
//! sent to every up-to-date network namespace. One that is behind gets its own batch, from the portals that changed
//! since its revision.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use netns_nft::{Batch, encode, encode_fresh};
use proxy_core::plan::{Plan, plan, plan_changed};
use proxy_core::portal::{ChangedPortals, NodeContext, Portal, PortalKey, Portals, Verdict, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::service::Protocol;
use proxy_core::snapshot::{ChangedServices, Snapshot};

use crate::event::UdpBackends;
use crate::udp_cleanup::StalePortals;

/// The number of revisions whose changes are stored. For older revisions, whole rulesets are compared.
const HISTORY_MAX: usize = 256;

/// The desired state of a view.
#[derive(Debug)]
pub(crate) struct ViewState {
    node_context: NodeContext,
    settings: Settings,
    /// The visible portals.
    pub(crate) portals: Portals,
    /// The desired ruleset of full tables.
    pub(crate) desired: Ruleset,
    /// The number of the last change.
    pub(crate) revision: u64,
    /// The time of the last change.
    pub(crate) since: Instant,
    /// The portals that each of the last revisions changed.
    history: VecDeque<Arc<ChangedPortals>>,
    /// The batches to this revision.
    batches: BTreeMap<BatchKey, Arc<EncodedBatch>>,
    /// The desired ruleset of on-demand tables without used portals, once there is such a table.
    base: Option<Ruleset>,
    base_batch: Option<Arc<EncodedBatch>>,
}

/// The start and the target of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct BatchKey {
    /// The revision from which it starts. None: it replaces any table.
    from: Option<u64>,
    /// Whether the target redirects connections to the relay.
    has_relay: bool,
}

/// The effect of a change of the snapshot on a view.
#[derive(Debug, Default)]
pub(crate) struct ViewDelta {
    /// Whether portals or service ranges changed.
    pub(crate) has_portal_changes: bool,
    /// Whether service ranges changed.
    pub(crate) has_range_changes: bool,
    /// The portals whose rules changed in full tables.
    pub(crate) in_full: ChangedPortals,
    /// The portals whose rules changed in every on-demand table.
    pub(crate) in_on_demand: ChangedPortals,
}

impl ViewDelta {
    /// Whether a table changed.
    pub(crate) fn has_table_changes(&self) -> bool {
        self.has_range_changes || !self.in_full.is_empty() || !self.in_on_demand.is_empty()
    }
}

/// An encoded batch.
#[derive(Debug)]
pub(crate) struct EncodedBatch {
    pub(crate) batch: Batch,
    /// The number of operations.
    pub(crate) operations: usize,
    /// Whether it creates the table, so that the pod's guest interfaces must be added.
    pub(crate) is_fresh: bool,
}

impl EncodedBatch {
    /// A batch that replaces any table by this ruleset.
    pub(crate) fn fresh(ruleset: &Ruleset) -> Self {
        Self { batch: encode_fresh(ruleset), operations: ruleset.elements().count(), is_fresh: true }
    }

    /// A batch for a plan.
    pub(crate) fn from_plan(plan: &Plan) -> Self {
        Self { batch: encode(plan), operations: plan.ops().len(), is_fresh: false }
    }
}

impl ViewState {
    /// The state for a snapshot.
    pub(crate) fn new(
        snapshot: &Snapshot,
        node_context: NodeContext,
        settings: Settings,
        now: Instant,
    ) -> Self {
        let portals = portals(snapshot, &node_context);
        let desired = Ruleset::new(&portals, settings);
        let (history, batches) = Default::default();
        Self {
            node_context,
            settings,
            portals,
            desired,
            revision: 1,
            since: now,
            history,
            batches,
            base: None,
            base_batch: None,
        }
    }

    /// Applies changed services.
    pub(crate) fn refresh(
        &mut self,
        snapshot: &Snapshot,
        changed: &ChangedServices,
        now: Instant,
    ) -> ViewDelta {
        let changed_portals = self.portals.refresh(snapshot, &self.node_context, changed);
        self.apply(&changed_portals, now)
    }

    /// Computes all portals again, for another node context.
    pub(crate) fn rebuild(
        &mut self,
        snapshot: &Snapshot,
        node_context: NodeContext,
        now: Instant,
    ) -> ViewDelta {
        let new = portals(snapshot, &node_context);
        // Also an unchanged portal may have been added to a table or removed from it.
        let changed_portals: ChangedPortals =
            self.portals.iter().chain(new.iter()).map(|portal| portal.key).collect();
        (self.node_context, self.portals) = (node_context, new);
        self.apply(&changed_portals, now)
    }

    fn apply(&mut self, changed_portals: &ChangedPortals, now: Instant) -> ViewDelta {
        let has_range_changes = self.desired.ranges() != self.portals.service_ranges();
        let in_full = self.desired.refresh(&self.portals, changed_portals);
        let in_on_demand =
            self.base.as_mut().map(|base| base.refresh(&self.portals, changed_portals)).unwrap_or_default();
        let has_portal_changes = !changed_portals.is_empty() || has_range_changes;
        let delta = ViewDelta { has_portal_changes, has_range_changes, in_full, in_on_demand };
        if !delta.has_table_changes() {
            return delta;
        }
        self.base_batch = None;
        self.revision += 1;
        self.since = now;
        self.batches.clear();
        self.history.push_back(Arc::new(delta.in_full.clone()));
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        delta
    }

    /// The desired ruleset of on-demand tables without used portals.
    pub(crate) fn base(&mut self) -> &Ruleset {
        let Self { base, portals, settings, .. } = self;
        base.get_or_insert_with(|| Ruleset::new(portals, Settings { on_demand: true, ..*settings }))
    }

    /// A batch that replaces any table by `base`.
    pub(crate) fn base_batch(&mut self) -> Arc<EncodedBatch> {
        let batch = self.base_batch.take().unwrap_or_else(|| Arc::new(EncodedBatch::fresh(self.base())));
        Arc::clone(self.base_batch.insert(batch))
    }

    /// Returns the portals that changed after a revision. None: the revision is too old.
    fn changes_since(&self, revision: u64) -> Option<ChangedPortals> {
        let behind = usize::try_from(self.revision.checked_sub(revision)?).ok()?;
        let first = self.history.len().checked_sub(behind)?;
        Some(
            self.history.range(first..).flat_map(|changed_portals| changed_portals.iter().copied()).collect(),
        )
    }

    /// The batch from the applied ruleset of a revision to the target, which is the desired ruleset with or without a
    /// relay.
    pub(crate) fn batch_from(
        &mut self,
        revision: u64,
        applied: &Ruleset,
        target: &Ruleset,
    ) -> Arc<EncodedBatch> {
        let key = BatchKey { from: Some(revision), has_relay: has_relay(target) };
        if let Some(batch) = self.batches.get(&key) {
            return Arc::clone(batch);
        }
        let plan = match self.changes_since(revision) {
            Some(changed_portals) => plan_changed(applied, target, &changed_portals),
            None => plan(applied, target),
        };
        self.cache_batch(key, EncodedBatch::from_plan(&plan))
    }

    /// The batch that replaces any table by the target, which is the desired ruleset with or without a relay.
    pub(crate) fn fresh_batch(&mut self, target: &Ruleset) -> Arc<EncodedBatch> {
        let key = BatchKey { from: None, has_relay: has_relay(target) };
        if let Some(batch) = self.batches.get(&key) {
            return Arc::clone(batch);
        }
        self.cache_batch(key, EncodedBatch::fresh(target))
    }

    fn cache_batch(&mut self, key: BatchKey, batch: EncodedBatch) -> Arc<EncodedBatch> {
        let batch = Arc::new(batch);
        self.batches.insert(key, Arc::clone(&batch));
        batch
    }

    /// Drops the cached batches, which are large.
    pub(crate) fn release_batches(&mut self) {
        self.batches.clear();
        self.base_batch = None;
    }

    /// The UDP portals that changed after a revision; all portals if the revision is unknown or too old.
    pub(crate) fn stale_since(&self, revision: Option<u64>) -> StalePortals {
        match revision.and_then(|revision| self.changes_since(revision)) {
            Some(mut changed) => {
                changed.retain(|key| key.protocol == Protocol::Udp);
                StalePortals { changed, ..StalePortals::default() }
            }
            None => StalePortals { is_all: true, ..StalePortals::default() },
        }
    }

    /// The UDP portals of a clean-up and their valid backends. With on-demand portals, the relay is a valid backend as
    /// well, unless the portal was activated since.
    pub(crate) fn udp_backends(&self, stale: &StalePortals, on_demand: bool) -> UdpBackends {
        let mut backends = if stale.is_all {
            let all = self.portals.iter().map(|portal| portal.key).collect();
            self.udp_backends_of(&all, on_demand)
        } else {
            self.udp_backends_of(&stale.changed, on_demand)
        };
        backends.extend(self.udp_backends_of(&stale.activated, false));
        Arc::new(backends)
    }

    /// The UDP portals among these, and their valid backends.
    fn udp_backends_of(
        &self,
        keys: &ChangedPortals,
        on_demand: bool,
    ) -> BTreeMap<PortalKey, Arc<[SocketAddr]>> {
        let udp = keys.iter().filter(|key| key.protocol == Protocol::Udp);
        let valid_backends = |key: &PortalKey| {
            // A portal that holds connections until it has a backend is relayed, too.
            let is_served = |portal: &&Portal| portal.verdict == Verdict::Forward || portal.is_relayed();
            let portal = self.portals.get(*key).filter(is_served);
            let relay = SocketAddr::new(loopback(key.address), self.settings.relay_port);
            let backends = portal.map(|portal| match (portal.is_relayed(), on_demand) {
                (true, _) => [relay].into(),
                (false, true) => portal.backends.iter().copied().chain([relay]).collect(),
                (false, false) => Arc::clone(&portal.backends),
            });
            (*key, backends.unwrap_or_default())
        };
        udp.map(valid_backends).collect()
    }

    /// The number of portals in full tables.
    pub(crate) fn portal_count(&self) -> usize {
        self.desired.portal_count()
    }
}

fn has_relay(ruleset: &Ruleset) -> bool {
    ruleset.settings().is_some_and(Settings::has_relay)
}

/// The address to which the connections of a pod are redirected.
fn loopback(family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}
