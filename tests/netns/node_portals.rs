//! The portals of a node in a real kernel: who reaches which backend, and with which source address.

use proxy_core::ruleset::node::{NodeChanges, NodePlan, NodeSettings, node_plan};
use proxy_core::sample::svc;
use proxy_core::snapshot::Change;
use test_support::backend_server::{assert_refused, assert_silent, backend_of};
use test_support::namespace::run;

use crate::node_network::{
    CLUSTER_IP, LOCAL_POD, NODE, NODE_ON_LINK, OUTSIDE, current_node_table, detecting, endpoints,
    environment, node_ruleset, node_table_context, on_node, program, web_service,
};

fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[test]
fn node_port_is_masqueraded_for_clients_outside() {
    on_node(|network| {
        program(&node_ruleset([web_service().into(), endpoints("web", false, true)], detecting()));
        for family in [0, 1] {
            let reply = network.outside.within(|| backend_of(&socket(NODE[family], 30_080)));
            assert_eq!(reply, format!("remote {}", NODE_ON_LINK[family]));
        }
    });
}

#[test]
fn cluster_address_is_masqueraded_for_clients_that_are_not_pods() {
    on_node(|network| {
        program(&node_ruleset([web_service().into(), endpoints("web", false, true)], detecting()));
        for family in [0, 1] {
            let portal = socket(CLUSTER_IP[family], 80);
            let from_pod = network.local.within(|| backend_of(&portal));
            assert_eq!(from_pod, format!("remote {}", LOCAL_POD[family]));
            let from_outside = network.outside.within(|| backend_of(&portal));
            assert_eq!(from_outside, format!("remote {}", NODE_ON_LINK[family]));
            let from_node = backend_of(&portal);
            assert_eq!(from_node, format!("remote {}", NODE_ON_LINK[family]));
        }
    });
}

#[test]
fn external_policy_local_keeps_the_address_of_clients_outside() {
    on_node(|network| {
        program(&node_ruleset(
            [web_service().external_local().into(), endpoints("web", true, true)],
            detecting(),
        ));
        for family in [0, 1] {
            let portal = socket(NODE[family], 30_080);
            for _ in 0..8 {
                let reply = network.outside.within(|| backend_of(&portal));
                assert_eq!(reply, format!("local {}", OUTSIDE[family]));
            }
        }
    });
}

#[test]
fn external_policy_local_without_local_endpoint_is_silent_outside_and_served_in_the_cluster() {
    on_node(|network| {
        program(&node_ruleset(
            [web_service().external_local().into(), endpoints("web", false, true)],
            detecting(),
        ));
        for family in [0, 1] {
            let portal = socket(NODE[family], 30_080);
            network.outside.within(|| assert_silent(&portal));
            assert_eq!(network.local.within(|| backend_of(&portal)), format!("remote {}", LOCAL_POD[family]));
            assert_eq!(backend_of(&portal), format!("remote {}", NODE_ON_LINK[family]));
        }
    });
}

#[test]
fn nft_lists_the_table_of_the_node() {
    on_node(|_| {
        let sticky = svc("sticky").ip("10.96.0.3").tcp("", 80).sticky(60).node_port(30_081);
        let settings = NodeSettings { loopback_port: 15_999, keep_client_address: true, ..detecting() };
        let changes = [
            Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a CIDR")]),
            web_service().into(),
            endpoints("web", true, true),
            sticky.into(),
            endpoints("sticky", true, true),
        ];
        program(&node_ruleset(changes, settings));
        let listing = run("nft", &["list", "ruleset"], "");
        println!("{listing}");
        for part in ["chain postrouting", "masquerade", "map services4", "chain pick-2"] {
            assert!(listing.contains(part), "{part} in\n{listing}");
        }
    });
}

#[test]
fn unused_addresses_and_ports_of_services_are_refused() {
    on_node(|network| {
        let ranges = Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a CIDR")]);
        let empty = svc("empty").ip("10.96.0.2").tcp("", 80).node_port(30_090);
        let changes = [ranges, web_service().into(), endpoints("web", true, false), empty.into()];
        program(&node_ruleset(changes, detecting()));
        for refused in ["10.96.0.1:81", "10.96.0.2:80", "10.240.0.5:30090"] {
            network.outside.within(|| assert_refused(refused));
            network.local.within(|| assert_refused(refused));
            assert_refused(refused);
        }
        network.local.within(|| assert_silent("10.96.7.7:80"));
    });
}

#[test]
fn client_with_affinity_stays_with_its_backend_until_it_is_removed() {
    on_node(|network| {
        let sticky = || web_service().sticky(60);
        let both = node_ruleset([sticky().into(), endpoints("web", true, true)], detecting());
        program(&both);
        let portal = socket(NODE[0], 30_080);
        let name = |reply: String| reply.split(' ').next().expect("a name").to_owned();
        let ask = || network.outside.within(|| name(backend_of(&portal)));
        let first = ask();
        for _ in 0..12 {
            assert_eq!(ask(), first);
        }
        // The cluster address shares the client's entry.
        assert_eq!(network.outside.within(|| name(backend_of(&socket(CLUSTER_IP[0], 80)))), first);
        let (is_local, is_remote) = (first != "local", first != "remote");
        program(&node_ruleset([sticky().into(), endpoints("web", is_local, is_remote)], detecting()));
        assert_ne!(ask(), first);
    });
}

#[test]
fn restart_recovers_the_table_and_writes_nothing() {
    on_node(|_| {
        let changes = [
            Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a CIDR")]),
            web_service().external_local().balanced("203.0.113.9").only_from("192.0.2.0/24").into(),
            endpoints("web", true, true),
            svc("sticky").ip("10.96.0.3").tcp("", 80).sticky(60).node_port(30_081).into(),
            endpoints("sticky", true, true),
        ];
        let ruleset = node_ruleset(changes.clone(), detecting());
        program(&ruleset);
        let recovered = current_node_table().to_ruleset().expect("the table of a ruleset");
        let portals =
            proxy_core::portal::portals(&proxy_core::sample::snapshot(changes), &node_table_context());
        let mut desired = recovered.clone();
        let changes: NodeChanges = desired.refresh_all(&portals, environment());
        assert_eq!(node_plan(&recovered, &desired, &changes), NodePlan::default());
    });
}
