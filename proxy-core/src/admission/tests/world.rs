//! Random worlds and pods: a few services, sources of variables, and containers that define, hide and refer to their
//! names.
//!
//! The randomness has a seed, so that a failure can be reproduced.

use std::collections::BTreeMap;

use serde_json::{Map as Object, Value, json};

use super::kubelet::{KubeService, Map, Sources, service_env, variables};
use crate::model::service::Protocol;
use crate::model::snapshot::{Change, Snapshot};
use crate::sample::{snapshot, svc};

/// Names of services; some of their variables have equal names.
const SERVICES: [&str; 8] =
    ["redis", "db", "db-service", "db-port-80-tcp", "1api", "kubernetes", "kubernetes-service", "a-b"];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "fd00::1", "None"];
const PORTS: [(&str, &str, u16); 5] =
    [("", "TCP", 80), ("http", "TCP", 80), ("dns", "UDP", 53), ("80-tcp", "TCP", 8080), ("x", "SCTP", 9)];
const OWN_NAMES: [&str; 4] = ["A", "B", "REDIS", "x.y"];

/// The features that the containers of a pod use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    EnvOnly,
    OptionalSources,
    EnvFrom,
    All,
}

/// SplitMix64.
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap() % end
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A cluster, and the content of one namespace.
pub(super) struct World {
    pub(super) namespace: &'static str,
    /// The kubelet's variables of the services, without links and with them.
    pub(super) service_env: [Map; 2],
    pub(super) snapshot: Snapshot,
    pub(super) sources: Sources,
    /// Names that containers define and refer to.
    names: Vec<String>,
}

impl World {
    pub(super) fn new(draw: &mut Draw) -> Self {
        let namespace = *draw.of(&["default", "team", "team"]);
        let mut services = vec![service(draw, "default", "kubernetes", "10.96.0.1")];
        for name in SERVICES {
            if draw.one_in(3) && (namespace != "default" || name != "kubernetes") {
                let address = draw.of(&ADDRESSES);
                services.push(service(draw, namespace, name, address));
            }
        }
        services.push(service(draw, "elsewhere", "hidden", "10.0.0.9"));
        if draw.one_in(8) {
            services.remove(0);
        }
        let given = services.iter().filter(|service| service.namespace != "elsewhere").flat_map(variables);
        let mut names: Vec<String> = given.map(|(name, _)| name).collect();
        names.extend(OWN_NAMES.map(str::to_owned));
        let data = |draw: &mut Draw| -> Map {
            (0..draw.below(4)).map(|_| (draw.of(&names).clone(), text(draw, &names))).collect()
        };
        let objects =
            |draw: &mut Draw| BTreeMap::from(["one", "two"].map(|name| (name.to_owned(), data(draw))));
        let sources = Sources { config_maps: objects(draw), secrets: objects(draw), files: data(draw) };
        let snapshot = snapshot(services.iter().map(change));
        let service_env = [false, true].map(|links| service_env(&services, namespace, links));
        Self { namespace, service_env, snapshot, sources, names }
    }

    /// A pod of this namespace.
    pub(super) fn pod(&self, draw: &mut Draw, class: Class, has_controller: bool) -> Value {
        let mut metadata = json!({ "name": "p", "namespace": self.namespace });
        if has_controller {
            metadata["ownerReferences"] = json!([{ "kind": "ReplicaSet", "name": "r", "controller": true }]);
        }
        if draw.one_in(2) {
            metadata["annotations"] = json!({ "a/b~c": "d" });
        }
        let mut spec = json!({ "containers": self.containers(draw, class, "c") });
        if draw.one_in(2) {
            spec["initContainers"] = self.containers(draw, class, "i");
        }
        if draw.one_in(2) {
            spec["enableServiceLinks"] = (!draw.one_in(8)).into();
        }
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
    }

    fn containers(&self, draw: &mut Draw, class: Class, name: &str) -> Value {
        let count = 1 + draw.below(2);
        (0..count).map(|number| self.container(draw, class, &format!("{name}{number}"))).collect()
    }

    fn container(&self, draw: &mut Draw, class: Class, name: &str) -> Value {
        let mut container = json!({ "name": name, "image": "i" });
        if !draw.one_in(6) {
            let count = draw.below(6);
            container["env"] = (0..count).map(|_| self.variable(draw, class)).collect();
        }
        if matches!(class, Class::EnvFrom | Class::All) && !draw.one_in(4) {
            let count = draw.below(3);
            container["envFrom"] = (0..count).map(|_| self.source(draw)).collect();
        }
        container
    }

    fn variable(&self, draw: &mut Draw, class: Class) -> Value {
        let name = draw.of(&self.names).as_str();
        let has_optional = matches!(class, Class::OptionalSources | Class::All);
        match draw.below(8) {
            0 => json!({ "name": name }),
            1 => json!({ "name": name, "value": "" }),
            2 => json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }),
            3 | 4 if has_optional => {
                let kind = *draw.of(&["configMapKeyRef", "secretKeyRef", "fileKeyRef"]);
                let object = *draw.of(&["one", "two", "missing"]);
                let mut reference = json!({ "name": object, "key": draw.of(&self.names) });
                if !draw.one_in(12) {
                    reference["optional"] = true.into();
                }
                json!({ "name": name, "valueFrom": Object::from_iter([(kind.to_owned(), reference)]) })
            }
            _ => json!({ "name": name, "value": text(draw, &self.names) }),
        }
    }

    fn source(&self, draw: &mut Draw) -> Value {
        let kind = *draw.of(&["configMapRef", "secretRef"]);
        let object = *draw.of(&["one", "two", "one", "two", "missing"]);
        let mut reference = json!({ "name": object });
        if object == "missing" && !draw.one_in(8) || draw.one_in(4) {
            reference["optional"] = true.into();
        }
        let mut source = Object::from_iter([(kind.to_owned(), reference)]);
        if draw.one_in(4) {
            source.insert("prefix".to_owned(), (*draw.of(&["REDIS_", "P_"])).into());
        }
        source.into()
    }
}

fn service(
    draw: &mut Draw,
    namespace: &'static str,
    name: &'static str,
    cluster_ip: &'static str,
) -> KubeService {
    let from = draw.below(PORTS.len());
    let mut ports: Vec<_> = PORTS.iter().cycle().skip(from).take(1 + draw.below(4) / 3).copied().collect();
    ports.dedup_by_key(|(_, protocol, port)| (*protocol, *port));
    KubeService { namespace, name, cluster_ip, ports }
}

fn change(service: &KubeService) -> Change {
    let mut made = svc(service.name).namespace(service.namespace);
    if service.cluster_ip != "None" {
        made = made.ip(service.cluster_ip);
    }
    for (name, protocol, port) in &service.ports {
        made = made.port(Protocol::parse(protocol).unwrap(), name, *port);
    }
    made.into()
}

/// Returns a value that contains references, or text that resembles them.
fn text(draw: &mut Draw, names: &[String]) -> String {
    let mut text = String::new();
    for _ in 0..=draw.below(3) {
        let name = draw.of(names);
        match draw.below(9) {
            0 => text.push_str("$$"),
            1 => text.push_str("$("),
            2 => text.push_str("ä)"),
            3 => text.push_str("$ä"),
            4 => text.extend(["$$(", name, ")"]),
            5 => text.extend(["${", name, "}"]),
            _ => text.extend(["$(", name, ")"]),
        }
    }
    text
}
