//! `NetnsState`: the known state of one network namespace.
//!
//! The state is recorded only after the kernel acknowledged it; if it is unknown, the next transaction replaces the
//! whole table. A netns that fails does not affect others. `jobs` contains the selection of the next job.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_ipc::{Attachment, AttachmentKey, ProgrammedBy};
use proxy_core::guest::GuestInterfaces;
use proxy_core::portal::ServiceFilter;
use proxy_core::ruleset::Ruleset;
use support::Backoff;

use crate::audit_backoff::AuditBackoff;
use crate::event::RequestId;
use crate::on_demand::OnDemandSet;
use crate::udp_cleanup::UdpCleanup;
use crate::view::ViewState;

/// The delays before a failed job is retried.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The delay before the relay tries again to listen.
const RELAY_RETRY: Duration = Duration::from_secs(5);

/// An attachment of this network namespace.
#[derive(Debug)]
pub(crate) struct AttachedPod {
    pub(crate) attachment: Attachment,
    pub(crate) programmed_by: ProgrammedBy,
    /// The request that waits until the netns is programmed, and its deadline.
    pub(crate) waiting: Option<(RequestId, Instant)>,
}

/// The state that the kernel acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct AppliedState {
    pub(crate) revision: u64,
    pub(crate) ruleset: Ruleset,
    /// The kernel's generation of the ruleset; unknown if another process changed it at the same time.
    pub(crate) generation: Option<u32>,
}

/// What is known about the table in the kernel.
#[derive(Debug)]
pub(crate) enum KernelState {
    /// A new pod without a table.
    New,
    /// A table from an earlier agent or from the plugin, which may be up to date.
    Found,
    /// Exactly this table.
    Known(AppliedState),
    /// A table that differs from the desired state.
    Drifted,
}

/// The running job.
#[derive(Debug)]
struct RunningJob {
    /// The state of the table if the job succeeds. None: the job does not tell.
    expected: Option<AppliedState>,
    is_read: bool,
    checks: Vec<RequestId>,
    has_routes: bool,
}

/// Why the relay does not listen, and when it tries again.
#[derive(Debug)]
struct RelayError {
    message: String,
    retry_at: Instant,
}

/// The result of a job.
#[derive(Debug)]
pub(crate) struct JobResult {
    /// The requests that asked whether the netns is up to date.
    pub(crate) checks: Vec<RequestId>,
    pub(crate) conclusion: Conclusion,
}

/// What a job found out about its netns.
#[derive(Debug)]
pub(crate) enum Conclusion {
    /// Nothing new.
    Unchanged,
    /// The netns has the state that the job expected. Holds the previous revision, if it was known.
    UpToDate { previous: Option<u64> },
    /// The table differs from the desired state, in this way.
    Drifted(String),
    /// The job failed.
    Failed { message: String, transient: bool, retry_in: Duration },
}

/// One network namespace.
#[derive(Debug)]
pub(crate) struct NetnsState {
    pub(crate) filter: ServiceFilter,
    /// The portals in use. None: all portals of the view are programmed.
    pub(crate) on_demand: Option<OnDemandSet>,
    pub(crate) pods: BTreeMap<AttachmentKey, AttachedPod>,
    pub(crate) kernel: KernelState,
    pub(crate) cleanup: UdpCleanup,
    /// The interfaces behind which guests are, from the pod's annotation.
    guests: GuestInterfaces,
    running: Option<RunningJob>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    error: Option<String>,
    /// Requests that ask whether the netns is up to date.
    checks: Vec<RequestId>,
    is_audit_due: bool,
    are_routes_due: bool,
    audit_backoff: AuditBackoff,
    repairs: u64,
    relay_error: Option<RelayError>,
}

impl NetnsState {
    /// A netns without attachments yet.
    pub(crate) fn new(filter: ServiceFilter, kernel: KernelState) -> Self {
        Self {
            filter,
            on_demand: None,
            pods: BTreeMap::new(),
            kernel,
            cleanup: UdpCleanup::default(),
            guests: GuestInterfaces::default(),
            running: None,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
            retry_at: None,
            error: None,
            checks: Vec::new(),
            is_audit_due: false,
            are_routes_due: true,
            audit_backoff: AuditBackoff::default(),
            repairs: 0,
            relay_error: None,
        }
    }

    /// The revision in the kernel, if known.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.applied().map(|applied| applied.revision)
    }

    /// The number of portals in the kernel.
    pub(crate) fn portal_count(&self) -> usize {
        self.applied().map_or(0, |applied| applied.ruleset.portal_count())
    }

    fn applied(&self) -> Option<&AppliedState> {
        if let KernelState::Known(applied) = &self.kernel { Some(applied) } else { None }
    }

    /// Whether the netns has the desired state.
    pub(crate) fn is_up_to_date(&self, view: &ViewState) -> bool {
        self.revision() == Some(view.revision) && self.error.is_none()
    }

    /// Whether the first attempt to reach the desired state ended.
    pub(crate) fn is_settled(&self) -> bool {
        self.revision().is_some() || self.error.is_some()
    }

    /// The last error of a job or of the relay.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref().or_else(|| self.relay_error.as_ref().map(|error| error.message.as_str()))
    }

    /// The number of repairs.
    pub(crate) fn repairs(&self) -> u64 {
        self.repairs
    }

    /// For how long audits skip this netns because of repeated drift.
    pub(crate) fn audit_backoff(&self, now: Instant) -> Option<Duration> {
        self.audit_backoff.remaining(now)
    }

    /// Adds an attachment and returns the one that it replaces. The guest interfaces belong to the pod, so they are the
    /// same for each of its attachments; a table without them is replaced.
    pub(crate) fn attach(&mut self, pod: AttachedPod) -> Option<AttachedPod> {
        let guests = pod.attachment.guests().unwrap_or_default();
        if !guests.is_empty() && guests != self.guests {
            self.guests = guests;
            if matches!(self.kernel, KernelState::Known(_)) {
                self.kernel = KernelState::Drifted;
            }
        }
        self.are_routes_due = true;
        self.retry_now();
        self.pods.insert(pod.attachment.key.clone(), pod)
    }

    /// Switches to another view; the whole table is replaced.
    pub(crate) fn switch_view(&mut self, filter: ServiceFilter, on_demand: Option<OnDemandSet>) {
        (self.filter, self.on_demand, self.kernel) = (filter, on_demand, KernelState::Drifted);
    }

    /// Requests a check whether the netns is up to date.
    pub(crate) fn check(&mut self, id: RequestId) {
        self.retry_now();
        self.checks.push(id);
    }

    /// Removes and returns the requested checks.
    pub(crate) fn take_checks(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.checks)
    }

    /// Ends the wait after a failed job.
    fn retry_now(&mut self) {
        self.retry_at = None;
    }

    /// Requests that the routes are ensured.
    pub(crate) fn request_routes(&mut self) {
        self.are_routes_due = true;
    }

    /// Starts an audit, unless the netns is in back-off.
    pub(crate) fn begin_audit(&mut self, now: Instant) {
        if self.audit_backoff.remaining(now).is_none() {
            // Includes routes: the kernel removes a route together with its interface.
            (self.is_audit_due, self.are_routes_due) = (true, true);
            if let Some(on_demand) = &mut self.on_demand {
                on_demand.is_count_due = true;
            }
        }
    }

    /// Advances to the view's revision without a job if the changes do not affect this netns. Returns the previous
    /// revision.
    pub(crate) fn fast_forward(&mut self, view: &ViewState) -> Option<u64> {
        let is_unaffected =
            self.running.is_none() && self.on_demand.as_ref().is_some_and(|set| !set.is_dirty);
        match &mut self.kernel {
            KernelState::Known(applied) if is_unaffected && applied.revision != view.revision => {
                Some(std::mem::replace(&mut applied.revision, view.revision))
            }
            _ => None,
        }
    }

    /// Records whether the relay listens. Returns the error if it is a new one.
    pub(crate) fn set_relay_error(&mut self, error: Option<String>, now: Instant) -> Option<String> {
        let previous = self.relay_error.take().map(|error| error.message);
        let message = error?;
        self.relay_error = Some(RelayError { message: message.clone(), retry_at: now + RELAY_RETRY });
        Some(message).filter(|message| previous.as_ref() != Some(message))
    }

    /// Returns the earliest time at which something is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waiting = self.pods.values().filter_map(|pod| Some(pod.waiting?.1));
        // A failed job is retried before the relay.
        let relay = self.relay_error.as_ref().filter(|_| self.running.is_none() && self.retry_at.is_none());
        let relay = relay.map(|error| error.retry_at);
        waiting.chain(self.retry_at).chain(relay).chain(self.cleanup.deadline()).min()
    }
}

mod jobs;
