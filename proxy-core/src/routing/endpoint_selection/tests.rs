//! Which endpoints are chosen: what kube-proxy's topology.go and its test ask, row by row.
//!
//! The node is `n1` in zone `a` unless a test says otherwise. Nothing about portals belongs here.

use super::*;
use crate::model::address::Family;
use crate::model::endpoint::EndpointSlice;
use crate::model::service::{Protocol, ServiceKey};
use crate::sample::{slice, snapshot};

const OURS: (&str, &str) = ("n1", "a");

/// The choice, the chosen addresses and every endpoint's endpoint_status for a client on this node.
fn selected(
    made: EndpointSlice,
    policy: TrafficPolicy,
    (name, zone): (&str, &str),
) -> (SelectionRule, Vec<String>, Vec<EndpointStatus>) {
    let node = Node { name: name.into(), zone: zone.into(), addresses: Vec::new() };
    let snapshot = snapshot([made.tcp("", 80).into()]);
    let key = ServiceKey::new("default", "s");
    let endpoints = snapshot.endpoints_of(&key, "", Protocol::Tcp, Family::V4);
    let rule = selection_rule(&endpoints, policy, &node);
    let fates: Vec<EndpointStatus> =
        endpoints.iter().map(|e| endpoint_status(rule, e.endpoint, &node)).collect();
    let chosen = endpoints
        .iter()
        .zip(&fates)
        .filter(|(_, endpoint_status)| **endpoint_status == EndpointStatus::Chosen);
    (rule, chosen.map(|(e, _)| e.endpoint.address.to_string()).collect(), fates)
}

fn cluster(made: EndpointSlice) -> Vec<String> {
    selected(made, TrafficPolicy::Cluster, OURS).1
}

fn local(made: EndpointSlice) -> Vec<String> {
    selected(made, TrafficPolicy::Local, OURS).1
}

fn local_choice(made: EndpointSlice) -> SelectionRule {
    selected(made, TrafficPolicy::Local, OURS).0
}

const ONE: [&str; 1] = ["10.1.0.1"];
const TWO: [&str; 1] = ["10.1.0.2"];
const BOTH: [&str; 2] = ["10.1.0.1", "10.1.0.2"];
const NOBODY: [&str; 0] = [];

#[test]
fn ready_endpoints_are_chosen_wherever_they_are() {
    assert_eq!(cluster(slice("s").at("10.1.0.1").on("n1").at("10.1.0.2").on("n2")), BOTH);
}

#[test]
fn an_unready_endpoint_is_not_chosen() {
    assert_eq!(cluster(slice("s").at("10.1.0.1").at("10.1.0.2").unready()), ONE);
}

#[test]
fn an_endpoint_that_terminates_is_not_chosen_while_another_is_ready() {
    assert_eq!(cluster(slice("s").at("10.1.0.1").at("10.1.0.2").terminating()), ONE);
}

#[test]
fn where_none_is_ready_those_that_serve_while_they_terminate_are_chosen() {
    let made = slice("s").at("10.1.0.1").terminating().at("10.1.0.2").terminating();
    assert_eq!(cluster(made.at("10.1.0.3").unready().at("10.1.0.4").finished()), BOTH);
}

#[test]
fn the_terminating_fallback_ignores_hints() {
    let made = slice("s").at("10.1.0.1").zone("a").for_node("n1").terminating();
    assert_eq!(cluster(made.at("10.1.0.2").zone("b").for_node("n2").terminating()), BOTH);
}

#[test]
fn an_endpoint_that_is_unready_but_does_not_terminate_is_no_fallback() {
    let (rule, chosen, _) = selected(slice("s").at("10.1.0.1").unready(), TrafficPolicy::Cluster, OURS);
    assert_eq!((rule, chosen), (SelectionRule::None, Vec::new()));
}

#[test]
fn an_endpoint_that_serves_no_more_is_no_fallback() {
    let (rule, chosen, _) = selected(slice("s").at("10.1.0.1").finished(), TrafficPolicy::Cluster, OURS);
    assert_eq!((rule, chosen), (SelectionRule::None, Vec::new()));
}

#[test]
fn an_endpoint_published_as_ready_is_ready_though_it_terminates_or_does_not_serve() {
    // publishNotReadyAddresses: the controller writes ready, whatever the pod is.
    let mut made = slice("s").at("10.1.0.1").at("10.1.0.2").finished();
    made.endpoints[1].conditions.ready = true;
    assert_eq!(cluster(made.clone()), BOTH);
    assert_eq!(local(made.on("n1")), TWO);
}

#[test]
fn zone_hints_count_where_all_ready_endpoints_have_them_and_one_names_our_zone() {
    assert_eq!(cluster(slice("s").at("10.1.0.1").zone("a").at("10.1.0.2").zone("b")), ONE);
}

#[test]
fn an_endpoint_may_be_hinted_for_several_zones() {
    let made = slice("s").at("10.1.0.1").zone("c").zone("a").at("10.1.0.2").zone("a").zone("b");
    assert_eq!(cluster(made.at("10.1.0.3").zone("b")), BOTH);
}

#[test]
fn zone_hints_are_ignored_where_one_ready_endpoint_lacks_them() {
    assert_eq!(cluster(slice("s").at("10.1.0.1").zone("a").at("10.1.0.2")), BOTH);
}

#[test]
fn zone_hints_are_ignored_where_none_names_our_zone() {
    assert_eq!(cluster(slice("s").at("10.1.0.1").zone("b").at("10.1.0.2").zone("c")), BOTH);
}

#[test]
fn a_node_without_a_zone_matches_no_zone_hint() {
    let made = slice("s").at("10.1.0.1").zone("").at("10.1.0.2").zone("b");
    assert_eq!(selected(made, TrafficPolicy::Cluster, ("n1", "")).1, BOTH);
}

#[test]
fn node_hints_count_where_all_ready_endpoints_have_them_and_one_names_our_node() {
    assert_eq!(cluster(slice("s").at("10.1.0.1").for_node("n2").at("10.1.0.2").for_node("n1")), TWO);
}

#[test]
fn node_hints_win_over_zone_hints() {
    let made = slice("s").at("10.1.0.1").zone("a").for_node("n2");
    assert_eq!(cluster(made.at("10.1.0.2").zone("b").for_node("n1")), TWO);
}

#[test]
fn zone_hints_count_where_one_ready_endpoint_lacks_a_node_hint() {
    let made = slice("s").at("10.1.0.1").zone("a");
    assert_eq!(cluster(made.at("10.1.0.2").zone("b").for_node("n1")), ONE);
}

#[test]
fn zone_hints_count_where_no_node_hint_names_our_node() {
    let made = slice("s").at("10.1.0.1").zone("a").for_node("n2");
    assert_eq!(cluster(made.at("10.1.0.2").zone("b").for_node("n3")), ONE);
}

#[test]
fn node_hints_are_ignored_where_none_names_our_node_and_there_are_no_zone_hints() {
    assert_eq!(cluster(slice("s").at("10.1.0.1").for_node("n2").at("10.1.0.2").for_node("n3")), BOTH);
}

#[test]
fn a_node_without_a_name_matches_no_node_hint() {
    let made = slice("s").at("10.1.0.1").for_node("").at("10.1.0.2").for_node("n1");
    assert_eq!(selected(made, TrafficPolicy::Cluster, ("", "a")).1, BOTH);
}

#[test]
fn an_unready_endpoint_without_hints_does_not_switch_hints_off() {
    let made = slice("s").at("10.1.0.1").zone("a").at("10.1.0.2").zone("b").at("10.1.0.3").unready();
    assert_eq!(cluster(made.at("10.1.0.4").terminating()), ONE);
    let made = slice("s").at("10.1.0.1").for_node("n1").at("10.1.0.2").for_node("n2");
    assert_eq!(cluster(made.at("10.1.0.3").unready()), ONE);
}

#[test]
fn an_unready_endpoint_in_our_zone_does_not_switch_hints_on() {
    let made = slice("s").at("10.1.0.1").zone("b").at("10.1.0.2").zone("c");
    assert_eq!(cluster(made.at("10.1.0.3").zone("a").unready()), BOTH);
    let made = slice("s").at("10.1.0.1").for_node("n2").at("10.1.0.2").for_node("n3");
    assert_eq!(cluster(made.at("10.1.0.3").for_node("n1").terminating()), BOTH);
}

#[test]
fn an_unready_endpoint_is_not_chosen_by_its_hint() {
    let made = slice("s").at("10.1.0.1").zone("a").at("10.1.0.2").zone("a").unready();
    assert_eq!(cluster(made), ONE);
}

#[test]
fn policy_local_chooses_the_ready_endpoints_on_this_node() {
    let made = slice("s").at("10.1.0.1").on("n1").at("10.1.0.2").on("n2").at("10.1.0.3");
    assert_eq!(local(made.at("10.1.0.4").on("n1").unready()), ONE);
}

#[test]
fn policy_local_ignores_hints() {
    let made = slice("s").at("10.1.0.1").on("n1").zone("b").for_node("n2");
    assert_eq!(local(made.at("10.1.0.2").on("n2").zone("a").for_node("n1")), ONE);
}

#[test]
fn policy_local_falls_back_to_the_terminating_ones_on_this_node_though_others_are_ready_elsewhere() {
    let made = slice("s").at("10.1.0.1").on("n1").terminating().at("10.1.0.2").on("n2");
    assert_eq!(local(made.at("10.1.0.3").on("n1").finished().at("10.1.0.4").on("n2").terminating()), ONE);
}

#[test]
fn policy_local_prefers_the_ready_one_on_this_node_to_the_terminating_one() {
    assert_eq!(local(slice("s").at("10.1.0.1").on("n1").terminating().at("10.1.0.2").on("n1")), TWO);
}

#[test]
fn policy_local_chooses_nobody_where_all_are_elsewhere() {
    let made = slice("s").at("10.1.0.1").on("n2").at("10.1.0.2");
    assert_eq!(local_choice(made.clone()), SelectionRule::NoneLocal);
    assert_eq!(local(made), NOBODY);
}

#[test]
fn an_unready_endpoint_on_this_node_does_not_count_as_local() {
    let made = slice("s").at("10.1.0.1").on("n1").unready().at("10.1.0.2").on("n2");
    assert_eq!(local_choice(made.clone()), SelectionRule::NoneLocal);
    assert_eq!(local(made), NOBODY);
}

#[test]
fn an_endpoint_elsewhere_that_only_terminates_makes_the_difference_between_none_and_none_local() {
    assert_eq!(local_choice(slice("s").at("10.1.0.1").on("n2").terminating()), SelectionRule::NoneLocal);
    assert_eq!(local_choice(slice("s").at("10.1.0.1").on("n2").finished()), SelectionRule::None);
    assert_eq!(local_choice(slice("s").at("10.1.0.1").on("n2").unready()), SelectionRule::None);
    assert_eq!(local_choice(slice("s").at("10.1.0.1").on("n1").unready()), SelectionRule::None);
}

#[test]
fn where_our_own_name_is_not_known_nothing_is_local() {
    for node in ["", "n1"] {
        let (rule, chosen, _) = selected(slice("s").at("10.1.0.1").on(node), TrafficPolicy::Local, ("", "a"));
        assert_eq!((rule, chosen), (SelectionRule::NoneLocal, Vec::new()));
    }
    let (rule, ..) = selected(slice("s").at("10.1.0.1"), TrafficPolicy::Local, ("", "a"));
    assert_eq!(rule, SelectionRule::NoneLocal);
}

#[test]
fn without_endpoints_both_policies_choose_nobody() {
    for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        assert_eq!(selected(slice("s"), policy, OURS), (SelectionRule::None, Vec::new(), Vec::new()));
    }
}

#[test]
fn each_endpoint_that_is_not_chosen_has_its_own_reason() {
    let made = || {
        let made = slice("s").at("10.1.0.1").on("n1").at("10.1.0.2").on("n2").at("10.1.0.3").unready();
        made.at("10.1.0.4").terminating().at("10.1.0.5").finished()
    };
    let fates = |policy| selected(made(), policy, OURS).2;
    let (chosen, rest) = (
        EndpointStatus::Chosen,
        [EndpointStatus::NotReady, EndpointStatus::Terminating, EndpointStatus::Finished],
    );
    assert_eq!(fates(TrafficPolicy::Cluster)[..2], [chosen, chosen]);
    assert_eq!(fates(TrafficPolicy::Cluster)[2..], rest);
    assert_eq!(fates(TrafficPolicy::Local)[..2], [chosen, EndpointStatus::NotLocal]);
    assert_eq!(fates(TrafficPolicy::Local)[2..], rest);

    let zones = slice("s").at("10.1.0.1").zone("a").at("10.1.0.2").zone("b");
    assert_eq!(selected(zones, TrafficPolicy::Cluster, OURS).2, [chosen, EndpointStatus::OtherZone]);
    let nodes = slice("s").at("10.1.0.1").for_node("n1").at("10.1.0.2").for_node("n2");
    assert_eq!(selected(nodes, TrafficPolicy::Cluster, OURS).2, [chosen, EndpointStatus::OtherNode]);
}

#[test]
fn a_ready_endpoint_elsewhere_is_told_apart_from_an_unready_one_when_local_ones_terminate() {
    let made = slice("s").at("10.1.0.1").on("n1").terminating().at("10.1.0.2").on("n2");
    let (_, _, fates) = selected(made.at("10.1.0.3").on("n1").unready(), TrafficPolicy::Local, OURS);
    assert_eq!(fates, [EndpointStatus::Chosen, EndpointStatus::NotLocal, EndpointStatus::NotReady]);
}
