//! `Snapshot`: all services and endpoint slices of a cluster at one revision.
//!
//! A snapshot shares structure with the previous one, so cloning it takes constant time, and the cost of a change
//! depends on the change only. `apply` returns the keys of the services whose portals can differ after the change;
//! portals, rulesets and plans then process only those keys. A snapshot does not depend on a node or a pod.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use rpds::{RedBlackTreeMapSync as Map, RedBlackTreeSetSync as Set};

use crate::model::address::Family;
use crate::model::dns::Namespace;
use crate::model::endpoint::{Endpoint, EndpointSlice, SliceKey};
use crate::model::service::{ClusterIps, Protocol, Service, ServiceKey};

/// A change of the cluster's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A service was created or changed.
    Service(Service),
    /// A service was deleted.
    ServiceDeleted(ServiceKey),
    /// A slice was created or changed.
    Slice(EndpointSlice),
    /// A slice was deleted.
    SliceDeleted(SliceKey),
    /// The CIDRs from which the cluster assigns service addresses.
    ServiceRanges(Vec<IpNet>),
    /// A namespace was created or changed.
    Namespace(Namespace),
    /// The namespace with this name was deleted.
    NamespaceDeleted(Arc<str>),
}

/// The services whose portals can differ after a change.
pub type ChangedServices = BTreeSet<ServiceKey>;

/// All services and endpoint slices at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    revision: u64,
    services: Map<ServiceKey, Arc<Service>>,
    slices: Map<SliceKey, Arc<EndpointSlice>>,
    /// By service and name. A slice is in the namespace of its service.
    slices_by_service: Map<(ServiceKey, Arc<str>), Arc<EndpointSlice>>,
    /// The services by cluster address. Endpoints must not have these addresses.
    service_addresses: Map<IpAddr, Arc<[ServiceKey]>>,
    /// The services by external address. Whether such an address becomes a portal depends on other objects.
    external_users: Set<(IpAddr, ServiceKey)>,
    /// The number of slices with endpoints in each prefix. If a service gets an address, only a prefix with endpoints
    /// is searched for endpoints that the address forbids; usually there are none.
    prefixes: Map<AddressPrefix, usize>,
    service_ranges: Arc<[IpNet]>,
    namespaces: Map<Arc<str>, Namespace>,
    /// The number of services of another proxy that have an address.
    foreign: usize,
}

/// The first 20 bits (IPv4) or 64 bits (IPv6) of an address.
type AddressPrefix = (Family, u64);

fn prefix(address: IpAddr) -> AddressPrefix {
    match address {
        IpAddr::V4(v4) => (Family::V4, u64::from(u32::from(v4) >> 12)),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            (Family::V6, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
        }
    }
}

fn is_foreign(service: &Service) -> bool {
    !service.has_portals && portal_addresses(service) != ClusterIps::Headless
}

/// Returns the cluster addresses at which a proxy serves the service.
fn portal_addresses(service: &Service) -> ClusterIps {
    if service.is_unproxied { ClusterIps::Headless } else { service.cluster_ips }
}

/// An endpoint of one service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortEndpoint<'a> {
    /// The address and port.
    pub backend: SocketAddr,
    /// The endpoint.
    pub endpoint: &'a Endpoint,
}

impl Snapshot {
    /// Returns the snapshot of a cluster without services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of changes since the empty snapshot.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns all services in the order of their keys.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Returns the services of a namespace in the order of their names.
    pub fn services_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Service>> {
        let from = ServiceKey::new(namespace, "");
        self.services
            .range(from..)
            .map(|(_, service)| service)
            .take_while(move |service| &*service.key.namespace == namespace)
    }

    /// Returns the number of services.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.size()
    }

    /// Returns the service with a key.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Returns the CIDRs in which addresses without a service are unallocated. They are empty if the CIDRs are unknown,
    /// and if another proxy has services: an address that looks unallocated can belong to one of them.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNet] {
        if self.foreign > 0 { &[] } else { &self.service_ranges }
    }

    /// Returns the CIDRs from which the cluster assigns service addresses, also if another proxy has services.
    #[must_use]
    pub fn all_service_ranges(&self) -> &[IpNet] {
        &self.service_ranges
    }

    /// Returns the slices of a service in the order of their names, including those without portals.
    pub fn slices_of<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        let from = (service.clone(), Arc::default());
        self.slices_by_service
            .range(from..)
            .take_while(move |((found, _), _)| found == service)
            .map(|(_, slice)| slice)
    }

    /// Returns the slices of a service whose endpoints are backends of portals, in the order of their names.
    pub fn portal_slices_of<'a>(
        &'a self,
        service: &'a ServiceKey,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        self.slices_of(service).filter(|slice| slice.has_portals)
    }

    /// Returns the service that has this cluster address, unless no proxy serves it.
    #[must_use]
    pub fn owner_of(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.service_addresses.get(&address)?.first()
    }

    /// Returns the endpoints of a service port, joined by port name and protocol, in the order of their addresses. Each
    /// address and port is returned once, and endpoints with the cluster address of a service are omitted.
    ///
    /// If two slices contain the same address and port, the later endpoint is used only if it is not terminating
    /// (endpointslicecache.go:235-249). The order is that of the slices' names; in kube-proxy it is undefined.
    #[must_use]
    pub fn endpoints_of<'a>(
        &'a self,
        service: &'a ServiceKey,
        port_name: &str,
        protocol: Protocol,
        family: Family,
    ) -> Vec<PortEndpoint<'a>> {
        let mut found: Vec<PortEndpoint<'a>> = Vec::new();
        for slice in self.portal_slices_of(service) {
            let ports =
                slice.ports.iter().filter(|port| port.protocol == protocol && *port.name == *port_name);
            for port in ports {
                let endpoints = slice.endpoints.iter().filter(|endpoint| {
                    Family::of(endpoint.address) == family
                        && !self.service_addresses.contains_key(&endpoint.address)
                });
                found.extend(endpoints.map(|endpoint| PortEndpoint {
                    backend: SocketAddr::new(endpoint.address, port.port),
                    endpoint,
                }));
            }
        }
        // The sort is stable, so of two equal endpoints the later one remains later.
        found.sort_by_key(|candidate| candidate.backend);
        found.dedup_by(|later, kept| {
            let same = later.backend == kept.backend;
            if same && !later.endpoint.conditions.terminating {
                kept.endpoint = later.endpoint;
            }
            same
        });
        found
    }

    /// Applies a change, and returns the services whose portals can differ now.
    pub fn apply(&mut self, change: Change) -> ChangedServices {
        self.revision += 1;
        match change {
            Change::Service(service) => self.put_service(service),
            Change::ServiceDeleted(key) => self.remove_service(&key),
            Change::Slice(slice) => self.put_slice(slice),
            Change::SliceDeleted(key) => self.remove_slice(&key),
            Change::ServiceRanges(ranges) => {
                self.service_ranges = IpNet::aggregate(&ranges).into();
                ChangedServices::new()
            }
            Change::Namespace(namespace) => {
                self.namespaces.insert_mut(namespace.name.clone(), namespace);
                ChangedServices::new()
            }
            Change::NamespaceDeleted(name) => {
                self.namespaces.remove_mut(&name);
                ChangedServices::new()
            }
        }
    }

    fn put_service(&mut self, service: Service) -> ChangedServices {
        let key = service.key.clone();
        let old = self.services.get(&key).cloned();
        if old.as_deref() == Some(&service) {
            return ChangedServices::new();
        }
        self.foreign += usize::from(is_foreign(&service));
        self.foreign -= old.as_deref().map_or(0, |old| usize::from(is_foreign(old)));
        self.update_external_users(old.as_deref(), Some(&service));
        let mut changed = ChangedServices::from([key.clone()]);
        let old_ips = old.map_or(ClusterIps::Headless, |old| portal_addresses(&old));
        let new_ips = portal_addresses(&service);
        for family in Family::BOTH {
            let (old, new) = (old_ips.of(family), new_ips.of(family));
            if old != new {
                changed.extend(old.into_iter().flat_map(|address| self.release_address(address, &key)));
                changed.extend(new.into_iter().flat_map(|address| self.claim_address(address, &key)));
            }
        }
        self.services.insert_mut(key, Arc::new(service));
        changed
    }

    fn remove_service(&mut self, key: &ServiceKey) -> ChangedServices {
        let Some(old) = self.services.get(key).cloned() else { return ChangedServices::new() };
        self.foreign -= usize::from(is_foreign(&old));
        self.update_external_users(Some(&old), None);
        let mut changed = ChangedServices::from([key.clone()]);
        for address in portal_addresses(&old).iter() {
            changed.extend(self.release_address(address, key));
        }
        self.services.remove_mut(key);
        changed
    }

    /// Assigns an address to a service, and returns the services of which it forbids endpoints or external addresses.
    fn claim_address(&mut self, address: IpAddr, key: &ServiceKey) -> ChangedServices {
        let others = self.service_addresses.get(&address).cloned().unwrap_or_default();
        let mut owners: Vec<ServiceKey> = others.iter().cloned().chain([key.clone()]).collect();
        owners.sort_unstable();
        self.service_addresses.insert_mut(address, owners.into());
        self.users_of(address)
    }

    /// Releases the address of a service, and returns the services of which it no longer forbids endpoints or external
    /// addresses.
    fn release_address(&mut self, address: IpAddr, key: &ServiceKey) -> ChangedServices {
        let owners = self.service_addresses.get(&address).cloned().unwrap_or_default();
        let others: Arc<[ServiceKey]> = owners.iter().filter(|owner| *owner != key).cloned().collect();
        if others.is_empty() {
            self.service_addresses.remove_mut(&address);
        } else {
            self.service_addresses.insert_mut(address, others);
        }
        self.users_of(address)
    }

    /// Returns the services that have this address as an endpoint or an external address.
    fn users_of(&self, address: IpAddr) -> ChangedServices {
        let mut users: ChangedServices = self.services_with_external_ip(address).cloned().collect();
        if self.prefixes.contains_key(&prefix(address)) {
            let uses = |slice: &&Arc<EndpointSlice>| slice.endpoints.iter().any(|e| e.address == address);
            users.extend(self.slices.values().filter(uses).map(|slice| slice.service.clone()));
        }
        users
    }

    fn put_slice(&mut self, slice: EndpointSlice) -> ChangedServices {
        let mut old = self.slices.get(&slice.key).cloned();
        if old.as_deref() == Some(&slice) {
            return ChangedServices::new();
        }
        let mut changed = ChangedServices::from([slice.service.clone()]);
        changed.append(&mut self.services_affected_by(&slice));
        if let Some(old) = &old {
            changed.append(&mut self.services_affected_by(old));
        }
        if old.as_ref().is_some_and(|old| old.service != slice.service) {
            changed.append(&mut self.remove_slice(&slice.key));
            old = None;
        }
        self.count_prefixes(Some(&slice), old.as_deref());
        let slice = Arc::new(slice);
        self.slices.insert_mut(slice.key.clone(), slice.clone());
        self.slices_by_service.insert_mut((slice.service.clone(), slice.key.name.clone()), slice);
        changed
    }

    fn remove_slice(&mut self, key: &SliceKey) -> ChangedServices {
        let Some(old) = self.slices.get(key).cloned() else { return ChangedServices::new() };
        self.count_prefixes(None, Some(&old));
        self.slices.remove_mut(key);
        self.slices_by_service.remove_mut(&(old.service.clone(), old.key.name.clone()));
        let mut changed = self.services_affected_by(&old);
        changed.insert(old.service.clone());
        changed
    }

    fn count_prefixes(&mut self, new: Option<&EndpointSlice>, old: Option<&EndpointSlice>) {
        let of = |slice: Option<&EndpointSlice>| -> Vec<AddressPrefix> {
            let endpoints = slice.map(|slice| slice.endpoints.as_slice()).unwrap_or_default();
            let mut prefixes: Vec<_> = endpoints.iter().map(|endpoint| prefix(endpoint.address)).collect();
            prefixes.sort_unstable();
            prefixes.dedup();
            prefixes
        };
        let (new, old) = (of(new), of(old));
        for prefix in new.iter().filter(|prefix| old.binary_search(prefix).is_err()) {
            let count = self.prefixes.get(prefix).copied().unwrap_or(0);
            self.prefixes.insert_mut(*prefix, count + 1);
        }
        for prefix in old.iter().filter(|prefix| new.binary_search(prefix).is_err()) {
            match self.prefixes.get(prefix).copied().unwrap_or(0) {
                0 | 1 => {
                    self.prefixes.remove_mut(prefix);
                }
                count => self.prefixes.insert_mut(*prefix, count - 1),
            }
        }
    }
}

impl FromIterator<Change> for Snapshot {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        let mut snapshot = Self::new();
        for change in changes {
            snapshot.apply(change);
        }
        snapshot
    }
}

mod external;
mod names;
#[cfg(test)]
mod tests;
