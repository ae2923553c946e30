//! `ViewState`: what the network namespaces of one view are to hold, and the way there.
//!
//! All pods that see the same services share the ruleset, so a change is planned and encoded once and the
//! same bytes go to every network namespace that stands where most stand. One that lags behind gets a batch
//! of its own, made of what was touched since. What must not go in here: who is behind.

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

/// Whoever lags behind by more revisions than this is planned from the whole.
const HISTORY_MAX: usize = 256;

/// What one view's network namespaces are to hold.
#[derive(Debug)]
pub(crate) struct ViewState {
    node_context: NodeContext,
    settings: Settings,
    /// What is seen.
    pub(crate) portals: Portals,
    /// What should stand in the kernel.
    pub(crate) desired: Ruleset,
    /// Counts the changes of this view.
    pub(crate) revision: u64,
    /// When the last one was made.
    pub(crate) since: Instant,
    /// What each of the last revisions touched.
    history: VecDeque<Arc<ChangedPortals>>,
    /// Batches to this revision.
    batches: BTreeMap<BatchKey, Arc<EncodedBatch>>,
    /// What stands in each table on demand, whatever is used; none: there is no such table.
    base: Option<Ruleset>,
    base_batch: Option<Arc<EncodedBatch>>,
}

/// Where a batch starts and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct BatchKey {
    /// The revision that it starts from; none: whatever is there.
    from: Option<u64>,
    /// Whether the relay listens.
    has_relay: bool,
}

/// What a change of the snapshot is to a view.
#[derive(Debug, Default)]
pub(crate) struct ViewDelta {
    /// Whether any portal is another one now.
    pub(crate) are_portals_new: bool,
    /// Whether service ranges are others now.
    pub(crate) are_ranges_new: bool,
    /// The portals whose rules are others now, in a table of all.
    pub(crate) new: ChangedPortals,
    /// The same in each table on demand.
    pub(crate) always: ChangedPortals,
}

impl ViewDelta {
    /// Whether a table of all, or one on demand, is another one now.
    pub(crate) fn is_any(&self) -> bool {
        self.are_ranges_new || !self.new.is_empty() || !self.always.is_empty()
    }
}

/// A batch that is ready to be sent.
#[derive(Debug)]
pub(crate) struct EncodedBatch {
    pub(crate) batch: Batch,
    /// How many operations of a plan it carries.
    pub(crate) operations: usize,
    /// Whether it makes the table, so that a pod's guests go with it.
    pub(crate) is_fresh: bool,
}

impl EncodedBatch {
    /// The batch that leads to a ruleset whatever is there.
    pub(crate) fn fresh(ruleset: &Ruleset) -> Self {
        Self { batch: encode_fresh(ruleset), operations: ruleset.elements().count(), is_fresh: true }
    }

    /// The batch of a plan.
    pub(crate) fn of(plan: &Plan) -> Self {
        Self { batch: encode(plan), operations: plan.ops().len(), is_fresh: false }
    }
}

impl ViewState {
    /// The view as the snapshot shows it now.
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

    /// Follows the snapshot by what changed.
    pub(crate) fn refresh(
        &mut self,
        snapshot: &Snapshot,
        changed: &ChangedServices,
        now: Instant,
    ) -> ViewDelta {
        let touched = self.portals.refresh(snapshot, &self.node_context, changed);
        self.follow(&touched, now)
    }

    /// Looks at everything anew, from another node or with other zones.
    pub(crate) fn rebuild(
        &mut self,
        snapshot: &Snapshot,
        node_context: NodeContext,
        now: Instant,
    ) -> ViewDelta {
        let new = portals(snapshot, &node_context);
        // Also one that is the same may have come into a table, or have gone from it.
        let touched: ChangedPortals =
            self.portals.iter().chain(new.iter()).map(|portal| portal.key).collect();
        (self.node_context, self.portals) = (node_context, new);
        self.follow(&touched, now)
    }

    fn follow(&mut self, touched: &ChangedPortals, now: Instant) -> ViewDelta {
        let are_ranges_new = self.desired.ranges() != self.portals.service_ranges();
        let new = self.desired.refresh(&self.portals, touched);
        let always = self.base.as_mut().map(|base| base.refresh(&self.portals, touched)).unwrap_or_default();
        let are_portals_new = !touched.is_empty() || are_ranges_new;
        let moved = ViewDelta { are_portals_new, are_ranges_new, new, always };
        if !moved.is_any() {
            return moved;
        }
        self.base_batch = None;
        self.revision += 1;
        self.since = now;
        self.batches.clear();
        self.history.push_back(Arc::new(moved.new.clone()));
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        moved
    }

    /// What stands in each table on demand.
    pub(crate) fn base(&mut self) -> &Ruleset {
        let Self { base, portals, settings, .. } = self;
        base.get_or_insert_with(|| Ruleset::new(portals, Settings { on_demand: true, ..*settings }))
    }

    /// The batch that leads there whatever is there.
    pub(crate) fn base_batch(&mut self) -> Arc<EncodedBatch> {
        let prepared = self.base_batch.take().unwrap_or_else(|| Arc::new(EncodedBatch::fresh(self.base())));
        Arc::clone(self.base_batch.insert(prepared))
    }

    /// What was touched after a revision; none where that is too long ago.
    fn touched_since(&self, revision: u64) -> Option<ChangedPortals> {
        let behind = usize::try_from(self.revision.checked_sub(revision)?).ok()?;
        let first = self.history.len().checked_sub(behind)?;
        Some(self.history.range(first..).flat_map(|touched| touched.iter().copied()).collect())
    }

    /// The batch that leads from an applied ruleset of an earlier revision to the desired one, with or without a relay.
    pub(crate) fn batch_from(
        &mut self,
        revision: u64,
        applied: &Ruleset,
        aim: &Ruleset,
    ) -> Arc<EncodedBatch> {
        let way = BatchKey { from: Some(revision), has_relay: has_relay(aim) };
        if let Some(batch) = self.batches.get(&way) {
            return Arc::clone(batch);
        }
        let plan = match self.touched_since(revision) {
            Some(touched) => plan_changed(applied, aim, &touched),
            None => plan(applied, aim),
        };
        self.keep(way, EncodedBatch::of(&plan))
    }

    /// The batch that leads to the desired ruleset, with or without a relay, whatever is there.
    pub(crate) fn fresh_batch(&mut self, aim: &Ruleset) -> Arc<EncodedBatch> {
        let way = BatchKey { from: None, has_relay: has_relay(aim) };
        if let Some(batch) = self.batches.get(&way) {
            return Arc::clone(batch);
        }
        self.keep(way, EncodedBatch::fresh(aim))
    }

    fn keep(&mut self, way: BatchKey, prepared: EncodedBatch) -> Arc<EncodedBatch> {
        let prepared = Arc::new(prepared);
        self.batches.insert(way, Arc::clone(&prepared));
        prepared
    }

    /// Lets go of batches that nobody needs at the moment; they are large.
    pub(crate) fn release_batches(&mut self) {
        self.batches.clear();
        self.base_batch = None;
    }

    /// The UDP portals that were touched after a revision; with no revision, or one too long ago, all.
    pub(crate) fn stale_since(&self, revision: Option<u64>) -> StalePortals {
        match revision.and_then(|revision| self.touched_since(revision)) {
            Some(mut changed) => {
                changed.retain(|key| key.protocol == Protocol::Udp);
                StalePortals { changed, ..StalePortals::default() }
            }
            None => StalePortals { is_all: true, ..StalePortals::default() },
        }
    }

    /// Where the UDP portals of a clean-up lead now. Where portals are on demand a flow may also have begun at the
    /// relay, which looks after it, unless the portal was taken in since.
    pub(crate) fn flows(&self, stale: &StalePortals, on_demand: bool) -> UdpBackends {
        let mut flows = if stale.is_all {
            let all = self.portals.iter().map(|portal| portal.key).collect();
            self.flows_of(&all, on_demand)
        } else {
            self.flows_of(&stale.changed, on_demand)
        };
        flows.extend(self.flows_of(&stale.taken_in, false));
        Arc::new(flows)
    }

    /// Those of these portals that are UDP, and where they lead now.
    fn flows_of(&self, keys: &ChangedPortals, on_demand: bool) -> BTreeMap<PortalKey, Arc<[SocketAddr]>> {
        let udp = keys.iter().filter(|key| key.protocol == Protocol::Udp);
        let leads = |key: &PortalKey| {
            // One that holds connections until it has a backend is relayed, too.
            let leads = |portal: &&Portal| portal.verdict == Verdict::Forward || portal.is_relayed();
            let portal = self.portals.get(*key).filter(leads);
            let relay = SocketAddr::new(loopback(key.address), self.settings.relay_port);
            let backends = portal.map(|portal| match (portal.is_relayed(), on_demand) {
                (true, _) => [relay].into(),
                (false, true) => portal.backends.iter().copied().chain([relay]).collect(),
                (false, false) => Arc::clone(&portal.backends),
            });
            (*key, backends.unwrap_or_default())
        };
        udp.map(leads).collect()
    }

    /// How many portals there are.
    pub(crate) fn portal_count(&self) -> usize {
        self.desired.portal_count()
    }
}

fn has_relay(ruleset: &Ruleset) -> bool {
    ruleset.settings().is_some_and(Settings::has_relay)
}

/// Where what a pod itself sends is redirected to.
fn loopback(family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}
