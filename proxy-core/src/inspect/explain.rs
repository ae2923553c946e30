//! `explain`: what happens to one connection, and why, step by step in words.
//!
//! The verdict is the tracer's on the very ruleset that would be programmed; the words about endpoints
//! come from the same `choice` and `endpoint_status` that made it. So an explanation cannot tell another story than
//! the kernel.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::inspect::trace::{Packet, Trace, trace};
use crate::model::address::Family;
use crate::model::service::{Dial, Mode, Service, ServiceKey, TrafficPolicy};
use crate::model::snapshot::Snapshot;
use crate::routing::endpoint_selection::{endpoint_status, selection_rule};
use crate::routing::portal::{NodeContext, Portal, PortalKey, PortalKind, Portals, TableKind, portals};
use crate::ruleset::{Ruleset, Settings};

/// Of the services that ask for a portal in vain, so many are named.
const REFUSALS_MAX: usize = 5;

/// Who opens the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Client {
    /// A pod on the node.
    #[default]
    Pod,
    /// The node itself.
    Node,
}

/// A connection to explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Where it goes.
    pub destination: PortalKey,
    /// Who opens it.
    pub client: Client,
    /// Its source address; not known: the node's own for the node, and for a pod none.
    pub source: Option<IpAddr>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Sent to a backend.
    Forward,
    /// Refusals at once.
    Reject,
    /// Dropped: the client waits until it gives up.
    Drop,
    /// Left as it is.
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

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What happens.
    pub verdict: Outcome,
    /// The portal, as `namespace/service:port`.
    pub portal: Option<String>,
    /// Where it may be sent, sorted.
    pub backends: Vec<SocketAddr>,
    /// Why, in one sentence.
    pub reason: String,
    /// How it came to that, step by step.
    #[serde(skip)]
    pub steps: Vec<String>,
}

/// Explains a connection.
#[must_use]
pub fn explain(snapshot: &Snapshot, node_context: &NodeContext, question: &Query) -> Explanation {
    let portals = portals(snapshot, node_context);
    let ruleset = Ruleset::new(&portals, Settings::default());
    let family = Family::of(question.destination.address);
    let own = node_context.node.primary(family).filter(|_| question.client == Client::Node);
    let source = question.source.or(own);
    let packet = Packet::sent(source, question.destination);
    let teller = Teller { snapshot, node_context, portals: &portals, packet };
    let outcome = trace(&ruleset, &packet, 0);
    match portals.get(question.destination).filter(|portal| portals.fits_share(TableKind::Full, portal)) {
        Some(portal) => teller.at_portal(portal, outcome),
        None => teller.elsewhere(outcome),
    }
}

struct Teller<'a> {
    snapshot: &'a Snapshot,
    node_context: &'a NodeContext,
    portals: &'a Portals,
    packet: Packet,
}

impl Teller<'_> {
    fn at_portal(&self, portal: &Portal, outcome: Trace) -> Explanation {
        let mut steps = vec![self.what_it_is(portal)];
        steps.extend(self.rivals(portal));
        steps.extend(self.refusals());
        steps.extend(self.source_step(portal));
        if outcome != Trace::SourceDenied {
            steps.extend(self.endpoint_steps(portal));
        }
        let count = portal.backends.len();
        let backends = portal.backends.to_vec();
        let one_of =
            if count == 1 { "the only backend".to_owned() } else { format!("one of {count} backends") };
        let (verdict, backends, reason) = match outcome {
            Trace::Forward(_) => (Outcome::Forward, backends, format!("sent to {one_of}")),
            Trace::Relay if count == 0 => (Outcome::Forward, backends, held(portal)),
            Trace::Relay => (Outcome::Forward, backends, format!("relayed to {one_of}")),
            Trace::SourceDenied => (Outcome::Drop, Vec::new(), self.barred(portal)),
            Trace::Drop => {
                let reason = "dropped: the service has endpoints, but none on this node, and its internal traffic policy is Local";
                (Outcome::Drop, Vec::new(), reason.to_owned())
            }
            _ => (Outcome::Reject, Vec::new(), "refused: no endpoint is ready or still serving".to_owned()),
        };
        if verdict == Outcome::Forward {
            steps.extend(manner(portal));
        }
        steps.push(reason.clone());
        let name = format!("{}:{}", portal.service, portal.key.port);
        Explanation { verdict, portal: Some(name), backends, reason, steps }
    }

    fn what_it_is(&self, portal: &Portal) -> String {
        let kind = match portal.kind {
            PortalKind::ClusterIp => "the cluster address",
            PortalKind::LoadBalancer => "a load-balancer address",
            PortalKind::ExternalIp => "an external address",
            PortalKind::NodePort => "this node's address, with a node port,",
        };
        let PortalKey { address, protocol, port } = portal.key;
        let name =
            if portal.port_name.is_empty() { String::new() } else { format!(" named {}", portal.port_name) };
        format!("{address} is {kind} of service {}, and {protocol} {port} is its port{name}", portal.service)
    }

    fn rivals(&self, portal: &Portal) -> Vec<String> {
        let others = self.portals.claims_on(portal.key).skip(1);
        others
            .map(|other| {
                format!(
                    "service {} claims this portal too ({}); {} comes first ({})",
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
        let who =
            self.packet.source.map_or_else(|| "an unknown source".to_owned(), |source| source.to_string());
        Some(format!("it may be used from {ranges} only; this connection comes from {who}"))
    }

    fn barred(&self, portal: &Portal) -> String {
        let service = &portal.service;
        match self.packet.source {
            Some(source) => format!("dropped: {source} is in none of the source ranges of {service}"),
            None => format!(
                "dropped unless the source is in the source ranges of {service}; name it with --source"
            ),
        }
    }

    fn endpoint_steps(&self, portal: &Portal) -> Vec<String> {
        let Some(service) = self.snapshot.service(&portal.service) else { return Vec::new() };
        let family = Family::of(portal.key.address);
        let (policy, mut steps) = policy_of(service, portal);
        let node = &self.node_context.node;
        let endpoints =
            self.snapshot.endpoints_of(&service.key, &portal.port_name, portal.key.protocol, family);
        let rule = selection_rule(&endpoints, policy, node);
        steps.push(rule.to_string());
        for candidate in &endpoints {
            let place =
                candidate.endpoint.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
            steps.push(format!(
                "  {}{place}: {}",
                candidate.backend,
                endpoint_status(rule, candidate.endpoint, node)
            ));
        }
        steps.extend(self.unusable(service, portal, family));
        if portal.omitted_backends > 0 {
            steps.push(format!(
                "  {} more are beyond the limit of backends and left out",
                portal.omitted_backends
            ));
        }
        steps
    }

    /// What is in the slices and yet no endpoint of this port.
    fn unusable(&self, service: &Service, portal: &Portal, family: Family) -> Vec<String> {
        let mut steps = Vec::new();
        for slice in self.snapshot.slices_of(&service.key) {
            let joins = slice
                .ports
                .iter()
                .any(|port| port.name == portal.port_name && port.protocol == portal.key.protocol);
            if !joins {
                let has: Vec<String> =
                    slice.ports.iter().map(|port| format!("{:?} {}", port.name, port.protocol)).collect();
                steps.push(format!(
                    "  slice {} has no port {:?} {} (it has: {})",
                    slice.key,
                    portal.port_name,
                    portal.key.protocol,
                    has.join(", ")
                ));
                continue;
            }
            for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family) {
                if let Some(owner) = self.snapshot.owner_of(endpoint.address) {
                    steps.push(format!(
                        "  {}: not used: it is the address of service {owner}",
                        endpoint.address
                    ));
                }
            }
        }
        steps
    }

    fn elsewhere(&self, outcome: Trace) -> Explanation {
        let PortalKey { address, protocol, port } = self.packet.destination;
        let owner = self.snapshot.owner_of(address);
        let (verdict, reason) = match (outcome, owner) {
            (Trace::WrongPort, _) => {
                let owner = owner.map(ToString::to_string).unwrap_or_default();
                let has_no = format!("which has no port {protocol} {port}");
                (Outcome::Reject, format!("refused: {address} is the address of service {owner}, {has_no}"))
            }
            (Trace::Unallocated, Some(owner)) => {
                let has_no = format!("but service {owner} has no portals here");
                (Outcome::Drop, format!("dropped: {address} is in a service range, {has_no}"))
            }
            (Trace::Unallocated, None) => {
                (Outcome::Drop, format!("dropped: {address} is in a service range, but no service has it"))
            }
            _ => (Outcome::Pass, format!("left as it is: {protocol} {address} port {port} is no portal")),
        };
        let mut steps: Vec<String> = self.refusals();
        if steps.is_empty() {
            steps.extend(self.hint());
        }
        steps.push(reason.clone());
        Explanation { verdict, portal: None, backends: Vec::new(), reason, steps }
    }

    /// Which services ask for this portal in vain, and why.
    fn refusals(&self) -> Vec<String> {
        let to = self.packet.destination;
        let mut askers: Vec<&ServiceKey> =
            self.snapshot.services_with_external_ip(to.address).take(REFUSALS_MAX).collect();
        askers.extend(self.snapshot.owner_of(to.address));
        let is_own = self.node_context.node.primary(Family::of(to.address)) == Some(to.address);
        let node_ports = self.snapshot.services().filter(|_| is_own).filter(|service| {
            service.ports.iter().any(|port| port.node_port == Some(to.port) && port.protocol == to.protocol)
        });
        askers.extend(node_ports.map(|service| &service.key).take(REFUSALS_MAX));
        let reason = |key: &&ServiceKey| {
            self.portals.refusal(self.snapshot, self.node_context, self.snapshot.service(key)?, to)
        };
        let told = askers.iter().filter_map(|key| {
            Some(format!(
                "service {key} asks for {} {} port {}: {}",
                to.address,
                to.protocol,
                to.port,
                reason(key)?
            ))
        });
        told.collect()
    }

    /// Why something that looks like a service's address is no portal.
    fn hint(&self) -> Option<String> {
        let PortalKey { address, protocol, port } = self.packet.destination;
        let owner = self.snapshot.owner_of(address).and_then(|owner| self.snapshot.service(owner));
        if let Some(service) = owner {
            let why = if !service.has_portals {
                ", for which another proxy is responsible".to_owned()
            } else if !self.node_context.filter.includes(&service.key) {
                ", which is not in view".to_owned()
            } else {
                let ports = service.ports.iter().map(|port| format!("{} {}", port.protocol, port.port));
                format!("; its ports are {}", ports.collect::<Vec<_>>().join(", "))
            };
            return Some(format!("{address} is the address of service {}{why}", service.key));
        }
        let has_node_port = |service: &&Arc<Service>| {
            service.ports.iter().any(|own| own.node_port == Some(port) && own.protocol == protocol)
        };
        let service = self.snapshot.services().find(has_node_port)?;
        let why = if self.node_context.node.addresses.is_empty() {
            "the node's addresses are not known: name it with --node".to_owned()
        } else {
            format!("{address} is not the address of this node")
        };
        Some(format!("{port} is a node port of service {}, but {why}", service.key))
    }
}

fn policy_of(service: &Service, portal: &Portal) -> (TrafficPolicy, Vec<String>) {
    match (portal.kind, service.external_policy) {
        (PortalKind::ClusterIp, _) => {
            let policy = service.internal_policy;
            (policy, vec![format!("its internal traffic policy is {policy:?}")])
        }
        (_, TrafficPolicy::Cluster) => (TrafficPolicy::Cluster, Vec::new()),
        (_, TrafficPolicy::Local) => {
            let why = "its external traffic policy Local is for traffic from outside: from inside the cluster all endpoints count";
            (TrafficPolicy::Cluster, vec![why.to_owned()])
        }
    }
}

fn held(portal: &Portal) -> String {
    let seconds = f64::from(portal.hold_ms.unwrap_or_default()) / 1_000.0;
    format!("no endpoint is ready or still serving: held for one by the relay, for {seconds} s at most")
}

fn manner(portal: &Portal) -> Vec<String> {
    let mut steps = Vec::new();
    if portal.mode == Mode::Relay {
        steps.push(
            "the relay in the pod's network namespace takes the connection and tries the backends".to_owned(),
        );
    }
    if portal.is_round_robin() && portal.backends.len() > 1 {
        steps.push("its scheduler is rr: connections go to the backends in turn".to_owned());
    } else if let Some(scheduler) = portal.scheduler.filter(|_| portal.mode == Mode::Relay) {
        steps.push(format!("its scheduler, in the relay, is {}", scheduler.name()));
    }
    match portal.dial {
        _ if portal.mode == Mode::Kernel => {}
        Dial::Pod => {}
        Dial::Node | Dial::Auto => {
            let which = if portal.dial == Dial::Node { "" } else { " that the pod cannot reach" };
            let namespace = &portal.service.namespace;
            steps.push(format!(
                "backends{which} are reached from the node, by its address, if --dial-from-node of the agent lists \
                 namespace {namespace}"
            ));
        }
    }
    if let Some(affinity_s) = portal.affinity_s {
        steps.push(format!(
            "session affinity: a client stays with its backend until it was quiet for {affinity_s} s"
        ));
    }
    steps
}

#[cfg(test)]
mod tests;
