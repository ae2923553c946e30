//! `portico rules --node-portals` and `portico explain --from outside|node`: the table of the node's network namespace.

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use test_support::command::portico_with;

const OBJECTS: &str = r"
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 10.240.0.5}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.0.0.9
  externalTrafficPolicy: Local
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.1], nodeName: n1}, {addresses: [10.1.9.1], nodeName: n2}]
";

fn run(args: &[&str]) -> String {
    let output = portico_with(&[args, &["-f", "-", "--node", "n1"]].concat(), OBJECTS);
    assert_eq!((output.code, &*output.stderr), (0, ""));
    output.stdout
}

fn check_explanation(args: &[&str], expected: Expect) {
    expected.assert_eq(&run(&[&["explain"], args].concat()));
}

#[test]
fn client_outside_reaches_a_local_endpoint_with_its_address() {
    check_explanation(
        &["--from", "outside", "--source", "203.0.113.7", "tcp://10.240.0.5:30080"],
        expect![[r#"
            tcp://10.240.0.5:30080: forward
              10.240.0.5 is this node's address, with a node port, of service default/web, and TCP 30080 is its port
              the client is outside the cluster, or a pod that the node does not detect
              its external traffic policy Local leads clients outside the cluster to endpoints on this node
              selected: ready endpoints on this node
                10.1.0.1:8080 on node n1: selected
                10.1.9.1:8080 on node n2: not selected: not on this node
              forwarded to the only backend; not masqueraded: the backend sees the address of the client
        "#]],
    );
}

#[test]
fn process_of_the_node_reaches_every_endpoint_and_is_masqueraded() {
    check_explanation(
        &["--from", "node", "tcp://10.240.0.5:30080"],
        expect![[r#"
        tcp://10.240.0.5:30080: forward
          10.240.0.5 is this node's address, with a node port, of service default/web, and TCP 30080 is its port
          the client is the node itself
          its external traffic policy Local applies to clients outside the cluster: for clients inside, all endpoints are eligible
          selected: all ready endpoints
            10.1.0.1:8080 on node n1: selected
            10.1.9.1:8080 on node n2: selected
          forwarded to one of 2 backends; masqueraded: the backend sees an address of the node
    "#]],
    );
}

#[test]
fn explanation_as_json_names_the_masqueraded_backends() {
    check_explanation(
        &["--from", "outside", "--cluster-cidr", "10.1.0.0/16", "-o", "json", "tcp://10.0.0.9:80"],
        expect![[r#"
            {
              "verdict": "forward",
              "portal": "default/web:80",
              "backends": [
                "10.1.0.1:8080",
                "10.1.9.1:8080"
              ],
              "masqueraded": [
                "10.1.0.1:8080",
                "10.1.9.1:8080"
              ],
              "reason": "forwarded to one of 2 backends; masqueraded: the backend sees an address of the node"
            }
        "#]],
    );
}

#[test]
fn node_port_is_served_on_the_given_addresses_only() {
    let rules = run(&["rules", "--node-portals", "--nodeport-address", "10.240.0.6"]);
    assert!(rules.contains("node-addresses4 {\n\t10.240.0.6\n}"), "{rules}");
    let to_primary =
        ["explain", "--from", "outside", "--nodeport-address", "10.240.0.6", "tcp://10.240.0.5:30080"];
    assert!(run(&to_primary).contains("but node ports are not served on 10.240.0.5"));
}

#[test]
fn rules_of_the_node_depend_on_the_arguments() {
    let plain = run(&["rules", "--node-portals"]);
    assert!(plain.contains("table inet portico-node"), "{plain}");
    assert!(plain.contains("hook prerouting priority -101"), "{plain}");
    assert!(!plain.contains("@pods4 goto short") && !plain.contains("redirect to :"), "{plain}");
    let detecting =
        run(&["rules", "--node-portals", "--cluster-cidr", "10.1.0.0/16", "--loopback-port", "9478"]);
    assert!(detecting.contains("ip saddr @pods4 goto short"), "{detecting}");
    assert!(detecting.contains("pods4 {\n\t10.1.0.0/16\n}"), "{detecting}");
    assert!(detecting.contains("redirect to :9478"), "{detecting}");
}

#[test]
fn rules_of_the_node_as_json_name_frontends_and_backends() {
    let json = run(&["rules", "--node-portals", "-o", "json", "--cluster-cidr", "10.1.0.0/16"]);
    let rules: Value = serde_json::from_str(&json).expect("one JSON object");
    let [node_port, cluster_ip] = &rules["frontends"].as_array().expect("an array")[..] else {
        panic!("two frontends: {json}")
    };
    assert_eq!((&cluster_ip["address"], &cluster_ip["port"]), (&json!("10.0.0.9"), &json!(80)));
    assert_eq!((&node_port["address"], &node_port["port"]), (&Value::Null, &json!(30080)));
    assert_eq!(node_port["action"], json!({"backends": ["10.1.0.1:8080"], "selection": "random"}));
    let all = json!({"backends": ["10.1.0.1:8080", "10.1.9.1:8080"], "selection": "random"});
    assert_eq!((&node_port["actionInCluster"], &cluster_ip["action"]), (&all, &all));
    assert_eq!(rules["nodeAddresses"], json!(["10.240.0.5"]));
    assert_eq!(rules["podRanges"], json!(["10.1.0.0/16"]));
}

#[test]
fn arguments_without_an_effect_are_usage_errors() {
    let node_address = ["--nodeport-address", "10.240.0.5"];
    for args in [
        &["rules", "--node-portals", "-o", "iptables"][..],
        &["rules", "--node-portals", "--counters"],
        &[&["rules"], &node_address[..]].concat(),
        &[&["explain", "tcp://10.0.0.9:80", "--from", "pod"], &node_address[..]].concat(),
    ] {
        let output = portico_with(&[args, &["-f", "-"]].concat(), OBJECTS);
        assert_eq!((output.code, &*output.stdout), (2, ""), "{args:?}: {}", output.stderr);
    }
}
