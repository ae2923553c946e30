//! `ViewState`: what the network namespaces of one view are to hold, and the way there.
//!
//! All pods that see the same services share the ruleset, so a change is planned and encoded once and the
//! same bytes go to every network namespace that stands where most stand. One that lags behind gets a batch
//! of its own, made of what was touched since. What must not go in here: who is behind.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use netns_nft::{Batch, encode, encode_fresh};
use proxy_core::plan::{plan, plan_touched};
use proxy_core::portal::{Portals, Standpoint, Touched, Verdict, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::service::Protocol;
use proxy_core::snapshot::{Changed, Snapshot};

use crate::agent::event::Flows;

/// Whoever lags behind by more revisions than this is planned from the whole.
const HISTORY_MAX: usize = 256;

/// What one view's network namespaces are to hold.
#[derive(Debug)]
pub(crate) struct ViewState {
    standpoint: Standpoint,
    portals: Portals,
    /// What should stand in the kernel.
    pub(crate) desired: Ruleset,
    /// Counts the changes of this view.
    pub(crate) revision: u64,
    /// When the last one was made.
    pub(crate) since: Instant,
    /// What each of the last revisions touched.
    history: VecDeque<Arc<Touched>>,
    /// Batches to this revision, by the revision they start from; none: from whatever is there.
    batches: BTreeMap<Option<u64>, Arc<Prepared>>,
}

/// A batch that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) batch: Batch,
    /// How many operations of a plan it carries.
    pub(crate) operations: usize,
}

impl ViewState {
    /// The view as the snapshot shows it now.
    pub(crate) fn new(snapshot: &Snapshot, standpoint: Standpoint, settings: Settings, now: Instant) -> Self {
        let portals = portals(snapshot, &standpoint);
        let desired = Ruleset::new(&portals, settings);
        let (history, batches) = Default::default();
        Self { standpoint, portals, desired, revision: 1, since: now, history, batches }
    }

    /// Follows the snapshot by what changed; true where the ruleset is another one now.
    pub(crate) fn refresh(&mut self, snapshot: &Snapshot, changed: &Changed, now: Instant) -> bool {
        let touched = self.portals.refresh(snapshot, &self.standpoint, changed);
        self.follow(touched, now)
    }

    /// Looks at everything anew, from another node or with other zones.
    pub(crate) fn rebuild(&mut self, snapshot: &Snapshot, standpoint: Standpoint, now: Instant) -> bool {
        let new = portals(snapshot, &standpoint);
        let all = self.portals.iter().chain(new.iter());
        let touched: Touched =
            all.filter(|portal| self.portals.get(portal.key) != new.get(portal.key)).map(|p| p.key).collect();
        (self.standpoint, self.portals) = (standpoint, new);
        self.follow(touched, now)
    }

    fn follow(&mut self, touched: Touched, now: Instant) -> bool {
        let before = self.desired.clone();
        self.desired.refresh(&self.portals, &touched);
        let moved = touched.iter().any(|key| before.rule(*key) != self.desired.rule(*key));
        if !moved && before.ranges() == self.desired.ranges() {
            return false;
        }
        self.revision += 1;
        self.since = now;
        self.batches.clear();
        self.history.push_back(Arc::new(touched));
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        true
    }

    /// What was touched after a revision; none where that is too long ago.
    fn touched_since(&self, revision: u64) -> Option<Touched> {
        let behind = usize::try_from(self.revision.checked_sub(revision)?).ok()?;
        let first = self.history.len().checked_sub(behind)?;
        Some(self.history.range(first..).flat_map(|touched| touched.iter().copied()).collect())
    }

    /// The batch that leads from an applied ruleset of an earlier revision to the desired one.
    pub(crate) fn batch_from(&mut self, revision: u64, applied: &Ruleset) -> Arc<Prepared> {
        if let Some(batch) = self.batches.get(&Some(revision)) {
            return Arc::clone(batch);
        }
        let plan = match self.touched_since(revision) {
            Some(touched) => plan_touched(applied, &self.desired, &touched),
            None => plan(applied, &self.desired),
        };
        self.keep(Some(revision), Prepared { batch: encode(&plan), operations: plan.ops().len() })
    }

    /// The batch that leads to the desired ruleset whatever is there.
    pub(crate) fn fresh_batch(&mut self) -> Arc<Prepared> {
        if let Some(batch) = self.batches.get(&None) {
            return Arc::clone(batch);
        }
        let operations = self.desired.elements().count();
        self.keep(None, Prepared { batch: encode_fresh(&self.desired), operations })
    }

    fn keep(&mut self, from: Option<u64>, prepared: Prepared) -> Arc<Prepared> {
        let prepared = Arc::new(prepared);
        self.batches.insert(from, Arc::clone(&prepared));
        prepared
    }

    /// Lets go of batches that nobody needs at the moment; they are large.
    pub(crate) fn release_batches(&mut self) {
        self.batches.clear();
    }

    /// The UDP portals that were touched after a revision, and where they lead now; with no revision, all.
    pub(crate) fn flows_since(&self, revision: Option<u64>) -> Flows {
        let touched = revision.and_then(|revision| self.touched_since(revision));
        let keys: Touched = match touched {
            Some(touched) => touched,
            None => self.portals.iter().map(|portal| portal.key).collect(),
        };
        let udp = keys.into_iter().filter(|key| key.protocol == Protocol::Udp);
        let leads = |key| {
            let portal = self.portals.get(key).filter(|portal| portal.verdict == Verdict::Forward);
            (key, portal.map(|portal| Arc::clone(&portal.backends)).unwrap_or_default())
        };
        Arc::new(udp.map(leads).collect())
    }

    /// How many portals there are.
    pub(crate) fn portal_count(&self) -> usize {
        self.desired.rules().count()
    }
}
