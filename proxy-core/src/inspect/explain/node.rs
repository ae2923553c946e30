//! `explain_node`: what happens to a connection in the node's network namespace, and which source the backend sees.
//!
//! The verdict, the backends and the masquerade are those of `trace_node` on the table that would be programmed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{
    Explainer, Explanation, NO_ENDPOINT, Outcome, forwarding_steps, name_of, no_local_endpoint, one_of,
};
use crate::inspect::node_trace::{
    DropReason, NodePacket, NodeTrace, Origin, SeenSource, node_port_key, trace_node,
};
use crate::inspect::trace::Trace;
use crate::model::address::Family;
use crate::model::snapshot::Snapshot;
use crate::routing::portal::{
    NodeContext, Place, Portal, PortalKey, Portals, TableKind, node_port_address, portals,
};
use crate::ruleset::node::{NodeEnvironment, NodeRuleset, NodeSettings};

/// A connection on the node to explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeQuery {
    /// The destination.
    pub destination: PortalKey,
    /// Whether a process of the node is the client; otherwise the connection arrives at an interface.
    pub is_from_node: bool,
    /// The source address. The default is the node's address if the node is the client, otherwise unknown.
    pub source: Option<IpAddr>,
}

/// Explains a connection through the table of the node's network namespace.
#[must_use]
pub fn explain_node(
    snapshot: &Snapshot,
    node_context: &NodeContext,
    settings: NodeSettings,
    environment: NodeEnvironment,
    query: &NodeQuery,
) -> Explanation {
    let node_context = &NodeContext { place: Place::Node, ..node_context.clone() };
    let portals = portals(snapshot, node_context);
    let ruleset = NodeRuleset::new(&portals, settings, environment);
    let NodeQuery { destination, is_from_node, source } = *query;
    let family = Family::of(destination.address);
    let source = source.or_else(|| node_context.node.primary(family).filter(|_| is_from_node));
    // The unspecified address is in no range, like an unknown one.
    let packet = NodePacket {
        source: source.unwrap_or(node_port_address(family)),
        interface: (!is_from_node).then_some(""),
        destination,
        is_on_loopback: false,
    };
    let client = packet.origin(&ruleset);
    let explainer = Explainer { snapshot, node_context, portals: &portals, destination, source, client };
    let portal = portal_at(&portals, &ruleset, &packet);
    let results = NodeResults::new(&ruleset, node_context, packet, portal);
    match portal {
        Some(portal) => explainer.at_node_portal(portal, &results),
        None => explainer.without_portal(results.first.without_portal()),
    }
}

/// Returns the portal at the destination: that of the address and port, otherwise that of the node port.
fn portal_at<'a>(portals: &'a Portals, ruleset: &NodeRuleset, packet: &NodePacket<'_>) -> Option<&'a Portal> {
    let destination = packet.destination;
    let is_served = ruleset.environment().addresses.contains(&destination.address)
        || trace_node(ruleset, packet, 0) == NodeTrace::Loopback;
    let node_port = is_served.then(|| node_port_key(destination));
    let at = |key| portals.get(key).filter(|portal| portals.fits_share(TableKind::Full, portal));
    at(destination).or_else(|| node_port.and_then(at))
}

/// The results of a packet over all draws.
struct NodeResults {
    first: NodeTrace,
    /// The backends, with the source that each sees.
    backends: BTreeMap<SocketAddr, SeenSource>,
}

impl NodeResults {
    fn new(
        ruleset: &NodeRuleset,
        node_context: &NodeContext,
        packet: NodePacket<'_>,
        portal: Option<&Portal>,
    ) -> Self {
        let external = |portal: &Portal| Some(portal.node.as_ref()?.external.as_ref()?.backends.len());
        let draws =
            portal.map_or(0, |portal| portal.backends.len().max(external(portal).unwrap_or_default()));
        let mut backends = BTreeMap::new();
        for draw in 0..u32::try_from(draws).unwrap_or(u32::MAX) {
            let NodeTrace::Forward { backend, .. } = trace_node(ruleset, &packet, draw) else { break };
            let is_own = backend.ip().is_loopback() || node_context.node.addresses.contains(&backend.ip());
            let packet = NodePacket { is_on_loopback: packet.interface.is_none() && is_own, ..packet };
            if let NodeTrace::Forward { backend, source } = trace_node(ruleset, &packet, draw) {
                backends.insert(backend, source);
            }
        }
        Self { first: trace_node(ruleset, &packet, 0), backends }
    }

    fn masqueraded(&self) -> Vec<SocketAddr> {
        let seen = self.backends.iter().filter(|(_, source)| **source == SeenSource::NodeAddress);
        seen.map(|(backend, _)| *backend).collect()
    }
}

impl NodeTrace {
    /// Returns the result of a pod for a destination without a portal.
    const fn without_portal(self) -> Trace {
        match self {
            Self::WrongPort => Trace::WrongPort,
            Self::Drop(_) => Trace::Unallocated,
            _ => Trace::Pass,
        }
    }
}

impl Explainer<'_> {
    fn at_node_portal(&self, portal: &Portal, results: &NodeResults) -> Explanation {
        let mut steps = self.claim_steps(portal);
        steps.push(self.client_step());
        if results.first != NodeTrace::Drop(DropReason::SourceDenied) {
            steps.extend(self.endpoint_steps(portal));
        }
        let backends: Vec<SocketAddr> = results.backends.keys().copied().collect();
        let masqueraded = results.masqueraded();
        let (verdict, reason) = match results.first {
            NodeTrace::Forward { .. } => {
                let seen = seen_source(&backends, &masqueraded);
                (Outcome::Forward, format!("forwarded to {}; {seen}", one_of(backends.len())))
            }
            NodeTrace::Loopback => {
                let reason = "redirected to the agent's listener on the loopback address, which connects to an endpoint";
                (Outcome::Forward, reason.to_owned())
            }
            NodeTrace::Drop(DropReason::SourceDenied) => (Outcome::Drop, self.source_denied(portal)),
            NodeTrace::Drop(_) => (Outcome::Drop, no_local_endpoint(portal)),
            _ => (Outcome::Reject, NO_ENDPOINT.to_owned()),
        };
        if verdict == Outcome::Forward {
            steps.extend(forwarding_steps(portal));
        }
        steps.push(reason.clone());
        let masqueraded = Some(masqueraded);
        Explanation { verdict, portal: Some(name_of(portal)), backends, masqueraded, reason, steps }
    }

    fn client_step(&self) -> String {
        let client = match self.client {
            Origin::Outside => "outside the cluster, or a pod that the node does not detect",
            Origin::Pod => "a pod, by its address",
            Origin::Node => "the node itself",
        };
        format!("the client is {client}")
    }
}

fn seen_source(backends: &[SocketAddr], masqueraded: &[SocketAddr]) -> String {
    if masqueraded.is_empty() {
        "not masqueraded: the backend sees the address of the client".to_owned()
    } else if masqueraded.len() == backends.len() {
        "masqueraded: the backend sees an address of the node".to_owned()
    } else {
        let these: Vec<String> = masqueraded.iter().map(ToString::to_string).collect();
        format!("masqueraded only to {}, which sees an address of the node", these.join(", "))
    }
}

#[cfg(test)]
mod tests;
