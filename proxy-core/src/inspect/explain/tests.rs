//! Explanations: each rule by its verdict, portal, backends and reason.
//!
//! That the verdict and backends agree with `trace` in every cluster is a property in `tests`. Steps of the text form
//! are tested if they contain something that no other field does.

use expect_test::{Expect, expect};

use super::*;
use crate::model::endpoint::EndpointSlice;
use crate::model::service::Scheduler;
use crate::model::snapshot::Change;
use crate::routing::portal::ServiceFilter;
use crate::sample::{ip, node_context, slice, snapshot, svc, tcp, udp};

fn explain_query(changes: &[Change], query: &Query) -> Explanation {
    explain(&snapshot(changes.to_vec()), &node_context(), query)
}

fn from_pod(destination: PortalKey) -> Query {
    Query { destination, source: None }
}

/// Formats verdict, portal, backends and reason.
fn summary(explanation: &Explanation) -> String {
    let portal = explanation.portal.as_deref().unwrap_or("no portal");
    let backends: Vec<String> = explanation.backends.iter().map(ToString::to_string).collect();
    format!("{} {portal} [{}]\n{}", explanation.verdict.name(), backends.join(" "), explanation.reason)
}

fn assert_explanation(changes: impl IntoIterator<Item = Change>, destination: &str, expected: Expect) {
    let changes: Vec<Change> = changes.into_iter().collect();
    expected.assert_eq(&summary(&explain_query(&changes, &from_pod(tcp(destination)))));
}

/// Checks the steps of the text form.
fn assert_steps(changes: impl IntoIterator<Item = Change>, destination: &str, expected: Expect) {
    let changes: Vec<Change> = changes.into_iter().collect();
    let explanation = explain_query(&changes, &from_pod(tcp(destination)));
    expected.assert_eq(&explanation.steps.iter().map(|step| format!("{step}\n")).collect::<String>());
}

fn service() -> Service {
    svc("s").ip("10.96.0.1").tcp("web", 80)
}

fn endpoints() -> EndpointSlice {
    slice("s").tcp("web", 8080)
}

#[test]
fn connection_to_one_endpoint_is_forwarded() {
    assert_explanation(
        [service().into(), endpoints().at("10.1.0.1").into()],
        "10.96.0.1:80",
        expect![[r#"
            forward default/s:80 [10.1.0.1:8080]
            forwarded to the only backend"#]],
    );
}

#[test]
fn several_backends_are_listed_in_order() {
    let slice = endpoints().at("10.1.0.2").at("10.1.0.1");
    assert_explanation(
        [service().into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            forward default/s:80 [10.1.0.1:8080 10.1.0.2:8080]
            forwarded to one of 2 backends"#]],
    );
}

#[test]
fn service_without_endpoints_rejects() {
    assert_explanation(
        [service().into()],
        "10.96.0.1:80",
        expect![[r#"
            reject default/s:80 []
            rejected: no endpoint is ready or serving"#]],
    );
    assert_explanation(
        [service().into(), endpoints().at("10.1.0.1").unready().into()],
        "10.96.0.1:80",
        expect![[r#"
            reject default/s:80 []
            rejected: no endpoint is ready or serving"#]],
    );
}

#[test]
fn policy_local_without_local_endpoints_drops() {
    let slice = endpoints().at("10.1.0.1").on("n2");
    assert_explanation(
        [service().internal_local().into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            drop default/s:80 []
            dropped: the service has endpoints, but none on this node, and its internal traffic policy is Local"#]],
    );
}

#[test]
fn policy_local_without_any_endpoint_rejects() {
    assert_explanation(
        [service().internal_local().into()],
        "10.96.0.1:80",
        expect![[r#"
            reject default/s:80 []
            rejected: no endpoint is ready or serving"#]],
    );
}

#[test]
fn relayed_connection_lists_its_backends() {
    let slice = endpoints().at("10.1.0.1").at("10.1.0.2");
    assert_explanation(
        [service().mode(Mode::Relay).into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            forward default/s:80 [10.1.0.1:8080 10.1.0.2:8080]
            relayed to one of 2 backends"#]],
    );
}

#[test]
fn other_port_of_a_service_is_rejected() {
    assert_explanation(
        [service().into(), endpoints().at("10.1.0.1").into()],
        "10.96.0.1:81",
        expect![[r#"
            reject no portal []
            rejected: 10.96.0.1 is the address of service default/s, which has no port TCP 81"#]],
    );
}

#[test]
fn unknown_address_is_not_translated() {
    assert_explanation(
        [service().into()],
        "10.97.0.1:80",
        expect![[r#"
            pass no portal []
            not translated: TCP 10.97.0.1 port 80 is not a portal"#]],
    );
}

#[test]
fn unallocated_address_in_a_service_range_is_dropped() {
    let ranges = Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap()]);
    assert_explanation(
        [ranges, service().into()],
        "10.96.0.2:80",
        expect![[r#"
            drop no portal []
            dropped: 10.96.0.2 is in a service range, but is not assigned to a service"#]],
    );
}

#[test]
fn address_of_another_proxys_service_in_a_service_range_is_not_translated() {
    let ranges = Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap()]);
    let mut other = service();
    other.has_portals = false;
    assert_steps(
        [ranges, other.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the address of service default/s, which another proxy serves
            not translated: TCP 10.96.0.1 port 80 is not a portal
        "#]],
    );
}

#[test]
fn service_of_another_proxy_is_named() {
    let mut other = service();
    other.has_portals = false;
    assert_steps(
        [other.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the address of service default/s, which another proxy serves
            not translated: TCP 10.96.0.1 port 80 is not a portal
        "#]],
    );
}

#[test]
fn invisible_service_is_named() {
    let node_context = NodeContext { filter: ServiceFilter::Only([].into()), ..node_context() };
    let explanation = explain(&snapshot([service().into()]), &node_context, &from_pod(tcp("10.96.0.1:80")));
    assert_eq!(explanation.verdict, Outcome::Pass);
    assert_eq!(
        explanation.steps[0],
        "10.96.0.1 is the address of service default/s, which is not visible to the pod"
    );
}

#[test]
fn address_of_an_invisible_service_is_not_called_unassigned() {
    let node_context = NodeContext { filter: ServiceFilter::Only([].into()), ..node_context() };
    let ranges = Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap()]);
    let snapshot = snapshot([ranges, service().into()]);
    let explanation = explain(&snapshot, &node_context, &from_pod(tcp("10.96.0.1:80")));
    assert_eq!(explanation.verdict, Outcome::Drop);
    assert!(
        explanation.reason.ends_with("but service default/s has no portals here"),
        "{}",
        explanation.reason
    );
}

#[test]
fn only_sources_in_the_ranges_are_forwarded() {
    let balanced = service().balanced("192.0.2.2").only_from("10.2.0.0/16");
    let changes = [balanced.into(), endpoints().at("10.1.0.1").into()];
    let destination = tcp("192.0.2.2:80");
    let denied = |source: Option<&str>| {
        summary(&explain_query(&changes, &Query { destination, source: source.map(ip) }))
    };
    expect![[r#"
        drop default/s:80 []
        dropped: 10.1.0.99 is not in the source ranges of default/s"#]]
    .assert_eq(&denied(Some("10.1.0.99")));
    expect![[r#"
        forward default/s:80 [10.1.0.1:8080]
        forwarded to the only backend"#]]
    .assert_eq(&denied(Some("10.2.0.1")));
    expect![[r#"
        drop default/s:80 []
        dropped unless the source is in the source ranges of default/s; set --source"#]]
    .assert_eq(&denied(None));
}

#[test]
fn denied_source_has_no_steps_about_endpoints() {
    let balanced = service().balanced("192.0.2.2").only_from("10.2.0.0/16");
    assert_steps(
        [balanced.into(), endpoints().at("10.1.0.1").into()],
        "192.0.2.2:80",
        expect![[r#"
            192.0.2.2 is a load-balancer address of service default/s, and TCP 80 is its port named web
            access is limited to 10.2.0.0/16 and this connection is from an unknown source
            dropped unless the source is in the source ranges of default/s; set --source
        "#]],
    );
}

#[test]
fn node_port_is_explained_for_this_node_and_another_one() {
    let changes = [service().node_port(30080).into(), endpoints().at("10.1.0.1").into()];
    assert_steps(
        changes.clone(),
        "10.240.0.5:30080",
        expect![[r#"
            10.240.0.5 is this node's address, with a node port, of service default/s, and TCP 30080 is its port named web
            selected: all ready endpoints
              10.1.0.1:8080: selected
            forwarded to the only backend
        "#]],
    );
    assert_steps(
        changes,
        "10.240.0.6:30080",
        expect![[r#"
            30080 is a node port of service default/s, but 10.240.0.6 is not the address of this node
            not translated: TCP 10.240.0.6 port 30080 is not a portal
        "#]],
    );
}

#[test]
fn node_port_is_explained_for_an_unknown_node() {
    let explanation = explain(
        &snapshot([service().node_port(30080).into()]),
        &NodeContext::default(),
        &from_pod(tcp("10.240.0.5:30080")),
    );
    expect![[r#"
        30080 is a node port of service default/s, but the node's addresses are unknown: set --node
        not translated: TCP 10.240.0.5 port 30080 is not a portal"#]]
    .assert_eq(&explanation.steps.join("\n"));
}

#[test]
fn external_policy_local_is_explained_not_to_apply_to_a_pod() {
    let slice = endpoints().at("10.1.0.1").on("n2");
    let changes = [service().external("192.0.2.1").external_local().into(), slice.into()];
    assert_steps(
        changes,
        "192.0.2.1:80",
        expect![[r#"
            192.0.2.1 is an external address of service default/s, and TCP 80 is its port named web
            its external traffic policy Local applies to clients outside the cluster: for clients inside, all endpoints are eligible
            selected: all ready endpoints
              10.1.0.1:8080 on node n2: selected
            forwarded to the only backend
        "#]],
    );
}

#[test]
fn every_endpoint_is_listed_with_its_status() {
    let slice = endpoints().at("10.1.0.1").on("n1").at("10.1.0.2").on("n2").at("10.1.0.3").unready();
    let slice = slice.at("10.1.0.4").terminating().at("10.1.0.5").finished();
    assert_steps(
        [service().into(), slice.clone().into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            selected: all ready endpoints
              10.1.0.1:8080 on node n1: selected
              10.1.0.2:8080 on node n2: selected
              10.1.0.3:8080: not selected: not ready
              10.1.0.4:8080: not selected: terminating, and others are ready
              10.1.0.5:8080: not selected: terminating, and no longer serving
            forwarded to one of 2 backends
        "#]],
    );
    assert_steps(
        [service().internal_local().into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Local
            selected: ready endpoints on this node
              10.1.0.1:8080 on node n1: selected
              10.1.0.2:8080 on node n2: not selected: not on this node
              10.1.0.3:8080: not selected: not ready
              10.1.0.4:8080: not selected: terminating, and others are ready
              10.1.0.5:8080: not selected: terminating, and no longer serving
            forwarded to the only backend
        "#]],
    );
}

#[test]
fn terminating_fallback_is_explained() {
    let slice = endpoints().at("10.1.0.1").on("n1").terminating().at("10.1.0.2").unready();
    assert_steps(
        [service().into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            selected: serving, terminating endpoints, because none is ready
              10.1.0.1:8080 on node n1: selected
              10.1.0.2:8080: not selected: not ready
            forwarded to the only backend
        "#]],
    );
    let slice = endpoints().at("10.1.0.1").on("n1").terminating().at("10.1.0.2").on("n2");
    assert_steps(
        [service().internal_local().into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Local
            selected: serving, terminating endpoints on this node, because none on it is ready
              10.1.0.1:8080 on node n1: selected
              10.1.0.2:8080 on node n2: not selected: not on this node
            forwarded to the only backend
        "#]],
    );
}

#[test]
fn hints_are_explained() {
    let slice = endpoints().at("10.1.0.1").zone("a").at("10.1.0.2").zone("b");
    assert_steps(
        [service().into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            selected: ready endpoints with a hint for this zone
              10.1.0.1:8080: selected
              10.1.0.2:8080: not selected: its hints are for other zones
            forwarded to the only backend
        "#]],
    );
    let slice = endpoints().at("10.1.0.1").for_node("n2").at("10.1.0.2").for_node("n1");
    assert_steps(
        [service().into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            selected: ready endpoints with a hint for this node
              10.1.0.1:8080: not selected: its hints are for other nodes
              10.1.0.2:8080: selected
            forwarded to the only backend
        "#]],
    );
}

#[test]
fn conflicting_claim_is_explained() {
    let other = svc("a").ip("10.96.0.2").tcp("", 80).external("10.96.0.1");
    assert_steps(
        [service().into(), other.into(), endpoints().at("10.1.0.1").into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            service default/a requests 10.96.0.1 TCP port 80: the address is the cluster address of a service
            its internal traffic policy is Cluster
            selected: all ready endpoints
              10.1.0.1:8080: selected
            forwarded to the only backend
        "#]],
    );
}

#[test]
fn endpoint_with_the_address_of_a_service_is_explained() {
    let other = svc("a").ip("10.96.0.2").tcp("", 80);
    let slice = endpoints().at("10.96.0.2").at("10.1.0.1");
    assert_steps(
        [service().into(), other.into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            selected: all ready endpoints
              10.1.0.1:8080: selected
              10.96.0.2: not used: it is the address of service default/a
            forwarded to the only backend
        "#]],
    );
}

#[test]
fn slice_without_the_port_is_explained() {
    let slice = slice("s").tcp("http", 80).udp("web", 80).at("10.1.0.1");
    assert_steps(
        [service().into(), slice.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            selected: none, because no endpoint is ready or serving
              slice default/s-1 has no port "web" TCP (it has: "http" TCP, "web" UDP)
            rejected: no endpoint is ready or serving
        "#]],
    );
}

#[test]
fn affinity_and_the_relay_are_explained() {
    let slice = || Change::from(endpoints().at("10.1.0.1"));
    assert_steps(
        [service().sticky(600).into(), slice()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            selected: all ready endpoints
              10.1.0.1:8080: selected
            session affinity: a client keeps its backend until it is idle for 600 s
            forwarded to the only backend
        "#]],
    );
    assert_steps(
        [service().mode(Mode::Relay).into(), slice()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            selected: all ready endpoints
              10.1.0.1:8080: selected
            the relay in the pod's network namespace accepts the connection and tries the backends
            relayed to the only backend
        "#]],
    );
}

#[test]
fn scheduler_is_explained_unless_affinity_takes_precedence() {
    let steps = |service: Service| {
        let slice = endpoints().at("10.1.0.1").at("10.1.0.2");
        let explanation = explain_query(&[service.into(), slice.into()], &from_pod(tcp("10.96.0.1:80")));
        explanation.steps[5..].join("\n")
    };
    expect![[r#"
        its scheduler is rr: strict round robin
        forwarded to one of 2 backends"#]]
    .assert_eq(&steps(service().scheduler(Scheduler::RoundRobin)));
    expect![[r#"
        the relay in the pod's network namespace accepts the connection and tries the backends
        its scheduler in the relay is lc
        relayed to one of 2 backends"#]]
    .assert_eq(&steps(service().scheduler(Scheduler::LeastConnection)));
    expect![[r#"
        session affinity: a client keeps its backend until it is idle for 60 s
        forwarded to one of 2 backends"#]]
    .assert_eq(&steps(service().scheduler(Scheduler::RoundRobin).sticky(60)));
}

#[test]
fn connection_on_hold_is_explained() {
    let explanation = explain_query(&[service().hold_ms(2_500).into()], &from_pod(tcp("10.96.0.1:80")));
    expect![[r#"
        forward default/s:80 []
        no endpoint is ready or serving: the relay holds the connection until one is, for 2.5 s at most"#]]
    .assert_eq(&summary(&explanation));
}

#[test]
fn ipv6_and_udp_are_explained() {
    let both = svc("s").ip("10.96.0.1").ip("fd00::1").udp("dns", 53);
    let slice = slice("s").udp("dns", 5353).at("10.1.0.1").at("fd01::1");
    let explanation = explain_query(&[both.into(), slice.into()], &from_pod(udp("[fd00::1]:53")));
    expect![[r#"
        forward default/s:53 [[fd01::1]:5353]
        forwarded to the only backend"#]]
    .assert_eq(&summary(&explanation));
}
