//! The part of an explanation about the endpoints of a portal: the traffic policy, and each candidate.
//!
//! The texts are those of `selection_rule` and `endpoint_status`, which also determine the backends.

use super::Explainer;
use crate::inspect::node_trace::Origin;
use crate::model::address::Family;
use crate::model::service::{Service, TrafficPolicy};
use crate::routing::endpoint_selection::{endpoint_status, selection_rule};
use crate::routing::portal::{Portal, PortalKind};

impl Explainer<'_> {
    pub(super) fn endpoint_steps(&self, portal: &Portal) -> Vec<String> {
        let Some(service) = self.snapshot.service(&portal.service) else { return Vec::new() };
        let family = Family::of(portal.key.address);
        let (policy, mut steps) = policy_of(service, portal, self.client);
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
                "  {} more are omitted because of the limit of backends",
                portal.omitted_backends
            ));
        }
        steps
    }

    /// Returns the reasons why content of the slices is not an endpoint of the port.
    fn unusable(&self, service: &Service, portal: &Portal, family: Family) -> Vec<String> {
        let mut steps = Vec::new();
        for slice in self.snapshot.portal_slices_of(&service.key) {
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
}

fn policy_of(service: &Service, portal: &Portal, client: Origin) -> (TrafficPolicy, Vec<String>) {
    match (portal.kind, service.external_policy) {
        (PortalKind::ClusterIp, _) => {
            let policy = service.internal_policy;
            (policy, vec![format!("its internal traffic policy is {policy:?}")])
        }
        (_, TrafficPolicy::Cluster) => (TrafficPolicy::Cluster, Vec::new()),
        (_, TrafficPolicy::Local) if client == Origin::Outside => {
            let why = "its external traffic policy Local leads clients outside the cluster to endpoints on this node";
            (TrafficPolicy::Local, vec![why.to_owned()])
        }
        (_, TrafficPolicy::Local) => {
            let why = "its external traffic policy Local applies to clients outside the cluster: for clients inside, all endpoints are eligible";
            (TrafficPolicy::Cluster, vec![why.to_owned()])
        }
    }
}
