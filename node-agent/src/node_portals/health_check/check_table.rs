//! `HealthChecks`: the health-check ports of services, and the number of local endpoints that each reports.
//!
//! A service has such a port if its type is `LoadBalancer` and its `externalTrafficPolicy` is Local. It reports the ready
//! endpoints on this node, counted by address, like kube-proxy (`LocalReadyEndpoints`): a load balancer must stop sending
//! connections as soon as the last one terminates, although terminating endpoints still serve them. An API server
//! assigns each port once; if two services nevertheless claim one, the older service has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::endpoint_selection::is_local;
use proxy_core::node::Node;
use proxy_core::service::{Created, ServiceKey};
use proxy_core::snapshot::{ChangedServices, Snapshot};

/// What a health-check port reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service.
    pub service: ServiceKey,
    /// The number of its ready endpoints on this node.
    pub local_endpoints: usize,
}

/// A health-check port of two services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheckConflict {
    /// The port.
    pub port: u16,
    /// The service that has the port.
    pub owner: ServiceKey,
    /// The service of which the port is not served.
    pub refused: ServiceKey,
}

/// The health checks of a node.
#[derive(Debug, Default)]
pub struct HealthChecks {
    /// The name of the node; none before the first refresh.
    node: Option<Arc<str>>,
    /// The services that claim a port, by age. The value is the number of local endpoints.
    claims: BTreeMap<u16, BTreeMap<(Created, ServiceKey), usize>>,
    /// The claim of each service.
    ports: BTreeMap<ServiceKey, (u16, Created)>,
}

impl HealthChecks {
    /// Updates the checks of the changed services, or of all services if the name of the node changed. Returns the ports
    /// whose checks changed, with the new ones.
    pub fn refresh(
        &mut self,
        snapshot: &Snapshot,
        node: &Node,
        changed: &ChangedServices,
    ) -> Vec<(u16, Option<HealthCheck>)> {
        let is_same_node = self.node.as_ref() == Some(&node.name);
        self.node = Some(Arc::clone(&node.name));
        let mut before = BTreeMap::new();
        if is_same_node {
            for service in changed {
                self.refresh_service(snapshot, node, service, &mut before);
            }
        } else {
            let known: Vec<ServiceKey> = self.ports.keys().cloned().collect();
            let all = snapshot.services().map(|service| &service.key).chain(&known);
            for service in all.collect::<BTreeSet<_>>() {
                self.refresh_service(snapshot, node, service, &mut before);
            }
        }
        let after = before.into_iter().map(|(port, old)| (port, old, self.check(port)));
        after.filter(|(_, old, new)| old != new).map(|(port, _, new)| (port, new)).collect()
    }

    /// Returns the check of a port.
    #[must_use]
    pub fn check(&self, port: u16) -> Option<HealthCheck> {
        let ((_, service), local_endpoints) = self.claims.get(&port)?.first_key_value()?;
        Some(HealthCheck { service: service.clone(), local_endpoints: *local_endpoints })
    }

    /// Returns all ports of several services, each with its refused services.
    pub fn conflicts(&self) -> impl Iterator<Item = HealthCheckConflict> {
        self.claims.iter().flat_map(|(port, claims)| {
            let mut services = claims.keys().map(|(_, service)| service);
            let owner = services.next();
            services.filter_map(move |refused| {
                Some(HealthCheckConflict { port: *port, owner: owner?.clone(), refused: refused.clone() })
            })
        })
    }

    /// Replaces the claim of a service. Adds the checks of the ports before the change to `before`.
    fn refresh_service(
        &mut self,
        snapshot: &Snapshot,
        node: &Node,
        key: &ServiceKey,
        before: &mut BTreeMap<u16, Option<HealthCheck>>,
    ) {
        if let Some((port, created)) = self.ports.remove(key) {
            before.entry(port).or_insert_with(|| self.check(port));
            if let Some(claims) = self.claims.get_mut(&port) {
                claims.remove(&(created, key.clone()));
                if claims.is_empty() {
                    self.claims.remove(&port);
                }
            }
        }
        let Some(service) = snapshot.service(key).filter(|service| service.has_portals) else { return };
        let Some(port) = service.health_check_node_port else { return };
        before.entry(port).or_insert_with(|| self.check(port));
        let claim = (service.created, key.clone());
        self.claims.entry(port).or_default().insert(claim, local_endpoints(snapshot, node, key));
        self.ports.insert(key.clone(), (port, service.created));
    }
}

/// Returns the number of ready endpoints on this node. kube-proxy ignores slices without ports, and Portico also
/// endpoints with the address of a service.
fn local_endpoints(snapshot: &Snapshot, node: &Node, service: &ServiceKey) -> usize {
    let slices = snapshot.portal_slices_of(service).filter(|slice| !slice.ports.is_empty());
    let endpoints = slices.flat_map(|slice| &slice.endpoints);
    let local = endpoints.filter(|endpoint| {
        endpoint.conditions.ready && is_local(endpoint, node) && snapshot.owner_of(endpoint.address).is_none()
    });
    local.map(|endpoint| endpoint.address).collect::<BTreeSet<IpAddr>>().len()
}

#[cfg(test)]
mod tests;
