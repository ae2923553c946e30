//! The complete text for iptables, for both families.
//!
//! A system test loads it with the real `iptables-restore`.

use expect_test::{Expect, expect};

use super::*;
use crate::model::endpoint::EndpointSlice;
use crate::model::service::{Scheduler, Service};
use crate::model::snapshot::Change;
use crate::routing::portal::portals;
use crate::sample::{node_context, slice, snapshot, svc};

fn check(family: Family, changes: impl IntoIterator<Item = Change>, expected: Expect) {
    let portals = portals(&snapshot(changes), &node_context());
    expected.assert_eq(&Iptables { portals: &portals, family }.to_string());
}

fn service() -> Service {
    svc("s").ip("10.96.0.1").tcp("web", 80)
}

fn endpoints() -> EndpointSlice {
    slice("s").tcp("web", 8080).at("10.1.0.1").on("n2")
}

#[test]
fn three_backends_have_equal_probability() {
    let slice = endpoints().at("10.1.0.2").at("10.1.0.3");
    check(
        Family::V4,
        [service().into(), slice.into()],
        expect![[r#"
            *nat
            :PORTICO-PORTALS - [0:0]
            :PORTICO-E0D8B0B32362 - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
            -A PORTICO-PORTALS -d 10.96.0.1/32 -p tcp -m comment --comment "default/s:web clusterIP" -m tcp --dport 80 -j PORTICO-E0D8B0B32362
            -A PORTICO-E0D8B0B32362 -p tcp -m statistic --mode random --probability 0.33333333333 -j DNAT --to-destination 10.1.0.1:8080
            -A PORTICO-E0D8B0B32362 -p tcp -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.1.0.2:8080
            -A PORTICO-E0D8B0B32362 -p tcp -j DNAT --to-destination 10.1.0.3:8080
            COMMIT
            *filter
            :PORTICO-REFUSE - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.96.0.1/32 -m comment --comment "default/s: no such port" -j REJECT --reject-with icmp-port-unreachable
            COMMIT
        "#]],
    );
}

#[test]
fn relayed_portal_is_one_redirect_with_the_name_of_its_service() {
    let apache = svc("apache-service").ip("10.11.0.1").tcp("", 12345).mode(Mode::Relay);
    let other = svc("dns").ip("10.11.0.2").udp("", 53).mode(Mode::Relay);
    check(
        Family::V4,
        [
            apache.into(),
            slice("apache-service").tcp("", 80).at("10.1.0.1").into(),
            other.into(),
            slice("dns").udp("", 53).at("10.1.0.1").into(),
        ],
        expect![[r#"
            *nat
            :PORTICO-PORTALS - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
            -A PORTICO-PORTALS -d 10.11.0.1/32 -p tcp -m comment --comment "apache-service" -m tcp --dport 12345 -j REDIRECT --to-ports 32768
            -A PORTICO-PORTALS -d 10.11.0.2/32 -p udp -m comment --comment "dns" -m udp --dport 53 -j REDIRECT --to-ports 32769
            COMMIT
            *filter
            :PORTICO-REFUSE - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
            -A PORTICO-REFUSE -d 10.11.0.1/32 -p tcp -m comment --comment "default/apache-service: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.11.0.1/32 -m comment --comment "default/apache-service: no such port" -j REJECT --reject-with icmp-port-unreachable
            -A PORTICO-REFUSE -d 10.11.0.2/32 -p tcp -m comment --comment "default/dns: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.11.0.2/32 -m comment --comment "default/dns: no such port" -j REJECT --reject-with icmp-port-unreachable
            COMMIT
        "#]],
    );
}

#[test]
fn portal_without_endpoints_is_rejected_by_protocol() {
    check(
        Family::V4,
        [service().udp("dns", 53).into()],
        expect![[r#"
            *nat
            :PORTICO-PORTALS - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
            COMMIT
            *filter
            :PORTICO-REFUSE - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s:web clusterIP" -m tcp --dport 80 -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p udp -m comment --comment "default/s:dns clusterIP" -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.96.0.1/32 -m comment --comment "default/s: no such port" -j REJECT --reject-with icmp-port-unreachable
            COMMIT
        "#]],
    );
}

#[test]
fn portal_whose_policy_excludes_all_endpoints_is_dropped() {
    check(
        Family::V4,
        [service().internal_local().into(), endpoints().into()],
        expect![[r#"
            *nat
            :PORTICO-PORTALS - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
            COMMIT
            *filter
            :PORTICO-REFUSE - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s:web clusterIP" -m tcp --dport 80 -j DROP
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.96.0.1/32 -m comment --comment "default/s: no such port" -j REJECT --reject-with icmp-port-unreachable
            COMMIT
        "#]],
    );
}

#[test]
fn sources_outside_the_ranges_are_dropped() {
    let balanced = || service().balanced("192.0.2.2").only_from("10.2.0.0/16").only_from("10.4.0.0/24");
    check(
        Family::V4,
        [balanced().into(), endpoints().into()],
        expect![[r#"
            *nat
            :PORTICO-PORTALS - [0:0]
            :PORTICO-E0D8B0B32362 - [0:0]
            :PORTICO-5A7DBD999974 - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
            -A PORTICO-PORTALS -d 10.96.0.1/32 -p tcp -m comment --comment "default/s:web clusterIP" -m tcp --dport 80 -j PORTICO-E0D8B0B32362
            -A PORTICO-PORTALS -s 10.2.0.0/16 -d 192.0.2.2/32 -p tcp -m comment --comment "default/s:web loadBalancer" -m tcp --dport 80 -j PORTICO-5A7DBD999974
            -A PORTICO-PORTALS -s 10.4.0.0/24 -d 192.0.2.2/32 -p tcp -m comment --comment "default/s:web loadBalancer" -m tcp --dport 80 -j PORTICO-5A7DBD999974
            -A PORTICO-E0D8B0B32362 -p tcp -j DNAT --to-destination 10.1.0.1:8080
            -A PORTICO-5A7DBD999974 -p tcp -j DNAT --to-destination 10.1.0.1:8080
            COMMIT
            *filter
            :PORTICO-REFUSE - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
            -A PORTICO-REFUSE -d 192.0.2.2/32 -p tcp -m comment --comment "default/s:web loadBalancer" -m tcp --dport 80 -j DROP
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.96.0.1/32 -m comment --comment "default/s: no such port" -j REJECT --reject-with icmp-port-unreachable
            COMMIT
        "#]],
    );
    check(
        Family::V4,
        [balanced().into()],
        expect![[r#"
            *nat
            :PORTICO-PORTALS - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
            COMMIT
            *filter
            :PORTICO-REFUSE - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s:web clusterIP" -m tcp --dport 80 -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -s 10.2.0.0/16 -d 192.0.2.2/32 -p tcp -m comment --comment "default/s:web loadBalancer" -m tcp --dport 80 -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -s 10.4.0.0/24 -d 192.0.2.2/32 -p tcp -m comment --comment "default/s:web loadBalancer" -m tcp --dport 80 -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 192.0.2.2/32 -p tcp -m comment --comment "default/s:web loadBalancer" -m tcp --dport 80 -j DROP
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.96.0.1/32 -m comment --comment "default/s: no such port" -j REJECT --reject-with icmp-port-unreachable
            COMMIT
        "#]],
    );
}

#[test]
fn portal_with_affinity_records_each_clients_backend() {
    check(
        Family::V4,
        [service().sticky(600).into(), endpoints().at("10.1.0.2").into()],
        expect![[r#"
            *nat
            :PORTICO-PORTALS - [0:0]
            :PORTICO-E0D8B0B32362 - [0:0]
            :PORTICO-E0D8B0B32362-0 - [0:0]
            :PORTICO-E0D8B0B32362-1 - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
            -A PORTICO-PORTALS -d 10.96.0.1/32 -p tcp -m comment --comment "default/s:web clusterIP" -m tcp --dport 80 -j PORTICO-E0D8B0B32362
            -A PORTICO-E0D8B0B32362-0 -p tcp -m recent --name PORTICO-E0D8B0B32362-0 --set -j DNAT --to-destination 10.1.0.1:8080
            -A PORTICO-E0D8B0B32362 -m recent --name PORTICO-E0D8B0B32362-0 --rcheck --seconds 600 --reap -j PORTICO-E0D8B0B32362-0
            -A PORTICO-E0D8B0B32362-1 -p tcp -m recent --name PORTICO-E0D8B0B32362-1 --set -j DNAT --to-destination 10.1.0.2:8080
            -A PORTICO-E0D8B0B32362 -m recent --name PORTICO-E0D8B0B32362-1 --rcheck --seconds 600 --reap -j PORTICO-E0D8B0B32362-1
            -A PORTICO-E0D8B0B32362 -p tcp -m statistic --mode random --probability 0.50000000000 -j PORTICO-E0D8B0B32362-0
            -A PORTICO-E0D8B0B32362 -p tcp -j PORTICO-E0D8B0B32362-1
            COMMIT
            *filter
            :PORTICO-REFUSE - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.96.0.1/32 -m comment --comment "default/s: no such port" -j REJECT --reject-with icmp-port-unreachable
            COMMIT
        "#]],
    );
}

#[test]
fn round_robin_portal_uses_every_nth_connection() {
    let slice = endpoints().at("10.1.0.2").at("10.1.0.3");
    let portals = portals(
        &snapshot([service().scheduler(Scheduler::RoundRobin).into(), slice.into()]),
        &node_context(),
    );
    let text = Iptables { portals: &portals, family: Family::V4 }.to_string();
    let statistics: Vec<&str> = text.lines().filter(|line| line.contains("statistic")).collect();
    expect![[r#"
        -A PORTICO-E0D8B0B32362 -p tcp -m statistic --mode nth --every 3 --packet 0 -j DNAT --to-destination 10.1.0.1:8080
        -A PORTICO-E0D8B0B32362 -p tcp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.1.0.2:8080"#]].assert_eq(&statistics.join("\n"));
}

#[test]
fn each_family_has_its_own_text_that_names_omitted_portals() {
    let both = || -> [Change; 3] {
        let ranges = vec!["10.96.0.0/16".parse().unwrap(), "fd00::/112".parse().unwrap()];
        let udp = svc("u").ip("fd00::2").udp("", 53);
        [Change::ServiceRanges(ranges), service().ip("fd00::1").into(), udp.into()]
    };
    let slices = || Change::from(endpoints().at("fd01::1").at("fd01::2"));
    check(
        Family::V6,
        both().into_iter().chain([slices()]),
        expect![[r##"
            # 1 IPv4 portals are omitted: they need a separate file
            *nat
            :PORTICO-PORTALS - [0:0]
            :PORTICO-1B01FBF89B19 - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
            -A PORTICO-PORTALS -d fd00::1/128 -p tcp -m comment --comment "default/s:web clusterIP" -m tcp --dport 80 -j PORTICO-1B01FBF89B19
            -A PORTICO-1B01FBF89B19 -p tcp -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination [fd01::1]:8080
            -A PORTICO-1B01FBF89B19 -p tcp -j DNAT --to-destination [fd01::2]:8080
            COMMIT
            *filter
            :PORTICO-REFUSE - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
            -A PORTICO-REFUSE -d fd00::2/128 -p udp -m comment --comment "default/u: clusterIP" -m udp --dport 53 -j REJECT --reject-with icmp6-port-unreachable
            -A PORTICO-REFUSE -d fd00::1/128 -p tcp -m comment --comment "default/s: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d fd00::1/128 -m comment --comment "default/s: no such port" -j REJECT --reject-with icmp6-port-unreachable
            -A PORTICO-REFUSE -d fd00::2/128 -p tcp -m comment --comment "default/u: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d fd00::2/128 -m comment --comment "default/u: no such port" -j REJECT --reject-with icmp6-port-unreachable
            -A PORTICO-REFUSE -d fd00::/112 -m comment --comment "no service" -j DROP
            COMMIT
        "##]],
    );
    check(
        Family::V4,
        both().into_iter().chain([slices()]),
        expect![[r##"
            # 2 IPv6 portals are omitted: they need a separate file
            *nat
            :PORTICO-PORTALS - [0:0]
            :PORTICO-E0D8B0B32362 - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
            -A PORTICO-PORTALS -d 10.96.0.1/32 -p tcp -m comment --comment "default/s:web clusterIP" -m tcp --dport 80 -j PORTICO-E0D8B0B32362
            -A PORTICO-E0D8B0B32362 -p tcp -j DNAT --to-destination 10.1.0.1:8080
            COMMIT
            *filter
            :PORTICO-REFUSE - [0:0]
            -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
            -A PORTICO-REFUSE -d 10.96.0.1/32 -p tcp -m comment --comment "default/s: no such port" -j REJECT --reject-with tcp-reset
            -A PORTICO-REFUSE -d 10.96.0.1/32 -m comment --comment "default/s: no such port" -j REJECT --reject-with icmp-port-unreachable
            -A PORTICO-REFUSE -d 10.96.0.0/16 -m comment --comment "no service" -j DROP
            COMMIT
        "##]],
    );
}

#[test]
fn many_backends_have_equal_probability() {
    // 1/n of what is left, for each: the shares must all be 1/n of the whole.
    let many = (1..=7).fold(endpoints(), |slice, octet| slice.at(&format!("10.1.1.{octet}")));
    let portals = portals(&snapshot([service().into(), many.into()]), &node_context());
    let text = Iptables { portals: &portals, family: Family::V4 }.to_string();
    let mut left = 1.0_f64;
    let mut shares = Vec::new();
    for line in text.lines().filter(|line| line.contains("-j DNAT")) {
        let chance = line.split("--probability ").nth(1).and_then(|rest| rest.split(' ').next());
        let share = left * chance.map_or(1.0, |text| text.parse().unwrap());
        left -= share;
        shares.push(share);
    }
    assert_eq!(shares.len(), 8);
    assert!(shares.iter().all(|share| (share - 1.0 / 8.0).abs() < 1e-9), "{shares:?}");
}

#[test]
fn chain_names_fit_the_limit_of_the_kernel() {
    let service = svc("s").ip("2001:db8:1111:2222:3333:4444:5555:6666").tcp("web", 65_535).sticky(86_400);
    let many = (0..300).fold(slice("s").tcp("web", 65_535), |slice, n| slice.at(&format!("fd01::{n:x}")));
    let portals = portals(&snapshot([service.into(), many.into()]), &node_context());
    let text = Iptables { portals: &portals, family: Family::V6 }.to_string();
    let mut names = text.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
    assert!(names.all(|name| name.len() <= 28));
}

#[test]
fn relayed_portals_beyond_the_last_port_are_omitted_and_named() {
    let last = u16::MAX - RELAY_PORT_MIN + 2; // two ports more than there are for relays
    let many = (1..=last + 1).fold(svc("s").ip("10.96.0.1"), |service, port| service.tcp("", port));
    let slice = slice("s").tcp("", 80).at("10.1.0.1");
    let portals = portals(&snapshot([many.mode(Mode::Relay).into(), slice.into()]), &node_context());
    let text = Iptables { portals: &portals, family: Family::V4 }.to_string();
    assert_eq!(text.matches("-j REDIRECT").count(), 32_768);
    assert!(text.contains("--to-ports 65535\n"));
    assert_eq!(text.matches("# default/s: clusterIP is omitted").count(), 2);
}
