//! The agent's end of the socket: receives what the plugin and `portico status` ask, and answers.
//!
//! A thread for each connection, since entering a network namespace blocks and one slow peer must not hold
//! up the others. What must not go in here: what the answer is.

use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use attachment::{Connection, Listener, Reply, Request, with_causes};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::agent::driver::{Message, Retirement};
use crate::agent::namespace::Namespace;

/// A peer that connects has so long to say what it wants.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// The agent itself gives up earlier, with a reason; this bounds the wait all the same.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// More peers than this at once are refused.
const PEERS_MAX: usize = 512;
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
    let (request, netns) = match connection.receive(REQUEST_PATIENCE) {
        Ok((message, netns)) => (message.body, netns),
        Err(error) => {
            tracing::warn!(error = %with_causes(&error), "refused a request");
            return;
        }
    };
    let (reply, file) = match request {
        Request::Status => status(sender),
        Request::Retire => return retire(connection, sender),
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
    let asked = sender.send(Message::Retire(Retirement { reply, is_served }));
    let answer = asked.ok().and_then(|()| answer.recv_timeout(ANSWER_PATIENCE).ok());
    if connection.reply(&answer.unwrap_or_else(stopping), None).is_ok() {
        connection.ended();
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
            match Namespace::from_fd(fd, &attachment.netns) {
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
    answer.recv_timeout(ANSWER_PATIENCE).unwrap_or_else(|_| stopping())
}

/// The status is as long as there are attachments, so it comes in a file.
fn status(sender: &UnboundedSender<Message>) -> (Reply, Option<OwnedFd>) {
    let written = || {
        let (wanted, report) = oneshot::channel();
        sender.send(Message::Report(wanted))?;
        let report = report.blocking_recv()?;
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
