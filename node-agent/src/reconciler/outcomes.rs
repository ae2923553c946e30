//! The outcomes of jobs: replies to the plugin, retries, repairs, and the progress of rollouts.

use std::time::Instant;

use agent_ipc::{ProgrammedBy, Record, Reply};
use netns_nft::NetnsId;

use super::Reconciler;
use crate::event::{Effect, LogEvent, Outcome};
use crate::netns_state::{Conclusion, JobResult, KernelState};
use crate::report::APPLY_BOUNDS_S;
use crate::view_name::view_name;

impl Reconciler {
    /// Handles the outcome of a job.
    pub(super) fn on_job_done(&mut self, netns: NetnsId, outcome: Outcome, now: Instant) {
        if let Outcome::Counted(hits) = outcome {
            return self.on_hits_counted(netns, hits, now);
        }
        let Some(namespace) = self.fleet.get_mut(netns) else { return };
        let is_audit = matches!(outcome, Outcome::Matches(_) | Outcome::Drifted(_));
        self.counts.audits += u64::from(is_audit);
        self.counts.applied += u64::from(matches!(outcome, Outcome::Applied(_)));
        let was_new = matches!(namespace.kernel, KernelState::New);
        let was_known = namespace.revision().is_some();
        let JobResult { checks, conclusion } = namespace.finish(outcome, now);
        let backoff = namespace.audit_backoff(now);
        let reply = match &conclusion {
            Conclusion::Unchanged | Conclusion::UpToDate { .. } => Reply::Done,
            Conclusion::Drifted(why) => {
                let message = format!("ruleset drift detected ({why}); reprogramming");
                Reply::Refused { message, transient: true }
            }
            Conclusion::Failed { message, transient, .. } => {
                Reply::Refused { message: message.clone(), transient: *transient }
            }
        };
        checks.into_iter().for_each(|id| self.reply(id, reply.clone()));
        match conclusion {
            Conclusion::Unchanged => {}
            Conclusion::UpToDate { previous } => self.on_converged(netns, previous, was_new, now),
            // A table from an earlier agent may be outdated.
            Conclusion::Drifted(_) if !was_known => {}
            Conclusion::Drifted(why) => {
                self.counts.repairs += 1;
                self.log(LogEvent::Drift { netns, why, backoff });
            }
            Conclusion::Failed { message, transient, retry_in } => {
                self.counts.failed += 1;
                self.update_rollout(netns, true, now);
                self.refuse_attaches(netns, &message, transient);
                if self.fleet.contains(netns) {
                    self.log(LogEvent::JobFailed { netns, message, retry_in });
                }
            }
        }
    }

    /// Records whether the relay listens in a netns.
    pub(super) fn on_relay_listening(&mut self, netns: NetnsId, error: Option<String>, now: Instant) {
        let Some(namespace) = self.fleet.get_mut(netns) else { return };
        if let Some(message) = namespace.set_relay_error(error, now) {
            self.log(LogEvent::RelayUnavailable { netns, message });
        }
    }

    /// Handles that a netns has the state that its job expected. `previous` is the revision before, if known.
    fn on_converged(&mut self, netns: NetnsId, previous: Option<u64>, was_new: bool, now: Instant) {
        let Some(namespace) = self.fleet.get_mut(netns) else { return };
        for pod in namespace.pods.values_mut() {
            let Some((id, _)) = pod.waiting.take() else { continue };
            let attachment = pod.attachment.clone();
            let pod_name = attachment.pod.as_ref().map(ToString::to_string);
            let key = attachment.key.clone();
            pod.programmed_by = ProgrammedBy::Agent;
            self.effects.push(Effect::WriteRecord(Record {
                attachment,
                netns_id: netns,
                programmed_by: pod.programmed_by,
            }));
            self.effects.push(Effect::Reply(id, Reply::Done));
            let how = "programmed";
            self.effects.push(Effect::Log(LogEvent::Attached { attachment: key, pod: pod_name, how }));
        }
        if previous == namespace.revision() {
            return;
        }
        let Some(view) = self.views.get(&namespace.filter) else { return };
        if !was_new {
            namespace.cleanup.add(view.stale_since(previous));
        }
        if previous.is_some() {
            self.update_rollout(netns, false, now);
        }
    }

    /// Records that a netns received a revision, or failed to, and logs a complete rollout.
    fn update_rollout(&mut self, netns: NetnsId, has_failed: bool, now: Instant) {
        let Some(namespace) = self.fleet.get(netns) else { return };
        let Some(rollout) = self.rollouts.get_mut(&namespace.filter) else { return };
        let has_revision = namespace.revision() == Some(rollout.revision);
        if !(has_failed || has_revision) || !rollout.pending.remove(&netns) {
            return;
        }
        if !has_failed {
            let took = now.duration_since(rollout.since);
            self.counts.apply_duration_seconds.observe(&APPLY_BOUNDS_S, took.as_secs_f64());
        }
        rollout.failed += usize::from(has_failed);
        if !rollout.pending.is_empty() {
            return;
        }
        let filter = namespace.filter.clone();
        let Some(rollout) = self.rollouts.remove(&filter) else { return };
        if let Some(view) = self.views.get_mut(&filter) {
            view.release_batches();
        }
        self.log(LogEvent::Applied {
            revision: rollout.revision,
            view: view_name(&filter),
            namespaces: rollout.namespaces,
            failed: rollout.failed,
            operations: rollout.operations,
            took: now.duration_since(rollout.since),
        });
    }
}
