//! Tests of the parts of objects that only DNS uses: host names, zones, external names and namespaces.
//!
//! Objects that kube-proxy does not watch have names, but neither portals nor an effect on other portals.

use super::{key, lines, read_text, read_valid, service_of};
use crate::Objects;
use proxy_core::dns::DnsEndpoints;
use proxy_core::endpoint::SliceKey;
use proxy_core::service::Service;

fn slice_text(labels: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: db-1, labels: \
         {{kubernetes.io/service-name: db{labels}}}}}\naddressType: IPv4\nports: [{{name: sql, port: 5432}}]\n{rest}\n"
    )
}

fn service_with(metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: db{metadata}}}\nspec: {{ports: [{{port: 1}}]{spec}}}\n"
    )
}

fn db(text: &str) -> Service {
    read_valid(text).services[&key("db")].clone()
}

/// Returns the host name and the zone of the first endpoint of the only slice.
fn first_endpoint(objects: &Objects) -> (Option<&str>, Option<&str>) {
    let endpoint = &objects.slices.values().next().unwrap().endpoints[0];
    (endpoint.hostname.as_deref(), endpoint.zone.as_deref())
}

#[test]
fn endpoint_of_a_slice_has_its_host_name_and_zone() {
    let text = slice_text("", "endpoints:\n- {addresses: [10.1.0.9], hostname: db-0, zone: z1}");
    assert_eq!(first_endpoint(&read_valid(&text)), (Some("db-0"), Some("z1")));
    let text = slice_text("", "endpoints:\n- {addresses: [10.1.0.9]}");
    assert_eq!(first_endpoint(&read_valid(&text)), (None, None));
    let v1beta1 =
        slice_text("", "endpoints:\n- {addresses: [10.1.0.9], topology: {topology.kubernetes.io/zone: z2}}");
    assert_eq!(first_endpoint(&read_valid(&v1beta1)), (None, Some("z2")));
}

#[test]
fn endpoints_with_the_same_host_name_share_its_text() {
    let text = slice_text(
        "",
        "endpoints:\n- {addresses: [10.1.0.9], hostname: a}\n- {addresses: [10.1.0.8], hostname: a}",
    );
    let objects = read_valid(&text);
    let slice = &objects.slices[&SliceKey::new("default", "db-1")];
    let hostname = |index: usize| slice.endpoints[index].hostname.clone().expect("a host name");
    assert!(std::sync::Arc::ptr_eq(&hostname(0), &hostname(1)));
}

#[test]
fn address_of_endpoints_has_its_host_name() {
    let text = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: db}\nsubsets:\n\
                - {addresses: [{ip: 10.1.0.9, hostname: db-0}], ports: [{port: 1}]}\n";
    assert_eq!(first_endpoint(&read_valid(text)), (Some("db-0"), None));
}

#[test]
fn invalid_host_name_is_ignored_with_a_warning() {
    for hostname in ["a.b", "'-a'", "A"] {
        let text = slice_text("", &format!("endpoints:\n- {{addresses: [10.1.0.9], hostname: {hostname}}}"));
        let (objects, report) = read_text(&text);
        assert_eq!(first_endpoint(&objects), (None, None));
        assert!(lines(&report)[0].contains("endpoints[0].hostname: "), "{:?}", lines(&report));
    }
}

#[test]
fn slice_that_kube_proxy_does_not_watch_has_no_portals() {
    let has_portals =
        |labels: &str| read_valid(&slice_text(labels, "")).slices.into_values().next().unwrap().has_portals;
    assert!(has_portals(""));
    assert!(!has_portals(", service.kubernetes.io/headless: ''"));
    assert!(!has_portals(", service.kubernetes.io/service-proxy-name: other"));
}

#[test]
fn service_that_kube_proxy_does_not_watch_has_no_portals() {
    let flags = |labels: &str| {
        let service = db(&service_with(&format!(", labels: {{a: b{labels}}}"), ", clusterIP: 10.0.0.1"));
        assert!(service.cluster_ips.iter().next().is_some());
        (service.has_portals, service.is_unproxied)
    };
    let (headless, other_proxy) =
        (", service.kubernetes.io/headless: ''", ", service.kubernetes.io/service-proxy-name: x");
    assert_eq!(flags(""), (true, false));
    assert_eq!(flags(headless), (false, true));
    assert_eq!(flags(other_proxy), (false, false));
    assert_eq!(flags(&format!("{headless}{other_proxy}")), (false, false));
}

#[test]
fn external_name_has_no_trailing_dot() {
    let spec =
        |name: &str| service_of(&format!("  type: ExternalName\n  externalName: {name}")).external_name;
    assert_eq!(spec("db.example.com.").as_deref(), Some("db.example.com"));
    assert_eq!(spec("db").as_deref(), Some("db"));
    assert_eq!(service_of("  ports: [{port: 1}]\n  externalName: db.example.com").external_name, None);
}

#[test]
fn dns_endpoints_annotation_selects_endpoints_and_unknown_values_are_ignored_with_a_warning() {
    let text =
        |value: &str| service_with(&format!(", annotations: {{portico.dev/dns-endpoints: '{value}'}}"), "");
    assert_eq!(db(&service_with("", "")).dns_endpoints, DnsEndpoints::All);
    for (value, expected) in DnsEndpoints::NAMES {
        assert_eq!(db(&text(value)).dns_endpoints, expected);
    }
    let (objects, report) = read_text(&text("pod"));
    assert_eq!(objects.services[&key("db")].dns_endpoints, DnsEndpoints::All);
    assert_eq!(
        lines(&report),
        [
            "warning: a.yaml:2: document 1: Service default/db: metadata.annotations.portico.dev/dns-endpoints: \"pod\" is \
          not one of all, node, zone; ignored"
        ]
    );
}

#[test]
fn snapshot_has_the_namespaces_of_manifests_with_their_dns_annotation() {
    let namespace = |name: &str, value: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: {{portico.dev/dns: '{value}'}}}}\n"
        )
    };
    let (objects, report) =
        read_text(&(namespace("a", "off") + &namespace("b", "on") + &namespace("c", "no")));
    let snapshot = objects.into_snapshot();
    let is_off: Vec<_> =
        snapshot.namespaces().map(|namespace| (&*namespace.name, namespace.is_dns_off)).collect();
    assert_eq!(is_off, [("a", true), ("b", false), ("c", false)]);
    let [warning] = &lines(&report)[..] else { panic!("{:?}", lines(&report)) };
    assert!(warning.ends_with("portico.dev/dns: must be on or off; ignored"), "{warning}");
}
