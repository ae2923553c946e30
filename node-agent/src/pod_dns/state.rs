//! `DnsState`: which pods the DNS server answers now, and the names of the cluster. Pure; a part of the reconciler.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use agent_ipc::Attachment;
use dns::{Zone, ZoneConfig};
use netns_nft::NetnsId;
use proxy_core::node::Node;
use proxy_core::portal::ServiceFilter;
use proxy_core::snapshot::{ChangedServices, Snapshot};

use crate::event::Effect;
use crate::pod_dns::{DnsSettings, DnsTarget};
use crate::report::{DnsFailedPod, DnsStatus, DnsUnservedPod, DnsUnservedReason};

/// The delay before a pod that could not be served is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// What was requested from the server for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requested {
    Serve(DnsTarget),
    /// Serving the pod failed.
    Retry {
        at: Instant,
        error: String,
    },
    Unserved(DnsUnservedReason),
}

/// The state of DNS in pods.
#[derive(Debug)]
pub(crate) struct DnsState {
    settings: DnsSettings,
    zone: Zone,
    /// The addresses of the cluster's DNS.
    addresses: Vec<IpAddr>,
    pods: BTreeMap<NetnsId, Requested>,
    /// Network namespaces in which a service mesh redirects DNS.
    meshes: BTreeSet<NetnsId>,
}

impl DnsState {
    /// The state before the initial sync.
    pub(crate) fn new(settings: DnsSettings) -> Self {
        Self {
            zone: Zone::new(settings.zone.clone()),
            settings,
            addresses: Vec::new(),
            pods: BTreeMap::new(),
            meshes: BTreeSet::new(),
        }
    }

    /// Updates the names after a change; without `changed`, everything can have changed. Returns the effect, and whether
    /// the selection of pods can have changed.
    pub(crate) fn refresh(
        &mut self,
        snapshot: &Snapshot,
        node: &Node,
        changed: Option<&ChangedServices>,
    ) -> (Effect, bool) {
        if changed.is_none() {
            self.zone = Zone::new(ZoneConfig {
                node: node.name.clone(),
                node_zone: node.zone.clone(),
                ..self.settings.zone.clone()
            });
        }
        self.zone.refresh(snapshot, changed);
        let addresses = self.zone.dns_addresses();
        let is_changed = std::mem::replace(&mut self.addresses, addresses) != self.addresses;
        (Effect::SetZone(Box::new(self.zone.clone())), is_changed || changed.is_none())
    }

    /// Selects how the server answers a pod, and returns the effect if that differs from before.
    pub(crate) fn select<'a>(
        &mut self,
        netns: NetnsId,
        attachments: impl Iterator<Item = &'a Attachment> + Clone,
        view: &ServiceFilter,
        snapshot: &Snapshot,
    ) -> Option<Effect> {
        let selected = if self.meshes.contains(&netns) {
            Err(DnsUnservedReason::Mesh)
        } else {
            self.settings.select(netns, attachments, view, &self.addresses, snapshot)
        };
        let requested = match selected {
            Ok(target) => Requested::Serve(target),
            Err(reason) => Requested::Unserved(reason),
        };
        if self.pods.get(&netns) == Some(&requested) {
            return None;
        }
        let previous = self.pods.insert(netns, requested.clone());
        match requested {
            Requested::Serve(target) => Some(Effect::ServeDns(netns, target)),
            Requested::Unserved(_) if matches!(previous, Some(Requested::Serve(_))) => {
                Some(Effect::StopDns(netns))
            }
            Requested::Unserved(_) | Requested::Retry { .. } => None,
        }
    }

    /// Forgets a network namespace that was closed.
    pub(crate) fn remove(&mut self, netns: NetnsId) {
        self.pods.remove(&netns);
        self.meshes.remove(&netns);
    }

    /// Records that the server cannot serve a pod. Returns whether the error is a new one.
    pub(crate) fn fail(&mut self, netns: NetnsId, error: String, now: Instant) -> bool {
        let Some(requested) = self.pods.get_mut(&netns) else { return false };
        let is_known = matches!(&*requested, Requested::Retry { error: known, .. } if *known == error);
        *requested = Requested::Retry { at: now + RETRY_DELAY, error };
        !is_known
    }

    /// Records whether a service mesh redirects DNS in a pod. Returns whether that changed.
    pub(crate) fn set_mesh(&mut self, netns: NetnsId, is_present: bool) -> bool {
        if is_present { self.meshes.insert(netns) } else { self.meshes.remove(&netns) }
    }

    /// The pods to try again now.
    pub(crate) fn retries(&self, now: Instant) -> Vec<NetnsId> {
        let is_due = |requested: &Requested| matches!(requested, Requested::Retry { at, .. } if *at <= now);
        self.pods.iter().filter(|(_, requested)| is_due(requested)).map(|(netns, _)| *netns).collect()
    }

    /// The next time at which a pod is tried again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let at = |requested: &Requested| match requested {
            Requested::Retry { at, .. } => Some(*at),
            Requested::Serve(_) | Requested::Unserved(_) => None,
        };
        self.pods.values().filter_map(at).min()
    }

    /// The pods that the server does not answer. The state of the others is in the report of the server.
    pub(crate) fn status(&self) -> DnsStatus {
        let mut status = DnsStatus::default();
        for (netns, requested) in &self.pods {
            let netns_inode = netns.inode;
            match requested {
                Requested::Serve(_) => {}
                Requested::Retry { error, .. } => {
                    status.failed.push(DnsFailedPod { netns_inode, error: error.clone() });
                }
                Requested::Unserved(reason) => {
                    status.unserved.push(DnsUnservedPod { netns_inode, reason: *reason });
                }
            }
        }
        status
    }

    /// The addresses of the cluster's DNS, to which pods need a route.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

#[cfg(test)]
mod tests;
