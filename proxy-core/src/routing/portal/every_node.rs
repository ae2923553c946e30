//! The portals that every node refuses, whatever its addresses and the endpoints of the services are.
//!
//! The agent of each node applies the limits to all portals of its pods. The limits of a service and of a namespace,
//! and the rules for external addresses, can also be evaluated from services only, so that one component of the
//! cluster can report a refusal once instead of every node reporting it. A node port and a backend only add to what
//! a service needs, so each node refuses at least what is returned here.

use std::sync::Arc;

use super::{ExternalPolicy, NodeContext, PortalLimits, Portals, Refusals};
use crate::model::service::ServiceKey;
use crate::model::snapshot::Snapshot;

/// Returns what every node refuses of the services of a namespace, in the order of their names; services of which
/// nothing is refused are left out.
///
/// The snapshot needs no endpoints. The work is bounded by the number of services and `limits.namespace_elements`.
#[must_use]
pub fn refused_on_every_node(
    snapshot: &Snapshot,
    namespace: &Arc<str>,
    external: &ExternalPolicy,
    limits: PortalLimits,
) -> Vec<(ServiceKey, Refusals)> {
    // A node without addresses has no node ports.
    let every_node = NodeContext { external: external.clone(), limits, ..NodeContext::default() };
    let (services, _) =
        Portals::default().admit_ranked(snapshot, &every_node, namespace, limits.namespace_elements);
    let refused = services.into_iter().map(|(key, service)| (key, service.refused));
    refused.filter(|(_, refused)| !refused.is_empty()).collect()
}
