//! Limits, the memory budget and views: what services and pods can cost the agent.

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
        let endpoints = slice(&name).tcp("a", 8080);
        changes.push(
            (1..=10)
                .fold(endpoints, |endpoints, backend| endpoints.at(&format!("10.1.{number}.{backend}")))
                .into(),
        );
    }
    changes
}

/// An agent with a memory limit and this number of services.
fn agent_with_limit(limit: u64, count: u8) -> TestAgent {
    let mut agent = TestAgent::with(ProgrammingMode::All);
    agent.reconciler.options.budget = Budget { limit: Some(limit), processors: 2 };
    agent.source(SourceEvent::Changes(services(count)));
    agent.source(SourceEvent::Synced);
    agent
}

fn are_on_demand(agent: &TestAgent) -> Vec<bool> {
    let report = agent.reconciler.report(agent.now);
    report.attachments.iter().map(|attachment| attachment.portals == ProgrammedPortals::OnDemand).collect()
}

fn finish_jobs(agent: &mut TestAgent, effects: &[Effect]) {
    let mut jobs: Vec<u64> = operations(effects).into_iter().map(|(netns, _)| netns).collect();
    while let Some(number) = jobs.pop() {
        let effects = agent.step(Event::JobDone(netns(number), OK));
        jobs.extend(operations(&effects).into_iter().map(|(netns, _)| netns));
    }
}

#[test]
fn pods_beyond_the_memory_budget_are_attached_on_demand() {
    // A full table has an estimated size of 200 KB, and half of the limit is for tables: two of them fit.
    let mut agent = agent_with_limit(1_100_000, 100);
    for number in 1..=4 {
        let effects = agent.attach(number);
        assert_eq!(batches(&effects).len(), 1, "pod {number} is programmed: {effects:?}");
        let effects = agent.step(Event::JobDone(netns(number), OK));
        assert_eq!(replies(&effects), [(number, &Reply::Done)]);
    }
    assert_eq!(are_on_demand(&agent), [false, false, true, true]);
}

#[test]
fn pods_are_switched_to_on_demand_when_services_grow_beyond_the_budget() {
    let mut agent = agent_with_limit(1_100_000, 5);
    (1..=4).for_each(|number| agent.attach_and_commit(number));
    assert_eq!(are_on_demand(&agent), [false; 4]);
    agent.now += INTERVAL;
    let effects = agent.source(SourceEvent::Changes(services(100)));
    let moved =
        log_events(&effects).into_iter().any(|note| matches!(note, LogEvent::MovedOnDemand { pods: 2, .. }));
    assert!(moved, "{:?}", log_events(&effects));
    finish_jobs(&mut agent, &effects);
    assert_eq!(are_on_demand(&agent), [false, false, true, true]);
    let report = agent.reconciler.report(agent.now);
    assert!(report.memory.tables <= report.memory.tables_max.expect("a limit"), "{:?}", report.memory);
    let programmed: Vec<usize> = report.attachments.iter().map(|attachment| attachment.programmed).collect();
    assert_eq!(programmed, [100, 100, 0, 0]);
}

#[test]
fn services_with_refused_portals_are_logged_once_and_counted_by_reason() {
    let mut agent = TestAgent::new();
    agent.reconciler.options.limits = PortalLimits { service_portals: 1, ..PortalLimits::STANDARD };
    let named = |effects: &[Effect]| -> Vec<String> {
        let of = |note: &&LogEvent| match note {
            LogEvent::PortalsRefused { service, .. } => Some(service.name.to_string()),
            _ => None,
        };
        log_events(effects).iter().filter_map(of).collect()
    };
    agent.source(SourceEvent::Changes(dns_objects("10.1.0.1")));
    assert_eq!(named(&agent.source(SourceEvent::Synced)), ["dns"]);
    assert_eq!(named(&agent.change_backend("10.1.0.2")), [""; 0], "it was named before");
    assert_eq!(agent.reconciler.report(agent.now).refused["service-portals"], 1);
}

/// An agent with this number of pods, each of which has its own list of 999 services, or sees all.
fn agent_with_pods(count: u64, has_own_lists: bool) -> TestAgent {
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
fn long_service_lists_do_not_slow_down_changes() {
    let took = |agent: &mut TestAgent| -> Duration {
        let start = Instant::now();
        for round in 0..50 {
            agent.change_backend(&format!("10.1.1.{round}"));
            for number in 1..=110 {
                agent.step(Event::JobDone(netns(number), OK));
            }
        }
        start.elapsed()
    };
    // Uses the fastest of several runs, because other programs run at the same time.
    let fastest = |agent: &mut TestAgent| (0..3).map(|_| took(agent)).min().expect("three runs");
    let (all, own) = (fastest(&mut agent_with_pods(110, false)), fastest(&mut agent_with_pods(110, true)));
    // Each of 110 views processes the change. Comparing whole lists took fifty times as long.
    assert!(own < all * 3 + Duration::from_millis(50), "{own:?} with lists of their own, {all:?} without");
}

#[test]
fn size_of_metrics_and_status_does_not_depend_on_service_lists() {
    let agent = agent_with_pods(110, true);
    let report = agent.reconciler.report(agent.now);
    let page = metrics(&report);
    assert!(page.lines().any(|line| line == "portico_views_selected 110"), "{page}");
    assert!(page.len() < 16 << 10, "{} bytes", page.len());
    assert!(report.views.keys().all(|view| view.len() < 200));
    assert_eq!(report.views.len(), 111, "each has a name of its own");
}
