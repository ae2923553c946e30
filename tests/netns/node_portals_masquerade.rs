//! Masquerading at the node by the settings, and by how pods are detected.
//!
//! Each test is a row of kube-proxy's behaviour, for each client and both families, in the kernel and in the tracer.

use std::collections::BTreeSet;

use proxy_core::guest::InterfacePattern;
use proxy_core::portal::portals;
use proxy_core::ruleset::node::{NodeEnvironment, NodeRuleset, NodeSettings};
use proxy_core::sample::{slice, snapshot};

use crate::node_case::Client::{LocalEndpoint, Node, Outside, Pod};
use crate::node_case::{NodeCase, at};
use crate::node_network::{
    CLUSTER_IP, NODE, detecting, endpoints, environment, node_table_context, on_node, serve, web_service,
};

const BOTH_MASQUERADED: [&str; 2] = ["local masqueraded", "remote masqueraded"];

#[test]
fn masquerade_all_masquerades_every_client_of_a_cluster_address() {
    on_node(|network| {
        let settings = NodeSettings { masquerade_all: true, ..detecting() };
        let case = NodeCase::new(network, [web_service().into(), endpoints("web", true, true)], settings);
        for client in [Outside, Pod, Node] {
            case.assert(client, at(CLUSTER_IP, 80), &BOTH_MASQUERADED);
        }
        let service = web_service().external_local();
        let case = NodeCase::new(network, [service.into(), endpoints("web", true, true)], settings);
        case.assert(Outside, at(NODE, 30_080), &["local outside"]);
        case.assert(Pod, at(NODE, 30_080), &["local pod", "remote pod"]);
    });
}

#[test]
fn client_address_is_kept_for_endpoints_on_the_node_if_set() {
    on_node(|network| {
        let settings = NodeSettings { keep_client_address: true, ..detecting() };
        let case = NodeCase::new(network, [web_service().into(), endpoints("web", true, true)], settings);
        case.assert(Outside, at(NODE, 30_080), &["local outside", "remote masqueraded"]);
        case.assert(Pod, at(NODE, 30_080), &["local pod", "remote masqueraded"]);
        case.assert(Node, at(NODE, 30_080), &["local node", "remote masqueraded"]);
        case.assert(LocalEndpoint, at(NODE, 30_080), &["local masqueraded", "remote masqueraded"]);
        case.assert(Outside, at(CLUSTER_IP, 80), &BOTH_MASQUERADED);
    });
}

#[test]
fn clients_of_cluster_addresses_keep_their_address_if_pods_are_not_detected() {
    on_node(|network| {
        let settings = NodeSettings::default();
        let case = NodeCase::new(network, [web_service().into(), endpoints("web", true, true)], settings);
        case.assert(Outside, at(CLUSTER_IP, 80), &["local outside", "remote outside"]);
        case.assert(Pod, at(CLUSTER_IP, 80), &["local pod", "remote pod"]);
        case.assert(Node, at(CLUSTER_IP, 80), &["local node", "remote node"]);
        case.assert(Outside, at(NODE, 30_080), &BOTH_MASQUERADED);
        let service = web_service().external_local();
        let case = NodeCase::new(network, [service.into(), endpoints("web", true, true)], settings);
        case.assert(Pod, at(NODE, 30_080), &["local pod"]);
        case.assert(Node, at(NODE, 30_080), &BOTH_MASQUERADED);
    });
}

#[test]
fn pods_are_detected_by_their_interface() {
    on_node(|network| {
        let pattern = InterfacePattern::parse("to-cl*").expect("a pattern");
        let environment = NodeEnvironment {
            pod_ranges: BTreeSet::new().into(),
            pod_interfaces: BTreeSet::from([pattern]).into(),
            ..environment()
        };
        let changes = [web_service().external_local().into(), endpoints("web", true, true)];
        let portals = portals(&snapshot(changes), &node_table_context());
        let case = NodeCase::with(network, NodeRuleset::new(&portals, detecting(), environment));
        case.assert(Pod, at(CLUSTER_IP, 80), &["local pod", "remote pod"]);
        case.assert(Pod, at(NODE, 30_080), &["local pod", "remote pod"]);
        // This pod is behind another interface.
        case.assert(LocalEndpoint, at(CLUSTER_IP, 80), &BOTH_MASQUERADED);
        case.assert(Outside, at(CLUSTER_IP, 80), &BOTH_MASQUERADED);
        case.assert(Outside, at(NODE, 30_080), &["local outside"]);
        case.assert(Node, at(CLUSTER_IP, 80), &BOTH_MASQUERADED);
    });
}

#[test]
fn endpoint_in_the_nodes_own_network_is_reached_with_the_clients_address() {
    on_node(|network| {
        serve("node", &NODE, 8080);
        let host = NODE.iter().fold(slice("web").tcp("", 8080), |slice, address| slice.at(address).on("n1"));
        let case = NodeCase::new(network, [web_service().into(), host.into()], detecting());
        for destination in [at(CLUSTER_IP, 80), at(NODE, 30_080)] {
            case.assert(Outside, destination, &["node outside"]);
            case.assert(Pod, destination, &["node pod"]);
            case.assert(Node, destination, &["node node"]);
        }
    });
}
