//! `ServedPod`: one pod that a worker thread serves.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use dns::Client;
use netns_nft::{DnsTable, Error, GenerationRuns, GenerationSpan, NetnsId};
use rustix::net::{RecvFlags, recv};

use crate::arming::{Arming, ArmingStep};
use crate::pod_sockets::AddressSockets;
use crate::probe::Probe;
use crate::slab::Key;

/// The maximum number of queries that are discarded at a time; a queue holds fewer.
const DISCARDED_MAX: usize = 4_096;

/// A pod, with its sockets.
#[derive(Debug)]
pub(crate) struct ServedPod {
    pub(crate) id: NetnsId,
    /// The network namespace, in which sockets to upstreams are opened.
    pub(crate) netns: OwnedFd,
    pub(crate) client: Arc<Client>,
    pub(crate) addresses: Vec<AddressSockets>,
    pub(crate) probe: Probe,
    pub(crate) table: DnsTable,
    pub(crate) arming: Arming,
    /// Whether the sockets are those of a predecessor, whose redirect is armed already.
    pub(crate) is_adopted: bool,
    /// Why the redirect is not armed.
    pub(crate) error: Option<String>,
    /// The changes of the nf_tables generation by this server, which audits of the pod disregard.
    pub(crate) generations: Arc<GenerationRuns>,
    /// The sources of the worker's event queue that belong to this pod.
    pub(crate) sources: Vec<Key>,
    /// The number of open TCP connections.
    pub(crate) connections: usize,
}

impl ServedPod {
    /// Executes steps of the arming, and returns the next time at which something is due.
    pub(crate) fn execute(&mut self, steps: Vec<ArmingStep>, now: Instant) -> Option<Instant> {
        for step in steps {
            match step {
                ArmingStep::Discard => self.discard_queries(),
                ArmingStep::Arm => {
                    let armed = self.table.arm();
                    if !self.record(armed) {
                        self.arming.fail(now);
                        break;
                    }
                }
                ArmingStep::Disarm => {
                    let disarmed = self.table.disarm();
                    self.record(disarmed);
                    if self.arming.has_failed() && self.error.is_none() {
                        self.set_error("queries to the DNS address do not reach the agent".to_owned());
                    }
                }
                ArmingStep::Probe => self.send_probes(),
            }
        }
        if self.arming.is_confirmed() {
            self.error = None;
        }
        self.arming.deadline()
    }

    fn discard_queries(&self) {
        for address in &self.addresses {
            let mut discarded = 0;
            // A datagram of any length is removed as a whole.
            while discarded < DISCARDED_MAX
                && recv(&address.datagram, &mut [0; 1], RecvFlags::DONTWAIT).is_ok()
            {
                discarded += 1;
            }
        }
    }

    fn record(&mut self, result: Result<GenerationSpan, Error>) -> bool {
        match result {
            Ok(span) => {
                self.generations.record(span);
                true
            }
            Err(error) => {
                self.set_error(support::with_causes(&error));
                false
            }
        }
    }

    /// Sends a probe to each address. An address without a route needs no response, because clients have no route either;
    /// but at least one address must have one. Another probe that cannot be sent is not confirmed.
    fn send_probes(&mut self) {
        let mut sent = 0;
        let mut excused = Vec::new();
        for (index, address) in self.addresses.iter().enumerate() {
            match self.probe.send(index, address.server) {
                Ok(()) => sent += 1,
                Err(error) if is_unreachable(&error) => excused.push((index, error)),
                Err(error) => self.error = Some(unsent(address.server, &error)),
            }
        }
        for (index, error) in excused {
            if sent > 0 {
                self.arming.excuse(index);
            } else if let Some(address) = self.addresses.get(index) {
                self.error = Some(unsent(address.server, &error));
            }
        }
    }

    fn set_error(&mut self, error: String) {
        if self.error.as_ref() != Some(&error) {
            tracing::warn!(netns = self.id.inode, error, "pod uses the cluster's DNS servers");
        }
        self.error = Some(error);
    }
}

fn unsent(server: IpAddr, error: &io::Error) -> String {
    format!("failed to send probe to {server}: {error}")
}

/// Whether the pod has no route to an address, or no source address for it.
fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable
    )
}
