//! Pods that Portico does not serve (`portico.dev/portals: off`).
//!
//! The agent knows their attachments, so that the status lists them and no scan finds them again. It runs no job in
//! their network namespaces: they have no table, no route and no listener of Portico.

use std::collections::{BTreeMap, BTreeSet};

use agent_ipc::{AttachmentKey, PodName, ProgrammedBy, Record};
use netns_nft::NetnsId;
use proxy_core::annotation::PORTALS;
use proxy_core::portal::ServiceFilter;
use proxy_core::portals_request::PortalsRequest;

use super::Reconciler;
use crate::event::{Effect, LogEvent};
use crate::report::{UNSERVED_LISTED_MAX, UnservedPod, UnservedReport};

/// The attachments of pods that are not served, with their network namespaces.
#[derive(Debug, Default)]
pub(super) struct UnservedAttachments(BTreeMap<AttachmentKey, (NetnsId, Option<PodName>)>);

impl UnservedAttachments {
    /// The keys of the attachments, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &AttachmentKey> {
        self.0.keys()
    }

    /// The network namespace of an attachment.
    pub(super) fn netns_of(&self, key: &AttachmentKey) -> Option<NetnsId> {
        self.0.get(key).map(|(netns, _)| *netns)
    }

    /// Whether the network namespace belongs to a pod that is not served.
    pub(super) fn contains(&self, netns: NetnsId) -> bool {
        self.0.values().any(|(of_pod, _)| *of_pod == netns)
    }

    /// The keys of the attachments of a network namespace.
    pub(super) fn keys_in(&self, netns: NetnsId) -> impl Iterator<Item = &AttachmentKey> {
        self.0.iter().filter(move |(_, (of_pod, _))| *of_pod == netns).map(|(key, _)| key)
    }

    /// Removes an attachment, and returns its network namespace if it was known.
    pub(super) fn remove(&mut self, key: &AttachmentKey) -> Option<NetnsId> {
        self.0.remove(key).map(|(netns, _)| netns)
    }

    /// Returns the report: each pod once, up to a limit.
    pub(super) fn report(&self) -> UnservedReport {
        let mut namespaces = BTreeSet::new();
        let pods = self.0.iter().filter(|(_, (netns, _))| namespaces.insert(*netns));
        let listed = pods.take(UNSERVED_LISTED_MAX);
        let pods = listed.map(|(key, (_, pod))| UnservedPod { key: key.clone(), pod: pod.clone() });
        UnservedReport { pods: pods.collect(), attachments: self.0.len() }
    }
}

impl Reconciler {
    /// Returns the filter for an attachment that requests these portals. None: Portico does not serve the pod.
    ///
    /// The attachments of a network namespace are served together or not at all, even if a runtime passes the pod's
    /// annotations only for one of them: the first one decides, because nothing that Portico does is undone while the
    /// pod runs.
    pub(super) fn filter_in(
        &mut self,
        netns: NetnsId,
        key: &AttachmentKey,
        request: PortalsRequest,
    ) -> Option<ServiceFilter> {
        if self.unserved.contains(netns) {
            return None;
        }
        if let Some(filter) = ServiceFilter::of(request) {
            return Some(filter);
        }
        let filter = self.fleet.get(netns)?.filter.clone();
        let what = format!("{}: off is ignored: another attachment of the pod has portals", PORTALS.key);
        self.log(LogEvent::SuspiciousConfig { attachment: key.clone(), what });
        Some(filter)
    }

    /// Adds an attachment of a pod that is not served.
    pub(super) fn leave_alone(&mut self, record: Record) {
        let Record { attachment, netns_id, .. } = &record;
        let pod = attachment.pod.clone();
        let event = LogEvent::Attached {
            attachment: attachment.key.clone(),
            pod: pod.as_ref().map(ToString::to_string),
            how: "not served: portico.dev/portals is off",
        };
        self.counts.attached += 1;
        self.unserved.0.insert(attachment.key.clone(), (*netns_id, pod));
        let programmed_by = ProgrammedBy::NotYet;
        self.effects.push(Effect::WriteRecord(Record { programmed_by, ..record }));
        self.log(event);
    }
}
