//! Random clusters and pods: a few services, sources of variables, and containers that define, hide and refer to their
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
pub(super) enum PodClass {
    EnvOnly,
    OptionalSources,
    EnvFrom,
    All,
}

/// SplitMix64.
pub(super) struct Rng(pub(super) u64);

impl Rng {
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
pub(super) struct TestCluster {
    pub(super) namespace: &'static str,
    /// The kubelet's variables of the services, without links and with them.
    pub(super) service_env: [Map; 2],
    pub(super) snapshot: Snapshot,
    pub(super) sources: Sources,
    /// Names that containers define and refer to.
    names: Vec<String>,
}

impl TestCluster {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let namespace = *rng.of(&["default", "team", "team"]);
        let mut services = vec![random_service(rng, "default", "kubernetes", "10.96.0.1")];
        for name in SERVICES {
            if rng.one_in(3) && (namespace != "default" || name != "kubernetes") {
                let address = rng.of(&ADDRESSES);
                services.push(random_service(rng, namespace, name, address));
            }
        }
        services.push(random_service(rng, "elsewhere", "hidden", "10.0.0.9"));
        if rng.one_in(8) {
            services.remove(0);
        }
        let given = services.iter().filter(|service| service.namespace != "elsewhere").flat_map(variables);
        let mut names: Vec<String> = given.map(|(name, _)| name).collect();
        names.extend(OWN_NAMES.map(str::to_owned));
        let data = |rng: &mut Rng| -> Map {
            (0..rng.below(4)).map(|_| (rng.of(&names).clone(), random_text(rng, &names))).collect()
        };
        let objects = |rng: &mut Rng| BTreeMap::from(["one", "two"].map(|name| (name.to_owned(), data(rng))));
        let sources = Sources { config_maps: objects(rng), secrets: objects(rng), files: data(rng) };
        let snapshot = snapshot(services.iter().map(change));
        let service_env = [false, true].map(|links| service_env(&services, namespace, links));
        Self { namespace, service_env, snapshot, sources, names }
    }

    /// A pod of this namespace.
    pub(super) fn pod(&self, rng: &mut Rng, class: PodClass, has_controller: bool) -> Value {
        let mut metadata = json!({ "name": "p", "namespace": self.namespace });
        if has_controller {
            metadata["ownerReferences"] = json!([{ "kind": "ReplicaSet", "name": "r", "controller": true }]);
        }
        if rng.one_in(2) {
            metadata["annotations"] = json!({ "a/b~c": "d" });
        }
        let mut spec = json!({ "containers": self.containers(rng, class, "c") });
        if rng.one_in(2) {
            spec["initContainers"] = self.containers(rng, class, "i");
        }
        if rng.one_in(2) {
            spec["enableServiceLinks"] = (!rng.one_in(8)).into();
        }
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
    }

    fn containers(&self, rng: &mut Rng, class: PodClass, name: &str) -> Value {
        let count = 1 + rng.below(2);
        (0..count).map(|number| self.container(rng, class, &format!("{name}{number}"))).collect()
    }

    fn container(&self, rng: &mut Rng, class: PodClass, name: &str) -> Value {
        let mut container = json!({ "name": name, "image": "i" });
        if !rng.one_in(6) {
            let count = rng.below(6);
            container["env"] = (0..count).map(|_| self.variable(rng, class)).collect();
        }
        if matches!(class, PodClass::EnvFrom | PodClass::All) && !rng.one_in(4) {
            let count = rng.below(3);
            container["envFrom"] = (0..count).map(|_| self.source(rng)).collect();
        }
        container
    }

    fn variable(&self, rng: &mut Rng, class: PodClass) -> Value {
        let name = rng.of(&self.names).as_str();
        let has_optional = matches!(class, PodClass::OptionalSources | PodClass::All);
        match rng.below(8) {
            0 => json!({ "name": name }),
            1 => json!({ "name": name, "value": "" }),
            2 => json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }),
            3 | 4 if has_optional => {
                let kind = *rng.of(&["configMapKeyRef", "secretKeyRef", "fileKeyRef"]);
                let object = *rng.of(&["one", "two", "missing"]);
                let mut reference = json!({ "name": object, "key": rng.of(&self.names) });
                if !rng.one_in(12) {
                    reference["optional"] = true.into();
                }
                json!({ "name": name, "valueFrom": Object::from_iter([(kind.to_owned(), reference)]) })
            }
            _ => json!({ "name": name, "value": random_text(rng, &self.names) }),
        }
    }

    fn source(&self, rng: &mut Rng) -> Value {
        let kind = *rng.of(&["configMapRef", "secretRef"]);
        let object = *rng.of(&["one", "two", "one", "two", "missing"]);
        let mut reference = json!({ "name": object });
        if object == "missing" && !rng.one_in(8) || rng.one_in(4) {
            reference["optional"] = true.into();
        }
        let mut source = Object::from_iter([(kind.to_owned(), reference)]);
        if rng.one_in(4) {
            source.insert("prefix".to_owned(), (*rng.of(&["REDIS_", "P_"])).into());
        }
        source.into()
    }
}

fn random_service(
    rng: &mut Rng,
    namespace: &'static str,
    name: &'static str,
    cluster_ip: &'static str,
) -> KubeService {
    let from = rng.below(PORTS.len());
    let mut ports: Vec<_> = PORTS.iter().cycle().skip(from).take(1 + rng.below(4) / 3).copied().collect();
    ports.dedup_by_key(|(_, protocol, port)| (*protocol, *port));
    KubeService { namespace, name, cluster_ip, ports }
}

fn change(service: &KubeService) -> Change {
    let mut result = svc(service.name).namespace(service.namespace);
    if service.cluster_ip != "None" {
        result = result.ip(service.cluster_ip);
    }
    for (name, protocol, port) in &service.ports {
        result = result.port(Protocol::parse(protocol).unwrap(), name, *port);
    }
    result.into()
}

/// Returns a value that contains references, or text that resembles them.
fn random_text(rng: &mut Rng, names: &[String]) -> String {
    let mut text = String::new();
    for _ in 0..=rng.below(3) {
        let name = rng.of(names);
        match rng.below(9) {
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
