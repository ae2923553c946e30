//! `explain`: what happens to a connection, and why, step by step in words.
//!
//! The verdict is that of `trace` on the ruleset that would be programmed, and the texts about endpoints are those of
//! `selection_rule` and `endpoint_status`, which also determine the backends. So an explanation agrees with the kernel.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::inspect::node_trace::Origin;
use crate::inspect::trace::{Packet, Trace, trace};
use crate::model::address::Family;
use crate::model::service::{Dial, Mode, Service, ServiceKey};
use crate::model::snapshot::Snapshot;
use crate::routing::portal::{
    NodeContext, Place, Portal, PortalKey, PortalKind, Portals, TableKind, portals,
};
use crate::ruleset::{Ruleset, Settings};

pub use node::{NodeQuery, explain_node};
pub use unserved::explain_unserved;

/// The maximum number of refused services that an explanation names.
const REFUSALS_MAX: usize = 5;
const NO_ENDPOINT: &str = "rejected: no endpoint is ready or serving";

/// A connection of a pod to explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// The destination.
    pub destination: PortalKey,
    /// The source address, unless it is unknown.
    pub source: Option<IpAddr>,
}

/// The result for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Forwarded to a backend.
    Forward,
    /// Rejected immediately.
    Reject,
    /// Dropped: the client waits until it times out.
    Drop,
    /// Not translated.
    Pass,
}

impl Outcome {
    /// The name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::Pass => "pass",
        }
    }
}

/// An explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The result.
    pub verdict: Outcome,
    /// The portal, as `namespace/service:port`.
    pub portal: Option<String>,
    /// The backends, sorted.
    pub backends: Vec<SocketAddr>,
    /// On the node: the backends that see an address of the node instead of the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masqueraded: Option<Vec<SocketAddr>>,
    /// The reason, in one sentence.
    pub reason: String,
    /// The steps that lead to the result.
    #[serde(skip)]
    pub steps: Vec<String>,
}

/// Explains a connection of a pod through the portals in its network namespace.
#[must_use]
pub fn explain(snapshot: &Snapshot, node_context: &NodeContext, query: &Query) -> Explanation {
    let portals = portals(snapshot, node_context);
    let ruleset = Ruleset::new(&portals, Settings::default());
    let Query { destination, source } = *query;
    let outcome = trace(&ruleset, &Packet::sent(source, destination), 0);
    let explainer =
        Explainer { snapshot, node_context, portals: &portals, destination, source, client: Origin::Pod };
    match portals.get(query.destination).filter(|portal| portals.fits_share(TableKind::Full, portal)) {
        Some(portal) => explainer.at_portal(portal, outcome),
        None => explainer.without_portal(outcome),
    }
}

struct Explainer<'a> {
    snapshot: &'a Snapshot,
    node_context: &'a NodeContext,
    portals: &'a Portals,
    destination: PortalKey,
    /// `None` if it is unknown.
    source: Option<IpAddr>,
    client: Origin,
}

impl Explainer<'_> {
    fn at_portal(&self, portal: &Portal, outcome: Trace) -> Explanation {
        let mut steps = self.claim_steps(portal);
        if outcome != Trace::SourceDenied {
            steps.extend(self.endpoint_steps(portal));
        }
        let count = portal.backends.len();
        let backends = portal.backends.to_vec();
        let one_of = one_of(count);
        let (verdict, backends, reason) = match outcome {
            Trace::Forward(_) => (Outcome::Forward, backends, format!("forwarded to {one_of}")),
            Trace::Relay if count == 0 => (Outcome::Forward, backends, on_hold(portal)),
            Trace::Relay => (Outcome::Forward, backends, format!("relayed to {one_of}")),
            Trace::SourceDenied => (Outcome::Drop, Vec::new(), self.source_denied(portal)),
            Trace::Drop => (Outcome::Drop, Vec::new(), no_local_endpoint(portal)),
            _ => (Outcome::Reject, Vec::new(), NO_ENDPOINT.to_owned()),
        };
        if verdict == Outcome::Forward {
            steps.extend(forwarding_steps(portal));
        }
        steps.push(reason.clone());
        Explanation { verdict, portal: Some(name_of(portal)), backends, masqueraded: None, reason, steps }
    }

    /// Returns the steps about the portal, the services that claim it, and the source.
    fn claim_steps(&self, portal: &Portal) -> Vec<String> {
        let mut steps = vec![self.describe(portal)];
        steps.extend(self.conflicting_claims(portal));
        steps.extend(self.refusals());
        steps.extend(self.source_step(portal));
        steps
    }

    fn describe(&self, portal: &Portal) -> String {
        let kind = match portal.kind {
            PortalKind::ClusterIp => "the cluster address",
            PortalKind::LoadBalancer => "a load-balancer address",
            PortalKind::ExternalIp => "an external address",
            PortalKind::NodePort => "this node's address, with a node port,",
        };
        let PortalKey { address, protocol, port } = self.destination;
        let name =
            if portal.port_name.is_empty() { String::new() } else { format!(" named {}", portal.port_name) };
        format!("{address} is {kind} of service {}, and {protocol} {port} is its port{name}", portal.service)
    }

    fn conflicting_claims(&self, portal: &Portal) -> Vec<String> {
        let others = self.portals.claims_on(portal.key).skip(1);
        others
            .map(|other| {
                format!(
                    "service {} also claims this portal ({}); {} takes precedence ({})",
                    other.service,
                    other.kind.name(),
                    portal.service,
                    portal.kind.name()
                )
            })
            .collect()
    }

    fn source_step(&self, portal: &Portal) -> Option<String> {
        let ranges = portal.sources.as_ref()?.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let who = self.source.map_or_else(|| "an unknown source".to_owned(), |source| source.to_string());
        Some(format!("access is limited to {ranges} and this connection is from {who}"))
    }

    fn source_denied(&self, portal: &Portal) -> String {
        let service = &portal.service;
        match self.source {
            Some(source) => format!("dropped: {source} is not in the source ranges of {service}"),
            None => format!("dropped unless the source is in the source ranges of {service}; set --source"),
        }
    }

    fn without_portal(&self, outcome: Trace) -> Explanation {
        let PortalKey { address, protocol, port } = self.destination;
        let owner = self.snapshot.owner_of(address);
        let (verdict, reason) = match (outcome, owner) {
            (Trace::WrongPort, _) => {
                let owner = owner.map(ToString::to_string).unwrap_or_default();
                let has_no = format!("which has no port {protocol} {port}");
                (Outcome::Reject, format!("rejected: {address} is the address of service {owner}, {has_no}"))
            }
            (Trace::Unallocated, Some(owner)) => {
                let has_no = format!("but service {owner} has no portals here");
                (Outcome::Drop, format!("dropped: {address} is in a service range, {has_no}"))
            }
            (Trace::Unallocated, None) => (
                Outcome::Drop,
                format!("dropped: {address} is in a service range, but is not assigned to a service"),
            ),
            _ => (Outcome::Pass, format!("not translated: {protocol} {address} port {port} is not a portal")),
        };
        let mut steps: Vec<String> = self.refusals();
        if steps.is_empty() {
            steps.extend(self.hint());
        }
        steps.push(reason.clone());
        Explanation { verdict, portal: None, backends: Vec::new(), masqueraded: None, reason, steps }
    }

    /// Returns the services that request this portal and are refused, with the reasons.
    fn refusals(&self) -> Vec<String> {
        let to = self.destination;
        let mut requesting: Vec<&ServiceKey> =
            self.snapshot.services_with_external_ip(to.address).take(REFUSALS_MAX).collect();
        requesting.extend(self.snapshot.owner_of(to.address));
        let is_node = self.node_context.node.primary(Family::of(to.address)) == Some(to.address);
        let node_ports = self.snapshot.services().filter(|_| is_node).filter(|service| {
            service.ports.iter().any(|port| port.node_port == Some(to.port) && port.protocol == to.protocol)
        });
        requesting.extend(node_ports.map(|service| &service.key).take(REFUSALS_MAX));
        let reason = |key: &&ServiceKey| {
            self.portals.refusal(self.snapshot, self.node_context, self.snapshot.service(key)?, to)
        };
        let refusals = requesting.iter().filter_map(|key| {
            Some(format!(
                "service {key} requests {} {} port {}: {}",
                to.address,
                to.protocol,
                to.port,
                reason(key)?
            ))
        });
        refusals.collect()
    }

    /// Returns why an address that looks like that of a service is not a portal.
    fn hint(&self) -> Option<String> {
        let PortalKey { address, protocol, port } = self.destination;
        let owner = self.snapshot.owner_of(address).and_then(|owner| self.snapshot.service(owner));
        if let Some(service) = owner {
            let why = if !service.has_portals {
                ", which another proxy serves".to_owned()
            } else if !self.node_context.filter.includes(&service.key) {
                ", which is not visible to the pod".to_owned()
            } else {
                let ports = service.ports.iter().map(|port| format!("{} {}", port.protocol, port.port));
                format!("; its ports are {}", ports.collect::<Vec<_>>().join(", "))
            };
            return Some(format!("{address} is the address of service {}{why}", service.key));
        }
        let has_node_port = |service: &&Arc<Service>| {
            service.ports.iter().any(|other| other.node_port == Some(port) && other.protocol == protocol)
        };
        let service = self.snapshot.services().find(has_node_port)?;
        let why = if self.node_context.place == Place::Node {
            format!("node ports are not served on {address}")
        } else if self.node_context.node.addresses.is_empty() {
            "the node's addresses are unknown: set --node".to_owned()
        } else {
            format!("{address} is not the address of this node")
        };
        Some(format!("{port} is a node port of service {}, but {why}", service.key))
    }
}

fn name_of(portal: &Portal) -> String {
    format!("{}:{}", portal.service, portal.key.port)
}

fn no_local_endpoint(portal: &Portal) -> String {
    let policy = if portal.kind == PortalKind::ClusterIp { "internal" } else { "external" };
    format!(
        "dropped: the service has endpoints, but none on this node, and its {policy} traffic policy is Local"
    )
}

fn one_of(count: usize) -> String {
    if count == 1 { "the only backend".to_owned() } else { format!("one of {count} backends") }
}

fn on_hold(portal: &Portal) -> String {
    let seconds = f64::from(portal.hold_ms.unwrap_or(0)) / 1_000.0;
    format!(
        "no endpoint is ready or serving: the relay holds the connection until one is, for {seconds} s at most"
    )
}

fn forwarding_steps(portal: &Portal) -> Vec<String> {
    let mut steps = Vec::new();
    if portal.mode == Mode::Relay {
        steps.push(
            "the relay in the pod's network namespace accepts the connection and tries the backends"
                .to_owned(),
        );
    }
    if portal.is_round_robin() && portal.backends.len() > 1 {
        steps.push("its scheduler is rr: strict round robin".to_owned());
    } else if let Some(scheduler) = portal.scheduler.filter(|_| portal.mode == Mode::Relay) {
        steps.push(format!("its scheduler in the relay is {}", scheduler.name()));
    }
    match portal.dial {
        _ if portal.mode == Mode::Kernel => {}
        Dial::Pod => {}
        Dial::Node | Dial::Auto => {
            let which = if portal.dial == Dial::Node { "" } else { " that the pod cannot reach" };
            let namespace = &portal.service.namespace;
            steps.push(format!(
                "backends{which} are reached from the node, with its address, if the agent's --dial-from-node lists \
                 namespace {namespace}"
            ));
        }
    }
    if let Some(affinity_s) = portal.affinity_s {
        steps.push(format!(
            "session affinity: a client keeps its backend until it is idle for {affinity_s} s"
        ));
    }
    steps
}

mod endpoints;
mod node;
#[cfg(test)]
mod tests;
mod unserved;
