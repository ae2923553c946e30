//! Tests of endpoints derived from pods.
//!
//! The results are those of the endpointslice controller, for services that have a selector and neither slices nor
//! Endpoints.

use super::{backends, key, lines, read_text, read_valid};
use crate::Objects;
use proxy_core::endpoint::Conditions;

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{name: sql, port: 80, targetPort: 5432}]}
";

const READY: &str = "conditions: [{type: Ready, status: 'True'}]";

fn pod(name: &str, meta: &str, spec: &str, status: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: db}}{meta}}}\nspec: {{nodeName: n1{spec}}}\n\
         status: {{{status}}}\n"
    )
}

fn all_backends(objects: &Objects) -> Vec<String> {
    objects.slices.values().flat_map(backends).collect()
}

#[test]
fn service_endpoints_are_the_running_pods_that_match_its_selector() {
    let text = SERVICE.to_owned()
        + &pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"))
        + &pod("b", "", "", "podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]")
        + &pod("c", ", namespace: other", "", &format!("podIP: 10.0.0.3, {READY}"))
        + &pod("d", "", "", &format!("podIP: 10.0.0.4, phase: Succeeded, {READY}"))
        + &pod("e", "", "", "podIP: 10.0.0.5, phase: Failed")
        + &pod("f", "", "", &format!("podIP: 10.0.0.6, {READY}")).replace("app: db", "app: web");
    let objects = read_valid(&text);
    assert_eq!(all_backends(&objects), ["sql 10.0.0.1:5432", "sql 10.0.0.2:5432 not ready"]);
    let slice = objects.slices.values().next().unwrap();
    assert_eq!((&slice.service, slice.endpoints[0].node.as_deref()), (&key("db"), Some("n1")));
    assert_eq!(&*slice.key.name, "db-pods-0");
}

#[test]
fn pod_must_match_all_labels_of_the_selector() {
    let service = SERVICE.replace("{app: db}", "{app: db, tier: x}");
    let text = service
        + &pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"))
        + &pod("b", "", "", &format!("podIP: 10.0.0.2, {READY}")).replace("app: db", "app: db, tier: x");
    assert_eq!(all_backends(&read_valid(&text)), ["sql 10.0.0.2:5432"]);
}

#[test]
fn deleted_pod_is_terminating_and_serving_while_ready() {
    let deleted = ", deletionTimestamp: '2026-01-01T00:00:00Z'";
    let text = SERVICE.to_owned() + &pod("a", deleted, "", &format!("podIP: 10.0.0.1, {READY}"));
    let objects = read_valid(&text);
    let conditions = objects.slices.values().next().unwrap().endpoints[0].conditions;
    assert_eq!(conditions, Conditions { ready: false, serving: true, terminating: true });
}

#[test]
fn publish_not_ready_addresses_makes_unready_pods_ready() {
    let service = SERVICE.replace("spec: {", "spec: {publishNotReadyAddresses: true, ");
    let objects = read_valid(&(service + &pod("a", "", "", "podIP: 10.0.0.1")));
    let conditions = objects.slices.values().next().unwrap().endpoints[0].conditions;
    assert_eq!(conditions, Conditions { ready: true, serving: false, terminating: false });
}

#[test]
fn named_target_port_is_resolved_per_pod_and_protocol() {
    let service = SERVICE.replace("targetPort: 5432", "targetPort: sql");
    let container = |ports: &str| format!(", containers: [{{name: c, ports: [{ports}]}}]");
    let sidecar = |policy: &str| {
        format!(", initContainers: [{{restartPolicy: {policy}, ports: [{{name: sql, containerPort: 7}}]}}]")
    };
    let status = |n: u8| format!("podIP: 10.0.0.{n}, {READY}");
    let text = service
        + &pod("a", "", &container("{name: sql, containerPort: 5432}"), &status(1))
        + &pod("b", "", &container("{name: sql, containerPort: 5433}"), &status(2))
        + &pod("c", "", &container("{name: sql, containerPort: 5432, protocol: UDP}"), &status(3))
        + &pod("d", "", &sidecar("Always"), &status(4))
        + &pod("e", "", &sidecar("Never"), &status(5));
    let objects = read_valid(&text);
    assert_eq!(all_backends(&objects), ["sql 10.0.0.4:7", "sql 10.0.0.1:5432", "sql 10.0.0.2:5433"]);
    assert_eq!(objects.slices.len(), 3);
}

#[test]
fn pod_without_one_of_the_named_ports_keeps_the_others() {
    let service =
        SERVICE.replace("targetPort: 5432}", "targetPort: 5432}, {name: m, port: 2, targetPort: met}");
    let (objects, report) = read_text(&(service + &pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"))));
    assert_eq!(all_backends(&objects), ["sql 10.0.0.1:5432"]);
    assert_eq!(
        lines(&report),
        ["warning: a.yaml:2: document 1: Service default/db: spec.ports[1].targetPort: no selected pod \
          has a TCP port named met"]
    );
}

#[test]
fn target_port_defaults_to_the_service_port() {
    let service = SERVICE.replace(", targetPort: 5432", "");
    let text = service + &pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"));
    assert_eq!(all_backends(&read_valid(&text)), ["sql 10.0.0.1:80"]);
}

#[test]
fn pod_addresses_are_used_for_the_ip_families_of_the_service() {
    let service = SERVICE.replace("spec: {", "spec: {clusterIPs: [10.9.9.9, 'fd99::9'], ");
    let text =
        service + &pod("a", "", "", &format!("podIPs: [{{ip: 'fd00::1'}}, {{ip: 10.0.0.1}}], {READY}"));
    assert_eq!(all_backends(&read_valid(&text)), ["sql 10.0.0.1:5432", "sql fd00::1:5432"]);
}

#[test]
fn selected_pod_without_an_address_is_reported() {
    let bare = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: x, labels: {app: db}}\n";
    let text =
        SERVICE.to_owned() + bare + &pod("w", "", "", "podIP: ''") + &pod("z", "", "", "podIP: 127.0.0.1");
    let (objects, report) = read_text(&text);
    assert!(objects.slices.is_empty());
    let why = "not an endpoint of service default/db, which selects it: ";
    assert_eq!(
        lines(&report),
        [
            "warning: a.yaml:17: document 4: Pod default/z: status.podIP: 127.0.0.1 is a loopback address and \
             cannot be an endpoint; skipped"
                .to_owned(),
            format!("warning: a.yaml:11: document 3: Pod default/w: {why}its status has no usable podIP"),
            format!("warning: a.yaml:7: document 2: Pod default/x: {why}it has no status and therefore no address"),
            format!("warning: a.yaml:17: document 4: Pod default/z: {why}its status has no usable podIP"),
        ]
    );
    assert_eq!(lines(&read_text(bare).1), Vec::<String>::new(), "no service selects it");
}

#[test]
fn pods_are_ignored_if_the_service_has_endpoints_or_slices() {
    let pod = pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"));
    let endpoints = "---\napiVersion: v1\nkind: Endpoints\nmetadata: {name: db}\nsubsets: []\n";
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: \
                 {kubernetes.io/service-name: db}}\naddressType: IPv4\n";
    for other in [endpoints, slice] {
        assert_eq!(all_backends(&read_valid(&(SERVICE.to_owned() + &pod + other))), Vec::<String>::new());
    }
}

#[test]
fn pods_of_a_headless_service_are_endpoints_in_the_families_of_the_service() {
    let pod = pod("a", "", "", &format!("podIPs: [{{ip: 'fd00::1'}}, {{ip: 10.0.0.1}}], {READY}"));
    let cases: [(&str, &[&str]); 5] = [
        ("", &["sql fd00::1:5432"]),
        ("ipFamilies: [IPv4], ", &["sql 10.0.0.1:5432"]),
        ("ipFamilies: [IPv6], ", &["sql fd00::1:5432"]),
        ("ipFamilyPolicy: PreferDualStack, ", &["sql 10.0.0.1:5432", "sql fd00::1:5432"]),
        ("ipFamilies: [IPv6, IPv4], ", &["sql 10.0.0.1:5432", "sql fd00::1:5432"]),
    ];
    for (families, expected) in cases {
        let service = SERVICE.replace("spec: {", &format!("spec: {{clusterIP: None, {families}"));
        assert_eq!(all_backends(&read_valid(&(service + &pod))), expected, "{families}");
    }
}

#[test]
fn pod_without_the_ports_of_a_headless_service_is_an_endpoint() {
    let spec = |ports: &str| format!("spec: {{clusterIP: None, selector: {{app: db}}{ports}}}\n");
    let head = "---\napiVersion: v1\nkind: Service\nmetadata: {name: db}\n";
    let pod = pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"));
    for ports in ["", ", ports: [{port: 80, targetPort: web}]"] {
        let (objects, _) = read_text(&format!("{head}{}{pod}", spec(ports)));
        let slices: Vec<_> = objects.slices.values().collect();
        assert_eq!((slices.len(), slices[0].ports.len(), slices[0].endpoints.len()), (1, 0, 1), "{ports}");
    }
}

#[test]
fn pod_of_an_external_name_is_not_an_endpoint() {
    let service = SERVICE.replace("spec: {", "spec: {type: ExternalName, externalName: db.example.com, ");
    let pod = pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"));
    assert_eq!(all_backends(&read_valid(&(service + &pod))), Vec::<String>::new());
}

#[test]
fn pod_has_a_host_name_only_if_its_subdomain_is_the_service() {
    for (spec, expected) in [
        (", hostname: db-0, subdomain: db", Some("db-0")),
        (", hostname: db-0, subdomain: other", None),
        (", hostname: db-0", None),
        (", subdomain: db", None),
    ] {
        let text = SERVICE.to_owned() + &pod("a", "", spec, &format!("podIP: 10.0.0.1, {READY}"));
        let objects = read_valid(&text);
        let endpoint = &objects.slices.values().next().unwrap().endpoints[0];
        assert_eq!(endpoint.hostname.as_deref(), expected, "{spec}");
    }
}

#[test]
fn pod_is_in_the_zone_of_its_node() {
    let node =
        "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}\n";
    let text = SERVICE.to_owned() + &pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"));
    let zone = |text: &str| {
        let objects = read_valid(text);
        objects.slices.values().next().unwrap().endpoints[0].zone.clone()
    };
    assert_eq!(zone(&text), None);
    assert_eq!(zone(&(text + node)).as_deref(), Some("z1"));
}

#[test]
fn pod_selection_of_many_services_and_pods_is_bounded() {
    let mut text = String::new();
    for n in 0..1500 {
        text += &format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{n}}}, spec: {{selector: {{a: b}}, ports: [{{port: 1}}]}}}}\n---\n"
        );
        text += &format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{n}, labels: {{a: b}}}}, status: {{}}}}\n---\n"
        );
    }
    let (_, report) = read_text(&text);
    let message = "failed to select pods: too many services and pods; add an EndpointSlice";
    assert!(report.problems.iter().any(|problem| problem.message == message));
}
