//! `Catalog`: the services and endpoints, and the changes that are not published to the views yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use proxy_core::node::Node;
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::{Change, ChangedServices, Snapshot};

use super::Options;
use crate::dial_from_node::DialFromNode;

/// Services and endpoints of the cluster.
#[derive(Debug)]
pub(super) struct Catalog {
    snapshot: Snapshot,
    node: Node,
    dial_from_node: DialFromNode,
    /// The published service ranges.
    ranges: Arc<[IpNet]>,
    phase: SyncPhase,
    apply_interval: Duration,
    changed: ChangedServices,
    has_range_changes: bool,
    has_namespace_changes: bool,
    /// Whether all views must be computed again, because the node or the limits changed.
    is_rebuild_due: bool,
    /// The time of the first change that is not published.
    changed_since: Option<Instant>,
}

#[derive(Debug)]
enum SyncPhase {
    /// Before the initial sync.
    Syncing,
    /// Changes are published to the views.
    Synced { published_at: Instant },
}

/// Changes to publish to the views.
pub(super) struct Publication {
    pub(super) changed: ChangedServices,
    /// Whether all views must be computed again.
    pub(super) is_rebuild: bool,
    /// Whether the service ranges changed.
    pub(super) has_new_ranges: bool,
    /// Whether namespaces changed.
    pub(super) has_new_namespaces: bool,
    /// The time of the first change.
    pub(super) since: Instant,
}

impl Catalog {
    /// A catalog without services.
    pub(super) fn new(options: &Options) -> Self {
        let mut snapshot = Snapshot::new();
        if !options.service_ranges.is_empty() {
            snapshot.apply(Change::ServiceRanges(options.service_ranges.clone()));
        }
        Self {
            ranges: snapshot.all_service_ranges().into(),
            snapshot,
            node: options.node.clone(),
            dial_from_node: DialFromNode::new(options.dial_from_node.iter().cloned()),
            phase: SyncPhase::Syncing,
            apply_interval: options.apply_interval,
            changed: ChangedServices::new(),
            has_range_changes: false,
            has_namespace_changes: false,
            is_rebuild_due: false,
            changed_since: None,
        }
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// The published service ranges.
    pub(super) fn ranges(&self) -> &Arc<[IpNet]> {
        &self.ranges
    }

    /// Whether the initial sync is complete.
    pub(super) fn is_synced(&self) -> bool {
        matches!(self.phase, SyncPhase::Synced { .. })
    }

    /// The number of services whose annotation `portico.dev/dial` is ignored.
    pub(super) fn dial_ignored(&self) -> usize {
        self.dial_from_node.ignored()
    }

    /// Applies changes. Returns the services whose annotation `portico.dev/dial` is ignored from now on.
    pub(super) fn apply(&mut self, changes: Vec<Change>, now: Instant) -> Vec<ServiceKey> {
        let mut dial_ignored = Vec::new();
        for change in changes {
            let (change, ignored) = self.dial_from_node.filter(change);
            dial_ignored.extend(ignored);
            self.has_range_changes |= matches!(change, Change::ServiceRanges(_));
            self.has_namespace_changes |=
                matches!(change, Change::Namespace(_) | Change::NamespaceDeleted(_));
            self.changed.append(&mut self.snapshot.apply(change));
        }
        self.mark_changed(now);
        dial_ignored
    }

    /// Replaces the node.
    pub(super) fn set_node(&mut self, node: Node, now: Instant) {
        self.is_rebuild_due |= !self.node.has_same_portals(&node);
        self.node = node;
        self.mark_changed(now);
    }

    /// Requests that all views are computed again.
    pub(super) fn request_rebuild(&mut self, now: Instant) {
        self.is_rebuild_due = true;
        self.mark_changed(now);
    }

    fn mark_changed(&mut self, now: Instant) {
        let has_changes = self.has_range_changes || self.has_namespace_changes || self.is_rebuild_due;
        if has_changes || !self.changed.is_empty() {
            self.changed_since.get_or_insert(now);
        }
    }

    /// Records the end of the initial sync.
    pub(super) fn complete_sync(&mut self, now: Instant) {
        self.take_changes(now);
    }

    /// The time at which changes must be published, if there are any: the first one immediately.
    pub(super) fn publish_at(&self) -> Option<Instant> {
        let SyncPhase::Synced { published_at } = self.phase else { return None };
        Some(self.changed_since?.max(published_at + self.apply_interval))
    }

    /// Returns the changes to publish now.
    pub(super) fn take_changes(&mut self, now: Instant) -> Publication {
        self.phase = SyncPhase::Synced { published_at: now };
        self.has_range_changes = false;
        let has_new_ranges = *self.ranges != *self.snapshot.all_service_ranges();
        if has_new_ranges {
            self.ranges = self.snapshot.all_service_ranges().into();
        }
        Publication {
            changed: std::mem::take(&mut self.changed),
            is_rebuild: std::mem::take(&mut self.is_rebuild_due),
            has_new_ranges,
            has_new_namespaces: std::mem::take(&mut self.has_namespace_changes),
            since: self.changed_since.take().unwrap_or(now),
        }
    }
}
