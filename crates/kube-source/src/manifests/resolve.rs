//! `resolve`: applies the rules that involve several objects, once all objects are read.
//!
//! In this order: rejects services whose address or node port is in use, assigns missing cluster IPs, and derives
//! endpoints for services that have no slice. Rules about a single object belong to the parser of its kind.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::endpoint::{Endpoint, EndpointSlice, SliceKey};
use proxy_core::node::Node;
use proxy_core::service::{Protocol, ServiceKey};

use crate::manifests::allocate::{Pool, PreviousAddresses};
use crate::manifests::object_reader::{Located, ObjectReader};
use crate::manifests::object_set::Objects;
use crate::manifests::options::ReadOptions;
use crate::manifests::report::{Report, SourceLocation};
use crate::objects::draft::{ServiceDraft, TargetPort};
use crate::objects::endpoints::{EndpointsDraft, Subset};
use crate::objects::finding::Severity;
use crate::objects::pods::{Pod, PodIndex, PodKey, pod_subsets};

/// The maximum number of port lookups on pods for all services together. Services times pods would be unbounded.
const POD_LOOKUPS_MAX: usize = 2_000_000;

type Services = BTreeMap<ServiceKey, Located<ServiceDraft>>;
type Pods = BTreeMap<PodKey, Located<Pod>>;
type Slices = BTreeMap<SliceKey, EndpointSlice>;

/// The objects and the report of one reading.
pub(crate) struct Resolved {
    pub(crate) objects: Objects,
    pub(crate) report: Report,
    /// The slices that were derived from other objects because their service has no slice.
    pub(crate) derived: BTreeSet<SliceKey>,
}

/// Resolves the objects that the reader accepted.
pub(crate) fn resolve(reader: ObjectReader, options: &ReadOptions, previous: &PreviousAddresses) -> Resolved {
    let ObjectReader {
        mut report,
        mut services,
        slices,
        endpoints,
        pods,
        nodes,
        namespaces,
        service_cidrs,
        ..
    } = reader;
    reject_conflicts(&mut services, &mut report);
    assign_addresses(&mut services, options, previous, &mut report);
    warn_about_service_addresses(&services, &slices, &endpoints, &mut report);

    let mut slices: Slices = slices.into_iter().map(|(key, located)| (key, located.value)).collect();
    let given: BTreeSet<SliceKey> = slices.keys().cloned().collect();
    let mut has_endpoints: HashSet<ServiceKey> = slices.values().map(|slice| slice.service.clone()).collect();
    for (key, located) in &endpoints {
        if has_endpoints.insert(key.clone()) {
            let service = services.get(key).map(|located| &located.value.service);
            add_subsets(&mut slices, key, "endpoints", located.value.subsets(service));
        }
    }
    add_pods(&mut slices, &services, &has_endpoints, &pods, &mut report);
    let derived: BTreeSet<SliceKey> = slices.keys().filter(|key| !given.contains(key)).cloned().collect();
    for (_, slice) in slices.iter_mut().filter(|(key, _)| derived.contains(key)) {
        set_zones(slice, &nodes);
    }
    let objects = Objects {
        services: services.into_iter().map(|(key, located)| (key, located.value.service)).collect(),
        slices,
        nodes: nodes.into_iter().map(|(name, located)| (name, located.value)).collect(),
        namespaces: namespaces.into_iter().map(|(name, located)| (name, located.value)).collect(),
        service_ranges: service_cidrs.into_values().flat_map(|located| located.value).collect(),
    };
    Resolved { objects, report, derived }
}

/// Adds slices for services that have a selector and neither slices nor Endpoints.
fn add_pods(
    slices: &mut Slices,
    services: &Services,
    has_endpoints: &HashSet<ServiceKey>,
    pods: &Pods,
    report: &mut Report,
) {
    let index = PodIndex::new(pods.values().map(|located| &located.value));
    let mut reported: BTreeSet<&PodKey> = BTreeSet::new();
    let mut lookups_left = POD_LOOKUPS_MAX;
    for (key, located) in services {
        let draft = &located.value;
        if draft.selector.is_empty() || draft.service.external_name.is_some() || has_endpoints.contains(key) {
            continue;
        }
        let candidates = index.candidates(draft);
        let lookups = candidates.len().saturating_mul(draft.service.ports.len().max(1));
        let Some(left) = lookups_left.checked_sub(lookups) else {
            let message =
                "failed to select pods: too many services and pods; add an EndpointSlice".to_owned();
            report.add(Severity::Error, &located.location, Some(&format!("Service {key}")), message);
            continue;
        };
        lookups_left = left;
        let selected = candidates.iter().copied().filter(|pod| pod.is_selected(draft));
        let selected: Vec<&Pod> = selected.collect();
        for pod in &selected {
            if let (Some(reason), Some(located)) = (pod.missing_address_reason(), pods.get(&pod.key))
                && reported.insert(&pod.key)
            {
                let message = format!("not an endpoint of service {key}, which selects it: {reason}");
                let label = format!("Pod {}", pod.key);
                report.add(Severity::Warning, &located.location, Some(&label), message);
            }
        }
        let subsets = pod_subsets(draft, &selected);
        if selected.iter().any(|pod| pod.is_usable()) {
            warn_about_unknown_port_names(located, &subsets, report);
        }
        add_subsets(slices, key, "pods", subsets);
    }
}

/// Sets the zones of endpoints, which are those of their nodes.
fn set_zones(slice: &mut EndpointSlice, nodes: &BTreeMap<Arc<str>, Located<Node>>) {
    for endpoint in &mut slice.endpoints {
        let node = endpoint.node.as_ref().and_then(|name| nodes.get(name));
        endpoint.zone = node.map(|located| located.value.zone.clone()).filter(|zone| !zone.is_empty());
    }
}

/// Rejects services whose address or node port an earlier service has. An API server rejects them, too.
fn reject_conflicts(services: &mut Services, report: &mut Report) {
    let mut in_order: Vec<(usize, ServiceKey)> =
        services.iter().map(|(key, located)| (located.order, key.clone())).collect();
    in_order.sort_unstable();
    let mut addresses: HashMap<IpAddr, ServiceKey> = HashMap::new();
    let mut node_ports: HashMap<(Protocol, u16), ServiceKey> = HashMap::new();
    for (_, key) in in_order {
        let Some(located) = services.get(&key) else { continue };
        let draft = &located.value;
        let ports = &draft.service.ports;
        let mut conflicts = Vec::new();
        for address in &draft.addresses.given {
            if let Some(owner) = addresses.get(address) {
                conflicts.push(format!("spec.clusterIP: {address} is already used by service {owner}"));
            }
        }
        for port in ports {
            if let Some(node_port) = port.node_port
                && let Some(owner) = node_ports.get(&(port.protocol, node_port))
            {
                let protocol = port.protocol;
                let message = format!(
                    "spec.ports: node port {node_port}/{protocol} is already used by service {owner}"
                );
                conflicts.push(message);
            }
        }
        if conflicts.is_empty() {
            addresses.extend(draft.addresses.given.iter().map(|address| (*address, key.clone())));
            let numbers = ports.iter().filter_map(|port| Some((port.protocol, port.node_port?)));
            node_ports.extend(numbers.map(|number| (number, key.clone())));
            continue;
        }
        let label = format!("Service {key}");
        for conflict in conflicts {
            report.add(Severity::Error, &located.location, Some(&label), conflict);
        }
        services.remove(&key);
    }
}

fn assign_addresses(
    services: &mut Services,
    options: &ReadOptions,
    previous: &PreviousAddresses,
    report: &mut Report,
) {
    let given = services.values().flat_map(|located| located.value.addresses.given.iter().copied());
    let mut pool =
        Pool::new(&options.portal_nets, given.collect(), previous, |key| services.contains_key(key));
    services.retain(|key, located| {
        let draft = &mut located.value;
        let assigned = pool.assign_missing(key, &mut draft.addresses);
        draft.service.cluster_ips = draft.addresses.cluster_ips();
        draft.service.cluster_ip_text = draft.addresses.text.clone();
        if let Err(message) = &assigned {
            let label = format!("Service {key}");
            report.add(Severity::Error, &located.location, Some(&label), message.clone());
        }
        assigned.is_ok()
    });
}

/// Warns about endpoints that are cluster IPs. proxy-core skips them.
fn warn_about_service_addresses(
    services: &Services,
    slices: &BTreeMap<SliceKey, Located<EndpointSlice>>,
    endpoints: &BTreeMap<ServiceKey, Located<EndpointsDraft>>,
    report: &mut Report,
) {
    let owners = services
        .iter()
        .flat_map(|(key, located)| located.value.addresses.given.iter().map(move |address| (*address, key)));
    let owners: HashMap<IpAddr, &ServiceKey> = owners.collect();
    let mut warn = |kind: &str, key: &dyn fmt::Display, location: &SourceLocation, endpoints: &[Endpoint]| {
        for endpoint in endpoints {
            let address = endpoint.address;
            if let Some(owner) = owners.get(&address) {
                let message =
                    format!("{address} is the address of service {owner} and cannot be an endpoint");
                report.add(Severity::Warning, location, Some(&format!("{kind} {key}")), message);
            }
        }
    };
    for (key, located) in slices {
        warn("EndpointSlice", key, &located.location, &located.value.endpoints);
    }
    for (key, located) in endpoints {
        for subset in &located.value.subsets {
            warn("Endpoints", key, &located.location, &subset.endpoints);
        }
    }
}

fn warn_about_unknown_port_names(located: &Located<ServiceDraft>, subsets: &[Subset], report: &mut Report) {
    let draft = &located.value;
    let found = subsets.iter().flat_map(|subset| &subset.ports).map(|port| (&port.name, port.protocol));
    let found: HashSet<(&Arc<str>, Protocol)> = found.collect();
    for (index, (port, target)) in draft.service.ports.iter().zip(&draft.target_ports).enumerate() {
        let TargetPort::Name(name) = target else { continue };
        if !found.contains(&(&port.name, port.protocol)) {
            let message = format!(
                "spec.ports[{index}].targetPort: no selected pod has a {} port named {name}",
                port.protocol
            );
            let label = format!("Service {}", draft.service.key);
            report.add(Severity::Warning, &located.location, Some(&label), message);
        }
    }
}

/// Adds slices for a service, under unused names.
fn add_subsets(slices: &mut Slices, service: &ServiceKey, origin: &str, subsets: Vec<Subset>) {
    let mut number = 0;
    for Subset { ports, endpoints } in subsets {
        let vacant = loop {
            let name = format!("{}-{origin}-{number}", service.name);
            number += 1;
            let key = SliceKey { namespace: Arc::clone(&service.namespace), name: name.into() };
            if let Entry::Vacant(vacant) = slices.entry(key) {
                break vacant;
            }
        };
        let key = vacant.key().clone();
        vacant.insert(EndpointSlice { key, service: service.clone(), has_portals: true, ports, endpoints });
    }
}
