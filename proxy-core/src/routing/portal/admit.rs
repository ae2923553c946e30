//! Admission of portals: as many of a namespace as its limit allows, in a fixed order.
//!
//! The order is that of `Rank`: cluster addresses before load-balancer addresses, external addresses and node ports;
//! within a kind the service that was created first, then by name; within a service by address, protocol and port.
//! Portals are admitted in that order until one does not fit. The result therefore does not depend on the order of
//! events, and a service that is created later takes nothing from an existing one. Other namespaces have no influence.
//!
//! While everything fits, the cost of a change depends on the change only. In a namespace that exceeds its limit, it
//! depends on the limit.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::builder::PortalBuilder;
use super::limits::{Cost, Meter};
use super::{ChangedPortals, NodeContext, Portal, PortalKey, PortalKind, Portals, RefusalReason, Refusals};
use crate::model::service::{Created, Service, ServiceKey};
use crate::model::snapshot::Snapshot;

/// The rank of a portal in its namespace: lower ranks are admitted first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    kind: PortalKind,
    created: Created,
    service: Arc<str>,
    key: PortalKey,
}

impl Rank {
    pub(super) fn of(portal: &Portal, created: Created) -> Self {
        Self { kind: portal.kind, created, service: portal.service.name.clone(), key: portal.key }
    }
}

/// The admitted portals of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct AdmittedService {
    /// Sorted by key.
    pub(super) portals: Arc<[Portal]>,
    pub(super) created: Created,
    pub(super) cost: Cost,
    pub(super) refused: Refusals,
    /// Whether a cluster address has a portal that the relay cannot serve.
    pub(super) needs_kernel: bool,
}

impl AdmittedService {
    fn is_empty(&self) -> bool {
        self.portals.is_empty() && self.refused.is_empty()
    }

    /// Sums up portals, which are in the order of their ranks.
    fn new(
        mut portals: Vec<Portal>,
        refused: Refusals,
        builder: &PortalBuilder<'_>,
        ranges: &[IpNet],
    ) -> Self {
        let (created, needs_kernel) = (builder.created(), builder.needs_kernel());
        let mut cost = Cost::default();
        let mut meter = Meter::new(ranges, needs_kernel);
        portals.iter().for_each(|portal| cost += meter.cost(portal));
        portals.sort_unstable_by_key(|portal| portal.key);
        Self { portals: portals.into(), created, cost, refused, needs_kernel }
    }
}

/// The usage of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct NamespaceUsage {
    /// The cost of its portals.
    pub(super) cost: Cost,
    /// Whether its services request more than the limit.
    pub(super) is_limited: bool,
    /// By `TableKind`: the first portal that does not fit into the namespace's share.
    pub(super) cuts: [Option<Rank>; 2],
}

impl Portals {
    /// Updates changed services of one namespace.
    pub(super) fn update_namespace(
        &mut self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        changed: &[&ServiceKey],
        changed_portals: Option<&mut ChangedPortals>,
    ) {
        let Some(first) = changed.first() else { return };
        let namespace = &first.namespace;
        let usage = self.namespaces.get(namespace).cloned().unwrap_or_default();
        let elements_max = node_context.limits.namespace_elements;
        let unlimited = if usage.is_limited {
            None
        } else {
            self.admit_all(snapshot, node_context, changed, usage.cost.full)
        };
        let (new, is_limited) = match unlimited {
            Some(new) => (new, false),
            None => self.admit_ranked(snapshot, node_context, namespace, elements_max),
        };
        let mut cost = usage.cost;
        let mut differing = ChangedPortals::new();
        for (key, held) in new {
            let old = self.by_service.get(&key).cloned().unwrap_or_default();
            if old == held {
                continue;
            }
            cost -= old.cost;
            cost += held.cost;
            if changed_portals.is_some() && old.created == held.created {
                add_differences(&old.portals, &held.portals, &mut differing);
            } else if changed_portals.is_some() {
                // Its claims rank differently now, so the winner may differ even if its portals are the same.
                differing.extend(old.portals.iter().chain(held.portals.iter()).map(|portal| portal.key));
            }
            self.replace(&key, &old, held);
        }
        if let Some(changed_portals) = changed_portals {
            changed_portals.append(&mut differing);
        }
        if (cost, is_limited) == (usage.cost, usage.is_limited) {
            return;
        }
        self.total -= usage.cost;
        self.total += cost;
        if cost == Cost::default() && !is_limited {
            self.namespaces.remove_mut(namespace);
        } else {
            self.namespaces.insert_mut(namespace.clone(), NamespaceUsage { cost, is_limited, ..usage });
        }
    }

    /// Admits everything that the changed services request, if the namespace stays within its limit.
    fn admit_all(
        &self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        changed: &[&ServiceKey],
        mut cost: usize,
    ) -> Option<Vec<(ServiceKey, AdmittedService)>> {
        let mut new = Vec::with_capacity(changed.len());
        for key in changed {
            let old = self.by_service.get(*key);
            let held = snapshot.service(key).map_or_else(AdmittedService::default, |service| {
                let mut builder = PortalBuilder::new(snapshot, service, node_context);
                let (portals, refused) = builder.up_to(PortalKind::NodePort);
                AdmittedService::new(portals, refused, &builder, &self.service_ranges)
            });
            cost = cost - old.map_or(0, |old| old.cost.full) + held.cost.full;
            // Later services could release elements, but the memory of this loop must be limited, too.
            if cost > node_context.limits.namespace_elements {
                return None;
            }
            new.push(((*key).clone(), held));
        }
        Some(new)
    }

    /// Admits the portals of all services of a namespace in the order of their ranks, up to the limit. Returns also
    /// whether portals exceed the limit.
    pub(super) fn admit_ranked(
        &self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        namespace: &Arc<str>,
        elements_max: usize,
    ) -> (Vec<(ServiceKey, AdmittedService)>, bool) {
        let mut services: Vec<&Arc<Service>> = snapshot.services_in(namespace).collect();
        services.sort_by_key(|service| service.created);
        let builders = services.iter().map(|service| {
            let builder = PortalBuilder::new(snapshot, service, node_context);
            let meter = Meter::new(&self.service_ranges, builder.needs_kernel());
            (*service, builder, meter, Vec::new())
        });
        let mut builders: Vec<_> = builders.collect();
        let mut used = 0;
        let mut is_limited = false;
        'kinds: for kind in PortalKind::ALL {
            for (_, builder, meter, admitted) in &mut builders {
                for portal in builder.of_kind(kind) {
                    used += meter.cost(&portal).full;
                    is_limited = used > elements_max;
                    if is_limited {
                        break 'kinds;
                    }
                    admitted.push(portal);
                }
            }
        }
        // Deleted services are part of the result, too.
        let from = ServiceKey::new(namespace.clone(), "");
        let known = self.by_service.range(from..).take_while(|(key, _)| key.namespace == *namespace);
        let mut new: BTreeMap<ServiceKey, AdmittedService> =
            known.map(|(key, _)| (key.clone(), AdmittedService::default())).collect();
        for (service, builder, _, admitted) in builders {
            let (count, mut refused) = builder.count(!is_limited);
            refused.add(RefusalReason::NamespaceElements, count.saturating_sub(admitted.len()));
            new.insert(
                service.key.clone(),
                AdmittedService::new(admitted, refused, &builder, &self.service_ranges),
            );
        }
        (new.into_iter().collect(), is_limited)
    }

    fn replace(&mut self, key: &ServiceKey, old: &AdmittedService, new: AdmittedService) {
        let claim = |portal: &Portal, created| (portal.key, portal.kind, created, key.clone());
        for portal in old.portals.iter() {
            self.claims.remove_mut(&claim(portal, old.created));
        }
        for (index, portal) in new.portals.iter().enumerate() {
            self.claims.insert_mut(claim(portal, new.created), index);
        }
        if new.is_empty() {
            self.by_service.remove_mut(key);
        } else {
            self.by_service.insert_mut(key.clone(), new);
        }
    }
}

/// Adds the keys at which two lists differ. The lists are sorted by key.
fn add_differences(old: &[Portal], new: &[Portal], found: &mut ChangedPortals) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let (before, after) = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(left), Some(right)) if left.key == right.key => (old.next(), new.next()),
            (Some(left), Some(right)) if left.key < right.key => (old.next(), None),
            (Some(_), None) => (old.next(), None),
            _ => (None, new.next()),
        };
        if before != after {
            found.extend(before.or(after).map(|portal| portal.key));
        }
    }
}
