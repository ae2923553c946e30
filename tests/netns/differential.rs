//! Portico's node portals compared with the real kube-proxy in its nftables mode.
//!
//! kube-proxy's outcomes are computed from its own tables, and a part of them is verified with packets. With
//! `UPDATE_EXPECT=1`, the outcomes of some snapshots are recorded, with which `tests/unprivileged/differential.rs`
//! compares Portico where kube-proxy is missing.

mod kube_proxy_node;
mod kube_proxy_table;
mod nft_listing;
mod packets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_proxy_node::KubeProxyNode;
use kube_proxy_table::KubeProxyTable;
use node_agent::node_portals::node_addresses::{AddressSelector, NodePortAddresses};
use packets::{assert_packets, serve_endpoints};
use proxy_core::node::Node;
use test_support::differential::comparison::Comparison;
use test_support::differential::deviation::{Deviation, Deviations};
use test_support::differential::node_profile::{NodeProfile, PROFILES};
use test_support::differential::probe::{Probe, destinations};
use test_support::differential::random_cluster::RandomCluster;
use test_support::differential::recording::{RECORDED_SERVICES, record, recorded_snapshots};
use test_support::differential::watched_node::WatchedNode;

use crate::node_network::{on_node_without_servers, program};

/// The number of snapshots of each profile.
const SNAPSHOTS: u16 = 10;
/// The number of services in a snapshot.
const SERVICES: usize = 100;
/// The snapshots whose packets are sent, with the indexes of their profiles.
const PACKET_SNAPSHOTS: [(u16, usize); 4] = [(200, 0), (201, 1), (202, 2), (203, 4)];
const PACKET_SERVICES: usize = 30;

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBE_PROXY and the feature api-server")]
fn every_packet_is_handled_as_by_the_real_kube_proxy() {
    let (mut messages, mut explained) = (Vec::new(), BTreeMap::new());
    for (number, profile) in (0..).zip(&PROFILES) {
        let comparison = on_node_without_servers(|_| compare(profile, number * SNAPSHOTS));
        let equal = &comparison.equal;
        assert!(
            ["forward", "affinity", "reject", "drop", "pass"].iter().all(|kind| equal.contains_key(kind)),
            "{}: {equal:?}",
            profile.name
        );
        messages.extend(comparison.message().map(|text| format!("{}: {text}", profile.name)));
        for (deviation, count) in comparison.explained {
            *explained.entry(deviation).or_insert(0) += count;
        }
    }
    assert!(messages.is_empty(), "{}", messages.join("\n"));
    let occurred: Vec<Deviation> = explained.keys().copied().collect();
    assert_eq!(
        occurred,
        Deviation::ALL,
        "each deviation occurs, otherwise it must be removed: {explained:?}"
    );
}

fn compare(profile: &NodeProfile, first: u16) -> Comparison {
    let mut kube_proxy = KubeProxyNode::start(profile);
    let mut comparison = Comparison::default();
    let mut portico = WatchedNode::start(&kube_proxy.api, profile, select);
    for snapshot in first..first + SNAPSHOTS {
        let cluster = kube_proxy.program(snapshot, SERVICES);
        portico.follow(snapshot);
        let table = KubeProxyTable::read();
        let deviations = Deviations::new(&cluster);
        for destinations in destinations(&cluster) {
            let own = |probe: &_| portico.outcome(probe);
            comparison.add(snapshot, &deviations, &destinations, own, |probe| table.outcome(probe));
        }
    }
    comparison
}

/// Selects the addresses of node ports, as `--nodeport-addresses`.
fn select(values: &[&str], node: &Node, local: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let selectors = values.iter().map(|text| text.parse::<AddressSelector>().expect("a selector"));
    selectors.collect::<NodePortAddresses>().select(node, local)
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBE_PROXY and the feature api-server")]
fn recording_equals_the_outcomes_of_the_real_kube_proxy() {
    let part = |(snapshot, profile): (u16, &NodeProfile)| {
        on_node_without_servers(|_| {
            let cluster = KubeProxyNode::start(profile).program(snapshot, RECORDED_SERVICES);
            let table = KubeProxyTable::read();
            record(snapshot, profile, &cluster, |probe| table.outcome(probe))
        })
    };
    let text: String = recorded_snapshots().map(part).collect();
    expect_test::expect_file!["../unprivileged/differential/kube-proxy.txt"].assert_eq(&text);
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBE_PROXY and the feature api-server")]
fn packets_through_the_tables_of_kube_proxy_and_portico_have_the_outcomes() {
    for (snapshot, profile) in PACKET_SNAPSHOTS.map(|(snapshot, index)| (snapshot, &PROFILES[index])) {
        let portico = on_node_without_servers(|network| {
            serve_endpoints(network);
            let mut kube_proxy = KubeProxyNode::start(profile);
            let cluster = kube_proxy.program(snapshot, PACKET_SERVICES);
            let table = KubeProxyTable::read();
            assert_packets(network, &probes(&cluster), |probe| table.outcome(probe));
            let mut portico = WatchedNode::start(&kube_proxy.api, profile, select);
            portico.follow(snapshot);
            portico
        });
        on_node_without_servers(|network| {
            serve_endpoints(network);
            program(&portico.ruleset);
            let cluster = RandomCluster::new(snapshot, PACKET_SERVICES, profile);
            assert_packets(network, &probes(&cluster), |probe| portico.outcome(probe));
        });
    }
}

fn probes(cluster: &RandomCluster) -> Vec<Probe> {
    destinations(cluster).iter().flat_map(|all| all.keys.iter().flat_map(|key| Probe::all(*key))).collect()
}
