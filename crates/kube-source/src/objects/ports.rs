//! Parses and validates the ports of a Service.
//!
//! The rules are those of the API server: `validateServicePort`, and the loops over all ports in `ValidateService`.
//! `pods` looks up the named ports of pods.

use std::collections::HashSet;

use proxy_core::service::{Protocol, ServicePort};

use crate::objects::draft::{PortDraft, ServiceType, TargetPort};
use crate::objects::field::Field;
use crate::objects::metadata::Names;
use crate::objects::validate;

pub(crate) const PROTOCOLS: [(&str, Protocol); 3] =
    [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];

/// Parses a protocol, which is TCP if it is missing. Returns `None` after recording an error if it is invalid.
pub(crate) fn protocol(field: &Field<'_, '_>) -> Option<Protocol> {
    if field.is_missing() { Some(Protocol::Tcp) } else { validate::one_of(field, &PROTOCOLS) }
}

/// Parses the ports of a service. An invalid port is recorded as an error and omitted.
pub(crate) fn ports(
    spec: &Field<'_, '_>,
    kind: ServiceType,
    headless: bool,
    names: &mut Names,
) -> Vec<PortDraft> {
    let fields: Vec<Field<'_, '_>> = spec.maps("ports").collect();
    let list = spec.at("ports");
    if (list.is_absent() || list.is_empty_list()) && !headless && kind != ServiceType::ExternalName {
        list.error("missing: a service that is not headless needs at least one port");
    }
    let mut seen = Seen::default();
    let needs_name = fields.len() > 1;
    let drafts = fields.iter().map(|field| port(field, kind, needs_name, &mut seen, names));
    drafts.collect::<Vec<_>>().into_iter().flatten().collect()
}

/// The values that must be unique among the ports of a service.
#[derive(Default)]
struct Seen<'v> {
    names: HashSet<&'v str>,
    ports: HashSet<(Protocol, u16)>,
    node_ports: HashSet<(Protocol, u16)>,
}

fn port<'v>(
    field: &Field<'_, 'v>,
    kind: ServiceType,
    needs_name: bool,
    seen: &mut Seen<'v>,
    names: &mut Names,
) -> Option<PortDraft> {
    let name = name(&field.at("name"), needs_name, seen);
    let protocol = protocol(&field.at("protocol"));
    let number_field = field.at("port");
    if number_field.is_absent() {
        number_field.error(validate::PORT_REQUIRED);
    }
    let number = validate::port(&number_field);
    let node_port = node_port(&field.at("nodePort"), kind);
    let target = target_port(&field.at("targetPort"));
    let (protocol, number) = (protocol?, number?);
    if !seen.ports.insert((protocol, number)) {
        field.error(format_args!("duplicate port {number}/{protocol}"));
        return None;
    }
    if let Some(node_port) = node_port
        && !seen.node_ports.insert((protocol, node_port))
    {
        field.at("nodePort").error(format_args!("duplicate node port {node_port}/{protocol}"));
    }
    let port = ServicePort { name: names.get(name), protocol, port: number, node_port };
    Some(PortDraft { port, target: target.unwrap_or(TargetPort::Number(number)) })
}

fn name<'v>(field: &Field<'_, 'v>, needs_name: bool, seen: &mut Seen<'v>) -> &'v str {
    if field.is_missing() {
        if needs_name {
            field.error("missing: every port of a service with several ports needs a name");
        }
        return "";
    }
    let Some(name) = validate::dns_label(field) else { return "" };
    if !seen.names.insert(name) {
        field.error(format_args!("duplicate name {}", field.shown()));
    }
    name
}

fn node_port(field: &Field<'_, '_>, kind: ServiceType) -> Option<u16> {
    let node_port = validate::port_or_zero(field)?;
    if kind == ServiceType::ClusterIp {
        field.error(format_args!(
            "{node_port}: only services of type NodePort or LoadBalancer have node ports"
        ));
    }
    kind.has_node_ports().then_some(node_port)
}

/// Parses the port on the pods. Returns `None` if it is missing: it is then the service's port (core/v1 defaults.go).
fn target_port(field: &Field<'_, '_>) -> Option<TargetPort> {
    if field.is_text() {
        return Some(TargetPort::Name(validate::port_name(field)?.into()));
    }
    Some(TargetPort::Number(validate::port_or_zero(field)?))
}
