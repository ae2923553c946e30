//! `Index`: the services of a zone by name, and by the addresses that have PTR records.
//!
//! An entry of the reverse index is an address and the hash of a service; the service itself states whether it has the
//! address, so an equal hash of another service does no harm. The hash function has random keys, so that no tenant can
//! choose names that share a bucket.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::service::{ServiceKey, is_service_name};

use super::bucket_map::BucketMap;
use super::service_entry::ServiceEntry;

/// The services of a zone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    hasher: RandomState,
    services: BucketMap<(u64, Arc<ServiceEntry>)>,
    by_address: BucketMap<AddressEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AddressEntry {
    /// IPv4 addresses as IPv4-mapped ones.
    address: [u8; 16],
    service: u64,
}

impl Index {
    /// Returns the service whose name and namespace are these two labels in wire format and lower case.
    pub(crate) fn service(&self, labels: &[u8]) -> Option<&Arc<ServiceEntry>> {
        let hash = self.hasher.hash_one(labels);
        self.services_with(hash).find(|entry| has_labels(&entry.service.key, labels))
    }

    /// Returns the service with a key.
    pub(crate) fn service_with_key(&self, key: &ServiceKey) -> Option<&Arc<ServiceEntry>> {
        self.service(&labels_of(key)?)
    }

    fn services_with(&self, hash: u64) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.services.bucket(hash).iter().filter(move |(own, _)| *own == hash).map(|(_, entry)| entry)
    }

    /// Returns the services that can have this cluster address or a ready endpoint with it, in the order of their keys.
    pub(crate) fn services_at(&self, address: IpAddr) -> Vec<&Arc<ServiceEntry>> {
        let bytes = address_bytes(address);
        let entries = self.by_address.bucket(self.hasher.hash_one(bytes)).iter();
        let mut hashes: Vec<u64> =
            entries.filter(|entry| entry.address == bytes).map(|entry| entry.service).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let mut services: Vec<_> = hashes.into_iter().flat_map(|hash| self.services_with(hash)).collect();
        services.sort_unstable_by(|left, right| left.service.key.cmp(&right.service.key));
        services
    }

    /// Replaces the entry of a service; `None` removes it.
    pub(crate) fn set(&mut self, key: &ServiceKey, new: Option<ServiceEntry>) {
        let Some(labels) = labels_of(key) else { return };
        let hash = self.hasher.hash_one(labels.as_slice());
        let old = self.service(&labels).map(|entry| entry.reverse_addresses()).unwrap_or_default();
        let current = new.as_ref().map(ServiceEntry::reverse_addresses).unwrap_or_default();
        for address in old.iter().filter(|address| current.binary_search(address).is_err()) {
            let removed = AddressEntry { address: address_bytes(*address), service: hash };
            self.by_address.update(self.hasher.hash_one(removed.address), |bucket| {
                if let Some(at) = bucket.iter().position(|entry| *entry == removed) {
                    bucket.swap_remove(at);
                }
            });
        }
        for address in current.iter().filter(|address| old.binary_search(address).is_err()) {
            let added = AddressEntry { address: address_bytes(*address), service: hash };
            self.by_address.update(self.hasher.hash_one(added.address), |bucket| bucket.push(added));
        }
        self.services.update(hash, |bucket| {
            bucket.retain(|(_, entry)| entry.service.key != *key);
            bucket.extend(new.map(|entry| (hash, Arc::new(entry))));
        });
    }
}

fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Returns the two labels in wire format. None: the name or the namespace is not a label.
fn labels_of(key: &ServiceKey) -> Option<Vec<u8>> {
    let parts = [&key.name, &key.namespace];
    if !parts.iter().all(|part| is_service_name(part)) {
        return None;
    }
    let mut labels = Vec::with_capacity(key.name.len() + key.namespace.len() + 2);
    for part in parts {
        labels.push(u8::try_from(part.len()).ok()?);
        labels.extend_from_slice(part.as_bytes());
    }
    Some(labels)
}

fn has_labels(key: &ServiceKey, labels: &[u8]) -> bool {
    let strip = |labels: &'_ [u8], part: &str| -> Option<usize> {
        let (len, rest) = labels.split_first()?;
        (usize::from(*len) == part.len() && rest.starts_with(part.as_bytes())).then_some(1 + part.len())
    };
    strip(labels, &key.name)
        .is_some_and(|at| strip(&labels[at..], &key.namespace).is_some_and(|len| at + len == labels.len()))
}
