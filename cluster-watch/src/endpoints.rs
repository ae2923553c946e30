//! v1 Endpoints: the older form of endpoint slices.
//!
//! An Endpoints object counts only where its service has no slice, which is known when all has been read;
//! until then it is a draft. What must not go in here: the choice between the forms, see `finish`.

use std::collections::BTreeSet;
use std::sync::Arc;

use proxy_core::address::Family;
use proxy_core::endpoint::{Conditions, Endpoint, EndpointPort};
use proxy_core::service::{Protocol, Service, ServiceKey};

use crate::field::Field;
use crate::metadata::{NameRule, Names, metadata};
use crate::ports::protocol;
use crate::slice::usable_address;
use crate::validate;

/// Endpoints with the same ports: what becomes one slice per family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subset {
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The endpoints of a service, in an older form.
#[derive(Debug)]
pub(crate) struct EndpointsDraft {
    pub(crate) service: ServiceKey,
    pub(crate) subsets: Vec<Subset>,
    /// The form knows no protocol: the ports have those of the service.
    pub(crate) has_protocol_of_service: bool,
}

impl EndpointsDraft {
    /// The subsets, each of one family.
    pub(crate) fn subsets(&self, service: Option<&Service>) -> Vec<Subset> {
        let mut all = Vec::new();
        for Subset { ports, endpoints } in &self.subsets {
            let ports = match service {
                Some(service) if self.has_protocol_of_service => with_protocols(ports, service),
                _ => ports.clone(),
            };
            for family in Family::BOTH {
                let of_family = endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family);
                let endpoints: Vec<Endpoint> = of_family.cloned().collect();
                if !endpoints.is_empty() {
                    all.push(Subset { ports: ports.clone(), endpoints });
                }
            }
        }
        all
    }
}

fn with_protocols(ports: &[EndpointPort], service: &Service) -> Vec<EndpointPort> {
    let mut protocols: BTreeSet<Protocol> = service.ports.iter().map(|port| port.protocol).collect();
    if protocols.is_empty() {
        protocols.insert(Protocol::Tcp);
    }
    let all = ports.iter().flat_map(|port| {
        protocols.iter().map(|protocol| EndpointPort { protocol: *protocol, ..port.clone() })
    });
    all.collect()
}

/// Reads an Endpoints object; none: its name is wrong, and that has been said.
pub(crate) fn endpoints(object: &Field<'_, '_>, names: &mut Names) -> Option<EndpointsDraft> {
    let meta = metadata(&object.map("metadata"), NameRule::Subdomain, names);
    let mut subsets = Vec::new();
    for subset in object.maps("subsets") {
        let ports = ports(&subset, names);
        let mut endpoints = Vec::new();
        for (key, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            endpoints.extend(subset.maps(key).filter_map(|field| endpoint(&field, ready, names)));
        }
        subsets.push(Subset { ports, endpoints });
    }
    let meta = meta?;
    let service = ServiceKey { namespace: meta.namespace, name: meta.name };
    Some(EndpointsDraft { service, subsets, has_protocol_of_service: false })
}

/// The ports of a subset; the first of a name and protocol counts, as no service port has two of them.
fn ports(subset: &Field<'_, '_>, names: &mut Names) -> Vec<EndpointPort> {
    let (mut ports, mut seen) = (Vec::new(), BTreeSet::new());
    for field in subset.maps("ports") {
        let Some(port) = port(&field, names) else { continue };
        if seen.insert((port.name.clone(), port.protocol)) {
            ports.push(port);
        } else {
            let protocol = port.protocol;
            field.warn(format_args!("a {protocol} port of this name stands before it; skipped"));
        }
    }
    ports
}

fn port(field: &Field<'_, '_>, names: &mut Names) -> Option<EndpointPort> {
    let number = field.at("port");
    if number.is_absent() {
        number.error("missing: 1 to 65535");
    }
    let protocol = protocol(&field.at("protocol"));
    let name = names.get(field.at("name").text().unwrap_or_default());
    Some(EndpointPort { name, protocol: protocol?, port: validate::port(&number)? })
}

fn endpoint(field: &Field<'_, '_>, ready: bool, names: &mut Names) -> Option<Endpoint> {
    let node: Option<Arc<str>> = field.at("nodeName").text().map(|name| names.get(name));
    let address = usable_address(&field.at("ip"))?;
    let conditions = Conditions { ready, serving: ready, terminating: false };
    Some(Endpoint { address, conditions, node, zone_hints: Vec::new(), node_hints: Vec::new() })
}
