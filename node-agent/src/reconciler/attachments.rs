//! Attachments: how they are added, checked and removed, for requests of the plugin and for recovered records.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agent_ipc::{Attachment, AttachmentKey, ProgrammedBy, Record, Reply};
use netns_nft::NetnsId;
use proxy_core::portal::ServiceFilter;
use proxy_core::portals_request::PortalsRequest;

use super::Reconciler;
use crate::event::{Effect, LogEvent, RequestId};
use crate::netns_state::{AttachedPod, KernelState};

/// The time in which the initial sync must complete and a pod must be programmed, before its ADD is refused.
pub(super) const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);

impl Reconciler {
    /// Attaches a pod for the plugin. The reply is sent as soon as the pod is programmed.
    pub(super) fn attach(&mut self, id: RequestId, attachment: Attachment, netns: NetnsId, now: Instant) {
        let key = attachment.key.clone();
        let request = match valid_request(&attachment) {
            Ok(request) => request,
            Err(message) => {
                self.close_if_unused(netns);
                return self.refuse(id, message, false);
            }
        };
        match self.netns_of(&key) {
            Some(previous) if previous != netns => {
                self.detach(&key, "the attachment moved to another network namespace");
            }
            Some(_) => drop(self.unserved.remove(&key)),
            None => {}
        }
        let Some(filter) = self.filter_in(netns, &key, request) else {
            self.leave_alone(Record { attachment, netns_id: netns, programmed_by: ProgrammedBy::NotYet });
            return self.reply(id, Reply::Done);
        };
        for what in &attachment.notes {
            self.log(LogEvent::SuspiciousConfig { attachment: key.clone(), what: what.clone() });
        }
        let waiting = Some((id, now + ATTACH_TIMEOUT));
        let pod = AttachedPod { attachment, programmed_by: ProgrammedBy::Agent, waiting };
        self.add_to_netns(pod, netns, filter, KernelState::New, now);
    }

    /// Adds an attachment from before the start of this agent, or one that the plugin programmed without it.
    pub(super) fn recover(&mut self, record: Record, now: Instant) {
        let Record { attachment, netns_id, programmed_by } = record.clone();
        let key = attachment.key.clone();
        if self.netns_of(&key).is_some() || self.fleet.has_ended(&key) {
            return self.close_if_unused(netns_id);
        }
        let request = attachment.portals().unwrap_or_default();
        let Some(filter) = self.filter_in(netns_id, &key, request) else { return self.leave_alone(record) };
        let pod_name = attachment.pod.as_ref().map(ToString::to_string);
        let pod = AttachedPod { attachment, programmed_by, waiting: None };
        self.add_to_netns(pod, netns_id, filter, KernelState::Found, now);
        self.effects.push(Effect::WriteRecord(record));
        self.log(LogEvent::Attached { attachment: key, pod: pod_name, how: "recovered" });
    }

    fn add_to_netns(
        &mut self,
        pod: AttachedPod,
        netns: NetnsId,
        filter: ServiceFilter,
        kernel: KernelState,
        now: Instant,
    ) {
        if self.catalog.is_synced() {
            self.ensure_view(&filter, now);
        }
        let filter = self.interned(filter);
        let has_same_view = self.fleet.get(netns).map(|namespace| namespace.filter == filter);
        let on_demand = if has_same_view == Some(true) {
            None
        } else {
            self.on_demand_set(&filter).or_else(|| self.on_demand_by_budget(&filter))
        };
        let namespace = self.fleet.get_or_add(netns, filter.clone(), kernel);
        match has_same_view {
            Some(true) => {}
            Some(false) => namespace.switch_view(filter, on_demand),
            None => namespace.on_demand = on_demand,
        }
        self.counts.attached += 1;
        let replaced = self.fleet.attach(netns, pod);
        if let Some((id, _)) = replaced.and_then(|pod| pod.waiting) {
            self.refuse(id, "superseded by another ADD of the same attachment".to_owned(), true);
        }
        self.grow_capacity(now);
        self.enforce_budget();
        self.select_dns(netns);
    }

    /// Closes a netns that was opened for a rejected attachment, unless it has other attachments.
    fn close_if_unused(&mut self, netns: NetnsId) {
        if !self.fleet.contains(netns) && !self.unserved.contains(netns) {
            self.close_netns(netns);
        }
    }

    /// The network namespace of a known attachment.
    fn netns_of(&self, key: &AttachmentKey) -> Option<NetnsId> {
        self.fleet.netns_of(key).or_else(|| self.unserved.netns_of(key))
    }

    /// Verifies a netns for the plugin. The reply is sent when the result is known.
    pub(super) fn check(&mut self, id: RequestId, netns: NetnsId) {
        if self.unserved.contains(netns) {
            return self.reply(id, Reply::Done);
        }
        if !self.fleet.contains(netns) {
            let message = "unknown network namespace: it was never attached".to_owned();
            return self.refuse(id, message, false);
        }
        if !self.catalog.is_synced() {
            let reply = self.not_ready();
            return self.reply(id, reply);
        }
        if let Some(namespace) = self.fleet.get_mut(netns) {
            namespace.check(id);
        }
    }

    /// Removes the attachments of a network that the runtime does not list.
    pub(super) fn gc(&mut self, id: RequestId, network: &str, valid: &[AttachmentKey], now: Instant) {
        let valid: BTreeSet<&AttachmentKey> = valid.iter().collect();
        let of_network = self.attachment_keys().filter(|key| key.network == network);
        let invalid: Vec<AttachmentKey> = of_network.filter(|key| !valid.contains(key)).cloned().collect();
        for key in invalid {
            self.end(key, "the runtime no longer lists it", now);
        }
        self.reply(id, Reply::Done);
    }

    /// Removes an attachment that the runtime ended, and its record. The attachment can be unknown if the plugin wrote
    /// the record without the agent.
    pub(super) fn end(&mut self, key: AttachmentKey, why: &'static str, now: Instant) {
        self.detach(&key, why);
        self.records.remove(&key);
        self.effects.push(Effect::RemoveRecord(key.clone()));
        self.fleet.mark_ended(key, now);
    }

    /// Removes a netns that no longer exists, with its attachments and their records.
    pub(super) fn remove_netns(&mut self, netns: NetnsId, why: &'static str) {
        let served = self.fleet.get(netns).into_iter().flat_map(|namespace| namespace.pods.keys());
        let keys: Vec<AttachmentKey> = served.chain(self.unserved.keys_in(netns)).cloned().collect();
        for key in keys {
            self.detach(&key, why);
            self.records.remove(&key);
            self.effects.push(Effect::RemoveRecord(key));
        }
    }

    /// Removes an attachment, if it is known, and logs the removal.
    fn detach(&mut self, key: &AttachmentKey, why: &'static str) {
        let reply = Reply::Refused { message: format!("the attachment ended: {why}"), transient: false };
        if self.drop_attachment(key, &reply) {
            self.counts.detached += 1;
            self.log(LogEvent::Detached { attachment: key.clone(), why });
        }
    }

    /// Removes an attachment, and sends the reply to the requests that wait for it. Returns whether it was known.
    fn drop_attachment(&mut self, key: &AttachmentKey, reply: &Reply) -> bool {
        if let Some(netns) = self.unserved.remove(key) {
            self.close_if_unused(netns);
            return true;
        }
        let Some(removed) = self.fleet.remove(key) else { return false };
        if removed.is_last {
            if let Some(rollout) = self.rollouts.get_mut(&removed.filter) {
                rollout.pending.remove(&removed.netns);
            }
            self.close_netns(removed.netns);
        }
        removed.requests.into_iter().for_each(|id| self.reply(id, reply.clone()));
        true
    }

    /// Refuses the attaches that wait for a netns, and removes their attachments.
    pub(super) fn refuse_attaches(&mut self, netns: NetnsId, message: &str, transient: bool) {
        let Some(namespace) = self.fleet.get(netns) else { return };
        let waiting = namespace.pods.iter().filter(|(_, pod)| pod.waiting.is_some());
        let keys: Vec<AttachmentKey> = waiting.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.drop_attachment(&key, &Reply::Refused { message: message.to_owned(), transient });
        }
    }

    /// Refuses the attaches whose deadline has passed; the runtime retries them.
    pub(super) fn expire_attaches(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for (key, pod) in self.fleet.iter().flat_map(|(_, namespace)| &namespace.pods) {
            if pod.waiting.is_some_and(|(_, deadline)| deadline <= now) {
                expired.push(key.clone());
            }
        }
        for key in expired {
            let reply = if self.catalog.is_synced() {
                let message = "timed out programming the network namespace".to_owned();
                Reply::Refused { message, transient: true }
            } else {
                self.not_ready()
            };
            self.drop_attachment(&key, &reply);
        }
    }
}

/// Returns the portals that the pod requests. A pod that is off needs no guests, so those are not validated.
fn valid_request(attachment: &Attachment) -> Result<PortalsRequest, String> {
    let request = attachment.portals()?;
    if request != PortalsRequest::Off {
        attachment.guests()?;
        attachment.dns_annotation()?;
    }
    Ok(request)
}
