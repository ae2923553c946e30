//! Addresses and ports at the node: node ports, source ranges, wrong ports and addresses without a service.
//!
//! Each test is a row of kube-proxy's behaviour, for each client and both families, in the kernel and in the tracer.

use proxy_core::sample::{slice, svc};
use proxy_core::service::Service;
use proxy_core::snapshot::Change;

use crate::node_case::Client::{Node, Outside, Pod};
use crate::node_case::{NodeCase, at, udp_at};
use crate::node_network::{
    BALANCED, CLUSTER_IP, EXTERNAL_IP, LOCAL_POD, NODE, REMOTE_POD, detecting, endpoints, node_ruleset,
    on_node, serve, serve_datagrams, web_service, web_with_all_kinds,
};

const BOTH_MASQUERADED: [&str; 2] = ["local masqueraded", "remote masqueraded"];
/// Addresses of the node that are not in the default selection of node-port addresses.
const OTHER_OF_NODE: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];
const UNALLOCATED: [&str; 2] = ["10.96.7.7", "2001:db8:96::77"];

fn ranges() -> Change {
    let nets = ["10.96.0.0/16", "2001:db8:96::/64"];
    Change::ServiceRanges(nets.map(|net| net.parse().expect("a CIDR")).into())
}

fn only_from(nets: &[&str]) -> Service {
    nets.iter().fold(web_with_all_kinds(), |service, net| service.only_from(net))
}

#[test]
fn ports_without_a_service_at_cluster_addresses_are_refused() {
    on_node(|network| {
        let changes = [ranges(), web_service().into(), endpoints("web", true, true)];
        let case = NodeCase::new(network, changes, detecting());
        for client in [Outside, Pod, Node] {
            case.assert(client, at(CLUSTER_IP, 81), &["refused"]);
        }
        case.assert(Outside, udp_at(CLUSTER_IP, 80), &["refused"]);
    });
}

#[test]
fn addresses_of_service_ranges_without_a_service_are_silent() {
    on_node(|network| {
        let changes = [ranges(), web_service().into(), endpoints("web", true, true)];
        let case = NodeCase::new(network, changes, detecting());
        for client in [Outside, Pod, Node] {
            case.assert(client, at(UNALLOCATED, 80), &["silent"]);
        }
        case.assert(Outside, udp_at(UNALLOCATED, 80), &["silent"]);
    });
}

#[test]
fn node_ports_are_served_on_addresses_in_service_ranges() {
    on_node(|network| {
        let nets = ["10.240.0.0/16", "2001:db8:f::/64"].map(|net| net.parse().expect("a CIDR"));
        let changes =
            [Change::ServiceRanges(nets.into()), web_service().into(), endpoints("web", true, true)];
        let case = NodeCase::new(network, changes, detecting());
        case.assert(Outside, at(NODE, 30_080), &BOTH_MASQUERADED);
        case.assert(Outside, at(NODE, 30_081), &["silent"]);
    });
}

#[test]
fn node_ports_are_served_at_selected_addresses_of_the_node_only() {
    on_node(|network| {
        serve("node", &OTHER_OF_NODE, 30_080);
        let case = NodeCase::new(network, [web_service().into(), endpoints("web", true, true)], detecting());
        for client in [Outside, Pod, Node] {
            case.assert(client, at(NODE, 30_080), &BOTH_MASQUERADED);
        }
        case.assert(Outside, at(OTHER_OF_NODE, 30_080), &["node outside"]);
    });
}

#[test]
fn udp_and_tcp_have_different_frontends_at_one_port() {
    on_node(|network| {
        network.remote.within(|| serve_datagrams("remote", &REMOTE_POD, 5353));
        let service = svc("dns").ip(CLUSTER_IP[0]).ip(CLUSTER_IP[1]);
        let service = service.udp("udp", 53).node_port(30_053).tcp("tcp", 53).node_port(30_053);
        let mut dns = slice("dns").udp("udp", 5353).tcp("tcp", 8080);
        for address in REMOTE_POD {
            dns = dns.at(address).on("n2");
        }
        let case = NodeCase::new(network, [service.into(), dns.into()], detecting());
        for destination in [udp_at(NODE, 30_053), at(NODE, 30_053)] {
            for client in [Outside, Pod, Node] {
                case.assert(client, destination, &["remote masqueraded"]);
            }
        }
        case.assert(Pod, udp_at(CLUSTER_IP, 53), &["remote pod"]);
        case.assert(Outside, udp_at(CLUSTER_IP, 53), &["remote masqueraded"]);
        case.assert(Node, udp_at(CLUSTER_IP, 53), &["remote masqueraded"]);
    });
}

#[test]
fn udp_node_port_with_external_policy_local_keeps_addresses_of_clients() {
    on_node(|network| {
        network.local.within(|| serve_datagrams("local", &LOCAL_POD, 5353));
        let service = svc("dns").ip(CLUSTER_IP[0]).ip(CLUSTER_IP[1]).udp("", 53).node_port(30_053);
        let mut dns = slice("dns").udp("", 5353);
        for address in LOCAL_POD {
            dns = dns.at(address).on("n1");
        }
        let case = NodeCase::new(network, [service.external_local().into(), dns.into()], detecting());
        case.assert(Outside, udp_at(NODE, 30_053), &["local outside"]);
        case.assert(Pod, udp_at(NODE, 30_053), &["local pod"]);
    });
}

#[test]
fn source_ranges_limit_load_balancer_addresses_only() {
    on_node(|network| {
        let service = only_from(&["192.0.2.0/24", "2001:db8:2::/64"]);
        let case = NodeCase::new(network, [service.into(), endpoints("web", true, true)], detecting());
        case.assert(Outside, at(BALANCED, 80), &BOTH_MASQUERADED);
        for client in [Pod, Node] {
            case.assert(client, at(BALANCED, 80), &["silent"]);
            for unlimited in [at(EXTERNAL_IP, 80), at(NODE, 30_080)] {
                case.assert(client, unlimited, &BOTH_MASQUERADED);
            }
        }
        case.assert(Pod, at(CLUSTER_IP, 80), &["local pod", "remote pod"]);
    });
}

#[test]
fn sources_outside_the_ranges_are_silent_also_with_external_policy_local_and_without_endpoints() {
    on_node(|network| {
        let service = || only_from(&["198.18.0.0/15", "2001:db8:10:1::/64", "10.1.3.0/24"]);
        let changes = [service().external_local().into(), endpoints("web", true, true)];
        let case = NodeCase::new(network, changes, detecting());
        case.assert(Outside, at(BALANCED, 80), &["silent"]);
        case.assert(Pod, at(BALANCED, 80), &["local pod", "remote pod"]);
        let case = NodeCase::new(network, [service().into(), endpoints("web", false, false)], detecting());
        case.assert(Outside, at(BALANCED, 80), &["silent"]);
        case.assert(Pod, at(BALANCED, 80), &["refused"]);
    });
}

#[test]
fn source_ranges_with_the_nodes_address_admit_the_node() {
    on_node(|network| {
        let service = only_from(&["10.240.0.0/16", "2001:db8:f::/64"]);
        let case = NodeCase::new(network, [service.into(), endpoints("web", true, true)], detecting());
        case.assert(Node, at(BALANCED, 80), &BOTH_MASQUERADED);
        case.assert(Outside, at(BALANCED, 80), &["silent"]);
        case.assert(Pod, at(BALANCED, 80), &["silent"]);
    });
}

#[test]
fn source_range_of_length_0_admits_all_clients() {
    on_node(|network| {
        let service = only_from(&["198.18.0.0/15", "0.0.0.0/0", "::/0"]);
        let case = NodeCase::new(network, [service.into(), endpoints("web", true, true)], detecting());
        for client in [Outside, Pod, Node] {
            case.assert(client, at(BALANCED, 80), &BOTH_MASQUERADED);
        }
    });
}

/// The service `owner` at an address and port of the node, which is also the node port of `web`.
fn owner_of_the_node_address() -> Service {
    NODE.iter().fold(svc("owner").ip("10.96.0.2").ip("2001:db8:96::2").tcp("", 30_080), |service, address| {
        service.external(address)
    })
}

#[test]
fn service_of_the_address_takes_precedence_over_the_node_port_of_another_service() {
    let table = |owner: Service, web: Service| {
        let endpoints = [endpoints("owner", true, false), endpoints("web", false, true)];
        node_ruleset([owner.into(), web.into()].into_iter().chain(endpoints), detecting())
    };
    on_node(|network| {
        let cluster = table(owner_of_the_node_address(), web_service().external_local());
        let local = table(owner_of_the_node_address().external_local(), web_service());
        for load in [NodeCase::with, NodeCase::with_text] {
            let case = load(network, cluster.clone());
            for client in [Outside, Pod, Node] {
                case.assert(client, at(NODE, 30_080), &["local masqueraded"]);
            }
            let case = load(network, local.clone());
            case.assert(Outside, at(NODE, 30_080), &["local outside"]);
            case.assert(Pod, at(NODE, 30_080), &["local pod"]);
            case.assert(Node, at(NODE, 30_080), &["local masqueraded"]);
        }
    });
}
