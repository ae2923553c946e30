//! The slices of a random service: endpoints in every condition, with hints, duplicates, and ports that are skipped.
//!
//! If two slices have the same endpoint, kube-proxy's result can depend on the order of a Go map. Duplicates in several
//! slices therefore are equal, or one of them does not terminate.

use fastrand::Rng;
use serde_json::{Value, json};

use super::node_profile::{NODE_NAME, OTHER_NODE_NAME};
use super::random_cluster::{Sliced, family_name, happens, one_of};
use crate::node_places::{NODE, OTHER_NODE, OUTSIDE};
use crate::objects::HEADLESS;

/// The last one is also a port of services.
const TARGET_PORTS: [u16; 13] =
    [8_081, 8_082, 5_353, 8_081, 8_082, 5_353, 8_081, 8_082, 5_353, 8_081, 8_082, 5_353, 8_080];
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The pods on the node and on the other one: the last part of their addresses.
const PODS: std::ops::Range<u8> = 2..5;

/// Whether and how endpoints have hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hints {
    None,
    Zones,
    Nodes,
    Both,
    /// Some endpoints have none.
    Some,
}

/// Returns the slices of a service.
pub(crate) fn slices(rng: &mut Rng, service: &Sliced) -> Vec<Value> {
    let mut found = Vec::new();
    for family in 0..2 {
        // Slices of a family that the service lacks are ignored.
        if service.families.contains(&family) || happens(rng, 10) {
            found.extend(RandomSlices { rng, service, family }.slices());
        }
    }
    for (number, slice) in found.iter_mut().enumerate() {
        // Slices of one name have the same type and the same service, which kube-proxy relies on.
        let kind = slice["addressType"].as_str().expect("a type").to_lowercase();
        let owner = if slice["metadata"]["labels"][SERVICE_NAME].is_null() { "none" } else { &service.name };
        slice["metadata"]["name"] = format!("{}-{owner}-{kind}-{number}", service.name).into();
    }
    found
}

struct RandomSlices<'a> {
    rng: &'a mut Rng,
    service: &'a Sliced,
    family: usize,
}

impl RandomSlices<'_> {
    fn slices(&mut self) -> Vec<Value> {
        let mut places = self.places();
        self.rng.shuffle(&mut places);
        let count = self.rng.usize(..4);
        let hints = one_of(
            self.rng,
            &[Hints::None, Hints::None, Hints::Zones, Hints::Zones, Hints::Nodes, Hints::Both, Hints::Some],
        );
        let mut slices: Vec<Value> = Vec::new();
        for _ in 0..count {
            let size = self.rng.usize(..5).min(places.len());
            let mut endpoints: Vec<Value> =
                places.drain(..size).map(|place| self.endpoint(&place, hints)).collect();
            self.duplicate_within(&mut endpoints);
            if let Some(previous) = slices.last() {
                let copies = self.copies(&previous["endpoints"]);
                endpoints.extend(copies);
            }
            let slice = self.slice(&endpoints);
            slices.push(slice);
        }
        slices
    }

    /// Returns the addresses of endpoints with their nodes.
    fn places(&mut self) -> Vec<(String, Option<&'static str>)> {
        let family = self.family;
        let pod = |nets: [&str; 2], number: u8| format!("{}{number}", nets[family]);
        let local = PODS.map(|number| (pod(["10.1.0.", "2001:db8:10::"], number), Some(NODE_NAME)));
        let remote = PODS.map(|number| (pod(["10.1.1.", "2001:db8:11::"], number), Some(OTHER_NODE_NAME)));
        let hosts = [
            (NODE[family].to_owned(), Some(NODE_NAME)),
            (OTHER_NODE[family].to_owned(), Some(OTHER_NODE_NAME)),
            (OUTSIDE[family].to_owned(), None),
        ];
        let mut places: Vec<_> = local.chain(remote).chain(hosts).collect();
        if happens(self.rng, 1) {
            // The cluster address of a service.
            places.push((["10.96.0.3", "2001:db8:96::4"][family].to_owned(), None));
        }
        places
    }

    fn endpoint(&mut self, (address, node): &(String, Option<&'static str>), hints: Hints) -> Value {
        let mut endpoint = json!({"addresses": [address], "conditions": self.conditions()});
        let node = match self.rng.u8(..100) {
            0..4 => None,
            4..8 => Some(one_of(self.rng, &[NODE_NAME, OTHER_NODE_NAME, "n3"])),
            _ => *node,
        };
        if let Some(node) = node {
            endpoint["nodeName"] = node.into();
        }
        let hints = match hints {
            Hints::Some if happens(self.rng, 50) => Hints::None,
            Hints::Some => Hints::Both,
            other => other,
        };
        if matches!(hints, Hints::Zones | Hints::Both) {
            endpoint["hints"]["forZones"] = self.names(&["a", "b", "c"]);
        }
        if matches!(hints, Hints::Nodes | Hints::Both) {
            endpoint["hints"]["forNodes"] = self.names(&[NODE_NAME, OTHER_NODE_NAME]);
        }
        endpoint
    }

    fn names(&mut self, all: &[&str]) -> Value {
        let mut names: Vec<&str> = all.iter().copied().filter(|_| happens(self.rng, 40)).collect();
        if names.is_empty() {
            names.push(one_of(self.rng, all));
        }
        names.into_iter().map(|name| json!({"name": name})).collect()
    }

    fn conditions(&mut self) -> Value {
        match self.rng.u8(..100) {
            0..45 => json!({"ready": true, "serving": true, "terminating": false}),
            45..55 => json!({}),
            _ => {
                let mut conditions = json!({});
                for name in ["ready", "serving", "terminating"] {
                    if !happens(self.rng, 10) {
                        conditions[name] = self.rng.bool().into();
                    }
                }
                conditions
            }
        }
    }

    /// Adds the same endpoint in another condition: the later one counts unless it terminates.
    fn duplicate_within(&mut self, endpoints: &mut Vec<Value>) {
        if happens(self.rng, 15)
            && let Some(first) = endpoints.first()
        {
            let mut again = first.clone();
            again["conditions"] = self.conditions();
            endpoints.push(again);
        }
    }

    /// Returns endpoints of another slice, equal or terminating.
    fn copies(&mut self, endpoints: &Value) -> Vec<Value> {
        let all = endpoints.as_array().expect("a list");
        let count =
            |endpoint: &Value| all.iter().filter(|other| other["addresses"] == endpoint["addresses"]).count();
        let mut copies = Vec::new();
        for endpoint in all.iter().filter(|endpoint| count(endpoint) == 1) {
            if happens(self.rng, 90) {
                continue;
            }
            let mut copy = endpoint.clone();
            if endpoint["conditions"]["terminating"] != true {
                copy["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
            }
            copies.push(copy);
        }
        copies
    }

    fn slice(&mut self, endpoints: &[Value]) -> Value {
        let mut ports: Vec<Value> = Vec::new();
        for port in &self.service.ports {
            if happens(self.rng, 90) {
                let number = one_of(self.rng, &TARGET_PORTS);
                ports.push(json!({"name": port.name, "protocol": port.protocol, "port": number}));
            }
        }
        if happens(self.rng, 5) {
            ports.push(json!({"name": "of-no-service", "protocol": "TCP", "port": 9_999}));
        }
        if happens(self.rng, 3) {
            ports.push(json!({"protocol": "TCP", "port": 9_998}));
        }
        if happens(self.rng, 3) {
            let name = ["http", "unnumbered"]
                [usize::from(self.service.ports.iter().any(|port| port.name == "http"))];
            ports.push(json!({"name": name, "protocol": "TCP"}));
        }
        let mut labels = json!({SERVICE_NAME: self.service.name});
        match self.rng.u8(..100) {
            0..2 => labels = json!({}),
            2..4 => labels[HEADLESS] = "".into(),
            _ => {}
        }
        json!({"kind": "EndpointSlice", "addressType": family_name(self.family),
            "metadata": {"namespace": self.service.namespace, "labels": labels},
            "endpoints": endpoints, "ports": ports})
    }
}
