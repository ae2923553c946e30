//! Node, Namespace and `ServiceCIDR` objects: what belongs to the cluster and not to one service.
//!
//! What must not go in here: which node the pods run on; the caller chooses one by its name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::address::{Family, parse_ip_sloppy};
use proxy_core::annotation;
use proxy_core::node::Node;

use crate::field::Field;
use crate::metadata::{NameRule, Names, named};
use crate::validate;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Reads a node; none: its name is wrong, and that has been said.
pub(crate) fn node(object: &Field<'_, '_>, names: &mut Names) -> Option<Node> {
    let meta = object.map("metadata");
    let name_field = meta.at("name");
    let name = named(&name_field, NameRule::Subdomain);
    let labels = meta.map("labels").texts();
    let zone = labels.iter().find(|(label, _)| *label == ZONE_LABEL).map_or("", |(_, zone)| *zone);
    let addresses = addresses(&object.map("status"));
    Some(Node { name: names.get(name?), zone: names.get(zone), addresses })
}

/// The annotations of a namespace that are ours.
pub(crate) fn namespace(object: &Field<'_, '_>) -> Option<(Arc<str>, BTreeMap<String, String>)> {
    let meta = object.map("metadata");
    let name_field = meta.at("name");
    let name = named(&name_field, NameRule::Label);
    let annotations = meta.map("annotations").texts();
    let ours = annotations.into_iter().filter(|(name, _)| name.starts_with(annotation::PREFIX));
    Some((name?.into(), ours.map(|(name, text)| (name.to_owned(), text.to_owned())).collect()))
}

/// The internal addresses; where there is none of a family, the external ones (kube-proxy's
/// `GetNodeHostIPs` prefers internal ones likewise).
fn addresses(status: &Field<'_, '_>) -> Vec<IpAddr> {
    let (mut internal, mut external): (Vec<IpAddr>, Vec<IpAddr>) = (Vec::new(), Vec::new());
    for entry in status.maps("addresses") {
        let list = match entry.at("type").text() {
            Some("InternalIP") => &mut internal,
            Some("ExternalIP") => &mut external,
            _ => continue,
        };
        let field = entry.at("address");
        let Some(text) = field.text() else { continue };
        match parse_ip_sloppy(text) {
            Some(address) => list.push(address),
            None => field.warn(format_args!("{} is not an IP address; skipped", field.shown())),
        }
    }
    for family in Family::BOTH {
        if !internal.iter().any(|address| Family::of(*address) == family) {
            internal.extend(external.iter().filter(|address| Family::of(**address) == family));
        }
    }
    internal
}

/// The name and the ranges of a `ServiceCIDR`; none: its name is wrong, and that has been said.
pub(crate) fn service_cidr(object: &Field<'_, '_>) -> Option<(Arc<str>, Vec<IpNet>)> {
    let meta = object.map("metadata");
    let name_field = meta.at("name");
    let name = named(&name_field, NameRule::Subdomain);
    let spec = object.map("spec");
    let mut ranges = Vec::new();
    for field in spec.list("cidrs") {
        if field.is_missing() {
            field.refuse("a network, as 10.0.0.0/8");
        }
        ranges.extend(validate::network(&field));
    }
    Some((name?.into(), ranges))
}
