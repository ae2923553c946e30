//! Checks that incremental updates equal a computation from the start, and that plans produce the desired rules.
//!
//! The model is a plain map of the last state of each object. `universe` generates the story.

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

use crate::downstream::check_node_context;
use crate::universe::Story;

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
        }
    }

    fn snapshot(&self) -> Snapshot {
        let slices = self.slices.values().cloned().map(Change::Slice);
        let services = self.services.values().cloned().map(Change::Service);
        slices.chain(services).chain([Change::ServiceRanges(self.ranges.clone())]).collect()
    }
}

/// Follows a story and checks every claim at each step.
pub fn check(story: &Story) {
    let (node_context, [settings, later_settings]) = (story.node_context(), story.settings());
    let (mut model, mut snapshot) = (Model::default(), Snapshot::new());
    let mut followed = portals(&snapshot, &node_context);
    let mut desired = Ruleset::new(&followed, settings);
    let (mut applied, mut touched) = (Ruleset::empty(), ChangedPortals::new());
    let mut table = Table::default();
    for batch in story.batches() {
        let mut changed = ChangedServices::new();
        for change in batch.changes {
            model.apply(change.clone());
            changed.extend(snapshot.apply(change));
        }
        let new = followed.refresh(&snapshot, &node_context, &changed);
        desired.refresh(&followed, &new);
        touched.extend(new);
        let fresh = portals(&model.snapshot(), &node_context);
        check_portals(&followed, &fresh);
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
    check_jumps(&applied, &desired, &Ruleset::new(&followed, later_settings));
    check_node_context(&snapshot, &node_context);
}

/// Runs a plan on a table, and asserts that the result is the desired ruleset.
fn run(plan: &Plan, table: &Table, desired: &Ruleset) -> Table {
    let text = plan.to_string();
    assert_eq!(text.matches('{').count(), text.matches('}').count(), "brackets are balanced");
    let next = apply(plan, table).unwrap_or_else(|misfit| panic!("{misfit}: {plan:?}"));
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

fn check_portals(followed: &Portals, fresh: &Portals) {
    let all = |portals: &Portals| portals.by_service().cloned().collect::<Vec<Portal>>();
    assert_eq!(all(followed), all(fresh), "the portals of each service are equal");
    let in_force = |portals: &Portals| portals.iter().cloned().collect::<Vec<Portal>>();
    assert_eq!(in_force(followed), in_force(fresh), "the portals in force are equal");
    for portal in followed.iter() {
        assert_eq!(followed.get(portal.key), Some(portal), "a portal in force is found by its key");
    }
    assert_eq!(followed.service_ranges(), fresh.service_ranges(), "the service ranges are equal");
}

/// Checks that the rules are equal, except that a remaining backend can have another slot.
fn check_ruleset(followed: &Ruleset, fresh: &Ruleset) {
    let (followed_keys, fresh_keys) = (followed.rules().map(|rule| rule.0), fresh.rules().map(|rule| rule.0));
    assert!(followed_keys.eq(fresh_keys), "the rules are for the same portals");
    for ((key, rule), (_, fresh)) in followed.rules().zip(fresh.rules()) {
        let followed = (rule.dispatch, &rule.sources, rule.is_cluster_ip, rule.backends.len());
        assert_eq!(followed, (fresh.dispatch, &fresh.sources, fresh.is_cluster_ip, fresh.backends.len()));
        let set = |backends: &[SocketAddr]| backends.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(set(&rule.backends), set(&fresh.backends), "{key:?} keeps its backends");
    }
    assert!(followed.dispatch_keys().eq(fresh.dispatch_keys()), "the chains are equal");
    for pick in followed.dispatch_keys() {
        assert_eq!(DispatchKey::from_code(pick.code()), Some(pick), "the code of {pick} is unique");
    }
    assert_eq!(followed.ranges(), fresh.ranges(), "the service ranges are equal");
    assert!(followed.addresses().eq(fresh.addresses()), "the addresses are equal");
}
