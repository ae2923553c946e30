//! Services whose endpoints are pods.
//!
//! The claims are those of the endpointslice controller, for services that have a selector and neither slice
//! nor Endpoints.

use super::{backends, clean, key, lines, read_text};
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

fn all(objects: &Objects) -> Vec<String> {
    objects.slices.values().flat_map(backends).collect()
}

#[test]
fn a_service_has_the_ready_pods_with_its_labels() {
    let text = SERVICE.to_owned()
        + &pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"))
        + &pod("b", "", "", "podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]")
        + &pod("c", ", namespace: other", "", &format!("podIP: 10.0.0.3, {READY}"))
        + &pod("d", "", "", &format!("podIP: 10.0.0.4, phase: Succeeded, {READY}"))
        + &pod("e", "", "", "podIP: 10.0.0.5, phase: Failed")
        + &pod("f", "", "", &format!("podIP: 10.0.0.6, {READY}")).replace("app: db", "app: web");
    let objects = clean(&text);
    assert_eq!(all(&objects), ["sql 10.0.0.1:5432", "sql 10.0.0.2:5432 not ready"]);
    let slice = objects.slices.values().next().unwrap();
    assert_eq!((&slice.service, slice.endpoints[0].node.as_deref()), (&key("db"), Some("n1")));
    assert_eq!(&*slice.key.name, "db-pods-0");
}

#[test]
fn all_labels_of_the_selector_must_match() {
    let service = SERVICE.replace("{app: db}", "{app: db, tier: x}");
    let text = service
        + &pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"))
        + &pod("b", "", "", &format!("podIP: 10.0.0.2, {READY}")).replace("app: db", "app: db, tier: x");
    assert_eq!(all(&clean(&text)), ["sql 10.0.0.2:5432"]);
}

#[test]
fn a_pod_on_its_way_out_is_terminating_and_serves_while_it_is_ready() {
    let deleted = ", deletionTimestamp: '2026-01-01T00:00:00Z'";
    let text = SERVICE.to_owned() + &pod("a", deleted, "", &format!("podIP: 10.0.0.1, {READY}"));
    let objects = clean(&text);
    let conditions = objects.slices.values().next().unwrap().endpoints[0].conditions;
    assert_eq!(conditions, Conditions { ready: false, serving: true, terminating: true });
}

#[test]
fn pods_that_are_not_ready_count_as_ready_where_the_service_says_so() {
    let service = SERVICE.replace("spec: {", "spec: {publishNotReadyAddresses: true, ");
    let objects = clean(&(service + &pod("a", "", "", "podIP: 10.0.0.1")));
    let conditions = objects.slices.values().next().unwrap().endpoints[0].conditions;
    assert_eq!(conditions, Conditions { ready: true, serving: false, terminating: false });
}

#[test]
fn a_named_port_is_looked_up_on_each_pod_with_its_protocol() {
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
    let objects = clean(&text);
    assert_eq!(all(&objects), ["sql 10.0.0.4:7", "sql 10.0.0.1:5432", "sql 10.0.0.2:5433"]);
    assert_eq!(objects.slices.len(), 3);
}

#[test]
fn a_pod_without_one_of_the_named_ports_keeps_the_others() {
    let service =
        SERVICE.replace("targetPort: 5432}", "targetPort: 5432}, {name: m, port: 2, targetPort: met}");
    let (objects, report) = read_text(&(service + &pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"))));
    assert_eq!(all(&objects), ["sql 10.0.0.1:5432"]);
    assert_eq!(
        lines(&report),
        [
            "warning: a.yaml:2: document 1: Service default/db: spec.ports[1].targetPort: no pod that the service \
          selects has a TCP port named met"
        ]
    );
}

#[test]
fn without_a_target_port_the_pods_have_the_port_of_the_service() {
    let service = SERVICE.replace(", targetPort: 5432", "");
    let text = service + &pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"));
    assert_eq!(all(&clean(&text)), ["sql 10.0.0.1:80"]);
}

#[test]
fn the_families_of_the_service_decide_which_addresses_of_a_pod_count() {
    let service = SERVICE.replace("spec: {", "spec: {clusterIPs: [10.9.9.9, 'fd99::9'], ");
    let text =
        service + &pod("a", "", "", &format!("podIPs: [{{ip: 'fd00::1'}}, {{ip: 10.0.0.1}}], {READY}"));
    assert_eq!(all(&clean(&text)), ["sql 10.0.0.1:5432", "sql fd00::1:5432"]);
}

#[test]
fn a_selected_pod_without_an_address_is_named() {
    let bare = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: x, labels: {app: db}}\n";
    let text =
        SERVICE.to_owned() + bare + &pod("w", "", "", "podIP: ''") + &pod("z", "", "", "podIP: 127.0.0.1");
    let (objects, report) = read_text(&text);
    assert!(objects.slices.is_empty());
    let why = "no endpoint of service default/db, which selects it: ";
    assert_eq!(
        lines(&report),
        [
            "warning: a.yaml:17: document 4: Pod default/z: status.podIP: 127.0.0.1 is a loopback address, which no \
             endpoint may have; skipped"
                .to_owned(),
            format!("warning: a.yaml:11: document 3: Pod default/w: {why}its status has no podIP that an endpoint may have"),
            format!("warning: a.yaml:7: document 2: Pod default/x: {why}it has no status, so no address"),
            format!("warning: a.yaml:17: document 4: Pod default/z: {why}its status has no podIP that an endpoint may have"),
        ]
    );
    assert_eq!(lines(&read_text(bare).1), Vec::<String>::new(), "no service selects it");
}

#[test]
fn pods_do_not_count_beside_endpoints_slices_or_for_headless_services() {
    let pod = pod("a", "", "", &format!("podIP: 10.0.0.1, {READY}"));
    let endpoints = "---\napiVersion: v1\nkind: Endpoints\nmetadata: {name: db}\nsubsets: []\n";
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: \
                 {kubernetes.io/service-name: db}}\naddressType: IPv4\n";
    for other in [endpoints, slice] {
        assert_eq!(all(&clean(&(SERVICE.to_owned() + &pod + other))), Vec::<String>::new());
    }
    let headless = SERVICE.replace("spec: {", "spec: {clusterIP: None, ");
    assert_eq!(all(&clean(&(headless + &pod))), Vec::<String>::new());
}

#[test]
fn many_services_that_select_many_pods_end() {
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
    let message = "select pods: too many services select too many pods; give it endpoints";
    assert!(report.problems.iter().any(|problem| problem.message == message));
}
