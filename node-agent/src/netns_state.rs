//! `NetnsState`: one network namespace that is kept right, and what is known to stand in it.
//!
//! At most one job runs in it at a time, so nothing can overtake. What stands there counts as known only
//! after the kernel said yes; whenever there is doubt, the next transaction replaces everything at once.
//! What must not go in here: other network namespaces; one that is broken must not matter to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_ipc::{Attachment, AttachmentKey, ProgrammedBy};
use ipnet::IpNet;
use proxy_core::dispatch::Action;
use proxy_core::guest::GuestInterfaces;
use proxy_core::portal::ServiceFilter;
use proxy_core::ruleset::{Ruleset, Settings};

use crate::audit_backoff::AuditBackoff;
use crate::event::{Egress, Job, Operation, Outcome, RequestId};
use crate::on_demand::OnDemandSet;
use crate::thread_pools::WorkKind;
use crate::udp_cleanup::UdpCleanup;
use crate::view::ViewState;

/// After a failure a job is tried again so much later, twice as late each time.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Where the relay could not listen it tries again so much later.
const RELAY_RETRY: Duration = Duration::from_secs(5);

/// An attachment of this network namespace.
#[derive(Debug)]
pub(crate) struct AttachedPod {
    pub(crate) attachment: Attachment,
    pub(crate) programmer: ProgrammedBy,
    /// Who waits for it to be programmed, and until when.
    pub(crate) waiting: Option<(RequestId, Instant)>,
}

/// What stands in the kernel, as far as it is known.
#[derive(Debug, Clone)]
pub(crate) struct AppliedState {
    pub(crate) revision: u64,
    pub(crate) ruleset: Ruleset,
    /// None: somebody else changed something meanwhile.
    pub(crate) generation: Option<u32>,
}

/// What is known of what stands there.
#[derive(Debug)]
pub(crate) enum KernelState {
    /// A new pod: nothing of ours.
    New,
    /// A pod from before this agent started: something of ours, perhaps just what should be.
    Found,
    /// This.
    Known(AppliedState),
    /// A table that differs from the desired state.
    Drifted,
}

/// The job that is under way.
#[derive(Debug)]
struct RunningJob {
    /// What stands there if it succeeds; none: it says nothing of that.
    aim: Option<AppliedState>,
    is_look: bool,
    asked: Vec<RequestId>,
    with_routes: bool,
}

/// Why the relay does not listen there, and when that is tried again.
#[derive(Debug)]
struct RelayError {
    message: String,
    retry_at: Instant,
}

/// What an outcome means to others.
#[derive(Debug, Default)]
pub(crate) struct JobResult {
    /// Those who asked whether it is right, and the answer.
    pub(crate) asked: Vec<RequestId>,
    /// It is right now, with the revision that stood there before; none: not known.
    pub(crate) right: Option<Option<u64>>,
    /// It was not what it should be.
    pub(crate) damage: Option<String>,
    /// It failed, and is tried again after this time.
    pub(crate) failure: Option<(String, bool, Duration)>,
}

/// One network namespace.
#[derive(Debug)]
pub(crate) struct NetnsState {
    pub(crate) view: ServiceFilter,
    /// What it uses; none: it gets all portals of its view.
    pub(crate) demand: Option<OnDemandSet>,
    pub(crate) attachments: BTreeMap<AttachmentKey, AttachedPod>,
    /// The interfaces behind which guests are, as the pod's annotation names them.
    pub(crate) guests: GuestInterfaces,
    pub(crate) standing: KernelState,
    running: Option<RunningJob>,
    failures: u32,
    pub(crate) retry_at: Option<Instant>,
    pub(crate) error: Option<String>,
    /// Who asks whether it is right.
    pub(crate) asked: Vec<RequestId>,
    pub(crate) is_audit_due: bool,
    backoff: AuditBackoff,
    pub(crate) are_routes_due: bool,
    pub(crate) repairs: u64,
    pub(crate) cleanup: UdpCleanup,
    relay_fault: Option<RelayError>,
}

impl NetnsState {
    /// A network namespace of which this is known.
    pub(crate) fn new(view: ServiceFilter, standing: KernelState) -> Self {
        Self {
            view,
            demand: None,
            attachments: BTreeMap::new(),
            guests: GuestInterfaces::default(),
            standing,
            running: None,
            failures: 0,
            retry_at: None,
            error: None,
            asked: Vec::new(),
            is_audit_due: false,
            backoff: AuditBackoff::default(),
            are_routes_due: true,
            repairs: 0,
            cleanup: UdpCleanup::default(),
            relay_fault: None,
        }
    }

    /// The revision that stands there, if it is known.
    pub(crate) fn revision(&self) -> Option<u64> {
        if let KernelState::Known(applied) = &self.standing { Some(applied.revision) } else { None }
    }

    /// Takes the guests of an attachment, which are the pod's and so the same at each. A table that is known to be
    /// without them is replaced.
    pub(crate) fn serve(&mut self, guests: GuestInterfaces) {
        if guests.is_empty() || guests == self.guests {
            return;
        }
        self.guests = guests;
        if matches!(self.standing, KernelState::Known(_)) {
            self.standing = KernelState::Drifted;
        }
    }

    /// Whether it holds what it should.
    pub(crate) fn is_right(&self, view: &ViewState) -> bool {
        self.revision() == Some(view.revision) && self.error.is_none()
    }

    /// An audit of all network namespaces begins; this one is left out while it is in back-off.
    pub(crate) fn begin_audit(&mut self, now: Instant) {
        if self.backoff.left(now).is_none() {
            // Routes are looked at too: one that led to the services may have gone with its interface.
            (self.is_audit_due, self.are_routes_due) = (true, true);
            if let Some(demand) = &mut self.demand {
                demand.is_count_due = true;
            }
        }
    }

    /// How long audits leave it out, since it was found damaged again and again.
    pub(crate) fn audit_backoff(&self, now: Instant) -> Option<Duration> {
        self.backoff.left(now)
    }

    /// How many portals stand there.
    pub(crate) fn portal_count(&self) -> usize {
        if let KernelState::Known(applied) = &self.standing { applied.ruleset.portal_count() } else { 0 }
    }

    /// Where what changed in the view is not here it has the change at once; gives the revision before.
    pub(crate) fn catch_up(&mut self, view: &ViewState) -> Option<u64> {
        let is_idle = self.running.is_none() && self.demand.as_ref().is_some_and(|demand| !demand.is_dirty);
        match &mut self.standing {
            KernelState::Known(applied) if is_idle && applied.revision != view.revision => {
                Some(std::mem::replace(&mut applied.revision, view.revision))
            }
            _ => None,
        }
    }

    /// The relay listens there, or cannot. Gives the reason where it is another one than before.
    pub(crate) fn listened(&mut self, fault: Option<String>, now: Instant) -> Option<String> {
        let before = self.relay_fault.take().map(|fault| fault.message);
        let message = fault?;
        self.relay_fault = Some(RelayError { message: message.clone(), retry_at: now + RELAY_RETRY });
        Some(message).filter(|message| before.as_ref() != Some(message))
    }

    /// Why the relay does not listen there, though it should.
    pub(crate) fn relay_error(&self) -> Option<&str> {
        self.relay_fault.as_ref().map(|fault| fault.message.as_str())
    }

    /// The next job, unless one is under way, there is nothing to do, or it is too early to try again.
    pub(crate) fn next(&mut self, view: &mut ViewState, ranges: &Arc<[IpNet]>, now: Instant) -> Option<Job> {
        if self.running.is_some() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.retry_at = None;
        if !self.is_relayed(view) {
            self.relay_fault = None;
        }
        let (aim, work) = self.work(view, now)?;
        let is_look = matches!(work, Operation::Verify(..) | Operation::CountHits(_));
        let mut asked = Vec::new();
        match (&work, &mut self.demand) {
            (Operation::Verify(..), _) => {
                self.is_audit_due = false;
                asked = std::mem::take(&mut self.asked);
            }
            (Operation::CountHits(_), Some(demand)) => demand.is_count_due = false,
            _ => {}
        }
        let routes = self.are_routes_due.then(|| (self.exits(), Arc::clone(ranges)));
        let is_relay_due = self.relay_fault.as_ref().is_none_or(|fault| fault.retry_at <= now);
        let relay = (self.is_relayed(view) && is_relay_due).then(|| self.view.clone());
        self.running = Some(RunningJob { aim, is_look, asked, with_routes: routes.is_some() });
        self.are_routes_due = false;
        let is_starting = self.attachments.values().any(|held| held.waiting.is_some());
        // To replace what a pod wrote takes as long as it wrote much, and a pod may take the relay's port and leave it
        // again as often as it likes.
        let is_repair = matches!(self.standing, KernelState::Drifted) || self.relay_fault.is_some();
        let kind = match (is_look, is_starting) {
            (true, _) => WorkKind::Audit,
            (false, true) => WorkKind::Attach,
            (false, false) if is_repair => WorkKind::Audit,
            (false, false) => WorkKind::Change,
        };
        Some(Job { kind, routes, relay, guests: self.guests.clone(), operation: work })
    }

    /// Whether there is anything for the relay to serve.
    fn is_relayed(&self, view: &ViewState) -> bool {
        self.demand.is_some() || view.desired.dispatch_keys().any(|pick| pick.action == Action::Relay)
    }

    /// Whether what stands there hands connections to a relay that does not listen, or refuses them though it does.
    fn is_relay_changed(&self, applied: &AppliedState) -> bool {
        let has_relay = applied.ruleset.settings().is_some_and(Settings::has_relay);
        has_relay == self.relay_fault.is_some()
    }

    fn work(&mut self, view: &mut ViewState, now: Instant) -> Option<(Option<AppliedState>, Operation)> {
        let demand = self.demand.as_ref();
        let is_behind = |applied: &AppliedState| {
            self.is_relay_changed(applied)
                || demand.map_or(applied.revision != view.revision, |demand| demand.is_dirty)
        };
        let is_forgotten = demand.is_some_and(|demand| !demand.is_recalled);
        let is_relay_due = self.relay_fault.as_ref().is_some_and(|fault| fault.retry_at <= now);
        let count = Operation::CountHits(view.portal_count());
        let is_count_due = demand.is_some_and(|demand| demand.is_count_due);
        match &self.standing {
            KernelState::Found if is_forgotten => return Some((None, count)),
            KernelState::Known(applied) if !is_behind(applied) => {
                let compare = |generation| Operation::Verify(applied.ruleset.clone(), generation);
                let work = match () {
                    () if !self.asked.is_empty() => compare(None),
                    () if self.is_audit_due => compare(applied.generation),
                    () if is_count_due => return Some((None, count)),
                    () if self.are_routes_due || is_relay_due => Operation::RoutesOnly,
                    () => return None,
                };
                return Some((Some(applied.clone()), work));
            }
            _ => {}
        }
        let (mut ruleset, touched) = self.demand.as_mut().map_or_else(
            || (view.desired.clone(), None),
            |demand| {
                let (ruleset, touched) = demand.aim();
                (ruleset, Some(touched))
            },
        );
        if self.relay_fault.is_some() {
            ruleset = ruleset.without_relay();
        }
        // A table with other settings is replaced as a whole.
        let has_settings = |applied: &AppliedState| applied.ruleset.settings() == ruleset.settings();
        let work = match (&self.standing, touched) {
            (KernelState::Found, _) => Operation::Verify(ruleset.clone(), None),
            (KernelState::Known(applied), None) if has_settings(applied) => {
                Operation::Apply(view.batch_from(applied.revision, &applied.ruleset, &ruleset))
            }
            (KernelState::Known(applied), Some(touched)) if has_settings(applied) => {
                Operation::Apply(OnDemandSet::batch_from(&applied.ruleset, &ruleset, &touched))
            }
            (_, None) => Operation::Apply(view.fresh_batch(&ruleset)),
            (_, Some(_)) => Operation::Apply(OnDemandSet::fresh_batch(view, &ruleset)),
        };
        Some((Some(AppliedState { revision: view.revision, ruleset, generation: None }), work))
    }

    fn exits(&self) -> Vec<Egress> {
        let held = self.attachments.values().map(|held| &held.attachment);
        held.map(|a| Egress { interface: a.key.interface.clone(), addresses: a.addresses.clone() }).collect()
    }

    /// Takes note of how the job ended.
    pub(crate) fn settle(&mut self, outcome: Outcome, now: Instant) -> JobResult {
        let Some(RunningJob { aim, is_look, asked, with_routes }) = self.running.take() else {
            return JobResult::default();
        };
        let before = self.revision();
        let mut settled = JobResult { asked, ..JobResult::default() };
        match outcome {
            Outcome::Applied(generation) | Outcome::Matches(generation) => {
                if matches!(outcome, Outcome::Matches(_)) {
                    self.backoff.reset();
                }
                if let Some(mut aim) = aim {
                    // A job that was about routes only says nothing new of the generation.
                    aim.generation = generation.or(aim.generation.filter(|_| !is_look));
                    self.standing = KernelState::Known(aim);
                }
                (self.failures, self.error) = (0, None);
                settled.right = Some(before);
            }
            // The next job refuses what the relay would serve.
            Outcome::RelayUnavailable => {
                self.are_routes_due |= with_routes;
                self.is_audit_due |= is_look;
                self.asked.append(&mut settled.asked);
            }
            Outcome::Counted(_) => (self.failures, self.error) = (0, None),
            Outcome::Drifted(why) => {
                if before.is_some() {
                    self.repairs += 1;
                    self.backoff.failed(now);
                }
                settled.damage = Some(why);
                self.standing = KernelState::Drifted;
            }
            Outcome::Failed { message, transient } => {
                self.are_routes_due |= with_routes;
                if before.is_some() {
                    match is_look {
                        true => self.backoff.failed(now),
                        false => self.standing = KernelState::Drifted,
                    }
                }
                let wait = RETRY_FIRST.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
                self.failures += 1;
                self.retry_at = Some(now + wait);
                self.error = Some(message.clone());
                settled.failure = Some((message, transient, wait));
            }
        }
        settled
    }

    /// The earliest time at which something waits for time to pass.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waiting = self.attachments.values().filter_map(|held| Some(held.waiting?.1));
        // Nothing is tried before a job that failed.
        let relay = self.relay_fault.as_ref().filter(|_| self.running.is_none() && self.retry_at.is_none());
        let relay = relay.map(|fault| fault.retry_at);
        waiting.chain(self.retry_at).chain(relay).chain(self.cleanup.deadline()).min()
    }
}
