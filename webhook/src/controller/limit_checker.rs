//! `LimitChecker`: finds services that ask for more portals than any node programs, so that the owner gets an Event.
//!
//! Every node refuses the same requests if the reason depends neither on the node nor on endpoints; proxy-core computes
//! these from the services of a namespace. A namespace is checked after each change of its services, one at a time and
//! in turn, so that a namespace that changes all the time does not delay others. The checks take a limited share of a
//! CPU. A refusal is reported once for each service and reason until it ends. The type contains no clock and calls no
//! API server.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::portal::{ExternalPolicy, PortalLimits, RefusalReason, Refusals, refused_on_every_node};
use proxy_core::service::{Created, ServiceKey};
use proxy_core::snapshot::Snapshot;

use super::check_pacer::CheckPacer;

/// The number of reports that one check of a namespace can cause; the others follow at its next checks.
const REPORTS_PER_CHECK_MAX: usize = 20;
/// The number of services of a namespace that can be reported at a time.
const REPORTED_OF_NAMESPACE_MAX: usize = 256;

/// The limits that the agents apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LimitOptions {
    pub(crate) external: ExternalPolicy,
    pub(crate) limits: PortalLimits,
}

/// What a check found.
pub(crate) struct Checked {
    refused: Vec<(ServiceKey, Created, Refusals)>,
    took: Duration,
}

/// A refusal that must be reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) service: ServiceKey,
    pub(crate) created: Created,
    pub(crate) reason: RefusalReason,
    pub(crate) count: usize,
}

/// Schedules checks of namespaces, and remembers what was reported.
#[derive(Debug, Default)]
pub(crate) struct LimitChecker {
    options: LimitOptions,
    /// The namespaces to check.
    pending: BTreeSet<Arc<str>>,
    /// The namespace of the last check.
    last: Option<Arc<str>>,
    pacer: CheckPacer,
    reported: BTreeMap<ServiceKey, (Created, BTreeSet<RefusalReason>)>,
}

impl LimitChecker {
    pub(crate) fn new(options: LimitOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Schedules checks of namespaces of which services changed.
    pub(crate) fn services_changed(&mut self, namespaces: &HashSet<Arc<str>>) {
        self.pending.extend(namespaces.iter().cloned());
    }

    /// The time of the next check, if one is pending and none is running.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.pacer.next_start(now).filter(|_| !self.pending.is_empty())
    }

    /// Starts a check if one is due: the caller runs the closure on a thread of its own, and passes its result, or
    /// `None` if it failed, to `finish`.
    pub(crate) fn start(
        &mut self,
        now: Instant,
    ) -> Option<(Arc<str>, impl FnOnce(&Snapshot) -> Checked + use<>)> {
        if self.next_due(now).is_none_or(|due| due > now) {
            return None;
        }
        let namespace = self.take_next()?;
        self.pacer.start();
        let (options, checked) = (self.options.clone(), Arc::clone(&namespace));
        Some((namespace, move |snapshot: &Snapshot| check(snapshot, &checked, &options)))
    }

    /// Removes and returns the next pending namespace after the last one in alphabetical order, or the first.
    fn take_next(&mut self) -> Option<Arc<str>> {
        let after = self.last.clone().map_or(Unbounded, Excluded);
        let mut following = self.pending.range::<Arc<str>, _>((after, Unbounded));
        let next = following.next().or_else(|| self.pending.first()).cloned()?;
        self.pending.remove(&next);
        self.last = Some(Arc::clone(&next));
        Some(next)
    }

    /// Records the result of a check, and returns what must be reported.
    pub(crate) fn finish(
        &mut self,
        namespace: &Arc<str>,
        checked: Option<Checked>,
        now: Instant,
    ) -> Vec<Refusal> {
        self.pacer.finish(checked.as_ref().map(|checked| checked.took), now);
        let Some(Checked { refused, .. }) = checked else { return Vec::new() };
        let before = self.take_reported(namespace);
        let (mut refusals, mut reported) = (Vec::new(), 0);
        for (service, created, refused) in refused {
            let known = before.get(&service).filter(|(known, _)| *known == created);
            let mut reasons = BTreeSet::new();
            for (reason, count) in refused.iter() {
                let is_reported = known.is_some_and(|(_, reasons)| reasons.contains(&reason));
                let has_room = refusals.len() < REPORTS_PER_CHECK_MAX && reported < REPORTED_OF_NAMESPACE_MAX;
                if is_reported || has_room {
                    reasons.insert(reason);
                }
                if !is_reported && has_room {
                    refusals.push(Refusal { service: service.clone(), created, reason, count });
                }
            }
            if !reasons.is_empty() {
                reported += 1;
                self.reported.insert(service, (created, reasons));
            }
        }
        refusals
    }

    /// Removes and returns what was reported of a namespace.
    fn take_reported(
        &mut self,
        namespace: &Arc<str>,
    ) -> BTreeMap<ServiceKey, (Created, BTreeSet<RefusalReason>)> {
        let from = ServiceKey::new(Arc::clone(namespace), "");
        let mut own = self.reported.split_off(&from);
        let next = own.keys().find(|key| key.namespace != *namespace).cloned();
        if let Some(next) = next {
            self.reported.append(&mut own.split_off(&next));
        }
        own
    }
}

fn check(
    snapshot: &Snapshot,
    namespace: &Arc<str>,
    LimitOptions { external, limits }: &LimitOptions,
) -> Checked {
    let start = Instant::now();
    let refused = refused_on_every_node(snapshot, namespace, external, *limits).into_iter();
    let refused = refused.map(|(key, refused)| {
        let created = snapshot.service(&key).map(|service| service.created).unwrap_or_default();
        (key, created, refused)
    });
    Checked { refused: refused.collect(), took: start.elapsed() }
}

#[cfg(test)]
mod tests;
