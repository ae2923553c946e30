//! The kubelet's rules for variables.

use expect_test::{Expect, expect};

use super::*;
use crate::model::service::Protocol;
use crate::model::snapshot::Change;
use crate::sample::{snapshot, svc};

fn assert_environment(
    services: impl IntoIterator<Item = Service>,
    namespace: &str,
    links: bool,
    expected: Expect,
) {
    let snapshot = snapshot(services.into_iter().map(Change::Service));
    let lines = environment(&snapshot, namespace, links).variables;
    let text: String = lines.iter().map(|v| format!("{}={}\n", v.name, v.value)).collect();
    expected.assert_eq(&text);
}

fn names(services: impl IntoIterator<Item = Service>, namespace: &str, links: bool) -> Vec<String> {
    let snapshot = snapshot(services.into_iter().map(Change::Service));
    environment(&snapshot, namespace, links).variables.into_iter().map(|v| v.name).collect()
}

#[test]
fn unnamed_port_has_seven_variables_in_the_kubelets_order() {
    assert_environment(
        [svc("redis-master").ip("10.0.0.11").tcp("", 6379)],
        "default",
        true,
        expect![[r"
            REDIS_MASTER_SERVICE_HOST=10.0.0.11
            REDIS_MASTER_SERVICE_PORT=6379
            REDIS_MASTER_PORT=tcp://10.0.0.11:6379
            REDIS_MASTER_PORT_6379_TCP=tcp://10.0.0.11:6379
            REDIS_MASTER_PORT_6379_TCP_PROTO=tcp
            REDIS_MASTER_PORT_6379_TCP_PORT=6379
            REDIS_MASTER_PORT_6379_TCP_ADDR=10.0.0.11
        "]],
    );
}

#[test]
fn short_variables_describe_the_first_port_of_the_object() {
    assert_environment(
        [svc("dns").ip("10.0.0.10").udp("dns", 53).tcp("dns-tcp", 53).port(Protocol::Sctp, "sig", 36)],
        "default",
        true,
        expect![[r"
            DNS_SERVICE_HOST=10.0.0.10
            DNS_SERVICE_PORT=53
            DNS_SERVICE_PORT_DNS=53
            DNS_SERVICE_PORT_DNS_TCP=53
            DNS_SERVICE_PORT_SIG=36
            DNS_PORT=udp://10.0.0.10:53
            DNS_PORT_53_UDP=udp://10.0.0.10:53
            DNS_PORT_53_UDP_PROTO=udp
            DNS_PORT_53_UDP_PORT=53
            DNS_PORT_53_UDP_ADDR=10.0.0.10
            DNS_PORT_53_TCP=tcp://10.0.0.10:53
            DNS_PORT_53_TCP_PROTO=tcp
            DNS_PORT_53_TCP_PORT=53
            DNS_PORT_53_TCP_ADDR=10.0.0.10
            DNS_PORT_36_SCTP=sctp://10.0.0.10:36
            DNS_PORT_36_SCTP_PROTO=sctp
            DNS_PORT_36_SCTP_PORT=36
            DNS_PORT_36_SCTP_ADDR=10.0.0.10
        "]],
    );
}

#[test]
fn ipv6_is_bracketed_in_urls_only_and_never_rewritten() {
    let mut service = svc("six").ip("2001:db8::").tcp("", 80);
    service.cluster_ip_text = Some("2001:DB8::".into());
    assert_environment(
        [service],
        "default",
        true,
        expect![[r"
            SIX_SERVICE_HOST=2001:DB8::
            SIX_SERVICE_PORT=80
            SIX_PORT=tcp://[2001:DB8::]:80
            SIX_PORT_80_TCP=tcp://[2001:DB8::]:80
            SIX_PORT_80_TCP_PROTO=tcp
            SIX_PORT_80_TCP_PORT=80
            SIX_PORT_80_TCP_ADDR=2001:DB8::
        "]],
    );
}

#[test]
fn dual_stack_service_has_variables_of_its_primary_address_only() {
    let service = svc("both").ip("10.0.0.1").ip("fd00::1").tcp("", 80);
    let snapshot = snapshot([Change::Service(service)]);
    let values = environment(&snapshot, "default", true).variables;
    assert_eq!(values[0].value, "10.0.0.1");
    assert!(values.iter().all(|v| !v.value.contains("fd00")), "{values:?}");
}

#[test]
fn headless_service_has_no_variables() {
    assert!(names([svc("headless").tcp("", 80)], "default", true).is_empty());
}

#[test]
fn service_of_another_proxy_has_variables() {
    let mut service = svc("other").ip("10.0.0.1").tcp("", 80);
    service.has_portals = false;
    assert_eq!(names([service], "default", true).len(), 7);
}

#[test]
fn services_of_other_namespaces_are_not_visible() {
    assert!(names([svc("db").namespace("team").ip("10.0.0.1").tcp("", 80)], "default", true).is_empty());
}

#[test]
fn api_server_is_visible_without_links() {
    let api = || svc("kubernetes").ip("10.96.0.1").tcp("https", 443);
    let own = || svc("db").namespace("team").ip("10.0.0.1").tcp("", 80);
    let without = names([api(), own()], "team", false);
    assert!(without.iter().all(|name| name.starts_with("KUBERNETES_")), "{without:?}");
    assert!(without.contains(&"KUBERNETES_SERVICE_PORT_HTTPS".to_owned()));
    assert_eq!(names([api(), own()], "team", true).len(), 8 + 7);
}

#[test]
fn service_named_kubernetes_replaces_the_api_server_only_with_links() {
    let both = || {
        [
            svc("kubernetes").ip("10.96.0.1").tcp("", 443),
            svc("kubernetes").namespace("team").ip("10.0.0.9").tcp("", 6443),
        ]
    };
    let host = |links| {
        let snapshot = snapshot(both().map(Change::Service));
        environment(&snapshot, "team", links).variables[0].value.clone()
    };
    assert_eq!(host(true), "10.0.0.9");
    assert_eq!(host(false), "10.96.0.1");
}

#[test]
fn first_service_by_name_takes_precedence_for_a_variable() {
    let conflict = [svc("foo-service").ip("10.0.0.2").tcp("", 90), svc("foo").ip("10.0.0.1").tcp("", 80)];
    let snapshot = snapshot(conflict.map(Change::Service));
    let environment = environment(&snapshot, "default", true);
    let values: Vec<&str> =
        environment.variables.iter().filter(|v| v.name == "FOO_SERVICE_PORT").map(|v| &*v.value).collect();
    assert_eq!(values, ["80"]);
    let key = |name| ServiceKey::new("default", name);
    let expected =
        VariableConflict { name: "FOO_SERVICE_PORT".into(), kept: key("foo"), lost: key("foo-service") };
    assert_eq!(environment.conflicts, [expected]);
}

#[test]
fn name_with_a_leading_digit_is_reported() {
    let snapshot = snapshot([Change::Service(svc("1api").ip("10.0.0.1").tcp("", 80))]);
    let environment = environment(&snapshot, "default", true);
    assert_eq!(environment.variables[0].name, "1API_SERVICE_HOST");
    assert_eq!(environment.unaddressable, [ServiceKey::new("default", "1api")]);
}
