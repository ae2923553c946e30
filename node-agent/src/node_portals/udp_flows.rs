//! `UdpFlows`: deletes the conntrack entries of UDP flows to removed backends, on a thread of its own.
//!
//! Listing the flows of a busy node takes longer than a transaction, so it runs concurrently with the updates. Frontends that
//! change while the thread is busy are collected for its next run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use netns_nft::Socket;
use proxy_core::portal::PortalKey;
use support::with_causes;

use crate::event::UdpBackends;

/// Hands frontends to the thread.
#[derive(Debug)]
pub(crate) struct UdpFlows(Sender<UdpBackends>);

impl UdpFlows {
    /// Starts the thread in the network namespace of the caller. It ends if this is dropped.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        thread::Builder::new().name("node-udp".to_owned()).spawn(move || run(&receiver))?;
        Ok(Self(sender))
    }

    /// Deletes flows to these frontends that go to other backends.
    pub(crate) fn check(&self, backends: UdpBackends) {
        // The thread ends only with this sender.
        let _ = self.0.send(backends);
    }
}

fn run(receiver: &Receiver<UdpBackends>) {
    while let Ok(first) = receiver.recv() {
        let mut backends: BTreeMap<PortalKey, Arc<[SocketAddr]>> = (*first).clone();
        while let Ok(more) = receiver.try_recv() {
            backends.extend(more.iter().map(|(key, backends)| (*key, Arc::clone(backends))));
        }
        match Socket::open().and_then(|socket| socket.delete_stale_udp(&backends)) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "deleted conntrack entries of removed backends on the node"),
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(error, "failed to delete conntrack entries of removed backends on the node");
            }
        }
    }
}
