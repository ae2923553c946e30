//! Tables on demand: they hold the portals that are used, and those that nobody but the kernel could serve.
//!
//! A service range has one redirect to the relay, which takes the first connection to a portal; then the
//! portal is wanted and programmed. The unit is an address with all its portals: where an address stands in
//! `addresses` its other ports are refused, so a portal alone would close its neighbours.
//!
//! Outside of the service ranges no redirect catches anything, and none may: an external address has other ports that
//! are not the service's. There each portal is always there with one element, which leads to the relay until the
//! address is wanted. So what an unused portal costs does not grow with its backends.
//!
//! Always there as a whole are those for which the first connection must meet what all later ones meet: SCTP, which
//! is not relayed; portals that only some may use; and portals that the kernel keeps sticky. A cluster address that
//! has one of these is there with all its portals. What is always there has a bound; see `TableKind::OnDemand`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Form, Ruleset, Settings};
use crate::routing::portal::{ChangedPortals, Portal, PortalKey, PortalKind, Portals, TableKind};

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
    pub fn active_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.active.iter().copied()
    }

    /// Whether the portals of this address are here because they are used.
    #[must_use]
    pub fn is_active(&self, address: IpAddr) -> bool {
        self.active.contains(&address)
    }

    /// Takes in the portals of an address, also those that it gets later, and says whose rules are new.
    pub fn activate(&mut self, portals: &Portals, address: IpAddr) -> ChangedPortals {
        if !self.is_on_demand() {
            return ChangedPortals::new();
        }
        self.active.insert_mut(address);
        self.follow_address(portals, address)
    }

    /// Lets the portals of an address go, unless they are always there, and says whose rules are gone.
    pub fn evict(&mut self, portals: &Portals, address: IpAddr) -> ChangedPortals {
        if !self.active.remove_mut(&address) {
            return ChangedPortals::new();
        }
        self.follow_address(portals, address)
    }

    pub(super) fn refresh_on_demand(
        &mut self,
        portals: &Portals,
        touched: &ChangedPortals,
        all: bool,
    ) -> ChangedPortals {
        if all {
            let mut addresses: BTreeSet<IpAddr> = self.rules.keys().map(|key| key.address).collect();
            addresses.extend(portals.iter().map(|portal| portal.key.address));
            return self.follow_addresses(portals, &addresses);
        }
        // An address in a range may become one that is always there, with portals that nobody touched; one
        // outside may have thousands of portals (node ports), and each is there for itself.
        let (inside, outside): (Vec<PortalKey>, Vec<PortalKey>) =
            touched.iter().partition(|key| is_in_range(portals, key.address));
        let mut changed = self.follow_addresses(portals, &inside.iter().map(|key| key.address).collect());
        changed.extend(outside.into_iter().filter(|key| self.follow(portals, *key)));
        changed
    }

    fn follow_addresses(&mut self, portals: &Portals, addresses: &BTreeSet<IpAddr>) -> ChangedPortals {
        addresses.iter().flat_map(|address| self.follow_address(portals, *address)).collect()
    }

    fn follow_address(&mut self, portals: &Portals, address: IpAddr) -> ChangedPortals {
        let mut keys: ChangedPortals = self.rules_at(address).map(|(key, _)| *key).collect();
        keys.extend(portals.at(address).map(|portal| portal.key));
        keys.retain(|key| self.follow(portals, *key));
        keys
    }

    pub(super) fn form_on_demand(&self, portals: &Portals, portal: &Portal) -> Option<Form> {
        let address = portal.key.address;
        if self.is_active(address) {
            return Some(Form::Whole);
        }
        let is_in_range = is_in_range(portals, address);
        let is_whole =
            |portal: &Portal| portal.is_kernel_only() && portals.fits_share(TableKind::OnDemand, portal);
        let is_cluster_ip = |portal: &Portal| portal.kind == PortalKind::ClusterIp;
        match () {
            // All portals of the address or none: where one is, the other ports are refused.
            () if is_in_range && is_cluster_ip(portal) => {
                let all = || portals.at(address).filter(|other| is_cluster_ip(other));
                let is_special = all().any(Portal::is_kernel_only)
                    && all().all(|other| portals.fits_share(TableKind::OnDemand, other));
                is_special.then_some(Form::Whole)
            }
            () if is_whole(portal) => Some(Form::Whole),
            () if is_in_range => None,
            () => portals.fits_share(TableKind::OnDemand, portal).then_some(Form::Relayed),
        }
    }
}

fn is_in_range(portals: &Portals, address: IpAddr) -> bool {
    portals.service_ranges().iter().any(|net| net.contains(&address))
}
