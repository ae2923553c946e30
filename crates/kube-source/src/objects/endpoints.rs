//! Parses v1 Endpoints, the predecessor of EndpointSlice.
//!
//! An Endpoints object is used only if its service has no slice. That is known once all objects are read; until then
//! it is kept as a draft. The choice between the two is made in `resolve`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::address::Family;
use proxy_core::endpoint::{Conditions, Endpoint, EndpointPort};
use proxy_core::service::{Protocol, Service, ServiceKey};

use crate::objects::field::Field;
use crate::objects::metadata::{NameRule, Names, metadata};
use crate::objects::ports::protocol;
use crate::objects::slice::{endpoint_address, hostname};
use crate::objects::validate;

/// Endpoints that have the same ports. They become one slice per IP family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subset {
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The endpoints of a service, from an Endpoints object.
#[derive(Debug)]
pub(crate) struct EndpointsDraft {
    pub(crate) service: ServiceKey,
    pub(crate) subsets: Vec<Subset>,
    /// The object specifies no protocol, so the ports take the protocols of the service (v1beta1 only).
    pub(crate) inherits_protocols: bool,
}

impl EndpointsDraft {
    /// Returns the subsets, split by IP family.
    pub(crate) fn subsets(&self, service: Option<&Service>) -> Vec<Subset> {
        let mut all = Vec::new();
        for Subset { ports, endpoints } in &self.subsets {
            let ports = match service {
                Some(service) if self.inherits_protocols => with_protocols(ports, service),
                _ => ports.clone(),
            };
            for family in Family::BOTH {
                let in_family = endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family);
                let endpoints: Vec<Endpoint> = in_family.cloned().collect();
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

/// Parses an Endpoints object. Returns `None` after recording an error if its name is invalid.
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
    Some(EndpointsDraft { service, subsets, inherits_protocols: false })
}

/// Parses the ports of a subset. The first port of each name and protocol is used: a service port maps to only one.
fn ports(subset: &Field<'_, '_>, names: &mut Names) -> Vec<EndpointPort> {
    let (mut ports, mut seen) = (Vec::new(), BTreeSet::new());
    for field in subset.maps("ports") {
        let Some(port) = port(&field, names) else { continue };
        if seen.insert((port.name.clone(), port.protocol)) {
            ports.push(port);
        } else {
            let protocol = port.protocol;
            field.warn(format_args!("duplicate {protocol} port name; skipped"));
        }
    }
    ports
}

fn port(field: &Field<'_, '_>, names: &mut Names) -> Option<EndpointPort> {
    let number = field.at("port");
    if number.is_absent() {
        number.error(validate::PORT_REQUIRED);
    }
    let protocol = protocol(&field.at("protocol"));
    let name = names.get(field.at("name").text().unwrap_or_default());
    Some(EndpointPort { name, protocol: protocol?, port: validate::port(&number)? })
}

fn endpoint(field: &Field<'_, '_>, ready: bool, names: &mut Names) -> Option<Endpoint> {
    let node: Option<Arc<str>> = field.at("nodeName").text().map(|name| names.get(name));
    let address = endpoint_address(&field.at("ip"))?;
    let conditions = Conditions { ready, serving: ready, terminating: false };
    let hostname = hostname(field, names);
    Some(Endpoint { node, hostname, ..without_topology(address, conditions) })
}

/// Returns an endpoint without node, zone, host name and hints.
pub(crate) fn without_topology(address: IpAddr, conditions: Conditions) -> Endpoint {
    let (zone_hints, node_hints) = (Vec::new(), Vec::new());
    Endpoint { address, conditions, node: None, zone: None, hostname: None, zone_hints, node_hints }
}
