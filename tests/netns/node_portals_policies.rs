//! Traffic policies at the node's portals: which endpoints a connection reaches, and with which source address.
//!
//! Each test is a row of kube-proxy's behaviour, for each client and both families, in the kernel and in the tracer.

use proxy_core::endpoint::EndpointSlice;
use proxy_core::sample::slice;

use crate::node_case::Client::{LocalEndpoint, Node, Outside, Pod};
use crate::node_case::{Destination, NodeCase, at};
use crate::node_network::{
    BALANCED, CLUSTER_IP, EXTERNAL_IP, LOCAL_POD, NODE, REMOTE_POD, detecting, endpoints, on_node,
    web_with_all_kinds,
};

/// The destinations that are external: an external address, a load-balancer address and a node port.
const EXTERNAL: [Destination; 3] = [at(EXTERNAL_IP, 80), at(BALANCED, 80), at(NODE, 30_080)];
const INTERNAL: Destination = at(CLUSTER_IP, 80);
const BOTH_MASQUERADED: [&str; 2] = ["local masqueraded", "remote masqueraded"];

/// A slice with both pods, after a change of the endpoints of each.
fn slice_with(
    local: fn(EndpointSlice) -> EndpointSlice,
    remote: fn(EndpointSlice) -> EndpointSlice,
) -> EndpointSlice {
    let mut both = slice("web").tcp("", 8080);
    for family in [0, 1] {
        both = local(both.at(LOCAL_POD[family]).on("n1"));
        both = remote(both.at(REMOTE_POD[family]).on("n2"));
    }
    both
}

#[test]
fn internal_policy_local_selects_local_endpoints_at_cluster_addresses_only() {
    on_node(|network| {
        let service = web_with_all_kinds().internal_local();
        let case = NodeCase::new(network, [service.into(), endpoints("web", true, true)], detecting());
        case.assert(Pod, INTERNAL, &["local pod"]);
        case.assert(Outside, INTERNAL, &["local masqueraded"]);
        case.assert(Node, INTERNAL, &["local masqueraded"]);
        for external in EXTERNAL {
            case.assert(Outside, external, &BOTH_MASQUERADED);
        }
    });
}

#[test]
fn internal_policy_local_without_local_endpoint_is_silent_for_all_clients() {
    on_node(|network| {
        let service = web_with_all_kinds().internal_local();
        let case = NodeCase::new(network, [service.into(), endpoints("web", false, true)], detecting());
        for client in [Outside, Pod, Node] {
            case.assert(client, INTERNAL, &["silent"]);
        }
        case.assert(Outside, EXTERNAL[0], &["remote masqueraded"]);
    });
}

#[test]
fn service_without_endpoints_is_refused_at_each_kind_of_address() {
    on_node(|network| {
        let service = web_with_all_kinds();
        let case = NodeCase::new(network, [service.into(), endpoints("web", false, false)], detecting());
        for destination in EXTERNAL.into_iter().chain([INTERNAL]) {
            for client in [Outside, Pod, Node] {
                case.assert(client, destination, &["refused"]);
            }
        }
    });
}

#[test]
fn external_policy_cluster_masquerades_all_clients_of_external_addresses() {
    on_node(|network| {
        let service = web_with_all_kinds();
        let case = NodeCase::new(network, [service.into(), endpoints("web", true, true)], detecting());
        for external in EXTERNAL {
            for client in [Outside, Pod, Node] {
                case.assert(client, external, &BOTH_MASQUERADED);
            }
        }
    });
}

#[test]
fn external_policy_local_keeps_addresses_of_clients_outside_and_serves_the_cluster_by_all_endpoints() {
    on_node(|network| {
        let service = web_with_all_kinds().external_local();
        let case = NodeCase::new(network, [service.into(), endpoints("web", true, true)], detecting());
        for external in EXTERNAL {
            case.assert(Outside, external, &["local outside"]);
            case.assert(Pod, external, &["local pod", "remote pod"]);
            case.assert(Node, external, &BOTH_MASQUERADED);
        }
        case.assert(Outside, INTERNAL, &BOTH_MASQUERADED);
    });
}

#[test]
fn external_policy_local_without_local_endpoint_is_silent_outside_for_each_kind_of_address() {
    on_node(|network| {
        let service = web_with_all_kinds().external_local();
        let case = NodeCase::new(network, [service.into(), endpoints("web", false, true)], detecting());
        for external in EXTERNAL {
            case.assert(Outside, external, &["silent"]);
            case.assert(Pod, external, &["remote pod"]);
            case.assert(Node, external, &["remote masqueraded"]);
        }
    });
}

#[test]
fn external_policy_local_without_any_endpoint_is_refused() {
    on_node(|network| {
        let service = web_with_all_kinds().external_local();
        let case = NodeCase::new(network, [service.into(), endpoints("web", false, false)], detecting());
        for client in [Outside, Pod, Node] {
            case.assert(client, EXTERNAL[2], &["refused"]);
        }
    });
}

#[test]
fn terminating_endpoints_serve_if_no_endpoint_is_ready() {
    on_node(|network| {
        let all_terminating = slice_with(EndpointSlice::terminating, EndpointSlice::terminating);
        let changes = [web_with_all_kinds().into(), all_terminating.into()];
        let case = NodeCase::new(network, changes, detecting());
        case.assert(Outside, EXTERNAL[2], &BOTH_MASQUERADED);
        case.assert(Pod, INTERNAL, &["local pod", "remote pod"]);
        let finished = slice_with(EndpointSlice::terminating, EndpointSlice::finished);
        let case = NodeCase::new(network, [web_with_all_kinds().into(), finished.into()], detecting());
        case.assert(Outside, EXTERNAL[2], &["local masqueraded"]);
    });
}

#[test]
fn local_and_cluster_endpoints_fall_back_to_terminating_ones_separately() {
    on_node(|network| {
        let service = || web_with_all_kinds().external_local();
        let local_terminates = slice_with(EndpointSlice::terminating, |slice| slice);
        let case = NodeCase::new(network, [service().into(), local_terminates.into()], detecting());
        for external in EXTERNAL {
            case.assert(Outside, external, &["local outside"]);
            case.assert(Pod, external, &["remote pod"]);
        }
        case.assert(Outside, INTERNAL, &["remote masqueraded"]);
        let local_is_finished = slice_with(EndpointSlice::finished, |slice| slice);
        let case = NodeCase::new(network, [service().into(), local_is_finished.into()], detecting());
        case.assert(Outside, EXTERNAL[2], &["silent"]);
        case.assert(Pod, EXTERNAL[2], &["remote pod"]);
    });
}

#[test]
fn endpoint_on_the_node_reaches_itself_through_each_kind_of_address() {
    on_node(|network| {
        for service in [web_with_all_kinds(), web_with_all_kinds().external_local()] {
            let case = NodeCase::new(network, [service.into(), endpoints("web", true, false)], detecting());
            for destination in EXTERNAL.into_iter().chain([INTERNAL]) {
                case.assert(LocalEndpoint, destination, &["local masqueraded"]);
            }
        }
        let service = web_with_all_kinds();
        let case = NodeCase::new(network, [service.into(), endpoints("web", true, true)], detecting());
        case.assert(LocalEndpoint, INTERNAL, &["local masqueraded", "remote local"]);
    });
}
