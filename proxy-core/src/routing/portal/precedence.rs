//! The portals that take precedence: one for each key, also if several services claim it.

use std::net::IpAddr;

use super::{Claim, Portal, PortalKey, PortalKind, Portals};
use crate::model::service::{Created, ServiceKey};

impl Portals {
    /// Returns the portals at an address, in the order of their keys.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = &Portal> {
        let from: Claim =
            (PortalKey::first(address), PortalKind::ClusterIp, Created::FIRST, ServiceKey::default());
        let claims = self.claims.range(from..).take_while(move |((key, ..), _)| key.address == address);
        self.first_claims(claims)
    }

    /// Returns all portals, in the order of their keys. It sorts them, which is faster than looking up each one.
    pub fn iter(&self) -> impl Iterator<Item = &Portal> {
        let services = self.by_service.values();
        let mut claims: Vec<(&Portal, Created)> = services
            .flat_map(|service| service.portals.iter().map(|portal| (portal, service.created)))
            .collect();
        // The sort is stable: services of the same age stay in the order of their keys.
        claims.sort_by_key(|(portal, created)| (portal.key, portal.kind, *created));
        claims.dedup_by_key(|(portal, _)| portal.key);
        claims.into_iter().map(|(portal, _)| portal)
    }

    fn first_claims<'a>(
        &'a self,
        claims: impl Iterator<Item = (&'a Claim, &'a usize)>,
    ) -> impl Iterator<Item = &'a Portal> {
        let mut previous = None;
        claims
            .filter(move |((key, ..), _)| previous.replace(*key) != Some(*key))
            .filter_map(|((.., service), index)| self.by_service.get(service)?.portals.get(*index))
    }
}
