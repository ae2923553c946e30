//! Refreshes of a zone, and its upstreams.

use dns::{Answered, Zone, ZoneConfig};
use proxy_core::dns::Namespace;
use proxy_core::sample::{ip, slice, svc};
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::{Change, Snapshot};

use crate::oracle::{assert_answers, question, zone};

/// Applies a change to both.
fn apply(zone: &mut Zone, snapshot: &mut Snapshot, change: impl Into<Change>) {
    let changed = snapshot.apply(change.into());
    zone.refresh(snapshot, Some(&changed));
}

#[test]
fn changes_are_visible_after_a_refresh_and_not_in_older_clones() {
    let mut snapshot = Snapshot::new();
    let mut zone = Zone::new(ZoneConfig::default());
    zone.refresh(&snapshot, None);
    let empty = zone.clone();
    apply(&mut zone, &mut snapshot, svc("db").tcp("p", 1));
    assert_answers(&zone, &[("db.default.svc A", &["NXDOMAIN"])]);
    apply(&mut zone, &mut snapshot, slice("db").tcp("p", 1).at("10.1.0.1").at("10.1.0.2"));
    let ptr = "1.0.1.10.in-addr.arpa.";
    let name = "PTR 10-1-0-1.db.default.svc.cluster.local.";
    assert_answers(&zone, &[("db.default.svc A", &["NOERROR", "A 10.1.0.1", "A 10.1.0.2"])]);
    assert_answers(&zone, &[("1.0.1.10.in-addr.arpa. PTR", &["NOERROR", name])]);
    let full = zone.clone();
    apply(&mut zone, &mut snapshot, slice("db").tcp("p", 1).at("10.1.0.1").unready().at("10.1.0.2"));
    assert_answers(&zone, &[("db.default.svc A", &["NOERROR", "A 10.1.0.2"])]);
    assert_eq!(question(ptr, "PTR").ask(&zone).answered, Answered::Upstream);
    apply(&mut zone, &mut snapshot, svc("db").ip("10.96.0.9").tcp("p", 1));
    assert_answers(&zone, &[("db.default.svc A", &["NOERROR", "A 10.96.0.9"])]);
    apply(&mut zone, &mut snapshot, Change::ServiceDeleted(ServiceKey::new("default", "db")));
    assert_answers(&zone, &[("a.db.default.svc A", &["NXDOMAIN"])]);
    assert_eq!(question("9.0.96.10.in-addr.arpa.", "PTR").ask(&zone).answered, Answered::Upstream);
    assert_answers(&full, &[("db.default.svc A", &["NOERROR", "A 10.1.0.1", "A 10.1.0.2"])]);
    assert_answers(&full, &[("1.0.1.10.in-addr.arpa. PTR", &["NOERROR", name])]);
    assert_answers(&empty, &[("db.default.svc A", &["NXDOMAIN"])]);
}

#[test]
fn namespaces_are_visible_after_a_refresh_without_changed_services() {
    let mut snapshot = Snapshot::new();
    let mut zone = Zone::new(ZoneConfig::default());
    zone.refresh(&snapshot, None);
    assert_answers(&zone, &[("team.svc A", &["NXDOMAIN"])]);
    apply(&mut zone, &mut snapshot, Change::Namespace(Namespace { name: "team".into(), is_dns_off: false }));
    assert_answers(&zone, &[("team.svc A", &["NODATA"])]);
}

#[test]
fn first_refresh_reads_all_services_whatever_changed() {
    let snapshot: Snapshot = [svc("web").ip("10.96.0.1").tcp("", 80).into()].into_iter().collect();
    let mut zone = Zone::new(ZoneConfig::default());
    zone.refresh(&snapshot, Some(&[].into()));
    assert_answers(&zone, &[("web.default.svc A", &["NOERROR", "A 10.96.0.1"])]);
}

#[test]
fn upstreams_are_the_ready_endpoints_of_the_dns_service() {
    let dns = || {
        svc("kube-dns")
            .namespace("kube-system")
            .ip("10.96.0.10")
            .ip("fd00::a")
            .udp("dns", 53)
            .tcp("dns-tcp", 53)
    };
    let mut slice = slice("kube-dns")
        .udp("dns", 1053)
        .tcp("dns-tcp", 9)
        .at("10.1.0.1")
        .at("10.1.0.2")
        .unready()
        .at("10.1.0.3");
    slice.key.namespace = "kube-system".into();
    slice.service = dns().key;
    let zone = zone([dns().into(), slice.into(), svc("web").ip("10.96.0.1").tcp("", 80).into()]);
    let upstreams = |address: &str| -> Vec<String> {
        zone.upstreams_of(ip(address)).iter().map(|upstream| upstream.to_string()).collect()
    };
    // Without endpoints of its family, an address has those of the other one.
    for address in ["10.96.0.10", "fd00::a"] {
        assert_eq!(upstreams(address), ["10.1.0.1:1053", "10.1.0.3:1053"]);
    }
    for address in ["10.96.0.1", "10.1.0.1", "169.254.20.10"] {
        assert_eq!(upstreams(address), [format!("{address}:53")]);
    }
}
