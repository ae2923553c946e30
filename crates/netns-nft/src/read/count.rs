//! What the kernel counted: what came to portals, and what went to backends.
//!
//! Only the first packet of a connection or flow looks into the maps, so one hit is one connection; where a
//! portal refuses or drops there is none, and each packet is a hit. An element that is replaced counts anew.
//! What must not go in here: what is made of the numbers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use proxy_core::address::Family;
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::Settings;

use super::decode::{backend, portal};
use super::limits::Limits;
use super::reader::{Reader, Source};
use super::{End, Timed};
use crate::error::Error;
use crate::layout::named;
use crate::socket::Socket;

/// What was counted since each element stands there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// How many connections came to each portal; empty unless portals count.
    pub portals: BTreeMap<PortalKey, u64>,
    /// How many of them went to each of its backends; empty unless backends count.
    pub backends: BTreeMap<PortalKey, Vec<(SocketAddr, u64)>>,
}

impl Socket {
    /// The portals that stand in a table on demand, and how many connections came to each since it stands
    /// there. Nothing without a table, in a full one, where what stands there need not be used, and in one that holds
    /// more than the limits. The socket is used up.
    ///
    /// # Errors
    /// Where the kernel does not tell, or the time is over.
    pub fn on_demand_hits(
        self,
        limits: &Limits,
        until: Option<Instant>,
    ) -> Result<BTreeMap<PortalKey, u64>, Error> {
        let source = Timed { socket: &self, until };
        match (Reader { source: &source, limits }).portals_counted(|settings| settings.on_demand) {
            Ok(portals) => Ok(portals),
            Err(End::Other(_) | End::TooMany(_)) => Ok(BTreeMap::new()),
            Err(End::Failed(error)) => Err(error),
        }
    }

    /// What came to each portal, and where it went. The socket is used up.
    ///
    /// # Errors
    /// Where the kernel does not tell, where there is no table or one that holds more than the limits, where it changes
    /// faster than it can be read, or the time is over.
    pub fn counters(self, limits: &Limits, until: Option<Instant>) -> Result<Counters, Error> {
        let source = Timed { socket: &self, until };
        match self.steadily(until, || Reader { source: &source, limits }.count())? {
            Ok(counted) => Ok(counted),
            Err(End::Other(why) | End::TooMany(why)) => Err(Error::NoCounters(why)),
            Err(End::Failed(error)) => Err(error),
        }
    }
}

impl<S: Source> Reader<'_, S> {
    fn count(&self) -> Result<Counters, End> {
        let portals = self.portals_counted(Settings::counts_portals)?;
        let mut counted = Counters { portals, ..Counters::default() };
        let counts = self.is_told(|settings| settings.counters)?;
        for family in Family::BOTH.into_iter().filter(|_| counts) {
            for raw in self.elements(&named("backends", family))? {
                let place = portal(&raw.key, family).zip(backend(&raw.data, family));
                if let Some((((key, _), backend), hits)) = place.zip(raw.hits) {
                    counted.backends.entry(key).or_default().push((backend, hits));
                }
            }
        }
        Ok(counted)
    }

    /// Whether the table was made so that something counts; one that does not say how it was made may count.
    fn is_told(&self, counts: fn(Settings) -> bool) -> Result<bool, End> {
        match self.settings() {
            Ok(None) => Err(End::Other("the table is gone".to_owned())),
            Ok(Some(settings)) => Ok(counts(settings)),
            Err(End::Other(_)) => Ok(true),
            Err(failed) => Err(failed),
        }
    }

    fn portals_counted(&self, counts: fn(Settings) -> bool) -> Result<BTreeMap<PortalKey, u64>, End> {
        let mut portals = BTreeMap::new();
        let counts = self.is_told(counts)?;
        for family in Family::BOTH.into_iter().filter(|_| counts) {
            let counted = self.elements(&named("portals", family))?.into_iter();
            portals.extend(counted.filter_map(|raw| Some((portal(&raw.key, family)?.0, raw.hits?))));
        }
        Ok(portals)
    }
}
