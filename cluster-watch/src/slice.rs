//! An EndpointSlice object as the core's `EndpointSlice`.
//!
//! What kube-proxy would skip is skipped, and what it leaves undefined (an address that is none) is skipped
//! and said. What must not go in here: the address of a service among the endpoints, which takes a look at
//! all services.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::address::{Family, forbidden, parse_ip_sloppy};
use proxy_core::endpoint::{Conditions, Endpoint, EndpointPort, EndpointSlice, SliceKey};
use proxy_core::service::{Protocol, ServiceKey};
use serde_json::Value;

use crate::field::{Field, Findings};
use crate::metadata::{NameRule, Names, metadata};
use crate::ports::PROTOCOLS;
use crate::validate;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Where discovery.k8s.io/v1beta1 kept the name of the node, in the map `topology`.
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// The most endpoints of a slice, and the most ports (discovery validation.go `maxEndpoints`, `maxPorts`).
const ENDPOINTS_MAX: usize = 1_000;
const PORTS_MAX: usize = 20_000;

/// Whether missing fields get the API server's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defaults {
    /// A manifest: it has not been to an API server yet, which would set the defaults.
    Apply,
    /// From an API server: what is missing there was missing when it was stored, and stays so.
    AsStored,
}

/// What became of an EndpointSlice object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sliced {
    /// It counts.
    Slice(EndpointSlice),
    /// It is right, but nothing for a portal; the text says of what sort it is.
    Passed(&'static str),
    /// It is wrong, and that has been said.
    Refused,
}

/// Converts one EndpointSlice object; the texts say what is wrong with it or was left out of it.
#[must_use]
pub fn endpoint_slice(object: &Value, defaults: Defaults) -> (Sliced, Vec<String>) {
    let findings = Findings::default();
    let sliced = slice(&Field::root(object, &findings), defaults, &mut Names::default());
    let is_refused = match defaults {
        Defaults::Apply => findings.has_errors(),
        Defaults::AsStored => findings.malformed().is_some(),
    };
    let sliced = if is_refused { Sliced::Refused } else { sliced };
    (sliced, findings.into_list().into_iter().map(|finding| finding.message).collect())
}

/// What a slice says its addresses are.
#[derive(Clone, Copy)]
enum AddressType {
    Ip(Family),
    Fqdn,
}

const ADDRESS_TYPES: [(&str, AddressType); 3] = [
    ("IPv4", AddressType::Ip(Family::V4)),
    ("IPv6", AddressType::Ip(Family::V6)),
    ("FQDN", AddressType::Fqdn),
];

/// Reads an EndpointSlice; whether it counts is for the findings to say.
pub(crate) fn slice(object: &Field<'_, '_>, defaults: Defaults, names: &mut Names) -> Sliced {
    let meta_field = object.map("metadata");
    let meta = metadata(&meta_field, NameRule::Subdomain, names);
    let labels = meta_field.map("labels").texts();
    if labels.iter().any(|(label, _)| *label == HEADLESS_LABEL) {
        return Sliced::Passed("EndpointSlice of a headless service");
    }
    let service_name = labels.iter().find(|(label, _)| *label == SERVICE_NAME_LABEL).map(|(_, name)| *name);
    let Some(service_name) = service_name.filter(|name| !name.is_empty()) else {
        return Sliced::Passed("EndpointSlice without service");
    };
    let type_field = object.at("addressType");
    let family = match validate::one_of(&type_field, &ADDRESS_TYPES) {
        Some(AddressType::Fqdn) => return Sliced::Passed("EndpointSlice of type FQDN"),
        Some(AddressType::Ip(family)) => Some(family),
        None => {
            if type_field.is_missing() {
                type_field.malformed("missing: one of IPv4, IPv6, FQDN");
            }
            None
        }
    };
    check_size(object, "endpoints", ENDPOINTS_MAX);
    check_size(object, "ports", PORTS_MAX);
    check_port_names(object, defaults);
    let ports = object.maps("ports").filter_map(|field| port(&field, defaults, names)).collect();
    let (Some(meta), Some(family)) = (meta, family) else { return Sliced::Refused };
    let endpoints = object.maps("endpoints").filter_map(|field| endpoint(&field, family, names)).collect();
    let service = ServiceKey { namespace: Arc::clone(&meta.namespace), name: names.get(service_name) };
    let key = SliceKey { namespace: meta.namespace, name: meta.name };
    Sliced::Slice(EndpointSlice { key, service, ports, endpoints })
}

fn check_size(object: &Field<'_, '_>, list: &str, max: usize) {
    let count = object.list(list).count();
    if count > max {
        object.at(list).malformed(format_args!("{count} of them: a slice holds at most {max}"));
    }
}

/// Each name once: an endpoint has one port for each port of its service.
fn check_port_names(object: &Field<'_, '_>, defaults: Defaults) {
    let mut seen = HashSet::new();
    for port in object.maps("ports") {
        let name = port.at("name");
        let counts = defaults == Defaults::Apply || !name.is_absent();
        if counts && !seen.insert(name.text().unwrap_or_default()) {
            name.error(format_args!("{} is there twice", name.shown()));
        }
    }
}

/// A port; none where kube-proxy would skip it, or could not do with it (endpointslicecache.go:172-190).
fn port(field: &Field<'_, '_>, defaults: Defaults, names: &mut Names) -> Option<EndpointPort> {
    let (name, protocol) = (field.at("name"), field.at("protocol"));
    if name.is_absent() && defaults == Defaults::AsStored {
        field.warn("a port without a name belongs to no service port; skipped");
        return None;
    }
    let number_field = field.at("port");
    let is_missing = number_field.is_absent() || number_field.integer() == Some(0);
    let number = validate::port_or_zero(&number_field);
    if is_missing {
        number_field.warn("a port without a number leads nowhere; skipped");
    }
    let protocol = if protocol.is_absent() {
        if defaults == Defaults::AsStored {
            field.warn("a port without a protocol is undefined in Kubernetes; skipped");
            return None;
        }
        Some(Protocol::Tcp)
    } else if protocol.is_empty_text() {
        protocol.refuse("one of TCP, UDP, SCTP");
        None
    } else {
        validate::one_of(&protocol, &PROTOCOLS)
    };
    let name = name.text().unwrap_or_default();
    Some(EndpointPort { name: names.get(name), protocol: protocol?, port: number? })
}

fn endpoint(field: &Field<'_, '_>, family: Family, names: &mut Names) -> Option<Endpoint> {
    let conditions = field.map("conditions");
    let conditions = Conditions {
        ready: conditions.at("ready").boolean().unwrap_or(true),
        serving: conditions.at("serving").boolean().unwrap_or(true),
        terminating: conditions.at("terminating").boolean().unwrap_or(false),
    };
    let topology = field.map("topology").texts();
    let hostname = topology.iter().find(|(label, _)| *label == HOSTNAME_LABEL).map(|(_, name)| *name);
    let node = field.at("nodeName").text().or(hostname).map(|name| names.get(name));
    let hints = field.map("hints");
    let mut hinted = |key: &str| -> Vec<Arc<str>> {
        hints.maps(key).filter_map(|hint| hint.at("name").text().map(|name| names.get(name))).collect()
    };
    let (zone_hints, node_hints) = (hinted("forZones"), hinted("forNodes"));
    // Only the first counts: the API promises that all addresses of an endpoint are fungible.
    let address_field = field.list("addresses").next()?;
    let address = usable_address(&address_field)?;
    if Family::of(address) != family {
        address_field.warn(format_args!("{address} is not of the slice's family, {family}; skipped"));
        return None;
    }
    Some(Endpoint { address, conditions, node, zone_hints, node_hints })
}

/// The address of an endpoint; none where it is none or must not stand behind a portal, which is said.
pub(crate) fn usable_address(field: &Field<'_, '_>) -> Option<IpAddr> {
    let Some(text) = field.text() else {
        if field.is_missing() {
            field.warn("no address; skipped");
        }
        return None;
    };
    let Some(address) = parse_ip_sloppy(text) else {
        field.warn(format_args!("{} is not an IP address; skipped", field.shown()));
        return None;
    };
    allowed(field, address)
}

/// The address, if an endpoint may have it; if not, that is said.
pub(crate) fn allowed(field: &Field<'_, '_>, address: IpAddr) -> Option<IpAddr> {
    let reason = forbidden(address);
    if let Some(reason) = reason {
        field.warn(format_args!("{address} is {reason}, which no endpoint may have; skipped"));
    }
    reason.is_none().then_some(address)
}
