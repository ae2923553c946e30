//! External addresses in a snapshot: whether one becomes a portal depends on other objects than its service.
//!
//! An external address is never the cluster address of a service, or the address and port of an API server.
//! `ExternalPolicy` contains the rules of the operator.

use std::net::IpAddr;
use std::sync::Arc;

use super::{ChangedServices, Snapshot};
use crate::model::endpoint::EndpointSlice;
use crate::model::portal_key::PortalKey;
use crate::model::service::{Service, ServiceKey};

/// Whether this is the service whose endpoints are the API servers.
fn is_kubernetes(key: &ServiceKey) -> bool {
    &*key.namespace == "default" && &*key.name == "kubernetes"
}

fn external_addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    service.external_ips.iter().chain(&service.load_balancer_ips).copied()
}

impl Snapshot {
    /// Returns the services that have this external or load-balancer address, in order.
    pub fn services_with_external_ip(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        let from = (address, ServiceKey::default());
        self.external_users.range(from..).take_while(move |(own, _)| *own == address).map(|(_, user)| user)
    }

    /// Whether this is the address and port of an API server: an endpoint of the service default/kubernetes.
    #[must_use]
    pub fn is_api_server(&self, key: PortalKey) -> bool {
        let listens = |slice: &Arc<EndpointSlice>| {
            slice.ports.iter().any(|port| (port.protocol, port.port) == (key.protocol, key.port))
                && slice.endpoints.iter().any(|endpoint| endpoint.address == key.address)
        };
        self.portal_slices_of(&ServiceKey::new("default", "kubernetes")).any(listens)
    }

    /// Replaces the external addresses of a service.
    pub(super) fn update_external_users(&mut self, old: Option<&Service>, new: Option<&Service>) {
        for (service, address) in
            old.into_iter().flat_map(|old| external_addresses(old).map(move |ip| (old, ip)))
        {
            self.external_users.remove_mut(&(address, service.key.clone()));
        }
        for (service, address) in
            new.into_iter().flat_map(|new| external_addresses(new).map(move |ip| (new, ip)))
        {
            self.external_users.insert_mut((address, service.key.clone()));
        }
    }

    /// Returns the services with an external address that is an endpoint in this slice of the API servers.
    pub(super) fn services_affected_by(&self, slice: &EndpointSlice) -> ChangedServices {
        if !is_kubernetes(&slice.service) {
            return ChangedServices::new();
        }
        slice
            .endpoints
            .iter()
            .flat_map(|endpoint| self.services_with_external_ip(endpoint.address))
            .cloned()
            .collect()
    }
}
