//! Checks that incremental updates equal a computation from the start, and that plans produce the desired rules.
//!
//! The model is a plain map of the last state of each object. `scenario` generates the changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;
use proxy_core::dispatch::DispatchKey;
use proxy_core::endpoint::{EndpointSlice, SliceKey};
use proxy_core::kernel_model::{Table, apply};
use proxy_core::plan::{Plan, plan, plan_changed};
use proxy_core::portal::{ChangedPortals, Portal, Portals, portals};
use proxy_core::ruleset::Ruleset;
use proxy_core::service::{Service, ServiceKey};
use proxy_core::snapshot::{Change, ChangedServices, Snapshot};

use crate::derived::check_node_context;
use crate::scenario::Scenario;

/// The last state of each object.
#[derive(Default)]
struct Model {
    services: BTreeMap<ServiceKey, Service>,
    slices: BTreeMap<SliceKey, EndpointSlice>,
    ranges: Vec<IpNet>,
}

impl Model {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Service(service) => drop(self.services.insert(service.key.clone(), service)),
            Change::ServiceDeleted(key) => drop(self.services.remove(&key)),
            Change::Slice(slice) => drop(self.slices.insert(slice.key.clone(), slice)),
            Change::SliceDeleted(key) => drop(self.slices.remove(&key)),
            Change::ServiceRanges(ranges) => self.ranges = ranges,
            Change::Namespace(_) | Change::NamespaceDeleted(_) => {}
        }
    }

    fn snapshot(&self) -> Snapshot {
        let slices = self.slices.values().cloned().map(Change::Slice);
        let services = self.services.values().cloned().map(Change::Service);
        slices.chain(services).chain([Change::ServiceRanges(self.ranges.clone())]).collect()
    }
}

/// Applies a scenario batch by batch, and checks every claim after each batch.
pub fn check(scenario: &Scenario) {
    let (node_context, [settings, later_settings]) = (scenario.node_context(), scenario.settings());
    let (mut model, mut snapshot) = (Model::default(), Snapshot::new());
    let mut incremental = portals(&snapshot, &node_context);
    let mut desired = Ruleset::new(&incremental, settings);
    let (mut applied, mut touched) = (Ruleset::empty(), ChangedPortals::new());
    let mut table = Table::default();
    for batch in scenario.batches() {
        let mut changed = ChangedServices::new();
        for change in batch.changes {
            model.apply(change.clone());
            changed.extend(snapshot.apply(change));
        }
        let new = incremental.refresh(&snapshot, &node_context, &changed);
        desired.refresh(&incremental, &new);
        touched.extend(new);
        let fresh = portals(&model.snapshot(), &node_context);
        check_portals(&incremental, &fresh);
        check_ruleset(&desired, &Ruleset::new(&fresh, settings));
        let step = plan(&applied, &desired);
        assert_eq!(
            step,
            plan_changed(&applied, &desired, &touched),
            "every difference is among the touched portals"
        );
        let next = run(&step, &table, &desired);
        if batch.is_applied {
            (applied, table) = (desired.clone(), next);
            touched.clear();
        }
    }
    assert!(plan(&desired, &desired).is_empty(), "the plan between equal rulesets is empty");
    check_jumps(&applied, &desired, &Ruleset::new(&incremental, later_settings));
    check_node_context(&snapshot, &node_context);
}

/// Runs a plan on a table, and asserts that the result is the desired ruleset.
fn run(plan: &Plan, table: &Table, desired: &Ruleset) -> Table {
    let text = plan.to_string();
    assert_eq!(text.matches('{').count(), text.matches('}').count(), "brackets are balanced");
    let next = apply(plan, table).unwrap_or_else(|error| panic!("{error}: {plan:?}"));
    assert_eq!(next, Table::from(desired), "the plan produces the desired rules: {plan:?}");
    next
}

/// Checks the plans between any two of these rulesets.
fn check_jumps(applied: &Ruleset, desired: &Ruleset, with_other_settings: &Ruleset) {
    let all = [&Ruleset::empty(), applied, desired, with_other_settings];
    for from in all {
        for to in all {
            run(&plan(from, to), &Table::from(from), to);
        }
    }
}

fn check_portals(incremental: &Portals, fresh: &Portals) {
    let all = |portals: &Portals| portals.by_service().cloned().collect::<Vec<Portal>>();
    assert_eq!(all(incremental), all(fresh), "the portals of each service are equal");
    let winners = |portals: &Portals| portals.iter().cloned().collect::<Vec<Portal>>();
    assert_eq!(winners(incremental), winners(fresh), "the portals that take precedence are equal");
    for portal in incremental.iter() {
        assert_eq!(
            incremental.get(portal.key),
            Some(portal),
            "a portal that takes precedence is found by its key"
        );
    }
    assert_eq!(incremental.service_ranges(), fresh.service_ranges(), "the service ranges are equal");
}

/// Checks that the rules are equal, except that a remaining backend can have another slot.
fn check_ruleset(incremental: &Ruleset, fresh: &Ruleset) {
    let (incremental_keys, fresh_keys) =
        (incremental.rules().map(|rule| rule.0), fresh.rules().map(|rule| rule.0));
    assert!(incremental_keys.eq(fresh_keys), "the rules are for the same portals");
    for ((key, rule), (_, fresh)) in incremental.rules().zip(fresh.rules()) {
        let incremental = (rule.dispatch, &rule.sources, rule.is_cluster_ip, rule.backends.len());
        assert_eq!(incremental, (fresh.dispatch, &fresh.sources, fresh.is_cluster_ip, fresh.backends.len()));
        let set = |backends: &[SocketAddr]| backends.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(set(&rule.backends), set(&fresh.backends), "{key:?} keeps its backends");
    }
    assert!(incremental.dispatch_keys().eq(fresh.dispatch_keys()), "the chains are equal");
    for key in incremental.dispatch_keys() {
        assert_eq!(DispatchKey::from_code(key.code()), Some(key), "the code of {key} is unique");
    }
    assert_eq!(incremental.ranges(), fresh.ranges(), "the service ranges are equal");
    assert!(incremental.addresses().eq(fresh.addresses()), "the addresses are equal");
}
