//! Tests of Service objects: valid fields, defaults, and rejected values.
//!
//! Rejections are tested with the whole message, because users see only the message. Rules that involve several objects
//! are tested in `addresses`.

use super::{key, lines, messages, read_text, read_valid, service_of, with_spec};
use proxy_core::address::Family;
use proxy_core::service::{ClusterIps, Dial, Export, Mode, Protocol, Scheduler, TrafficPolicy};

#[test]
fn missing_fields_get_the_defaults_of_the_api_server() {
    let service = service_of("  clusterIP: 10.0.0.11\n  ports: [{port: 6379}]");
    assert_eq!(service.key, key("db"));
    assert_eq!(service.cluster_ips, ClusterIps::One("10.0.0.11".parse().unwrap()));
    assert_eq!(service.cluster_ip_text.as_deref(), Some("10.0.0.11"));
    let port = &service.ports[0];
    assert_eq!((&*port.name, port.protocol, port.port, port.node_port), ("", Protocol::Tcp, 6379, None));
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
    assert_eq!(service.external_policy, TrafficPolicy::Cluster);
    assert_eq!((service.affinity_s, service.has_portals, service.mode), (None, true, None));
}

#[test]
fn session_affinity_timeout_defaults_to_three_hours() {
    let spec = "  ports: [{port: 80}]\n  sessionAffinity: ClientIP";
    assert_eq!(service_of(spec).affinity_s, Some(10_800));
    let timed = format!("{spec}\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: 86400}}}}");
    assert_eq!(service_of(&timed).affinity_s, Some(86_400));
}

#[test]
fn session_affinity_config_is_ignored_without_session_affinity() {
    let spec = "  ports: [{port: 80}]\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}";
    assert_eq!(service_of(spec).affinity_s, None);
}

#[test]
fn headless_service_has_no_address_and_needs_no_port() {
    for spec in ["  clusterIP: None", "  clusterIP: None\n  clusterIPs: [None]", "  clusterIPs: [None]"] {
        let service = service_of(spec);
        assert_eq!((service.cluster_ips, service.cluster_ip_text), (ClusterIps::Headless, None), "{spec}");
    }
}

#[test]
fn external_name_has_no_portals() {
    let service = service_of("  type: ExternalName\n  externalName: my.database.example.com.");
    assert_eq!((service.cluster_ips, service.has_portals), (ClusterIps::Headless, false));
}

#[test]
fn service_of_another_proxy_has_an_address_but_no_portals() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: db\n  labels: \
                {service.kubernetes.io/service-proxy-name: ''}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 1}]}";
    let service = &read_valid(text).services[&key("db")];
    assert!(!service.has_portals);
    assert!(service.cluster_ips.of(Family::V4).is_some());
}

#[test]
fn mode_annotation_with_an_unknown_value_is_ignored_with_a_warning() {
    let text = |mode: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: db, annotations: {{portico.dev/mode: {mode}}}}}\n\
             spec: {{ports: [{{port: 1}}]}}"
        )
    };
    assert_eq!(read_valid(&text("relay")).services[&key("db")].mode, Some(Mode::Relay));
    assert_eq!(read_valid(&text("kernel")).services[&key("db")].mode, Some(Mode::Kernel));
    let (objects, report) = read_text(&text("fast"));
    assert_eq!(objects.services[&key("db")].mode, None);
    assert_eq!(
        lines(&report),
        [
            "warning: a.yaml:1: document 1: Service default/db: metadata.annotations.portico.dev/mode: \"fast\" is \
          not one of kernel, relay; ignored"
        ]
    );
}

#[test]
fn scheduler_annotation_with_an_unknown_value_is_ignored_with_a_warning() {
    let text = |annotations: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: db, annotations: {{{annotations}}}}}\n\
             spec: {{ports: [{{port: 1}}]}}"
        )
    };
    for scheduler in Scheduler::ALL {
        let text = text(&format!("portico.dev/scheduler: {}", scheduler.name()));
        assert_eq!(read_valid(&text).services[&key("db")].scheduler, Some(scheduler));
    }
    let warning = |annotations: &str| {
        let (objects, report) = read_text(&text(annotations));
        let [line] = &lines(&report)[..] else { panic!("{:?}", lines(&report)) };
        let warning = line.strip_prefix(
            "warning: a.yaml:1: document 1: Service default/db: metadata.annotations.portico.dev/",
        );
        (
            objects.services[&key("db")].scheduler,
            warning.expect("the warning names the annotation").to_owned(),
        )
    };
    let expected = "scheduler: \"wrr\" is not one of random, rr, lc, dh, sh, sed, nq; ignored";
    assert_eq!(warning("portico.dev/scheduler: wrr"), (None, expected.to_owned()));
    let expected = "mode: \"kernel\" is not supported with scheduler lc; ignored";
    let both = "portico.dev/mode: kernel, portico.dev/scheduler: lc";
    assert_eq!(warning(both), (Some(Scheduler::LeastConnection), expected.to_owned()));
}

#[test]
fn dial_and_hold_are_parsed_and_an_invalid_duration_is_ignored_with_a_warning() {
    let of = |annotations: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: db, annotations: {{{annotations}}}}}\n\
             spec: {{ports: [{{port: 1}}]}}"
        );
        let (objects, report) = read_text(&text);
        let service = &objects.services[&key("db")];
        (service.dial, service.hold_ms, lines(&report))
    };
    assert_eq!(of("a: b"), (Dial::Pod, None, Vec::new()));
    for (name, dial) in Dial::NAMES {
        assert_eq!(of(&format!("portico.dev/dial: {name}")), (dial, None, Vec::new()));
    }
    for (text, hold_ms) in [("500ms", 500), ("10s", 10_000), ("5m", 300_000)] {
        assert_eq!(of(&format!("portico.dev/hold: {text}")), (Dial::Pod, Some(hold_ms), Vec::new()));
    }
    assert_eq!(of("portico.dev/hold: 0s"), (Dial::Pod, None, Vec::new()));
    for text in ["6m", "301s", "10", "s", "1h", "-1s", "4294967296s"] {
        let (_, hold_ms, warnings) = of(&format!("portico.dev/hold: '{text}'"));
        assert_eq!((hold_ms, warnings.len()), (None, 1), "{text}: {warnings:?}");
        let expected = format!(
            "portico.dev/hold: \"{text}\" is not a duration such as 10s, 500ms or 2m, at most 300s; ignored"
        );
        assert!(warnings[0].ends_with(&expected), "{}", warnings[0]);
    }
}

#[test]
fn export_annotation_names_namespaces_and_invalid_names_are_ignored_with_a_warning() {
    let of = |text: &str| {
        let head = "apiVersion: v1\nkind: Service\nmetadata: {name: db";
        read_text(&format!(
            "{head}, annotations: {{portico.dev/export: '{text}'}}}}\nspec: {{ports: [{{port: 1}}]}}"
        ))
    };
    let cases = [
        ("true", Export::Everywhere),
        ("false", Export::Nowhere),
        (" team-a , b", Export::To(vec!["team-a".into(), "b".into()])),
        ("team-a, B C", Export::To(vec!["team-a".into()])),
        ("", Export::To(vec![])),
    ];
    for (text, expected) in cases {
        let (objects, report) = of(text);
        assert_eq!(objects.services[&key("db")].export, expected, "{text}");
        let warned =
            lines(&report).iter().any(|line| line.contains("metadata.annotations.portico.dev/export"));
        assert_eq!(warned, text.contains("B C") || text.is_empty(), "{text}");
    }
    assert!(!of("false").0.services[&key("db")].is_offered_to("other"));
}

#[test]
fn load_balancer_ips_are_those_at_which_traffic_keeps_its_destination() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {type: LoadBalancer, ports: [{port: 1}], loadBalancerSourceRanges: [' 10.1.2.3/8 ', 0.0.0.0/0]}
status:
  loadBalancer:
    ingress:
    - {ip: 146.148.47.155}
    - {ip: 10.0.0.9, ipMode: VIP}
    - {ip: 10.0.0.8, ipMode: Proxy}
    - {hostname: lb.example.com}
    - {ip: nonsense}
    - {ip: 127.0.0.1}
    - {ip: 169.254.169.254}
";
    let (objects, report) = read_text(text);
    let service = &objects.services[&key("db")];
    let addresses: Vec<String> = service.load_balancer_ips.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.9", "146.148.47.155"]);
    let ranges: Vec<String> = service.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "0.0.0.0/0"]);
    assert_eq!(
        lines(&report),
        [
            "warning: a.yaml:2: document 1: Service default/db: status.loadBalancer.ingress[4].ip: \"nonsense\" is \
          not an IP address; skipped",
            "warning: a.yaml:2: document 1: Service default/db: status.loadBalancer.ingress[5].ip: \"127.0.0.1\" is \
          a loopback address, which is not allowed; skipped",
            "warning: a.yaml:2: document 1: Service default/db: status.loadBalancer.ingress[6].ip: \
          \"169.254.169.254\" is a link-local address, which is not allowed; skipped",
        ]
    );
}

#[test]
fn node_port_service_has_policies_external_ips_and_node_ports() {
    let service = service_of(
        "  type: NodePort\n  externalTrafficPolicy: Local\n  internalTrafficPolicy: Local\n  externalIPs: \
         [80.11.12.10]\n  ports: [{port: 8065, nodePort: 30065, targetPort: http}]",
    );
    assert_eq!(service.ports[0].node_port, Some(30_065));
    assert_eq!(service.external_policy, TrafficPolicy::Local);
    assert_eq!(service.internal_policy, TrafficPolicy::Local);
    assert_eq!(service.external_ips, ["80.11.12.10".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn load_balancer_service_with_external_policy_local_has_a_health_check_node_port() {
    let spec = "  type: LoadBalancer\n  externalTrafficPolicy: Local\n  ports: [{port: 80}]\n";
    assert_eq!(
        service_of(&format!("{spec}  healthCheckNodePort: 31234")).health_check_node_port,
        Some(31_234)
    );
    assert_eq!(service_of(&format!("{spec}  healthCheckNodePort: 0")).health_check_node_port, None);
    assert_eq!(service_of(spec).health_check_node_port, None);
}

/// Specs that every API server rejects, with the message.
const REJECTED: &[(&str, &str)] = &[
    ("  type: ClusterIP", "spec.ports: missing: a service that is not headless needs at least one port"),
    ("  ports: []", "spec.ports: missing: a service that is not headless needs at least one port"),
    ("  ports: [{}]", "spec.ports[0].port: missing: must be a port from 1 to 65535"),
    ("  ports: [{port: 70000}]", "spec.ports[0].port: 70000 is not a port from 1 to 65535"),
    ("  ports: [{port: 0}]", "spec.ports[0].port: 0 is not a port from 1 to 65535"),
    ("  ports: [{port: -1}]", "spec.ports[0].port: -1 is not a port from 1 to 65535"),
    (
        "  ports: [{port: 18446744073709551615}]",
        "spec.ports[0].port: 18446744073709551615 is not a port from 1 to 65535",
    ),
    ("  ports: [{port: '80'}]", "spec.ports[0].port: \"80\" is not an integer"),
    ("  ports: [{port: 80.5}]", "spec.ports[0].port: 80.5 is not an integer"),
    ("  ports: [{port: 80, protocol: tcp}]", "spec.ports[0].protocol: \"tcp\" is not one of TCP, UDP, SCTP"),
    ("  ports: [80]", "spec.ports[0]: 80 is not an object"),
    ("  ports: {port: 80}", "spec.ports: an object is not a list"),
    (
        "  ports: [{port: 1}, {port: 2, name: b}]",
        "spec.ports[0].name: missing: every port of a service with several ports needs a name",
    ),
    ("  ports: [{port: 1, name: a}, {port: 2, name: a}]", "spec.ports[1].name: duplicate name \"a\""),
    (
        "  ports: [{port: 1, name: a_b}]",
        "spec.ports[0].name: \"a_b\" is not a DNS label: at most 63 characters of a-z, 0-9 and '-', starting and ending with a letter or digit",
    ),
    ("  ports: [{port: 1, name: a}, {port: 1, name: b}]", "spec.ports[1]: duplicate port 1/TCP"),
    (
        "  ports: [{port: 1, nodePort: 30000}]",
        "spec.ports[0].nodePort: 30000: only services of type NodePort or LoadBalancer have node ports",
    ),
    (
        "  type: NodePort\n  ports: [{port: 1, nodePort: 70000}]",
        "spec.ports[0].nodePort: 70000 is not a port from 1 to 65535",
    ),
    (
        "  type: NodePort\n  ports: [{port: 1, nodePort: 9, name: a}, {port: 2, nodePort: 9, name: b}]",
        "spec.ports[1].nodePort: duplicate node port 9/TCP",
    ),
    (
        "  ports: [{port: 1, targetPort: 65536}]",
        "spec.ports[0].targetPort: 65536 is not a port from 1 to 65535",
    ),
    (
        "  ports: [{port: 1, targetPort: '8080'}]",
        "spec.ports[0].targetPort: \"8080\" is not a port name: at most 15 characters of a-z, 0-9 and single '-', with at least one letter",
    ),
    ("  ports: [{port: 1, targetPort: true}]", "spec.ports[0].targetPort: true is not an integer"),
    (
        "  type: Clusterip\n  ports: [{port: 1}]",
        "spec.type: \"Clusterip\" is not one of ClusterIP, NodePort, LoadBalancer, ExternalName",
    ),
    ("  type: 5\n  ports: [{port: 1}]", "spec.type: 5 is not a string (quote it in YAML)"),
    (
        "  type: LoadBalancer\n  ports: [{port: 10250}]",
        "spec.ports: port 10250 is the kubelet's and must not be exposed by a load balancer",
    ),
    (
        "  type: NodePort\n  clusterIP: None\n  ports: [{port: 1}]",
        "spec.clusterIP: \"None\" is not allowed for a service of type NodePort or LoadBalancer",
    ),
    ("  type: ExternalName", "spec.externalName: missing: required for type ExternalName"),
    ("  type: ExternalName\n  externalName: a_b", "spec.externalName: \"a_b\" is not a DNS name"),
    (
        "  type: ExternalName\n  externalName: a.b\n  clusterIP: 10.0.0.1",
        "spec.clusterIP: \"10.0.0.1\": a service of type ExternalName has no address",
    ),
    (
        "  type: ExternalName\n  externalName: a.b\n  ipFamilies: [IPv4]",
        "spec.ipFamilies: a service of type ExternalName has no address",
    ),
    ("  ports: [{port: 1}]\n  clusterIP: 10.0.0.256", "spec.clusterIP: \"10.0.0.256\" is not an IP address"),
    (
        "  ports: [{port: 1}]\n  clusterIP: 10.0.0.1\n  clusterIPs: [10.0.0.2]",
        "spec.clusterIP: \"10.0.0.1\" is not the first of spec.clusterIPs, \"10.0.0.2\"",
    ),
    (
        "  ports: [{port: 1}]\n  clusterIPs: [10.0.0.1, 10.0.0.2]",
        "spec.clusterIPs[1]: \"10.0.0.2\" is the second IPv4 address: one per family",
    ),
    (
        "  ports: [{port: 1}]\n  clusterIPs: [10.0.0.1, 'fd00::1', 'fd00::2']",
        "spec.clusterIPs[2]: \"fd00::2\": a service has at most two addresses",
    ),
    ("  clusterIP: None\n  clusterIPs: [None, 10.0.0.1]", "spec.clusterIPs: \"None\" must be the only value"),
    ("  ports: [{port: 1}]\n  ipFamilies: [ipv4]", "spec.ipFamilies[0]: \"ipv4\" is not one of IPv4, IPv6"),
    ("  ports: [{port: 1}]\n  ipFamilies: [IPv4, IPv4]", "spec.ipFamilies[1]: duplicate family \"IPv4\""),
    (
        "  ports: [{port: 1}]\n  clusterIP: 10.0.0.1\n  ipFamilies: [IPv6]",
        "spec.ipFamilies: IPv6 at index 0 does not match the address 10.0.0.1",
    ),
    (
        "  ports: [{port: 1}]\n  clusterIPs: [10.0.0.1, 'fd00::1']\n  ipFamilies: [IPv4]",
        "spec.ipFamilies: one family, but two addresses in spec.clusterIPs",
    ),
    (
        "  ports: [{port: 1}]\n  ipFamilyPolicy: SingleStack\n  ipFamilies: [IPv4, IPv6]",
        "spec.ipFamilyPolicy: SingleStack, but two families are given",
    ),
    (
        "  ports: [{port: 1}]\n  ipFamilyPolicy: Dual",
        "spec.ipFamilyPolicy: \"Dual\" is not one of SingleStack, PreferDualStack, RequireDualStack",
    ),
    ("  ports: [{port: 1}]\n  externalIPs: [x]", "spec.externalIPs[0]: \"x\" is not an IP address"),
    (
        "  ports: [{port: 1}]\n  externalIPs: [127.0.0.1]",
        "spec.externalIPs[0]: \"127.0.0.1\" is a loopback address, which is not allowed",
    ),
    (
        "  ports: [{port: 1}]\n  externalIPs: ['0.0.0.0']",
        "spec.externalIPs[0]: \"0.0.0.0\" is the unspecified address, which is not allowed",
    ),
    (
        "  ports: [{port: 1}]\n  externalIPs: ['fe80::1']",
        "spec.externalIPs[0]: \"fe80::1\" is a link-local address, which is not allowed",
    ),
    (
        "  ports: [{port: 1}]\n  externalIPs: [224.0.0.1]",
        "spec.externalIPs[0]: \"224.0.0.1\" is a link-local multicast address, which is not allowed",
    ),
    (
        "  ports: [{port: 1}]\n  sessionAffinity: Client",
        "spec.sessionAffinity: \"Client\" is not one of None, ClientIP",
    ),
    (
        "  ports: [{port: 1}]\n  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not a timeout from 1 to 86400 seconds",
    ),
    (
        "  ports: [{port: 1}]\n  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}",
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not a timeout from 1 to 86400 seconds",
    ),
    (
        "  ports: [{port: 1}]\n  internalTrafficPolicy: local",
        "spec.internalTrafficPolicy: \"local\" is not one of Cluster, Local",
    ),
    (
        "  ports: [{port: 1}]\n  externalTrafficPolicy: Local",
        "spec.externalTrafficPolicy: only a service of type NodePort or LoadBalancer, or one with externalIPs, has this policy",
    ),
    (
        "  type: LoadBalancer\n  ports: [{port: 1}]\n  healthCheckNodePort: 31234",
        "spec.healthCheckNodePort: 31234: only a service of type LoadBalancer with externalTrafficPolicy Local has this port",
    ),
    (
        "  type: NodePort\n  externalTrafficPolicy: Local\n  ports: [{port: 1}]\n  healthCheckNodePort: 31234",
        "spec.healthCheckNodePort: 31234: only a service of type LoadBalancer with externalTrafficPolicy Local has this port",
    ),
    (
        "  type: LoadBalancer\n  ports: [{port: 1}]\n  loadBalancerSourceRanges: [10.0.0.0]",
        "spec.loadBalancerSourceRanges[0]: \"10.0.0.0\" is not a CIDR such as 10.0.0.0/8",
    ),
    (
        "  ports: [{port: 1}]\n  loadBalancerSourceRanges: [10.0.0.0/8]",
        "spec.loadBalancerSourceRanges: only a service of type LoadBalancer has source ranges",
    ),
    (
        "  ports: [{port: 1}]\n  selector: {app: true}",
        "spec.selector.app: true is not a string (quote it in YAML)",
    ),
    ("  ports: [{port: 1}]\n  selector: {app: 'a b'}", "spec.selector.app: \"a b\" is not a valid label"),
    ("  ports: [{port: 1}]\n  selector: [app]", "spec.selector: a list is not an object"),
    (
        "  ports: [{port: 1}]\n  publishNotReadyAddresses: 'yes'",
        "spec.publishNotReadyAddresses: \"yes\" is not true or false",
    ),
];

#[test]
fn spec_that_no_api_server_accepts_is_rejected_with_field_and_reason() {
    for (spec, message) in REJECTED {
        let text = with_spec(spec);
        assert_eq!(messages(&text), [*message], "{text}");
        assert!(read_text(&text).0.services.is_empty(), "{text}");
        assert!(read_text(&text).1.has_errors(), "{text}");
    }
}

#[test]
fn all_errors_of_an_object_are_reported_with_file_document_and_object() {
    let text = "---\n# first\n---\napiVersion: v1\nkind: Service\nmetadata: {name: redis, namespace: core}\n\
                spec: {type: Foo, ports: [{port: 70000, protocol: X}], clusterIP: 1.2.3}\n";
    let location = "a.yaml:4: document 1: Service core/redis: ";
    let expected = [
        "spec.type: \"Foo\" is not one of ClusterIP, NodePort, LoadBalancer, ExternalName",
        "spec.clusterIP: \"1.2.3\" is not an IP address",
        "spec.ports[0].protocol: \"X\" is not one of TCP, UDP, SCTP",
        "spec.ports[0].port: 70000 is not a port from 1 to 65535",
    ];
    let expected: Vec<String> = expected.iter().map(|message| format!("{location}{message}")).collect();
    assert_eq!(lines(&read_text(text).1), expected);
}

#[test]
fn names_follow_the_rules_of_the_api() {
    let named = |name: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 1}}]}}\n")
    };
    for good in ["db", "a-b", "1st", &"a".repeat(63)] {
        read_valid(&named(&format!("'{good}'")));
    }
    let bad = ["A", "a_b", "-a", "a-", "a.b", &"a".repeat(64)];
    for name in bad {
        assert_eq!(
            messages(&named(&format!("'{name}'"))),
            [format!("metadata.name: \"{name}\" is not {}", crate::objects::validate::DNS_LABEL)]
        );
    }
    for missing in ["''", "null", ""] {
        assert_eq!(messages(&named(missing)), ["metadata.name: missing: every object needs a name"]);
    }
    assert_eq!(messages(&named("5")), ["metadata.name: 5 is not a string (quote it in YAML)"]);
    let text =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: B}\nspec: {ports: [{port: 1}]}\n";
    assert_eq!(
        messages(text),
        [format!("metadata.namespace: \"B\" is not {}", crate::objects::validate::DNS_LABEL)]
    );
}

#[test]
fn object_without_api_version_or_kind_is_reported_with_the_missing_field() {
    let (_, report) =
        read_text("kind: Service\nmetadata: {name: db}\n---\nmetadata: {name: x}\n---\n[1]\n---\nhello\n");
    assert_eq!(
        lines(&report),
        [
            "a.yaml:1: document 1: Service default/db: missing apiVersion",
            "a.yaml:4: document 2: object default/x: missing apiVersion and kind",
            "a.yaml:6: document 3: items[0]: not a Kubernetes object: must be a map with apiVersion and kind",
            "a.yaml:8: document 4: failed to parse document: invalid type: string \"hello\", expected a Kubernetes object",
        ]
    );
}

#[test]
fn other_kinds_are_ignored_and_counted() {
    let text = "apiVersion: v1\nkind: ConfigMap\n---\napiVersion: v1\nkind: ConfigMap\nitems: [1]\n---\n\
                {kind: Ingress, apiVersion: networking.k8s.io/v1}\n---\n{kind: Service, apiVersion: serving.knative.dev/v1}";
    let (_, report) = read_text(text);
    let ignored: Vec<(&str, usize)> = report.ignored.iter().map(|(kind, n)| (kind.as_str(), *n)).collect();
    let expected =
        [("networking.k8s.io/v1 Ingress", 1), ("serving.knative.dev/v1 Service", 1), ("v1 ConfigMap", 2)];
    assert_eq!(ignored, expected);
    assert!(!report.has_errors());
    assert_eq!((report.documents, report.objects), (4, 4));
}

#[test]
fn service_with_too_many_portals_is_rejected() {
    let list = |count: u32, one: fn(u32) -> String| (1..=count).map(one).collect::<Vec<_>>().join(", ");
    let spec = |ports, addresses| {
        let ports = list(ports, |n| format!("{{name: p{n}, port: {n}}}"));
        let addresses = list(addresses, |n| format!("192.0.{}.{}", n / 256, n % 256));
        format!("  clusterIP: 10.0.0.1\n  ports: [{ports}]\n  externalIPs: [{addresses}]")
    };
    assert_eq!(service_of(&spec(64, 63)).ports.len(), 64);
    let message = "spec: 4160 portals (ports times addresses), more than 4096";
    assert_eq!(messages(&with_spec(&spec(64, 64))), [message]);
}
