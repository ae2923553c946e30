//! `NodeElement`: an element of a map or set of the node's table.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::chain::{NodeChain, OwnChain};
use super::target::{FrontendAction, FrontendValue, TargetNumber};
use crate::model::address::Family;
use crate::model::guest::InterfacePattern;
use crate::routing::portal::PortalKey;

/// An element of a map or set. `PortalKey`s of node ports have an unspecified address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeElement {
    /// `picks`: the chain for a number of backends.
    Pick(u16),
    /// `codes`: the same for a number of backends with flags.
    Code(u16),
    /// `own`: the chain of a target.
    Own(OwnChain),
    /// `services` or `nodeports`: what happens to connections to a frontend.
    Frontend(PortalKey, FrontendValue),
    /// `short` or `shortports`: what happens to connections from the cluster to a frontend with
    /// `externalTrafficPolicy: Local`.
    Short(PortalKey, FrontendAction),
    /// `backends`: the backend in a slot of a target, or with an id if the target has session affinity.
    Backend(TargetNumber, u32, SocketAddr),
    /// `ids`: the id of the backend in a slot of a target with session affinity.
    Id(Family, TargetNumber, u16, u32),
    /// `addresses`: a cluster address.
    Address(IpAddr),
    /// `ranges`: a service range.
    Range(IpNet),
    /// `sources`: a source range with access to a frontend.
    Source(PortalKey, IpNet),
    /// `node-addresses`: an address on which node ports are served.
    NodeAddress(IpAddr),
    /// `pods`: a range of pod addresses.
    PodRange(IpNet),
    /// `pod-interfaces`: interfaces behind which pods are.
    PodInterface(InterfacePattern),
    /// `hairpin`: an endpoint on this node that can reach itself through a service.
    Hairpin(IpAddr),
    /// `local-endpoints`: an endpoint on this node.
    LocalEndpoint(IpAddr),
}

impl NodeElement {
    /// Returns the name of its map or set.
    #[must_use]
    pub const fn set(&self) -> &'static str {
        const fn of(family: Family, names: [&'static str; 2]) -> &'static str {
            match family {
                Family::V4 => names[0],
                Family::V6 => names[1],
            }
        }
        match self {
            Self::Pick(_) => "picks",
            Self::Code(_) => "codes",
            Self::Own(_) => "own",
            Self::PodInterface(_) => "pod-interfaces",
            Self::Frontend(key, _) if key.is_node_port() => {
                of(Family::of(key.address), ["nodeports4", "nodeports6"])
            }
            Self::Frontend(key, _) => of(Family::of(key.address), ["services4", "services6"]),
            Self::Short(key, _) if key.is_node_port() => {
                of(Family::of(key.address), ["shortports4", "shortports6"])
            }
            Self::Short(key, _) => of(Family::of(key.address), ["short4", "short6"]),
            Self::Backend(_, _, backend) => match backend {
                SocketAddr::V4(_) => "backends4",
                SocketAddr::V6(_) => "backends6",
            },
            Self::Id(family, ..) => of(*family, ["ids4", "ids6"]),
            Self::Address(address) => of(Family::of(*address), ["addresses4", "addresses6"]),
            Self::Range(net) => of(Family::of_net(net), ["ranges4", "ranges6"]),
            Self::Source(key, _) => of(Family::of(key.address), ["sources4", "sources6"]),
            Self::NodeAddress(address) => of(Family::of(*address), ["node-addresses4", "node-addresses6"]),
            Self::PodRange(net) => of(Family::of_net(net), ["pods4", "pods6"]),
            Self::Hairpin(address) => of(Family::of(*address), ["hairpin4", "hairpin6"]),
            Self::LocalEndpoint(address) => {
                of(Family::of(*address), ["local-endpoints4", "local-endpoints6"])
            }
        }
    }

    /// Returns the chain of a target that exists because of this element, as its verdict.
    #[must_use]
    pub const fn chain(&self) -> Option<NodeChain> {
        match self {
            Self::Pick(count) => Some(NodeChain::Pick(*count)),
            Self::Own(own) => Some(NodeChain::Own(*own)),
            _ => None,
        }
    }
}
