//! Bounds, budgets and views: what services and pods may cost the agent, and what is done where that is reached.

use std::time::Duration;

use super::*;
use crate::budget::Budget;
use crate::metrics::metrics;
use crate::report::Programmed;

/// Services of ten backends each, in one namespace, and a service range.
fn services(count: u8) -> Vec<Change> {
    let mut changes = vec![Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")])];
    for number in 0..count {
        let name = format!("web-{number}");
        changes.push(svc(&name).ip(&format!("10.96.1.{number}")).tcp("a", 80).into());
        let made = slice(&name).tcp("a", 8080);
        changes
            .push((1..=10).fold(made, |made, backend| made.at(&format!("10.1.{number}.{backend}"))).into());
    }
    changes
}

/// An agent with a memory limit that knows so many services.
fn limited(limit: u64, count: u8) -> Bench {
    let mut bench = Bench::with(Provision::All);
    bench.agent.options.budget = Budget { limit: Some(limit), processors: 2 };
    bench.step(Event::Changes(services(count)));
    bench.step(Event::Synced);
    bench
}

fn on_demand(bench: &Bench) -> Vec<bool> {
    let report = bench.agent.report(bench.now);
    report.attachments.iter().map(|attachment| attachment.portals == Programmed::OnDemand).collect()
}

fn settle(bench: &mut Bench, effects: &[Effect]) {
    let mut jobs: Vec<u64> = runs(effects).into_iter().map(|(netns, _)| netns).collect();
    while let Some(number) = jobs.pop() {
        let effects = bench.step(Event::Done(netns(number), OK));
        jobs.extend(runs(&effects).into_iter().map(|(netns, _)| netns));
    }
}

#[test]
fn where_full_tables_do_not_fit_any_more_pods_go_on_demand_and_are_attached() {
    // A full table is some 200 KB by the model, and half of the limit is for tables: two of them.
    let mut bench = limited(1_100_000, 100);
    for number in 1..=4 {
        let effects = bench.attach(number);
        assert_eq!(sent(&effects).len(), 1, "pod {number} is programmed: {effects:?}");
        let effects = bench.step(Event::Done(netns(number), OK));
        assert_eq!(answers(&effects), [(number, &Reply::Done)]);
    }
    assert_eq!(on_demand(&bench), [false, false, true, true]);
}

#[test]
fn pods_with_full_tables_are_moved_on_demand_when_services_grow_beyond_the_budget() {
    let mut bench = limited(1_100_000, 5);
    (1..=4).for_each(|number| bench.attached(number));
    assert_eq!(on_demand(&bench), [false; 4]);
    bench.now += INTERVAL;
    let effects = bench.step(Event::Changes(services(100)));
    let moved = notes(&effects).into_iter().any(|note| matches!(note, Note::MovedOnDemand { pods: 2, .. }));
    assert!(moved, "{:?}", notes(&effects));
    settle(&mut bench, &effects);
    assert_eq!(on_demand(&bench), [false, false, true, true]);
    let report = bench.agent.report(bench.now);
    assert!(report.memory.tables <= report.memory.tables_max.expect("a limit"), "{:?}", report.memory);
    let programmed: Vec<usize> = report.attachments.iter().map(|attachment| attachment.programmed).collect();
    assert_eq!(programmed, [100, 100, 0, 0]);
}

#[test]
fn services_with_refused_portals_are_named_once_and_counted_by_reason() {
    let mut bench = Bench::new();
    bench.agent.options.bounds = PortalLimits { service_portals: 1, ..PortalLimits::STANDARD };
    let named = |effects: &[Effect]| -> Vec<String> {
        let of = |note: &&Note| match note {
            Note::PortalsRefused { service, .. } => Some(service.name.to_string()),
            _ => None,
        };
        notes(effects).iter().filter_map(of).collect()
    };
    bench.step(Event::Changes(world("10.1.0.1")));
    assert_eq!(named(&bench.step(Event::Synced)), ["dns"]);
    assert_eq!(named(&bench.change("10.1.0.2")), [""; 0], "it was named before");
    assert_eq!(bench.agent.report(bench.now).refused["service-portals"], 1);
}

/// An agent with so many pods, which name their own 999 services each, or see all.
fn pods(count: u64, has_own_lists: bool) -> Bench {
    let mut bench = Bench::synced();
    for number in 1..=count {
        let mut attachment = attachment(&format!("pod-{number}"));
        if has_own_lists {
            let common = (0..998).map(|name| format!("a-rather-long-name-of-a-service-{name}"));
            let list = common.chain([format!("zz-{number}")]).collect::<Vec<_>>().join(",");
            attachment.annotations.insert("portals".to_owned(), list);
        }
        bench.step(Event::Attach(Ticket(number), attachment, netns(number)));
        bench.step(Event::Done(netns(number), OK));
    }
    bench
}

#[test]
fn long_lists_of_services_make_no_change_slow() {
    let took = |bench: &mut Bench| -> Duration {
        let start = Instant::now();
        for round in 0..50 {
            bench.change(&format!("10.1.1.{round}"));
            for number in 1..=110 {
                bench.step(Event::Done(netns(number), OK));
            }
        }
        start.elapsed()
    };
    // Of several runs the fastest, since other programs run as well.
    let fastest = |bench: &mut Bench| (0..3).map(|_| took(bench)).min().expect("three runs");
    let (all, own) = (fastest(&mut pods(110, false)), fastest(&mut pods(110, true)));
    // 110 views have to look at the change, each for itself. By whole lists it was fifty times this.
    assert!(own < all * 3 + Duration::from_millis(50), "{own:?} with lists of their own, {all:?} without");
}

#[test]
fn the_metrics_page_and_the_status_do_not_grow_with_lists_of_services() {
    let bench = pods(110, true);
    let report = bench.agent.report(bench.now);
    let page = metrics(&report);
    assert!(page.lines().any(|line| line == "portico_views_selected 110"), "{page}");
    assert!(page.len() < 16 << 10, "{} bytes", page.len());
    assert!(report.views.keys().all(|view| view.len() < 200));
    assert_eq!(report.views.len(), 111, "each has a name of its own");
}
