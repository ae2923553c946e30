//! `DialFromNode`: the namespaces in which services can request that the relay dials their backends from the node.
//!
//! A connection from the node has the node's address, and passes network policies for the node, so this needs the
//! consent of the operator. In all other namespaces, the annotation is ignored and backends are dialled from the pod.

use std::collections::BTreeSet;

use proxy_core::service::{Dial, Service, ServiceKey};
use proxy_core::snapshot::Change;

/// Matches every namespace.
const EVERY: &str = "*";

/// The permitted namespaces, and the services whose annotation is ignored.
#[derive(Debug, Default)]
pub(crate) struct DialFromNode {
    namespaces: BTreeSet<String>,
    ignored: BTreeSet<ServiceKey>,
}

impl DialFromNode {
    pub(crate) fn new(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self { namespaces: namespaces.into_iter().collect(), ignored: BTreeSet::new() }
    }

    fn allows(&self, namespace: &str) -> bool {
        self.namespaces.contains(EVERY) || self.namespaces.contains(namespace)
    }

    /// Returns the change without an ignored annotation, and the service if its annotation is ignored from now on.
    pub(crate) fn filter(&mut self, change: Change) -> (Change, Option<ServiceKey>) {
        match change {
            Change::Service(service) if service.dial != Dial::Pod && !self.allows(&service.key.namespace) => {
                let key = service.key.clone();
                let is_new = self.ignored.insert(key.clone());
                (Change::Service(Service { dial: Dial::Pod, ..service }), is_new.then_some(key))
            }
            Change::Service(service) => {
                self.ignored.remove(&service.key);
                (Change::Service(service), None)
            }
            Change::ServiceDeleted(key) => {
                self.ignored.remove(&key);
                (Change::ServiceDeleted(key), None)
            }
            other => (other, None),
        }
    }

    /// The number of services whose annotation is ignored.
    pub(crate) fn ignored(&self) -> usize {
        self.ignored.len()
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::sample::svc;

    use super::*;

    fn dial_of(from_node: &mut DialFromNode, dial: Dial) -> (Dial, bool) {
        let (change, ignored) = from_node.filter(svc("web").ip("10.96.0.1").dial(dial).into());
        let Change::Service(service) = change else { panic!("a service") };
        (service.dial, ignored.is_some())
    }

    #[test]
    fn outside_of_listed_namespaces_backends_are_dialled_from_the_pod() {
        for dial in [Dial::Node, Dial::Auto] {
            let mut none = DialFromNode::new(["other".to_owned()]);
            assert_eq!(dial_of(&mut none, dial), (Dial::Pod, true), "{dial:?}");
            assert_eq!(dial_of(&mut none, dial), (Dial::Pod, false), "it is reported once");
            assert_eq!(none.ignored(), 1);
            dial_of(&mut none, Dial::Pod);
            assert_eq!(none.ignored(), 0, "the annotation is gone");
        }
    }

    #[test]
    fn in_a_listed_namespace_the_annotation_applies() {
        for namespaces in ["default", "*"] {
            let mut listed = DialFromNode::new([namespaces.to_owned()]);
            assert_eq!(dial_of(&mut listed, Dial::Node), (Dial::Node, false), "{namespaces}");
            assert_eq!(listed.ignored(), 0);
        }
    }

    #[test]
    fn deleted_service_is_no_longer_counted_as_ignored() {
        let mut none = DialFromNode::default();
        dial_of(&mut none, Dial::Node);
        none.filter(Change::ServiceDeleted(ServiceKey::new("default", "web")));
        assert_eq!(none.ignored(), 0);
    }
}
