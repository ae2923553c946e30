//! Which endpoints are selected: the cases of kube-proxy's topology.go and its test.
//!
//! The node is `n1` in zone `a` unless a test says otherwise.

use super::*;
use crate::model::address::Family;
use crate::model::endpoint::EndpointSlice;
use crate::model::service::{Protocol, ServiceKey};
use crate::sample::{slice, snapshot};

const OWN_NODE: (&str, &str) = ("n1", "a");

/// Returns the rule, the selected addresses and the status of each endpoint.
fn select(
    slice: EndpointSlice,
    policy: TrafficPolicy,
    (name, zone): (&str, &str),
) -> (SelectionRule, Vec<String>, Vec<EndpointStatus>) {
    let node = Node { name: name.into(), zone: zone.into(), ..Node::default() };
    let snapshot = snapshot([slice.tcp("", 80).into()]);
    let key = ServiceKey::new("default", "s");
    let endpoints = snapshot.endpoints_of(&key, "", Protocol::Tcp, Family::V4);
    let rule = selection_rule(&endpoints, policy, &node);
    let statuses: Vec<EndpointStatus> =
        endpoints.iter().map(|e| endpoint_status(rule, e.endpoint, &node)).collect();
    let chosen = endpoints.iter().zip(&statuses).filter(|(_, status)| **status == EndpointStatus::Selected);
    (rule, chosen.map(|(e, _)| e.endpoint.address.to_string()).collect(), statuses)
}

fn select_cluster(slice: EndpointSlice) -> Vec<String> {
    select(slice, TrafficPolicy::Cluster, OWN_NODE).1
}

fn select_local(slice: EndpointSlice) -> Vec<String> {
    select(slice, TrafficPolicy::Local, OWN_NODE).1
}

fn local_selection_rule(slice: EndpointSlice) -> SelectionRule {
    select(slice, TrafficPolicy::Local, OWN_NODE).0
}

const ONE: [&str; 1] = ["10.1.0.1"];
const TWO: [&str; 1] = ["10.1.0.2"];
const BOTH: [&str; 2] = ["10.1.0.1", "10.1.0.2"];
const NONE: [&str; 0] = [];

#[test]
fn ready_endpoints_are_selected_on_all_nodes() {
    assert_eq!(select_cluster(slice("s").at("10.1.0.1").on("n1").at("10.1.0.2").on("n2")), BOTH);
}

#[test]
fn unready_endpoint_is_not_selected() {
    assert_eq!(select_cluster(slice("s").at("10.1.0.1").at("10.1.0.2").unready()), ONE);
}

#[test]
fn terminating_endpoint_is_not_selected_while_another_is_ready() {
    assert_eq!(select_cluster(slice("s").at("10.1.0.1").at("10.1.0.2").terminating()), ONE);
}

#[test]
fn serving_terminating_endpoints_are_selected_if_none_is_ready() {
    let slice = slice("s").at("10.1.0.1").terminating().at("10.1.0.2").terminating();
    assert_eq!(select_cluster(slice.at("10.1.0.3").unready().at("10.1.0.4").finished()), BOTH);
}

#[test]
fn terminating_fallback_ignores_hints() {
    let slice = slice("s").at("10.1.0.1").zone("a").for_node("n1").terminating();
    assert_eq!(select_cluster(slice.at("10.1.0.2").zone("b").for_node("n2").terminating()), BOTH);
}

#[test]
fn unready_endpoint_that_does_not_terminate_is_not_a_fallback() {
    let (rule, chosen, _) = select(slice("s").at("10.1.0.1").unready(), TrafficPolicy::Cluster, OWN_NODE);
    assert_eq!((rule, chosen), (SelectionRule::None, Vec::new()));
}

#[test]
fn endpoint_that_no_longer_serves_is_not_a_fallback() {
    let (rule, chosen, _) = select(slice("s").at("10.1.0.1").finished(), TrafficPolicy::Cluster, OWN_NODE);
    assert_eq!((rule, chosen), (SelectionRule::None, Vec::new()));
}

#[test]
fn endpoint_published_as_ready_is_ready_even_if_it_terminates() {
    // publishNotReadyAddresses: the controller writes ready, whatever the pod is.
    let mut slice = slice("s").at("10.1.0.1").at("10.1.0.2").finished();
    slice.endpoints[1].conditions.ready = true;
    assert_eq!(select_cluster(slice.clone()), BOTH);
    assert_eq!(select_local(slice.on("n1")), TWO);
}

#[test]
fn zone_hints_apply_if_all_ready_endpoints_have_them_and_one_is_for_this_zone() {
    assert_eq!(select_cluster(slice("s").at("10.1.0.1").zone("a").at("10.1.0.2").zone("b")), ONE);
}

#[test]
fn endpoint_can_have_hints_for_several_zones() {
    let slice = slice("s").at("10.1.0.1").zone("c").zone("a").at("10.1.0.2").zone("a").zone("b");
    assert_eq!(select_cluster(slice.at("10.1.0.3").zone("b")), BOTH);
}

#[test]
fn zone_hints_are_ignored_if_one_ready_endpoint_has_none() {
    assert_eq!(select_cluster(slice("s").at("10.1.0.1").zone("a").at("10.1.0.2")), BOTH);
}

#[test]
fn zone_hints_are_ignored_if_none_is_for_this_zone() {
    assert_eq!(select_cluster(slice("s").at("10.1.0.1").zone("b").at("10.1.0.2").zone("c")), BOTH);
}

#[test]
fn node_without_a_zone_matches_no_zone_hint() {
    let slice = slice("s").at("10.1.0.1").zone("").at("10.1.0.2").zone("b");
    assert_eq!(select(slice, TrafficPolicy::Cluster, ("n1", "")).1, BOTH);
}

#[test]
fn node_hints_apply_if_all_ready_endpoints_have_them_and_one_is_for_this_node() {
    assert_eq!(select_cluster(slice("s").at("10.1.0.1").for_node("n2").at("10.1.0.2").for_node("n1")), TWO);
}

#[test]
fn node_hints_take_precedence_over_zone_hints() {
    let slice = slice("s").at("10.1.0.1").zone("a").for_node("n2");
    assert_eq!(select_cluster(slice.at("10.1.0.2").zone("b").for_node("n1")), TWO);
}

#[test]
fn zone_hints_apply_if_one_ready_endpoint_has_no_node_hint() {
    let slice = slice("s").at("10.1.0.1").zone("a");
    assert_eq!(select_cluster(slice.at("10.1.0.2").zone("b").for_node("n1")), ONE);
}

#[test]
fn zone_hints_apply_if_no_node_hint_is_for_this_node() {
    let slice = slice("s").at("10.1.0.1").zone("a").for_node("n2");
    assert_eq!(select_cluster(slice.at("10.1.0.2").zone("b").for_node("n3")), ONE);
}

#[test]
fn node_hints_are_ignored_if_none_is_for_this_node() {
    assert_eq!(select_cluster(slice("s").at("10.1.0.1").for_node("n2").at("10.1.0.2").for_node("n3")), BOTH);
}

#[test]
fn node_without_a_name_matches_no_node_hint() {
    let slice = slice("s").at("10.1.0.1").for_node("").at("10.1.0.2").for_node("n1");
    assert_eq!(select(slice, TrafficPolicy::Cluster, ("", "a")).1, BOTH);
}

#[test]
fn unready_endpoint_without_hints_does_not_disable_hints() {
    let by_zone = slice("s").at("10.1.0.1").zone("a").at("10.1.0.2").zone("b").at("10.1.0.3").unready();
    assert_eq!(select_cluster(by_zone.at("10.1.0.4").terminating()), ONE);
    let by_node = slice("s").at("10.1.0.1").for_node("n1").at("10.1.0.2").for_node("n2");
    assert_eq!(select_cluster(by_node.at("10.1.0.3").unready()), ONE);
}

#[test]
fn unready_endpoint_in_this_zone_does_not_enable_hints() {
    let by_zone = slice("s").at("10.1.0.1").zone("b").at("10.1.0.2").zone("c");
    assert_eq!(select_cluster(by_zone.at("10.1.0.3").zone("a").unready()), BOTH);
    let by_node = slice("s").at("10.1.0.1").for_node("n2").at("10.1.0.2").for_node("n3");
    assert_eq!(select_cluster(by_node.at("10.1.0.3").for_node("n1").terminating()), BOTH);
}

#[test]
fn unready_endpoint_is_not_selected_by_its_hint() {
    let slice = slice("s").at("10.1.0.1").zone("a").at("10.1.0.2").zone("a").unready();
    assert_eq!(select_cluster(slice), ONE);
}

#[test]
fn policy_local_selects_ready_endpoints_on_this_node() {
    let slice = slice("s").at("10.1.0.1").on("n1").at("10.1.0.2").on("n2").at("10.1.0.3");
    assert_eq!(select_local(slice.at("10.1.0.4").on("n1").unready()), ONE);
}

#[test]
fn policy_local_ignores_hints() {
    let slice = slice("s").at("10.1.0.1").on("n1").zone("b").for_node("n2");
    assert_eq!(select_local(slice.at("10.1.0.2").on("n2").zone("a").for_node("n1")), ONE);
}

#[test]
fn policy_local_falls_back_to_terminating_endpoints_on_this_node() {
    let slice = slice("s").at("10.1.0.1").on("n1").terminating().at("10.1.0.2").on("n2");
    assert_eq!(
        select_local(slice.at("10.1.0.3").on("n1").finished().at("10.1.0.4").on("n2").terminating()),
        ONE
    );
}

#[test]
fn policy_local_prefers_ready_to_terminating_endpoints() {
    assert_eq!(select_local(slice("s").at("10.1.0.1").on("n1").terminating().at("10.1.0.2").on("n1")), TWO);
}

#[test]
fn policy_local_selects_none_if_all_are_on_other_nodes() {
    let slice = slice("s").at("10.1.0.1").on("n2").at("10.1.0.2");
    assert_eq!(local_selection_rule(slice.clone()), SelectionRule::NoneLocal);
    assert_eq!(select_local(slice), NONE);
}

#[test]
fn unready_endpoint_on_this_node_is_not_local() {
    let slice = slice("s").at("10.1.0.1").on("n1").unready().at("10.1.0.2").on("n2");
    assert_eq!(local_selection_rule(slice.clone()), SelectionRule::NoneLocal);
    assert_eq!(select_local(slice), NONE);
}

#[test]
fn serving_terminating_endpoint_on_another_node_makes_the_rule_none_local() {
    assert_eq!(
        local_selection_rule(slice("s").at("10.1.0.1").on("n2").terminating()),
        SelectionRule::NoneLocal
    );
    assert_eq!(local_selection_rule(slice("s").at("10.1.0.1").on("n2").finished()), SelectionRule::None);
    assert_eq!(local_selection_rule(slice("s").at("10.1.0.1").on("n2").unready()), SelectionRule::None);
    assert_eq!(local_selection_rule(slice("s").at("10.1.0.1").on("n1").unready()), SelectionRule::None);
}

#[test]
fn no_endpoint_is_local_to_a_node_without_a_name() {
    for node in ["", "n1"] {
        let (rule, chosen, _) = select(slice("s").at("10.1.0.1").on(node), TrafficPolicy::Local, ("", "a"));
        assert_eq!((rule, chosen), (SelectionRule::NoneLocal, Vec::new()));
    }
    let (rule, ..) = select(slice("s").at("10.1.0.1"), TrafficPolicy::Local, ("", "a"));
    assert_eq!(rule, SelectionRule::NoneLocal);
}

#[test]
fn both_policies_select_none_without_endpoints() {
    for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        assert_eq!(select(slice("s"), policy, OWN_NODE), (SelectionRule::None, Vec::new(), Vec::new()));
    }
}

#[test]
fn each_endpoint_that_is_not_selected_has_its_own_reason() {
    let all_reasons = || {
        let slice = slice("s").at("10.1.0.1").on("n1").at("10.1.0.2").on("n2").at("10.1.0.3").unready();
        slice.at("10.1.0.4").terminating().at("10.1.0.5").finished()
    };
    let statuses = |policy| select(all_reasons(), policy, OWN_NODE).2;
    let (chosen, rest) = (
        EndpointStatus::Selected,
        [EndpointStatus::NotReady, EndpointStatus::Terminating, EndpointStatus::Finished],
    );
    assert_eq!(statuses(TrafficPolicy::Cluster)[..2], [chosen, chosen]);
    assert_eq!(statuses(TrafficPolicy::Cluster)[2..], rest);
    assert_eq!(statuses(TrafficPolicy::Local)[..2], [chosen, EndpointStatus::NotLocal]);
    assert_eq!(statuses(TrafficPolicy::Local)[2..], rest);

    let zones = slice("s").at("10.1.0.1").zone("a").at("10.1.0.2").zone("b");
    assert_eq!(select(zones, TrafficPolicy::Cluster, OWN_NODE).2, [chosen, EndpointStatus::OtherZone]);
    let nodes = slice("s").at("10.1.0.1").for_node("n1").at("10.1.0.2").for_node("n2");
    assert_eq!(select(nodes, TrafficPolicy::Cluster, OWN_NODE).2, [chosen, EndpointStatus::OtherNode]);
}

#[test]
fn ready_endpoint_on_another_node_differs_from_an_unready_one() {
    let slice = slice("s").at("10.1.0.1").on("n1").terminating().at("10.1.0.2").on("n2");
    let (_, _, statuses) = select(slice.at("10.1.0.3").on("n1").unready(), TrafficPolicy::Local, OWN_NODE);
    assert_eq!(statuses, [EndpointStatus::Selected, EndpointStatus::NotLocal, EndpointStatus::NotReady]);
}
