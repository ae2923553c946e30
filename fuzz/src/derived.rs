//! Derives everything from the objects that were read, and checks that it is consistent.
//!
//! The core must not panic on any object that the parsers accept, and its results must not contradict each other.
//! Single fields are covered by unit tests.

use std::collections::BTreeSet;

use kube_source::{MAX_PROBLEMS, Objects, ReadOptions, Report, read_str};
use proxy_core::address::{Family, forbidden};
use proxy_core::env::environment;
use proxy_core::explain::{Outcome, Query, explain};
use proxy_core::iptables::Iptables;
use proxy_core::kernel_model::{Table, apply};
use proxy_core::node::Node;
use proxy_core::plan::plan;
use proxy_core::portal::{NodeContext, Portal, Portals, Verdict, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::snapshot::Snapshot;

/// The number of portals that are explained per node context. Each explanation computes all portals again.
const EXPLAINED_MAX: usize = 3;

/// Reads a text as the content of a file, and checks the objects and the report.
pub fn check(name: &str, text: &str) {
    let options = ReadOptions::default();
    let (objects, report) = read_str(name, text, &options);
    let (again, report_again) = read_str(name, text, &options);
    assert_eq!((&objects, &report), (&again, &report_again), "the same text reads the same");
    check_report(&report);
    check_objects(&objects);
    let snapshot = objects.snapshot();
    let no_node = NodeContext::default();
    let nodes = objects.nodes.values().take(1).cloned();
    let own = nodes.map(|node| NodeContext { node, ..NodeContext::default() });
    for node_context in own.chain([no_node]) {
        check_node_context(&snapshot, &node_context);
    }
    let namespaces: BTreeSet<&str> = objects.services.keys().map(|key| &*key.namespace).collect();
    for namespace in namespaces.into_iter().chain(["default", "no-such-namespace"]) {
        check_environment(&snapshot, namespace);
    }
}

fn check_report(report: &Report) {
    let kept = report.problems.len();
    assert!(kept <= 2 * MAX_PROBLEMS, "the report is bounded");
    assert_eq!(kept + report.suppressed, report.errors + report.warnings, "every problem is counted");
    for problem in &report.problems {
        let text = problem.to_string();
        assert!(!text.contains(char::is_control), "a problem is one clean line: {text:?}");
    }
}

fn check_objects(objects: &Objects) {
    for (key, service) in &objects.services {
        assert_eq!(key, &service.key, "a service is stored under its own key");
        let has_text = service.cluster_ip_text.is_some();
        let has_address = service.cluster_ips.iter().next().is_some();
        assert_eq!(has_text, has_address, "{key}: an address and its text come together");
    }
    for (key, slice) in &objects.slices {
        assert_eq!(key, &slice.key, "a slice is stored under its own key");
        for endpoint in &slice.endpoints {
            let address = endpoint.address;
            assert_eq!(forbidden(address), None, "{key}: {address} must not be a backend");
            assert_eq!(address, address.to_canonical(), "{key}: {address} is an IPv4-mapped address");
        }
    }
    let mut owned = BTreeSet::new();
    for address in objects.services.values().flat_map(|service| service.cluster_ips.iter()) {
        assert!(owned.insert(address), "{address} is the address of two services");
    }
}

/// Checks everything that is derived for a node context.
pub fn check_node_context(snapshot: &Snapshot, node_context: &NodeContext) {
    let portals = portals(snapshot, node_context);
    let ruleset = Ruleset::new(&portals, Settings::default());
    check_portals(&portals, &node_context.node);
    check_text(&portals, &ruleset);
    let fresh = plan(&Ruleset::empty(), &ruleset);
    let table =
        apply(&fresh, &Table::default()).expect("a plan applies to the table for which it was computed");
    assert_eq!(table, Table::from(&ruleset), "a full plan creates the whole ruleset");
    assert!(plan(&ruleset, &ruleset).is_empty(), "a plan without differences is empty");
    // Spread over all portals, so that each kind is covered at some point.
    let step = portals.iter().count() / EXPLAINED_MAX + 1;
    for portal in portals.iter().step_by(step) {
        check_explanation(snapshot, node_context, portal);
    }
}

fn check_explanation(snapshot: &Snapshot, node_context: &NodeContext, portal: &Portal) {
    let source = portal.sources.as_ref().and_then(|nets| nets.first()).map(|net| net.addr());
    let answer = explain(snapshot, node_context, &Query { destination: portal.key, source });
    let forwards = answer.verdict == Outcome::Forward;
    assert_eq!(forwards, portal.verdict == Verdict::Forward, "{portal:?}: {answer:?}");
    assert_eq!(answer.backends, if forwards { portal.backends.to_vec() } else { Vec::new() });
}

fn check_portals(portals: &Portals, node: &Node) {
    for portal in portals.by_service() {
        let Some(winner) = portals.get(portal.key) else { panic!("{portal:?}: the portal has no owner") };
        assert!(winner.kind <= portal.kind, "{portal:?} takes precedence over {winner:?}");
        let forwards = portal.verdict == Verdict::Forward;
        assert_eq!(
            forwards,
            !portal.backends.is_empty(),
            "{portal:?}: a portal forwards exactly if it has backends"
        );
        assert!(portal.backends.is_sorted(), "{portal:?}: backends are sorted, each once");
        for backend in portal.backends.iter() {
            let same_family = Family::of(backend.ip()) == Family::of(portal.key.address);
            assert!(same_family, "{portal:?} on node {}: {backend} is of the other family", node.name);
        }
    }
}

fn check_text(portals: &Portals, ruleset: &Ruleset) {
    let text = ruleset.to_string();
    assert_eq!(text.matches('{').count(), text.matches('}').count(), "brackets come in pairs");
    for family in Family::BOTH {
        let text = Iptables { portals, family }.to_string();
        assert_eq!(text.lines().filter(|line| *line == "COMMIT").count(), 2, "two tables");
    }
}

fn check_environment(snapshot: &Snapshot, namespace: &str) {
    for links in [true, false] {
        let found = environment(snapshot, namespace, links);
        let names: BTreeSet<&str> = found.variables.iter().map(|variable| &*variable.name).collect();
        assert_eq!(names.len(), found.variables.len(), "each variable is defined once");
    }
}
