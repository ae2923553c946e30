//! `NetnsWorker`: an open network namespace, and the jobs that run in it.
//!
//! Its netlink socket stays open while the pod is attached, so that an update costs one system call and does not have
//! to enter the netns. All functions block, and run on threads for blocking work.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dns_server::{DnsPod, DnsServer, OpenError};
use ipnet::IpNet;
use netns_nft::{
    Counters, Error, GenerationRuns, Limits, Netns, NetnsId, Socket, TableState, add_service_routes,
};
use proxy_core::guest::GuestInterfaces;
use proxy_core::kernel_model::Table;
use proxy_core::ruleset::Ruleset;
use relay::Relay;
use support::with_causes;

use crate::event::{Egress, Job, Operation, Outcome, UdpBackends};
use crate::pod_dns::{CHAINS_MAX, DnsTarget, is_mesh_chain};
use crate::view::EncodedBatch;

/// The time limit for reading a table.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct NetnsWorker {
    netns: Netns,
    socket: Mutex<Socket>,
    /// Its path, if it is visible to the agent. Otherwise, the agent cannot check whether it still exists.
    path: Option<PathBuf>,
    /// The transactions of the agent's DNS server, which change no portals. An audit ignores them.
    pub(crate) generation_runs: Arc<GenerationRuns>,
}

impl NetnsWorker {
    /// Opens the netns at this path.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Self::from_fd(File::open(path).map_err(Error::Enter)?.into(), path)
    }

    /// Uses the netns of a descriptor that a client sent, together with its path.
    pub(crate) fn from_fd(fd: OwnedFd, path: &Path) -> Result<Self, Error> {
        let (netns, socket) = Netns::with_socket(fd)?;
        let socket = Mutex::new(socket);
        let path = is_at_path(path, netns.id()).then(|| path.to_owned());
        Ok(Self { netns, socket, path, generation_runs: Arc::default() })
    }

    /// The identity of the netns.
    pub(crate) fn id(&self) -> NetnsId {
        self.netns.id()
    }

    /// Whether the pod is known to be deleted: the netns is no longer at its path. The open descriptor keeps the netns
    /// with its interfaces and addresses alive.
    pub(crate) fn is_gone(&self) -> bool {
        self.path.as_ref().is_some_and(|path| !is_at_path(path, self.id()))
    }

    /// Makes the relay listen in the netns if the job needs it, before any rule redirects connections to it.
    pub(crate) fn listen(&self, job: &Job, relay: &Relay) -> Result<(), String> {
        let has_guests = !job.guests.is_empty();
        let result =
            job.relay.as_ref().map_or(Ok(()), |view| relay.open_netns(&self.netns, view, has_guests));
        result.map_err(|error| with_causes(&error))
    }

    /// Whether a service mesh redirects connections in the netns.
    pub(crate) fn has_mesh(&self) -> Result<bool, Error> {
        self.netns.socket()?.any_chain(CHAINS_MAX, is_mesh_chain)
    }

    /// Makes the DNS server answer the queries of the netns.
    pub(crate) fn serve_dns(
        &self,
        server: &DnsServer,
        DnsTarget { client, servers }: DnsTarget,
    ) -> Result<(), OpenError> {
        let generations = Arc::clone(&self.generation_runs);
        server.open_pod(&self.netns, DnsPod { client, servers, generations })
    }

    /// Runs a job.
    pub(crate) fn run(&self, job: &Job) -> Outcome {
        self.try_run(job).unwrap_or_else(|error| Outcome::Failed {
            transient: error.is_transient(),
            message: with_causes(&error),
        })
    }

    fn try_run(&self, Job { kind: _, routes, relay: _, guests, operation }: &Job) -> Result<Outcome, Error> {
        if let Some((egresses, ranges)) = routes {
            self.ensure_routes(egresses, ranges)?;
        }
        let socket = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match operation {
            Operation::RoutesOnly => Ok(Outcome::Applied(None)),
            Operation::Apply(batch) => apply(&socket, batch, guests),
            Operation::CountHits(portals) => {
                let hits = self.netns.socket()?.on_demand_hits(&Limits::elements(*portals), read_deadline());
                Ok(Outcome::Counted(hits?))
            }
            Operation::Verify(ruleset, generation) => {
                let current = socket.generation()?;
                if generation.is_some_and(|known| self.generation_runs.cover(known, current)) {
                    return Ok(Outcome::Matches(Some(current)));
                }
                self.verify(ruleset, guests, current)
            }
        }
    }

    fn ensure_routes(&self, egresses: &[Egress], ranges: &[IpNet]) -> Result<(), Error> {
        if ranges.is_empty() {
            return Ok(());
        }
        for Egress { interface, addresses } in egresses {
            match add_service_routes(&self.netns, interface, addresses, ranges) {
                // The pod was removed from one of its networks without a DEL; the others still have routes.
                Err(Error::NoInterface { .. }) if egresses.len() > 1 => {}
                result => drop(result?),
            }
        }
        Ok(())
    }

    /// Verifies that the table equals the ruleset. The dump of a table that is larger than expected is aborted, after
    /// which a socket can only be closed, so this opens another socket.
    fn verify(&self, ruleset: &Ruleset, guests: &GuestInterfaces, generation: u32) -> Result<Outcome, Error> {
        let desired = Table { guests: guests.clone(), ..Table::from(ruleset) };
        Ok(match self.netns.socket()?.read_table_within(&Limits::of(&desired), read_deadline())? {
            TableState::Intact(found) if found == desired => Outcome::Matches(Some(generation)),
            TableState::Intact(found) => Outcome::Drifted(difference(&found, &desired)),
            TableState::Missing => Outcome::Drifted("the table is gone".to_owned()),
            TableState::Drifted(why) => Outcome::Drifted(why),
        })
    }

    /// Reads the counters of portals and backends, concurrently with jobs, if no set has more elements than this.
    pub(crate) fn counters(&self, elements_max: usize, until: Instant) -> Result<Counters, Error> {
        self.netns.socket()?.counters(&Limits::elements(elements_max), Some(until))
    }

    /// Deletes conntrack entries of UDP flows to other backends than these. Returns their number.
    pub(crate) fn delete_stale_udp(&self, backends: &UdpBackends) -> Result<usize, Error> {
        self.netns.socket()?.delete_stale_udp(backends)
    }
}

fn apply(socket: &Socket, batch: &EncodedBatch, guests: &GuestInterfaces) -> Result<Outcome, Error> {
    if batch.batch.is_empty() {
        return Ok(Outcome::Applied(Some(socket.generation()?)));
    }
    let before = socket.generation()?;
    if batch.is_fresh && !guests.is_empty() {
        socket.apply(&batch.batch.with_guests(guests))?;
    } else {
        socket.apply(&batch.batch)?;
    }
    let after = socket.generation()?;
    Ok(Outcome::Applied((after == before.wrapping_add(1)).then_some(after)))
}

fn read_deadline() -> Option<Instant> {
    Some(Instant::now() + READ_TIMEOUT)
}

/// Describes the difference between two tables.
fn difference(found: &Table, desired: &Table) -> String {
    if found.settings != desired.settings {
        return "the table has other settings".to_owned();
    }
    if found.guests != desired.guests {
        return format!("the guest interfaces are {:?}", found.guests.to_string());
    }
    let text = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let portals = desired.portals.iter().filter(|(key, dispatch)| found.portals.get(key) != Some(dispatch));
    let backends = desired.backends.iter().filter(|(key, backend)| found.backends.get(key) != Some(backend));
    let extra = (found.portals.len() + found.backends.len())
        .saturating_sub(desired.portals.len() + desired.backends.len());
    let parts = [
        text(portals.count(), "portals missing or different"),
        text(backends.count(), "backends missing or different"),
        text(extra, "unexpected elements"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "other elements differ".to_owned() } else { parts.join(", ") }
}

fn is_at_path(path: &Path, id: NetnsId) -> bool {
    std::fs::metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == (id.dev, id.inode))
}
