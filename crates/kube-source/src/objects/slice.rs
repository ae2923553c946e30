//! Converts an EndpointSlice object to proxy-core's `EndpointSlice`.
//!
//! Endpoints and ports that kube-proxy would skip are skipped. Those on which kube-proxy's behaviour is undefined, such
//! as an invalid address, are skipped with a warning. `resolve` checks whether an endpoint is the address of a service,
//! because that requires all services.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::address::{Family, forbidden, parse_ip_sloppy};
use proxy_core::endpoint::{Conditions, Endpoint, EndpointPort, EndpointSlice, SliceKey};
use proxy_core::service::{Protocol, ServiceKey};
use serde_json::Value;

use crate::objects::field::Field;
use crate::objects::finding::Findings;
use crate::objects::metadata::{NameRule, Names, metadata};
use crate::objects::ports::PROTOCOLS;
use crate::objects::service::{HEADLESS_LABEL, PROXY_NAME_LABEL};
use crate::objects::validate;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The labels of slices that kube-proxy does not watch. The controller of slices sets the first one for headless
/// services, and copies the second one from the service.
const UNWATCHED_LABELS: [&str; 2] = [HEADLESS_LABEL, PROXY_NAME_LABEL];
/// The key of the zone in the map `topology` of discovery.k8s.io/v1beta1.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The key of the node name in the map `topology` of discovery.k8s.io/v1beta1.
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// The maximum numbers of endpoints and ports of a slice (discovery validation.go `maxEndpoints`, `maxPorts`).
const ENDPOINTS_MAX: usize = 1_000;
const PORTS_MAX: usize = 20_000;

/// Whether missing fields get the API server's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defaults {
    /// The object is from a manifest, so the API server has not set the defaults yet.
    Apply,
    /// The object is from an API server: fields that are missing stay missing.
    AsStored,
}

/// The result of converting an EndpointSlice object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedSlice {
    /// A valid slice.
    Slice(EndpointSlice),
    /// A valid slice without use for portals, with a description of its type.
    Unused(&'static str),
    /// An invalid slice. The errors are recorded.
    Invalid,
}

/// Converts an EndpointSlice object. Also returns its errors and warnings.
#[must_use]
pub fn endpoint_slice(object: &Value, defaults: Defaults) -> (ParsedSlice, Vec<String>) {
    let findings = Findings::default();
    let parsed = slice(&Field::root(object, &findings), defaults, &mut Names::default());
    let is_invalid = match defaults {
        Defaults::Apply => findings.has_errors(),
        Defaults::AsStored => findings.malformed().is_some(),
    };
    let parsed = if is_invalid { ParsedSlice::Invalid } else { parsed };
    (parsed, findings.into_list().into_iter().map(|finding| finding.message).collect())
}

/// The `addressType` of a slice.
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

/// Parses an EndpointSlice. The result is valid only if no error was recorded.
pub(crate) fn slice(object: &Field<'_, '_>, defaults: Defaults, names: &mut Names) -> ParsedSlice {
    let meta_field = object.map("metadata");
    let meta = metadata(&meta_field, NameRule::Subdomain, names);
    let labels = meta_field.map("labels").texts();
    let has_portals = !labels.iter().any(|(label, _)| UNWATCHED_LABELS.contains(label));
    let service_name = labels.iter().find(|(label, _)| *label == SERVICE_NAME_LABEL).map(|(_, name)| *name);
    let Some(service_name) = service_name.filter(|name| !name.is_empty()) else {
        return ParsedSlice::Unused("EndpointSlice without service");
    };
    let type_field = object.at("addressType");
    let family = match validate::one_of(&type_field, &ADDRESS_TYPES) {
        Some(AddressType::Fqdn) => return ParsedSlice::Unused("EndpointSlice of type FQDN"),
        Some(AddressType::Ip(family)) => Some(family),
        None => {
            if type_field.is_missing() {
                type_field.malformed("missing: must be one of IPv4, IPv6, FQDN");
            }
            None
        }
    };
    check_size(object, "endpoints", ENDPOINTS_MAX);
    check_size(object, "ports", PORTS_MAX);
    check_port_names(object, defaults);
    let ports = object.maps("ports").filter_map(|field| port(&field, defaults, names)).collect();
    let (Some(meta), Some(family)) = (meta, family) else { return ParsedSlice::Invalid };
    let endpoints = object.maps("endpoints").filter_map(|field| endpoint(&field, family, names)).collect();
    let service = ServiceKey { namespace: Arc::clone(&meta.namespace), name: names.get(service_name) };
    let key = SliceKey { namespace: meta.namespace, name: meta.name };
    ParsedSlice::Slice(EndpointSlice { key, service, has_portals, ports, endpoints })
}

fn check_size(object: &Field<'_, '_>, list: &str, max: usize) {
    let count = object.list(list).count();
    if count > max {
        object.at(list).malformed(format_args!("{count} entries: a slice has at most {max}"));
    }
}

/// Checks that port names are unique: an endpoint has one port for each port of its service.
fn check_port_names(object: &Field<'_, '_>, defaults: Defaults) {
    let mut seen = HashSet::new();
    for port in object.maps("ports") {
        let name = port.at("name");
        let has_name = defaults == Defaults::Apply || !name.is_absent();
        if has_name && !seen.insert(name.text().unwrap_or_default()) {
            name.error(format_args!("duplicate name {}", name.shown()));
        }
    }
}

/// Parses a port. Returns `None` if kube-proxy would skip it or does not define it (endpointslicecache.go:172-190).
fn port(field: &Field<'_, '_>, defaults: Defaults, names: &mut Names) -> Option<EndpointPort> {
    let (name, protocol) = (field.at("name"), field.at("protocol"));
    if name.is_absent() && defaults == Defaults::AsStored {
        field.warn("port without a name matches no service port; skipped");
        return None;
    }
    let number_field = field.at("port");
    let is_missing = number_field.is_absent() || number_field.integer() == Some(0);
    let number = validate::port_or_zero(&number_field);
    if is_missing {
        number_field.warn("port without a number; skipped");
    }
    let protocol = if protocol.is_absent() {
        if defaults == Defaults::AsStored {
            field.warn("port without a protocol is undefined in Kubernetes; skipped");
            return None;
        }
        Some(Protocol::Tcp)
    } else if protocol.is_empty_text() {
        protocol.reject("one of TCP, UDP, SCTP");
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
    let in_topology = |label: &str| topology.iter().find(|(key, _)| *key == label).map(|(_, name)| *name);
    let node = field.at("nodeName").text().or(in_topology(HOSTNAME_LABEL)).map(|name| names.get(name));
    let zone = field.at("zone").text().or(in_topology(ZONE_LABEL)).map(|name| names.get(name));
    let hostname = hostname(field, names);
    let hints = field.map("hints");
    let mut hint_names = |key: &str| -> Vec<Arc<str>> {
        hints.maps(key).filter_map(|hint| hint.at("name").text().map(|name| names.get(name))).collect()
    };
    let (zone_hints, node_hints) = (hint_names("forZones"), hint_names("forNodes"));
    // The API guarantees that all addresses of an endpoint are fungible, so only the first is used.
    let address_field = field.list("addresses").next()?;
    let address = endpoint_address(&address_field)?;
    if Family::of(address) != family {
        address_field
            .warn(format_args!("{address} does not match the address type {family} of the slice; skipped"));
        return None;
    }
    Some(Endpoint { address, conditions, node, zone, hostname, zone_hints, node_hints })
}

/// Parses the host name of an endpoint. Warns and returns `None` if it is not a DNS label.
pub(crate) fn hostname(endpoint: &Field<'_, '_>, names: &mut Names) -> Option<Arc<str>> {
    let field = endpoint.at("hostname");
    let text = field.text()?;
    if !validate::is_dns_label(text) {
        field.warn(format_args!("{} is not {}; ignored", field.shown(), validate::DNS_LABEL));
        return None;
    }
    Some(names.get(text))
}

/// Parses the address of an endpoint. Returns `None` after a warning if it is invalid or not allowed as an endpoint.
pub(crate) fn endpoint_address(field: &Field<'_, '_>) -> Option<IpAddr> {
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
    check_address(field, address)
}

/// Returns the address if it is allowed as an endpoint, otherwise warns.
pub(crate) fn check_address(field: &Field<'_, '_>, address: IpAddr) -> Option<IpAddr> {
    let reason = forbidden(address);
    if let Some(reason) = reason {
        field.warn(format_args!("{address} is {reason} and cannot be an endpoint; skipped"));
    }
    reason.is_none().then_some(address)
}
