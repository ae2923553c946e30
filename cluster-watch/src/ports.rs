//! The ports of a Service.
//!
//! The checks are those of `validateServicePort` and of the loops over all ports in `ValidateService`. What must
//! not go in here: looking up a port by name on pods, see `pods`.

use std::collections::HashSet;

use proxy_core::service::{Protocol, ServicePort};

use crate::field::Field;
use crate::metadata::Names;
use crate::service::{ServiceType, TargetPort};
use crate::validate;

pub(crate) const PROTOCOLS: [(&str, Protocol); 3] =
    [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];

/// The protocol of a port: TCP where none is named; none where it is wrong, which is said.
pub(crate) fn protocol(field: &Field<'_, '_>) -> Option<Protocol> {
    if field.is_missing() { Some(Protocol::Tcp) } else { validate::one_of(field, &PROTOCOLS) }
}

/// A port of a service, and where it leads on pods.
#[derive(Debug)]
pub(crate) struct PortDraft {
    pub(crate) port: ServicePort,
    pub(crate) target: TargetPort,
}

/// Reads and checks the ports of a service; a wrong one is left out, and that has been said.
pub(crate) fn ports(
    spec: &Field<'_, '_>,
    kind: ServiceType,
    headless: bool,
    names: &mut Names,
) -> Vec<PortDraft> {
    let fields: Vec<Field<'_, '_>> = spec.maps("ports").collect();
    let list = spec.at("ports");
    if (list.is_absent() || list.is_empty_list()) && !headless && kind != ServiceType::ExternalName {
        list.error("missing: a service has at least one port unless it is headless");
    }
    let mut seen = Seen::default();
    let several = fields.len() > 1;
    let drafts = fields.iter().map(|field| port(field, kind, several, &mut seen, names));
    drafts.collect::<Vec<_>>().into_iter().flatten().collect()
}

/// What two ports of a service must not share.
#[derive(Default)]
struct Seen<'v> {
    names: HashSet<&'v str>,
    ports: HashSet<(Protocol, u16)>,
    node_ports: HashSet<(Protocol, u16)>,
}

fn port<'v>(
    field: &Field<'_, 'v>,
    kind: ServiceType,
    several: bool,
    seen: &mut Seen<'v>,
    names: &mut Names,
) -> Option<PortDraft> {
    let name = name(&field.at("name"), several, seen);
    let protocol = protocol(&field.at("protocol"));
    let number_field = field.at("port");
    if number_field.is_absent() {
        number_field.error("missing: 1 to 65535");
    }
    let number = validate::port(&number_field);
    let node_port = node_port(&field.at("nodePort"), kind);
    let target = target_port(&field.at("targetPort"));
    let (protocol, number) = (protocol?, number?);
    if !seen.ports.insert((protocol, number)) {
        field.error(format_args!("port {number} {protocol} is there twice"));
        return None;
    }
    if let Some(node_port) = node_port
        && !seen.node_ports.insert((protocol, node_port))
    {
        field.at("nodePort").error(format_args!("{node_port} {protocol} is there twice"));
    }
    let port = ServicePort { name: names.get(name), protocol, port: number, node_port };
    Some(PortDraft { port, target: target.unwrap_or(TargetPort::Number(number)) })
}

fn name<'v>(field: &Field<'_, 'v>, several: bool, seen: &mut Seen<'v>) -> &'v str {
    if field.is_missing() {
        if several {
            field.error("missing: every port has a name where there are several");
        }
        return "";
    }
    let Some(name) = validate::dns_label(field) else { return "" };
    if !seen.names.insert(name) {
        field.error(format_args!("{} is there twice", field.shown()));
    }
    name
}

fn node_port(field: &Field<'_, '_>, kind: ServiceType) -> Option<u16> {
    let node_port = validate::port_or_zero(field)?;
    if kind == ServiceType::ClusterIp {
        field.error(format_args!(
            "{node_port}: only a service of type NodePort or LoadBalancer has node ports"
        ));
    }
    kind.has_node_ports().then_some(node_port)
}

/// None: the port on the pods is the service's port (core/v1 defaults.go).
fn target_port(field: &Field<'_, '_>) -> Option<TargetPort> {
    if field.is_text() {
        return Some(TargetPort::Name(validate::port_name(field)?.into()));
    }
    Some(TargetPort::Number(validate::port_or_zero(field)?))
}
