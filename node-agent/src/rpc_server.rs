//! The server of the agent's Unix socket: receives the requests of the plugin and of `portico status`, and replies.
//!
//! Each connection has a thread, because entering a network namespace blocks, and a slow client must not delay others.

use std::collections::BTreeSet;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use agent_ipc::{Connection, Listener, Reply, Request};
use anyhow::Context;
use dns_server::DnsServer;
use nix::sys::memfd::{MFdFlags, memfd_create};
use proxy_core::portal::Portals;
use serde::Serialize;
use support::with_causes;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::message::{HandoverRequest, Message, NetnsPortals};
use crate::netns_worker::NetnsWorker;
use crate::pod_dns::{explain_answer, read_log};
use crate::report::Report;
use crate::reporter::Reporter;
use crate::traffic::{NetnsTraffic, TrafficReport, portal_hits};

/// The time in which a client must send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum time until a reply. The reconciler normally rejects a request earlier, with a reason.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// The maximum number of connections.
const CLIENTS_MAX: usize = 512;
/// The time in which counters are read for one client; the remaining network namespaces are reported as not read.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of elements that a table can have in addition to those of the portals of its view.
const EXTRA_ELEMENTS_MAX: usize = 1_024;
/// The delay after a failure to accept, which usually means that the process has no free file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until the process ends.
pub(crate) fn serve(
    listener: Listener,
    dns: Option<Arc<DnsServer>>,
    sender: UnboundedSender<Message>,
) -> std::io::Result<()> {
    let clients = Arc::new(AtomicUsize::new(0));
    let accept = move || loop {
        let connection = match listener.accept() {
            Ok(connection) => connection,
            Err(error) => {
                tracing::error!(%error, "failed to accept connection");
                thread::sleep(ACCEPT_RETRY);
                continue;
            }
        };
        let (sender, dns, client_count) = (sender.clone(), dns.clone(), Arc::clone(&clients));
        if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            clients.fetch_sub(1, Ordering::Relaxed);
            let message = format!("more than {CLIENTS_MAX} concurrent requests");
            let _ = connection.reply(&Reply::Refused { message, transient: true }, None);
            continue;
        }
        let serve = move || {
            handle(&connection, dns.as_ref(), &sender);
            client_count.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = thread::Builder::new().name("rpc".to_owned()).spawn(serve) {
            clients.fetch_sub(1, Ordering::Relaxed);
            tracing::error!(%error, "failed to spawn request thread");
        }
    };
    thread::Builder::new().name("rpc-accept".to_owned()).spawn(accept).map(drop)
}

fn handle(connection: &Connection, dns: Option<&Arc<DnsServer>>, sender: &UnboundedSender<Message>) {
    let (request, netns) = match connection.receive(REQUEST_TIMEOUT) {
        Ok((message, netns)) => (message.body, netns),
        Err(error) => {
            tracing::warn!(error = %with_causes(&error), "rejected request");
            return;
        }
    };
    let (reply, file) = match request {
        Request::Status { hits: false, .. } => status(sender, dns, None),
        Request::Status { hits: true, pod } => status(sender, dns, Some(pod)),
        Request::Dns { pod, name, kind } => inspect_dns(sender, dns, |server, report| {
            explain_answer(server, report, pod.as_deref(), &name, &kind)
        }),
        Request::DnsLog { pod } => inspect_dns(sender, dns, |server, report| read_log(server, report, &pod)),
        Request::Handover => return hand_over(connection, dns, sender),
        request => (forward(request, netns, sender), None),
    };
    if let Err(error) = connection.reply(&reply, file.as_ref().map(AsFd::as_fd)) {
        tracing::warn!(error = %with_causes(&error), "failed to send reply");
    }
}

/// Replies as soon as this agent changes nothing any more. The other agent closes the connection when it is ready.
fn hand_over(connection: &Connection, dns: Option<&Arc<DnsServer>>, sender: &UnboundedSender<Message>) {
    let (reply, receiver) = sync_channel(1);
    let (served, is_served) = oneshot::channel();
    let sent = sender.send(Message::Handover(HandoverRequest { reply, is_served }));
    let reply = sent.ok().and_then(|()| receiver.recv_timeout(REPLY_TIMEOUT).ok());
    if connection.reply(&reply.unwrap_or_else(stopping), None).is_ok() {
        connection.wait_for_close(|socket| {
            if let Some(Err(error)) = dns.map(|dns| dns.share(socket.as_fd())) {
                tracing::warn!(%error, "failed to share DNS sockets with the new agent");
            }
        });
    }
    // The receiver is dropped if a shutdown was requested meanwhile.
    let _ = served.send(());
}

fn stopping() -> Reply {
    Reply::Refused { message: "the agent is stopping".to_owned(), transient: true }
}

/// Opens the netns of a request, forwards the request to the reconciler, and waits for the reply.
fn forward(request: Request, netns: Option<OwnedFd>, sender: &UnboundedSender<Message>) -> Reply {
    let worker = match (&request, netns) {
        (Request::Attach(attachment) | Request::Check(attachment), Some(fd)) => {
            match NetnsWorker::from_fd(fd, &attachment.netns) {
                Ok(worker) => Some(Arc::new(worker)),
                Err(error) => {
                    return Reply::Refused { transient: error.is_transient(), message: with_causes(&error) };
                }
            }
        }
        _ => None,
    };
    let (reply, receiver) = sync_channel(1);
    if sender.send(Message::Request(request, worker, reply)).is_err() {
        return stopping();
    }
    receiver.recv_timeout(REPLY_TIMEOUT).unwrap_or_else(|_| stopping())
}

/// Returns the report as a file, because its size depends on the number of attachments. With `traffic_of`, it includes
/// the traffic of one pod or of all pods.
fn status(
    sender: &UnboundedSender<Message>,
    dns: Option<&Arc<DnsServer>>,
    traffic_of: Option<Option<String>>,
) -> (Reply, Option<OwnedFd>) {
    let write_report = || {
        let mut report = Reporter::new(sender.clone(), dns.cloned()).report_blocking()?;
        if let Some(pod) = traffic_of {
            let (receiver, namespaces) = oneshot::channel();
            sender.send(Message::ListNetns(receiver))?;
            report.traffic = Some(read_traffic(&namespaces.blocking_recv()?, &report, pod.as_deref()));
        }
        json_file(&report)
    };
    file_reply(write_report())
}

/// Returns the result of an inspection of DNS in pods as a file.
fn inspect_dns<T: Serialize>(
    sender: &UnboundedSender<Message>,
    dns: Option<&Arc<DnsServer>>,
    inspect: impl FnOnce(&DnsServer, &Report) -> anyhow::Result<T>,
) -> (Reply, Option<OwnedFd>) {
    let inspect = || {
        let server = dns.context("the agent does not answer DNS queries: it has no --dns")?;
        let report = Reporter::new(sender.clone(), None).report_blocking()?;
        json_file(&inspect(server, &report)?)
    };
    file_reply(inspect())
}

/// Returns a file with a value as JSON.
fn json_file(value: &impl Serialize) -> anyhow::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create("portico-reply", MFdFlags::MFD_CLOEXEC)?);
    serde_json::to_writer(&mut file, value)?;
    file.flush()?;
    file.rewind()?;
    Ok(OwnedFd::from(file))
}

fn file_reply(file: anyhow::Result<OwnedFd>) -> (Reply, Option<OwnedFd>) {
    match file {
        Ok(file) => (Reply::File, Some(file)),
        Err(error) => (Reply::Refused { message: format!("{error:#}"), transient: true }, None),
    }
}

/// The maximum number of elements in a set of a table with these portals, also if the table is some changes behind.
fn elements_max(portals: &Portals) -> usize {
    let elements: usize = portals.iter().map(|portal| portal.backends.len().max(1)).sum();
    2 * elements + EXTRA_ELEMENTS_MAX
}

/// Reads the traffic of one pod, or of all pods. It reads one network namespace at a time, to limit the use of CPU and
/// memory.
fn read_traffic(namespaces: &[NetnsPortals], report: &Report, pod: Option<&str>) -> TrafficReport {
    let until = Instant::now() + READ_TIMEOUT;
    let selected: BTreeSet<u64> =
        report.attachments_of(pod).map(|attachment| attachment.netns_inode).collect();
    let read = |NetnsPortals { worker, portals }: &NetnsPortals| {
        let counters = if Instant::now() < until {
            worker.counters(elements_max(portals), until).map_err(|error| with_causes(&error))
        } else {
            Err(format!("not read within {READ_TIMEOUT:?}; select a pod"))
        };
        let netns = worker.id().inode;
        match counters {
            Ok(counters) => NetnsTraffic { netns, error: None, portals: portal_hits(counters, portals) },
            Err(error) => NetnsTraffic { netns, error: Some(error), portals: Vec::new() },
        }
    };
    let is_selected = |netns: &&NetnsPortals| selected.contains(&netns.worker.id().inode);
    TrafficReport::new(namespaces.iter().filter(is_selected).map(read))
}
