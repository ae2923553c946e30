//! Detection of other programs that must see the DNS queries of pods: service meshes, and Cilium.
//!
//! Istio's sidecar and its ambient mode create chains in the pod's network namespace, after the pod was attached. Cilium
//! creates its chains in that of the node.

use netns_nft::{ChainSummary, Error, Socket};

/// The maximum number of chains that are read in a network namespace. A pod can create any number.
pub(crate) const CHAINS_MAX: usize = 1_000;
/// The prefix of Istio's chains in tables of iptables.
const ISTIO_CHAIN: &str = "ISTIO_";
/// The prefix of Istio's own tables, with native nftables rules.
const ISTIO_TABLE: &str = "istio-";
/// The prefix of Cilium's chains in tables of iptables.
const CILIUM_CHAIN: &str = "CILIUM_";

/// Whether Cilium, whose DNS proxy must see the queries of pods, has chains in the network namespace of this process.
///
/// # Errors
/// If the chains cannot be read.
pub fn has_cilium() -> Result<bool, Error> {
    Socket::open()?.any_chain(CHAINS_MAX, |chain| chain.name.starts_with(CILIUM_CHAIN))
}

/// Whether a chain belongs to a service mesh.
pub(crate) fn is_mesh_chain(chain: &ChainSummary) -> bool {
    chain.name.starts_with(ISTIO_CHAIN) || chain.table.starts_with(ISTIO_TABLE)
}
