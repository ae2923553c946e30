//! The answer to "what happens to this connection, and why": each rule by its verdict, portal, backends and
//! reason.
//!
//! That verdict and backends agree with the tracer in every cluster is a property, in `plan`. Each step of the
//! text form is tested where it says what no other field says.

use expect_test::{Expect, expect};

use super::*;
use crate::model::endpoint::EndpointSlice;
use crate::model::service::Scheduler;
use crate::model::snapshot::Change;
use crate::routing::portal::ServiceFilter;
use crate::sample::{ip, node_context, slice, snapshot, svc, tcp, udp};

fn ask(changes: &[Change], question: &Query) -> Explanation {
    explain(&snapshot(changes.to_vec()), &node_context(), question)
}

fn from_pod(destination: PortalKey) -> Query {
    Query { destination, client: Client::Pod, source: None }
}

/// Verdict, portal, backends and reason on one line each.
fn short(told: &Explanation) -> String {
    let portal = told.portal.as_deref().unwrap_or("no portal");
    let backends: Vec<String> = told.backends.iter().map(ToString::to_string).collect();
    format!("{} {portal} [{}]\n{}", told.verdict.name(), backends.join(" "), told.reason)
}

fn check(changes: impl IntoIterator<Item = Change>, destination: &str, expected: Expect) {
    let changes: Vec<Change> = changes.into_iter().collect();
    expected.assert_eq(&short(&ask(&changes, &from_pod(tcp(destination)))));
}

/// All steps of the text form.
fn check_steps(changes: impl IntoIterator<Item = Change>, destination: &str, expected: Expect) {
    let changes: Vec<Change> = changes.into_iter().collect();
    let told = ask(&changes, &from_pod(tcp(destination)));
    expected.assert_eq(&told.steps.iter().map(|step| format!("{step}\n")).collect::<String>());
}

fn service() -> Service {
    svc("s").ip("10.96.0.1").tcp("web", 80)
}

fn endpoints() -> EndpointSlice {
    slice("s").tcp("web", 8080)
}

#[test]
fn a_connection_to_one_endpoint() {
    check(
        [service().into(), endpoints().at("10.1.0.1").into()],
        "10.96.0.1:80",
        expect![[r#"
            forward default/s:80 [10.1.0.1:8080]
            sent to the only backend"#]],
    );
}

#[test]
fn a_connection_to_one_of_several_endpoints_names_them_in_order() {
    let made = endpoints().at("10.1.0.2").at("10.1.0.1");
    check(
        [service().into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            forward default/s:80 [10.1.0.1:8080 10.1.0.2:8080]
            sent to one of 2 backends"#]],
    );
}

#[test]
fn a_service_without_endpoints_refuses() {
    check(
        [service().into()],
        "10.96.0.1:80",
        expect![[r#"
            reject default/s:80 []
            refused: no endpoint is ready or still serving"#]],
    );
    check(
        [service().into(), endpoints().at("10.1.0.1").unready().into()],
        "10.96.0.1:80",
        expect![[r#"
            reject default/s:80 []
            refused: no endpoint is ready or still serving"#]],
    );
}

#[test]
fn policy_local_without_local_endpoints_drops() {
    let made = endpoints().at("10.1.0.1").on("n2");
    check(
        [service().internal_local().into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            drop default/s:80 []
            dropped: the service has endpoints, but none on this node, and its internal traffic policy is Local"#]],
    );
}

#[test]
fn policy_local_without_any_endpoint_refuses() {
    check(
        [service().internal_local().into()],
        "10.96.0.1:80",
        expect![[r#"
            reject default/s:80 []
            refused: no endpoint is ready or still serving"#]],
    );
}

#[test]
fn a_relayed_connection_names_its_backends() {
    let made = endpoints().at("10.1.0.1").at("10.1.0.2");
    check(
        [service().mode(Mode::Relay).into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            forward default/s:80 [10.1.0.1:8080 10.1.0.2:8080]
            relayed to one of 2 backends"#]],
    );
}

#[test]
fn another_port_of_a_service_is_refused() {
    check(
        [service().into(), endpoints().at("10.1.0.1").into()],
        "10.96.0.1:81",
        expect![[r#"
            reject no portal []
            refused: 10.96.0.1 is the address of service default/s, which has no port TCP 81"#]],
    );
}

#[test]
fn an_unknown_address_is_left_alone() {
    check(
        [service().into()],
        "10.97.0.1:80",
        expect![[r#"
            pass no portal []
            left as it is: TCP 10.97.0.1 port 80 is no portal"#]],
    );
}

#[test]
fn an_address_of_a_service_range_that_nobody_has_leads_nowhere() {
    let ranges = Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap()]);
    check(
        [ranges, service().into()],
        "10.96.0.2:80",
        expect![[r#"
            drop no portal []
            dropped: 10.96.0.2 is in a service range, but no service has it"#]],
    );
}

#[test]
fn an_address_of_another_proxys_service_passes_though_it_is_in_a_service_range() {
    let ranges = Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap()]);
    let mut other = service();
    other.has_portals = false;
    check_steps(
        [ranges, other.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the address of service default/s, for which another proxy is responsible
            left as it is: TCP 10.96.0.1 port 80 is no portal
        "#]],
    );
}

#[test]
fn a_service_of_another_proxy_is_named_where_its_address_passes() {
    let mut other = service();
    other.has_portals = false;
    check_steps(
        [other.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the address of service default/s, for which another proxy is responsible
            left as it is: TCP 10.96.0.1 port 80 is no portal
        "#]],
    );
}

#[test]
fn a_service_out_of_view_is_named_where_its_address_passes() {
    let node_context = NodeContext { filter: ServiceFilter::Only([].into()), ..node_context() };
    let told = explain(&snapshot([service().into()]), &node_context, &from_pod(tcp("10.96.0.1:80")));
    assert_eq!(told.verdict, Outcome::Pass);
    assert_eq!(told.steps[0], "10.96.0.1 is the address of service default/s, which is not in view");
}

#[test]
fn an_address_of_a_service_range_that_a_service_out_of_view_has_is_not_called_nobodys() {
    let node_context = NodeContext { filter: ServiceFilter::Only([].into()), ..node_context() };
    let ranges = Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap()]);
    let snapshot = snapshot([ranges, service().into()]);
    let told = explain(&snapshot, &node_context, &from_pod(tcp("10.96.0.1:80")));
    assert_eq!(told.verdict, Outcome::Drop);
    assert!(told.reason.ends_with("but service default/s has no portals here"), "{}", told.reason);
}

#[test]
fn a_source_that_is_not_in_the_ranges_is_dropped_and_one_that_is_passes() {
    let balanced = service().balanced("192.0.2.2").only_from("10.2.0.0/16");
    let changes = [balanced.into(), endpoints().at("10.1.0.1").into()];
    let destination = tcp("192.0.2.2:80");
    let told = |source: Option<&str>, client| {
        short(&ask(&changes, &Query { destination, client, source: source.map(ip) }))
    };
    expect![[r#"
        drop default/s:80 []
        dropped: 10.1.0.99 is in none of the source ranges of default/s"#]]
    .assert_eq(&told(Some("10.1.0.99"), Client::Pod));
    expect![[r#"
        forward default/s:80 [10.1.0.1:8080]
        sent to the only backend"#]]
    .assert_eq(&told(Some("10.2.0.1"), Client::Pod));
    expect![[r#"
        drop default/s:80 []
        dropped unless the source is in the source ranges of default/s; name it with --source"#]]
    .assert_eq(&told(None, Client::Pod));
    expect![[r#"
        drop default/s:80 []
        dropped: 10.240.0.5 is in none of the source ranges of default/s"#]]
    .assert_eq(&told(None, Client::Node));
}

#[test]
fn the_node_itself_comes_with_its_own_address() {
    let balanced = service().balanced("192.0.2.2").only_from("10.240.0.0/24");
    let changes = [balanced.into(), endpoints().at("10.1.0.1").into()];
    let verdict =
        |client| ask(&changes, &Query { destination: tcp("192.0.2.2:80"), client, source: None }).verdict;
    assert_eq!(verdict(Client::Node), Outcome::Forward);
    assert_eq!(verdict(Client::Pod), Outcome::Drop);
}

#[test]
fn where_the_source_is_barred_nothing_is_said_about_endpoints() {
    let balanced = service().balanced("192.0.2.2").only_from("10.2.0.0/16");
    check_steps(
        [balanced.into(), endpoints().at("10.1.0.1").into()],
        "192.0.2.2:80",
        expect![[r#"
            192.0.2.2 is a load-balancer address of service default/s, and TCP 80 is its port named web
            it may be used from 10.2.0.0/16 only; this connection comes from an unknown source
            dropped unless the source is in the source ranges of default/s; name it with --source
        "#]],
    );
}

#[test]
fn a_node_port_is_explained_on_the_node_and_beside_it() {
    let changes = [service().node_port(30080).into(), endpoints().at("10.1.0.1").into()];
    check_steps(
        changes.clone(),
        "10.240.0.5:30080",
        expect![[r#"
            10.240.0.5 is this node's address, with a node port, of service default/s, and TCP 30080 is its port named web
            chosen are all ready endpoints
              10.1.0.1:8080: chosen
            sent to the only backend
        "#]],
    );
    check_steps(
        changes,
        "10.240.0.6:30080",
        expect![[r#"
            30080 is a node port of service default/s, but 10.240.0.6 is not the address of this node
            left as it is: TCP 10.240.0.6 port 30080 is no portal
        "#]],
    );
}

#[test]
fn a_node_port_is_explained_where_the_node_is_not_known() {
    let told = explain(
        &snapshot([service().node_port(30080).into()]),
        &NodeContext::default(),
        &from_pod(tcp("10.240.0.5:30080")),
    );
    expect![[r#"
        30080 is a node port of service default/s, but the node's addresses are not known: name it with --node
        left as it is: TCP 10.240.0.5 port 30080 is no portal"#]]
    .assert_eq(&told.steps.join("\n"));
}

#[test]
fn external_policy_local_is_said_not_to_bind_a_pod() {
    let made = endpoints().at("10.1.0.1").on("n2");
    let changes = [service().external("192.0.2.1").external_local().into(), made.into()];
    check_steps(
        changes,
        "192.0.2.1:80",
        expect![[r#"
            192.0.2.1 is an external address of service default/s, and TCP 80 is its port named web
            its external traffic policy Local is for traffic from outside: from inside the cluster all endpoints count
            chosen are all ready endpoints
              10.1.0.1:8080 on node n2: chosen
            sent to the only backend
        "#]],
    );
}

#[test]
fn every_endpoint_is_told_with_its_fate() {
    let made = endpoints().at("10.1.0.1").on("n1").at("10.1.0.2").on("n2").at("10.1.0.3").unready();
    let made = made.at("10.1.0.4").terminating().at("10.1.0.5").finished();
    check_steps(
        [service().into(), made.clone().into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            chosen are all ready endpoints
              10.1.0.1:8080 on node n1: chosen
              10.1.0.2:8080 on node n2: chosen
              10.1.0.3:8080: not chosen: it is not ready
              10.1.0.4:8080: not chosen: it terminates, and others are ready
              10.1.0.5:8080: not chosen: it terminates and serves no more
            sent to one of 2 backends
        "#]],
    );
    check_steps(
        [service().internal_local().into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Local
            chosen are the ready endpoints on this node
              10.1.0.1:8080 on node n1: chosen
              10.1.0.2:8080 on node n2: not chosen: it is not on this node
              10.1.0.3:8080: not chosen: it is not ready
              10.1.0.4:8080: not chosen: it terminates, and others are ready
              10.1.0.5:8080: not chosen: it terminates and serves no more
            sent to the only backend
        "#]],
    );
}

#[test]
fn the_terminating_fallback_is_told() {
    let made = endpoints().at("10.1.0.1").on("n1").terminating().at("10.1.0.2").unready();
    check_steps(
        [service().into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            none is ready: chosen are those that still serve while they terminate
              10.1.0.1:8080 on node n1: chosen
              10.1.0.2:8080: not chosen: it is not ready
            sent to the only backend
        "#]],
    );
    let made = endpoints().at("10.1.0.1").on("n1").terminating().at("10.1.0.2").on("n2");
    check_steps(
        [service().internal_local().into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Local
            none is ready on this node: chosen are those here that still serve while they terminate
              10.1.0.1:8080 on node n1: chosen
              10.1.0.2:8080 on node n2: not chosen: it is not on this node
            sent to the only backend
        "#]],
    );
}

#[test]
fn hints_are_told() {
    let made = endpoints().at("10.1.0.1").zone("a").at("10.1.0.2").zone("b");
    check_steps(
        [service().into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            chosen are the ready endpoints that are hinted for this zone
              10.1.0.1:8080: chosen
              10.1.0.2:8080: not chosen: its hints name other zones
            sent to the only backend
        "#]],
    );
    let made = endpoints().at("10.1.0.1").for_node("n2").at("10.1.0.2").for_node("n1");
    check_steps(
        [service().into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            chosen are the ready endpoints that are hinted for this node
              10.1.0.1:8080: not chosen: its hints name other nodes
              10.1.0.2:8080: chosen
            sent to the only backend
        "#]],
    );
}

#[test]
fn a_rival_claim_is_told() {
    let other = svc("a").ip("10.96.0.2").tcp("", 80).external("10.96.0.1");
    check_steps(
        [service().into(), other.into(), endpoints().at("10.1.0.1").into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            service default/a asks for 10.96.0.1 TCP port 80: the address is the cluster address of a service
            its internal traffic policy is Cluster
            chosen are all ready endpoints
              10.1.0.1:8080: chosen
            sent to the only backend
        "#]],
    );
}

#[test]
fn an_endpoint_with_the_address_of_a_service_is_told_apart() {
    let other = svc("a").ip("10.96.0.2").tcp("", 80);
    let made = endpoints().at("10.96.0.2").at("10.1.0.1");
    check_steps(
        [service().into(), other.into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            chosen are all ready endpoints
              10.1.0.1:8080: chosen
              10.96.0.2: not used: it is the address of service default/a
            sent to the only backend
        "#]],
    );
}

#[test]
fn a_slice_whose_ports_do_not_join_is_told() {
    let made = slice("s").tcp("http", 80).udp("web", 80).at("10.1.0.1");
    check_steps(
        [service().into(), made.into()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            none is chosen: no endpoint is ready or still serving
              slice default/s-1 has no port "web" TCP (it has: "http" TCP, "web" UDP)
            refused: no endpoint is ready or still serving
        "#]],
    );
}

#[test]
fn affinity_and_the_relay_are_told() {
    let made = || Change::from(endpoints().at("10.1.0.1"));
    check_steps(
        [service().sticky(600).into(), made()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            chosen are all ready endpoints
              10.1.0.1:8080: chosen
            session affinity: a client stays with its backend until it was quiet for 600 s
            sent to the only backend
        "#]],
    );
    check_steps(
        [service().mode(Mode::Relay).into(), made()],
        "10.96.0.1:80",
        expect![[r#"
            10.96.0.1 is the cluster address of service default/s, and TCP 80 is its port named web
            its internal traffic policy is Cluster
            chosen are all ready endpoints
              10.1.0.1:8080: chosen
            the relay in the pod's network namespace takes the connection and tries the backends
            relayed to the only backend
        "#]],
    );
}

#[test]
fn the_scheduler_is_told_unless_affinity_comes_first() {
    let manner = |service: Service| {
        let made = endpoints().at("10.1.0.1").at("10.1.0.2");
        let told = ask(&[service.into(), made.into()], &from_pod(tcp("10.96.0.1:80")));
        told.steps[5..].join("\n")
    };
    expect![[r#"
        its scheduler is rr: connections go to the backends in turn
        sent to one of 2 backends"#]]
    .assert_eq(&manner(service().scheduler(Scheduler::RoundRobin)));
    expect![[r#"
        the relay in the pod's network namespace takes the connection and tries the backends
        its scheduler, in the relay, is lc
        relayed to one of 2 backends"#]]
    .assert_eq(&manner(service().scheduler(Scheduler::LeastConnection)));
    expect![[r#"
        session affinity: a client stays with its backend until it was quiet for 60 s
        sent to one of 2 backends"#]]
    .assert_eq(&manner(service().scheduler(Scheduler::RoundRobin).sticky(60)));
}

#[test]
fn a_connection_that_is_held_for_a_backend_is_told() {
    let told = ask(&[service().hold_ms(2_500).into()], &from_pod(tcp("10.96.0.1:80")));
    expect![[r#"
        forward default/s:80 []
        no endpoint is ready or still serving: held for one by the relay, for 2.5 s at most"#]]
    .assert_eq(&short(&told));
}

#[test]
fn ipv6_and_udp_are_explained_alike() {
    let both = svc("s").ip("10.96.0.1").ip("fd00::1").udp("dns", 53);
    let made = slice("s").udp("dns", 5353).at("10.1.0.1").at("fd01::1");
    let told = ask(&[both.into(), made.into()], &from_pod(udp("[fd00::1]:53")));
    expect![[r#"
        forward default/s:53 [[fd01::1]:5353]
        sent to the only backend"#]]
    .assert_eq(&short(&told));
}
