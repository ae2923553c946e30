//! Reads the counters of portals and backends.
//!
//! The kernel counts lookups, and only the first packet of a connection or flow is looked up, so a count is a number of
//! connections; for a portal that rejects or drops, every packet counts. A replaced element starts at 0.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use proxy_core::address::Family;
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::Settings;

use crate::error::Error;
use crate::netlink::socket::Socket;
use crate::nft::names::{TABLE, per_family, set};
use crate::nft::read::decode::{portal, socket_address};
use crate::nft::read::reader::{ReadError, Reader, ReplySource};
use crate::nft::read::{Limits, SocketSource};

/// Connections since each element was added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections to each portal; empty if portals have no counters.
    pub portals: BTreeMap<PortalKey, u64>,
    /// Connections to each backend of a portal; empty if backends have no counters.
    pub backends: BTreeMap<PortalKey, Vec<(SocketAddr, u64)>>,
}

impl Socket {
    /// The on-demand portals of a table, with the number of connections to each since it was activated. Empty if there
    /// is no table, if it is not in on-demand mode, where a portal may be unused, or if it exceeds the limits. This
    /// consumes the socket.
    ///
    /// # Errors
    /// If the kernel does not report the elements, or the deadline has passed.
    pub fn on_demand_hits(
        self,
        limits: &Limits,
        deadline: Option<Instant>,
    ) -> Result<BTreeMap<PortalKey, u64>, Error> {
        let source = SocketSource { socket: &self, deadline };
        match (Reader { source: &source, table: TABLE, limits })
            .portal_counters(|settings| settings.on_demand)
        {
            Ok(portals) => Ok(portals),
            Err(ReadError::Drifted(_) | ReadError::LimitExceeded(_)) => Ok(BTreeMap::new()),
            Err(ReadError::Failed(error)) => Err(error),
        }
    }

    /// The connections to each portal and backend. This consumes the socket.
    ///
    /// # Errors
    /// If there is no table, if it exceeds the limits, if other processes change it faster than it can be read, if the
    /// kernel does not report it, or if the deadline has passed.
    pub fn counters(self, limits: &Limits, deadline: Option<Instant>) -> Result<Counters, Error> {
        let source = SocketSource { socket: &self, deadline };
        match self
            .read_consistent(deadline, || Reader { source: &source, table: TABLE, limits }.counters())?
        {
            Ok(counters) => Ok(counters),
            Err(ReadError::Drifted(why) | ReadError::LimitExceeded(why)) => Err(Error::NoCounters(why)),
            Err(ReadError::Failed(error)) => Err(error),
        }
    }
}

impl<S: ReplySource> Reader<'_, S> {
    fn counters(&self) -> Result<Counters, ReadError> {
        let portals = self.portal_counters(Settings::counts_portals)?;
        let mut counters = Counters { portals, ..Counters::default() };
        if !self.is_enabled(|settings| settings.counters)? {
            return Ok(counters);
        }
        for family in Family::BOTH {
            for raw in self.elements(&per_family(set::BACKENDS, family))? {
                let element = portal(&raw.key, family).zip(socket_address(&raw.data, family));
                if let Some((((key, _), backend), packets)) = element.zip(raw.packets) {
                    counters.backends.entry(key).or_default().push((backend, packets));
                }
            }
        }
        Ok(counters)
    }

    /// Whether the settings of the table enable a counter. A table whose settings are unknown may have it.
    fn is_enabled(&self, counter: fn(Settings) -> bool) -> Result<bool, ReadError> {
        match self.settings() {
            Ok(None) => Err(ReadError::Drifted("the table is gone".to_owned())),
            Ok(Some(settings)) => Ok(counter(settings)),
            Err(ReadError::Drifted(_)) => Ok(true),
            Err(failed) => Err(failed),
        }
    }

    fn portal_counters(
        &self,
        is_enabled: fn(Settings) -> bool,
    ) -> Result<BTreeMap<PortalKey, u64>, ReadError> {
        let mut counters = BTreeMap::new();
        if !self.is_enabled(is_enabled)? {
            return Ok(counters);
        }
        for family in Family::BOTH {
            let elements = self.elements(&per_family(set::PORTALS, family))?.into_iter();
            counters.extend(elements.filter_map(|raw| Some((portal(&raw.key, family)?.0, raw.packets?))));
        }
        Ok(counters)
    }
}
