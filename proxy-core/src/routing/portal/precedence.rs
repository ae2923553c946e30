//! The portals in force: where several services claim one portal, the one that wins.
//!
//! What must not go in here: who wins; the order of claims says so.

use std::net::IpAddr;

use super::{Claim, Portal, PortalKey, PortalKind, Portals};
use crate::model::service::{Created, ServiceKey};

impl Portals {
    /// The portals in force at an address, in the order of their keys.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = &Portal> {
        let from: Claim =
            (PortalKey::first(address), PortalKind::ClusterIp, Created::FIRST, ServiceKey::default());
        let claims = self.claims.range(from..).take_while(move |((key, ..), _)| key.address == address);
        self.in_force(claims)
    }

    /// The portals in force, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Portal> {
        self.in_force(self.claims.iter())
    }

    fn in_force<'a>(
        &'a self,
        claims: impl Iterator<Item = (&'a Claim, &'a usize)>,
    ) -> impl Iterator<Item = &'a Portal> {
        let mut previous = None;
        claims
            .filter(move |((key, ..), _)| previous.replace(*key) != Some(*key))
            .filter_map(|((.., service), place)| self.by_service.get(service)?.portals.get(*place))
    }
}
