//! What the kernel counted: what came to portals, and what went to backends.
//!
//! Only the first packet of a connection or flow looks into the maps, so one hit is one connection; where a
//! portal refuses or drops there is none, and each packet is a hit. An element that is replaced counts anew.
//! What must not go in here: what is made of the numbers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proxy_core::address::Family;
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::Settings;

use super::{End, backend, portal};
use crate::error::Error;
use crate::layout::named;
use crate::socket::Socket;

/// What was counted since each element stands there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many connections came to each portal; empty unless portals count.
    pub portals: BTreeMap<PortalKey, u64>,
    /// How many of them went to each of its backends; empty unless backends count.
    pub backends: BTreeMap<PortalKey, Vec<(SocketAddr, u64)>>,
}

impl Socket {
    /// The portals that stand in a table on demand, and how many connections came to each since it stands
    /// there. Nothing without a table, and in a full one: what stands there need not be used.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn hits(&self) -> Result<BTreeMap<PortalKey, u64>, Error> {
        match self.portals_counted(|settings| settings.on_demand) {
            Ok(portals) => Ok(portals),
            Err(End::Other(_)) => Ok(BTreeMap::new()),
            Err(End::Failed(error)) => Err(error),
        }
    }

    /// What came to each portal, and where it went.
    ///
    /// # Errors
    /// Where the kernel does not tell, where there is no table, or where it changes faster than it can be read.
    pub fn counted(&self) -> Result<Counted, Error> {
        match self.steadily(|| self.count())? {
            Ok(counted) => Ok(counted),
            Err(End::Other(why)) => Err(Error::Uncounted(why)),
            Err(End::Failed(error)) => Err(error),
        }
    }

    fn count(&self) -> Result<Counted, End> {
        let portals = self.portals_counted(Settings::counts_portals)?;
        let mut counted = Counted { portals, ..Counted::default() };
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
