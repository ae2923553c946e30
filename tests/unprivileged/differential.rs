//! Portico's node portals compared with recorded outcomes of kube-proxy.
//!
//! `tests/netns/differential.rs` compares with the real kube-proxy, and writes the recording.

use std::collections::BTreeSet;
use std::net::IpAddr;

use node_agent::node_portals::node_addresses::{AddressSelector, NodePortAddresses};
use proxy_core::node::Node;
use test_support::apiserver::ApiServer;
use test_support::differential::comparison::Comparison;
use test_support::differential::deviation::Deviations;
use test_support::differential::node_profile::NodeProfile;
use test_support::differential::probe::destinations;
use test_support::differential::random_cluster::RandomCluster;
use test_support::differential::recording::{RECORDED_SERVICES, Recording, recorded_snapshots};
use test_support::differential::watched_node::WatchedNode;

/// What to do if the generator changes.
const ADVICE: &str =
    "record kube-proxy again: UPDATE_EXPECT=1 scripts/netns-test differential::, with KUBE_PROXY set";

#[test]
fn every_packet_is_handled_as_recorded_from_kube_proxy() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/unprivileged/differential/kube-proxy.txt");
    let recording = Recording::parse(&std::fs::read_to_string(path).expect("read the recording"));
    for (snapshot, profile) in recorded_snapshots() {
        let cluster = RandomCluster::new(snapshot, RECORDED_SERVICES, profile);
        assert!(recording.is_of(snapshot, &cluster), "snapshot {snapshot} has other objects: {ADVICE}");
        let portico = watched(profile, &cluster);
        let (deviations, mut comparison) = (Deviations::new(&cluster), Comparison::default());
        for destinations in destinations(&cluster) {
            let own = |probe: &_| portico.outcome(probe);
            comparison
                .add(snapshot, &deviations, &destinations, own, |probe| recording.outcome(snapshot, probe));
        }
        assert_eq!(comparison.message(), None, "{}", profile.name);
    }
}

/// Returns the table of a node in this cluster.
fn watched(profile: &NodeProfile, cluster: &RandomCluster) -> WatchedNode {
    let api = ApiServer::double();
    let objects = profile.objects();
    objects.iter().chain(cluster.objects()).for_each(|object| api.put(object.clone()));
    WatchedNode::start(&api, profile, select)
}

/// Selects the addresses of node ports, as `--nodeport-addresses`.
fn select(values: &[&str], node: &Node, local: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let selectors = values.iter().map(|text| text.parse::<AddressSelector>().expect("a selector"));
    selectors.collect::<NodePortAddresses>().select(node, local)
}
