//! `Rule`: the part of a table that belongs to one portal.
//!
//! Backends have slots, which depend on history: a remaining backend keeps its slot. With session affinity, each
//! backend also has an id of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Element;
use crate::model::digest::digest;
use crate::model::service::AFFINITY_S_DEFAULT;
use crate::routing::portal::{
    Portal, PortalKey, PortalKind, ROUND_ROBIN_CHAIN_ELEMENTS, STICKY_CHAIN_ELEMENTS,
};
use crate::ruleset::dispatch::{Action, DispatchKey};

/// The rule of one portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The dispatch key, which is the verdict.
    pub dispatch: DispatchKey,
    /// The backends by slot; empty unless connections are forwarded.
    pub backends: Arc<[SocketAddr]>,
    /// The id of each backend; empty without session affinity.
    pub ids: Arc<[u32]>,
    /// The source ranges with access; empty unless `dispatch.guarded`.
    pub sources: Arc<[IpNet]>,
    /// Whether the portal's address is a cluster address.
    pub is_cluster_ip: bool,
}

/// Returns the cost of a chain, in elements; chains that many portals share cost nothing.
pub(super) fn chain_size(dispatch: DispatchKey) -> usize {
    match dispatch.action {
        Action::RoundRobin { .. } => ROUND_ROBIN_CHAIN_ELEMENTS,
        Action::Forward { affinity_s, .. } if affinity_s != 0 && affinity_s != AFFINITY_S_DEFAULT => {
            STICKY_CHAIN_ELEMENTS
        }
        _ => 0,
    }
}

/// Returns the rule that redirects to the relay. The relay does not need source ranges: portals with them are never
/// relayed on demand.
pub(super) fn relayed(portal: &Portal) -> Rule {
    let (backends, ids, sources) = Default::default();
    let is_cluster_ip = portal.kind == PortalKind::ClusterIp;
    Rule {
        dispatch: DispatchKey { action: Action::Relay, guarded: false },
        backends,
        ids,
        sources,
        is_cluster_ip,
    }
}

impl Rule {
    pub(super) fn size(&self) -> usize {
        1 + self.backends.len() + self.ids.len() + self.sources.len()
    }

    /// Returns the elements of the portal, without that of its address.
    pub fn elements(&self, key: PortalKey) -> impl Iterator<Item = Element> {
        let portal = std::iter::once(Element::Portal(key, self.dispatch));
        portal.chain(self.backend_elements(key)).chain(self.id_elements(key)).chain(self.source_elements(key))
    }

    pub(super) fn backend_elements(&self, key: PortalKey) -> impl Iterator<Item = Element> {
        let number = |slot: usize| self.ids.get(slot).copied().or_else(|| u32::try_from(slot).ok());
        let numbers = (0..).map_while(number);
        numbers
            .zip(self.backends.iter())
            .map(move |(number, backend)| Element::Backend(key, number, *backend))
    }

    pub(super) fn id_elements(&self, key: PortalKey) -> impl Iterator<Item = Element> {
        (0_u16..).zip(self.ids.iter()).map(move |(slot, id)| Element::Id(key, slot, *id))
    }

    pub(super) fn source_elements(&self, key: PortalKey) -> impl Iterator<Item = Element> {
        self.sources.iter().map(move |net| Element::Source(key, *net))
    }
}

pub(super) fn rule(portal: &Portal, old: Option<&Rule>, action: Action) -> Rule {
    let forwards = matches!(action, Action::Forward { .. } | Action::RoundRobin { .. });
    let backends = match old {
        _ if !forwards => Arc::default(),
        Some(old) if !old.backends.is_empty() => slots(&old.backends, &portal.backends).into(),
        _ => portal.backends.clone(),
    };
    let is_sticky = matches!(action, Action::Forward { affinity_s: 1.., .. });
    Rule {
        dispatch: DispatchKey { action, guarded: portal.sources.is_some() },
        ids: if is_sticky { ids(&backends, known_ids(old)).into() } else { Arc::default() },
        backends,
        sources: portal.sources.clone().unwrap_or_default(),
        is_cluster_ip: portal.kind == PortalKind::ClusterIp,
    }
}

/// Returns the id of each backend: its present one, or the first free one of the portal after the backend's digest. Ids
/// do not depend on history unless two digests are equal.
pub(super) fn ids<'a>(
    backends: &[SocketAddr],
    known: impl Iterator<Item = (&'a SocketAddr, &'a u32)>,
) -> Vec<u32> {
    let known: BTreeMap<&SocketAddr, u32> = known.map(|(backend, id)| (backend, *id)).collect();
    let mut used: BTreeSet<u32> = backends.iter().filter_map(|backend| known.get(backend)).copied().collect();
    let free_id = |backend: &SocketAddr, used: &mut BTreeSet<u32>| {
        let mut id = id(backend);
        while !used.insert(id) {
            id = id.wrapping_add(1);
        }
        id
    };
    backends
        .iter()
        .map(|backend| known.get(backend).copied().unwrap_or_else(|| free_id(backend, &mut used)))
        .collect()
}

pub(super) fn known_ids(old: Option<&Rule>) -> impl Iterator<Item = (&SocketAddr, &u32)> {
    old.into_iter().flat_map(|old| old.backends.iter().zip(old.ids.iter()))
}

/// Returns the preferred id of a backend.
pub(super) fn id(backend: &SocketAddr) -> u32 {
    let [a, b, c, d, e, f, g, h] = digest(backend).to_be_bytes();
    u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes([e, f, g, h])
}

/// Assigns slots to the desired backends: a remaining backend keeps its slot, and a new one takes the slot of a removed
/// one. If there are fewer backends than before, the last ones fill the gaps.
pub(super) fn slots(old: &[SocketAddr], desired: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut waiting: BTreeSet<SocketAddr> = desired.iter().copied().collect();
    let mut slots: Vec<Option<SocketAddr>> =
        old.iter().map(|backend| waiting.remove(backend).then_some(*backend)).collect();
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        *slot = waiting.pop_first();
    }
    slots.extend(waiting.into_iter().map(Some));
    let mut next = 0;
    while next < slots.len() {
        if slots[next].is_some() {
            next += 1;
        } else {
            slots.swap_remove(next);
        }
    }
    slots.into_iter().flatten().collect()
}
