//! Changes of services, endpoints and the node, and the checks that follow.

use proxy_core::endpoint::EndpointSlice;
use proxy_core::sample::{node_context, slice, svc};
use proxy_core::service::Service;
use proxy_core::snapshot::Change;

use super::*;

/// A cluster, seen from node `n1`.
struct TestCluster {
    snapshot: Snapshot,
    node: Node,
    checks: HealthChecks,
}

impl TestCluster {
    fn new() -> Self {
        Self { snapshot: Snapshot::new(), node: node_context().node, checks: HealthChecks::default() }
    }

    /// Applies a change, and returns the changed checks as `port service local-endpoints`.
    fn apply(&mut self, change: impl Into<Change>) -> Vec<String> {
        let changed = self.snapshot.apply(change.into());
        let changes = self.checks.refresh(&self.snapshot, &self.node, &changed);
        let text = |(port, check): (u16, Option<HealthCheck>)| match check {
            Some(HealthCheck { service, local_endpoints }) => format!("{port} {service} {local_endpoints}"),
            None => format!("{port} closed"),
        };
        let texts = changes.into_iter().map(text).collect();
        self.assert_equals_a_fresh_start();
        texts
    }

    fn assert_equals_a_fresh_start(&self) {
        let mut fresh = HealthChecks::default();
        fresh.refresh(&self.snapshot, &self.node, &ChangedServices::new());
        assert_eq!((&fresh.claims, &fresh.ports), (&self.checks.claims, &self.checks.ports));
    }

    fn conflicts(&self) -> Vec<String> {
        let text = |HealthCheckConflict { port, owner, refused }| format!("{port} {owner} {refused}");
        self.checks.conflicts().map(text).collect()
    }
}

fn service_with_health_check(name: &str, created: &str) -> Service {
    let service = svc(name).created(created).tcp("http", 80).tcp("https", 443);
    Service { health_check_node_port: Some(31_000), ..service }
}

fn web() -> Service {
    service_with_health_check("web", "2026-01-01T00:00:00Z")
}

fn endpoints(name: &str) -> EndpointSlice {
    slice(name).tcp("http", 8080).tcp("https", 8443)
}

#[test]
fn ready_endpoints_on_this_node_are_counted_by_address() {
    let mut cluster = TestCluster::new();
    assert_eq!(cluster.apply(web()), ["31000 default/web 0"]);
    let first = endpoints("web").at("10.1.0.1").on("n1").at("10.1.0.2").on("n1").at("10.2.0.1").on("n2");
    assert_eq!(cluster.apply(first), ["31000 default/web 2"]);
    let second = endpoints("web").named("web-2").at("10.1.0.2").on("n1").at("fd00::1").on("n1");
    assert_eq!(cluster.apply(second), ["31000 default/web 3"]);
    assert_eq!(cluster.apply(slice("web").at("10.1.0.1").on("n1")), ["31000 default/web 2"], "no ports");
}

#[test]
fn endpoints_that_are_not_ready_or_terminate_are_not_counted() {
    let mut cluster = TestCluster::new();
    cluster.apply(web());
    cluster.apply(endpoints("web").at("10.1.0.1").on("n1"));
    let mut terminating = endpoints("web").at("10.1.0.1").on("n1");
    terminating.endpoints[0].conditions.ready = false;
    terminating.endpoints[0].conditions.terminating = true;
    assert_eq!(cluster.apply(terminating), ["31000 default/web 0"]);
    assert_eq!(cluster.apply(endpoints("web").at("10.1.0.9")), [""; 0], "on no node");
}

#[test]
fn unrelated_changes_change_no_check() {
    let mut cluster = TestCluster::new();
    cluster.apply(web());
    assert_eq!(cluster.apply(svc("other").ip("10.96.0.9").tcp("", 80)), [""; 0]);
    assert_eq!(cluster.apply(endpoints("other").at("10.1.0.1").on("n1")), [""; 0]);
    assert_eq!(cluster.apply(endpoints("web").at("10.2.0.1").on("n2")), [""; 0]);
}

#[test]
fn moved_and_removed_ports_are_closed() {
    let mut cluster = TestCluster::new();
    cluster.apply(web());
    let moved = Service { health_check_node_port: Some(31_001), ..web() };
    assert_eq!(cluster.apply(moved), ["31000 closed", "31001 default/web 0"]);
    assert_eq!(
        cluster.apply(Service { health_check_node_port: None, ..web() }),
        ["31001 closed"],
        "externalTrafficPolicy became TestCluster"
    );
    cluster.apply(web());
    assert_eq!(cluster.apply(Service { has_portals: false, ..web() }), ["31000 closed"], "another proxy");
    cluster.apply(web());
    assert_eq!(cluster.apply(Change::ServiceDeleted(web().key)), ["31000 closed"]);
    assert_eq!(cluster.checks.check(31_000), None);
}

#[test]
fn oldest_service_has_a_port_that_several_claim_and_others_are_reported() {
    let mut cluster = TestCluster::new();
    cluster.apply(endpoints("web").at("10.1.0.1").on("n1"));
    assert_eq!(
        cluster.apply(service_with_health_check("young", "2026-03-01T00:00:00Z")),
        ["31000 default/young 0"]
    );
    assert_eq!(cluster.apply(web()), ["31000 default/web 1"]);
    assert_eq!(cluster.apply(service_with_health_check("middle", "2026-02-01T00:00:00Z")), [""; 0]);
    assert_eq!(cluster.conflicts(), ["31000 default/web default/middle", "31000 default/web default/young"]);
    assert_eq!(cluster.apply(Change::ServiceDeleted(web().key)), ["31000 default/middle 0"]);
    assert_eq!(cluster.conflicts(), ["31000 default/middle default/young"]);
}

#[test]
fn name_of_the_node_that_becomes_known_changes_all_checks() {
    let mut cluster = TestCluster::new();
    let name = std::mem::take(&mut cluster.node.name);
    cluster.apply(web());
    assert_eq!(cluster.apply(endpoints("web").at("10.1.0.1").on("n1")), [""; 0]);
    cluster.node.name = name;
    assert_eq!(cluster.apply(svc("other")), ["31000 default/web 1"]);
    // Other changes of the node do not matter.
    cluster.node.is_leaving = true;
    assert_eq!(cluster.apply(svc("another")), [""; 0]);
}

#[test]
fn endpoint_with_the_address_of_a_service_is_not_counted() {
    let mut cluster = TestCluster::new();
    cluster.apply(web());
    cluster.apply(endpoints("web").at("10.96.0.7").on("n1"));
    assert_eq!(cluster.apply(svc("victim").ip("10.96.0.7").tcp("", 80)), ["31000 default/web 0"]);
}
