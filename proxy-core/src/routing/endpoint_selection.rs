//! Endpoint selection: which endpoints of a service port are eligible for a client on a node.
//!
//! It follows kube-proxy's `CategorizeEndpoints` (pkg/proxy/topology.go). `selection_rule` selects one rule for all
//! endpoints of a port, and `endpoint_status` applies it to one endpoint. Portals and `explain` use the same two
//! functions, so an explanation agrees with the rules.

use std::fmt;

use crate::model::endpoint::{Conditions, Endpoint};
use crate::model::node::Node;
use crate::model::service::TrafficPolicy;
use crate::model::snapshot::PortEndpoint;

/// The rule that selects the endpoints of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectionRule {
    /// All ready endpoints.
    Ready,
    /// The ready endpoints with a hint for this node, if all ready endpoints have node hints.
    ReadyForNode,
    /// The ready endpoints with a hint for this zone, if all ready endpoints have zone hints.
    ReadyForZone,
    /// If none is ready: the serving, terminating endpoints.
    Terminating,
    /// Policy Local: the ready endpoints on this node.
    LocalReady,
    /// Policy Local, if none is ready on this node: the serving, terminating endpoints on it.
    LocalTerminating,
    /// Policy Local, if no usable endpoint is on this node, but the service has some.
    NoneLocal,
    /// No endpoint is usable.
    None,
}

impl fmt::Display for SelectionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "selected: all ready endpoints",
            Self::ReadyForNode => "selected: ready endpoints with a hint for this node",
            Self::ReadyForZone => "selected: ready endpoints with a hint for this zone",
            Self::Terminating => "selected: serving, terminating endpoints, because none is ready",
            Self::LocalReady => "selected: ready endpoints on this node",
            Self::LocalTerminating => {
                "selected: serving, terminating endpoints on this node, because none on it is ready"
            }
            Self::NoneLocal => "selected: none, because no usable endpoint is on this node",
            Self::None => "selected: none, because no endpoint is ready or serving",
        })
    }
}

/// Whether an endpoint is selected, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointStatus {
    /// It is selected.
    Selected,
    /// It is not ready.
    NotReady,
    /// It terminates, and others are ready.
    Terminating,
    /// It terminates, and no longer serves.
    Finished,
    /// Its hints are for other nodes.
    OtherNode,
    /// Its hints are for other zones.
    OtherZone,
    /// It is not on this node.
    NotLocal,
}

impl fmt::Display for EndpointStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Selected => "selected",
            Self::NotReady => "not selected: not ready",
            Self::Terminating => "not selected: terminating, and others are ready",
            Self::Finished => "not selected: terminating, and no longer serving",
            Self::OtherNode => "not selected: its hints are for other nodes",
            Self::OtherZone => "not selected: its hints are for other zones",
            Self::NotLocal => "not selected: not on this node",
        })
    }
}

fn is_serving_terminating(endpoint: &Endpoint) -> bool {
    !endpoint.conditions.ready && endpoint.conditions.serving && endpoint.conditions.terminating
}

/// Whether an endpoint is on this node.
#[must_use]
pub fn is_local(endpoint: &Endpoint, node: &Node) -> bool {
    !node.name.is_empty() && endpoint.node.as_ref() == Some(&node.name)
}

/// Returns the rule for a port with these endpoints.
#[must_use]
pub fn selection_rule(endpoints: &[PortEndpoint<'_>], policy: TrafficPolicy, node: &Node) -> SelectionRule {
    let all = || endpoints.iter().map(|candidate| candidate.endpoint);
    let ready = || all().filter(|endpoint| endpoint.conditions.ready);
    let any = ready().next().is_some() || all().any(is_serving_terminating);
    match policy {
        _ if !any => SelectionRule::None,
        TrafficPolicy::Local if ready().any(|endpoint| is_local(endpoint, node)) => SelectionRule::LocalReady,
        TrafficPolicy::Local if all().any(|e| is_local(e, node) && is_serving_terminating(e)) => {
            SelectionRule::LocalTerminating
        }
        TrafficPolicy::Local => SelectionRule::NoneLocal,
        TrafficPolicy::Cluster if ready().next().is_none() => SelectionRule::Terminating,
        TrafficPolicy::Cluster if hinted(ready(), |e| &e.node_hints, &node.name) => {
            SelectionRule::ReadyForNode
        }
        TrafficPolicy::Cluster if hinted(ready(), |e| &e.zone_hints, &node.zone) => {
            SelectionRule::ReadyForZone
        }
        TrafficPolicy::Cluster => SelectionRule::Ready,
    }
}

/// Whether hints apply: every ready endpoint has some, and at least one is `own`.
fn hinted<'a>(
    mut ready: impl Iterator<Item = &'a Endpoint>,
    hints: impl Fn(&Endpoint) -> &[std::sync::Arc<str>],
    own: &str,
) -> bool {
    let mut named = false;
    let all_hinted = ready.all(|endpoint| {
        let hints = hints(endpoint);
        named |= names(hints, own);
        !hints.is_empty()
    });
    all_hinted && named
}

fn names(hints: &[std::sync::Arc<str>], own: &str) -> bool {
    !own.is_empty() && hints.iter().any(|hint| **hint == *own)
}

/// Applies the rule to an endpoint.
#[must_use]
pub fn endpoint_status(rule: SelectionRule, endpoint: &Endpoint, node: &Node) -> EndpointStatus {
    let usable = match rule {
        SelectionRule::Terminating => is_serving_terminating(endpoint),
        SelectionRule::LocalTerminating | SelectionRule::NoneLocal => {
            endpoint.conditions.ready || is_serving_terminating(endpoint)
        }
        _ => endpoint.conditions.ready,
    };
    if !usable {
        return match endpoint.conditions {
            _ if is_serving_terminating(endpoint) => EndpointStatus::Terminating,
            Conditions { terminating: true, serving: false, .. } => EndpointStatus::Finished,
            _ => EndpointStatus::NotReady,
        };
    }
    match rule {
        SelectionRule::ReadyForNode if !names(&endpoint.node_hints, &node.name) => EndpointStatus::OtherNode,
        SelectionRule::ReadyForZone if !names(&endpoint.zone_hints, &node.zone) => EndpointStatus::OtherZone,
        SelectionRule::LocalReady | SelectionRule::LocalTerminating | SelectionRule::NoneLocal
            if !is_local(endpoint, node) =>
        {
            EndpointStatus::NotLocal
        }
        _ => EndpointStatus::Selected,
    }
}

#[cfg(test)]
mod tests;
