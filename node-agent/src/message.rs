//! `Message`: what other threads and tasks send to the event loop.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use agent_ipc::{Reply, Request};
use proxy_core::portal::Portals;
use tokio::sync::oneshot;

use crate::cni_watch::ScanGuard;
use crate::event::Event;
use crate::netns_worker::NetnsWorker;
use crate::recovery::FoundAttachment;
use crate::report::Report;

/// A message to the event loop from other threads and tasks.
#[derive(Debug)]
pub(crate) enum Message {
    /// A request of the plugin, with the opened netns if it carries one.
    Request(Request, Option<Arc<NetnsWorker>>, SyncSender<Reply>),
    /// An attachment was found in a record or in the CNI cache.
    Found(Box<FoundAttachment>),
    /// The CNI configuration or the CNI cache changed.
    CniChanged(ScanGuard),
    /// An event of the reconciler.
    Event(Event),
    /// A request for the agent's report.
    Report(oneshot::Sender<Report>),
    /// A request for all network namespaces and their portals.
    ListNetns(oneshot::Sender<Vec<NetnsPortals>>),
    /// Another agent takes over.
    Handover(HandoverRequest),
}

/// A network namespace and its visible portals.
#[derive(Debug)]
pub(crate) struct NetnsPortals {
    pub(crate) worker: Arc<NetnsWorker>,
    pub(crate) portals: Portals,
}

/// The request of another agent to take over.
#[derive(Debug)]
pub(crate) struct HandoverRequest {
    /// Receives the reply as soon as this agent changes nothing any more.
    pub(crate) reply: SyncSender<Reply>,
    /// Completes when the other agent is ready.
    pub(crate) is_served: oneshot::Receiver<()>,
}
