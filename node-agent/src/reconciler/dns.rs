//! DNS in pods: keeps the DNS server up to date with attachments, services and namespaces.

use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use netns_nft::{NetnsId, ranges_of_others};
use proxy_core::snapshot::ChangedServices;

use super::Reconciler;
use crate::event::{Effect, LogEvent};

impl Reconciler {
    /// Updates the names of the cluster, of all services without `changed`, and the selection of pods if it can have
    /// changed.
    pub(super) fn publish_names(&mut self, changed: Option<&ChangedServices>, has_new_namespaces: bool) {
        let Some(dns) = &mut self.dns else { return };
        let (effect, has_new_addresses) = dns.refresh(self.catalog.snapshot(), self.catalog.node(), changed);
        self.effects.push(effect);
        if has_new_addresses {
            self.fleet.iter_mut().for_each(|(_, namespace)| namespace.request_routes());
        }
        if has_new_addresses || has_new_namespaces {
            let namespaces: Vec<NetnsId> = self.fleet.iter().map(|(netns, _)| netns).collect();
            namespaces.into_iter().for_each(|netns| self.select_dns(netns));
        }
    }

    /// Selects how the DNS server answers a pod. Before the initial sync it answers none.
    pub(super) fn select_dns(&mut self, netns: NetnsId) {
        let (Some(dns), true) = (&mut self.dns, self.catalog.is_synced()) else { return };
        let Some(namespace) = self.fleet.get(netns) else { return };
        let attachments = namespace.pods.values().map(|pod| &pod.attachment);
        self.effects.extend(dns.select(netns, attachments, &namespace.filter, self.catalog.snapshot()));
    }

    /// Records that the DNS server cannot serve a pod.
    pub(super) fn on_dns_failed(&mut self, netns: NetnsId, error: String, now: Instant) {
        if self.dns.as_mut().is_some_and(|dns| dns.fail(netns, error.clone(), now)) {
            self.log(LogEvent::DnsFailed { netns, error });
        }
    }

    /// Records whether a service mesh redirects DNS in a pod: the mesh answers it then.
    pub(super) fn on_mesh(&mut self, netns: NetnsId, is_present: bool) {
        if self.dns.as_mut().is_some_and(|dns| dns.set_mesh(netns, is_present)) {
            self.select_dns(netns);
        }
    }

    /// Tries again to serve pods.
    pub(super) fn retry_dns(&mut self, now: Instant) {
        let due = self.dns.as_ref().map(|dns| dns.retries(now)).unwrap_or_default();
        due.into_iter().for_each(|netns| self.select_dns(netns));
    }

    /// Closes a network namespace.
    pub(super) fn close_netns(&mut self, netns: NetnsId) {
        if let Some(dns) = &mut self.dns {
            dns.remove(netns);
        }
        self.effects.push(Effect::CloseNetns(netns));
    }

    /// The destinations to which pods need a route: the service ranges, and DNS addresses outside of them.
    pub(super) fn route_destinations(&self) -> Arc<[IpNet]> {
        let ranges = self.catalog.ranges();
        let addresses = self.dns.as_ref().map(|dns| dns.addresses()).unwrap_or_default();
        let outside = ranges_of_others(addresses, ranges);
        if outside.is_empty() {
            return Arc::clone(ranges);
        }
        ranges.iter().copied().chain(outside).collect()
    }
}
