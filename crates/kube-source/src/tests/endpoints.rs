//! Tests of EndpointSlice, Endpoints, and the v1beta1 forms.
//!
//! They cover which endpoints are used, which are skipped with a warning, and which form takes precedence.

use super::{backends, key, lines, messages, read_text, read_valid};
use crate::{Defaults, Objects, ParsedSlice, endpoint_slice};
use proxy_core::endpoint::{Conditions, EndpointSlice, SliceKey};
use proxy_core::service::Protocol;
use serde_json::json;

fn slice_text(rest: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: db-1, labels: \
         {{kubernetes.io/service-name: db}}}}\naddressType: IPv4\n{rest}\n"
    )
}

fn slice_of(objects: &Objects, name: &str) -> EndpointSlice {
    objects.slices[&SliceKey::new("default", name)].clone()
}

#[test]
fn slice_belongs_to_the_service_in_its_label() {
    let text = slice_text(
        "ports: [{name: sql, port: 5432}]\nendpoints:\n- {addresses: [10.1.0.9, 10.1.0.10], nodeName: n1, zone: z1, \
         hints: {forZones: [{name: z1}], forNodes: [{name: n1}]}}",
    );
    let slice = slice_of(&read_valid(&text), "db-1");
    assert_eq!(slice.service, key("db"));
    assert_eq!(backends(&slice), ["sql 10.1.0.9:5432"], "only the first address is used");
    let endpoint = &slice.endpoints[0];
    assert_eq!(endpoint.node.as_deref(), Some("n1"));
    assert_eq!((&*endpoint.zone_hints[0], &*endpoint.node_hints[0]), ("z1", "n1"));
    assert_eq!(endpoint.conditions, Conditions::default());
}

#[test]
fn missing_conditions_default_to_ready_serving_and_not_terminating() {
    let text = slice_text(
        "ports: [{port: 1}]\nendpoints:\n- {addresses: [10.0.0.1], conditions: {}}\n- {addresses: [10.0.0.2], \
         conditions: {ready: false}}\n- {addresses: [10.0.0.3], conditions: {ready: null, serving: false, \
         terminating: true}}",
    );
    let conditions: Vec<Conditions> =
        slice_of(&read_valid(&text), "db-1").endpoints.iter().map(|endpoint| endpoint.conditions).collect();
    let is = |ready, serving, terminating| Conditions { ready, serving, terminating };
    assert_eq!(conditions, [is(true, true, false), is(false, true, false), is(true, false, true)]);
}

#[test]
fn slices_without_use_are_counted_as_ignored() {
    let with = |labels: &str, kind: &str, name: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{{labels}}}}}\naddressType: {kind}\n"
        )
    };
    let text = with("a: b", "IPv4", "a")
        + &with("kubernetes.io/service-name: ''", "IPv4", "b")
        + &with("kubernetes.io/service-name: db", "FQDN", "d");
    let (objects, report) = read_text(&text);
    assert!(objects.slices.is_empty() && report.problems.is_empty());
    let ignored: Vec<(&str, usize)> = report.ignored.iter().map(|(kind, n)| (kind.as_str(), *n)).collect();
    assert_eq!(ignored, [("EndpointSlice of type FQDN", 1), ("EndpointSlice without service", 2)]);
}

#[test]
fn forbidden_endpoints_are_skipped_with_file_document_object_and_reason() {
    let text = slice_text(
        "ports: [{port: 1}]\nendpoints:\n- {addresses: [127.0.0.1]}\n- {addresses: [169.254.1.1]}\n- {addresses: \
         [224.0.0.5]}\n- {addresses: []}\n- {addresses: [nonsense]}\n- {addresses: ['fd00::1']}\n- {addresses: \
         [0.0.0.0]}\n- {addresses: [10.0.0.1]}",
    );
    let (objects, report) = read_text(&text);
    assert_eq!(backends(&slice_of(&objects, "db-1")), [" 10.0.0.1:1"]);
    let prefix = "warning: a.yaml:1: document 1: EndpointSlice default/db-1: endpoints";
    let expected = [
        "[0].addresses[0]: 127.0.0.1 is a loopback address and cannot be an endpoint; skipped",
        "[1].addresses[0]: 169.254.1.1 is a link-local address and cannot be an endpoint; skipped",
        "[2].addresses[0]: 224.0.0.5 is a link-local multicast address and cannot be an endpoint; skipped",
        "[4].addresses[0]: \"nonsense\" is not an IP address; skipped",
        "[5].addresses[0]: fd00::1 does not match the address type IPv4 of the slice; skipped",
        "[6].addresses[0]: 0.0.0.0 is the unspecified address and cannot be an endpoint; skipped",
    ];
    let expected: Vec<String> = expected.iter().map(|message| format!("{prefix}{message}")).collect();
    assert_eq!(lines(&report), expected);
}

#[test]
fn service_address_as_endpoint_is_reported() {
    let text = slice_text("ports: [{port: 1}]\nendpoints: [{addresses: [10.0.0.1]}]")
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 1}]}\n";
    assert_eq!(
        lines(&read_text(&text).1),
        [
            "warning: a.yaml:1: document 1: EndpointSlice default/db-1: 10.0.0.1 is the address of service default/x \
          and cannot be an endpoint"
        ]
    );
}

#[test]
fn ports_without_a_number_are_skipped() {
    let text = slice_text("ports: [{name: a}, {name: b, port: 0}, {name: c, port: 3}]");
    let (objects, report) = read_text(&text);
    assert_eq!(slice_of(&objects, "db-1").ports.len(), 1);
    let messages: Vec<&str> = report.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        messages,
        ["ports[0].port: port without a number; skipped", "ports[1].port: port without a number; skipped"]
    );
}

#[test]
fn manifest_gets_defaults_and_stored_object_does_not() {
    let object = json!({
        "metadata": {"name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"port": 1}, {"port": 3, "name": "c"}, {"port": 4, "name": "d", "protocol": "SCTP"}],
    });
    let ports = |defaults| {
        let (parsed, messages) = endpoint_slice(&object, defaults);
        let ParsedSlice::Slice(slice) = parsed else { panic!("{parsed:?}") };
        let ports: Vec<String> =
            slice.ports.iter().map(|port| format!("{} {} {}", port.name, port.protocol, port.port)).collect();
        (ports, messages)
    };
    let (applied, messages) = ports(Defaults::Apply);
    assert_eq!(applied, [" TCP 1", "c TCP 3", "d SCTP 4"]);
    assert!(messages.is_empty());
    let (stored, messages) = ports(Defaults::AsStored);
    assert_eq!(stored, ["d SCTP 4"]);
    assert_eq!(
        messages,
        [
            "ports[0]: port without a name matches no service port; skipped",
            "ports[1]: port without a protocol is undefined in Kubernetes; skipped"
        ]
    );
}

#[test]
fn slice_that_no_api_server_accepts_is_rejected() {
    let cases = [
        ("ports: [{port: 70000}]", "ports[0].port: 70000 is not a port from 1 to 65535"),
        ("ports: [{port: 1, protocol: tcp}]", "ports[0].protocol: \"tcp\" is not one of TCP, UDP, SCTP"),
        ("ports: [{port: 1, name: a}, {port: 2, name: a}]", "ports[1].name: duplicate name \"a\""),
        ("ports: [{port: 1}, {port: 2, name: null}]", "ports[1].name: duplicate name null"),
        ("endpoints: [{addresses: 10.0.0.1}]", "endpoints[0].addresses: \"10.0.0.1\" is not a list"),
        ("endpoints: [{conditions: {ready: 1}}]", "endpoints[0].conditions.ready: 1 is not true or false"),
    ];
    for (rest, message) in cases {
        let text = slice_text(rest);
        assert_eq!(messages(&text), [message]);
        assert!(read_text(&text).0.slices.is_empty());
    }
    let text = slice_text("").replace("addressType: IPv4\n", "");
    assert_eq!(messages(&text), ["addressType: missing: must be one of IPv4, IPv6, FQDN"]);
}

#[test]
fn v1beta1_slice_has_its_node_in_the_topology() {
    let text = slice_text("endpoints: [{addresses: [10.0.0.1], topology: {kubernetes.io/hostname: n7}}]")
        .replace("k8s.io/v1\n", "k8s.io/v1beta1\n");
    assert_eq!(slice_of(&read_valid(&text), "db-1").endpoints[0].node.as_deref(), Some("n7"));
}

const ENDPOINTS: &str = "---
apiVersion: v1
kind: Endpoints
metadata: {name: db}
subsets:
- addresses: [{ip: 10.0.0.1, nodeName: n1}, {ip: 'fd00::1'}]
  notReadyAddresses: [{ip: 10.0.0.2}]
  ports: [{port: 80}]
- addresses: [{ip: 10.0.0.3}]
  ports: [{name: b, port: 81, protocol: UDP}]
";

#[test]
fn endpoints_become_one_slice_per_subset_and_family() {
    let objects = read_valid(ENDPOINTS);
    let all: Vec<(String, Vec<String>)> =
        objects.slices.values().map(|slice| (slice.key.to_string(), backends(slice))).collect();
    let is =
        |name: &str, backends: &[&str]| (name.to_owned(), backends.iter().map(|b| (*b).to_owned()).collect());
    assert_eq!(
        all,
        [
            is("default/db-endpoints-0", &[" 10.0.0.1:80", " 10.0.0.2:80 not ready"]),
            is("default/db-endpoints-1", &[" fd00::1:80"]),
            is("default/db-endpoints-2", &["b 10.0.0.3:81"]),
        ]
    );
    let first = &objects.slices[&SliceKey::new("default", "db-endpoints-0")];
    assert_eq!(first.endpoints[0].node.as_deref(), Some("n1"));
    assert!(!first.endpoints[1].conditions.serving);
}

#[test]
fn endpoints_are_ignored_if_the_service_has_a_slice() {
    let objects = read_valid(&(slice_text("ports: [{port: 1}]") + ENDPOINTS));
    let names: Vec<&str> = objects.slices.keys().map(|key| &*key.name).collect();
    assert_eq!(names, ["db-1"]);
}

#[test]
fn v1beta1_services_and_endpoints_are_read() {
    let text = r#"
{"id":"apache-service","kind":"Service","apiVersion":"v1beta1","port":12345,"containerPort":80,"selector":{"name":"apache"}}
{"id":"apache-service","kind":"Endpoints","apiVersion":"v1beta1","endpoints":["173.194.112.206:80", "[fd00::1]:80", "173.194.112.207:81"]}
{"id":"dns","kind":"Service","apiVersion":"v1beta1","port":53,"protocol":"udp","portalIP":"10.0.0.10","publicIPs":["80.11.12.10"],"createExternalLoadBalancer":true,"sessionAffinity":"ClientIP"}
{"id":"dns","kind":"Endpoints","apiVersion":"v1beta1","endpoints":["10.1.1.1:53"]}
"#;
    let objects = read_valid(text);
    let apache = &objects.services[&key("apache-service")];
    assert_eq!((apache.cluster_ip_text.as_deref(), apache.ports[0].port), (Some("10.11.0.1"), 12_345));
    let all: Vec<Vec<String>> = objects.slices.values().map(backends).collect();
    assert_eq!(
        all,
        [vec![" 173.194.112.206:80"], vec![" fd00::1:80"], vec![" 173.194.112.207:81"], vec![" 10.1.1.1:53"]]
    );
    let dns = &objects.services[&key("dns")];
    assert_eq!((dns.ports[0].protocol, dns.affinity_s), (Protocol::Udp, Some(10_800)));
    assert_eq!(dns.external_ips.len(), 1);
    let dns_slice = slice_of(&objects, "dns-endpoints-0");
    assert_eq!(
        dns_slice.ports[0].protocol,
        Protocol::Udp,
        "v1beta1 Endpoints have the protocol of their service"
    );
}

#[test]
fn v1beta1_errors_have_v1beta1_field_names() {
    let text = r#"
{"id":"a","kind":"Service","apiVersion":"v1beta1","port":0,"containerPort":"x_y","portalIP":"x","publicIPs":["y"],"protocol":"foo","createExternalLoadBalancer":1}
{"id":"B","kind":"Service","apiVersion":"v1beta1"}
{"id":"c","kind":"Endpoints","apiVersion":"v1beta1","endpoints":["1.2.3.4", "127.0.0.1:80", "1.2.3.4:0"]}
"#;
    let expected = [
        "createExternalLoadBalancer: 1 is not true or false",
        "portalIP: \"x\" is not an IP address",
        "protocol: \"FOO\" is not one of TCP, UDP, SCTP",
        "port: 0 is not a port from 1 to 65535",
        "containerPort: \"x_y\" is not a port name: at most 15 characters of a-z, 0-9 and single '-', with at least one letter",
        "publicIPs[0]: \"y\" is not an IP address",
        &format!("id: \"B\" is not {}", crate::objects::validate::DNS_LABEL),
        "port: missing: must be a port from 1 to 65535",
        "endpoints[0]: \"1.2.3.4\" is not address:port; skipped",
        "endpoints[1]: 127.0.0.1 is a loopback address and cannot be an endpoint; skipped",
        "endpoints[2]: \"1.2.3.4:0\" is not address:port; skipped",
    ];
    assert_eq!(messages(text), expected);
}

#[test]
fn slice_with_more_endpoints_than_an_api_server_allows_is_rejected() {
    let endpoints = |count| format!("endpoints: [{}]", vec!["{addresses: [10.1.0.1]}"; count].join(", "));
    assert_eq!(read_valid(&slice_text(&endpoints(1_000))).slices.len(), 1);
    assert_eq!(
        messages(&slice_text(&endpoints(1_001))),
        ["endpoints: 1001 entries: a slice has at most 1000"]
    );
}

#[test]
fn subset_with_a_duplicate_port_name_keeps_the_first() {
    let text = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: db}\nsubsets:\n- addresses: [{ip: 10.1.0.1}]\n  ports: [{port: 1}, {port: 2}, {port: 2, protocol: UDP}]\n";
    let (objects, _) = read_text(text);
    let slice = objects.slices.values().next().unwrap();
    let ports: Vec<u16> = slice.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [1, 2]);
    assert_eq!(messages(text), ["subsets[0].ports[1]: duplicate TCP port name; skipped"]);
}
