//! The agent's end of the socket: receives what the plugin and `portico status` ask, and answers.
//!
//! A thread for each connection, since entering a network namespace blocks and one slow peer must not hold
//! up the others. What must not go in here: what the answer is.

use std::collections::BTreeSet;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use agent_ipc::{Connection, Listener, Reply, Request, with_causes};
use nix::sys::memfd::{MFdFlags, memfd_create};
use proxy_core::portal::Portals;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::event_loop::{HandoverRequest, Message, NetnsPortals};
use crate::netns_worker::NetnsWorker;
use crate::report::Report;
use crate::traffic::{NetnsTraffic, TrafficReport, hits_of};

/// A peer that connects has so long to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The agent itself gives up earlier, with a reason; this bounds the wait all the same.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// More peers than this at once are refused.
const PEERS_MAX: usize = 512;
/// So long network namespaces are read for one peer; those that are left are told as not read.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// As many elements more may stand in a network namespace than the portals of its view account for.
const ELEMENTS_SPARE: usize = 1_024;
/// After a failure to accept, which has to do with this machine's limits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the process ends.
pub(crate) fn serve(listener: Listener, sender: UnboundedSender<Message>) -> std::io::Result<()> {
    let peers = Arc::new(AtomicUsize::new(0));
    let accept = move || loop {
        let connection = match listener.accept() {
            Ok(connection) => connection,
            Err(error) => {
                tracing::error!(%error, "accept a connection on the agent's socket");
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let (sender, peers) = (sender.clone(), Arc::clone(&peers));
        if peers.fetch_add(1, Ordering::Relaxed) >= PEERS_MAX {
            peers.fetch_sub(1, Ordering::Relaxed);
            let message = format!("more than {PEERS_MAX} requests at once");
            let _ = connection.reply(&Reply::Refused { message, transient: true }, None);
            continue;
        }
        let counter = Arc::clone(&peers);
        let serve = move || {
            answer(&connection, &sender);
            counter.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = thread::Builder::new().name("peer".to_owned()).spawn(serve) {
            peers.fetch_sub(1, Ordering::Relaxed);
            tracing::error!(%error, "start a thread for a request");
        }
    };
    thread::Builder::new().name("socket".to_owned()).spawn(accept).map(drop)
}

fn answer(connection: &Connection, sender: &UnboundedSender<Message>) {
    let (request, netns) = match connection.receive(REQUEST_TIMEOUT) {
        Ok((message, netns)) => (message.body, netns),
        Err(error) => {
            tracing::warn!(error = %with_causes(&error), "refused a request");
            return;
        }
    };
    let (reply, file) = match request {
        Request::Status { hits: false, .. } => status(sender, None),
        Request::Status { hits: true, pod } => status(sender, Some(pod)),
        Request::Handover => return retire(connection, sender),
        request => (decided(request, netns, sender), None),
    };
    if let Err(error) = connection.reply(&reply, file.as_ref().map(AsFd::as_fd)) {
        tracing::warn!(error = %with_causes(&error), "answer a request");
    }
}

/// The answer comes when nothing is changed here any more; the end of the conversation says that the other agent
/// serves everything.
fn retire(connection: &Connection, sender: &UnboundedSender<Message>) {
    let (reply, answer) = sync_channel(1);
    let (served, is_served) = oneshot::channel();
    let asked = sender.send(Message::Retire(HandoverRequest { reply, is_served }));
    let answer = asked.ok().and_then(|()| answer.recv_timeout(REPLY_TIMEOUT).ok());
    if connection.reply(&answer.unwrap_or_else(stopping), None).is_ok() {
        connection.wait_for_close();
    }
    // The agent may have been told to stop meanwhile.
    let _ = served.send(());
}

fn stopping() -> Reply {
    Reply::Refused { message: "the agent is stopping".to_owned(), transient: true }
}

fn decided(request: Request, netns: Option<OwnedFd>, sender: &UnboundedSender<Message>) -> Reply {
    let namespace = match (&request, netns) {
        (Request::Attach(attachment) | Request::Check(attachment), Some(fd)) => {
            match NetnsWorker::from_fd(fd, &attachment.netns) {
                Ok(namespace) => Some(Arc::new(namespace)),
                Err(error) => {
                    return Reply::Refused { transient: error.is_transient(), message: with_causes(&error) };
                }
            }
        }
        _ => None,
    };
    let (reply, answer) = sync_channel(1);
    if sender.send(Message::Asked(request, namespace, reply)).is_err() {
        return stopping();
    }
    answer.recv_timeout(REPLY_TIMEOUT).unwrap_or_else(|_| stopping())
}

/// The status is as long as there are attachments, so it comes in a file. What came to portals is read here, beside
/// everything else.
fn status(sender: &UnboundedSender<Message>, hits_of: Option<Option<String>>) -> (Reply, Option<OwnedFd>) {
    let written = || {
        let (wanted, report) = oneshot::channel();
        sender.send(Message::Report(wanted))?;
        let mut report = report.blocking_recv()?;
        if let Some(pod) = hits_of {
            let (wanted, places) = oneshot::channel();
            sender.send(Message::Places(wanted))?;
            report.hits = Some(hits(&places.blocking_recv()?, &report, pod.as_deref()));
        }
        let mut file = std::fs::File::from(memfd_create("portico-status", MFdFlags::MFD_CLOEXEC)?);
        serde_json::to_writer(&mut file, &report)?;
        file.flush()?;
        file.rewind()?;
        Ok::<_, anyhow::Error>(OwnedFd::from(file))
    };
    match written() {
        Ok(file) => (Reply::File, Some(file)),
        Err(error) => (Reply::Refused { message: format!("{error:#}"), transient: true }, None),
    }
}

/// A table of these portals has no set with more elements, also while it lags behind some changes.
fn elements_max(portals: &Portals) -> usize {
    let elements: usize = portals.iter().map(|portal| portal.backends.len().max(1)).sum();
    2 * elements + ELEMENTS_SPARE
}

/// What came to the portals of these network namespaces, or of one pod alone. One after the other: what is read is
/// large, and the processors are the pods'.
fn hits(places: &[NetnsPortals], report: &Report, pod: Option<&str>) -> TrafficReport {
    let until = Instant::now() + READ_TIMEOUT;
    let meant: BTreeSet<u64> = report.attachments_of(pod).map(|of| of.netns_inode).collect();
    let of = |NetnsPortals { namespace, portals }: &NetnsPortals| {
        let read = match Instant::now() < until {
            true => namespace.counted(elements_max(portals), until).map_err(|error| with_causes(&error)),
            false => Err(format!("not read within {READ_TIMEOUT:?}: there are too many; choose a pod")),
        };
        let netns = namespace.id().inode;
        match read {
            Ok(counted) => NetnsTraffic { netns, error: None, portals: hits_of(counted, portals) },
            Err(error) => NetnsTraffic { netns, error: Some(error), portals: Vec::new() },
        }
    };
    TrafficReport::of(places.iter().filter(|place| meant.contains(&place.namespace.id().inode)).map(of))
}
