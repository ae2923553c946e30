//! Bounds, budgets and views: what services and pods may cost the agent, and what is done where that is reached.

use std::time::Duration;

use super::*;
use crate::budget::Budget;
use crate::metrics::metrics;
use crate::report::ProgrammedPortals;

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
fn limited(limit: u64, count: u8) -> TestAgent {
    let mut agent = TestAgent::with(ProgrammingMode::All);
    agent.reconciler.options.budget = Budget { limit: Some(limit), processors: 2 };
    agent.step(Event::Changes(services(count)));
    agent.step(Event::Synced);
    agent
}

fn on_demand(agent: &TestAgent) -> Vec<bool> {
    let report = agent.reconciler.report(agent.now);
    report.attachments.iter().map(|attachment| attachment.portals == ProgrammedPortals::OnDemand).collect()
}

fn settle(agent: &mut TestAgent, effects: &[Effect]) {
    let mut jobs: Vec<u64> = runs(effects).into_iter().map(|(netns, _)| netns).collect();
    while let Some(number) = jobs.pop() {
        let effects = agent.step(Event::JobDone(netns(number), OK));
        jobs.extend(runs(&effects).into_iter().map(|(netns, _)| netns));
    }
}

#[test]
fn where_full_tables_do_not_fit_any_more_pods_go_on_demand_and_are_attached() {
    // A full table is some 200 KB by the model, and half of the limit is for tables: two of them.
    let mut agent = limited(1_100_000, 100);
    for number in 1..=4 {
        let effects = agent.attach(number);
        assert_eq!(sent(&effects).len(), 1, "pod {number} is programmed: {effects:?}");
        let effects = agent.step(Event::JobDone(netns(number), OK));
        assert_eq!(answers(&effects), [(number, &Reply::Done)]);
    }
    assert_eq!(on_demand(&agent), [false, false, true, true]);
}

#[test]
fn pods_with_full_tables_are_moved_on_demand_when_services_grow_beyond_the_budget() {
    let mut agent = limited(1_100_000, 5);
    (1..=4).for_each(|number| agent.attached(number));
    assert_eq!(on_demand(&agent), [false; 4]);
    agent.now += INTERVAL;
    let effects = agent.step(Event::Changes(services(100)));
    let moved =
        notes(&effects).into_iter().any(|note| matches!(note, LogEvent::MovedOnDemand { pods: 2, .. }));
    assert!(moved, "{:?}", notes(&effects));
    settle(&mut agent, &effects);
    assert_eq!(on_demand(&agent), [false, false, true, true]);
    let report = agent.reconciler.report(agent.now);
    assert!(report.memory.tables <= report.memory.tables_max.expect("a limit"), "{:?}", report.memory);
    let programmed: Vec<usize> = report.attachments.iter().map(|attachment| attachment.programmed).collect();
    assert_eq!(programmed, [100, 100, 0, 0]);
}

#[test]
fn services_with_refused_portals_are_named_once_and_counted_by_reason() {
    let mut agent = TestAgent::new();
    agent.reconciler.options.bounds = PortalLimits { service_portals: 1, ..PortalLimits::STANDARD };
    let named = |effects: &[Effect]| -> Vec<String> {
        let of = |note: &&LogEvent| match note {
            LogEvent::PortalsRefused { service, .. } => Some(service.name.to_string()),
            _ => None,
        };
        notes(effects).iter().filter_map(of).collect()
    };
    agent.step(Event::Changes(world("10.1.0.1")));
    assert_eq!(named(&agent.step(Event::Synced)), ["dns"]);
    assert_eq!(named(&agent.change("10.1.0.2")), [""; 0], "it was named before");
    assert_eq!(agent.reconciler.report(agent.now).refused["service-portals"], 1);
}

/// An agent with so many pods, which name their own 999 services each, or see all.
fn pods(count: u64, has_own_lists: bool) -> TestAgent {
    let mut agent = TestAgent::synced();
    for number in 1..=count {
        let mut attachment = attachment(&format!("pod-{number}"));
        if has_own_lists {
            let common = (0..998).map(|name| format!("a-rather-long-name-of-a-service-{name}"));
            let list = common.chain([format!("zz-{number}")]).collect::<Vec<_>>().join(",");
            attachment.annotations.insert("portals".to_owned(), list);
        }
        agent.step(Event::Attach(RequestId(number), attachment, netns(number)));
        agent.step(Event::JobDone(netns(number), OK));
    }
    agent
}

#[test]
fn long_lists_of_services_make_no_change_slow() {
    let took = |agent: &mut TestAgent| -> Duration {
        let start = Instant::now();
        for round in 0..50 {
            agent.change(&format!("10.1.1.{round}"));
            for number in 1..=110 {
                agent.step(Event::JobDone(netns(number), OK));
            }
        }
        start.elapsed()
    };
    // Of several runs the fastest, since other programs run as well.
    let fastest = |agent: &mut TestAgent| (0..3).map(|_| took(agent)).min().expect("three runs");
    let (all, own) = (fastest(&mut pods(110, false)), fastest(&mut pods(110, true)));
    // 110 views have to look at the change, each for itself. By whole lists it was fifty times this.
    assert!(own < all * 3 + Duration::from_millis(50), "{own:?} with lists of their own, {all:?} without");
}

#[test]
fn the_metrics_page_and_the_status_do_not_grow_with_lists_of_services() {
    let agent = pods(110, true);
    let report = agent.reconciler.report(agent.now);
    let page = metrics(&report);
    assert!(page.lines().any(|line| line == "portico_views_selected 110"), "{page}");
    assert!(page.len() < 16 << 10, "{} bytes", page.len());
    assert!(report.views.keys().all(|view| view.len() < 200));
    assert_eq!(report.views.len(), 111, "each has a name of its own");
}
