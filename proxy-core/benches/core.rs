//! The speed of the core: from objects in memory to a ruleset, from a changed endpoint to a plan, and variables.
//!
//! Run it with `scripts/bench core`. docs/benchmarks.md contains results.

use std::hint::black_box;

use bench_report::{Sheet, Spread, Verdict, is_quick};
use proxy_core::env::environment;
use proxy_core::plan::{plan, plan_changed};
use proxy_core::portal::{NodeContext, Portals, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{cluster, cluster_slice};
use proxy_core::snapshot::{Change, Snapshot};

const MS: f64 = 1e3;
const US: f64 = 1e6;
const FEW_RUNS: usize = 20;
const RUNS: usize = 2_000;

fn main() {
    let sheet = Sheet::open("core");
    let sizes: &[u32] = if is_quick() { &[1_000] } else { &[1_000, 10_000, 50_000] };

    let table =
        sheet.scale("ruleset", "objects in memory -> snapshot -> portals -> ruleset", "ms", "services");
    for &services in sizes {
        let took = objects_to_ruleset(services);
        let target = [Verdict::at_most("ms", took.median, 60.0)];
        table.put("the whole ruleset", services, &took, if services == 10_000 { &target } else { &[] });
    }
    for &services in sizes {
        table.put(
            "the plan that programs an empty network namespace",
            services,
            &plan_from_empty(services),
            &[],
        );
    }

    let table = sheet.scale("change", "one changed endpoint", "us", "services");
    let plans: Vec<Spread> = sizes.iter().map(|services| plan_of_one_changed_endpoint(*services)).collect();
    for (&services, took) in sizes.iter().zip(&plans) {
        let targets = [
            Verdict::at_most("us", took.median, 100.0),
            Verdict::at_most("times the smallest's", took.times(&plans[0]), 1.5),
        ];
        table.put("the plan alone", services, took, if services == 50_000 { &targets } else { &[] });
    }
    for &services in sizes {
        table.put("from the change to the plan", services, &one_changed_endpoint(services), &[]);
    }

    let services = if is_quick() { 500 } else { 5_000 };
    let snapshot: Snapshot = cluster(services, 0).collect();
    let took = Spread::timed(50, MS, || (), |()| environment(black_box(&snapshot), "default", true));
    let table = sheet.rows("variables", &format!("variables for a namespace of {services} services"), "ms");
    table.put("all of them", &took, &[Verdict::at_most("ms", took.median, 15.0)]);
}

fn objects_to_ruleset(services: u32) -> Spread {
    let changes: Vec<Change> = cluster(services, 3).collect();
    Spread::timed(FEW_RUNS, MS, || changes.clone(), ruleset_of)
}

fn plan_from_empty(services: u32) -> Spread {
    let (_, _, ruleset) = ruleset_of(cluster(services, 3).collect());
    Spread::timed(FEW_RUNS, MS, || (), |()| plan(&Ruleset::empty(), black_box(&ruleset)))
}

/// Measures the plan only, after the ruleset was updated.
fn plan_of_one_changed_endpoint(services: u32) -> Spread {
    let (mut snapshot, mut portals, ruleset) = ruleset_of(cluster(services, 3).collect());
    let changed = snapshot.apply(Change::Slice(cluster_slice(services / 2, 3, 1)));
    let touched = portals.refresh(&snapshot, &NodeContext::default(), &changed);
    let mut desired = ruleset.clone();
    desired.refresh(&portals, &touched);
    Spread::timed(RUNS, US, || (), |()| plan_changed(black_box(&ruleset), black_box(&desired), &touched))
}

/// Measures change -> snapshot -> portals -> ruleset -> plan.
fn one_changed_endpoint(services: u32) -> Spread {
    let (snapshot, portals, ruleset) = ruleset_of(cluster(services, 3).collect());
    let mut index = 0_u32;
    let input = || {
        index = index.wrapping_add(7_919);
        let slice = cluster_slice(index % services, 3, 1);
        (snapshot.clone(), portals.clone(), ruleset.clone(), Change::Slice(slice))
    };
    Spread::timed(RUNS, US, input, |(mut snapshot, mut portals, mut desired, change)| {
        let changed = snapshot.apply(change);
        let touched = portals.refresh(&snapshot, &NodeContext::default(), &changed);
        desired.refresh(&portals, &touched);
        let plan = plan_changed(&ruleset, &desired, &touched);
        assert_eq!(plan.ops().len(), 2);
        (plan, snapshot, portals, desired)
    })
}

fn ruleset_of(changes: Vec<Change>) -> (Snapshot, Portals, Ruleset) {
    let snapshot: Snapshot = changes.into_iter().collect();
    let portals = portals(&snapshot, &NodeContext::default());
    let ruleset = Ruleset::new(&portals, Settings::default());
    (snapshot, portals, ruleset)
}
