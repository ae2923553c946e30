//! Tests of decoding objects in the form in which an API server stores them.

use proxy_core::node::ServiceProxy;
use proxy_core::service::{ClusterIps, Export};
use serde_json::{Value, json};

use super::*;

fn decode(kind: Kind, value: &Value) -> Content {
    Object::parse(kind, value, &mut Names::default()).content
}

fn stored(spec: &Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7"}, "spec": spec})
}

fn service_of(spec: &Value) -> Service {
    match decode(Kind::Service, &stored(spec)) {
        Content::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

fn rejection(kind: Kind, value: &Value) -> String {
    match decode(kind, value) {
        Content::Rejected(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn object_has_its_key_and_version() {
    let object =
        Object::parse(Kind::Service, &stored(&json!({"clusterIP": "10.0.0.1"})), &mut Names::default());
    assert_eq!(object.version, Some(7));
    assert_eq!(object.key, Some(ObjectKey { namespace: "shop".into(), name: "web".into() }));
}

#[test]
fn service_without_cluster_ip_stays_headless() {
    let service = service_of(&json!({"ports": [{"port": 80}]}));
    assert_eq!(service.cluster_ips, ClusterIps::Headless);
}

#[test]
fn export_annotation_names_the_namespaces() {
    for (text, expected) in
        [("true", Export::Everywhere), ("a, b,", Export::To(vec!["a".into(), "b".into()]))]
    {
        let mut value = stored(&json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}));
        value["metadata"]["annotations"] = json!({"portico.dev/export": text});
        let Content::Service(service) = decode(Kind::Service, &value) else { panic!("{text}") };
        assert_eq!(service.export, expected);
    }
}

#[test]
fn rules_of_other_kubernetes_versions_reject_no_service() {
    let cases = [
        // A selector, a policy and a type that are not valid today.
        json!({"clusterIP": "10.0.0.1", "selector": {"a b": "c d"}, "ports": [{"port": 80}]}),
        json!({"clusterIP": "10.0.0.1", "internalTrafficPolicy": "Nearby", "ports": [{"port": 80}]}),
        json!({"clusterIP": "10.0.0.1", "type": "Later", "ports": [{"port": 80}]}),
        // A policy, a node port and source ranges that a previous type left behind.
        json!({"clusterIP": "10.0.0.1", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30000}],
               "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
        // Ports without names, a duplicate, and a port with a future protocol.
        json!({"clusterIP": "10.0.0.1",
               "ports": [{"port": 80}, {"port": 80}, {"port": 81, "protocol": "QUIC"}]}),
        json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2", "10.0.0.3"], "ports": [{"port": 80}]}),
        json!({"clusterIP": "10.0.0.1", "externalIPs": ["127.0.0.1"], "ports": [{"port": 80}]}),
    ];
    for spec in cases {
        let service = service_of(&spec);
        assert_eq!(service.cluster_ips, ClusterIps::One("10.0.0.1".parse().unwrap()), "{spec}");
        assert_eq!(service.ports.len(), 1, "{spec}");
        assert_eq!(service.ports[0].node_port, None, "{spec}");
        assert!(service.has_portals);
    }
    let external =
        service_of(&json!({"type": "ExternalName", "externalName": "a_b..c", "clusterIP": "10.0.0.1"}));
    assert!(!external.has_portals);
    let sticky = json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
                        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 999_999}}});
    assert_eq!(service_of(&sticky).affinity_s, Some(86_400));
}

#[test]
fn unusable_object_is_rejected_with_its_name_and_reason() {
    let cases = [
        (stored(&json!("text")), "Service shop/web: spec: \"text\" is not an object"),
        (stored(&json!({"clusterIP": "x"})), "Service shop/web: spec.clusterIP: \"x\" is not an IP address"),
        (stored(&json!({"clusterIP": "10.0.0.1", "ports": [{"port": 70000}]})), "spec.ports[0].port: 70000"),
        (stored(&json!({"clusterIP": "10.0.0.1", "ports": "80"})), "spec.ports: \"80\" is not a list"),
        (json!({"metadata": {"name": 5, "namespace": "shop"}}), "Service without a name"),
        (json!({"metadata": {"name": "web"}}), "Service without a name"),
        (json!({"metadata": {"name": "Web\n", "namespace": "shop"}}), "Service shop/Web\\n: metadata.name"),
        (json!([]), "Service without a name"),
        (Value::Null, "Service without a name"),
    ];
    for (value, expected) in cases {
        let reason = rejection(Kind::Service, &value);
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(reason.lines().count(), 1);
    }
    let slice = json!({"metadata": {"name": "s", "namespace": "d", "labels": {"kubernetes.io/service-name": "w"}},
                       "addressType": "IPv9", "endpoints": []});
    assert!(rejection(Kind::Slice, &slice).starts_with("EndpointSlice d/s: addressType"));
    let range = json!({"metadata": {"name": "k"}, "spec": {"cidrs": ["10.96.0.0"]}});
    assert!(rejection(Kind::ServiceCidr, &range).starts_with("ServiceCIDR k: spec.cidrs[0]"));
}

#[test]
fn service_with_too_many_portals_is_rejected() {
    let ports: Vec<Value> =
        (1..=2000).map(|port| json!({"port": port, "name": format!("p{port}")})).collect();
    let external: Vec<String> = (0..250).map(|n| format!("192.0.2.{n}")).collect();
    let spec = json!({"clusterIP": "10.0.0.1", "ports": ports, "externalIPs": external});
    assert!(rejection(Kind::Service, &stored(&spec)).contains("more than 4096"));
}

#[test]
fn slice_without_a_service_is_unused() {
    let slice = json!({"metadata": {"name": "s", "namespace": "d"}, "addressType": "IPv4"});
    assert_eq!(decode(Kind::Slice, &slice), Content::Unused);
}

#[test]
fn node_is_leaving_if_it_is_deleted_or_has_the_taint_of_the_cluster_autoscaler() {
    let decode_node =
        |metadata: Value, spec: Value| match decode(Kind::Node, &json!({"metadata": metadata, "spec": spec}))
        {
            Content::Node(node) => node,
            other => panic!("{other:?}"),
        };
    let cordoned = json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
    let to_be_deleted =
        json!([{"key": "ToBeDeletedByClusterAutoscaler", "value": "1790000000", "effect": "NoSchedule"}]);
    let present = json!({"name": "n"});
    let deleted = json!({"name": "n", "deletionTimestamp": "2026-11-28T00:00:00Z"});
    assert!(!decode_node(present.clone(), json!({})).is_leaving);
    assert!(!decode_node(present.clone(), json!({"taints": cordoned})).is_leaving);
    assert!(decode_node(present, json!({"taints": to_be_deleted})).is_leaving);
    assert!(decode_node(deleted, json!({})).is_leaving);
}

#[test]
fn node_has_its_service_proxy_and_requests() {
    let decode_node = |label: &str, request: &str| {
        let metadata = json!({"name": "n", "labels": {"portico.dev/service-proxy": label},
            "annotations": {"portico.dev/verify-node": request, "portico.dev/remove-kube-proxy-rules": "r"}});
        match decode(Kind::Node, &json!({"metadata": metadata})) {
            Content::Node(node) => (node.service_proxy, node.verification, node.rule_removal),
            other => panic!("{other:?}"),
        }
    };
    for proxy in ServiceProxy::ALL {
        assert_eq!(decode_node(proxy.name(), "v"), (proxy, "v".into(), "r".into()));
    }
    assert_eq!(decode_node("portica", &"v".repeat(129)), (ServiceProxy::KubeProxy, "".into(), "r".into()));
}

#[test]
fn node_has_its_valid_pod_cidrs() {
    let spec = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "x", "fd00:1::/64"]});
    let Content::Node(node) = decode(Kind::Node, &json!({"metadata": {"name": "n"}, "spec": spec})) else {
        panic!("node was rejected");
    };
    let expected = ["10.1.0.0/24", "fd00:1::/64"].map(|text| text.parse().unwrap());
    assert_eq!(node.pod_cidrs, expected);
}

#[test]
fn node_and_service_cidr_are_decoded() {
    let node = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}},
                      "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    assert!(matches!(decode(Kind::Node, &node), Content::Node(node) if &*node.zone == "z"));
    let range =
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12", "fd00::/108"]}});
    assert!(matches!(decode(Kind::ServiceCidr, &range), Content::Ranges(ranges) if ranges.len() == 2));
}

#[test]
fn namespace_has_its_name_and_dns_annotation_only() {
    let namespace = |annotations: Value| {
        let metadata = json!({"name": "shop", "annotations": annotations, "labels": {"a": "b"}});
        decode(Kind::Namespace, &json!({"metadata": metadata}))
    };
    let expected = |is_dns_off| Content::Namespace(Namespace { name: "shop".into(), is_dns_off });
    assert_eq!(namespace(json!({"portico.dev/dns": "off", "note": "x"})), expected(true));
    for annotations in
        [json!(null), json!({}), json!({"portico.dev/dns": "on"}), json!({"portico.dev/dns": "0ff"})]
    {
        assert_eq!(namespace(annotations.clone()), expected(false), "{annotations}");
    }
    assert!(matches!(decode(Kind::Namespace, &json!({"metadata": {"name": "A"}})), Content::Rejected(_)));
}
