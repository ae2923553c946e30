//! `trace_node`: what the node's table does with the first packet of a connection.
//!
//! It simulates the kernel on the typed ruleset, in the order of the kernel's rules: translation at prerouting or
//! output, then masquerade at postrouting. Unit tests state behaviour with it, `explain` uses its
//! result, and tests with a real kernel compare the kernel with it. The random number is an argument.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::model::address::Family;
use crate::model::service::Protocol;
use crate::routing::portal::{PortalKey, node_port_address};
use crate::ruleset::node::{Frontend, FrontendAction, NodeEnvironment, NodeRuleset, NodeSettings};

/// The first packet of a connection in the node's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePacket<'a> {
    /// The source address.
    pub source: IpAddr,
    /// The interface at which it arrives; `None` if the node itself sends it.
    pub interface: Option<&'a str>,
    /// The destination.
    pub destination: PortalKey,
    /// Whether it leaves by the loopback interface after translation.
    pub is_on_loopback: bool,
}

/// The client of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client outside the cluster, or a pod that the node does not recognise.
    Outside,
    /// A pod, by its address or by the interface.
    Pod,
    /// A process in the node's network namespace.
    Node,
}

/// The source address that a backend sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenSource {
    /// The address of the client.
    Same,
    /// An address of the node: the connection is masqueraded.
    NodeAddress,
}

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The traffic policy excludes the endpoints of the service: none is on this node.
    NoLocalEndpoint,
    /// The source is not in the source ranges of the service.
    SourceDenied,
    /// The destination is in a service range, but not the address of a service.
    Unallocated,
}

/// The result for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeTrace {
    /// Forwarded to this backend.
    Forward {
        /// The backend.
        backend: SocketAddr,
        /// The source address that it sees.
        source: SeenSource,
    },
    /// Rejected immediately: the frontend has no backend.
    Reject,
    /// Dropped.
    Drop(DropReason),
    /// Rejected: the destination is a cluster address, but not a port of its service.
    WrongPort,
    /// Redirected to the listener on the loopback addresses.
    Loopback,
    /// Not translated.
    Pass,
}

impl NodePacket<'_> {
    /// Returns the client as the table recognises it.
    #[must_use]
    pub fn origin(&self, ruleset: &NodeRuleset) -> Origin {
        match self.interface {
            None => Origin::Node,
            Some(_) if self.is_detected_pod(ruleset) => Origin::Pod,
            Some(_) => Origin::Outside,
        }
    }

    fn is_detected_pod(&self, ruleset: &NodeRuleset) -> bool {
        detects_pods(ruleset, self) && self.is_of_pod(ruleset.environment())
    }

    fn is_of_pod(&self, NodeEnvironment { pod_ranges, pod_interfaces, .. }: &NodeEnvironment) -> bool {
        let matches = |interface: &str| pod_interfaces.iter().any(|pattern| pattern.matches(interface));
        pod_ranges.iter().any(|range| range.contains(&self.source)) || self.interface.is_some_and(matches)
    }
}

fn detects_pods(ruleset: &NodeRuleset, packet: &NodePacket<'_>) -> bool {
    let family = Family::of(packet.source);
    ruleset.settings().is_some_and(|settings| settings.detects_pods.in_family(family))
}

/// Simulates a packet. `draw` is the random number that selects a slot, or with round robin the number of previous
/// connections.
#[must_use]
pub fn trace_node(ruleset: &NodeRuleset, packet: &NodePacket<'_>, draw: u32) -> NodeTrace {
    let Some(settings) = ruleset.settings() else { return NodeTrace::Pass };
    let tracer = Tracer { ruleset, settings, packet, draw };
    let result = match tracer.frontend() {
        Some(frontend) => tracer.at_frontend(frontend),
        None => tracer.without_service().or_else(|| tracer.on_loopback()),
    };
    result.unwrap_or(NodeTrace::Pass)
}

/// Returns the key by which the table finds the node port of a destination.
#[must_use]
pub const fn node_port_key(destination: PortalKey) -> PortalKey {
    PortalKey { address: node_port_address(Family::of(destination.address)), ..destination }
}

struct Tracer<'a> {
    ruleset: &'a NodeRuleset,
    settings: NodeSettings,
    packet: &'a NodePacket<'a>,
    draw: u32,
}

impl Tracer<'_> {
    /// Returns the frontend at the address and port, otherwise the one of the node port.
    fn frontend(&self) -> Option<&Frontend> {
        self.service().or_else(|| self.node_port())
    }

    fn service(&self) -> Option<&Frontend> {
        let destination = self.packet.destination;
        self.ruleset.frontend_at(destination).filter(|_| !destination.is_node_port())
    }

    /// Returns the frontend of the node port, if node ports are served on the address.
    fn node_port(&self) -> Option<&Frontend> {
        let destination = self.packet.destination;
        let is_served = self.ruleset.environment().addresses.contains(&destination.address);
        self.ruleset.frontend_at(node_port_key(destination)).filter(|_| is_served)
    }

    fn at_frontend(&self, Frontend { action, short, sources, .. }: &Frontend) -> Option<NodeTrace> {
        let is_in = |sources: &[IpNet]| sources.iter().any(|net| net.contains(&self.packet.source));
        if !sources.as_deref().is_none_or(is_in) {
            return Some(NodeTrace::Drop(DropReason::SourceDenied));
        }
        let short = short.filter(|_| self.packet.origin(self.ruleset) != Origin::Outside);
        self.act(short.unwrap_or(*action))
    }

    fn without_service(&self) -> Option<NodeTrace> {
        let address = self.packet.destination.address;
        if self.ruleset.has_address(address) {
            return Some(NodeTrace::WrongPort);
        }
        let is_in_range = self.ruleset.ranges().iter().any(|net| net.contains(&address));
        is_in_range.then_some(NodeTrace::Drop(DropReason::Unallocated))
    }

    fn on_loopback(&self) -> Option<NodeTrace> {
        let destination = self.packet.destination;
        let is_redirected = self.settings.loopback_port != 0
            && self.packet.interface.is_none()
            && destination.protocol == Protocol::Tcp
            && destination.address.is_loopback();
        let is_node_port = is_redirected && self.ruleset.frontend_at(node_port_key(destination)).is_some();
        is_node_port.then_some(NodeTrace::Loopback)
    }

    /// Returns the result of an action; `None` if the slot is empty.
    fn act(&self, action: FrontendAction) -> Option<NodeTrace> {
        let target = match action {
            FrontendAction::Reject => return Some(NodeTrace::Reject),
            FrontendAction::Drop => return Some(NodeTrace::Drop(DropReason::NoLocalEndpoint)),
            FrontendAction::Forward(number, _) | FrontendAction::OwnChain(number) => {
                self.ruleset.target(number)?
            }
        };
        let slot = usize::try_from(self.draw % u32::from(target.count()).max(1)).ok()?;
        let backend = *target.backends.get(slot)?;
        let is_masqueraded = self.is_masqueraded(backend.ip());
        let source = if is_masqueraded { SeenSource::NodeAddress } else { SeenSource::Same };
        Some(NodeTrace::Forward { backend, source })
    }

    /// As the table does, this depends on the original destination and the backend, not on the rule that translated.
    fn is_masqueraded(&self, backend: IpAddr) -> bool {
        if self.packet.is_on_loopback {
            return false;
        }
        let is_local = self.ruleset.is_local_endpoint(backend);
        if is_local && backend == self.packet.source {
            return true;
        }
        let is_pod = self.packet.is_detected_pod(self.ruleset);
        let Some(frontend) = self.frontend() else { return false };
        if frontend.is_cluster_ip {
            self.settings.masquerade_all || (detects_pods(self.ruleset, self.packet) && !is_pod)
        } else if frontend.short.is_some() {
            self.packet.interface.is_none() && !is_pod
        } else {
            !(is_local && self.settings.keep_client_address)
        }
    }
}

#[cfg(test)]
mod tests;
