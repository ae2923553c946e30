//! `Snapshot`: all services and endpoint slices of a cluster at one revision.
//!
//! A snapshot shares structure with the one before it, so cloning it costs nothing and a change costs
//! the change. `apply` takes one change and answers with the keys of the services whose portals may
//! differ now; everything downstream (portals, ruleset, plan) works on those keys alone. What must not
//! go in here: anything that depends on a node or a pod.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use rpds::{RedBlackTreeMapSync as Map, RedBlackTreeSetSync as Set};

use crate::model::address::Family;
use crate::model::endpoint::{Endpoint, EndpointSlice, SliceKey};
use crate::model::service::{ClusterIps, Protocol, Service, ServiceKey};

/// One change of the cluster's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A service is new or different.
    Service(Service),
    /// A service is gone.
    ServiceDeleted(ServiceKey),
    /// A slice is new or different.
    Slice(EndpointSlice),
    /// A slice is gone.
    SliceDeleted(SliceKey),
    /// The ranges from which the cluster takes service addresses.
    ServiceRanges(Vec<IpNet>),
}

/// The services whose portals may differ after a change.
pub type ChangedServices = BTreeSet<ServiceKey>;

/// All services and endpoint slices at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    revision: u64,
    services: Map<ServiceKey, Arc<Service>>,
    slices: Map<SliceKey, Arc<EndpointSlice>>,
    /// By service and name: a slice is in the namespace of its service.
    slices_by_service: Map<(ServiceKey, Arc<str>), Arc<EndpointSlice>>,
    /// Who has which cluster address: an endpoint must not have one of these.
    service_addresses: Map<IpAddr, Arc<[ServiceKey]>>,
    /// The services that have an address as an external one: whether that counts depends on others.
    external_users: Set<(IpAddr, ServiceKey)>,
    /// How many slices have endpoints in which neighbourhood: a new service address looks for endpoints
    /// that it forbids only where there are any, which in a sound cluster is nowhere.
    neighbourhoods: Map<Neighbourhood, usize>,
    service_ranges: Arc<[IpNet]>,
    /// How many services with an address belong to another proxy.
    foreign: usize,
}

/// The addresses that share the first 20 bits (IPv4) or 64 bits (IPv6).
type Neighbourhood = (Family, u64);

fn neighbourhood(address: IpAddr) -> Neighbourhood {
    match address {
        IpAddr::V4(v4) => (Family::V4, u64::from(u32::from(v4) >> 12)),
        IpAddr::V6(v6) => (Family::V6, u64::try_from(u128::from(v6) >> 64).unwrap_or(u64::MAX)),
    }
}

fn is_foreign(service: &Service) -> bool {
    !service.has_portals && service.cluster_ips != ClusterIps::Headless
}

/// An endpoint of one service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortEndpoint<'a> {
    /// Address and port: where a connection is sent.
    pub backend: SocketAddr,
    /// The endpoint it belongs to.
    pub endpoint: &'a Endpoint,
}

impl Snapshot {
    /// A cluster without services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many changes led here.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All services, in the order of their keys.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The services of a namespace, in the order of their names.
    pub fn services_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Service>> {
        let from = ServiceKey::new(namespace, "");
        self.services
            .range(from..)
            .map(|(_, service)| service)
            .take_while(move |service| &*service.key.namespace == namespace)
    }

    /// How many services there are.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.size()
    }

    /// The service with this key.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The ranges whose free addresses belong to nobody. Empty where the ranges are not known, and where
    /// another proxy has services in them: what looks free to us may be one of its addresses.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNet] {
        if self.foreign > 0 { &[] } else { &self.service_ranges }
    }

    /// The ranges from which the cluster takes service addresses, whoever the services belong to.
    #[must_use]
    pub fn all_service_ranges(&self) -> &[IpNet] {
        &self.service_ranges
    }

    /// The slices of a service, in the order of their names.
    pub fn slices_of<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        let from = (service.clone(), Arc::default());
        self.slices_by_service
            .range(from..)
            .take_while(move |((found, _), _)| found == service)
            .map(|(_, slice)| slice)
    }

    /// The service that has this cluster address.
    #[must_use]
    pub fn owner_of(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.service_addresses.get(&address)?.first()
    }

    /// The endpoints of one port of a service, joined by port name and protocol, in the order of their
    /// addresses, each address and port once; the addresses of services are left out.
    ///
    /// Where two slices name the same address and port, the later one counts only if it is not
    /// terminating (endpointslicecache.go:235-249); "later" is the order of the slices' names here, and
    /// undefined there.
    #[must_use]
    pub fn endpoints_of<'a>(
        &'a self,
        service: &'a ServiceKey,
        port_name: &str,
        protocol: Protocol,
        family: Family,
    ) -> Vec<PortEndpoint<'a>> {
        let mut found: Vec<PortEndpoint<'a>> = Vec::new();
        for slice in self.slices_of(service) {
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
        // The sort is stable: of equal ones the later stays later.
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

    /// Takes one change and says which services' portals may differ now.
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
        self.follow_outside(old.as_deref(), Some(&service));
        let mut changed = ChangedServices::from([key.clone()]);
        let old_ips = old.map_or(ClusterIps::Headless, |old| old.cluster_ips);
        for family in Family::BOTH {
            let (old, new) = (old_ips.of(family), service.cluster_ips.of(family));
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
        self.follow_outside(Some(&old), None);
        let mut changed = ChangedServices::from([key.clone()]);
        for address in old.cluster_ips.iter() {
            changed.extend(self.release_address(address, key));
        }
        self.services.remove_mut(key);
        changed
    }

    /// Gives a service an address, and says whose endpoints and external addresses it forbids.
    fn claim_address(&mut self, address: IpAddr, key: &ServiceKey) -> ChangedServices {
        let others = self.service_addresses.get(&address).cloned().unwrap_or_default();
        let mut owners: Vec<ServiceKey> = others.iter().cloned().chain([key.clone()]).collect();
        owners.sort_unstable();
        self.service_addresses.insert_mut(address, owners.into());
        self.users_of(address)
    }

    /// Takes an address from a service, and says whose endpoints and external addresses it no longer forbids.
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

    /// The services that have this address among their endpoints or external addresses.
    fn users_of(&self, address: IpAddr) -> ChangedServices {
        let mut users: ChangedServices = self.services_with_external_ip(address).cloned().collect();
        if self.neighbourhoods.contains_key(&neighbourhood(address)) {
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
        changed.append(&mut self.concerned_by(&slice));
        if let Some(old) = &old {
            changed.append(&mut self.concerned_by(old));
        }
        if old.as_ref().is_some_and(|old| old.service != slice.service) {
            changed.append(&mut self.remove_slice(&slice.key));
            old = None;
        }
        self.count_neighbourhoods(Some(&slice), old.as_deref());
        let slice = Arc::new(slice);
        self.slices.insert_mut(slice.key.clone(), slice.clone());
        self.slices_by_service.insert_mut((slice.service.clone(), slice.key.name.clone()), slice);
        changed
    }

    fn remove_slice(&mut self, key: &SliceKey) -> ChangedServices {
        let Some(old) = self.slices.get(key).cloned() else { return ChangedServices::new() };
        self.count_neighbourhoods(None, Some(&old));
        self.slices.remove_mut(key);
        self.slices_by_service.remove_mut(&(old.service.clone(), old.key.name.clone()));
        let mut changed = self.concerned_by(&old);
        changed.insert(old.service.clone());
        changed
    }

    fn count_neighbourhoods(&mut self, new: Option<&EndpointSlice>, old: Option<&EndpointSlice>) {
        let of = |slice: Option<&EndpointSlice>| -> Vec<Neighbourhood> {
            let endpoints = slice.map(|slice| slice.endpoints.as_slice()).unwrap_or_default();
            let mut places: Vec<_> =
                endpoints.iter().map(|endpoint| neighbourhood(endpoint.address)).collect();
            places.sort_unstable();
            places.dedup();
            places
        };
        let (new, old) = (of(new), of(old));
        for place in new.iter().filter(|place| old.binary_search(place).is_err()) {
            let count = self.neighbourhoods.get(place).copied().unwrap_or(0);
            self.neighbourhoods.insert_mut(*place, count + 1);
        }
        for place in old.iter().filter(|place| new.binary_search(place).is_err()) {
            match self.neighbourhoods.get(place).copied().unwrap_or(0) {
                0 | 1 => {
                    self.neighbourhoods.remove_mut(place);
                }
                count => self.neighbourhoods.insert_mut(*place, count - 1),
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
#[cfg(test)]
mod tests;
