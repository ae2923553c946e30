//! Pods as endpoints, for services that have a selector and no endpoints of their own.
//!
//! This is what the endpointslice controller would have done (its `utils.go`: `podToEndpoint`, `FindPort`), so
//! that a manifest of services and pods is enough to see what a cluster would do. What must not go in here: which
//! services need it, see `finish`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::address::{Family, parse_ip_sloppy};
use proxy_core::endpoint::{Conditions, Endpoint, EndpointPort};
use proxy_core::service::Protocol;

use crate::endpoints::Subset;
use crate::field::Field;
use crate::metadata::{NameRule, Names, metadata};
use crate::ports::protocol;
use crate::service::{ServiceDraft, TargetPort};
use crate::slice::allowed;
use crate::validate;

/// The identity of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The number that a container's port name stands for: the first of a name and protocol counts.
type NamedPorts = HashMap<Box<str>, BTreeMap<Protocol, u16>>;

/// What of a pod matters to services.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) key: PodKey,
    labels: BTreeMap<Box<str>, Box<str>>,
    addresses: Vec<IpAddr>,
    node: Option<Arc<str>>,
    ready: bool,
    terminating: bool,
    /// Phase Succeeded or Failed: it will not run again.
    finished: bool,
    has_status: bool,
    ports: NamedPorts,
}

impl Pod {
    /// Why it is no endpoint though a service selects it, if that is worth saying.
    pub(crate) fn unusable(&self) -> Option<&'static str> {
        if self.finished || !self.addresses.is_empty() {
            None
        } else if self.has_status {
            Some("its status has no podIP that an endpoint may have")
        } else {
            Some("it has no status, so no address")
        }
    }

    /// It has an address and may have connections.
    pub(crate) fn is_usable(&self) -> bool {
        !self.finished && !self.addresses.is_empty()
    }

    /// Whether it has all the labels that a service selects by, given that it has one.
    pub(crate) fn is_selected(&self, draft: &ServiceDraft) -> bool {
        // The only label is the one by which it was found.
        draft.selector.len() == 1
            || draft.selector.iter().all(|(label, value)| self.labels.get(label) == Some(value))
    }

    fn endpoint(&self, family: Family, publish_not_ready: bool) -> Option<Endpoint> {
        let address = *self.addresses.iter().find(|address| Family::of(**address) == family)?;
        let conditions = Conditions {
            ready: publish_not_ready || (self.ready && !self.terminating),
            serving: self.ready,
            terminating: self.terminating,
        };
        let (zone_hints, node_hints) = (Vec::new(), Vec::new());
        Some(Endpoint { address, conditions, node: self.node.clone(), zone_hints, node_hints })
    }

    /// What the ports of a service are on this pod, one after the other; none for a name that no
    /// container knows.
    fn numbers(&self, draft: &ServiceDraft) -> Vec<Option<u16>> {
        let ports = draft.service.ports.iter().zip(&draft.target_ports);
        let numbers = ports.map(|(port, target)| match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => self.ports.get(name)?.get(&port.protocol).copied(),
        });
        numbers.collect()
    }
}

/// Reads a pod; none: its name is wrong, and that has been said.
pub(crate) fn pod(object: &Field<'_, '_>, names: &mut Names) -> Option<Pod> {
    let meta_field = object.map("metadata");
    let meta = metadata(&meta_field, NameRule::Subdomain, names);
    let labels =
        meta_field.map("labels").texts().into_iter().map(|(name, value)| (name.into(), value.into()));
    let labels = labels.collect();
    let spec = object.map("spec");
    let status = object.map("status");
    let finished = matches!(status.at("phase").text(), Some("Succeeded" | "Failed"));
    let ready = status.maps("conditions").any(|condition| {
        condition.at("type").text() == Some("Ready") && condition.at("status").text() == Some("True")
    });
    let node = spec.at("nodeName").text().map(|name| names.get(name));
    let (addresses, ports) = (addresses(&status), container_ports(&spec));
    let meta = meta?;
    Some(Pod {
        key: PodKey { namespace: meta.namespace, name: meta.name },
        labels,
        addresses,
        node,
        ready,
        terminating: !meta_field.at("deletionTimestamp").is_absent(),
        finished,
        has_status: !status.is_absent(),
        ports,
    })
}

fn addresses(status: &Field<'_, '_>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut add = |field: &Field<'_, '_>| {
        let Some(text) = field.text() else { return };
        let Some(address) = parse_ip_sloppy(text) else {
            field.warn(format_args!("{} is not an IP address; skipped", field.shown()));
            return;
        };
        // One of each family: an endpoint has one address.
        let is_new = |address: &IpAddr| !addresses.iter().any(|ip| Family::of(*ip) == Family::of(*address));
        let address = allowed(field, address).filter(is_new);
        addresses.extend(address);
    };
    let listed: Vec<Field<'_, '_>> = status.maps("podIPs").collect();
    for entry in &listed {
        add(&entry.at("ip"));
    }
    if listed.is_empty() {
        add(&status.at("podIP"));
    }
    addresses
}

/// The named ports of the containers, then of the init containers that go on running (sidecars).
fn container_ports(spec: &Field<'_, '_>) -> NamedPorts {
    let mut ports = NamedPorts::new();
    for (key, sidecars_only) in [("containers", false), ("initContainers", true)] {
        for container in spec.maps(key) {
            if sidecars_only && container.at("restartPolicy").text() != Some("Always") {
                continue;
            }
            for port in container.maps("ports") {
                let Some(name) = port.at("name").text() else { continue };
                let protocol = protocol(&port.at("protocol"));
                let number = validate::port(&port.at("containerPort"));
                if let (Some(protocol), Some(port)) = (protocol, number) {
                    ports.entry(name.into()).or_default().entry(protocol).or_insert(port);
                }
            }
        }
    }
    ports
}

/// All pods, found by namespace and label.
#[derive(Debug, Default)]
pub(crate) struct PodIndex<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Pod>>,
}

impl<'a> PodIndex<'a> {
    pub(crate) fn new(pods: impl Iterator<Item = &'a Pod>) -> Self {
        let mut by_label: HashMap<_, Vec<&'a Pod>> = HashMap::new();
        for pod in pods {
            for (label, value) in &pod.labels {
                by_label.entry((&*pod.key.namespace, &**label, &**value)).or_default().push(pod);
            }
        }
        Self { by_label }
    }

    /// The pods that have one of the labels that a service selects by, in the order of their names.
    pub(crate) fn candidates<'s>(&'s self, draft: &'s ServiceDraft) -> &'s [&'a Pod] {
        let namespace = &*draft.service.key.namespace;
        // The rarest label gives the candidates: all pods may share one.
        let lists = draft.selector.iter().map(|(label, value)| {
            self.by_label.get(&(namespace, &**label, &**value)).map_or(&[][..], Vec::as_slice)
        });
        lists.min_by_key(|pods| pods.len()).unwrap_or_default()
    }
}

/// The endpoints of a service from its pods: one subset per family and per set of port numbers, as a
/// port's name may stand for different numbers on different pods.
pub(crate) fn pod_subsets(draft: &ServiceDraft, pods: &[&Pod]) -> Vec<Subset> {
    // Which ports a pod lacks matters as well as their numbers.
    let mut subsets: BTreeMap<(Family, Vec<Option<u16>>), Subset> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.is_usable()) {
        let numbers = pod.numbers(draft);
        if numbers.iter().all(Option::is_none) {
            continue;
        }
        for address in draft.service.cluster_ips.iter() {
            let family = Family::of(address);
            let Some(endpoint) = pod.endpoint(family, draft.publish_not_ready) else { continue };
            let subset = subsets.entry((family, numbers.clone()));
            let new = || Subset { ports: endpoint_ports(draft, &numbers), endpoints: Vec::new() };
            subset.or_insert_with(new).endpoints.push(endpoint);
        }
    }
    subsets.into_values().collect()
}

fn endpoint_ports(draft: &ServiceDraft, numbers: &[Option<u16>]) -> Vec<EndpointPort> {
    let ports = draft.service.ports.iter().zip(numbers);
    let known = ports.filter_map(|(port, number)| {
        Some(EndpointPort { name: port.name.clone(), protocol: port.protocol, port: (*number)? })
    });
    known.collect()
}
