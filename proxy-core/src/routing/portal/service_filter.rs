//! `ServiceFilter`: which services a pod includes.
//!
//! Views are compared in every step of an agent, and their owners are pods: a list of a thousand names must not
//! make that slow. So a selection is compared by its digest first, and name by name only where two digests are the same.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::digest::digest;
use crate::model::service::ServiceKey;

/// What a pod may see. The address of a service that it may not see is like any other address: it passes,
/// or, in a known service range, leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ServiceFilter {
    /// Every service (the default).
    #[default]
    All,
    /// These services only.
    Only(ServiceSet),
}

impl ServiceFilter {
    /// Whether this service is in view.
    #[must_use]
    pub fn includes(&self, service: &ServiceKey) -> bool {
        match self {
            Self::All => true,
            Self::Only(selection) => selection.services.contains(service),
        }
    }
}

/// A set of services. Cloning one costs nothing, and neither does comparing two different ones.
#[derive(Debug, Clone)]
pub struct ServiceSet {
    digest: u64,
    services: Arc<BTreeSet<ServiceKey>>,
}

impl ServiceSet {
    /// The services, in order.
    #[must_use]
    pub fn services(&self) -> &BTreeSet<ServiceKey> {
        &self.services
    }

    /// A number that follows from the services alone. Different selections may have the same one.
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
