//! `ServiceFilter`: which services are visible to a pod.
//!
//! An agent compares filters in every step, and pods choose them, so a list of a thousand names must not be slow: sets
//! are compared by their digest first, and by name only if the digests are equal.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::digest::digest;
use crate::model::portals_request::PortalsRequest;
use crate::model::service::ServiceKey;

/// Which services are visible to a pod. Traffic to the address of an invisible service is not translated; inside a
/// known service range it is rejected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ServiceFilter {
    /// Every service (the default).
    #[default]
    All,
    /// These services only.
    Only(ServiceSet),
}

impl ServiceFilter {
    /// Returns the filter of a pod that requests these portals. None: Portico does not serve the pod.
    #[must_use]
    pub fn of(request: PortalsRequest) -> Option<Self> {
        match request {
            PortalsRequest::All => Some(Self::All),
            PortalsRequest::Only(services) => Some(Self::Only(services.into_iter().collect())),
            PortalsRequest::Off => None,
        }
    }

    /// Whether a service is visible.
    #[must_use]
    pub fn includes(&self, service: &ServiceKey) -> bool {
        match self {
            Self::All => true,
            Self::Only(set) => set.services.contains(service),
        }
    }
}

/// A set of services. Clones, and comparisons of different sets, take constant time.
#[derive(Debug, Clone)]
pub struct ServiceSet {
    digest: u64,
    services: Arc<BTreeSet<ServiceKey>>,
}

impl ServiceSet {
    /// Returns the services in order.
    #[must_use]
    pub fn services(&self) -> &BTreeSet<ServiceKey> {
        &self.services
    }

    /// Returns a digest of the services. Different sets can have the same digest.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

impl FromIterator<ServiceKey> for ServiceSet {
    fn from_iter<I: IntoIterator<Item = ServiceKey>>(services: I) -> Self {
        let services: BTreeSet<ServiceKey> = services.into_iter().collect();
        let mut text = String::new();
        for service in &services {
            text.push_str(&service.namespace);
            text.push('/');
            text.push_str(&service.name);
            text.push(',');
        }
        Self { digest: digest(text), services: Arc::new(services) }
    }
}

impl<const N: usize> From<[ServiceKey; N]> for ServiceSet {
    fn from(services: [ServiceKey; N]) -> Self {
        services.into_iter().collect()
    }
}

impl Ord for ServiceSet {
    fn cmp(&self, other: &Self) -> Ordering {
        self.digest.cmp(&other.digest).then_with(|| {
            if Arc::ptr_eq(&self.services, &other.services) {
                Ordering::Equal
            } else {
                self.services.cmp(&other.services)
            }
        })
    }
}

impl PartialOrd for ServiceSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ServiceSet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ServiceSet {}
