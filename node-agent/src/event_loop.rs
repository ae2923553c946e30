//! `EventLoop`: converts messages to events of the reconciler, and executes its effects.
//!
//! One task owns the reconciler. Jobs in network namespaces run on threads for blocking work, at most one at a time in
//! each, so a slow one does not delay others. The event loop makes no decisions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use agent_ipc::{Attachment, OutgoingAgent, Record, Records, Reply, Request, VIEW_DEFAULT, ruleset_path};
use anyhow::Context;
use kube_source::Event as SourceEvent;
use netns_nft::{NetnsId, encode_fresh};
use proxy_core::portal::Portals;
use relay::{PortalUse, Relay};
use support::with_causes;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel};
use tokio::time::sleep_until;

use crate::cni_watch::ScanGuard;
use crate::event::{Effect, Event, Job, Outcome, RequestId, StoredRuleset, UdpBackends};
use crate::event_log;
use crate::message::{HandoverRequest, Message, NetnsPortals};
use crate::netns_worker::NetnsWorker;
use crate::node_portals::NodePortals;
use crate::pod_dns::DnsControl;
use crate::reconciler::Reconciler;
use crate::recovery::{FoundAttachment, Recovery};
use crate::report::Report;
use crate::thread_pools::{ThreadPools, WorkKind};

mod dns;

/// Why the event loop ended.
#[derive(Debug)]
pub(crate) enum ExitReason {
    /// A shutdown was requested, or the service source ended.
    Stopped,
    /// Another agent takes over.
    Handover(HandoverRequest),
}

/// Runs the reconciler.
#[derive(Debug)]
pub(crate) struct EventLoop {
    reconciler: Reconciler,
    workers: HashMap<NetnsId, Arc<NetnsWorker>>,
    requests: BTreeMap<RequestId, SyncSender<Reply>>,
    last_request: u64,
    relay: Arc<Relay>,
    pools: ThreadPools,
    records: Records,
    recovery: Arc<Recovery>,
    sender: UnboundedSender<Message>,
    /// The previous agent, which relays until this one is ready.
    predecessor: Option<OutgoingAgent>,
    node_portals: Option<NodePortals>,
    dns: Option<DnsControl>,
    /// Each running job holds a clone of the sender, so the receiver ends when no job is left.
    job_guard: Sender<()>,
    jobs_done: Receiver<()>,
}

impl EventLoop {
    /// An event loop that receives messages through `sender`.
    pub(crate) fn new(
        reconciler: Reconciler,
        recovery: Recovery,
        relay: Arc<Relay>,
        predecessor: Option<OutgoingAgent>,
        sender: UnboundedSender<Message>,
    ) -> Self {
        let records = recovery.records.clone();
        let (job_guard, jobs_done) = channel(1);
        Self {
            reconciler,
            workers: HashMap::new(),
            requests: BTreeMap::new(),
            last_request: 0,
            relay,
            pools: ThreadPools::new(),
            records,
            recovery: Arc::new(recovery),
            sender,
            predecessor,
            node_portals: None,
            dns: None,
            job_guard,
            jobs_done,
        }
    }

    /// Passes changes on to these node portals from now on.
    pub(crate) fn set_node_portals(&mut self, node_portals: NodePortals) {
        self.node_portals = Some(node_portals);
    }

    /// Runs until the service source ends, another agent takes over, or `shutdown` completes.
    pub(crate) async fn run(
        &mut self,
        mut source: Receiver<SourceEvent>,
        mut messages: UnboundedReceiver<Message>,
        mut uses: Receiver<PortalUse>,
        shutdown: impl Future<Output = ()>,
    ) -> ExitReason {
        tokio::pin!(shutdown);
        loop {
            let deadline = self.reconciler.deadline().unwrap_or_else(Instant::now);
            let event = tokio::select! {
                () = &mut shutdown => return ExitReason::Stopped,
                Some(message) = messages.recv() => match self.receive(message) {
                    Ok(event) => event,
                    Err(request) => return ExitReason::Handover(request),
                },
                Some(PortalUse { netns, key }) = uses.recv() => Some(Event::PortalUsed(netns, key)),
                event = source.recv() => match event {
                    Some(event) => Some(Event::Source(event)),
                    None => return ExitReason::Stopped,
                },
                () = sleep_until(deadline.into()) => Some(Event::Tick),
            };
            if let Some(event) = event {
                self.handle(event);
            }
        }
    }

    /// Waits until all started jobs have ended.
    pub(crate) async fn wait_for_jobs(self) {
        let Self { job_guard, mut jobs_done, pools, .. } = self;
        pools.cancel_optional();
        drop(job_guard);
        let _ = jobs_done.recv().await;
    }

    /// Recovers the attachments of an earlier agent, before requests are served.
    pub(crate) async fn recover(&mut self) -> anyhow::Result<()> {
        let recovery = Arc::clone(&self.recovery);
        let found = tokio::task::spawn_blocking(move || recovery.find_unknown(&Default::default()));
        for attachment in found.await.context("failed to find existing attachments")? {
            let event = self.add_found(attachment);
            self.handle(event);
        }
        Ok(())
    }

    fn add_found(&mut self, FoundAttachment { record, worker }: FoundAttachment) -> Event {
        self.workers.entry(record.netns_id).or_insert(worker);
        Event::Recover(record)
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        for effect in self.reconciler.effects_before(now, &event) {
            self.execute(effect);
        }
        for effect in self.reconciler.step(now, event) {
            self.execute(effect);
        }
        if self.predecessor.is_some() && self.reconciler.is_settled() {
            self.predecessor = None;
            self.take_dns_ownership();
            tracing::info!("takeover complete");
        }
    }

    /// Converts a message to an event, if it concerns the reconciler. A handover ends the event loop.
    fn receive(&mut self, message: Message) -> Result<Option<Event>, HandoverRequest> {
        Ok(match message {
            Message::Event(event) => {
                // A job that was running when its pod was deleted can have made the relay listen.
                if let Event::JobDone(netns, _) = event
                    && !self.workers.contains_key(&netns)
                {
                    self.relay.close_netns(netns);
                }
                Some(event)
            }
            Message::Report(receiver) => {
                let now = Instant::now();
                let node_portals = self.node_portals.as_ref().map(NodePortals::report);
                let report =
                    Report { relay: self.relay.report(now), node_portals, ..self.reconciler.report(now) };
                // The client may have disconnected.
                let _ = receiver.send(report);
                None
            }
            Message::ListNetns(receiver) => {
                let netns_portals = |(netns, portals): (NetnsId, &Portals)| {
                    let worker = Arc::clone(self.workers.get(&netns)?);
                    Some(NetnsPortals { worker, portals: portals.clone() })
                };
                let _ = receiver.send(self.reconciler.portals_by_netns().filter_map(netns_portals).collect());
                None
            }
            Message::CniChanged(guard) => {
                self.find_attachments(guard);
                None
            }
            Message::Handover(request) => return Err(request),
            Message::Found(attachment) => Some(self.add_found(*attachment)),
            Message::Request(request, worker, reply) => {
                self.last_request += 1;
                let id = RequestId(self.last_request);
                self.requests.insert(id, reply);
                self.request_event(id, request, worker)
            }
        })
    }

    fn request_event(
        &mut self,
        id: RequestId,
        request: Request,
        worker: Option<Arc<NetnsWorker>>,
    ) -> Option<Event> {
        let event = match (request, worker) {
            (Request::Attach(attachment), Some(worker)) => self.attach(id, attachment, worker),
            (Request::Check(_), Some(worker)) => Event::Check(id, worker.id()),
            (Request::Detach { key }, _) => Event::Detach(id, key),
            (Request::Gc { network, valid }, _) => Event::Gc(id, network, valid),
            (Request::Ready, _) => Event::Ready(id),
            // The RPC server handles these, and rejects requests without a descriptor.
            (
                Request::GcList { .. }
                | Request::Status { .. }
                | Request::Handover
                | Request::ShareDns
                | Request::Dns { .. }
                | Request::DnsLog { .. }
                | Request::Attach(_)
                | Request::Check(_),
                _,
            ) => {
                self.requests.remove(&id);
                return None;
            }
        };
        Some(event)
    }

    fn attach(&mut self, id: RequestId, attachment: Attachment, worker: Arc<NetnsWorker>) -> Event {
        let netns = worker.id();
        self.workers.entry(netns).or_insert(worker);
        Event::Attach(id, attachment, netns)
    }

    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Run(netns, job) => self.start(netns, job),
            Effect::DeleteStaleUdp(netns, backends) => self.delete_stale_udp(netns, backends),
            Effect::Reply(id, reply) => {
                if let Some(receiver) = self.requests.remove(&id) {
                    // The client may have disconnected.
                    let _ = receiver.send(reply);
                }
            }
            Effect::WriteRecord(record) => self.write_record(record),
            Effect::RemoveRecord(key) => {
                if let Err(error) = self.records.remove(&key) {
                    tracing::warn!(attachment = %key, %error, "failed to remove attachment record");
                }
            }
            Effect::CloseNetns(netns) => {
                self.relay.close_netns(netns);
                self.stop_dns(netns);
                self.workers.remove(&netns);
            }
            Effect::Sweep => self.sweep(),
            Effect::StoreRuleset(ruleset) => self.store_ruleset(ruleset),
            Effect::SetRelayPortals(filter, portals) => self.relay.set_portals(&filter, portals),
            Effect::RemoveRelayView(filter) => self.relay.remove_view(&filter),
            Effect::UpdateNode(event) => {
                if let Some(node_portals) = &self.node_portals {
                    node_portals.send(event);
                }
            }
            Effect::SetZone(zone) => self.set_zone(&zone),
            Effect::ServeDns(netns, target) => self.serve_dns(netns, target),
            Effect::StopDns(netns) => self.stop_dns(netns),
            Effect::Log(event) => event_log::log(&event),
        }
    }

    fn start(&self, netns: NetnsId, job: Job) {
        let sender = self.sender.clone();
        let Some(worker) = self.workers.get(&netns).cloned() else {
            let message = "the network namespace is not open".to_owned();
            let outcome = Outcome::Failed { message, transient: false };
            let _ = sender.send(Message::Event(Event::JobDone(netns, outcome)));
            return;
        };
        let (relay, job_guard) = (Arc::clone(&self.relay), self.job_guard.clone());
        self.pools.run(job.kind, move || {
            let _job_guard = job_guard;
            let relay_error = worker.listen(&job, &relay).err();
            let can_run = relay_error.is_none();
            if job.relay.is_some() {
                let _ = sender.send(Message::Event(Event::RelayListening(netns, relay_error)));
            }
            let outcome = if can_run { worker.run(&job) } else { Outcome::RelayUnavailable };
            // During a shutdown the event loop receives nothing any more.
            let _ = sender.send(Message::Event(Event::JobDone(netns, outcome)));
        });
    }

    fn delete_stale_udp(&self, netns: NetnsId, backends: UdpBackends) {
        let Some(worker) = self.workers.get(&netns).cloned() else { return };
        let sender = self.sender.clone();
        self.pools.run(WorkKind::Cleanup, move || {
            let is_complete = match worker.delete_stale_udp(&backends) {
                Ok(0) => true,
                Ok(count) => {
                    tracing::info!(
                        netns = netns.inode,
                        count,
                        "deleted conntrack entries of removed backends"
                    );
                    true
                }
                Err(error) => {
                    let is_transient = error.is_transient();
                    let error = with_causes(&error);
                    let netns = netns.inode;
                    tracing::warn!(netns, error, "failed to delete conntrack entries of removed backends");
                    !is_transient
                }
            };
            let _ = sender.send(Message::Event(Event::CleanupDone(netns, is_complete)));
        });
    }

    fn write_record(&self, record: Record) {
        let written = self.records.write(&record);
        if let Err(error) = &written {
            let attachment = &record.attachment.key;
            tracing::error!(%attachment, %error, "failed to write attachment record; will retry");
        }
        let event = Event::RecordWritten(Box::new(record), written.is_ok());
        let _ = self.sender.send(Message::Event(event));
    }

    /// Finds deleted network namespaces and unknown attachments, on another thread.
    fn sweep(&self) {
        self.relay.gc(Instant::now());
        let sender = self.sender.clone();
        let workers: Vec<Arc<NetnsWorker>> = self.workers.values().cloned().collect();
        let find_attachments = self.attachment_finder();
        let has_dns = self.dns.is_some();
        self.pools.run(WorkKind::File, move || {
            for worker in workers.iter().filter(|worker| worker.is_gone()) {
                let _ = sender.send(Message::Event(Event::NetnsGone(worker.id())));
            }
            for worker in workers.iter().filter(|_| has_dns) {
                if let Ok(is_present) = worker.has_mesh() {
                    let _ = sender.send(Message::Event(Event::Mesh(worker.id(), is_present)));
                }
            }
            find_attachments();
        });
    }

    /// Finds unknown attachments, on another thread.
    fn find_attachments(&self, guard: ScanGuard) {
        let find_attachments = self.attachment_finder();
        self.pools.run(WorkKind::File, move || {
            let _guard = guard;
            find_attachments();
        });
    }

    /// Returns a function that sends a message for each unknown attachment.
    fn attachment_finder(&self) -> impl FnOnce() + Send + 'static {
        let (sender, recovery) = (self.sender.clone(), Arc::clone(&self.recovery));
        let known = self.reconciler.attachment_keys().cloned().collect();
        move || {
            for attachment in recovery.find_unknown(&known) {
                let _ = sender.send(Message::Found(Box::new(attachment)));
            }
        }
    }

    fn store_ruleset(&self, StoredRuleset { revision, ranges, ruleset }: StoredRuleset) {
        let path = ruleset_path(&self.recovery.state_dir, VIEW_DEFAULT);
        self.pools.run(WorkKind::File, move || {
            let batch = encode_fresh(&ruleset);
            let snapshot = netns_nft::RulesetSnapshot { revision, ranges: ranges.to_vec(), batch };
            let directory = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            if let Err(error) = directory.and_then(|()| snapshot.write(&path)) {
                tracing::error!(path = %path.display(), %error, "failed to write ruleset snapshot");
            }
        });
    }
}
