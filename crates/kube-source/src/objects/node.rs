//! Parses Node, Namespace and `ServiceCIDR` objects.
//!
//! The caller selects its own node by name; that does not belong here. The API server has validated a node, so a value
//! that cannot be parsed is skipped with a warning.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::address::{Family, parse_ip_sloppy, parse_net_sloppy};
use proxy_core::annotation;
use proxy_core::dns::{Namespace, parse_dns};
use proxy_core::node::{Node, ServiceProxy};

use crate::objects::field::Field;
use crate::objects::metadata::{NameRule, Names, object_name};
use crate::objects::validate;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The maximum length of a request in an annotation of a node.
const REQUEST_BYTES_MAX: usize = 128;
/// The taint of a node that the cluster autoscaler is about to delete (cluster-autoscaler/utils/taints).
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Parses a node. Returns `None` after recording an error if its name is invalid.
pub(crate) fn node(object: &Field<'_, '_>, names: &mut Names) -> Option<Node> {
    let meta = object.map("metadata");
    let name_field = meta.at("name");
    let name = object_name(&name_field, NameRule::Subdomain);
    let labels = meta.map("labels").texts();
    let zone = labels.iter().find(|(label, _)| *label == ZONE_LABEL).map_or("", |(_, zone)| *zone);
    let addresses = addresses(&object.map("status"));
    let spec = object.map("spec");
    let is_leaving = meta.at("deletionTimestamp").text().is_some() || has_to_be_deleted_taint(&spec);
    let pod_cidrs = pod_cidrs(&spec);
    let service_proxy = service_proxy(&meta, &labels);
    let annotations = meta.map("annotations").texts();
    let request = |key: &str| {
        let text = annotations.iter().find(|(name, _)| *name == key).map_or("", |(_, text)| *text);
        // A longer text is no request of `portico migrate`.
        if text.len() <= REQUEST_BYTES_MAX { text.into() } else { "".into() }
    };
    Some(Node {
        name: names.get(name?),
        zone: names.get(zone),
        addresses,
        pod_cidrs,
        is_leaving,
        service_proxy,
        verification: request(annotation::VERIFY_NODE.key),
        rule_removal: request(annotation::REMOVE_KUBE_PROXY_RULES.key),
    })
}

fn service_proxy(meta: &Field<'_, '_>, labels: &[(&str, &str)]) -> ServiceProxy {
    let key = annotation::SERVICE_PROXY.key;
    let Some((_, value)) = labels.iter().find(|(label, _)| *label == key) else {
        return ServiceProxy::default();
    };
    ServiceProxy::parse(value).unwrap_or_else(|| {
        let field = meta.at("labels");
        field.warn(format_args!("{key} must be one of: {}", annotation::SERVICE_PROXY.values));
        ServiceProxy::default()
    })
}

fn has_to_be_deleted_taint(spec: &Field<'_, '_>) -> bool {
    spec.maps("taints").any(|taint| taint.at("key").text() == Some(TO_BE_DELETED_TAINT))
}

fn pod_cidrs(spec: &Field<'_, '_>) -> Vec<IpNet> {
    let mut cidrs = Vec::new();
    for field in spec.list("podCIDRs") {
        let Some(text) = field.text() else { continue };
        match parse_net_sloppy(text) {
            Some(cidr) => cidrs.push(cidr),
            None => field.warn(format_args!("{} is not a CIDR; skipped", field.shown())),
        }
    }
    cidrs
}

/// Parses the name of a namespace and its `portico.dev/` annotations.
pub(crate) fn namespace(
    object: &Field<'_, '_>,
    names: &mut Names,
) -> Option<(Arc<str>, BTreeMap<String, String>)> {
    let meta = object.map("metadata");
    let name_field = meta.at("name");
    let name = object_name(&name_field, NameRule::Label);
    let map = meta.map("annotations");
    let annotations = map.texts();
    if let Some((key, Err(error))) = annotations
        .iter()
        .find(|(key, _)| *key == annotation::DNS.key)
        .map(|(key, text)| (key, parse_dns(text)))
    {
        map.at(key).warn(format_args!("{error}; ignored"));
    }
    let annotations = annotations.into_iter().filter(|(key, _)| key.starts_with(annotation::PREFIX));
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Some((names.get(name?), annotations))
}

/// Returns a namespace with its DNS annotation. An invalid annotation is ignored.
pub(crate) fn dns_namespace(name: Arc<str>, annotations: &BTreeMap<String, String>) -> Namespace {
    let is_dns_off = annotations.get(annotation::DNS.key).is_some_and(|text| parse_dns(text) == Ok(false));
    Namespace { name, is_dns_off }
}

/// Returns the internal addresses, and the external ones of a family without internal addresses (like kube-proxy's
/// `GetNodeHostIPs`).
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

/// Parses the name and the ranges of a `ServiceCIDR`. Returns `None` after recording an error if its name is invalid.
pub(crate) fn service_cidr(object: &Field<'_, '_>) -> Option<(Arc<str>, Vec<IpNet>)> {
    let meta = object.map("metadata");
    let name_field = meta.at("name");
    let name = object_name(&name_field, NameRule::Subdomain);
    let spec = object.map("spec");
    let mut ranges = Vec::new();
    for field in spec.list("cidrs") {
        if field.is_missing() {
            field.reject(validate::CIDR);
        }
        ranges.extend(validate::network(&field));
    }
    Some((name?.into(), ranges))
}
