//! Parses and validates a Service object, and applies the API server's defaults.
//!
//! A service is accepted here exactly if an API server accepts the fields that Portico reads. `addresses` and `ports`
//! parse the cluster IPs and the ports. Rules that involve several services, such as unique addresses, belong to
//! `manifests::resolve`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::address::{Family, forbidden, forbidden_external, parse_ip_sloppy};
use proxy_core::annotation::EXPORT;
use proxy_core::service::{
    AFFINITY_S_DEFAULT, AFFINITY_S_MAX, Created, Export, Service, ServiceKey, TrafficPolicy,
};

use crate::objects::addresses::addresses;
use crate::objects::draft::{PortDraft, ServiceDraft, ServiceType};
use crate::objects::field::Field;
use crate::objects::metadata::{NameRule, Names, metadata};
use crate::objects::ports::ports;
use crate::objects::service_annotations::{ServiceOptions, service_options};
use crate::objects::validate;

/// The label of services that another proxy handles.
pub(crate) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The label of services and slices that kube-proxy ignores.
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The maximum number of portals of a service: ports times addresses. No real service has as many.
const PORTALS_MAX: usize = 4_096;
/// The kubelet's port, which a load balancer must not expose.
const KUBELET_PORT: u16 = 10_250;

const POLICIES: [(&str, TrafficPolicy); 2] =
    [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)];

/// Parses a service. Returns `None` after recording an error if its name is invalid. The result is valid only if no
/// error was recorded.
pub(crate) fn service(object: &Field<'_, '_>, names: &mut Names) -> Option<ServiceDraft> {
    let meta_field = object.map("metadata");
    let meta = metadata(&meta_field, NameRule::Label, names);
    let labels = meta_field.map("labels").texts();
    let has_label = |name: &str| labels.iter().any(|(label, _)| *label == name);
    let has_other_proxy = has_label(PROXY_NAME_LABEL);
    let is_unproxied = !has_other_proxy && has_label(HEADLESS_LABEL);
    let ServiceOptions { mode, scheduler, dial, hold_ms, dns_endpoints } = service_options(&meta_field);
    let export = export(&meta_field, names);
    let spec = object.map("spec");
    let kind = validate::one_of(&spec.at("type"), &ServiceType::NAMES).unwrap_or(ServiceType::ClusterIp);
    let addresses = addresses(&spec, kind);
    let drafts = ports(&spec, kind, addresses.headless, names);
    check_type(&spec, kind, &drafts);
    let external_name = external_name(&spec, kind);
    let external_ips = external_ips(&spec);
    let (internal_policy, external_policy) = policies(&spec, kind, !external_ips.is_empty());
    let health_check_node_port = health_check_node_port(&spec, kind, external_policy);
    let source_ranges = source_ranges(&spec, kind);
    let affinity_s = affinity(&spec);
    let publish_not_ready = spec.at("publishNotReadyAddresses").boolean().unwrap_or(false);
    let selector = selector(&spec);
    let load_balancer_ips = load_balancer_ips(&object.map("status"));
    let portals = drafts.len().saturating_mul(1 + external_ips.len() + load_balancer_ips.len());
    if portals > PORTALS_MAX {
        spec.malformed(format_args!("{portals} portals (ports times addresses), more than {PORTALS_MAX}"));
    }
    let meta = meta?;
    let (ports, target_ports) = drafts.into_iter().map(|draft| (draft.port, draft.target)).unzip();
    let service = Service {
        // The name is interned because EndpointSlices refer to it.
        key: ServiceKey { namespace: meta.namespace, name: names.get(&meta.name) },
        created: meta_field.at("creationTimestamp").text().map(Created::parse).unwrap_or_default(),
        cluster_ips: addresses.cluster_ips(),
        cluster_ip_text: addresses.text.clone(),
        ports,
        internal_policy,
        external_policy,
        external_ips,
        load_balancer_ips,
        source_ranges,
        health_check_node_port,
        affinity_s,
        has_portals: kind != ServiceType::ExternalName && !has_other_proxy && !is_unproxied,
        is_unproxied,
        external_name,
        mode,
        scheduler,
        dial,
        hold_ms,
        export,
        dns_endpoints,
    };
    Some(ServiceDraft { service, addresses, selector, target_ports, publish_not_ready })
}

fn selector(spec: &Field<'_, '_>) -> Vec<(Box<str>, Box<str>)> {
    let map = spec.map("selector");
    let texts = map.texts();
    for (name, value) in &texts {
        if !validate::is_label_name(name) || !validate::is_label_value(value) {
            map.at(name).error(format_args!("{} is not a valid label", map.at(name).shown()));
        }
    }
    texts.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// Whom a service is offered to; a name that no namespace can have is left out.
fn export(meta: &Field<'_, '_>, names: &mut Names) -> Export {
    let annotations = meta.map("annotations");
    let found = annotations.texts().into_iter().find(|(name, _)| *name == EXPORT.key);
    match found.map(|(_, text)| text.trim()) {
        None | Some("false") => Export::Nowhere,
        Some("true") => Export::Everywhere,
        Some(list) => {
            let (good, bad): (Vec<&str>, Vec<&str>) =
                list.split(',').map(str::trim).partition(|name| validate::is_dns_label(name));
            if !bad.is_empty() {
                let field = annotations.at(EXPORT.key);
                let wanted = EXPORT.values;
                field.warn(format_args!("{} is not {wanted}; invalid names are ignored", field.shown()));
            }
            Export::To(good.into_iter().map(|name| names.get(name)).collect())
        }
    }
}

/// Checks the rules that depend on the type.
fn check_type(spec: &Field<'_, '_>, kind: ServiceType, ports: &[PortDraft]) {
    let name = spec.at("externalName");
    if kind == ServiceType::ExternalName {
        match name.text() {
            None if name.is_missing() => {
                name.error("missing: required for type ExternalName");
            }
            // A trailing dot marks a fully qualified name.
            Some(text) if !validate::is_dns_subdomain(text.strip_suffix('.').unwrap_or(text)) => {
                name.error(format_args!("{} is not a DNS name", name.shown()));
            }
            _ => {}
        }
    }
    if kind == ServiceType::LoadBalancer && ports.iter().any(|draft| draft.port.port == KUBELET_PORT) {
        spec.at("ports").error("port 10250 is the kubelet's and must not be exposed by a load balancer");
    }
}

/// Returns the external name in lower case. `check_type` rejects an invalid one; an API server can still have stored it.
fn external_name(spec: &Field<'_, '_>, kind: ServiceType) -> Option<Arc<str>> {
    let field = (kind == ServiceType::ExternalName).then(|| spec.at("externalName"))?;
    let text = field.text()?.to_ascii_lowercase();
    let name = text.strip_suffix('.').unwrap_or(&text);
    validate::is_dns_subdomain(name).then(|| name.into())
}

fn external_ips(spec: &Field<'_, '_>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for field in spec.list("externalIPs") {
        if let Some(reason) = parse_ip_sloppy(field.text().unwrap_or_default()).and_then(forbidden) {
            field.error(format_args!("{} is {reason}, which is not allowed", field.shown()));
        } else if field.is_missing() {
            field.reject("an IP address");
        } else {
            found.extend(validate::address(&field));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn policies(
    spec: &Field<'_, '_>,
    kind: ServiceType,
    has_external_ips: bool,
) -> (TrafficPolicy, TrafficPolicy) {
    let internal = validate::one_of(&spec.at("internalTrafficPolicy"), &POLICIES).unwrap_or_default();
    let field = spec.at("externalTrafficPolicy");
    let external = validate::one_of(&field, &POLICIES);
    let is_external = kind.has_node_ports() || (kind == ServiceType::ClusterIp && has_external_ips);
    if external.is_some() && !is_external {
        field.error(
            "only a service of type NodePort or LoadBalancer, or one with externalIPs, has this policy",
        );
    }
    (internal, external.unwrap_or_default())
}

fn health_check_node_port(spec: &Field<'_, '_>, kind: ServiceType, external: TrafficPolicy) -> Option<u16> {
    let field = spec.at("healthCheckNodePort");
    let port = validate::port_or_zero(&field)?;
    if kind == ServiceType::LoadBalancer && external == TrafficPolicy::Local {
        return Some(port);
    }
    field.error(format_args!(
        "{port}: only a service of type LoadBalancer with externalTrafficPolicy Local has this port"
    ));
    None
}

fn source_ranges(spec: &Field<'_, '_>, kind: ServiceType) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    let mut is_empty = true;
    for field in spec.list("loadBalancerSourceRanges") {
        is_empty = false;
        if field.is_missing() {
            field.reject(validate::CIDR);
        }
        ranges.extend(validate::network(&field));
    }
    if !is_empty && kind != ServiceType::LoadBalancer {
        spec.at("loadBalancerSourceRanges").error("only a service of type LoadBalancer has source ranges");
    }
    ranges
}

fn affinity(spec: &Field<'_, '_>) -> Option<u32> {
    let by_client = validate::one_of(&spec.at("sessionAffinity"), &[("None", false), ("ClientIP", true)]);
    let by_client = by_client.unwrap_or(false);
    let config = spec.map("sessionAffinityConfig");
    let client_ip = config.map("clientIP");
    let timeout = client_ip.at("timeoutSeconds");
    if !by_client {
        return None;
    }
    let Some(seconds) = timeout.integer() else { return Some(AFFINITY_S_DEFAULT) };
    let possible = seconds.clamp(1, i64::from(AFFINITY_S_MAX));
    if seconds != possible {
        timeout
            .error(format_args!("{} is not a timeout from 1 to {AFFINITY_S_MAX} seconds", timeout.shown()));
    }
    u32::try_from(possible).ok()
}

/// Parses the load-balancer IPs at which traffic arrives with its original destination. Ingress entries with a host name
/// or with `ipMode: Proxy` are skipped, like in kube-proxy (serviceport.go:226-235).
fn load_balancer_ips(status: &Field<'_, '_>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let load_balancer = status.map("loadBalancer");
    for ingress in load_balancer.maps("ingress") {
        let field = ingress.at("ip");
        let Some(text) = field.text() else { continue };
        if ingress.at("ipMode").text().is_some_and(|mode| mode != "VIP") {
            continue;
        }
        match parse_ip_sloppy(text) {
            Some(address) => match forbidden_external(address) {
                None => found.push(address),
                Some(reason) => {
                    let shown = field.shown();
                    field.warn(format_args!("{shown} is {reason}, which is not allowed; skipped"));
                }
            },
            None => field.warn(format_args!("{} is not an IP address; skipped", field.shown())),
        }
    }
    found.sort_unstable_by_key(|address| (Family::of(*address), *address));
    found.dedup();
    found
}
