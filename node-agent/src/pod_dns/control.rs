//! `DnsControl`: threads that open and close the sockets of the DNS server in network namespaces.
//!
//! The operations of one network namespace run in order on one thread; none of them delays the event loop.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use dns_server::DnsServer;
use netns_nft::NetnsId;
use support::with_causes;
use tokio::sync::mpsc::UnboundedSender;

use crate::event::Event;
use crate::message::Message;
use crate::netns_worker::NetnsWorker;
use crate::pod_dns::DnsTarget;

/// The number of threads.
const THREADS: usize = 4;

#[derive(Debug)]
enum Operation {
    Serve(Arc<NetnsWorker>, DnsTarget),
    Stop(NetnsId),
}

/// The DNS server, and the threads that change what it serves.
#[derive(Debug)]
pub(crate) struct DnsControl {
    server: Arc<DnsServer>,
    threads: Vec<Sender<Operation>>,
}

impl DnsControl {
    /// Starts the threads, which report failures as events.
    pub(crate) fn start(server: Arc<DnsServer>, events: &UnboundedSender<Message>) -> io::Result<Self> {
        let start = |number| {
            let (sender, operations) = channel();
            let (server, events) = (Arc::clone(&server), events.clone());
            let run = move || run(&operations, &server, &events);
            thread::Builder::new().name(format!("dns-control-{number}")).spawn(run)?;
            Ok(sender)
        };
        let threads = (0..THREADS).map(start).collect::<io::Result<_>>()?;
        Ok(Self { server, threads })
    }

    /// The server.
    pub(crate) fn server(&self) -> &Arc<DnsServer> {
        &self.server
    }

    /// Serves a network namespace, or changes how it is served.
    pub(crate) fn serve(&self, worker: Arc<NetnsWorker>, target: DnsTarget) {
        self.send(worker.id(), Operation::Serve(worker, target));
    }

    /// Stops serving a network namespace.
    pub(crate) fn stop(&self, netns: NetnsId) {
        self.send(netns, Operation::Stop(netns));
    }

    fn send(&self, netns: NetnsId, operation: Operation) {
        let index = usize::try_from(netns.cookie).unwrap_or_default() % THREADS;
        // The threads end only together with this sender.
        let _ = self.threads.get(index).map(|thread| thread.send(operation));
    }
}

fn run(operations: &Receiver<Operation>, server: &DnsServer, events: &UnboundedSender<Message>) {
    while let Ok(operation) = operations.recv() {
        match operation {
            Operation::Stop(netns) => server.close_pod(netns),
            Operation::Serve(worker, target) => {
                let netns = worker.id();
                let event = match worker.has_mesh() {
                    Ok(false) => worker
                        .serve_dns(server, target)
                        .err()
                        .map(|error| Event::DnsFailed(netns, with_causes(&error))),
                    Ok(true) => Some(Event::Mesh(netns, true)),
                    Err(error) => Some(Event::DnsFailed(netns, with_causes(&error))),
                };
                // During a shutdown the event loop receives nothing any more.
                if let Some(event) = event {
                    let _ = events.send(Message::Event(event));
                }
            }
        }
    }
}
