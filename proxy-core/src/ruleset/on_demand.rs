//! On-demand tables, which contain only active and pinned portals.
//!
//! A rule redirects all other traffic to a service range to the relay, which serves the first connection to a portal;
//! then the agent activates the portal. The unit of activation is an address with all its portals: the kernel rejects
//! the other ports of an address in `addresses`, so a single portal would close the others.
//!
//! Outside the service ranges there is no such rule, because an external address can have ports that do not belong to
//! the service. There each portal is pinned with one element, which redirects to the relay until the address is active.
//! So the cost of an unused portal does not depend on its backends.
//!
//! Portals for which the relay cannot serve the first connection are pinned as a whole: SCTP, portals with source
//! ranges, and portals with session affinity in the kernel. A cluster address with one of these is pinned with all its
//! portals. The size of the pinned portals is limited (`TableKind::OnDemand`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Form, Ruleset, Settings};
use crate::routing::portal::{ChangedPortals, Portal, PortalKey, PortalKind, Portals, TableKind};

impl Settings {
    /// Whether the elements of portals have counters. On demand they show which portals are in use.
    #[must_use]
    pub const fn counts_portals(self) -> bool {
        self.on_demand || self.counters
    }
}

impl Ruleset {
    /// Whether this is an on-demand table.
    #[must_use]
    pub fn is_on_demand(&self) -> bool {
        self.settings.is_some_and(|settings| settings.on_demand)
    }

    /// Returns the active addresses in order.
    pub fn active_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.active.iter().copied()
    }

    /// Whether an address is active.
    #[must_use]
    pub fn is_active(&self, address: IpAddr) -> bool {
        self.active.contains(&address)
    }

    /// Activates an address with its present and later portals. Returns the portals whose rules changed.
    pub fn activate(&mut self, portals: &Portals, address: IpAddr) -> ChangedPortals {
        if !self.is_on_demand() {
            return ChangedPortals::new();
        }
        self.active.insert_mut(address);
        self.update_address(portals, address)
    }

    /// Deactivates an address; pinned portals remain. Returns the portals whose rules changed.
    pub fn evict(&mut self, portals: &Portals, address: IpAddr) -> ChangedPortals {
        if !self.active.remove_mut(&address) {
            return ChangedPortals::new();
        }
        self.update_address(portals, address)
    }

    pub(super) fn refresh_on_demand(
        &mut self,
        portals: &Portals,
        changed: &ChangedPortals,
        all: bool,
    ) -> ChangedPortals {
        if all {
            let mut addresses: BTreeSet<IpAddr> = self.rules.keys().map(|key| key.address).collect();
            addresses.extend(portals.iter().map(|portal| portal.key.address));
            return self.update_addresses(portals, &addresses);
        }
        // An address in a range can become pinned, with portals that did not change. An address outside can have
        // thousands of portals (node ports), and each is independent of the others.
        let (inside, outside): (Vec<PortalKey>, Vec<PortalKey>) =
            changed.iter().partition(|key| is_in_range(portals, key.address));
        let mut updated = self.update_addresses(portals, &inside.iter().map(|key| key.address).collect());
        updated.extend(outside.into_iter().filter(|key| self.update(portals, *key)));
        updated
    }

    fn update_addresses(&mut self, portals: &Portals, addresses: &BTreeSet<IpAddr>) -> ChangedPortals {
        addresses.iter().flat_map(|address| self.update_address(portals, *address)).collect()
    }

    fn update_address(&mut self, portals: &Portals, address: IpAddr) -> ChangedPortals {
        let mut keys: ChangedPortals = self.rules_at(address).map(|(key, _)| *key).collect();
        keys.extend(portals.at(address).map(|portal| portal.key));
        keys.retain(|key| self.update(portals, *key));
        keys
    }

    pub(super) fn form_on_demand(&self, portals: &Portals, portal: &Portal) -> Option<Form> {
        let address = portal.key.address;
        if self.is_active(address) {
            return Some(Form::Whole);
        }
        let fits = |portal: &Portal| portals.fits_share(TableKind::OnDemand, portal);
        let is_cluster_ip = |portal: &Portal| portal.kind == PortalKind::ClusterIp;
        let is_in_range = is_in_range(portals, address);
        if is_in_range && is_cluster_ip(portal) {
            // All portals of the address or none, because the kernel rejects its other ports.
            let all = || portals.at(address).filter(|other| is_cluster_ip(other));
            let is_pinned = all().any(Portal::is_kernel_only) && all().all(fits);
            is_pinned.then_some(Form::Whole)
        } else if portal.is_kernel_only() && fits(portal) {
            Some(Form::Whole)
        } else if is_in_range || !fits(portal) {
            None
        } else {
            Some(Form::Relayed)
        }
    }
}

fn is_in_range(portals: &Portals, address: IpAddr) -> bool {
    portals.service_ranges().iter().any(|net| net.contains(&address))
}
