//! `ConflictChecker`: finds services that claim an address and port of another service, so that the owner is informed.
//!
//! A change in one namespace can begin or end a conflict of a service in another one, so each check covers the whole
//! cluster; proxy-core builds only the portals of services that share an address or a node port. A conflict is reported
//! once for each service until it ends, or until another conflict becomes the service's first. The type contains no
//! clock and calls no API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::portal::{PortalConflict, conflicts_on_every_node};
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::Snapshot;

use super::check_pacer::CheckPacer;
use super::limit_checker::LimitOptions;

/// The number of reports that one check can cause.
const REPORTS_PER_CHECK_MAX: usize = 100;
/// The number of these on services of one namespace; the others follow at the next check after a change.
const REPORTS_OF_NAMESPACE_MAX: usize = 20;
/// The number of services of a namespace that can be reported at a time.
const REPORTED_OF_NAMESPACE_MAX: usize = 256;

/// The conflicts that a check found.
pub(crate) struct FoundConflicts {
    conflicts: BTreeMap<ServiceKey, PortalConflict>,
    took: Duration,
}

/// Schedules checks, and remembers which conflicts were reported.
#[derive(Debug, Default)]
pub(crate) struct ConflictChecker {
    options: LimitOptions,
    is_pending: bool,
    pacer: CheckPacer,
    reported: BTreeMap<ServiceKey, PortalConflict>,
}

impl ConflictChecker {
    pub(crate) fn new(options: LimitOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Schedules a check.
    pub(crate) fn services_changed(&mut self) {
        self.is_pending = true;
    }

    /// The time of the next check, if one is pending and none is running.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.pacer.next_start(now).filter(|_| self.is_pending)
    }

    /// Starts a check if one is due: the caller runs the closure on a thread of its own, and passes its result, or
    /// `None` if it failed, to `finish`.
    pub(crate) fn start(&mut self, now: Instant) -> Option<impl FnOnce(&Snapshot) -> FoundConflicts + use<>> {
        if self.next_due(now).is_none_or(|due| due > now) {
            return None;
        }
        self.is_pending = false;
        self.pacer.start();
        let LimitOptions { external, limits } = self.options.clone();
        Some(move |snapshot: &Snapshot| {
            let start = Instant::now();
            let conflicts = conflicts_on_every_node(snapshot, &external, limits);
            FoundConflicts { conflicts, took: start.elapsed() }
        })
    }

    /// Records the result of a check, and returns what must be reported.
    pub(crate) fn finish(
        &mut self,
        found: Option<FoundConflicts>,
        now: Instant,
    ) -> Vec<(ServiceKey, PortalConflict)> {
        self.pacer.finish(found.as_ref().map(|found| found.took), now);
        let Some(FoundConflicts { conflicts, .. }) = found else { return Vec::new() };
        let before = std::mem::take(&mut self.reported);
        let mut reports = Vec::new();
        let mut namespace: Arc<str> = Arc::default();
        let (mut reports_of_namespace, mut reported_of_namespace) = (0, 0);
        for (service, conflict) in conflicts {
            if service.namespace != namespace {
                namespace = Arc::clone(&service.namespace);
                (reports_of_namespace, reported_of_namespace) = (0, 0);
            }
            let is_reported = before.get(&service).is_some_and(|known| is_same(known, &conflict));
            if !is_reported {
                if reports_of_namespace >= REPORTS_OF_NAMESPACE_MAX
                    || reported_of_namespace >= REPORTED_OF_NAMESPACE_MAX
                {
                    continue;
                }
                if reports.len() >= REPORTS_PER_CHECK_MAX {
                    self.is_pending = true;
                    continue;
                }
                reports_of_namespace += 1;
                reports.push((service.clone(), conflict.clone()));
            }
            reported_of_namespace += 1;
            self.reported.insert(service, conflict);
        }
        reports
    }
}

/// Whether two conflicts of a service have the same Event. The number of further conflicts does not matter.
fn is_same(left: &PortalConflict, right: &PortalConflict) -> bool {
    (left.created, left.port, &left.owner) == (right.created, right.port, &right.owner)
}

#[cfg(test)]
mod tests;
