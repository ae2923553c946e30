//! What happens to the agent (`Event`), and what it wants done (`Effect`).
//!
//! The agent itself is a state machine without IO or clock; the driver turns the world into events and runs
//! effects. What must not go in here: how either is done.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_ipc::{Attachment, AttachmentKey, Record, Reply};
use ipnet::IpNet;
use kube_source::RejectedObjects;
use netns_nft::NetnsId;
use proxy_core::guest::GuestInterfaces;
use proxy_core::node::Node;
use proxy_core::portal::{PortalKey, Portals, RefusalReason, ServiceFilter};
use proxy_core::ruleset::Ruleset;
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::Change;

use crate::pool::Kind;
use crate::view::Prepared;

/// Whoever asked and waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Services or endpoints changed.
    Changes(Vec<Change>),
    /// The own node changed.
    Node(Node),
    /// All that there was at first is known.
    Synced,
    /// The source cannot be read.
    Trouble(String),
    /// It can be read again.
    Recovered,
    /// How many objects cannot be used has changed, or there is one to name.
    Refused(RejectedObjects),
    /// The plugin brings a pod; its network namespace is open.
    Attach(Ticket, Attachment, NetnsId),
    /// An attachment was found that nobody brought; its network namespace is open.
    Adopt(Record),
    /// The plugin says that an attachment is gone.
    Detach(Ticket, AttachmentKey),
    /// The plugin asks whether a network namespace holds what it should.
    Check(Ticket, NetnsId),
    /// The plugin says which attachments of a network are left.
    Gc(Ticket, String, Vec<AttachmentKey>),
    /// The plugin asks whether an attachment would be served now.
    Ready(Ticket),
    /// A network namespace is not where it was: its pod is gone.
    Gone(NetnsId),
    /// A job in a network namespace had the relay listen there, or why it could not; then nothing else is done.
    Listened(NetnsId, Option<String>),
    /// A job in a network namespace ended.
    Done(NetnsId, Outcome),
    /// A record was written, or could not be.
    Recorded(Box<Record>, bool),
    /// A first connection in a network namespace came to the relay, on its way to this portal.
    Used(NetnsId, PortalKey),
    /// A clean-up of UDP flows in a network namespace ended; true where nothing of it is left to do.
    CleanedUp(NetnsId, bool),
    /// Time has passed.
    Tick,
}

/// Something to be done, in order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Work in a network namespace; the outcome comes back as `Event::Done`.
    Run(NetnsId, Job),
    /// Make UDP flows leave backends that are gone; its end comes back as `Event::CleanedUp`.
    ForgetUdp(NetnsId, Flows),
    /// Answer.
    Answer(Ticket, Reply),
    /// Write down an attachment.
    Write(Record),
    /// Remove what was written down.
    Erase(AttachmentKey),
    /// Let go of a network namespace.
    Close(NetnsId),
    /// Look which network namespaces are still where they were, and for records that nobody adopted.
    Look,
    /// Leave the ruleset of all services where the plugin finds it when the agent is not there.
    Store(Stored),
    /// The portals of a view, as they are now: what the relay chooses from.
    Portals(ServiceFilter, Portals),
    /// Nobody has this view any more.
    ViewGone(ServiceFilter),
    /// Say it in the log.
    Note(Note),
}

/// The UDP portals that changed, and where each may lead now.
pub(crate) type Flows = Arc<BTreeMap<PortalKey, Arc<[SocketAddr]>>>;

/// How many connections came to each portal that stands in a table on demand.
pub(crate) type Hits = BTreeMap<PortalKey, u64>;

/// What the plugin needs when the agent is not there.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) revision: u64,
    pub(crate) ranges: Arc<[IpNet]>,
    pub(crate) ruleset: Ruleset,
}

/// An interface and its addresses: service addresses that no route leads to go this way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Work in one network namespace.
#[derive(Debug)]
pub(crate) struct Job {
    /// The threads that do it.
    pub(crate) kind: Kind,
    /// Routes to these ranges are to be there first; none where they are known to be.
    pub(crate) routes: Option<(Vec<Exit>, Arc<[IpNet]>)>,
    /// The relay is to listen there first, and serve this view; none: nothing is relayed there.
    pub(crate) relay: Option<ServiceFilter>,
    /// The interfaces of the pod behind which guests are.
    pub(crate) guests: GuestInterfaces,
    /// The work itself.
    pub(crate) work: Work,
}

/// What is done in it.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Send a transaction.
    Apply(Arc<Prepared>),
    /// Look whether exactly this stands there; with a generation, only if it is another one by now.
    Compare(Ruleset, Option<u32>),
    /// Ask how often each portal on demand was used; there are at most so many.
    Count(usize),
    /// Routes only.
    Nothing,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The kernel has it. The generation is known where nobody else changed anything meanwhile.
    Applied(Option<u32>),
    /// What should stand there stands there.
    Same(Option<u32>),
    /// Something else stands there.
    Different(String),
    /// How often each portal on demand was used.
    Counted(Hits),
    /// Nothing of it was done, since the relay could not listen there.
    NotRelayed,
    /// Nothing of it was done.
    Failed {
        message: String,
        /// Whether trying again may help.
        transient: bool,
    },
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// The first complete state is there.
    Synced { services: usize, portals: usize },
    /// A plan has reached all network namespaces of its view.
    Applied {
        revision: u64,
        view: String,
        namespaces: usize,
        failed: usize,
        operations: usize,
        took: Duration,
    },
    /// A pod was attached.
    Attached { attachment: AttachmentKey, pod: Option<String>, how: &'static str },
    /// An attachment ended.
    Detached { attachment: AttachmentKey, why: &'static str },
    /// Something that the operator should look at, at an attachment.
    Odd { attachment: AttachmentKey, what: String },
    /// A network namespace held something else than it should, and is programmed anew.
    /// With a back-off, audits leave it out for that time.
    Damaged { netns: NetnsId, why: String, backoff: Option<Duration> },
    /// Portals were to be programmed on demand, and all are, because that cannot be.
    NotOnDemand(&'static str),
    /// Portals of a service are refused, for these reasons and so often.
    PortalsRefused { service: ServiceKey, reasons: Vec<(RefusalReason, usize)> },
    /// Pods that had full tables get their portals on demand, since tables take more memory than they may.
    MovedOnDemand { pods: usize, used: usize, most: usize },
    /// The relay cannot listen in a network namespace: relayed portals refuse, everything else goes on there.
    NotRelayed { netns: NetnsId, message: String },
    /// The annotation that has the backends of a service dialled from the node is ignored.
    DialIgnored(ServiceKey),
    /// A job failed and is tried again.
    Failed { netns: NetnsId, message: String, retry_in: Duration },
    /// The source of services cannot be read.
    Trouble(String),
    /// It can be read again.
    Recovered,
    /// An object cannot be used; what was known of it stays in force.
    Refused { reason: String, count: usize },
}
