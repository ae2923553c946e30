//! Services with cluster addresses: section 2.3 of the specification, and the names that exist without records.

use dns::ZoneConfig;
use proxy_core::dns::Namespace;
use proxy_core::sample::{slice, svc};
use proxy_core::service::Protocol;
use proxy_core::snapshot::Change;

use crate::oracle::{assert_answers, question, zone, zone_with};

fn cluster() -> Vec<Change> {
    let v6_reverse = slice("web").tcp("http", 8080).udp("quic", 8443).at("10.1.0.5").at("10.1.0.6").unready();
    vec![
        svc("web").ip("10.96.0.1").tcp("http", 80).udp("quic", 443).tcp("HTTPS-alt", 443).into(),
        svc("dual").ip("10.96.0.2").ip("fd00:10::2").tcp("", 80).into(),
        svc("six").ip("fd00:10::6").port(Protocol::Sctp, "diameter", 3868).into(),
        svc("kube-dns").namespace("kube-system").ip("10.96.0.10").udp("dns", 53).tcp("dns-tcp", 53).into(),
        v6_reverse.into(),
        Change::Namespace(Namespace { name: "empty".into(), is_dns_off: false }),
    ]
}

#[test]
fn service_has_an_address_record_for_each_cluster_address() {
    assert_answers(
        &zone(cluster()),
        &[
            ("web.default.svc A", &["NOERROR", "A 10.96.0.1"]),
            ("web.default.svc AAAA", &["NODATA"]),
            ("dual.default.svc A", &["NOERROR", "A 10.96.0.2"]),
            ("dual.default.svc AAAA", &["NOERROR", "AAAA fd00:10::2"]),
            ("six.default.svc A", &["NODATA"]),
            ("six.default.svc AAAA", &["NOERROR", "AAAA fd00:10::6"]),
        ],
    );
}

#[test]
fn named_port_has_an_srv_record_and_an_unnamed_one_has_none() {
    assert_answers(
        &zone(cluster()),
        &[
            ("_http._tcp.web.default.svc SRV", &["NOERROR", "SRV 0 100 80 web.default.svc.cluster.local."]),
            ("_quic._udp.web.default.svc SRV", &["NOERROR", "SRV 0 100 443 web.default.svc.cluster.local."]),
            (
                "_https-alt._tcp.web.default.svc SRV",
                &["NOERROR", "SRV 0 100 443 web.default.svc.cluster.local."],
            ),
            (
                "_diameter._sctp.six.default.svc SRV",
                &["NOERROR", "SRV 0 100 3868 six.default.svc.cluster.local."],
            ),
            ("_http._udp.web.default.svc SRV", &["NXDOMAIN"]),
            ("_quic._tcp.web.default.svc SRV", &["NXDOMAIN"]),
            ("_._tcp.dual.default.svc SRV", &["NXDOMAIN"]),
            ("_http._.web.default.svc SRV", &["NXDOMAIN"]),
        ],
    );
}

#[test]
fn ports_are_accepted_without_underscores_and_have_the_addresses_of_the_service() {
    assert_answers(
        &zone(cluster()),
        &[
            ("http.tcp.web.default.svc SRV", &["NOERROR", "SRV 0 100 80 web.default.svc.cluster.local."]),
            ("http._tcp.web.default.svc SRV", &["NOERROR", "SRV 0 100 80 web.default.svc.cluster.local."]),
            ("__http._tcp.web.default.svc SRV", &["NXDOMAIN"]),
            ("_http._tcp.web.default.svc A", &["NOERROR", "A 10.96.0.1"]),
            ("_http._tcp.web.default.svc AAAA", &["NODATA"]),
        ],
    );
}

#[test]
fn service_name_has_srv_records_of_all_ports_once() {
    let zone = zone(cluster());
    assert_answers(
        &zone,
        &[
            (
                "web.default.svc SRV",
                &[
                    "NOERROR",
                    "SRV 0 100 443 web.default.svc.cluster.local.",
                    "SRV 0 100 80 web.default.svc.cluster.local.",
                ],
            ),
            ("dual.default.svc SRV", &["NOERROR", "SRV 0 100 80 dual.default.svc.cluster.local."]),
        ],
    );
    let reply = question("dual.default.svc.cluster.local.", "SRV").ask(&zone);
    let name = "dual.default.svc.cluster.local.";
    assert_eq!(reply.additional(), [format!("{name} A 10.96.0.2"), format!("{name} AAAA fd00:10::2")]);
    let reply = question("_http._tcp.web.default.svc.cluster.local.", "SRV").ask(&zone);
    assert_eq!(reply.additional(), ["web.default.svc.cluster.local. A 10.96.0.1"]);
}

#[test]
fn cluster_address_has_a_ptr_record() {
    let v6 = format!("2.0.0.0.{}0.1.0.0.0.0.d.f.ip6.arpa.", "0.".repeat(20));
    let zone = zone(cluster());
    assert_answers(
        &zone,
        &[
            ("1.0.96.10.in-addr.arpa. PTR", &["NOERROR", "PTR web.default.svc.cluster.local."]),
            ("10.0.96.10.in-addr.arpa. PTR", &["NOERROR", "PTR kube-dns.kube-system.svc.cluster.local."]),
            ("1.0.96.10.in-addr.arpa. A", &["NODATA"]),
            ("1.0.96.10.IN-ADDR.ARPA. PTR", &["NOERROR", "PTR web.default.svc.cluster.local."]),
        ],
    );
    assert_eq!(v6.matches('.').count(), 34);
    assert_answers(&zone, &[(&format!("{v6} PTR"), &["NOERROR", "PTR dual.default.svc.cluster.local."])]);
}

#[test]
fn endpoints_of_a_service_with_a_cluster_address_have_names_as_in_coredns() {
    assert_answers(
        &zone(cluster()),
        &[
            ("10-1-0-5.web.default.svc A", &["NOERROR", "A 10.1.0.5"]),
            ("10-1-0-5.web.default.svc AAAA", &["NODATA"]),
            ("10-1-0-6.web.default.svc A", &["NXDOMAIN"]),
            ("5.0.1.10.in-addr.arpa. PTR", &["NOERROR", "PTR 10-1-0-5.web.default.svc.cluster.local."]),
            (
                "10-1-0-5.web.default.svc SRV",
                &[
                    "NOERROR",
                    "SRV 0 100 8080 10-1-0-5.web.default.svc.cluster.local.",
                    "SRV 0 100 8443 10-1-0-5.web.default.svc.cluster.local.",
                ],
            ),
        ],
    );
}

#[test]
fn names_above_services_exist_without_records() {
    assert_answers(
        &zone(cluster()),
        &[
            ("default.svc A", &["NODATA"]),
            ("empty.svc A", &["NODATA"]),
            ("empty.svc TXT", &["NODATA"]),
            ("svc A", &["NODATA"]),
            ("pod AAAA", &["NODATA"]),
            ("dns A", &["NODATA"]),
            ("cluster.local. A", &["NODATA"]),
            ("cluster.local. TXT", &["NODATA"]),
            ("_tcp.web.default.svc NS", &["NODATA"]),
            ("_sctp.web.default.svc NS", &["NXDOMAIN"]),
            ("_tcp.dual.default.svc NS", &["NXDOMAIN"]),
        ],
    );
}

#[test]
fn unknown_names_of_the_zone_do_not_exist() {
    let names = [
        "other.default.svc",
        "web.other.svc",
        "other.svc",
        "web.default",
        "web.default.pod",
        "web",
        "github.com.default.svc",
        "github.com.svc",
        "github.com",
        "a.web.default.svc",
        "b.a.web.default.svc",
        "c.b.a.web.default.svc",
        "d.c.b.a.web.default.svc",
        "*.default.svc",
        "a.dns",
        "ns.ns.dns",
        "x.dns-version",
    ];
    let zone = zone(cluster());
    for name in names {
        for record_type in ["A", "AAAA", "SRV", "TXT", "HTTPS"] {
            assert_answers(&zone, &[(&format!("{name} {record_type}"), &["NXDOMAIN"])]);
        }
    }
}

#[test]
fn other_types_of_an_existing_name_have_no_data() {
    let zone = zone(cluster());
    for record_type in ["TXT", "MX", "HTTPS", "NS", "SOA", "CNAME", "PTR", "CAA"] {
        for name in ["web.default.svc", "_http._tcp.web.default.svc", "10-1-0-5.web.default.svc", "ns.dns"] {
            assert_answers(&zone, &[(&format!("{name} {record_type}"), &["NODATA"])]);
        }
    }
}

#[test]
fn domain_has_its_version_its_authority_and_its_name_server() {
    let zone = zone(cluster());
    let soa =
        format!("SOA ns.dns.cluster.local. hostmaster.cluster.local. {} 7200 1800 86400 5", cluster().len());
    assert_answers(
        &zone,
        &[
            ("dns-version TXT", &["NOERROR", "TXT 1.1.0"]),
            ("dns-version A", &["NODATA"]),
            ("cluster.local. SOA", &["NOERROR", &soa]),
            ("cluster.local. NS", &["NOERROR", "NS ns.dns.cluster.local."]),
            ("ns.dns A", &["NOERROR", "A 10.96.0.10"]),
            ("ns.dns AAAA", &["NODATA"]),
        ],
    );
    let reply = question("cluster.local.", "NS").ask(&zone);
    assert_eq!(reply.additional(), ["ns.dns.cluster.local. A 10.96.0.10"]);
    let config =
        ZoneConfig { dns_addresses: vec!["169.254.20.10".parse().unwrap()], ..ZoneConfig::default() };
    assert_answers(&zone_with(config, cluster()), &[("ns.dns A", &["NOERROR", "A 169.254.20.10"])]);
}

#[test]
fn negative_answers_have_the_soa_record_of_their_zone() {
    let config = ZoneConfig { ttl_s: 600, ..ZoneConfig::default() };
    let zone = zone_with(config, [Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a range")])]);
    let data = "SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 600";
    let authority = |name: &str| question(name, "A").ask(&zone).authority();
    assert_eq!(authority("a.b.svc.cluster.local."), [format!("cluster.local. 300 {data}")]);
    assert_eq!(authority("cluster.local."), [format!("cluster.local. 300 {data}")]);
    assert_eq!(authority("9.9.96.10.in-addr.arpa."), [format!("in-addr.arpa. 300 {data}")]);
}

#[test]
fn pod_records_are_their_addresses_if_they_are_on() {
    let cases: [(&str, &[&str]); 9] = [
        ("10-1-0-5.default.pod A", &["NOERROR", "A 10.1.0.5"]),
        ("10-1-0-5.default.pod AAAA", &["NODATA"]),
        ("fd00--1.default.pod AAAA", &["NOERROR", "AAAA fd00::1"]),
        ("--1.default.pod AAAA", &["NOERROR", "AAAA ::1"]),
        ("10-1-0.default.pod A", &["NXDOMAIN"]),
        ("10-1-0-256.default.pod A", &["NXDOMAIN"]),
        ("10-1-0-5.other.pod A", &["NXDOMAIN"]),
        ("x.10-1-0-5.default.pod A", &["NXDOMAIN"]),
        ("default.pod A", &["NODATA"]),
    ];
    let config = ZoneConfig { has_pod_records: true, ..ZoneConfig::default() };
    assert_answers(&zone_with(config, cluster()), &cases);
    let off = zone(cluster());
    for (asked, _) in cases {
        assert_answers(&off, &[(asked, &["NXDOMAIN"])]);
    }
}

#[test]
fn domain_of_the_cluster_can_have_any_number_of_labels() {
    for domain in ["k8s", "eu.prod.example.com"] {
        let config = ZoneConfig { domain: dns::Name::parse(domain).unwrap(), ..ZoneConfig::default() };
        let zone = zone_with(config, cluster());
        let target = format!("SRV 0 100 80 web.default.svc.{domain}.");
        assert_answers(
            &zone,
            &[
                (&format!("web.default.svc.{domain}. A"), &["NOERROR", "A 10.96.0.1"]),
                (&format!("_http._tcp.web.default.svc.{domain}. SRV"), &["NOERROR", &target]),
                (&format!("other.default.svc.{domain}. A"), &["NXDOMAIN"]),
            ],
        );
        assert!(question("web.default.svc.cluster.local.", "A").ask(&zone).message.is_none());
    }
}
