//! Rates between two reports, without an agent.

use std::collections::BTreeMap;

use super::*;
use crate::agent::{AttachmentReport, HitsReport, PlaceHits};

fn portal(portal: &str, by: Served, hits: u64, backends: &[u64]) -> PortalHits {
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

fn place(netns: u64, portals: Vec<PortalHits>) -> PlaceHits {
    PlaceHits { netns, error: None, portals }
}

fn attachment(netns: u64, name: &str) -> AttachmentReport {
    serde_json::from_value(serde_json::json!({
        "network": "net", "containerId": format!("{name}-0123456789"), "interface": "eth0",
        "pod": {"namespace": "default", "name": name}, "netns": "/run/netns/x", "netnsInode": netns,
        "view": "all", "revision": 1, "lagMs": 0, "error": null, "repairs": 0, "portals": "all",
        "programmed": 1, "programmer": "agent",
    }))
    .expect("an attachment")
}

fn report(places: Vec<PlaceHits>) -> Report {
    Report {
        version: "1".to_owned(),
        node: String::new(),
        synced: true,
        trouble: None,
        objects_refused: 0,
        services: 1,
        views: BTreeMap::new(),
        records_unwritten: 0,
        attachments: vec![attachment(1, "one"), attachment(2, "two")],
        counts: Default::default(),
        refused: BTreeMap::new(),
        memory: Default::default(),
        relay: Default::default(),
        audit: Default::default(),
        counters: true,
        hits: Some(HitsReport { places, left_out: 0 }),
    }
}

/// Pod, portal, hits, and hits a second.
fn shown(lines: &[Line]) -> Vec<(&str, &str, u64, Option<f64>)> {
    lines
        .iter()
        .map(|line| (line.pod.as_str(), line.portal.portal.as_str(), line.portal.hits, line.per_second))
        .collect()
}

const KERNEL: Served = Served::Kernel;

#[test]
fn without_an_earlier_report_no_rate_is_known_and_most_hits_come_first() {
    let report = report(vec![
        place(1, vec![portal("a", KERNEL, 3, &[]), portal("b", KERNEL, 5, &[])]),
        place(2, vec![portal("a", KERNEL, 4, &[])]),
    ]);
    let expected =
        [("default/one", "b", 5, None), ("default/two", "a", 4, None), ("default/one", "a", 3, None)];
    assert_eq!(shown(&lines(&report, None, None)), expected);
}

#[test]
fn a_rate_is_what_came_since_and_the_highest_is_first() {
    let before =
        report(vec![place(1, vec![portal("a", KERNEL, 100, &[60, 40]), portal("b", KERNEL, 1, &[])])]);
    let now = report(vec![place(
        1,
        vec![portal("a", KERNEL, 102, &[61, 41]), portal("b", KERNEL, 7, &[]), portal("c", KERNEL, 4, &[])],
    )]);
    let lines = lines(&now, Some((&before, 2.0)), None);
    let of = |portal, hits, rate| ("default/one", portal, hits, Some(rate));
    assert_eq!(shown(&lines), [of("b", 7, 3.0), of("c", 4, 2.0), of("a", 102, 1.0)]);
    assert_eq!(lines[2].backends_per_second, [Some(0.5), Some(0.5)]);
}

#[test]
fn what_began_anew_counts_from_zero_and_a_new_backend_too() {
    let before = report(vec![place(1, vec![portal("a", KERNEL, 100, &[60, 40])])]);
    let now = report(vec![place(1, vec![portal("a", KERNEL, 6, &[2, 41, 3])])]);
    let lines = lines(&now, Some((&before, 1.0)), None);
    assert_eq!(shown(&lines), [("default/one", "a", 6, Some(6.0))]);
    assert_eq!(lines[0].backends_per_second, [Some(2.0), Some(1.0), Some(3.0)]);
}

#[test]
fn after_a_namespace_that_could_not_be_read_no_rate_is_told() {
    let mut before = report(vec![place(1, Vec::new())]);
    let now = report(vec![
        place(1, vec![portal("a", KERNEL, 9, &[])]),
        place(2, vec![portal("a", KERNEL, 8, &[])]),
    ]);
    // The second was not there before.
    let rates = |before: &Report| {
        lines(&now, Some((before, 1.0)), None).iter().map(|line| line.per_second).collect::<Vec<_>>()
    };
    assert_eq!(rates(&before), [Some(9.0), None]);
    let hits = before.hits.as_mut().expect("asked for");
    hits.left_out = 1;
    assert_eq!(rates(&before), [None, None], "it may be one of those that were not told");
    let hits = before.hits.as_mut().expect("asked for");
    (hits.left_out, hits.places[0].error) = (0, Some("the table is gone".to_owned()));
    assert_eq!(rates(&before), [None, None]);
}

#[test]
fn one_pod_is_chosen_by_name_or_container() {
    let report = report(vec![
        place(1, vec![portal("a", KERNEL, 3, &[])]),
        place(2, vec![portal("b", Served::Refused, 5, &[])]),
    ]);
    for (pod, expected) in
        [("default/one", vec!["a"]), ("two-01", vec!["b"]), ("default/on", vec![]), ("x", vec![])]
    {
        let lines = lines(&report, None, Some(pod));
        let found: Vec<&str> = lines.iter().map(|line| line.portal.portal.as_str()).collect();
        assert_eq!(found, expected, "{pod}");
    }
}

#[test]
fn more_backends_than_are_to_be_shown_are_a_number() {
    let report = report(vec![place(1, vec![portal("a", KERNEL, 6, &[1, 2, 3])])]);
    let shown = table(&lines(&report, None, None), 2).to_string();
    assert!(shown.contains("10.1.0.2:80") && shown.contains("and 1 more"), "{shown}");
    assert!(!shown.contains("10.1.0.3:80"), "{shown}");
}
