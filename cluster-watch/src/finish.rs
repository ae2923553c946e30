//! What objects have to do with one another, once all have been read.
//!
//! In this order: two services with one address or node port, addresses for those without, then endpoints
//! for services that have no slice. What must not go in here: anything that one object tells alone.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::endpoint::{Endpoint, EndpointSlice, SliceKey};
use proxy_core::service::{Protocol, ServiceKey};

use crate::allocate::{Earlier, Pool};
use crate::endpoints::{EndpointsDraft, Subset};
use crate::objects::Objects;
use crate::options::ReadOptions;
use crate::pods::{Pod, PodIndex, PodKey, pod_subsets};
use crate::reader::{Placed, Reader};
use crate::report::{Place, Report, Severity};
use crate::service::{ServiceDraft, TargetPort};

/// How many ports of pods are looked at for all services together: services times pods may be more than
/// fits.
const POD_LOOKS_MAX: usize = 2_000_000;

type Services = BTreeMap<ServiceKey, Placed<ServiceDraft>>;
type Pods = BTreeMap<PodKey, Placed<Pod>>;
type Slices = BTreeMap<SliceKey, EndpointSlice>;

/// What reading came to.
pub(crate) struct Finished {
    pub(crate) objects: Objects,
    pub(crate) report: Report,
    /// The slices that were made of other objects, and only because their service has no slice.
    pub(crate) derived: BTreeSet<SliceKey>,
}

/// Brings together what has been read.
pub(crate) fn finish(reader: Reader, options: &ReadOptions, earlier: &Earlier) -> Finished {
    let Reader {
        mut report, mut services, slices, endpoints, pods, nodes, namespaces, service_cidrs, ..
    } = reader;
    drop_clashes(&mut services, &mut report);
    draw_addresses(&mut services, options, earlier, &mut report);
    warn_of_service_addresses(&services, &slices, &endpoints, &mut report);

    let mut slices: Slices = slices.into_iter().map(|(key, placed)| (key, placed.value)).collect();
    let read: BTreeSet<SliceKey> = slices.keys().cloned().collect();
    let mut has_endpoints: HashSet<ServiceKey> = slices.values().map(|slice| slice.service.clone()).collect();
    for (key, placed) in &endpoints {
        if has_endpoints.insert(key.clone()) {
            let service = services.get(key).map(|placed| &placed.value.service);
            add_subsets(&mut slices, key, "endpoints", placed.value.subsets(service));
        }
    }
    add_pods(&mut slices, &services, &has_endpoints, &pods, &mut report);
    let derived = slices.keys().filter(|key| !read.contains(key)).cloned().collect();
    let objects = Objects {
        services: services.into_iter().map(|(key, placed)| (key, placed.value.service)).collect(),
        slices,
        nodes: nodes.into_iter().map(|(name, placed)| (name, placed.value)).collect(),
        namespaces: namespaces.into_iter().map(|(name, placed)| (name, placed.value)).collect(),
        service_ranges: service_cidrs.into_values().flat_map(|placed| placed.value).collect(),
    };
    Finished { objects, report, derived }
}

/// Adds the endpoints of services that have a selector, and neither slices nor Endpoints.
fn add_pods(
    slices: &mut Slices,
    services: &Services,
    has_endpoints: &HashSet<ServiceKey>,
    pods: &Pods,
    report: &mut Report,
) {
    let index = PodIndex::new(pods.values().map(|placed| &placed.value));
    let mut said: BTreeSet<&PodKey> = BTreeSet::new();
    let mut looks_left = POD_LOOKS_MAX;
    for (key, placed) in services {
        let draft = &placed.value;
        if draft.selector.is_empty() || draft.addresses.headless || has_endpoints.contains(key) {
            continue;
        }
        let candidates = index.candidates(draft);
        let looks = candidates.len().saturating_mul(draft.service.ports.len().max(1));
        let Some(left) = looks_left.checked_sub(looks) else {
            let message = "select pods: too many services select too many pods; give it endpoints".to_owned();
            report.add(Severity::Error, &placed.place, Some(&format!("Service {key}")), message);
            continue;
        };
        looks_left = left;
        let selected = candidates.iter().copied().filter(|pod| pod.is_selected(draft));
        let selected: Vec<&Pod> = selected.collect();
        for pod in &selected {
            if let (Some(why), Some(placed)) = (pod.unusable(), pods.get(&pod.key))
                && said.insert(&pod.key)
            {
                let message = format!("no endpoint of service {key}, which selects it: {why}");
                let label = format!("Pod {}", pod.key);
                report.add(Severity::Warning, &placed.place, Some(&label), message);
            }
        }
        let subsets = pod_subsets(draft, &selected);
        if selected.iter().any(|pod| pod.is_usable()) {
            warn_of_unknown_port_names(placed, &subsets, report);
        }
        add_subsets(slices, key, "pods", subsets);
    }
}

/// Drops services that an API server would have refused because an earlier one has the same address or
/// node port.
fn drop_clashes(services: &mut Services, report: &mut Report) {
    let mut in_order: Vec<(usize, ServiceKey)> =
        services.iter().map(|(key, placed)| (placed.order, key.clone())).collect();
    in_order.sort_unstable();
    let mut addresses: HashMap<IpAddr, ServiceKey> = HashMap::new();
    let mut node_ports: HashMap<(Protocol, u16), ServiceKey> = HashMap::new();
    for (_, key) in in_order {
        let Some(placed) = services.get(&key) else { continue };
        let draft = &placed.value;
        let ports = &draft.service.ports;
        let mut clashes = Vec::new();
        for address in &draft.addresses.given {
            if let Some(owner) = addresses.get(address) {
                clashes.push(format!("spec.clusterIP: {address} is the address of service {owner}"));
            }
        }
        for port in ports {
            if let Some(node_port) = port.node_port
                && let Some(owner) = node_ports.get(&(port.protocol, node_port))
            {
                let protocol = port.protocol;
                clashes
                    .push(format!("spec.ports: node port {node_port} {protocol} is that of service {owner}"));
            }
        }
        if clashes.is_empty() {
            addresses.extend(draft.addresses.given.iter().map(|address| (*address, key.clone())));
            let numbers = ports.iter().filter_map(|port| Some((port.protocol, port.node_port?)));
            node_ports.extend(numbers.map(|number| (number, key.clone())));
            continue;
        }
        let label = format!("Service {key}");
        for clash in clashes {
            report.add(Severity::Error, &placed.place, Some(&label), clash);
        }
        services.remove(&key);
    }
}

fn draw_addresses(services: &mut Services, options: &ReadOptions, earlier: &Earlier, report: &mut Report) {
    let given = services.values().flat_map(|placed| placed.value.addresses.given.iter().copied());
    let mut pool =
        Pool::new(&options.portal_nets, given.collect(), earlier, |key| services.contains_key(key));
    services.retain(|key, placed| {
        let draft = &mut placed.value;
        let drawn = pool.complete(key, &mut draft.addresses);
        draft.service.cluster_ips = draft.addresses.cluster_ips();
        draft.service.cluster_ip_text = draft.addresses.text.clone();
        if let Err(message) = &drawn {
            let label = format!("Service {key}");
            report.add(Severity::Error, &placed.place, Some(&label), message.clone());
        }
        drawn.is_ok()
    });
}

/// The core leaves such endpoints out; here it is said.
fn warn_of_service_addresses(
    services: &Services,
    slices: &BTreeMap<SliceKey, Placed<EndpointSlice>>,
    endpoints: &BTreeMap<ServiceKey, Placed<EndpointsDraft>>,
    report: &mut Report,
) {
    let owners = services
        .iter()
        .flat_map(|(key, placed)| placed.value.addresses.given.iter().map(move |address| (*address, key)));
    let owners: HashMap<IpAddr, &ServiceKey> = owners.collect();
    let mut warn = |kind: &str, key: &dyn fmt::Display, place: &Place, endpoints: &[Endpoint]| {
        for endpoint in endpoints {
            let address = endpoint.address;
            if let Some(owner) = owners.get(&address) {
                let message =
                    format!("{address} is the address of service {owner}, which no endpoint may have");
                report.add(Severity::Warning, place, Some(&format!("{kind} {key}")), message);
            }
        }
    };
    for (key, placed) in slices {
        warn("EndpointSlice", key, &placed.place, &placed.value.endpoints);
    }
    for (key, placed) in endpoints {
        for subset in &placed.value.subsets {
            warn("Endpoints", key, &placed.place, &subset.endpoints);
        }
    }
}

fn warn_of_unknown_port_names(placed: &Placed<ServiceDraft>, subsets: &[Subset], report: &mut Report) {
    let draft = &placed.value;
    let known = subsets.iter().flat_map(|subset| &subset.ports).map(|port| (&port.name, port.protocol));
    let known: HashSet<(&Arc<str>, Protocol)> = known.collect();
    for (index, (port, target)) in draft.service.ports.iter().zip(&draft.target_ports).enumerate() {
        let TargetPort::Name(name) = target else { continue };
        if !known.contains(&(&port.name, port.protocol)) {
            let message = format!(
                "spec.ports[{index}].targetPort: no pod that the service selects has a {} port named {name}",
                port.protocol
            );
            let label = format!("Service {}", draft.service.key);
            report.add(Severity::Warning, &placed.place, Some(&label), message);
        }
    }
}

/// Adds slices for a service under names that are still free.
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
        vacant.insert(EndpointSlice { key, service: service.clone(), ports, endpoints });
    }
}
