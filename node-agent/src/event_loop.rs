//! The driver: turns the world into events for `Reconciler`, and runs its effects.
//!
//! One task owns the agent; jobs in network namespaces run on threads for blocking work, at most one at a
//! time in each, so a slow one delays nobody else. What must not go in here: decisions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use agent_ipc::{
    Attachment, OutgoingAgent, Record, Records, Reply, Request, VIEW_DEFAULT, ruleset_path, with_causes,
};
use anyhow::Context;
use kube_source::Event as Told;
use netns_nft::{NetnsId, encode_fresh};
use proxy_core::portal::Portals;
use relay::{PortalUse, Relay};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel};
use tokio::sync::oneshot;
use tokio::time::sleep_until;

use crate::cni_watch::ScanDone;
use crate::event::{Effect, Event, Job, Outcome, RequestId, StoredRuleset, UdpBackends};
use crate::event_log;
use crate::netns_worker::NetnsWorker;
use crate::reconciler::Reconciler;
use crate::recovery::{FoundAttachment, Recovery};
use crate::report::Report;
use crate::thread_pools::{ThreadPools, WorkKind};

/// What reaches the driver from other threads and tasks.
#[derive(Debug)]
pub(crate) enum Message {
    /// The plugin asks; the network namespace that it sent is open.
    Asked(Request, Option<Arc<NetnsWorker>>, SyncSender<Reply>),
    /// An attachment was found that nobody brought.
    Found(Box<FoundAttachment>),
    /// Where attachments are found that nobody brought, something changed.
    Look(ScanDone),
    /// Something happened in a network namespace.
    Happened(Event),
    /// Somebody wants to know everything.
    Report(oneshot::Sender<Report>),
    /// Somebody wants to read what came to the portals of every network namespace.
    Places(oneshot::Sender<Vec<NetnsPortals>>),
    /// Another agent takes over.
    Retire(HandoverRequest),
}

/// A network namespace, and the portals that it sees.
#[derive(Debug)]
pub(crate) struct NetnsPortals {
    pub(crate) namespace: Arc<NetnsWorker>,
    pub(crate) portals: Portals,
}

/// Another agent takes over.
#[derive(Debug)]
pub(crate) struct HandoverRequest {
    /// Answered when nothing is changed any more.
    pub(crate) reply: SyncSender<Reply>,
    /// The other agent serves everything.
    pub(crate) is_served: oneshot::Receiver<()>,
}

/// Why a driver ended.
#[derive(Debug)]
pub(crate) enum ExitReason {
    /// It was told to stop, or the source of services ended.
    Stopped,
    /// Another agent takes over.
    Retired(HandoverRequest),
}

/// Runs the agent.
#[derive(Debug)]
pub(crate) struct EventLoop {
    agent: Reconciler,
    namespaces: HashMap<NetnsId, Arc<NetnsWorker>>,
    waiting: BTreeMap<RequestId, SyncSender<Reply>>,
    tickets: u64,
    relay: Arc<Relay>,
    pools: ThreadPools,
    records: Records,
    adopter: Arc<Recovery>,
    sender: UnboundedSender<Message>,
    /// The agent that was here before, which relays until all is served here.
    predecessor: Option<OutgoingAgent>,
    /// Whoever works holds the sender; when all are gone, no work is left.
    working: Sender<()>,
    worked: Receiver<()>,
}

impl EventLoop {
    /// A driver of this agent, which other threads probe_api_server by `sender`.
    pub(crate) fn new(
        agent: Reconciler,
        adopter: Recovery,
        relay: Arc<Relay>,
        predecessor: Option<OutgoingAgent>,
        sender: UnboundedSender<Message>,
    ) -> Self {
        let records = adopter.records.clone();
        let (working, worked) = channel(1);
        Self {
            agent,
            namespaces: HashMap::new(),
            waiting: BTreeMap::new(),
            tickets: 0,
            relay,
            pools: ThreadPools::new(),
            records,
            adopter: Arc::new(adopter),
            sender,
            predecessor,
            working,
            worked,
        }
    }

    /// Runs until the source of services ends or `stop` says so.
    pub(crate) async fn run(
        &mut self,
        mut source: Receiver<Told>,
        mut messages: UnboundedReceiver<Message>,
        mut uses: Receiver<PortalUse>,
        stop: impl Future<Output = ()>,
    ) -> ExitReason {
        tokio::pin!(stop);
        loop {
            let deadline = self.agent.deadline().unwrap_or_else(Instant::now);
            let event = tokio::select! {
                () = &mut stop => return ExitReason::Stopped,
                Some(message) = messages.recv() => match self.event_of(message) {
                    Ok(event) => event,
                    Err(retirement) => return ExitReason::Retired(retirement),
                },
                Some(PortalUse { netns, key }) = uses.recv() => Some(Event::PortalUsed(netns, key)),
                told = source.recv() => match told {
                    Some(told) => Some(told.into()),
                    None => return ExitReason::Stopped,
                },
                () = sleep_until(deadline.into()) => Some(Event::Tick),
            };
            if let Some(event) = event {
                self.step(event);
            }
        }
    }

    /// Waits until no work is left that it began.
    pub(crate) async fn rest(self) {
        let Self { working, mut worked, pools, .. } = self;
        pools.dismiss();
        drop(working);
        let _ = worked.recv().await;
    }

    /// Takes over what ran before this agent, before anybody is served.
    pub(crate) async fn adopt(&mut self) -> anyhow::Result<()> {
        let adopter = Arc::clone(&self.adopter);
        let found = tokio::task::spawn_blocking(move || adopter.look(&Default::default()));
        for adopted in found.await.context("look for attachments from before")? {
            let event = self.take(adopted);
            self.step(event);
        }
        Ok(())
    }

    fn take(&mut self, FoundAttachment { record, namespace }: FoundAttachment) -> Event {
        self.namespaces.entry(record.netns_id).or_insert(namespace);
        Event::Recover(record)
    }

    fn step(&mut self, event: Event) {
        for effect in self.agent.step(Instant::now(), event) {
            self.execute(effect);
        }
        if self.predecessor.is_some() && self.agent.is_settled() {
            self.predecessor = None;
            tracing::info!("took over from the agent that was here before");
        }
    }

    /// What a message means to the agent; that another one takes over is the end.
    fn event_of(&mut self, message: Message) -> Result<Option<Event>, HandoverRequest> {
        Ok(match message {
            Message::Happened(event) => {
                // A job that was under way when its pod went may have listened there.
                if let Event::JobDone(netns, _) = event
                    && !self.namespaces.contains_key(&netns)
                {
                    self.relay.close_netns(netns);
                }
                Some(event)
            }
            Message::Report(wanted) => {
                let now = Instant::now();
                let report = Report { relay: self.relay.report(now), ..self.agent.report(now) };
                // Whoever asked may have gone.
                let _ = wanted.send(report);
                None
            }
            Message::Places(wanted) => {
                let place = |(netns, portals): (NetnsId, &Portals)| {
                    let namespace = Arc::clone(self.namespaces.get(&netns)?);
                    Some(NetnsPortals { namespace, portals: portals.clone() })
                };
                let _ = wanted.send(self.agent.seen().filter_map(place).collect());
                None
            }
            Message::Look(looked) => {
                self.look_for_attachments(looked);
                None
            }
            Message::Retire(retirement) => return Err(retirement),
            Message::Found(adopted) => Some(self.take(*adopted)),
            Message::Asked(request, namespace, reply) => {
                self.tickets += 1;
                let ticket = RequestId(self.tickets);
                self.waiting.insert(ticket, reply);
                self.request(ticket, request, namespace)
            }
        })
    }

    fn request(
        &mut self,
        ticket: RequestId,
        request: Request,
        namespace: Option<Arc<NetnsWorker>>,
    ) -> Option<Event> {
        let event = match (request, namespace) {
            (Request::Attach(attachment), Some(namespace)) => self.attach(ticket, attachment, namespace),
            (Request::Check(_), Some(namespace)) => Event::Check(ticket, namespace.id()),
            (Request::Detach { key }, _) => Event::Detach(ticket, key),
            (Request::Gc { network, valid }, _) => Event::Gc(ticket, network, valid),
            (Request::Ready, _) => Event::Ready(ticket),
            // The socket's side sees to these itself, and refuses what lacks a descriptor.
            (
                Request::GcList { .. }
                | Request::Status { .. }
                | Request::Handover
                | Request::Attach(_)
                | Request::Check(_),
                _,
            ) => {
                self.waiting.remove(&ticket);
                return None;
            }
        };
        Some(event)
    }

    fn attach(&mut self, ticket: RequestId, attachment: Attachment, namespace: Arc<NetnsWorker>) -> Event {
        let netns = namespace.id();
        self.namespaces.entry(netns).or_insert(namespace);
        Event::Attach(ticket, attachment, netns)
    }

    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Run(netns, job) => self.start(netns, job),
            Effect::DeleteStaleUdp(netns, flows) => self.delete_stale_udp(netns, flows),
            Effect::Reply(ticket, reply) => {
                if let Some(waiting) = self.waiting.remove(&ticket) {
                    // Whoever asked may have given up.
                    let _ = waiting.send(reply);
                }
            }
            Effect::WriteRecord(record) => self.write(record),
            Effect::RemoveRecord(key) => {
                if let Err(error) = self.records.remove(&key) {
                    tracing::warn!(attachment = %key, %error, "remove the record of an attachment");
                }
            }
            Effect::CloseNetns(netns) => {
                self.relay.close_netns(netns);
                self.namespaces.remove(&netns);
            }
            Effect::Sweep => self.look(),
            Effect::StoreRuleset(stored) => self.store(stored),
            Effect::SetRelayPortals(view, portals) => self.relay.set_portals(&view, portals),
            Effect::RemoveRelayView(view) => self.relay.remove_view(&view),
            Effect::Log(note) => event_log::log(&note),
        }
    }

    fn start(&self, netns: NetnsId, job: Job) {
        let sender = self.sender.clone();
        let Some(namespace) = self.namespaces.get(&netns).cloned() else {
            let message = "the network namespace is not open".to_owned();
            let outcome = Outcome::Failed { message, transient: false };
            let _ = sender.send(Message::Happened(Event::JobDone(netns, outcome)));
            return;
        };
        let (relay, working) = (Arc::clone(&self.relay), self.working.clone());
        self.pools.run(job.kind, move || {
            let _working = working;
            let fault = namespace.listen(&job, &relay).err();
            let is_relayed = fault.is_none();
            if job.relay.is_some() {
                let _ = sender.send(Message::Happened(Event::RelayListening(netns, fault)));
            }
            let outcome = if is_relayed { namespace.run(&job) } else { Outcome::RelayUnavailable };
            // The driver may be stopping; then nobody waits for it.
            let _ = sender.send(Message::Happened(Event::JobDone(netns, outcome)));
        });
    }

    fn delete_stale_udp(&self, netns: NetnsId, flows: UdpBackends) {
        let Some(namespace) = self.namespaces.get(&netns).cloned() else { return };
        let sender = self.sender.clone();
        self.pools.run(WorkKind::Cleanup, move || {
            let is_complete = match namespace.delete_stale_udp(&flows) {
                Ok(0) => true,
                Ok(count) => {
                    tracing::info!(netns = netns.inode, count, "moved UDP flows");
                    true
                }
                Err(error) => {
                    tracing::warn!(netns = netns.inode, error = %with_causes(&error), "failed to move UDP flows");
                    !error.is_transient()
                }
            };
            let _ = sender.send(Message::Happened(Event::CleanupDone(netns, is_complete)));
        });
    }

    fn write(&self, record: Record) {
        let written = self.records.write(&record);
        if let Err(error) = &written {
            tracing::error!(attachment = %record.attachment.key, %error, "failed to write the record of an attachment, tried again later");
        }
        let event = Event::RecordWritten(Box::new(record), written.is_ok());
        let _ = self.sender.send(Message::Happened(event));
    }

    /// Looks for pods that are gone and for attachments that nobody brought, beside everything else.
    fn look(&self) {
        self.relay.gc(Instant::now());
        let sender = self.sender.clone();
        let adopter = Arc::clone(&self.adopter);
        let namespaces: Vec<Arc<NetnsWorker>> = self.namespaces.values().cloned().collect();
        let known = self.agent.keys().cloned().collect();
        self.pools.run(WorkKind::File, move || {
            for namespace in namespaces.iter().filter(|namespace| namespace.is_gone()) {
                let _ = sender.send(Message::Happened(Event::NetnsGone(namespace.id())));
            }
            for adopted in adopter.look(&known) {
                let _ = sender.send(Message::Found(Box::new(adopted)));
            }
        });
    }

    /// Looks for attachments that nobody brought.
    fn look_for_attachments(&self, looked: ScanDone) {
        let (sender, adopter) = (self.sender.clone(), Arc::clone(&self.adopter));
        let known = self.agent.keys().cloned().collect();
        self.pools.run(WorkKind::File, move || {
            let _looked = looked;
            for adopted in adopter.look(&known) {
                let _ = sender.send(Message::Found(Box::new(adopted)));
            }
        });
    }

    fn store(&self, StoredRuleset { revision, ranges, ruleset }: StoredRuleset) {
        let path = ruleset_path(&self.adopter.state_dir, VIEW_DEFAULT);
        self.pools.run(WorkKind::File, move || {
            let batch = encode_fresh(&ruleset);
            let stored = netns_nft::RulesetSnapshot { revision, ranges: ranges.to_vec(), batch };
            let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            if let Err(error) = folder.and_then(|()| stored.write(&path)) {
                tracing::error!(path = %path.display(), %error, "write the ruleset for when the agent is not there");
            }
        });
    }
}

impl From<Told> for Event {
    fn from(told: Told) -> Self {
        match told {
            Told::Changes(changes) => Self::Changes(changes),
            Told::Node(node) => Self::Node(node),
            Told::Synced => Self::Synced,
            Told::Outage(why) => Self::Outage(why),
            Told::Recovered => Self::Recovered,
            Told::Rejected(refused) => Self::RejectedObjects(refused),
        }
    }
}

/// Asks a running driver for everything it knows.
pub(crate) async fn report(sender: &UnboundedSender<Message>) -> anyhow::Result<Report> {
    let (wanted, report) = oneshot::channel();
    sender.send(Message::Report(wanted)).context("ask the agent, which is stopping")?;
    report.await.context("hear from the agent, which is stopping")
}
