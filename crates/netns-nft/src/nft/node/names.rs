//! The names of the node's table, and of its sets and chains.
//!
//! The text form (`proxy_core::node_nft`) has the same names. A change of a name is a change of the layout.

use proxy_core::address::Family;
use proxy_core::ruleset::node::TargetNumber;

/// The name of the node's table, in family inet.
pub const NODE_TABLE: &str = "portico-node";

/// Sets and maps; `NodeElement::set` has the names of those with elements of a ruleset.
pub(crate) mod set {
    /// Map from a frontend to its action.
    pub(crate) const SERVICES: &str = "services";
    /// Map from a node port to its action.
    pub(crate) const NODE_PORTS: &str = "nodeports";
    /// Map from a frontend to its action for clients in the cluster.
    pub(crate) const SHORT: &str = "short";
    /// Map from a node port to its action for clients in the cluster.
    pub(crate) const SHORT_PORTS: &str = "shortports";
    /// Map from a target and a number (slot or backend id) to a backend.
    pub(crate) const BACKENDS: &str = "backends";
    /// Map from a target and a slot to a backend id.
    pub(crate) const IDS: &str = "ids";
    /// Cluster addresses.
    pub(crate) const ADDRESSES: &str = "addresses";
    /// Service ranges.
    pub(crate) const RANGES: &str = "ranges";
    /// Source ranges with access to a frontend.
    pub(crate) const SOURCES: &str = "sources";
    /// Addresses on which node ports are served.
    pub(crate) const NODE_ADDRESSES: &str = "node-addresses";
    /// Ranges of pod addresses.
    pub(crate) const PODS: &str = "pods";
    /// Endpoints on this node, as source and destination.
    pub(crate) const HAIRPIN: &str = "hairpin";
    /// Endpoints on this node.
    pub(crate) const LOCAL_ENDPOINTS: &str = "local-endpoints";
    /// Interfaces behind which pods are.
    pub(crate) const POD_INTERFACES: &str = "pod-interfaces";
    /// Map from the code of an action to the verdict that goes to its chain.
    pub(crate) const PICKS: &str = "picks";
    /// The same for codes with flags.
    pub(crate) const CODES: &str = "codes";
    /// Map from a target to the verdict that goes to its own chain.
    pub(crate) const OWN: &str = "own";
}

/// Chains. Each number of backends, and each target with its own chain, has a chain in addition.
pub(crate) mod chain {
    pub(crate) use crate::nft::names::chain::{ANCHOR, OUTPUT, PREROUTING, REFUSE, REFUSE_CURRENT};

    /// Base chain: masquerades.
    pub(crate) const POSTROUTING: &str = "postrouting";
    /// Frontends with flags: drops clients outside the source ranges.
    pub(crate) const FLAGGED: &str = "flagged";
    /// Frontends with `externalTrafficPolicy: Local`: clients in the cluster continue in `short`.
    pub(crate) const BY_CLIENT: &str = "by-client";
    /// The actions of these frontends for clients in the cluster.
    pub(crate) const SHORT: &str = "short";
    /// All frontends.
    pub(crate) const SERVICES: &str = "services";
    /// Drops.
    pub(crate) const DROP: &str = "drop";
    /// Continues in the own chain of a target.
    pub(crate) const OWN: &str = "own";
    /// Translated connections to a frontend by address.
    pub(crate) const AT_ADDRESS: &str = "at-address";
    /// Masquerades clients of cluster addresses that are not pods.
    pub(crate) const INTERNAL: &str = "internal";
    /// Masquerades the node's own connections to frontends with `externalTrafficPolicy: Local`.
    pub(crate) const LOCAL_POLICY: &str = "local-policy";
    /// Masquerades clients of external addresses and node ports.
    pub(crate) const EXTERNAL: &str = "external";
}

/// The name of the map from the clients of a target to backend ids, with timeouts.
pub(crate) fn clients(family: Family, number: TargetNumber) -> String {
    match family {
        Family::V4 => format!("clients4-{number}"),
        Family::V6 => format!("clients6-{number}"),
    }
}

/// Parses the name of a map of clients.
pub(crate) fn parse_clients(name: &str) -> Option<(Family, TargetNumber)> {
    let (family, number) = match name.strip_prefix("clients4-") {
        Some(number) => (Family::V4, number),
        None => (Family::V6, name.strip_prefix("clients6-")?),
    };
    let number = TargetNumber::new(number.parse().ok()?)?;
    (clients(family, number) == name).then_some((family, number))
}
