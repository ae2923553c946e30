//! Tables on demand: they hold the portals that are used, and those that nobody but the kernel could serve.
//!
//! A service range has one redirect to the relay, which takes the first connection to a portal; then the
//! portal is wanted and programmed. The unit is an address with all its portals: where an address stands in
//! `addresses` its other ports are refused, so a portal alone would close its neighbours.
//!
//! Always there are the addresses outside of all service ranges, which no redirect catches, and those with a
//! portal for which the first connection must meet what all later ones meet: SCTP, which is not relayed;
//! portals that only some may use; and portals that the kernel keeps sticky.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Ruleset, Settings};
use crate::portal::{Portal, PortalKey, Portals, Touched};
use crate::service::{Mode, Protocol};

impl Settings {
    /// Whether elements of `portals` count: on demand it must be known what is used.
    #[must_use]
    pub const fn counts_portals(self) -> bool {
        self.on_demand || self.counters
    }
}

impl Ruleset {
    /// Whether this is a table on demand.
    #[must_use]
    pub fn is_on_demand(&self) -> bool {
        self.settings.is_some_and(|settings| settings.on_demand)
    }

    /// The addresses whose portals are here because they are used, in order.
    pub fn wanted(&self) -> impl Iterator<Item = IpAddr> {
        self.wanted.iter().copied()
    }

    /// Whether the portals of this address are here because they are used.
    #[must_use]
    pub fn wants(&self, address: IpAddr) -> bool {
        self.wanted.contains(&address)
    }

    /// Takes in the portals of an address, also those that it gets later, and says whose rules are new.
    pub fn want(&mut self, portals: &Portals, address: IpAddr) -> Touched {
        if !self.is_on_demand() {
            return Touched::new();
        }
        self.wanted.insert_mut(address);
        self.follow_address(portals, address)
    }

    /// Lets the portals of an address go, unless they are always there, and says whose rules are gone.
    pub fn let_go(&mut self, portals: &Portals, address: IpAddr) -> Touched {
        if !self.wanted.remove_mut(&address) {
            return Touched::new();
        }
        self.follow_address(portals, address)
    }

    pub(super) fn refresh_on_demand(&mut self, portals: &Portals, touched: &Touched, all: bool) -> Touched {
        if all {
            let mut addresses: BTreeSet<IpAddr> = self.rules.keys().map(|key| key.address).collect();
            addresses.extend(portals.iter().map(|portal| portal.key.address));
            return self.follow_addresses(portals, &addresses);
        }
        // An address in a range may become one that is always there, with portals that nobody touched; one
        // outside is always there, and may have thousands of portals (node ports).
        let (inside, outside): (Vec<PortalKey>, Vec<PortalKey>) =
            touched.iter().partition(|key| is_in_range(portals, key.address));
        let mut changed = self.follow_addresses(portals, &inside.iter().map(|key| key.address).collect());
        changed.extend(outside.into_iter().filter(|key| self.follow(*key, portals.get(*key))));
        changed
    }

    fn follow_addresses(&mut self, portals: &Portals, addresses: &BTreeSet<IpAddr>) -> Touched {
        addresses.iter().flat_map(|address| self.follow_address(portals, *address)).collect()
    }

    fn follow_address(&mut self, portals: &Portals, address: IpAddr) -> Touched {
        let is_here = self.wants(address) || is_always_there(portals, address);
        let mut keys: Touched = self.rules_at(address).map(|(key, _)| *key).collect();
        keys.extend(portals.at(address).map(|portal| portal.key));
        keys.retain(|key| self.follow(*key, portals.get(*key).filter(|_| is_here)));
        keys
    }
}

fn is_in_range(portals: &Portals, address: IpAddr) -> bool {
    portals.service_ranges().iter().any(|net| net.contains(&address))
}

/// Whether the portals of an address stand in every table.
pub(super) fn is_always_there(portals: &Portals, address: IpAddr) -> bool {
    !is_in_range(portals, address) || portals.at(address).any(is_the_kernels_alone)
}

fn is_the_kernels_alone(portal: &Portal) -> bool {
    let is_sticky = portal.mode == Mode::Kernel && portal.affinity_s.is_some();
    portal.key.protocol == Protocol::Sctp || portal.sources.is_some() || is_sticky
}
