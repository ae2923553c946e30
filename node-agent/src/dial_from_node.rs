//! `DialFromNode`: whose services the relay may dial from the node, where the operator lists their namespaces.
//!
//! Dialled from the node, a connection has the node's address and passes the rules for what the node itself may probe_api_server,
//! so the owner of a service alone cannot decide it. Where the annotation does not count, backends are dialled from the
//! pod. What must not go in here: how a backend is dialled.

use std::collections::BTreeSet;

use proxy_core::service::{Dial, Service, ServiceKey};
use proxy_core::snapshot::Change;

/// The name that stands for every namespace.
const EVERY: &str = "*";

/// The namespaces whose services may be dialled from the node, and the services that ask for it in vain.
#[derive(Debug, Default)]
pub(crate) struct DialFromNode {
    namespaces: BTreeSet<String>,
    ignored: BTreeSet<ServiceKey>,
}

impl DialFromNode {
    /// These namespaces.
    pub(crate) fn of(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self { namespaces: namespaces.into_iter().collect(), ignored: BTreeSet::new() }
    }

    fn allows(&self, namespace: &str) -> bool {
        self.namespaces.contains(EVERY) || self.namespaces.contains(namespace)
    }

    /// The change as it counts here, and the service whose annotation is ignored from now on.
    pub(crate) fn permitted(&mut self, change: Change) -> (Change, Option<ServiceKey>) {
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

    /// How many services ask for it in vain.
    pub(crate) fn ignored(&self) -> usize {
        self.ignored.len()
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::sample::svc;

    use super::*;

    fn dial_of(from_node: &mut DialFromNode, dial: Dial) -> (Dial, bool) {
        let (change, ignored) = from_node.permitted(svc("web").ip("10.96.0.1").dial(dial).into());
        let Change::Service(service) = change else { panic!("a service") };
        (service.dial, ignored.is_some())
    }

    #[test]
    fn outside_of_the_listed_namespaces_backends_are_dialled_from_the_pod() {
        for dial in [Dial::Node, Dial::Auto] {
            let mut none = DialFromNode::of(["other".to_owned()]);
            assert_eq!(dial_of(&mut none, dial), (Dial::Pod, true), "{dial:?}");
            assert_eq!(dial_of(&mut none, dial), (Dial::Pod, false), "it is reported once");
            assert_eq!(none.ignored(), 1);
            dial_of(&mut none, Dial::Pod);
            assert_eq!(none.ignored(), 0, "the annotation is gone");
        }
    }

    #[test]
    fn in_a_listed_namespace_the_annotation_counts() {
        for namespaces in ["default", "*"] {
            let mut listed = DialFromNode::of([namespaces.to_owned()]);
            assert_eq!(dial_of(&mut listed, Dial::Node), (Dial::Node, false), "{namespaces}");
            assert_eq!(listed.ignored(), 0);
        }
    }

    #[test]
    fn a_service_that_goes_is_ignored_no_longer() {
        let mut none = DialFromNode::default();
        dial_of(&mut none, Dial::Node);
        none.permitted(Change::ServiceDeleted(ServiceKey::new("default", "web")));
        assert_eq!(none.ignored(), 0);
    }
}
