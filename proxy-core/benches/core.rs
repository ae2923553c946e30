//! How long the core takes: objects in memory to ruleset, one changed endpoint to plan, variables.
//!
//! Run with `cargo bench -p proxy-core`; `docs/benchmarks.md` holds a run with its machine named.

use std::sync::atomic::{AtomicU32, Ordering};

use divan::{Bencher, black_box};
use proxy_core::env::environment;
use proxy_core::plan::{plan, plan_touched};
use proxy_core::portal::{Portals, Standpoint, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{cluster, cluster_slice};
use proxy_core::snapshot::{Change, Snapshot};

fn main() {
    divan::main();
}

const SIZES: [u32; 3] = [1_000, 10_000, 50_000];

/// Objects in memory -> snapshot -> portals -> ruleset, three endpoints each.
#[divan::bench(args = SIZES, sample_count = 20)]
fn objects_to_ruleset(bencher: Bencher<'_, '_>, services: u32) {
    let changes: Vec<Change> = cluster(services, 3).collect();
    bencher.with_inputs(|| changes.clone()).bench_values(|changes| {
        let snapshot: Snapshot = changes.into_iter().collect();
        let portals = portals(&snapshot, &Standpoint::default());
        (Ruleset::new(&portals, Settings::default()), portals, snapshot)
    });
}

/// The plan that programs an empty network namespace.
#[divan::bench(args = SIZES, sample_count = 20)]
fn plan_from_empty(bencher: Bencher<'_, '_>, services: u32) {
    let (_, _, ruleset) = world(services);
    bencher.bench(|| plan(&Ruleset::empty(), black_box(&ruleset)));
}

/// The plan alone for one changed endpoint, once rules have followed the change.
#[divan::bench(args = SIZES, sample_count = 2_000)]
fn plan_of_one_changed_endpoint(bencher: Bencher<'_, '_>, services: u32) {
    let (mut snapshot, mut portals, ruleset) = world(services);
    let changed = snapshot.apply(Change::Slice(cluster_slice(services / 2, 3, 1)));
    let touched = portals.refresh(&snapshot, &Standpoint::default(), &changed);
    let mut desired = ruleset.clone();
    desired.refresh(&portals, &touched);
    bencher.bench(|| plan_touched(black_box(&ruleset), black_box(&desired), &touched));
}

/// One changed endpoint: change -> snapshot -> portals -> ruleset -> plan, the whole way.
#[divan::bench(args = SIZES, sample_count = 2_000)]
fn one_changed_endpoint(bencher: Bencher<'_, '_>, services: u32) {
    let (snapshot, portals, ruleset) = world(services);
    let turn = AtomicU32::new(0);
    bencher
        .with_inputs(|| {
            let index = turn.fetch_add(7_919, Ordering::Relaxed) % services;
            let slice = cluster_slice(index, 3, 1);
            (snapshot.clone(), portals.clone(), ruleset.clone(), Change::Slice(slice))
        })
        .bench_values(|(mut snapshot, mut portals, mut desired, change)| {
            let changed = snapshot.apply(change);
            let touched = portals.refresh(&snapshot, &Standpoint::default(), &changed);
            desired.refresh(&portals, &touched);
            let plan = plan_touched(&ruleset, &desired, &touched);
            assert_eq!(plan.ops().len(), 2);
            (plan, snapshot, portals, desired)
        });
}

/// The variables for a namespace of 5,000 services.
#[divan::bench(sample_count = 50)]
fn variables_of_5000_services(bencher: Bencher<'_, '_>) {
    let snapshot: Snapshot = cluster(5_000, 0).collect();
    bencher.bench(|| environment(black_box(&snapshot), "default", true));
}

fn world(services: u32) -> (Snapshot, Portals, Ruleset) {
    let snapshot: Snapshot = cluster(services, 3).collect();
    let portals = portals(&snapshot, &Standpoint::default());
    let ruleset = Ruleset::new(&portals, Settings::default());
    (snapshot, portals, ruleset)
}
