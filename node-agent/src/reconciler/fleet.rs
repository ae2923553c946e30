//! `Fleet`: the network namespaces of this node, and the attachments in each of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_ipc::AttachmentKey;
use netns_nft::NetnsId;
use proxy_core::portal::ServiceFilter;

use crate::event::RequestId;
use crate::netns_state::{AttachedPod, KernelState, NetnsState};

/// How long ended attachments are remembered. A runtime removes its CNI result after the last plugin has succeeded, and
/// retries for minutes if one fails.
const ENDED_RETENTION: Duration = Duration::from_secs(600);

/// Network namespaces and attachments.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    namespaces: BTreeMap<NetnsId, NetnsState>,
    by_attachment: BTreeMap<AttachmentKey, NetnsId>,
    /// Attachments that ended recently, so that an outdated CNI result does not recover them.
    ended: BTreeMap<AttachmentKey, Instant>,
    /// The number of pods for which limits are computed.
    capacity: usize,
}

/// What remains of a removed attachment.
pub(super) struct Removed {
    pub(super) netns: NetnsId,
    pub(super) filter: ServiceFilter,
    /// Whether it was the last attachment, so that the network namespace was removed, too.
    pub(super) is_last: bool,
    /// The requests that wait for the attachment or for a check of the network namespace.
    pub(super) requests: Vec<RequestId>,
}

impl Fleet {
    pub(super) fn len(&self) -> usize {
        self.namespaces.len()
    }

    pub(super) fn contains(&self, netns: NetnsId) -> bool {
        self.namespaces.contains_key(&netns)
    }

    pub(super) fn get(&self, netns: NetnsId) -> Option<&NetnsState> {
        self.namespaces.get(&netns)
    }

    pub(super) fn get_mut(&mut self, netns: NetnsId) -> Option<&mut NetnsState> {
        self.namespaces.get_mut(&netns)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (NetnsId, &NetnsState)> {
        self.namespaces.iter().map(|(netns, namespace)| (*netns, namespace))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (NetnsId, &mut NetnsState)> {
        self.namespaces.iter_mut().map(|(netns, namespace)| (*netns, namespace))
    }

    /// The attachments and their network namespaces, in the order of their keys.
    pub(super) fn attachments(&self) -> impl Iterator<Item = (&AttachmentKey, NetnsId)> {
        self.by_attachment.iter().map(|(key, netns)| (key, *netns))
    }

    /// The network namespace of an attachment.
    pub(super) fn netns_of(&self, key: &AttachmentKey) -> Option<NetnsId> {
        self.by_attachment.get(key).copied()
    }

    /// Returns the state of a network namespace, which is added if it is new.
    pub(super) fn get_or_add(
        &mut self,
        netns: NetnsId,
        filter: ServiceFilter,
        kernel: KernelState,
    ) -> &mut NetnsState {
        self.namespaces.entry(netns).or_insert_with(|| NetnsState::new(filter, kernel))
    }

    /// Adds an attachment to a network namespace. Returns the one that it replaces.
    pub(super) fn attach(&mut self, netns: NetnsId, pod: AttachedPod) -> Option<AttachedPod> {
        let key = pod.attachment.key.clone();
        self.ended.remove(&key);
        self.by_attachment.insert(key, netns);
        self.namespaces.get_mut(&netns)?.attach(pod)
    }

    /// Removes an attachment, and its network namespace together with the last attachment.
    pub(super) fn remove(&mut self, key: &AttachmentKey) -> Option<Removed> {
        let netns = self.by_attachment.remove(key)?;
        let namespace = self.namespaces.get_mut(&netns)?;
        let waiting = namespace.pods.remove(key).and_then(|pod| pod.waiting);
        let mut requests: Vec<RequestId> = waiting.map(|(id, _)| id).into_iter().collect();
        let filter = namespace.filter.clone();
        let is_last = namespace.pods.is_empty();
        if is_last {
            requests.extend(namespace.take_checks());
            self.namespaces.remove(&netns);
        }
        Some(Removed { netns, filter, is_last, requests })
    }

    /// Records that the runtime ended an attachment.
    pub(super) fn mark_ended(&mut self, key: AttachmentKey, now: Instant) {
        self.ended.insert(key, now);
    }

    /// Whether the runtime ended the attachment recently.
    pub(super) fn has_ended(&self, key: &AttachmentKey) -> bool {
        self.ended.contains_key(key)
    }

    /// Forgets attachments that ended long ago.
    pub(super) fn expire_ended(&mut self, now: Instant) {
        self.ended.retain(|_, ended_at| now < *ended_at + ENDED_RETENTION);
    }

    /// The number of pods for which limits are computed.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Increases the capacity to a power of two if there are more network namespaces. Returns whether it changed.
    pub(super) fn grow(&mut self) -> bool {
        let needed = self.len().next_power_of_two();
        let has_grown = needed > self.capacity;
        self.capacity = self.capacity.max(needed);
        has_grown
    }
}
