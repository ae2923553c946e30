//! Tests of the assignment of cluster IPs, and of addresses and node ports that two services claim.
//!
//! Also tests of nodes and service ranges. Errors within one service are tested in `services`.

use super::{key, lines, messages, read_text, read_valid};
use crate::{Objects, ReadOptions, Report, read_str};
use proxy_core::service::ServiceKey;

fn service(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 1}}]{spec}}}\n"
    )
}

fn read_with(nets: &[&str], text: &str) -> (Objects, Report) {
    let portal_nets = nets.iter().map(|net| net.parse().unwrap()).collect();
    read_str("a.yaml", text, &ReadOptions { portal_nets })
}

fn addresses(objects: &Objects, name: &str) -> Vec<String> {
    objects.services[&key(name)].cluster_ips.iter().map(|address| address.to_string()).collect()
}

#[test]
fn first_free_address_is_assigned_to_the_first_name() {
    let text = service("b", "") + &service("a", "") + &service("c", ", clusterIP: 10.11.0.2");
    let objects = read_valid(&text);
    assert_eq!(addresses(&objects, "a"), ["10.11.0.1"]);
    assert_eq!(addresses(&objects, "b"), ["10.11.0.3"]);
    assert_eq!(objects.services[&key("a")].cluster_ip_text.as_deref(), Some("10.11.0.1"));
}

#[test]
fn addresses_are_assigned_by_namespace_and_then_by_name() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: w}\nspec: {ports: [{port: 1}]}\n---\n\
                apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: v}\nspec: {ports: [{port: 1}]}\n";
    let objects = read_valid(text);
    let of = |namespace, name| objects.services[&ServiceKey::new(namespace, name)].cluster_ip_text.clone();
    assert_eq!((of("v", "b").as_deref(), of("w", "a").as_deref()), (Some("10.11.0.1"), Some("10.11.0.2")));
}

#[test]
fn network_and_broadcast_addresses_are_not_assigned() {
    let text: String = ["a", "b", "c"].iter().map(|name| service(name, "")).collect();
    let (objects, report) = read_with(&["10.0.0.0/30"], &text);
    assert_eq!(
        (addresses(&objects, "a"), addresses(&objects, "b")),
        (vec!["10.0.0.1".into()], vec!["10.0.0.2".into()])
    );
    assert_eq!(
        lines(&report),
        [
            "a.yaml:12: document 3: Service default/c: failed to assign an IPv4 address: portal net 10.0.0.0/30 is exhausted"
        ]
    );
    assert!(!objects.services.contains_key(&key("c")));
}

#[test]
fn second_portal_net_is_used_once_the_first_is_exhausted() {
    let text: String = ["a", "b", "c"].iter().map(|name| service(name, "")).collect();
    let (objects, _) = read_with(&["10.0.0.0/30", "10.2.0.0/24"], &text);
    assert_eq!(addresses(&objects, "c"), ["10.2.0.1"]);
}

#[test]
fn portal_net_can_have_any_size() {
    for (net, expected) in
        [("0.0.0.0/0", Some("0.0.0.1")), ("::/0", Some("::1")), ("10.0.0.0/32", None), ("fd00::1/128", None)]
    {
        let (objects, report) = read_with(&[net], &service("a", ""));
        let assigned = objects.services.get(&key("a")).and_then(|service| service.cluster_ip_text.clone());
        assert_eq!(assigned.as_deref(), expected, "{net}");
        assert_eq!(report.has_errors(), expected.is_none(), "{net}");
    }
}

#[test]
fn ip_families_and_policy_select_the_families() {
    let nets = ["10.0.0.0/8", "fd00::/64"];
    let of = |spec: &str| {
        let (objects, report) = read_with(&nets, &service("a", spec));
        assert_eq!(lines(&report), Vec::<String>::new());
        (addresses(&objects, "a"), objects.services[&key("a")].cluster_ip_text.clone().unwrap().to_string())
    };
    assert_eq!(of(""), (vec!["10.0.0.1".into()], "10.0.0.1".into()));
    assert_eq!(of(", ipFamilies: [IPv6]"), (vec!["fd00::1".into()], "fd00::1".into()));
    let both = vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()];
    assert_eq!(of(", ipFamilyPolicy: PreferDualStack"), (both.clone(), "10.0.0.1".into()));
    assert_eq!(
        of(", ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6]"),
        (both.clone(), "fd00::1".into())
    );
    assert_eq!(of(", ipFamilyPolicy: RequireDualStack, clusterIP: 10.0.0.1"), (both, "10.0.0.1".into()));
}

#[test]
fn missing_portal_net_of_a_second_family_is_an_error_only_if_the_family_is_required() {
    let prefer = ", ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4, IPv6]";
    assert_eq!(addresses(&read_valid(&service("a", prefer)), "a"), ["10.11.0.1"]);
    assert_eq!(
        messages(&service("a", ", ipFamilyPolicy: RequireDualStack")),
        ["failed to assign an IPv6 address: no portal net of this family"]
    );
    assert_eq!(
        messages(&service("a", ", ipFamilies: [IPv6]")),
        ["failed to assign an IPv6 address: no portal net of this family"]
    );
}

#[test]
fn address_with_leading_zeros_is_accepted_and_its_text_is_kept() {
    let objects = read_valid(&service("a", ", clusterIP: 172.30.0.041"));
    assert_eq!(addresses(&objects, "a"), ["172.30.0.41"]);
    assert_eq!(objects.services[&key("a")].cluster_ip_text.as_deref(), Some("172.30.0.041"));
}

#[test]
fn first_of_two_services_with_the_same_address_is_kept() {
    let text = service("b", ", clusterIP: 10.0.0.1") + &service("a", ", clusterIP: 10.0.0.01");
    let (objects, report) = read_text(&text);
    assert!(objects.services.contains_key(&key("b")));
    assert_eq!(
        lines(&report),
        [
            "a.yaml:7: document 2: Service default/a: spec.clusterIP: 10.0.0.1 is already used by service default/b"
        ]
    );
}

#[test]
fn first_of_two_services_with_the_same_node_port_is_kept() {
    let spec = |protocol: &str| {
        format!("type: NodePort, ports: [{{port: 1, nodePort: 30001, protocol: {protocol}}}]")
    };
    let service = |name: &str, spec: &str| {
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
    };
    let text = service("c", &spec("TCP")) + &service("b", &spec("UDP")) + &service("a", &spec("TCP"));
    let (objects, report) = read_text(&text);
    assert_eq!(objects.services.len(), 2);
    assert_eq!(
        lines(&report),
        [
            "a.yaml:12: document 3: Service default/a: spec.ports: node port 30001/TCP is already used by service default/c"
        ]
    );
}

#[test]
fn later_of_two_objects_with_the_same_name_is_kept() {
    let text = service("a", ", clusterIP: 10.0.0.1") + &service("a", ", clusterIP: 10.0.0.2");
    let (objects, report) = read_text(&text);
    assert_eq!(addresses(&objects, "a"), ["10.0.0.2"]);
    assert_eq!(
        lines(&report),
        ["warning: a.yaml:7: document 2: Service default/a: replaces the object at a.yaml:2: document 1"]
    );
}

#[test]
fn service_ranges_come_from_all_service_cidrs() {
    let cidr = |version: &str, name: &str, nets: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/{version}\nkind: ServiceCIDR\nmetadata: {{name: {name}}}\nspec: {{cidrs: [{nets}]}}\n"
        )
    };
    let text = cidr("v1", "a", "10.96.0.0/12, 'fd00::/108'") + &cidr("v1beta1", "b", "10.0.0.0/24");
    let objects = read_valid(&text);
    let ranges: Vec<String> = objects.service_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.96.0.0/12", "fd00::/108", "10.0.0.0/24"]);
    assert_eq!(objects.snapshot().service_ranges().len(), 3);
    assert_eq!(messages(&cidr("v1", "a", "x")), ["spec.cidrs[0]: \"x\" is not a CIDR such as 10.0.0.0/8"]);
}

#[test]
fn node_has_its_internal_addresses_or_else_the_external_ones_per_family() {
    let text = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
status:
  addresses:
  - {type: ExternalIP, address: 8.8.8.8}
  - {type: Hostname, address: n1}
  - {type: InternalIP, address: 10.240.0.5}
  - {type: InternalIP, address: 10.240.0.6}
  - {type: ExternalIP, address: '2001:db8::5'}
";
    let node = &read_valid(text).nodes["n1"];
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        (&*node.zone, addresses),
        ("z1", vec!["10.240.0.5".into(), "10.240.0.6".into(), "2001:db8::5".into()])
    );
}
