//! Following changes step by step comes to the same as starting anew, and plans lead where they should.
//!
//! The model is a plain map of the last state of each object. What must not go in here: how a story is made.

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

/// Follows a story and holds each step to every claim.
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
        let anew = portals(&model.snapshot(), &node_context);
        check_portals(&followed, &anew);
        check_ruleset(&desired, &Ruleset::new(&anew, settings));
        let step = plan(&applied, &desired);
        assert_eq!(step, plan_changed(&applied, &desired, &touched), "touched says all that differs");
        let next = led(&step, &table, &desired);
        if batch.is_applied {
            (applied, table) = (desired.clone(), next);
            touched.clear();
        }
    }
    assert!(plan(&desired, &desired).is_empty(), "nothing to do where nothing differs");
    check_jumps(&applied, &desired, &Ruleset::new(&followed, later_settings));
    check_node_context(&snapshot, &node_context);
}

/// Runs a plan; it must lead from this table to the desired rules.
fn led(plan: &Plan, table: &Table, desired: &Ruleset) -> Table {
    let text = plan.to_string();
    assert_eq!(text.matches('{').count(), text.matches('}').count(), "brackets come in pairs");
    let next = apply(plan, table).unwrap_or_else(|misfit| panic!("{misfit}: {plan:?}"));
    assert_eq!(next, Table::from(desired), "the plan leads to the desired rules: {plan:?}");
    next
}

/// Any of these rulesets may follow any other.
fn check_jumps(applied: &Ruleset, desired: &Ruleset, resettled: &Ruleset) {
    let all = [&Ruleset::empty(), applied, desired, resettled];
    for from in all {
        for to in all {
            led(&plan(from, to), &Table::from(from), to);
        }
    }
}

fn check_portals(followed: &Portals, anew: &Portals) {
    let all = |portals: &Portals| portals.by_service().cloned().collect::<Vec<Portal>>();
    assert_eq!(all(followed), all(anew), "the portals of each service are followed");
    let in_force = |portals: &Portals| portals.iter().cloned().collect::<Vec<Portal>>();
    assert_eq!(in_force(followed), in_force(anew), "the portals in force are followed");
    for portal in followed.iter() {
        assert_eq!(followed.get(portal.key), Some(portal), "a portal in force is found by its key");
    }
    assert_eq!(followed.service_ranges(), anew.service_ranges(), "the ranges are followed");
}

/// The same rules, but a backend that stayed may have kept its slot.
fn check_ruleset(followed: &Ruleset, anew: &Ruleset) {
    let (followed_keys, anew_keys) = (followed.rules().map(|rule| rule.0), anew.rules().map(|rule| rule.0));
    assert!(followed_keys.eq(anew_keys), "rules are there for the same portals");
    for ((key, rule), (_, fresh)) in followed.rules().zip(anew.rules()) {
        let followed = (rule.dispatch, &rule.sources, rule.is_cluster_ip, rule.backends.len());
        assert_eq!(followed, (fresh.dispatch, &fresh.sources, fresh.is_cluster_ip, fresh.backends.len()));
        let set = |backends: &[SocketAddr]| backends.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(set(&rule.backends), set(&fresh.backends), "{key:?} keeps its backends");
    }
    assert!(followed.dispatch_keys().eq(anew.dispatch_keys()), "the same chains are there");
    for pick in followed.dispatch_keys() {
        assert_eq!(DispatchKey::from_code(pick.code()), Some(pick), "the number of {pick} stands for it");
    }
    assert_eq!(followed.ranges(), anew.ranges(), "the ranges are followed");
    assert!(followed.addresses().eq(anew.addresses()), "the same addresses are marked");
}
