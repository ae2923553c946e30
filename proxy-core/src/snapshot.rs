//! `Snapshot`: all services and endpoint slices of a cluster at one revision.
//!
//! A snapshot shares structure with the one before it, so cloning it costs nothing and a change costs
//! the change. `apply` takes one change and answers with the keys of the services whose portals may
//! differ now; everything downstream (portals, ruleset, plan) works on those keys alone. What must not
//! go in here: anything that depends on a node or a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use rpds::RedBlackTreeMapSync as Map;

use crate::address::Family;
use crate::endpoint::{Endpoint, EndpointSlice, SliceKey};
use crate::service::{Protocol, Service, ServiceKey};

/// One change of the cluster's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A service is new or different.
    Service(Service),
    /// A service is gone.
    NoService(ServiceKey),
    /// A slice is new or different.
    Slice(EndpointSlice),
    /// A slice is gone.
    NoSlice(SliceKey),
    /// The ranges from which the cluster takes service addresses.
    ServiceRanges(Vec<IpNet>),
}

/// The services whose portals may differ after a change.
pub type Changed = BTreeSet<ServiceKey>;

type Slices = BTreeMap<SliceKey, Arc<EndpointSlice>>;

/// All services and endpoint slices at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    revision: u64,
    services: Map<ServiceKey, Arc<Service>>,
    slices: Map<ServiceKey, Arc<Slices>>,
    slice_owners: Map<SliceKey, ServiceKey>,
    /// Who has which cluster address: an endpoint must not have one of these.
    service_addresses: Map<(IpAddr, ServiceKey), ()>,
    /// Which slice uses which address, so that a new service address finds the endpoints it forbids.
    endpoint_addresses: Map<(IpAddr, SliceKey), ServiceKey>,
    service_ranges: Arc<[IpNet]>,
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

    /// The ranges from which service addresses are taken; empty where they are not known.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNet] {
        &self.service_ranges
    }

    /// The slices of a service, in the order of their names.
    pub fn slices_of(&self, service: &ServiceKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.get(service).into_iter().flat_map(|slices| slices.values())
    }

    /// The service that has this cluster address.
    #[must_use]
    pub fn owner_of(&self, address: IpAddr) -> Option<&ServiceKey> {
        let from = (address, ServiceKey::new("", ""));
        let ((found, owner), ()) = self.service_addresses.range(from..).next()?;
        (*found == address).then_some(owner)
    }

    /// The endpoints of one port of a service, joined by port name and protocol, in the order of their
    /// addresses, each address and port once; the addresses of services are left out.
    ///
    /// Where two slices name the same address and port, the later one counts only if it is not
    /// terminating (endpointslicecache.go:235-249); "later" is the order of the slices' names here, and
    /// undefined there.
    #[must_use]
    pub fn endpoints_of(
        &self,
        service: &ServiceKey,
        port_name: &str,
        protocol: Protocol,
        family: Family,
    ) -> Vec<PortEndpoint<'_>> {
        let mut found: Vec<PortEndpoint<'_>> = Vec::new();
        for slice in self.slices_of(service) {
            let ports =
                slice.ports.iter().filter(|port| port.protocol == protocol && *port.name == *port_name);
            for port in ports {
                let endpoints = slice.endpoints.iter().filter(|endpoint| {
                    Family::of(endpoint.address) == family && self.owner_of(endpoint.address).is_none()
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
    pub fn apply(&mut self, change: Change) -> Changed {
        self.revision += 1;
        match change {
            Change::Service(service) => self.put_service(service),
            Change::NoService(key) => self.remove_service(&key),
            Change::Slice(slice) => self.put_slice(slice),
            Change::NoSlice(key) => self.remove_slice(&key).into_iter().collect(),
            Change::ServiceRanges(ranges) => {
                self.service_ranges = IpNet::aggregate(&ranges).into();
                Changed::new()
            }
        }
    }

    fn put_service(&mut self, service: Service) -> Changed {
        let key = service.key.clone();
        let old = self.services.get(&key).cloned();
        if old.as_deref() == Some(&service) {
            return Changed::new();
        }
        let old_ips: BTreeSet<IpAddr> = old.iter().flat_map(|old| old.cluster_ips.iter()).collect();
        let new_ips: BTreeSet<IpAddr> = service.cluster_ips.iter().collect();
        let mut changed = Changed::from([key.clone()]);
        for address in old_ips.symmetric_difference(&new_ips) {
            changed.extend(self.users_of(*address));
            if new_ips.contains(address) {
                self.service_addresses.insert_mut((*address, key.clone()), ());
            } else {
                self.service_addresses.remove_mut(&(*address, key.clone()));
            }
        }
        self.services.insert_mut(key, Arc::new(service));
        changed
    }

    fn remove_service(&mut self, key: &ServiceKey) -> Changed {
        let Some(old) = self.services.get(key).cloned() else { return Changed::new() };
        let mut changed = Changed::from([key.clone()]);
        for address in old.cluster_ips.iter() {
            changed.extend(self.users_of(address));
            self.service_addresses.remove_mut(&(address, key.clone()));
        }
        self.services.remove_mut(key);
        changed
    }

    /// The services that have this address among their endpoints.
    fn users_of(&self, address: IpAddr) -> Vec<ServiceKey> {
        let from = (address, SliceKey::new("", ""));
        let users = self.endpoint_addresses.range(from..).take_while(|((found, _), _)| *found == address);
        users.map(|(_, service)| service.clone()).collect()
    }

    fn put_slice(&mut self, slice: EndpointSlice) -> Changed {
        let moved_from = self.slice_owners.get(&slice.key).filter(|owner| **owner != slice.service).cloned();
        let mut changed = Changed::new();
        if moved_from.is_some() {
            changed.extend(self.remove_slice(&slice.key));
        }
        let old_slices = self.slices.get(&slice.service);
        let old = old_slices.and_then(|slices| slices.get(&slice.key)).cloned();
        if old.as_deref() == Some(&slice) {
            return changed;
        }
        let mut slices = old_slices.map(|slices| (**slices).clone()).unwrap_or_default();
        self.index_addresses(&slice.key, &slice.service, old.as_deref(), Some(&slice));
        if old.is_none() {
            self.slice_owners.insert_mut(slice.key.clone(), slice.service.clone());
        }
        changed.insert(slice.service.clone());
        let service = slice.service.clone();
        slices.insert(slice.key.clone(), Arc::new(slice));
        self.slices.insert_mut(service, Arc::new(slices));
        changed
    }

    fn remove_slice(&mut self, key: &SliceKey) -> Option<ServiceKey> {
        let service = self.slice_owners.get(key)?.clone();
        let mut slices = (**self.slices.get(&service)?).clone();
        let old = slices.remove(key);
        self.index_addresses(key, &service, old.as_deref(), None);
        self.slice_owners.remove_mut(key);
        if slices.is_empty() {
            self.slices.remove_mut(&service);
        } else {
            self.slices.insert_mut(service.clone(), Arc::new(slices));
        }
        Some(service)
    }

    fn index_addresses(
        &mut self,
        key: &SliceKey,
        service: &ServiceKey,
        old: Option<&EndpointSlice>,
        new: Option<&EndpointSlice>,
    ) {
        let addresses = |slice: Option<&EndpointSlice>| -> BTreeSet<IpAddr> {
            slice.into_iter().flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.address).collect()
        };
        let (old, new) = (addresses(old), addresses(new));
        for address in old.difference(&new) {
            self.endpoint_addresses.remove_mut(&(*address, key.clone()));
        }
        for address in new.difference(&old) {
            self.endpoint_addresses.insert_mut((*address, key.clone()), service.clone());
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
