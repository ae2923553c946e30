//! Views: a service that is hidden from a pod has no name for it.

use dns::{Answered, Client, Existence, Name, Zone, ZoneConfig};
use proxy_core::portal::ServiceFilter;
use proxy_core::sample::{slice, svc};
use proxy_core::service::{Service, ServiceKey};
use proxy_core::snapshot::Change;

use crate::oracle::{Reply, question, zone_with};

fn cluster(has_fallthrough: bool) -> Zone {
    let config = ZoneConfig { has_fallthrough, ..ZoneConfig::default() };
    zone_with(
        config,
        [
            svc("own").ip("10.96.0.1").tcp("http", 80).into(),
            svc("other").ip("10.96.0.2").tcp("http", 80).into(),
            svc("members").tcp("sql", 1).into(),
            slice("members").tcp("sql", 1).at("10.1.0.1").at("10.1.0.2").into(),
            slice("own").tcp("http", 80).at("10.1.0.2").into(),
            Service { external_name: Some("example.com".into()), ..svc("out") }.into(),
            Service { external_name: Some("other.default.svc.cluster.local".into()), ..svc("to-other") }
                .into(),
            Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a range")]),
        ],
    )
}

fn client(visible: &[&str]) -> Client {
    let keys = visible.iter().map(|name| ServiceKey::new("default", *name));
    Client { view: ServiceFilter::Only(keys.collect()), ..Client::default() }
}

fn ask(zone: &Zone, client: &Client, name: &str, record_type: &str) -> Reply {
    let name =
        if name.ends_with('.') { name.to_owned() } else { format!("{name}.default.svc.cluster.local.") };
    question(&name, record_type).of(client).ask(zone)
}

#[test]
fn hidden_services_have_no_names_and_visible_ones_have_all() {
    let zone = cluster(false);
    let client = client(&["own", "to-other"]);
    let hidden = ["other", "_http._tcp.other", "members", "10-1-0-1.members", "_sql._tcp.members", "out"];
    for name in hidden {
        for record_type in ["A", "AAAA", "SRV", "CNAME", "ANY"] {
            let reply = ask(&zone, &client, name, record_type);
            assert_eq!(reply.answer(), ["NXDOMAIN"], "{name} {record_type}");
        }
    }
    assert_eq!(ask(&zone, &client, "own", "A").answer(), ["NOERROR", "A 10.96.0.1"]);
    assert_eq!(ask(&zone, &client, "10-1-0-2.own", "A").answer(), ["NOERROR", "A 10.1.0.2"]);
    let alias = ask(&zone, &client, "to-other", "A").answer();
    assert_eq!(alias, ["NXDOMAIN", "CNAME other.default.svc.cluster.local."]);
}

#[test]
fn ptr_records_reveal_no_hidden_service() {
    let zone = cluster(false);
    let client = client(&["own"]);
    let ptr = |name: &str| ask(&zone, &client, name, "PTR").answer();
    assert_eq!(ptr("1.0.96.10.in-addr.arpa."), ["NOERROR", "PTR own.default.svc.cluster.local."]);
    assert_eq!(ptr("2.0.96.10.in-addr.arpa."), ["NXDOMAIN"]);
    assert_eq!(ptr("2.0.1.10.in-addr.arpa."), ["NOERROR", "PTR 10-1-0-2.own.default.svc.cluster.local."]);
    // The cluster's DNS would reveal the service, so the question is not forwarded.
    assert_eq!(ptr("1.0.1.10.in-addr.arpa."), ["NXDOMAIN"]);
}

#[test]
fn fallthrough_forwards_absent_names_and_never_hidden_ones() {
    let zone = cluster(true);
    let client = client(&["own"]);
    for name in ["no", "no.no.no", "x.own", "9.9.96.10.in-addr.arpa.", "x.cluster.local."] {
        assert_eq!(ask(&zone, &client, name, "A").answered, Answered::Upstream, "{name}");
    }
    for name in ["other", "x.other", "1.0.1.10.in-addr.arpa."] {
        assert_eq!(ask(&zone, &client, name, "PTR").answered, Answered::NxDomain, "{name}");
    }
    assert_eq!(ask(&zone, &client, "own", "A").answered, Answered::Records);
    assert_eq!(ask(&zone, &client, "own", "TXT").answered, Answered::NoData);
}

#[test]
fn unused_address_of_a_service_range_does_not_exist_and_others_are_forwarded() {
    let zone = cluster(false);
    let answered = |name: &str| ask(&zone, &Client::default(), name, "PTR").answered;
    assert_eq!(answered("9.9.96.10.in-addr.arpa."), Answered::NxDomain);
    assert_eq!(answered("9.9.97.10.in-addr.arpa."), Answered::Upstream);
    assert_eq!(answered("9.96.10.in-addr.arpa."), Answered::Upstream);
}

#[test]
fn existence_agrees_with_the_answers() {
    let client = client(&["own"]);
    let existence = |zone: &Zone, name: &str| zone.existence(&client, &Name::parse(name).unwrap());
    let zone = cluster(false);
    assert_eq!(existence(&zone, "own.default.svc.cluster.local"), Existence::Present);
    assert_eq!(existence(&zone, "default.svc.cluster.local"), Existence::Present);
    for name in [
        "other.default.svc.cluster.local",
        "github.com.default.svc.cluster.local",
        "github.com.cluster.local",
    ] {
        assert_eq!(existence(&zone, name), Existence::Absent, "{name}");
    }
    assert_eq!(existence(&zone, "github.com"), Existence::Outside);
    let zone = cluster(true);
    assert_eq!(existence(&zone, "github.com.cluster.local"), Existence::Outside);
    assert_eq!(existence(&zone, "other.default.svc.cluster.local"), Existence::Absent);
    assert_eq!(existence(&Zone::new(ZoneConfig::default()), "a.cluster.local"), Existence::Outside);
}
