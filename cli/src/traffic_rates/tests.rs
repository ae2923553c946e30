//! Rows and rates from two reports, without an agent.

use std::collections::BTreeMap;

use super::*;
use node_agent::{AttachmentReport, NetnsTraffic, TrafficReport};

fn portal(portal: &str, by: ServedBy, hits: u64, backends: &[u64]) -> PortalHits {
    let backend =
        |(number, hits): (u8, &u64)| BackendHits { backend: ([10, 1, 0, number], 80).into(), hits: *hits };
    PortalHits {
        portal: portal.to_owned(),
        service: Some("default/web".to_owned()),
        by,
        hits,
        backends: (1..).zip(backends).map(backend).collect(),
    }
}

fn netns_hits(netns: u64, portals: Vec<PortalHits>) -> NetnsTraffic {
    NetnsTraffic { netns, error: None, portals }
}

fn attachment(netns: u64, name: &str) -> AttachmentReport {
    serde_json::from_value(serde_json::json!({
        "network": "net", "containerId": format!("{name}-0123456789"), "interface": "eth0",
        "pod": {"namespace": "default", "name": name}, "netns": "/run/netns/x", "netnsInode": netns,
        "view": "all", "revision": 1, "lagMs": 0, "error": null, "repairs": 0, "portals": "all",
        "programmed": 1, "programmedBy": "agent",
    }))
    .expect("an attachment")
}

fn report(namespaces: Vec<NetnsTraffic>) -> Report {
    Report {
        version: "1".to_owned(),
        node: String::new(),
        synced: true,
        outage: None,
        objects_rejected: 0,
        services: 1,
        views: BTreeMap::new(),
        records_unwritten: 0,
        attachments: vec![attachment(1, "one"), attachment(2, "two")],
        unserved: Default::default(),
        counts: Default::default(),
        refused: BTreeMap::new(),
        memory: Default::default(),
        node_portals: None,
        dns: None,
        relay: Default::default(),
        audit: Default::default(),
        counters: true,
        traffic: Some(TrafficReport { namespaces, omitted: 0 }),
    }
}

/// Pod, portal, hits, and hits per second of each row.
fn summary(rows: &[TrafficRow]) -> Vec<(&str, &str, u64, Option<f64>)> {
    rows.iter()
        .map(|row| (row.pod.as_str(), row.portal.portal.as_str(), row.portal.hits, row.per_second))
        .collect()
}

const KERNEL: ServedBy = ServedBy::Kernel;

#[test]
fn without_previous_report_rates_are_unknown_and_rows_are_sorted_by_hits() {
    let report = report(vec![
        netns_hits(1, vec![portal("a", KERNEL, 3, &[]), portal("b", KERNEL, 5, &[])]),
        netns_hits(2, vec![portal("a", KERNEL, 4, &[])]),
    ]);
    let expected =
        [("default/one", "b", 5, None), ("default/two", "a", 4, None), ("default/one", "a", 3, None)];
    assert_eq!(summary(&traffic_rows(&report, None, None)), expected);
}

#[test]
fn rates_are_increases_per_second_and_rows_are_sorted_by_rate() {
    let before =
        report(vec![netns_hits(1, vec![portal("a", KERNEL, 100, &[60, 40]), portal("b", KERNEL, 1, &[])])]);
    let now = report(vec![netns_hits(
        1,
        vec![portal("a", KERNEL, 102, &[61, 41]), portal("b", KERNEL, 7, &[]), portal("c", KERNEL, 4, &[])],
    )]);
    let rows = traffic_rows(&now, Some((&before, 2.0)), None);
    let row = |portal, hits, rate| ("default/one", portal, hits, Some(rate));
    assert_eq!(summary(&rows), [row("b", 7, 3.0), row("c", 4, 2.0), row("a", 102, 1.0)]);
    assert_eq!(rows[2].backends_per_second, [Some(0.5), Some(0.5)]);
}

#[test]
fn reset_counters_and_new_backends_count_from_zero() {
    let before = report(vec![netns_hits(1, vec![portal("a", KERNEL, 100, &[60, 40])])]);
    let now = report(vec![netns_hits(1, vec![portal("a", KERNEL, 6, &[2, 41, 3])])]);
    let rows = traffic_rows(&now, Some((&before, 1.0)), None);
    assert_eq!(summary(&rows), [("default/one", "a", 6, Some(6.0))]);
    assert_eq!(rows[0].backends_per_second, [Some(2.0), Some(1.0), Some(3.0)]);
}

#[test]
fn rates_are_unknown_if_the_previous_report_may_omit_hits() {
    let mut before = report(vec![netns_hits(1, Vec::new())]);
    let now = report(vec![
        netns_hits(1, vec![portal("a", KERNEL, 9, &[])]),
        netns_hits(2, vec![portal("a", KERNEL, 8, &[])]),
    ]);
    // The previous report does not include the second network namespace.
    let rates = |before: &Report| {
        traffic_rows(&now, Some((before, 1.0)), None).iter().map(|row| row.per_second).collect::<Vec<_>>()
    };
    assert_eq!(rates(&before), [Some(9.0), None]);
    let traffic = before.traffic.as_mut().expect("the report has traffic");
    traffic.omitted = 1;
    assert_eq!(rates(&before), [None, None], "the report omits some portals");
    let traffic = before.traffic.as_mut().expect("the report has traffic");
    (traffic.omitted, traffic.namespaces[0].error) = (0, Some("no table".to_owned()));
    assert_eq!(rates(&before), [None, None]);
}

#[test]
fn pod_is_selected_by_name_or_container_id() {
    let report = report(vec![
        netns_hits(1, vec![portal("a", KERNEL, 3, &[])]),
        netns_hits(2, vec![portal("b", ServedBy::Refused, 5, &[])]),
    ]);
    for (pod, expected) in
        [("default/one", vec!["a"]), ("two-01", vec!["b"]), ("default/on", vec![]), ("x", vec![])]
    {
        let rows = traffic_rows(&report, None, Some(pod));
        let found: Vec<&str> = rows.iter().map(|row| row.portal.portal.as_str()).collect();
        assert_eq!(found, expected, "{pod}");
    }
}

#[test]
fn table_summarises_backends_beyond_the_maximum() {
    let report = report(vec![netns_hits(1, vec![portal("a", KERNEL, 6, &[1, 2, 3])])]);
    let text = table(&traffic_rows(&report, None, None), 2).to_string();
    assert!(text.contains("10.1.0.2:80") && text.contains("and 1 more"), "{text}");
    assert!(!text.contains("10.1.0.3:80"), "{text}");
}
