//! Which portals of a namespace there are: as many as its bound allows, in a fixed order.
//!
//! The order is that of `Rank`: cluster addresses before load balancers, external addresses and node ports; within a
//! kind the service that was created first, then by name; within a service by address, protocol and port. Portals
//! are taken in that order until one does not fit, so what is there does not depend on what was heard first, and
//! a service that is created later takes nothing from one that is there. Other namespaces do not matter.
//!
//! While everything fits, a change costs the change. In a namespace that is beyond its bound it costs that bound.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::builder::Maker;
use super::limits::{Cost, Meter};
use super::{ChangedPortals, NodeContext, Portal, PortalKey, PortalKind, Portals, RefusalReason, Refusals};
use crate::model::service::{Created, Service, ServiceKey};
use crate::model::snapshot::Snapshot;

/// Where a portal stands among those of its namespace: the first have what there is.
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

/// What is held of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Held {
    /// Sorted by key.
    pub(super) portals: Arc<[Portal]>,
    pub(super) created: Created,
    pub(super) cost: Cost,
    pub(super) refused: Refusals,
    /// Whether its cluster addresses hold a portal that no relay can take.
    pub(super) is_special: bool,
}

impl Held {
    fn is_nothing(&self) -> bool {
        self.portals.is_empty() && self.refused.is_empty()
    }

    /// What is held of portals in the order of their ranks.
    fn of(mut portals: Vec<Portal>, refused: Refusals, maker: &Maker<'_>, ranges: &[IpNet]) -> Self {
        let (created, is_special) = (maker.created(), maker.is_special());
        let mut cost = Cost::default();
        let mut meter = Meter::new(ranges, is_special);
        portals.iter().for_each(|portal| cost += meter.cost(portal));
        portals.sort_unstable_by_key(|portal| portal.key);
        Self { portals: portals.into(), created, cost, refused, is_special }
    }
}

/// What a namespace has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Allotment {
    /// What its portals cost.
    pub(super) cost: Cost,
    /// Whether it has less than its services ask for.
    pub(super) is_cut: bool,
    /// In a full table, and in one on demand before anything is used: the first that is not there.
    pub(super) cuts: [Option<Rank>; 2],
}

impl Portals {
    /// Follows the services of one namespace that changed.
    pub(super) fn follow_namespace(
        &mut self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        changed: &[&ServiceKey],
        touched: Option<&mut ChangedPortals>,
    ) {
        let Some(first) = changed.first() else { return };
        let namespace = &first.namespace;
        let allotment = self.namespaces.get(namespace).cloned().unwrap_or_default();
        let most = node_context.limits.namespace_elements;
        let quick = if allotment.is_cut {
            None
        } else {
            self.all_of(snapshot, node_context, changed, allotment.cost.full)
        };
        let (new, is_cut) = match quick {
            Some(new) => (new, false),
            None => self.first_of(snapshot, node_context, namespace, most),
        };
        let mut cost = allotment.cost;
        let mut differing = ChangedPortals::new();
        for (key, held) in new {
            let old = self.by_service.get(&key).cloned().unwrap_or_default();
            if old == held {
                continue;
            }
            cost -= old.cost;
            cost += held.cost;
            if touched.is_some() && old.created == held.created {
                differences(&old.portals, &held.portals, &mut differing);
            } else if touched.is_some() {
                // Its claims rank differently now, so the winner may differ even if its portals are the same.
                differing.extend(old.portals.iter().chain(held.portals.iter()).map(|portal| portal.key));
            }
            self.replace(&key, &old, held);
        }
        if let Some(touched) = touched {
            touched.append(&mut differing);
        }
        if (cost, is_cut) == (allotment.cost, allotment.is_cut) {
            return;
        }
        self.total -= allotment.cost;
        self.total += cost;
        if cost == Cost::default() && !is_cut {
            self.namespaces.remove_mut(namespace);
        } else {
            self.namespaces.insert_mut(namespace.clone(), Allotment { cost, is_cut, ..allotment });
        }
    }

    /// All that the changed services ask for, if it fits with what else the namespace has.
    fn all_of(
        &self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        changed: &[&ServiceKey],
        mut cost: usize,
    ) -> Option<Vec<(ServiceKey, Held)>> {
        let mut new = Vec::with_capacity(changed.len());
        for key in changed {
            let old = self.by_service.get(*key);
            let held = snapshot.service(key).map_or_else(Held::default, |service| {
                let mut maker = Maker::new(snapshot, service, node_context);
                let (portals, refused) = maker.up_to(PortalKind::NodePort);
                Held::of(portals, refused, &maker, &self.service_ranges)
            });
            cost = cost - old.map_or(0, |old| old.cost.full) + held.cost.full;
            // Others may make room yet; but what is at hand must not grow without a bound either.
            if cost > node_context.limits.namespace_elements {
                return None;
            }
            new.push(((*key).clone(), held));
        }
        Some(new)
    }

    /// As much as fits of what all services of a namespace ask for, in the order of ranks, and whether that is less.
    pub(super) fn first_of(
        &self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        namespace: &Arc<str>,
        most: usize,
    ) -> (Vec<(ServiceKey, Held)>, bool) {
        let mut services: Vec<&Arc<Service>> = snapshot.services_in(namespace).collect();
        services.sort_by_key(|service| service.created);
        let makers = services.iter().map(|service| {
            let maker = Maker::new(snapshot, service, node_context);
            let meter = Meter::new(&self.service_ranges, maker.is_special());
            (*service, maker, meter, Vec::new())
        });
        let mut makers: Vec<_> = makers.collect();
        let mut used = 0;
        let mut is_cut = false;
        'all: for kind in PortalKind::ALL {
            for (_, maker, meter, taken) in &mut makers {
                for portal in maker.of_kind(kind) {
                    used += meter.cost(&portal).full;
                    is_cut = used > most;
                    if is_cut {
                        break 'all;
                    }
                    taken.push(portal);
                }
            }
        }
        // What is gone is named, too.
        let from = ServiceKey::new(namespace.clone(), "");
        let known = self.by_service.range(from..).take_while(|(key, _)| key.namespace == *namespace);
        let mut new: BTreeMap<ServiceKey, Held> =
            known.map(|(key, _)| (key.clone(), Held::default())).collect();
        for (service, maker, _, taken) in makers {
            let (count, mut refused) = maker.asked(!is_cut);
            refused.add(RefusalReason::NamespaceElements, count.saturating_sub(taken.len()));
            new.insert(service.key.clone(), Held::of(taken, refused, &maker, &self.service_ranges));
        }
        (new.into_iter().collect(), is_cut)
    }

    fn replace(&mut self, key: &ServiceKey, old: &Held, new: Held) {
        let claim = |portal: &Portal, created| (portal.key, portal.kind, created, key.clone());
        for portal in old.portals.iter() {
            self.claims.remove_mut(&claim(portal, old.created));
        }
        for (place, portal) in new.portals.iter().enumerate() {
            self.claims.insert_mut(claim(portal, new.created), place);
        }
        if new.is_nothing() {
            self.by_service.remove_mut(key);
        } else {
            self.by_service.insert_mut(key.clone(), new);
        }
    }
}

/// The keys at which two lists differ, which are sorted by them.
fn differences(old: &[Portal], new: &[Portal], found: &mut ChangedPortals) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let (before, after) = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(one), Some(other)) if one.key == other.key => (old.next(), new.next()),
            (Some(one), Some(other)) if one.key < other.key => (old.next(), None),
            (Some(_), None) => (old.next(), None),
            _ => (None, new.next()),
        };
        if before != after {
            found.extend(before.or(after).map(|portal| portal.key));
        }
    }
}
