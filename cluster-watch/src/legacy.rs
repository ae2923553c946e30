//! The `v1beta1` forms of Service and Endpoints, in which services were first described.
//!
//! A service is rewritten to the v1 form and read as one, so that its rules are those of today; what is found is
//! then said with the names of the old fields. Endpoints are a list of "address:port". What must not go in
//! here: rules of their own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proxy_core::address::parse_ip_sloppy;
use proxy_core::endpoint::{Conditions, Endpoint, EndpointPort};
use proxy_core::service::{Protocol, ServiceKey};
use serde_json::{Value, json};

use crate::endpoints::{EndpointsDraft, Subset};
use crate::field::{Field, Findings};
use crate::metadata::{NameRule, Names, named, namespaced};
use crate::ports::PROTOCOLS;
use crate::service::{ServiceDraft, service};
use crate::slice::allowed;
use crate::validate;

/// New and old names of fields; a longer path stands before its beginning.
const OLD_NAMES: [(&str, &str); 11] = [
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

/// Reads a service of the old form; none: its name is wrong, and that has been said.
pub(crate) fn legacy_service(
    object: &Field<'_, '_>,
    value: &Value,
    names: &mut Names,
    findings: &Findings,
) -> Option<ServiceDraft> {
    let has_load_balancer = object.at("createExternalLoadBalancer").boolean().unwrap_or(false);
    let rewritten = rewritten(value, has_load_balancer);
    let found = Findings::default();
    let draft = service(&Field::root(&rewritten, &found), names);
    for finding in found.into_list() {
        findings.add(finding.severity, with_old_name(&finding.message));
    }
    draft
}

fn rewritten(value: &Value, has_load_balancer: bool) -> Value {
    let field = |key: &str| value.get(key).cloned().unwrap_or(Value::Null);
    // The old API knew protocols in any case.
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

fn with_old_name(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("spec.ports[0].port") {
        return format!("port{rest}");
    }
    let renamed = OLD_NAMES.iter().find_map(|(new, old)| Some((old, message.strip_prefix(new)?)));
    renamed.map_or_else(|| message.to_owned(), |(old, rest)| format!("{old}{rest}"))
}

/// Reads Endpoints of the old form; none: their name is wrong, and that has been said.
pub(crate) fn legacy_endpoints(object: &Field<'_, '_>, names: &mut Names) -> Option<EndpointsDraft> {
    let name_field = object.at("id");
    let name = named(&name_field, NameRule::Subdomain);
    let namespace_field = object.at("namespace");
    let namespace = namespaced(&namespace_field);
    let protocol = validate::one_of(&object.at("protocol"), &PROTOCOLS);
    let mut by_port: BTreeMap<u16, Vec<Endpoint>> = BTreeMap::new();
    for field in object.list("endpoints") {
        if let Some((address, port)) = address_and_port(&field) {
            let conditions = Conditions::default();
            let (zone_hints, node_hints) = (Vec::new(), Vec::new());
            let endpoint = Endpoint { address, conditions, node: None, zone_hints, node_hints };
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
    Some(EndpointsDraft { service, subsets, has_protocol_of_service: protocol.is_none() })
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
    Some((allowed(field, address)?, port))
}
