//! `Scheduler::select`: which backend a relayed connection goes to.
//!
//! The schedulers are those of IPVS; all backends have the same weight, since Kubernetes knows none. What IPVS
//! measures by weight is measured here by the time that a backend takes to answer. What must not go in here: what is
//! remembered of backends, and which of them may be had at the moment.

use std::net::{IpAddr, SocketAddr};

use crate::model::digest::digest;
use crate::model::service::Scheduler;

/// What is known of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// How many connections it has.
    pub connections: u32,
    /// How long it takes to answer, in microseconds; 0: it has never been asked.
    pub delay_us: u32,
}

/// What a choice depends on besides backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleInput {
    /// The place behind the backend that was chosen last: where schedulers begin to look.
    pub next: usize,
    /// Chance.
    pub draw: u64,
    /// The client's address.
    pub source: IpAddr,
    /// The portal's address.
    pub destination: IpAddr,
}

impl Scheduler {
    /// The place of the backend that is chosen; `load` tells of each, or that it is not to be had. None: there is
    /// none to be had.
    #[must_use]
    pub fn select(
        self,
        backends: &[SocketAddr],
        load: impl Fn(&SocketAddr) -> Option<Load>,
        input: ScheduleInput,
    ) -> Option<usize> {
        let count = backends.len();
        // In the order from the last choice on, so that of equals each comes in its input.
        let order = || (0..count).map(|step| (input.next + step) % count);
        let loads = || order().filter_map(|place| Some((place, load(backends.get(place)?)?)));
        let least = |cost: &dyn Fn(Load) -> (u64, bool)| {
            loads().min_by_key(|(_, load)| cost(*load)).map(|(place, _)| place)
        };
        // Who has never answered counts as the quickest of those that have, and comes before it where they have
        // as many connections: it is tried, and one that accepts and says nothing does not get every connection.
        let soonest = || {
            let delays = loads().map(|(_, load)| load.delay_us).filter(|delay_us| *delay_us > 0);
            let quickest = delays.min().unwrap_or(1);
            least(&|load| {
                let is_known = load.delay_us > 0;
                let delay_us = if is_known { load.delay_us } else { quickest };
                ((u64::from(load.connections) + 1) * u64::from(delay_us), is_known)
            })
        };
        match self {
            Self::RoundRobin => loads().next().map(|(place, _)| place),
            Self::Random => {
                let had = u64::try_from(loads().count()).ok().filter(|had| *had > 0)?;
                let chosen = usize::try_from(input.draw % had).ok()?;
                loads().nth(chosen).map(|(place, _)| place)
            }
            Self::LeastConnection => least(&|load| (u64::from(load.connections), false)),
            Self::ShortestExpectedDelay => soonest(),
            Self::NeverQueue => {
                let idle = loads().find(|(_, load)| load.connections == 0).map(|(place, _)| place);
                idle.or_else(soonest)
            }
            Self::DestinationHashing => {
                by_digest(loads().map(|(place, _)| place), backends, input.destination)
            }
            Self::SourceHashing => by_digest(loads().map(|(place, _)| place), backends, input.source),
        }
    }
}

/// The backend whose digest together with the address is the greatest: where one backend goes, only its own
/// addresses move.
fn by_digest(places: impl Iterator<Item = usize>, backends: &[SocketAddr], address: IpAddr) -> Option<usize> {
    places.max_by_key(|place| backends.get(*place).map(|backend| digest(format_args!("{address} {backend}"))))
}

#[cfg(test)]
mod tests;
