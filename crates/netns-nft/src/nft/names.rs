//! The names of Portico's tables, and of its sets and chains.
//!
//! The text form of the ruleset (`proxy_core::nft`) has the same names. A change of a name is a change of the layout.

use proxy_core::address::Family;

/// The table of a pod, in family inet.
pub(crate) const TABLE: &str = "portico";
/// The table that keeps NAT registered, in family inet.
pub(crate) const ANCHOR_TABLE: &str = "portico-anchor";
/// The table that passes DNS queries of a pod to the agent, in family inet.
pub(crate) const DNS_TABLE: &str = "portico-dns";

/// Sets and maps. Those of addresses exist once per IP family, see [`per_family`].
pub(crate) mod set {
    pub(crate) use proxy_core::guest::GUESTS_SET as GUESTS;

    /// Map from a portal to its dispatch key.
    pub(crate) const PORTALS: &str = "portals";
    /// Map from a portal and a number (slot or backend id) to a backend.
    pub(crate) const BACKENDS: &str = "backends";
    /// Map from a portal and a slot to a backend id.
    pub(crate) const IDS: &str = "ids";
    /// Map from a client and a portal to a backend id, with timeouts (session affinity).
    pub(crate) const CLIENTS: &str = "clients";
    /// Addresses with at least one portal.
    pub(crate) const ADDRESSES: &str = "addresses";
    /// Source ranges that may use a portal.
    pub(crate) const SOURCES: &str = "sources";
    /// Service ranges.
    pub(crate) const RANGES: &str = "ranges";
    /// Map from a dispatch key to the verdict that jumps to its chain.
    pub(crate) const DISPATCH: &str = "picks";
    /// Map from a family to the verdict that rejects; empty while the table is being replaced.
    pub(crate) const CURRENT: &str = "current";
}

/// Chains. Each dispatch key has a chain in addition.
pub(crate) mod chain {
    /// Base chain: what the pod sends.
    pub(crate) const OUTPUT: &str = "output";
    /// Base chain: what the pod forwards for a guest.
    pub(crate) const PREROUTING: &str = "prerouting";
    /// Base chain: what arrives at the relay's port.
    pub(crate) const INPUT: &str = "input";
    pub(crate) const PORTALS: &str = "portals";
    pub(crate) const SEND: &str = "send";
    pub(crate) const RELAY: &str = "relay";
    /// Rejects while the table is the current one, otherwise drops.
    pub(crate) const REFUSE: &str = "refuse";
    /// Rejects.
    pub(crate) const REFUSE_CURRENT: &str = "refuse-current";
    pub(crate) const ANCHOR: &str = "anchor";
}

/// The name of a set of one family.
pub(crate) fn per_family(set: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{set}4"),
        Family::V6 => format!("{set}6"),
    }
}
