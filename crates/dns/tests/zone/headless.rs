//! Headless services: section 2.4 of the specification.

use std::collections::BTreeSet;

use dns::{Zone, ZoneConfig};
use proxy_core::dns::DnsEndpoints;
use proxy_core::endpoint::EndpointSlice;
use proxy_core::sample::{slice, svc};
use proxy_core::service::Service;

use crate::oracle::{assert_answers, question, zone, zone_with};

fn members() -> Zone {
    zone([
        svc("db").tcp("sql", 5432).into(),
        slice("db")
            .named("db-v4")
            .tcp("sql", 5432)
            .at("10.1.0.1")
            .hostname("db-0")
            .at("10.1.0.2")
            .hostname("db-1")
            .at("10.1.0.3")
            .at("10.1.0.4")
            .hostname("db-3")
            .unready()
            .into(),
        slice("db").named("db-v6").tcp("sql", 5432).at("fd00::1").hostname("db-0").at("fd00::3").into(),
        svc("silent").tcp("x", 1).into(),
        slice("silent").tcp("x", 1).at("10.1.0.9").unready().into(),
        svc("bare").into(),
        slice("bare").at("10.1.0.7").into(),
        slice("bare").named("bare-2").at("10.1.0.7").at("fd00::").into(),
        svc("new").into(),
    ])
}

#[test]
fn headless_service_has_the_addresses_of_its_ready_endpoints_once() {
    assert_answers(
        &members(),
        &[
            ("db.default.svc A", &["NOERROR", "A 10.1.0.1", "A 10.1.0.2", "A 10.1.0.3"]),
            ("db.default.svc AAAA", &["NOERROR", "AAAA fd00::1", "AAAA fd00::3"]),
            ("bare.default.svc A", &["NOERROR", "A 10.1.0.7"]),
            ("bare.default.svc SRV", &["NODATA"]),
        ],
    );
}

#[test]
fn headless_service_without_ready_endpoints_does_not_exist() {
    for name in
        ["silent.default.svc", "_x._tcp.silent.default.svc", "10-1-0-9.silent.default.svc", "new.default.svc"]
    {
        for record_type in ["A", "AAAA", "SRV", "TXT"] {
            assert_answers(&members(), &[(&format!("{name} {record_type}"), &["NXDOMAIN"])]);
        }
    }
}

#[test]
fn family_without_ready_endpoints_has_no_data() {
    let zone = zone([svc("s").into(), slice("s").at("10.1.0.1").into()]);
    assert_answers(&zone, &[("s.default.svc AAAA", &["NODATA"])]);
}

#[test]
fn endpoint_has_its_hostname_or_an_identifier() {
    assert_answers(
        &members(),
        &[
            ("db-0.db.default.svc A", &["NOERROR", "A 10.1.0.1"]),
            ("db-0.db.default.svc AAAA", &["NOERROR", "AAAA fd00::1"]),
            ("DB-1.db.default.svc A", &["NOERROR", "A 10.1.0.2"]),
            ("db-1.db.default.svc AAAA", &["NODATA"]),
            ("10-1-0-3.db.default.svc A", &["NOERROR", "A 10.1.0.3"]),
            ("fd00--3.db.default.svc AAAA", &["NOERROR", "AAAA fd00::3"]),
            ("fd00--0.bare.default.svc AAAA", &["NOERROR", "AAAA fd00::"]),
            ("10-1-0-1.db.default.svc A", &["NXDOMAIN"]),
            ("db-3.db.default.svc A", &["NXDOMAIN"]),
            ("db-2.db.default.svc A", &["NXDOMAIN"]),
        ],
    );
}

#[test]
fn hostname_of_several_endpoints_has_all_their_addresses() {
    let zone = zone([
        svc("s").tcp("p", 1).into(),
        slice("s").tcp("p", 1).at("10.1.0.2").hostname("h").at("10.1.0.1").hostname("h").into(),
    ]);
    assert_answers(
        &zone,
        &[
            ("h.s.default.svc A", &["NOERROR", "A 10.1.0.1", "A 10.1.0.2"]),
            ("_p._tcp.s.default.svc SRV", &["NOERROR", "SRV 0 100 1 h.s.default.svc.cluster.local."]),
            ("1.0.1.10.in-addr.arpa. PTR", &["NOERROR", "PTR h.s.default.svc.cluster.local."]),
        ],
    );
}

#[test]
fn named_port_has_an_srv_record_for_each_ready_endpoint() {
    let zone = members();
    assert_answers(
        &zone,
        &[(
            "_sql._tcp.db.default.svc SRV",
            &[
                "NOERROR",
                "SRV 0 100 5432 10-1-0-3.db.default.svc.cluster.local.",
                "SRV 0 100 5432 db-0.db.default.svc.cluster.local.",
                "SRV 0 100 5432 db-1.db.default.svc.cluster.local.",
                "SRV 0 100 5432 fd00--3.db.default.svc.cluster.local.",
            ],
        )],
    );
    let reply = question("_sql._tcp.db.default.svc.cluster.local.", "SRV").with_edns(1_232).ask(&zone);
    let below = |label: &str, record: &str| format!("{label}.db.default.svc.cluster.local. {record}");
    assert_eq!(
        reply.additional(),
        [
            below("10-1-0-3", "A 10.1.0.3"),
            below("db-0", "A 10.1.0.1"),
            below("db-0", "AAAA fd00::1"),
            below("db-1", "A 10.1.0.2"),
            below("fd00--3", "AAAA fd00::3"),
        ]
    );
    assert_answers(
        &zone,
        &[
            ("_sql._tcp.db.default.svc A", &["NOERROR", "A 10.1.0.1", "A 10.1.0.2", "A 10.1.0.3"]),
            ("_tcp.db.default.svc NS", &["NODATA"]),
            ("_sql._udp.db.default.svc SRV", &["NXDOMAIN"]),
        ],
    );
}

#[test]
fn slices_can_have_different_numbers_of_one_port() {
    let zone = zone([
        svc("s").tcp("p", 1).into(),
        slice("s").named("a").tcp("p", 8080).tcp("q", 9).at("10.1.0.1").hostname("a").into(),
        slice("s").named("b").tcp("p", 9090).at("10.1.0.2").hostname("b").into(),
    ]);
    assert_answers(
        &zone,
        &[
            (
                "_p._tcp.s.default.svc SRV",
                &[
                    "NOERROR",
                    "SRV 0 100 8080 a.s.default.svc.cluster.local.",
                    "SRV 0 100 9090 b.s.default.svc.cluster.local.",
                ],
            ),
            ("_q._tcp.s.default.svc A", &["NOERROR", "A 10.1.0.1"]),
        ],
    );
}

#[test]
fn ready_endpoint_has_a_ptr_record_with_its_hostname() {
    assert_answers(
        &members(),
        &[
            ("1.0.1.10.in-addr.arpa. PTR", &["NOERROR", "PTR db-0.db.default.svc.cluster.local."]),
            ("3.0.1.10.in-addr.arpa. PTR", &["NOERROR", "PTR 10-1-0-3.db.default.svc.cluster.local."]),
        ],
    );
    // An address without a ready endpoint can have a name elsewhere.
    for name in ["4.0.1.10.in-addr.arpa.", "9.0.1.10.in-addr.arpa.", "1.10.in-addr.arpa.", "in-addr.arpa."] {
        assert!(question(name, "PTR").ask(&members()).message.is_none(), "{name}");
    }
}

#[test]
fn address_of_several_services_has_all_their_names_and_a_cluster_address_has_one() {
    let zone = zone([
        svc("a").into(),
        slice("a").at("10.1.0.1").hostname("x").into(),
        svc("b").into(),
        slice("b").at("10.1.0.1").at("10.96.0.1").into(),
        svc("c").ip("10.96.0.1").tcp("", 80).into(),
    ]);
    assert_answers(
        &zone,
        &[
            (
                "1.0.1.10.in-addr.arpa. PTR",
                &[
                    "NOERROR",
                    "PTR 10-1-0-1.b.default.svc.cluster.local.",
                    "PTR x.a.default.svc.cluster.local.",
                ],
            ),
            ("1.0.96.10.in-addr.arpa. PTR", &["NOERROR", "PTR c.default.svc.cluster.local."]),
        ],
    );
}

#[test]
fn addresses_are_rotated() {
    let zone = members();
    let answer =
        |rotation| question("db.default.svc.cluster.local.", "A").rotated(rotation).ask(&zone).answer();
    assert_eq!(answer(0), ["NOERROR", "A 10.1.0.1", "A 10.1.0.2", "A 10.1.0.3"]);
    assert_eq!(answer(1), ["NOERROR", "A 10.1.0.2", "A 10.1.0.3", "A 10.1.0.1"]);
    assert_eq!(answer(2 + 3_000), ["NOERROR", "A 10.1.0.3", "A 10.1.0.1", "A 10.1.0.2"]);
    let first: BTreeSet<String> = (0..100)
        .map(|rotation| {
            let ask = question("_sql._tcp.db.default.svc.cluster.local.", "SRV").rotated(rotation);
            ask.ask(&zone).answer()[1].clone()
        })
        .collect();
    assert_eq!(first.len(), 4, "{first:?}");
}

/// A service with an endpoint on another node of the zone, and one in another zone.
fn spread(endpoints: DnsEndpoints) -> [proxy_core::snapshot::Change; 2] {
    let service = Service { dns_endpoints: endpoints, ..svc("s").tcp("p", 1) };
    let slice: EndpointSlice = slice("s")
        .tcp("p", 1)
        .at("10.1.0.1")
        .on("node-1")
        .in_zone("zone-1")
        .hostname("h-1")
        .at("10.1.0.2")
        .on("node-2")
        .in_zone("zone-1")
        .at("10.1.0.3")
        .on("node-3")
        .in_zone("zone-2");
    [service.into(), slice.into()]
}

fn answer_on(
    endpoints: DnsEndpoints,
    node: &str,
    node_zone: &str,
    name: &str,
    record_type: &str,
) -> Vec<String> {
    let config = ZoneConfig { node: node.into(), node_zone: node_zone.into(), ..ZoneConfig::default() };
    let name = format!("{name}.cluster.local.");
    question(&name, record_type).ask(&zone_with(config, spread(endpoints))).sorted_answer()
}

#[test]
fn annotation_restricts_the_service_name_to_the_node_or_its_zone() {
    let answer = |endpoints, node, node_zone| answer_on(endpoints, node, node_zone, "s.default.svc", "A");
    let all = ["NOERROR", "A 10.1.0.1", "A 10.1.0.2", "A 10.1.0.3"];
    assert_eq!(answer(DnsEndpoints::All, "node-1", "zone-1"), all);
    assert_eq!(answer(DnsEndpoints::Node, "node-1", "zone-1"), ["NOERROR", "A 10.1.0.1"]);
    assert_eq!(answer(DnsEndpoints::Zone, "node-1", "zone-1"), ["NOERROR", "A 10.1.0.1", "A 10.1.0.2"]);
    let ports = answer_on(DnsEndpoints::Node, "node-1", "zone-1", "_p._tcp.s.default.svc", "SRV");
    assert_eq!(ports, ["NOERROR", "SRV 0 100 1 h-1.s.default.svc.cluster.local."]);
}

#[test]
fn restricted_service_without_a_near_endpoint_has_all_of_them() {
    let all = ["NOERROR", "A 10.1.0.1", "A 10.1.0.2", "A 10.1.0.3"];
    for (endpoints, node, node_zone) in [
        (DnsEndpoints::Node, "node-9", "zone-1"),
        (DnsEndpoints::Zone, "node-9", "zone-9"),
        (DnsEndpoints::Zone, "", ""),
    ] {
        assert_eq!(answer_on(endpoints, node, node_zone, "s.default.svc", "A"), all);
    }
}

#[test]
fn hostnames_and_addresses_of_a_restricted_service_are_complete() {
    let answer =
        |name: &str, record_type: &str| answer_on(DnsEndpoints::Node, "node-2", "", name, record_type);
    assert_eq!(answer("h-1.s.default.svc", "A"), ["NOERROR", "A 10.1.0.1"]);
    let zone =
        zone_with(ZoneConfig { node: "node-2".into(), ..ZoneConfig::default() }, spread(DnsEndpoints::Node));
    assert_answers(
        &zone,
        &[("1.0.1.10.in-addr.arpa. PTR", &["NOERROR", "PTR h-1.s.default.svc.cluster.local."])],
    );
}
