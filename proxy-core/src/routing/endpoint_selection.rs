//! Endpoint selection: which endpoints of a service port a client on this node may reach.
//!
//! Follows kube-proxy's `CategorizeEndpoints` (pkg/proxy/topology.go). First one `SelectionRule` is made by
//! looking at all endpoints; then each endpoint has one `EndpointStatus` under that choice. Rules and the words of
//! `explain` come from the same two functions, so they cannot disagree.

use std::fmt;

use crate::model::endpoint::{Conditions, Endpoint};
use crate::model::node::Node;
use crate::model::service::TrafficPolicy;
use crate::model::snapshot::PortEndpoint;

/// The rule by which the endpoints of a port are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectionRule {
    /// All ready endpoints.
    Ready,
    /// The ready endpoints whose hints name this node: all ready endpoints have such hints.
    ReadyForNode,
    /// The ready endpoints whose hints name this zone: all ready endpoints have such hints.
    ReadyForZone,
    /// None is ready: those that still serve while they terminate.
    Terminating,
    /// Policy Local: the ready endpoints on this node.
    LocalReady,
    /// Policy Local and none is ready here: those on this node that still serve while they terminate.
    LocalTerminating,
    /// Policy Local, and the service has endpoints, but none on this node.
    NoneLocal,
    /// No endpoint anywhere.
    None,
}

impl fmt::Display for SelectionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "chosen are all ready endpoints",
            Self::ReadyForNode => "chosen are the ready endpoints that are hinted for this node",
            Self::ReadyForZone => "chosen are the ready endpoints that are hinted for this zone",
            Self::Terminating => "none is ready: chosen are those that still serve while they terminate",
            Self::LocalReady => "chosen are the ready endpoints on this node",
            Self::LocalTerminating => {
                "none is ready on this node: chosen are those here that still serve while they terminate"
            }
            Self::NoneLocal => "none is chosen: no usable endpoint is on this node",
            Self::None => "none is chosen: no endpoint is ready or still serving",
        })
    }
}

/// What became of one endpoint, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointStatus {
    /// Connections are sent to it.
    Chosen,
    /// It is not ready.
    NotReady,
    /// It terminates, and there are ready ones.
    Terminating,
    /// It terminates, and serves no more.
    Finished,
    /// It is hinted for other nodes.
    OtherNode,
    /// It is hinted for other zones.
    OtherZone,
    /// It is not on this node.
    NotLocal,
}

impl fmt::Display for EndpointStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chosen => "chosen",
            Self::NotReady => "not chosen: it is not ready",
            Self::Terminating => "not chosen: it terminates, and others are ready",
            Self::Finished => "not chosen: it terminates and serves no more",
            Self::OtherNode => "not chosen: its hints name other nodes",
            Self::OtherZone => "not chosen: its hints name other zones",
            Self::NotLocal => "not chosen: it is not on this node",
        })
    }
}

fn still_serves(endpoint: &Endpoint) -> bool {
    !endpoint.conditions.ready && endpoint.conditions.serving && endpoint.conditions.terminating
}

fn is_local(endpoint: &Endpoint, node: &Node) -> bool {
    !node.name.is_empty() && endpoint.node.as_ref() == Some(&node.name)
}

/// Makes the choice for a port: one look at all its endpoints.
#[must_use]
pub fn selection_rule(endpoints: &[PortEndpoint<'_>], policy: TrafficPolicy, node: &Node) -> SelectionRule {
    let all = || endpoints.iter().map(|candidate| candidate.endpoint);
    let ready = || all().filter(|endpoint| endpoint.conditions.ready);
    let any = ready().next().is_some() || all().any(still_serves);
    match policy {
        _ if !any => SelectionRule::None,
        TrafficPolicy::Local if ready().any(|endpoint| is_local(endpoint, node)) => SelectionRule::LocalReady,
        TrafficPolicy::Local if all().any(|e| is_local(e, node) && still_serves(e)) => {
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

/// Hints count only where every ready endpoint has some, and at least one names us.
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

/// What the choice means for one endpoint.
#[must_use]
pub fn endpoint_status(rule: SelectionRule, endpoint: &Endpoint, node: &Node) -> EndpointStatus {
    let usable = match rule {
        SelectionRule::Terminating => still_serves(endpoint),
        SelectionRule::LocalTerminating | SelectionRule::NoneLocal => {
            endpoint.conditions.ready || still_serves(endpoint)
        }
        _ => endpoint.conditions.ready,
    };
    if !usable {
        return match endpoint.conditions {
            _ if still_serves(endpoint) => EndpointStatus::Terminating,
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
        _ => EndpointStatus::Chosen,
    }
}

#[cfg(test)]
mod tests;
