//! Derives endpoints from pods, for services that have a selector and no endpoints in the input.
//!
//! This does the work of the endpointslice controller (`podToEndpoint` and `FindPort` in its `utils.go`), so that
//! manifests of services and pods are enough to show what a cluster would do. `resolve` decides which services need it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::address::{Family, parse_ip_sloppy};
use proxy_core::endpoint::{Conditions, Endpoint, EndpointPort};
use proxy_core::service::Protocol;

use crate::objects::draft::{FamilyPolicy, ServiceDraft, TargetPort};
use crate::objects::endpoints::{Subset, without_topology};
use crate::objects::field::Field;
use crate::objects::metadata::{NameRule, Names, metadata};
use crate::objects::ports::protocol;
use crate::objects::slice::check_address;
use crate::objects::validate;

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

/// Port numbers by name and protocol. The first container port of a name and protocol is used.
type NamedPorts = HashMap<Box<str>, BTreeMap<Protocol, u16>>;

/// The parts of a pod that services need.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) key: PodKey,
    labels: BTreeMap<Box<str>, Box<str>>,
    /// At most one of each family; the first is of the cluster's primary family.
    addresses: Vec<IpAddr>,
    node: Option<Arc<str>>,
    hostname: Option<Arc<str>>,
    subdomain: Option<Box<str>>,
    is_ready: bool,
    is_terminating: bool,
    /// The phase is Succeeded or Failed: the pod does not run again.
    is_finished: bool,
    has_status: bool,
    ports: NamedPorts,
}

impl Pod {
    /// Returns why a selected pod has no usable address. A finished pod needs none.
    pub(crate) fn missing_address_reason(&self) -> Option<&'static str> {
        if self.is_finished || !self.addresses.is_empty() {
            None
        } else if self.has_status {
            Some("its status has no usable podIP")
        } else {
            Some("it has no status and therefore no address")
        }
    }

    /// Whether the pod has an address and is not finished.
    pub(crate) fn is_usable(&self) -> bool {
        !self.is_finished && !self.addresses.is_empty()
    }

    /// Whether the pod matches the selector of a service. It must be one of the service's `candidates`.
    pub(crate) fn is_selected(&self, draft: &ServiceDraft) -> bool {
        // A candidate has at least one label of the selector.
        draft.selector.len() == 1
            || draft.selector.iter().all(|(label, value)| self.labels.get(label) == Some(value))
    }

    /// Returns the endpoint of a service on this pod. It has a host name if the service is the pod's subdomain
    /// (`ShouldSetHostname` of the controller).
    fn endpoint(&self, family: Family, draft: &ServiceDraft) -> Option<Endpoint> {
        let address = *self.addresses.iter().find(|address| Family::of(**address) == family)?;
        let conditions = Conditions {
            ready: draft.publish_not_ready || (self.is_ready && !self.is_terminating),
            serving: self.is_ready,
            terminating: self.is_terminating,
        };
        let is_subdomain = self.subdomain.as_deref() == Some(&*draft.service.key.name);
        let hostname = self.hostname.clone().filter(|_| is_subdomain);
        Some(Endpoint { node: self.node.clone(), hostname, ..without_topology(address, conditions) })
    }

    /// Returns the families in which the pod is an endpoint of a service. A headless service without `ipFamilies` has
    /// the cluster's primary family.
    fn families(&self, draft: &ServiceDraft) -> Vec<Family> {
        let addresses = &draft.addresses;
        if !addresses.headless {
            draft.service.cluster_ips.iter().map(Family::of).collect()
        } else if matches!(addresses.policy, Some(FamilyPolicy::PreferDual | FamilyPolicy::RequireDual)) {
            Family::BOTH.into()
        } else if addresses.families.is_empty() {
            self.addresses.first().copied().map(Family::of).into_iter().collect()
        } else {
            addresses.families.clone()
        }
    }

    /// Returns the number of each target port of a service on this pod; `None` for a name that no container port has.
    fn target_port_numbers(&self, draft: &ServiceDraft) -> Vec<Option<u16>> {
        let ports = draft.service.ports.iter().zip(&draft.target_ports);
        let numbers = ports.map(|(port, target)| match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => self.ports.get(name)?.get(&port.protocol).copied(),
        });
        numbers.collect()
    }
}

/// Parses a pod. Returns `None` after recording an error if its name is invalid.
pub(crate) fn pod(object: &Field<'_, '_>, names: &mut Names) -> Option<Pod> {
    let meta_field = object.map("metadata");
    let meta = metadata(&meta_field, NameRule::Subdomain, names);
    let labels =
        meta_field.map("labels").texts().into_iter().map(|(name, value)| (name.into(), value.into()));
    let labels = labels.collect();
    let spec = object.map("spec");
    let status = object.map("status");
    let is_finished = matches!(status.at("phase").text(), Some("Succeeded" | "Failed"));
    let is_ready = status.maps("conditions").any(|condition| {
        condition.at("type").text() == Some("Ready") && condition.at("status").text() == Some("True")
    });
    let node = spec.at("nodeName").text().map(|name| names.get(name));
    let (addresses, ports) = (addresses(&status), container_ports(&spec));
    let hostname = validate::dns_label(&spec.at("hostname")).map(|name| names.get(name));
    let subdomain = validate::dns_label(&spec.at("subdomain")).map(Into::into);
    let meta = meta?;
    Some(Pod {
        key: PodKey { namespace: meta.namespace, name: meta.name },
        labels,
        addresses,
        node,
        hostname,
        subdomain,
        is_ready,
        is_terminating: !meta_field.at("deletionTimestamp").is_absent(),
        is_finished,
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
        // An endpoint has one address, so only the first address of each family is used.
        let is_new = |address: &IpAddr| !addresses.iter().any(|ip| Family::of(*ip) == Family::of(*address));
        let address = check_address(field, address).filter(is_new);
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

/// Returns the named ports of the containers and of the sidecars (init containers that keep running).
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

/// An index of all pods by namespace and label.
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

    /// Returns the pods that have one label of a service's selector, by name.
    pub(crate) fn candidates<'s>(&'s self, draft: &'s ServiceDraft) -> &'s [&'a Pod] {
        let namespace = &*draft.service.key.namespace;
        // All pods may share a label, so the rarest one gives the candidates.
        let lists = draft.selector.iter().map(|(label, value)| {
            self.by_label.get(&(namespace, &**label, &**value)).map_or(&[][..], Vec::as_slice)
        });
        lists.min_by_key(|pods| pods.len()).unwrap_or_default()
    }
}

/// Derives the endpoints of a service from its pods: one subset per family and set of port numbers, because a port name
/// can refer to different numbers on different pods. Pods without any of the ports are endpoints of headless services
/// only: their names need no port.
pub(crate) fn pod_subsets(draft: &ServiceDraft, pods: &[&Pod]) -> Vec<Subset> {
    // Pods that lack different ports belong to different subsets.
    let mut subsets: BTreeMap<(Family, Vec<Option<u16>>), Subset> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.is_usable()) {
        let numbers = pod.target_port_numbers(draft);
        if numbers.iter().all(Option::is_none) && !draft.addresses.headless {
            continue;
        }
        for family in pod.families(draft) {
            let Some(endpoint) = pod.endpoint(family, draft) else { continue };
            let subset = subsets.entry((family, numbers.clone()));
            let new = || Subset { ports: endpoint_ports(draft, &numbers), endpoints: Vec::new() };
            subset.or_insert_with(new).endpoints.push(endpoint);
        }
    }
    subsets.into_values().collect()
}

fn endpoint_ports(draft: &ServiceDraft, numbers: &[Option<u16>]) -> Vec<EndpointPort> {
    let ports = draft.service.ports.iter().zip(numbers);
    let found = ports.filter_map(|(port, number)| {
        Some(EndpointPort { name: port.name.clone(), protocol: port.protocol, port: (*number)? })
    });
    found.collect()
}
