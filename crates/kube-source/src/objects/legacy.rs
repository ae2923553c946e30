//! Parses `v1beta1` Service and Endpoints, the first form of services.
//!
//! A v1beta1 service is converted to v1 and parsed as v1, so the same rules apply. Errors are then reported with the
//! v1beta1 field names. v1beta1 Endpoints are a list of "address:port".

use std::collections::BTreeMap;
use std::net::IpAddr;

use proxy_core::address::parse_ip_sloppy;
use proxy_core::endpoint::{Conditions, Endpoint, EndpointPort};
use proxy_core::service::{Protocol, ServiceKey};
use serde_json::{Value, json};

use crate::objects::draft::ServiceDraft;
use crate::objects::endpoints::{EndpointsDraft, Subset, without_topology};
use crate::objects::field::Field;
use crate::objects::finding::Findings;
use crate::objects::metadata::{NameRule, Names, namespace_or_default, object_name};
use crate::objects::ports::PROTOCOLS;
use crate::objects::service::service;
use crate::objects::slice::check_address;
use crate::objects::validate;

/// v1 field paths and their v1beta1 names. A path precedes its own prefixes.
const V1BETA1_NAMES: [(&str, &str); 11] = [
    ("metadata.namespace", "namespace"),
    ("metadata.name", "id"),
    ("metadata.labels", "labels"),
    ("metadata.annotations", "annotations"),
    ("spec.ports[0].targetPort", "containerPort"),
    ("spec.ports[0].protocol", "protocol"),
    ("spec.ports", "port"),
    ("spec.selector", "selector"),
    ("spec.clusterIP", "portalIP"),
    ("spec.externalIPs", "publicIPs"),
    ("spec.sessionAffinity", "sessionAffinity"),
];

/// Parses a v1beta1 service. Returns `None` after recording an error if its name is invalid.
pub(crate) fn legacy_service(
    object: &Field<'_, '_>,
    value: &Value,
    names: &mut Names,
    findings: &Findings,
) -> Option<ServiceDraft> {
    let has_load_balancer = object.at("createExternalLoadBalancer").boolean().unwrap_or(false);
    let v1 = to_v1(value, has_load_balancer);
    let v1_findings = Findings::default();
    let draft = service(&Field::root(&v1, &v1_findings), names);
    for finding in v1_findings.into_list() {
        findings.add(finding.severity, with_v1beta1_name(&finding.message));
    }
    draft
}

fn to_v1(value: &Value, has_load_balancer: bool) -> Value {
    let field = |key: &str| value.get(key).cloned().unwrap_or(Value::Null);
    // v1beta1 accepted protocols in upper and lower case.
    let protocol = match field("protocol") {
        Value::String(text) => Value::String(text.to_ascii_uppercase()),
        other => other,
    };
    json!({
        "metadata": {
            "name": field("id"),
            "namespace": field("namespace"),
            "labels": field("labels"),
            "annotations": field("annotations"),
        },
        "spec": {
            "type": if has_load_balancer { "LoadBalancer" } else { "ClusterIP" },
            "ports": [{ "port": field("port"), "targetPort": field("containerPort"), "protocol": protocol }],
            "selector": field("selector"),
            "clusterIP": field("portalIP"),
            "externalIPs": field("publicIPs"),
            "sessionAffinity": field("sessionAffinity"),
        },
    })
}

/// Replaces the v1 path at the start of a message.
fn with_v1beta1_name(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("spec.ports[0].port") {
        return format!("port{rest}");
    }
    let renamed = V1BETA1_NAMES.iter().find_map(|(v1, v1beta1)| Some((v1beta1, message.strip_prefix(v1)?)));
    renamed.map_or_else(|| message.to_owned(), |(name, rest)| format!("{name}{rest}"))
}

/// Parses v1beta1 Endpoints. Returns `None` after recording an error if the name is invalid.
pub(crate) fn legacy_endpoints(object: &Field<'_, '_>, names: &mut Names) -> Option<EndpointsDraft> {
    let name_field = object.at("id");
    let name = object_name(&name_field, NameRule::Subdomain);
    let namespace_field = object.at("namespace");
    let namespace = namespace_or_default(&namespace_field);
    let protocol = validate::one_of(&object.at("protocol"), &PROTOCOLS);
    let mut by_port: BTreeMap<u16, Vec<Endpoint>> = BTreeMap::new();
    for field in object.list("endpoints") {
        if let Some((address, port)) = address_and_port(&field) {
            let conditions = Conditions::default();
            let endpoint = without_topology(address, conditions);
            by_port.entry(port).or_default().push(endpoint);
        }
    }
    let unnamed = names.get("");
    let subsets = by_port.into_iter().map(|(port, endpoints)| {
        let protocol = protocol.unwrap_or(Protocol::Tcp);
        Subset { ports: vec![EndpointPort { name: unnamed.clone(), protocol, port }], endpoints }
    });
    let subsets = subsets.collect();
    let service = ServiceKey { namespace: names.get(namespace?), name: name?.into() };
    Some(EndpointsDraft { service, subsets, inherits_protocols: protocol.is_none() })
}

fn address_and_port(field: &Field<'_, '_>) -> Option<(IpAddr, u16)> {
    let text = field.text()?;
    let parts = text.rsplit_once(':').and_then(|(address, port)| {
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
        Some((parse_ip_sloppy(address)?, port))
    });
    let Some((address, port)) = parts else {
        field.warn(format_args!("{} is not address:port; skipped", field.shown()));
        return None;
    };
    Some((check_address(field, address)?, port))
}
