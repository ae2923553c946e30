//! Explanations on the node: each client by its verdict, backends and reason, and the complete steps of one.

use std::sync::Arc;

use expect_test::{Expect, expect};

use super::*;
use crate::model::endpoint::EndpointSlice;
use crate::model::service::Service;
use crate::model::snapshot::Change;
use crate::ruleset::node::PodDetection;
use crate::sample::{ip, node_context, slice, snapshot, svc, tcp, udp};

const NODE_PORT: &str = "10.240.0.5:30080";

fn environment() -> NodeEnvironment {
    NodeEnvironment {
        addresses: Arc::new([ip("10.240.0.5")].into()),
        pod_ranges: Arc::new(["10.1.0.0/16".parse().expect("a CIDR")].into()),
        ..NodeEnvironment::default()
    }
}

fn settings() -> NodeSettings {
    NodeSettings { detects_pods: PodDetection::BOTH, loopback_port: 9478, ..NodeSettings::default() }
}

fn service() -> Service {
    svc("s").ip("10.96.0.1").tcp("", 80).node_port(30080).balanced("192.0.2.2")
}

fn endpoints() -> EndpointSlice {
    slice("s").tcp("", 8080).at("10.1.0.1").on("n1").at("10.1.9.1").on("n2")
}

fn explain_query(service: Service, slice: EndpointSlice, query: &NodeQuery) -> Explanation {
    let snapshot = snapshot([Change::from(service), Change::from(slice)]);
    explain_node(&snapshot, &node_context(), settings(), environment(), query)
}

fn from_outside(destination: &str) -> NodeQuery {
    NodeQuery { destination: tcp(destination), is_from_node: false, source: Some(ip("203.0.113.7")) }
}

fn from_node(destination: &str) -> NodeQuery {
    NodeQuery { destination: tcp(destination), is_from_node: true, source: None }
}

/// Checks verdict, backends, masqueraded backends and reason.
fn assert_explanation(explanation: &Explanation, expected: Expect) {
    let Explanation { verdict, backends, masqueraded, reason, .. } = explanation;
    let masqueraded = masqueraded.as_deref().unwrap_or_default();
    expected.assert_eq(&format!("{} {backends:?} masqueraded {masqueraded:?}\n{reason}", verdict.name()));
}

#[test]
fn steps_name_portal_client_policy_candidates_and_source() {
    let explanation = explain_query(service(), endpoints(), &from_outside(NODE_PORT));
    expect![[r#"
        10.240.0.5 is this node's address, with a node port, of service default/s, and TCP 30080 is its port
        the client is outside the cluster, or a pod that the node does not detect
        selected: all ready endpoints
          10.1.0.1:8080 on node n1: selected
          10.1.9.1:8080 on node n2: selected
        forwarded to one of 2 backends; masqueraded: the backend sees an address of the node"#]]
    .assert_eq(&explanation.steps.join("\n"));
}

#[test]
fn policy_local_leads_clients_outside_to_local_endpoints_with_their_address() {
    let explanation = explain_query(service().external_local(), endpoints(), &from_outside(NODE_PORT));
    assert_explanation(
        &explanation,
        expect![[r#"
        forward [10.1.0.1:8080] masqueraded []
        forwarded to the only backend; not masqueraded: the backend sees the address of the client"#]],
    );
    expect![[r#"
        10.240.0.5 is this node's address, with a node port, of service default/s, and TCP 30080 is its port
        the client is outside the cluster, or a pod that the node does not detect
        its external traffic policy Local leads clients outside the cluster to endpoints on this node
        selected: ready endpoints on this node
          10.1.0.1:8080 on node n1: selected
          10.1.9.1:8080 on node n2: not selected: not on this node
        forwarded to the only backend; not masqueraded: the backend sees the address of the client"#]]
    .assert_eq(&explanation.steps.join("\n"));
}

#[test]
fn policy_local_without_local_endpoint_drops_outside_and_serves_the_node() {
    let elsewhere = || slice("s").tcp("", 8080).at("10.1.9.1").on("n2");
    let outside = explain_query(service().external_local(), elsewhere(), &from_outside("192.0.2.2:80"));
    assert_explanation(
        &outside,
        expect![[r#"
        drop [] masqueraded []
        dropped: the service has endpoints, but none on this node, and its external traffic policy is Local"#]],
    );
    let node = explain_query(service().external_local(), elsewhere(), &from_node("192.0.2.2:80"));
    assert_explanation(
        &node,
        expect![[r#"
        forward [10.1.9.1:8080] masqueraded [10.1.9.1:8080]
        forwarded to the only backend; masqueraded: the backend sees an address of the node"#]],
    );
}

#[test]
fn pod_is_recognised_by_its_address() {
    let pod = NodeQuery { source: Some(ip("10.1.0.1")), ..from_outside("10.96.0.1:80") };
    let explanation = explain_query(service(), endpoints(), &pod);
    assert_explanation(
        &explanation,
        expect![[r#"
        forward [10.1.0.1:8080, 10.1.9.1:8080] masqueraded [10.1.0.1:8080]
        forwarded to one of 2 backends; masqueraded only to 10.1.0.1:8080, which sees an address of the node"#]],
    );
    assert!(explanation.steps.iter().any(|step| step == "the client is a pod, by its address"));
}

#[test]
fn source_ranges_apply_to_an_unknown_source() {
    let limited = || service().only_from("198.51.100.0/24");
    let unknown = NodeQuery { source: None, ..from_outside("192.0.2.2:80") };
    assert_explanation(
        &explain_query(limited(), endpoints(), &unknown),
        expect![[r#"
        drop [] masqueraded []
        dropped unless the source is in the source ranges of default/s; set --source"#]],
    );
    assert_explanation(
        &explain_query(limited(), endpoints(), &from_node("192.0.2.2:80")),
        expect![[r#"
        drop [] masqueraded []
        dropped: 10.240.0.5 is not in the source ranges of default/s"#]],
    );
}

#[test]
fn backend_in_the_network_namespace_of_the_node_is_not_masqueraded() {
    let own = slice("s").tcp("", 8080).at("10.240.0.5").on("n1");
    assert_explanation(
        &explain_query(service(), own, &from_node("10.96.0.1:80")),
        expect![[r#"
        forward [10.240.0.5:8080] masqueraded []
        forwarded to the only backend; not masqueraded: the backend sees the address of the client"#]],
    );
}

#[test]
fn node_port_on_loopback_is_redirected_for_the_node() {
    assert_explanation(
        &explain_query(service(), endpoints(), &from_node("127.0.0.1:30080")),
        expect![[r#"
        forward [] masqueraded []
        redirected to the agent's listener on the loopback address, which connects to an endpoint"#]],
    );
}

#[test]
fn destinations_without_a_portal_have_a_reason() {
    assert_explanation(
        &explain_query(service(), endpoints(), &from_outside("10.96.0.1:81")),
        expect![[r#"
        reject [] masqueraded []
        rejected: 10.96.0.1 is the address of service default/s, which has no port TCP 81"#]],
    );
    let other = explain_query(service(), endpoints(), &from_outside("10.240.0.6:30080"));
    assert_explanation(
        &other,
        expect![[r#"
        pass [] masqueraded []
        not translated: TCP 10.240.0.6 port 30080 is not a portal"#]],
    );
    assert!(other.steps[0].ends_with("but node ports are not served on 10.240.0.6"), "{:?}", other.steps);
    let by_udp = NodeQuery { destination: udp(NODE_PORT), ..from_outside(NODE_PORT) };
    assert_explanation(
        &explain_query(service(), endpoints(), &by_udp),
        expect![[r#"
        pass [] masqueraded []
        not translated: UDP 10.240.0.5 port 30080 is not a portal"#]],
    );
}
