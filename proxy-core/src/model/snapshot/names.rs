//! The names in a snapshot: namespaces, and services by the text of their names.
//!
//! DNS looks up names that are part of a query. The lookups take borrowed texts, so that they do not allocate.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use super::Snapshot;
use crate::model::dns::Namespace;
use crate::model::service::{Service, ServiceKey};

/// A service key, or the texts of one. Both forms have the order of `ServiceKey`.
trait NameParts {
    /// Returns the namespace and the name.
    fn parts(&self) -> (&str, &str);
}

impl NameParts for ServiceKey {
    fn parts(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

impl NameParts for (&str, &str) {
    fn parts(&self) -> (&str, &str) {
        *self
    }
}

impl Ord for dyn NameParts + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for dyn NameParts + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn NameParts + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn NameParts + '_ {}

impl<'a> Borrow<dyn NameParts + 'a> for ServiceKey {
    fn borrow(&self) -> &(dyn NameParts + 'a) {
        self
    }
}

impl Snapshot {
    /// Returns the service with this namespace and name.
    #[must_use]
    pub fn service_named(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        let parts: &dyn NameParts = &(namespace, name);
        self.services.get(parts)
    }

    /// Returns the namespace with this name, if its object is known.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// Returns the namespaces whose objects are known, in the order of their names.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// Whether a namespace exists: its object is known, or a service is in it. Manifests often lack the former.
    #[must_use]
    pub fn has_namespace(&self, name: &str) -> bool {
        let from: &dyn NameParts = &(name, "");
        let has_service = || {
            let range = (Bound::Included(from), Bound::<&dyn NameParts>::Unbounded);
            let next = self.services.range::<dyn NameParts, _>(range).next();
            next.is_some_and(|(key, _)| &*key.namespace == name)
        };
        self.namespaces.contains_key(name) || has_service()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Change;
    use crate::sample::svc;

    fn namespace(name: &str, is_dns_off: bool) -> Change {
        Change::Namespace(Namespace { name: name.into(), is_dns_off })
    }

    #[test]
    fn service_is_found_by_the_text_of_its_name() {
        let names = [("a", "x"), ("a", "y"), ("a-b", "x"), ("ab", "a"), ("b", "")];
        let services = names.map(|(namespace, name)| svc(name).namespace(namespace));
        let snapshot: Snapshot = services.into_iter().map(Change::from).collect();
        for (namespace, name) in names {
            let found = snapshot.service_named(namespace, name).expect("the service was added");
            assert_eq!(found.key, ServiceKey::new(namespace, name));
        }
        for (namespace, name) in [("a", ""), ("a", "xx"), ("", "x"), ("ab", "x"), ("c", "x")] {
            assert_eq!(snapshot.service_named(namespace, name), None, "{namespace}/{name}");
        }
    }

    #[test]
    fn namespace_exists_if_its_object_or_a_service_in_it_exists() {
        let mut snapshot: Snapshot =
            [namespace("empty", false), svc("x").namespace("used").into()].into_iter().collect();
        let exist = |snapshot: &Snapshot| {
            ["empty", "used", "use", "used-", "z", ""].map(|n| snapshot.has_namespace(n))
        };
        assert_eq!(exist(&snapshot), [true, true, false, false, false, false]);
        assert!(snapshot.apply(Change::NamespaceDeleted("empty".into())).is_empty());
        snapshot.apply(Change::ServiceDeleted(ServiceKey::new("used", "x")));
        assert_eq!(exist(&snapshot), [false; 6]);
    }

    #[test]
    fn changed_namespace_changes_no_portal() {
        let mut snapshot: Snapshot = [svc("x").ip("10.96.0.1").into()].into_iter().collect();
        let revision = snapshot.revision();
        for is_dns_off in [false, true, false] {
            assert!(snapshot.apply(namespace("default", is_dns_off)).is_empty());
            assert_eq!(snapshot.namespace("default").map(|found| found.is_dns_off), Some(is_dns_off));
        }
        assert_eq!(snapshot.revision(), revision + 3);
        assert_eq!(snapshot.namespaces().count(), 1);
    }
}
