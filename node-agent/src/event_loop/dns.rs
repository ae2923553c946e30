//! The effects that concern DNS in pods.

use std::sync::Arc;

use dns::Zone;
use netns_nft::NetnsId;

use super::EventLoop;
use crate::pod_dns::{DnsControl, DnsTarget};

impl EventLoop {
    /// Executes changes of DNS in pods with this control from now on.
    pub(crate) fn set_dns(&mut self, dns: DnsControl) {
        self.dns = Some(dns);
    }

    pub(super) fn set_zone(&self, zone: &Zone) {
        if let Some(dns) = &self.dns {
            dns.server().set_zone(zone);
        }
    }

    pub(super) fn serve_dns(&self, netns: NetnsId, target: DnsTarget) {
        if let (Some(dns), Some(worker)) = (&self.dns, self.workers.get(&netns)) {
            dns.serve(Arc::clone(worker), target);
        }
    }

    pub(super) fn stop_dns(&self, netns: NetnsId) {
        if let Some(dns) = &self.dns {
            dns.stop(netns);
        }
    }

    /// Renews the redirects of pods, since the previous agent no longer does.
    pub(super) fn take_dns_ownership(&self) {
        if let Some(dns) = &self.dns {
            dns.server().take_ownership();
        }
    }
}
