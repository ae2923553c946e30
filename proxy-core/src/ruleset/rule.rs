//! `Rule`: what the table holds for one portal.
//!
//! Backends have slots, which depend on history: one that stays keeps its slot. Where clients are sticky each backend
//! has a number besides, which is its own. What must not go in here: which portals a table holds.

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

/// What the table holds for one portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What happens.
    pub dispatch: DispatchKey,
    /// The backends, slot by slot; empty unless connections are forwarded.
    pub backends: Arc<[SocketAddr]>,
    /// The number of each backend; empty unless clients are sticky.
    pub ids: Arc<[u32]>,
    /// Who may use it; empty unless the pick is guarded.
    pub sources: Arc<[IpNet]>,
    /// Whether the portal's address is a cluster address.
    pub is_cluster_ip: bool,
}

/// As how many elements a chain counts: those that everybody shares as none.
pub(super) fn chain_size(dispatch: DispatchKey) -> usize {
    match dispatch.action {
        Action::RoundRobin { .. } => ROUND_ROBIN_CHAIN_ELEMENTS,
        Action::Forward { affinity_s, .. } if affinity_s != 0 && affinity_s != AFFINITY_S_DEFAULT => {
            STICKY_CHAIN_ELEMENTS
        }
        _ => 0,
    }
}

/// What leads to the relay, whoever may use the portal: the relay knows that, too.
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

    /// The elements of this rule's portal; that of its address is not among them.
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
        ids: if is_sticky { ids(&backends, old).into() } else { Arc::default() },
        backends,
        sources: portal.sources.clone().unwrap_or_default(),
        is_cluster_ip: portal.kind == PortalKind::ClusterIp,
    }
}

/// The number of each backend: the one it has, or the first that is free within the portal from where its
/// digest points. Numbers do not depend on history unless two digests are the same.
pub(super) fn ids(backends: &[SocketAddr], old: Option<&Rule>) -> Vec<u32> {
    let old = old.into_iter().flat_map(|old| old.backends.iter().zip(old.ids.iter()));
    let known: BTreeMap<&SocketAddr, u32> = old.map(|(backend, id)| (backend, *id)).collect();
    let mut taken: BTreeSet<u32> =
        backends.iter().filter_map(|backend| known.get(backend)).copied().collect();
    let free_id = |backend: &SocketAddr, taken: &mut BTreeSet<u32>| {
        let mut id = id(backend);
        while !taken.insert(id) {
            id = id.wrapping_add(1);
        }
        id
    };
    backends
        .iter()
        .map(|backend| known.get(backend).copied().unwrap_or_else(|| free_id(backend, &mut taken)))
        .collect()
}

/// Where the number of a backend is looked for first.
pub(super) fn id(backend: &SocketAddr) -> u32 {
    let [high, low] = [digest(backend) >> 32, digest(backend) & u64::from(u32::MAX)];
    u32::try_from(high ^ low).unwrap_or_default()
}

/// Puts the wanted backends into slots, starting from those that are there: a backend that stays keeps
/// its slot, a new one takes the slot of one that goes, and where there are fewer the last ones fill the
/// gaps.
pub(super) fn slots(old: &[SocketAddr], wanted: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut waiting: BTreeSet<SocketAddr> = wanted.iter().copied().collect();
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
