//! The other half of `Reconciler`: how jobs end, how attachments go, and what is told.
//!
//! What must not go in here: how changes come in and are handed out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agent_ipc::{AttachmentKey, ProgrammedBy, Record, Reply};
use netns_nft::NetnsId;
use proxy_core::portal::Portals;
use relay::RelayReport;

use super::Reconciler;
use crate::event::{Effect, LogEvent, Outcome, RequestId};
use crate::netns_state::{AttachedPod, JobResult, KernelState};
use crate::report::{AttachmentReport, AuditReport, Counts, ProgrammedPortals, Report, ViewReport};
use crate::service_filter::name_of;

impl Reconciler {
    /// Closes a network namespace that was opened for an attachment which is not taken, unless another has it.
    pub(super) fn let_go(&mut self, netns: NetnsId) {
        if !self.members.contains_key(&netns) {
            self.effects.push(Effect::CloseNetns(netns));
        }
    }

    /// Takes note of how a job ended.
    pub(super) fn settle(&mut self, netns: NetnsId, outcome: Outcome, now: Instant) {
        let outcome = match outcome {
            Outcome::Counted(hits) => return self.counted(netns, hits, now),
            other => other,
        };
        let Some(member) = self.members.get_mut(&netns) else { return };
        let was_new = matches!(member.standing, KernelState::New);
        let is_look = matches!(outcome, Outcome::Matches(_) | Outcome::Drifted(_));
        self.counts.audited += u64::from(is_look);
        self.counts.applied += u64::from(matches!(outcome, Outcome::Applied(_)));
        let was_known = member.revision().is_some();
        let JobResult { asked, right, damage, failure } = member.settle(outcome, now);
        let backoff = member.audit_backoff(now);
        let reply = match (&damage, &failure) {
            (None, None) => Reply::Done,
            (Some(why), _) => {
                let message =
                    format!("the network namespace does not hold its portals ({why}); it is programmed anew");
                Reply::Refused { message, transient: true }
            }
            (None, Some((why, transient, _))) => {
                Reply::Refused { message: why.clone(), transient: *transient }
            }
        };
        asked.into_iter().for_each(|ticket| self.answer(ticket, reply.clone()));
        if let Some(before) = right {
            self.arrived(netns, before, was_new, now);
        }
        if let Some(why) = damage.filter(|_| was_known) {
            self.counts.repaired += 1;
            self.note(LogEvent::Drift { netns, why, backoff });
        }
        if let Some((message, transient, retry_in)) = failure {
            self.counts.failed += 1;
            self.progress_of(netns, true, now);
            self.refuse_waiting(netns, &message, transient);
            if self.members.contains_key(&netns) {
                self.note(LogEvent::JobFailed { netns, message, retry_in });
            }
        }
    }

    /// The relay listens in a network namespace, or cannot.
    pub(super) fn listened(&mut self, netns: NetnsId, fault: Option<String>, now: Instant) {
        let Some(member) = self.members.get_mut(&netns) else { return };
        if let Some(message) = member.listened(fault, now) {
            self.note(LogEvent::RelayUnavailable { netns, message });
        }
    }

    /// A network namespace is right; a revision stood there before, if that was known.
    fn arrived(&mut self, netns: NetnsId, before: Option<u64>, was_new: bool, now: Instant) {
        let Some(member) = self.members.get_mut(&netns) else { return };
        let (revision, view) = (member.revision(), member.view.clone());
        for held in member.attachments.values_mut() {
            let Some((ticket, _)) = held.waiting.take() else { continue };
            let attachment = held.attachment.clone();
            let pod = attachment.pod.as_ref().map(ToString::to_string);
            let note = LogEvent::Attached { attachment: attachment.key.clone(), pod, how: "programmed" };
            held.programmer = ProgrammedBy::Agent;
            self.effects.push(Effect::WriteRecord(Record {
                attachment,
                netns_id: netns,
                programmed_by: held.programmer,
            }));
            self.effects.push(Effect::Reply(ticket, Reply::Done));
            self.effects.push(Effect::Log(note));
        }
        if before == revision {
            return;
        }
        let Some(state) = self.views.get(&view) else { return };
        if !was_new {
            member.cleanup.add(state.stale_since(before));
        }
        if before.is_some() {
            self.progress_of(netns, false, now);
        }
    }

    /// One network namespace has got a change, or failed to.
    fn progress_of(&mut self, netns: NetnsId, has_failed: bool, now: Instant) {
        let Some(member) = self.members.get(&netns) else { return };
        let Some(progress) = self.progress.get_mut(&member.view) else { return };
        let has_it = member.revision() == Some(progress.revision);
        if !(has_failed || has_it) || !progress.pending.remove(&netns) {
            return;
        }
        if !has_failed {
            self.counts.apply_seconds.observe(now.duration_since(progress.since).as_secs_f64());
        }
        progress.failed += usize::from(has_failed);
        if !progress.pending.is_empty() {
            return;
        }
        let view = member.view.clone();
        let Some(done) = self.progress.remove(&view) else { return };
        if let Some(state) = self.views.get_mut(&view) {
            state.release_batches();
        }
        self.note(LogEvent::Applied {
            revision: done.revision,
            view: name_of(&view),
            namespaces: done.namespaces,
            failed: done.failed,
            operations: done.operations,
            took: now.duration_since(done.since),
        });
    }

    fn refuse_waiting(&mut self, netns: NetnsId, message: &str, transient: bool) {
        let Some(member) = self.members.get(&netns) else { return };
        let waits = |(key, held): (&AttachmentKey, &AttachedPod)| held.waiting.map(|_| key.clone());
        let refused: Vec<AttachmentKey> = member.attachments.iter().filter_map(waits).collect();
        for key in refused {
            self.drop_attachment(&key, Reply::Refused { message: message.to_owned(), transient });
        }
    }

    /// Tells those who have waited too long that they may try again.
    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        let mut late = Vec::new();
        for (key, held) in self.members.values().flat_map(|member| &member.attachments) {
            if held.waiting.is_some_and(|(_, until)| until <= now) {
                late.push(key.clone());
            }
        }
        for key in late {
            let reply = if self.is_synced {
                let message = "the network namespace could not be programmed in time".to_owned();
                Reply::Refused { message, transient: true }
            } else {
                self.not_ready()
            };
            self.drop_attachment(&key, reply);
        }
    }

    /// The runtime ends an attachment, of which perhaps nobody told: the plugin may have written it down
    /// without us.
    pub(super) fn end(&mut self, key: AttachmentKey, why: &'static str, now: Instant) {
        self.detach(&key, why);
        self.unwritten.forget(&key);
        self.effects.push(Effect::RemoveRecord(key.clone()));
        self.ended.insert(key, now);
    }

    /// An attachment is gone.
    pub(super) fn detach(&mut self, key: &AttachmentKey, why: &'static str) {
        let reply = Reply::Refused { message: format!("the attachment ended: {why}"), transient: false };
        if self.drop_attachment(key, reply) {
            self.counts.detached += 1;
            self.note(LogEvent::Detached { attachment: key.clone(), why });
        }
    }

    /// Forgets an attachment, and its network namespace with the last one; whoever waits for it gets this
    /// reply. True where it was known.
    fn drop_attachment(&mut self, key: &AttachmentKey, reply: Reply) -> bool {
        let Some(netns) = self.places.remove(key) else { return false };
        let Some(member) = self.members.get_mut(&netns) else { return false };
        let waiting = member.attachments.remove(key).and_then(|held| held.waiting);
        let mut refused: Vec<RequestId> = waiting.map(|(ticket, _)| ticket).into_iter().collect();
        if member.attachments.is_empty() {
            refused.append(&mut member.asked);
            if let Some(progress) = self.progress.get_mut(&member.view) {
                progress.pending.remove(&netns);
            }
            self.members.remove(&netns);
            self.effects.push(Effect::CloseNetns(netns));
        }
        refused.into_iter().for_each(|ticket| self.answer(ticket, reply.clone()));
        true
    }

    /// A network namespace is gone, with all that was attached to it.
    pub(super) fn forget(&mut self, netns: NetnsId, why: &'static str) {
        let Some(member) = self.members.get(&netns) else { return };
        let keys: Vec<AttachmentKey> = member.attachments.keys().cloned().collect();
        for key in keys {
            self.detach(&key, why);
            self.unwritten.forget(&key);
            self.effects.push(Effect::RemoveRecord(key));
        }
    }

    /// Looks whether a network namespace is right, and answers when it is known.
    pub(super) fn check(&mut self, ticket: RequestId, netns: NetnsId, now: Instant) {
        let Some(member) = self.members.get_mut(&netns) else {
            let message = "the agent does not know this network namespace: it was never attached".to_owned();
            return self.refuse(ticket, message, false);
        };
        if !self.is_synced {
            let reply = self.not_ready();
            return self.answer(ticket, reply);
        }
        member.retry_at = member.retry_at.map(|_| now);
        member.asked.push(ticket);
    }

    /// Forgets the attachments of a network that are not valid any more.
    pub(super) fn collect(
        &mut self,
        ticket: RequestId,
        network: &str,
        valid: &[AttachmentKey],
        now: Instant,
    ) {
        let of_network = self.places.keys().filter(|key| key.network == network);
        let valid: BTreeSet<&AttachmentKey> = valid.iter().collect();
        let gone: Vec<AttachmentKey> = of_network.filter(|key| !valid.contains(key)).cloned().collect();
        for key in gone {
            self.end(key, "the runtime does not know it any more", now);
        }
        self.answer(ticket, Reply::Done);
    }

    /// The attachments that are known.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &AttachmentKey> {
        self.places.keys()
    }

    /// Everything there is to tell.
    pub(crate) fn report(&self, now: Instant) -> Report {
        let mut attachments = Vec::new();
        for (key, netns) in &self.places {
            let Some(member) = self.members.get(netns) else { continue };
            let Some(held) = member.attachments.get(key) else { continue };
            let state = self.views.get(&member.view);
            let behind =
                state.filter(|state| !member.is_right(state)).map(|state| now.duration_since(state.since));
            attachments.push(AttachmentReport {
                key: key.clone(),
                pod: held.attachment.pod.clone(),
                netns: held.attachment.netns.clone(),
                netns_inode: netns.inode,
                view: name_of(&member.view),
                revision: member.revision(),
                lag_ms: behind.map_or(0, |lag| milliseconds(lag).max(1)),
                error: member.error.clone().or_else(|| member.relay_error().map(str::to_owned)),
                repairs: member.repairs,
                audit_backoff_ms: member.audit_backoff(now).map_or(0, milliseconds),
                portals: if member.demand.is_some() {
                    ProgrammedPortals::OnDemand
                } else {
                    ProgrammedPortals::All
                },
                programmed: member.portal_count(),
                programmer: held.programmer,
            });
        }
        let views = self.views.iter().map(|(view, state)| {
            (name_of(view), ViewReport { revision: state.revision, portals: state.portal_count() })
        });
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.options.node.name.to_string(),
            synced: self.is_synced,
            trouble: self.trouble.clone(),
            objects_refused: self.objects_refused,
            services: self.snapshot.service_count(),
            views: views.collect(),
            attachments,
            records_unwritten: self.unwritten.len(),
            refused: self.refused_report(),
            memory: self.memory_report(),
            counts: Counts { dial_ignored: self.dial_from_node.ignored() as u64, ..self.counts.clone() },
            relay: RelayReport::default(),
            audit: AuditReport {
                interval_ms: milliseconds(self.options.audit_interval),
                last_ms: self.audited.map(|audited| milliseconds(now.duration_since(audited))),
            },
            counters: self.options.settings.counters,
            hits: None,
        }
    }

    /// The network namespaces that are known, and the portals that each sees.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (NetnsId, &Portals)> {
        let members = self.members.iter();
        members.filter_map(|(netns, member)| Some((*netns, &self.views.get(&member.view)?.portals)))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
