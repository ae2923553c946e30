//! The selection of pods that the DNS server answers, and of their nameservers.

use std::net::IpAddr;
use std::sync::Arc;

use agent_ipc::{Attachment, PodDns};
use dns::{Client, Name, SearchList, ZoneConfig};
use netns_nft::NetnsId;
use proxy_core::portal::ServiceFilter;
use proxy_core::snapshot::Snapshot;

use crate::report::DnsUnservedReason;

/// The settings of DNS in pods.
#[derive(Debug, Clone)]
pub(crate) struct DnsSettings {
    pub(crate) zone: ZoneConfig,
    /// Domains that are appended to the kubelet's search list if the runtime does not pass a pod's configuration.
    pub(crate) search: Vec<Name>,
}

/// How the DNS server answers a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DnsTarget {
    pub(crate) client: Arc<Client>,
    /// The nameservers of the pod that lead to the server.
    pub(crate) servers: Vec<IpAddr>,
}

impl DnsSettings {
    /// Selects how the server answers a pod with these attachments, which share a network namespace.
    pub(crate) fn select<'a>(
        &self,
        netns: NetnsId,
        attachments: impl Iterator<Item = &'a Attachment> + Clone,
        view: &ServiceFilter,
        cluster_addresses: &[IpAddr],
        snapshot: &Snapshot,
    ) -> Result<DnsTarget, DnsUnservedReason> {
        let namespace = attachments.clone().find_map(|attachment| attachment.pod.as_ref());
        let namespace: Arc<str> = namespace.map_or("", |pod| pod.namespace.as_str()).into();
        // An invalid value prevents the start of a pod, so a running pod has none.
        let own_choice =
            attachments.clone().find_map(|attachment| attachment.dns_annotation().ok().flatten());
        let of_namespace = || !snapshot.namespace(&namespace).is_some_and(|namespace| namespace.is_dns_off);
        if !own_choice.unwrap_or_else(of_namespace) {
            return Err(DnsUnservedReason::Annotation);
        }
        let mut attachments = attachments;
        let configured = attachments.find_map(|attachment| attachment.dns.as_ref());
        let own = PodDns { servers: cluster_addresses.to_vec(), ..self.default_dns(&namespace) };
        let dns = configured.filter(|dns| !dns.servers.is_empty()).unwrap_or(&own);
        let servers: Vec<IpAddr> =
            cluster_addresses.iter().copied().filter(|address| dns.servers.contains(address)).collect();
        if servers.is_empty() {
            return Err(DnsUnservedReason::Nameservers);
        }
        let search = SearchList::new(&dns.searches, &dns.options);
        let client = Client { id: netns.cookie, namespace, view: view.clone(), search };
        Ok(DnsTarget { client: Arc::new(client), servers })
    }

    /// The configuration that the kubelet writes for a pod with dnsPolicy ClusterFirst.
    fn default_dns(&self, namespace: &str) -> PodDns {
        let domain = &self.zone.domain;
        let cluster = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_string()];
        let others = self.search.iter().map(Name::to_string);
        PodDns {
            servers: Vec::new(),
            searches: cluster.into_iter().chain(others).collect(),
            options: vec!["ndots:5".to_owned()],
        }
    }
}
