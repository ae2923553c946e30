//! Each step of a move, each interruption, and each reason to stop, with the expected effects of the steps.

use node_agent::{ConnectionReport, KubeProxyReport};

use super::*;
use crate::migrate::forecast::{expected, forecast};
use crate::migrate::observation::ProxyPod;

const RULES: &str = "table ip kube-proxy";

/// A node that kube-proxy serves; with a DaemonSet, or without one.
fn node_of_kube_proxy(has_daemon_set: bool) -> Observation {
    let kube_proxy = KubeProxyReport {
        running: true,
        synced: true,
        mode: Some("nftables".to_owned()),
        rules: RULES.to_owned(),
        ..KubeProxyReport::default()
    };
    let label = "kube-proxy".to_owned();
    Observation {
        label: Ok(ServiceProxy::KubeProxy),
        agent: Ok(MigrationReport { label, kube_proxy, ..MigrationReport::default() }),
        daemon_set: has_daemon_set.then_some(ProxyDaemonSet { avoids_portico: false, pod: ProxyPod::Ready }),
    }
}

/// All observations on the way to a goal, and the steps between them.
fn way(goal: Goal, start: &Observation) -> (Vec<Observation>, Vec<Step>) {
    let mut migration = Migration::new(goal, "1".to_owned());
    let (mut observations, mut steps) = (vec![start.clone()], Vec::new());
    loop {
        assert!(steps.len() < 30, "{steps:?}");
        let current = observations[observations.len() - 1].clone();
        let step = migration.next(&current);
        steps.push(step.clone());
        if matches!(step, Step::Done | Step::Stop(_)) {
            return (observations, steps);
        }
        observations.push(expected(&migration, goal, current, &step));
    }
}

fn last(goal: Goal, start: &Observation) -> Observation {
    let (mut observations, _) = way(goal, start);
    observations.pop().expect("an observation")
}

/// The steps that change something.
fn changes(steps: &[Step]) -> Vec<&Step> {
    steps.iter().filter(|step| !matches!(step, Step::Wait(_) | Step::Verify(..))).collect()
}

#[test]
fn steps_to_portico_are_verified_before_kube_proxy_stops() {
    let (_, steps) = way(Goal::Portico, &node_of_kube_proxy(true));
    let expected = [
        Step::Verify(Phase::Before, 1),
        Step::SetLabel(ServiceProxy::Both),
        wait("the node's table to be programmed"),
        Step::Verify(Phase::Both, 1),
        Step::ExcludeFromDaemonSet,
        Step::SetLabel(ServiceProxy::Portico),
        wait("the pod of kube-proxy on the node to end"),
        Step::RemoveRules,
        Step::Verify(Phase::After, 1),
        Step::Done,
    ];
    assert_eq!(steps, expected);
}

#[test]
fn steps_back_remove_the_label_after_kube_proxy_is_synced() {
    let (_, steps) = way(Goal::KubeProxy, &last(Goal::Portico, &node_of_kube_proxy(true)));
    let expected = [
        Step::Verify(Phase::Before, 1),
        Step::SetLabel(ServiceProxy::Both),
        wait("the pod of kube-proxy on the node to be ready"),
        Step::SetLabel(ServiceProxy::KubeProxy),
        wait("the agent to remove the node's table"),
        Step::Verify(Phase::After, 1),
        Step::Done,
    ];
    assert_eq!(steps, expected);
}

#[test]
fn agent_that_has_not_observed_a_ready_pod_is_waited_for_without_a_request_to_start_kube_proxy() {
    let mut observation = last(Goal::Portico, &node_of_kube_proxy(true));
    observation.label = Ok(ServiceProxy::Both);
    observation.agent.as_mut().expect("a report").label = "both".to_owned();
    observation.daemon_set = Some(ProxyDaemonSet { avoids_portico: true, pod: ProxyPod::Ready });
    let step = Migration::new(Goal::KubeProxy, "2".to_owned()).next(&observation);
    assert_eq!(step, wait("the agent to observe kube-proxy, whose pod on the node is ready"));
}

#[test]
fn embedded_kube_proxy_is_stopped_and_started_by_the_operator() {
    let (_, steps) = way(Goal::Portico, &node_of_kube_proxy(false));
    assert!(steps.iter().any(|step| matches!(step, Step::Wait(text) if text.contains("disable-kube-proxy"))));
    assert!(!steps.contains(&Step::ExcludeFromDaemonSet));
    let (_, back) = way(Goal::KubeProxy, &last(Goal::Portico, &node_of_kube_proxy(false)));
    assert!(back.iter().any(|step| matches!(step, Step::Wait(text) if text.contains("kube-proxy to start"))));
    assert_eq!(back.last(), Some(&Step::Done));
}

#[test]
fn call_after_any_interruption_reaches_the_goal_in_either_direction() {
    for has_daemon_set in [true, false] {
        let start = node_of_kube_proxy(has_daemon_set);
        let (over, _) = way(Goal::Portico, &start);
        let (back, _) = way(Goal::KubeProxy, over.last().expect("an observation"));
        for interrupted in over.iter().chain(&back) {
            for (goal, label) in
                [(Goal::Portico, ServiceProxy::Portico), (Goal::KubeProxy, ServiceProxy::KubeProxy)]
            {
                let (observations, steps) = way(goal, interrupted);
                assert_eq!(steps.last(), Some(&Step::Done), "{goal:?} from {interrupted:?}: {steps:?}");
                let reached = observations.last().expect("an observation");
                let report = reached.agent.as_ref().expect("a report");
                assert_eq!((&reached.label, report.serving), (&Ok(label), goal == Goal::Portico));
                assert_eq!(
                    report.kube_proxy.running,
                    goal == Goal::KubeProxy,
                    "{goal:?} from {interrupted:?}"
                );
            }
        }
    }
}

#[test]
fn call_on_a_node_at_its_goal_changes_nothing() {
    let start = node_of_kube_proxy(true);
    let over = last(Goal::Portico, &start);
    assert_eq!(changes(&way(Goal::Portico, &over).1), [&Step::Done]);
    assert_eq!(changes(&way(Goal::KubeProxy, &start).1), [&Step::Done]);
}

#[test]
fn label_is_not_removed_while_kube_proxy_has_not_programmed_its_rules() {
    let mut observation = last(Goal::Portico, &node_of_kube_proxy(true));
    observation.label = Ok(ServiceProxy::Both);
    let report = observation.agent.as_mut().expect("a report");
    report.label = "both".to_owned();
    report.kube_proxy.running = true;
    let step = Migration::new(Goal::KubeProxy, "2".to_owned()).next(&observation);
    assert_eq!(step, wait("kube-proxy to program its rules"));
}

#[test]
fn connections_of_ipvs_are_drained_before_its_rules_are_removed() {
    let mut observation = node_of_kube_proxy(true);
    let report = observation.agent.as_mut().expect("a report");
    (report.kube_proxy.ipvs, report.kube_proxy.ipvs_connections) = (true, 7);
    let (_, steps) = way(Goal::Portico, &observation);
    let mut migration = Migration::new(Goal::Portico, "2".to_owned());
    let mut stopped = last(Goal::Portico, &observation);
    stopped.agent.as_mut().expect("a report").kube_proxy.ipvs_connections = 7;
    assert!(
        matches!(migration.next(&stopped), Step::Wait(text) if text.starts_with("7 connections of IPVS"))
    );
    assert_eq!(steps.last(), Some(&Step::Done));
}

#[test]
fn node_of_another_owner_is_not_changed() {
    for (owner, has_kube_proxy, is_refused) in [
        ("kube-router", true, true),
        ("Calico eBPF", true, true),
        ("Cilium", false, true),
        ("Cilium", true, false),
        ("firewalld", true, false),
    ] {
        let mut observation = node_of_kube_proxy(true);
        let report = observation.agent.as_mut().expect("a report");
        report.others = vec![owner.to_owned()];
        if !has_kube_proxy {
            report.kube_proxy = KubeProxyReport::default();
        }
        let steps = forecast(Goal::Portico, observation);
        assert_eq!(matches!(steps[0], Step::Stop(_)), is_refused, "{owner}: {steps:?}");
    }
}

/// Verifies a node before and with both proxies, and returns the steps. A service is reachable before, and with both
/// proxies as these attempts say.
fn verify_both(attempts: &[Option<&str>]) -> Vec<Step> {
    let connection = |error: Option<&str>| ConnectionReport {
        service: "default/web".to_owned(),
        portal: "10.96.0.7:80".to_owned(),
        backend: Some("10.1.0.2:8080".to_owned()),
        error: error.map(str::to_owned),
    };
    let verified = |request: String, serving, error| VerificationReport {
        request,
        serving,
        problem: None,
        connections: vec![connection(error)],
    };
    let mut migration = Migration::new(Goal::Portico, "1".to_owned());
    let mut observation = node_of_kube_proxy(true);
    let before = verified(migration.verification_request(Phase::Before, 1), false, None);
    observation.agent.as_mut().expect("a report").verification = Some(before);
    let mut steps = vec![migration.next(&observation)];
    observation.label = Ok(ServiceProxy::Both);
    let report = observation.agent.as_mut().expect("a report");
    (report.label, report.serving) = ("both".to_owned(), true);
    for (attempt, error) in (1..).zip(attempts) {
        let found = verified(migration.verification_request(Phase::Both, attempt), true, *error);
        observation.agent.as_mut().expect("a report").verification = Some(found);
        steps.push(migration.next(&observation));
    }
    steps
}

#[test]
fn node_that_is_not_as_before_stops_before_kube_proxy_does() {
    let steps = verify_both(&[Some("timed out"); 3]);
    assert_eq!(
        steps[..3],
        [Step::SetLabel(ServiceProxy::Both), Step::Verify(Phase::Both, 2), Step::Verify(Phase::Both, 3),]
    );
    assert!(matches!(&steps[3], Step::Stop(why) if why[0].contains("default/web")), "{steps:?}");
}

#[test]
fn service_that_fails_in_one_attempt_stops_nothing() {
    let steps = verify_both(&[Some("refused"), None]);
    assert_eq!(steps[1..], [Step::Verify(Phase::Both, 2), Step::ExcludeFromDaemonSet]);
}

#[test]
fn agent_that_is_absent_or_lags_behind_is_waited_for() {
    let mut observation = node_of_kube_proxy(true);
    observation.label = Ok(ServiceProxy::Both);
    let next = |observation: &Observation| Migration::new(Goal::Portico, "1".to_owned()).next(observation);
    assert_eq!(next(&observation), wait("the agent to follow the label of the node"));
    observation.agent = Err("no pod of the agent is ready".to_owned());
    assert_eq!(next(&observation), wait("the agent on the node: no pod of the agent is ready"));
    observation.label = Err("portica".to_owned());
    assert!(matches!(next(&observation), Step::Stop(_)));
}

#[test]
fn rules_that_cannot_be_removed_are_named_at_the_end() {
    let migration = Migration::new(Goal::Portico, "1".to_owned());
    let mut observation = last(Goal::Portico, &node_of_kube_proxy(true));
    let report = observation.agent.as_mut().expect("a report");
    assert_eq!(migration.summary(report), [format!("removed {RULES}")]);
    report.rule_removal = Some(RuleRemovalReport {
        request: migration.removal_request(),
        problem: Some("kube-proxy has services in IPVS".to_owned()),
        ..RuleRemovalReport::default()
    });
    assert!(migration.summary(report)[0].contains("kube-proxy --cleanup"));
}
