//! The jobs of a network namespace: which one is next, and what follows from its outcome.
//!
//! ```text
//! next() ──► need() ──► operation() ──► Job ──► finish(outcome) ──► JobResult
//! ```
//! A netns runs at most one job at a time, so operations never overtake each other.

use std::sync::Arc;
use std::time::Instant;

use agent_ipc::Attachment;
use ipnet::IpNet;
use proxy_core::dispatch::Action;
use proxy_core::ruleset::{Ruleset, Settings};

use super::{AppliedState, Conclusion, JobResult, KernelState, NetnsState, RunningJob};
use crate::event::{Egress, Job, Operation, Outcome};
use crate::on_demand::OnDemandSet;
use crate::thread_pools::WorkKind;
use crate::view::ViewState;

/// What the next job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// Verify the table, unless the kernel still has this generation.
    Verify(Option<u32>),
    CountHits,
    /// Ensure routes, or make the relay listen.
    Routes,
    /// Program the desired state.
    Program,
}

impl NetnsState {
    /// Returns the next job, unless one is running, nothing is needed, or it is too early for a retry.
    pub(crate) fn next(&mut self, view: &mut ViewState, ranges: &Arc<[IpNet]>, now: Instant) -> Option<Job> {
        if self.running.is_some() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.retry_at = None;
        if !self.is_relayed(view) {
            self.relay_error = None;
        }
        let need = self.need(view, now);
        let (operation, expected) = self.operation(need, view)?;
        let is_read = matches!(operation, Operation::Verify(..) | Operation::CountHits(_));
        let mut checks = Vec::new();
        if matches!(operation, Operation::Verify(..)) {
            self.is_audit_due = false;
            checks = self.take_checks();
        } else if let (Operation::CountHits(_), Some(on_demand)) = (&operation, &mut self.on_demand) {
            on_demand.is_count_due = false;
        }
        let routes = self.are_routes_due.then(|| (self.egresses(), Arc::clone(ranges)));
        let can_listen = self.relay_error.as_ref().is_none_or(|error| error.retry_at <= now);
        let relay = (self.is_relayed(view) && can_listen).then(|| self.filter.clone());
        self.running = Some(RunningJob { expected, is_read, checks, has_routes: routes.is_some() });
        self.are_routes_due = false;
        Some(Job { kind: self.work_kind(is_read), routes, relay, guests: self.guests.clone(), operation })
    }

    fn work_kind(&self, is_read: bool) -> WorkKind {
        let is_starting = self.pods.values().any(|pod| pod.waiting.is_some());
        // The time to replace a table depends on how much the pod wrote into it, and a pod can take and release the
        // relay's port as often as it likes.
        let is_repair = matches!(self.kernel, KernelState::Drifted) || self.relay_error.is_some();
        match (is_read, is_starting) {
            (true, _) => WorkKind::Audit,
            (false, true) => WorkKind::Attach,
            (false, false) if is_repair => WorkKind::Audit,
            (false, false) => WorkKind::Change,
        }
    }

    /// Whether the relay must listen.
    fn is_relayed(&self, view: &ViewState) -> bool {
        self.on_demand.is_some() || view.desired.dispatch_keys().any(|key| key.action == Action::Relay)
    }

    /// Whether the applied table is the desired one. That it redirects to the relay must match whether the relay
    /// listens.
    fn is_desired(&self, applied: &AppliedState, view: &ViewState) -> bool {
        let has_relay = applied.ruleset.settings().is_some_and(Settings::has_relay);
        let is_behind = match &self.on_demand {
            Some(on_demand) => on_demand.is_dirty,
            None => applied.revision != view.revision,
        };
        has_relay != self.relay_error.is_some() && !is_behind
    }

    fn need(&self, view: &ViewState, now: Instant) -> Need {
        let on_demand = self.on_demand.as_ref();
        let applied = match &self.kernel {
            KernelState::Found if on_demand.is_some_and(|set| !set.is_restored) => return Need::CountHits,
            KernelState::Known(applied) if self.is_desired(applied, view) => applied,
            _ => return Need::Program,
        };
        let is_relay_due = self.relay_error.as_ref().is_some_and(|error| error.retry_at <= now);
        if !self.checks.is_empty() {
            Need::Verify(None)
        } else if self.is_audit_due {
            Need::Verify(applied.generation)
        } else if on_demand.is_some_and(|set| set.is_count_due) {
            Need::CountHits
        } else if self.are_routes_due || is_relay_due {
            Need::Routes
        } else {
            Need::Nothing
        }
    }

    /// Returns the operation for a need, and the state of the table if it succeeds, unless the operation does not tell.
    fn operation(&mut self, need: Need, view: &mut ViewState) -> Option<(Operation, Option<AppliedState>)> {
        match need {
            Need::Nothing => None,
            Need::CountHits => Some((Operation::CountHits(view.portal_count()), None)),
            Need::Routes => Some((Operation::RoutesOnly, self.applied().cloned())),
            Need::Verify(generation) => {
                let applied = self.applied()?.clone();
                Some((Operation::Verify(applied.ruleset.clone(), generation), Some(applied)))
            }
            Need::Program => {
                let (operation, ruleset) = self.program(view);
                Some((operation, Some(AppliedState { revision: view.revision, ruleset, generation: None })))
            }
        }
    }

    /// Returns the operation that leads to the desired table, and this table.
    fn program(&mut self, view: &mut ViewState) -> (Operation, Ruleset) {
        let (mut ruleset, changed) = match &mut self.on_demand {
            Some(on_demand) => {
                let (ruleset, changed) = on_demand.take_target();
                (ruleset, Some(changed))
            }
            None => (view.desired.clone(), None),
        };
        if self.relay_error.is_some() {
            ruleset = ruleset.without_relay();
        }
        // A table with other settings is replaced as a whole.
        let has_settings = |applied: &AppliedState| applied.ruleset.settings() == ruleset.settings();
        let operation = match (&self.kernel, changed) {
            (KernelState::Found, _) => Operation::Verify(ruleset.clone(), None),
            (KernelState::Known(applied), None) if has_settings(applied) => {
                Operation::Apply(view.batch_from(applied.revision, &applied.ruleset, &ruleset))
            }
            (KernelState::Known(applied), Some(changed)) if has_settings(applied) => {
                Operation::Apply(OnDemandSet::batch_from(&applied.ruleset, &ruleset, &changed))
            }
            (_, None) => Operation::Apply(view.fresh_batch(&ruleset)),
            (_, Some(_)) => Operation::Apply(OnDemandSet::fresh_batch(view, &ruleset)),
        };
        (operation, ruleset)
    }

    fn egresses(&self) -> Vec<Egress> {
        let attachments = self.pods.values().map(|pod| &pod.attachment);
        let egress =
            |a: &Attachment| Egress { interface: a.key.interface.clone(), addresses: a.addresses.clone() };
        attachments.map(egress).collect()
    }

    /// Records the outcome of the running job.
    pub(crate) fn finish(&mut self, outcome: Outcome, now: Instant) -> JobResult {
        let Some(job) = self.running.take() else {
            return JobResult { checks: Vec::new(), conclusion: Conclusion::Unchanged };
        };
        let RunningJob { expected, is_read, mut checks, has_routes } = job;
        let previous = self.revision();
        let conclusion = match outcome {
            Outcome::Applied(generation) | Outcome::Matches(generation) => {
                if matches!(outcome, Outcome::Matches(_)) {
                    self.audit_backoff.reset();
                }
                if let Some(mut applied) = expected {
                    // A job for routes only does not read the generation.
                    applied.generation = generation.or(applied.generation.filter(|_| !is_read));
                    self.kernel = KernelState::Known(applied);
                }
                self.record_success();
                Conclusion::UpToDate { previous }
            }
            // The next job makes relayed portals refuse connections.
            Outcome::RelayUnavailable => {
                self.are_routes_due |= has_routes;
                self.is_audit_due |= is_read;
                self.checks.append(&mut checks);
                Conclusion::Unchanged
            }
            Outcome::Counted(_) => {
                self.record_success();
                Conclusion::Unchanged
            }
            Outcome::Drifted(why) => {
                if previous.is_some() {
                    self.repairs += 1;
                    self.audit_backoff.record_failure(now);
                }
                self.kernel = KernelState::Drifted;
                Conclusion::Drifted(why)
            }
            Outcome::Failed { message, transient } => {
                self.are_routes_due |= has_routes;
                if previous.is_some() && is_read {
                    self.audit_backoff.record_failure(now);
                } else if previous.is_some() {
                    self.kernel = KernelState::Drifted;
                }
                let retry_in = self.backoff.next_delay();
                self.retry_at = Some(now + retry_in);
                self.error = Some(message.clone());
                Conclusion::Failed { message, transient, retry_in }
            }
        };
        JobResult { checks, conclusion }
    }

    fn record_success(&mut self) {
        self.backoff.reset();
        self.error = None;
    }
}
