//! `NetnsWorker`: an open network namespace, and the jobs that are done in it.
//!
//! Its socket stays open while the pod is attached, so that a change costs one system call and not a way in.
//! Everything here blocks and runs on threads for that. What must not go in here: what should be done next.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use agent_ipc::with_causes;
use netns_nft::{Counters, Error, Limits, Netns, NetnsId, Socket, TableState, add_service_routes};
use proxy_core::guest::GuestInterfaces;
use proxy_core::kernel_model::Table;
use proxy_core::ruleset::Ruleset;
use relay::Relay;

use crate::event::{Job, Operation, Outcome, UdpBackends};

/// A job reads what a pod holds for at most this time.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// A network namespace that is held open.
#[derive(Debug)]
pub(crate) struct NetnsWorker {
    netns: Netns,
    socket: Mutex<Socket>,
    /// Where it is; none: not to be seen from here, so nobody can look whether it still is there.
    path: Option<PathBuf>,
}

impl NetnsWorker {
    /// Opens the one behind a path.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Self::from_fd(File::open(path).map_err(Error::Enter)?.into(), path)
    }

    /// Takes the one that somebody sent, who says where it is.
    pub(crate) fn from_fd(fd: OwnedFd, path: &Path) -> Result<Self, Error> {
        let (netns, socket) = Netns::with_socket(fd)?;
        let socket = Mutex::new(socket);
        let path = leads_to(path, netns.id()).then(|| path.to_owned());
        Ok(Self { netns, socket, path })
    }

    /// Its identity.
    pub(crate) fn id(&self) -> NetnsId {
        self.netns.id()
    }

    /// Whether its pod is known to be gone: its path leads elsewhere, or nowhere. AttachedPod open by us, it would
    /// live on with its interfaces and addresses.
    pub(crate) fn is_gone(&self) -> bool {
        self.path.as_ref().is_some_and(|path| !leads_to(path, self.id()))
    }

    /// Has the relay listen there, if the job wants it: before any rule sends connections there.
    pub(crate) fn listen(&self, job: &Job, relay: &Relay) -> Result<(), String> {
        let has_guests = !job.guests.is_empty();
        let listens =
            job.relay.as_ref().map_or(Ok(()), |view| relay.open_netns(&self.netns, view, has_guests));
        listens.map_err(|error| with_causes(&error))
    }

    /// Does a job.
    pub(crate) fn run(&self, job: &Job) -> Outcome {
        self.attempt(job).unwrap_or_else(|error| Outcome::Failed {
            transient: error.is_transient(),
            message: with_causes(&error),
        })
    }

    fn attempt(&self, Job { kind: _, routes, relay: _, guests, operation }: &Job) -> Result<Outcome, Error> {
        if let Some((exits, ranges)) = routes.as_ref().filter(|(_, ranges)| !ranges.is_empty()) {
            for exit in exits {
                match add_service_routes(&self.netns, &exit.interface, &exit.addresses, ranges) {
                    // The pod has left one of its networks, and nobody said so: the others lead on.
                    Err(Error::NoInterface { .. }) if exits.len() > 1 => {}
                    done => drop(done?),
                }
            }
        }
        let socket = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match operation {
            Operation::RoutesOnly => Ok(Outcome::Applied(None)),
            Operation::Apply(prepared) if prepared.batch.is_empty() => {
                Ok(Outcome::Applied(Some(socket.generation()?)))
            }
            Operation::Apply(prepared) => {
                let before = socket.generation()?;
                if prepared.is_fresh && !guests.is_empty() {
                    socket.apply(&prepared.batch.with_guests(guests))?;
                } else {
                    socket.apply(&prepared.batch)?;
                }
                let after = socket.generation()?;
                Ok(Outcome::Applied((after == before.wrapping_add(1)).then_some(after)))
            }
            Operation::CountHits(portals) => {
                let hits = self.netns.socket()?.on_demand_hits(&Limits::elements(*portals), read_until());
                Ok(Outcome::Counted(hits?))
            }
            Operation::Verify(ruleset, generation) => {
                let current = socket.generation()?;
                if *generation == Some(current) {
                    return Ok(Outcome::Matches(*generation));
                }
                self.compare(ruleset, guests, current)
            }
        }
    }

    /// Looks whether exactly this stands there. A socket of its own reads, since a dump of more than was written is
    /// given up, after which a socket can only be closed.
    fn compare(
        &self,
        ruleset: &Ruleset,
        guests: &GuestInterfaces,
        generation: u32,
    ) -> Result<Outcome, Error> {
        let wanted = Table { guests: guests.clone(), ..Table::from(ruleset) };
        Ok(match self.netns.socket()?.read_table_within(&Limits::of(&wanted), read_until())? {
            TableState::Intact(found) if found == wanted => Outcome::Matches(Some(generation)),
            TableState::Intact(found) => Outcome::Drifted(difference(&found, &wanted)),
            TableState::Missing => Outcome::Drifted("the table is gone".to_owned()),
            TableState::Drifted(why) => Outcome::Drifted(why),
        })
    }

    /// Reads what came to its portals, beside every job, if there are no more elements than this in any set.
    pub(crate) fn counted(&self, elements_max: usize, until: Instant) -> Result<Counters, Error> {
        self.netns.socket()?.counters(&Limits::elements(elements_max), Some(until))
    }

    /// Deletes what is left of UDP flows to backends that are gone.
    pub(crate) fn delete_stale_udp(&self, flows: &UdpBackends) -> Result<usize, Error> {
        self.netns.socket()?.delete_stale_udp(flows)
    }
}

fn read_until() -> Option<Instant> {
    Some(Instant::now() + READ_TIMEOUT)
}

fn difference(found: &Table, wanted: &Table) -> String {
    if found.settings != wanted.settings {
        return "it was made with other settings".to_owned();
    }
    if found.guests != wanted.guests {
        return format!("its guest interfaces are {:?}", found.guests.to_string());
    }
    let wrong = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let portals = wanted.portals.iter().filter(|(key, pick)| found.portals.get(key) != Some(pick)).count();
    let backends = wanted.backends.iter().filter(|(key, to)| found.backends.get(key) != Some(to)).count();
    let more = (found.portals.len() + found.backends.len())
        .saturating_sub(wanted.portals.len() + wanted.backends.len());
    let parts = [
        wrong(portals, "portals missing or different"),
        wrong(backends, "backends missing or different"),
        wrong(more, "elements too many"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "other elements differ".to_owned() } else { parts.join(", ") }
}

fn leads_to(path: &Path, id: NetnsId) -> bool {
    std::fs::metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == (id.dev, id.inode))
}
