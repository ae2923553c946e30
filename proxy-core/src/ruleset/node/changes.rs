//! `NodeChanges`: what can differ between two tables of the node, so that a plan compares only that.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::chain::NodeChain;
use super::target::TargetNumber;
use crate::routing::portal::PortalKey;

/// What can differ between two tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeChanges {
    pub(super) portals: BTreeSet<PortalKey>,
    pub(super) targets: BTreeSet<TargetNumber>,
    pub(super) chains: BTreeSet<NodeChain>,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) endpoints: BTreeSet<IpAddr>,
    pub(super) environment: bool,
}

impl NodeChanges {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds other changes.
    pub fn append(&mut self, mut other: Self) {
        self.portals.append(&mut other.portals);
        self.targets.append(&mut other.targets);
        self.chains.append(&mut other.chains);
        self.addresses.append(&mut other.addresses);
        self.endpoints.append(&mut other.endpoints);
        self.environment |= other.environment;
    }
}
