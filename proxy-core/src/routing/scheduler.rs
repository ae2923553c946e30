//! `Scheduler::select`: which backend a relayed connection goes to.
//!
//! The schedulers are those of IPVS with equal weights, because Kubernetes has none. `sed` and `nq` minimise the
//! expected delay (connections + 1) x response time, where IPVS uses a weight. The relay measures the load, and decides
//! which backends are available.

use std::net::{IpAddr, SocketAddr};

use crate::model::digest::digest;
use crate::model::service::Scheduler;

/// The load of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// The number of connections.
    pub connections: u32,
    /// The response time, in microseconds; 0 before the first measurement.
    pub delay_us: u32,
}

/// The input of a selection in addition to the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleInput {
    /// The index after the backend that was selected last: the first candidate.
    pub next: usize,
    /// A random number.
    pub draw: u64,
    /// The client's address.
    pub source: IpAddr,
    /// The portal's address.
    pub destination: IpAddr,
}

/// An available backend: its index and load.
type Candidate = (usize, Load);

impl Scheduler {
    /// Returns the index of the selected backend. `load` returns `None` for a backend that is not available; the result
    /// has no index if no backend is available.
    #[must_use]
    pub fn select(
        self,
        backends: &[SocketAddr],
        load: impl Fn(&SocketAddr) -> Option<Load>,
        input: ScheduleInput,
    ) -> Option<usize> {
        // In this order, backends that are equal are selected one after another.
        let first = input.next.checked_rem(backends.len())?;
        let (before, after) = backends.split_at(first);
        let order = (first..).zip(after).chain((0..).zip(before));
        let mut candidates = order.filter_map(|(index, backend)| Some((index, load(backend)?)));
        if self == Self::RoundRobin {
            return candidates.next().map(|(index, _)| index);
        }
        let candidates: Vec<Candidate> = candidates.collect();
        let selected = match self {
            Self::RoundRobin => candidates.first(),
            Self::Random => {
                let count = u64::try_from(candidates.len()).ok()?;
                candidates.get(usize::try_from(input.draw.checked_rem(count)?).ok()?)
            }
            Self::LeastConnection => candidates.iter().min_by_key(|(_, load)| load.connections),
            Self::ShortestExpectedDelay => shortest_delay(&candidates),
            Self::NeverQueue => {
                let idle = candidates.iter().find(|(_, load)| load.connections == 0);
                idle.or_else(|| shortest_delay(&candidates))
            }
            Self::DestinationHashing => highest_digest(&candidates, backends, input.destination),
            Self::SourceHashing => highest_digest(&candidates, backends, input.source),
        };
        selected.map(|(index, _)| *index)
    }
}

/// Returns the backend with the shortest expected delay.
///
/// A backend without a measurement counts as fast as the fastest other one, and is preferred to it if both have as many
/// connections: it is tried, but one that accepts connections without responding does not get all of them.
fn shortest_delay(candidates: &[Candidate]) -> Option<&Candidate> {
    let measured = candidates.iter().map(|(_, load)| load.delay_us).filter(|delay_us| *delay_us > 0);
    let fastest_us = measured.min().unwrap_or(1);
    candidates.iter().min_by_key(|(_, load)| {
        let is_measured = load.delay_us > 0;
        let delay_us = if is_measured { load.delay_us } else { fastest_us };
        ((u64::from(load.connections) + 1) * u64::from(delay_us), is_measured)
    })
}

/// Returns the backend whose digest together with the address is the highest. If a backend is removed, only its own
/// addresses get another one.
fn highest_digest<'a>(
    candidates: &'a [Candidate],
    backends: &[SocketAddr],
    address: IpAddr,
) -> Option<&'a Candidate> {
    candidates.iter().max_by_key(|(index, _)| {
        backends.get(*index).map(|backend| digest(format_args!("{address} {backend}")))
    })
}

#[cfg(test)]
mod tests;
