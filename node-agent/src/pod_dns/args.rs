//! The flags of DNS in pods. The doc comment of a flag is its help text.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use dns::{Name, Rate, ResolverOptions, Upstreams, ZoneConfig};
use proxy_core::service::ServiceKey;

use crate::pod_dns::DnsSettings;

/// The port of DNS.
const DNS_PORT: u16 = 53;
/// The maximum TTL of answers, in seconds.
const TTL_MAX: u32 = 30;
/// The maximum number of queries to upstreams in progress, each with a socket.
const IN_FLIGHT_MAX: usize = 4_000;
/// The descriptors that DNS needs at most: for queries to upstreams, TCP connections of clients, and sockets of pods.
pub(crate) const DESCRIPTORS: usize = 2 * IN_FLIGHT_MAX;

/// Flags of DNS in pods.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "DNS in pods")]
pub(crate) struct DnsArgs {
    /// Answer the queries of pods to the cluster's DNS addresses inside each pod's network namespace.
    #[arg(long)]
    pub(crate) dns: bool,
    /// Service of the cluster's DNS servers. Queries to its cluster IPs are answered, and its endpoints are the
    /// upstreams.
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/kube-dns", value_parser = service_key)]
    pub(crate) dns_service: ServiceKey,
    /// Address of the cluster's DNS, such as 169.254.20.10, instead of the cluster IPs of --dns-service. Repeatable.
    #[arg(long = "dns-address", value_name = "ADDRESS")]
    pub(crate) dns_addresses: Vec<IpAddr>,
    /// Domain of the cluster.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = domain)]
    pub(crate) cluster_domain: Name,
    /// Domain that is appended to the kubelet's search list if the runtime does not pass a pod's DNS configuration.
    /// Repeatable.
    #[arg(long = "dns-search", value_name = "DOMAIN", value_parser = domain)]
    pub(crate) dns_search: Vec<Name>,
    /// TTL of answers for names of the cluster, in seconds (0 to 30).
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=i64::from(TTL_MAX)))]
    pub(crate) dns_ttl: u32,
    /// Answer names such as 10-1-0-9.shop.pod.cluster.local with the address in the name.
    #[arg(long)]
    pub(crate) dns_pod_records: bool,
    /// Forward names in the cluster's domain that do not exist to the upstreams.
    #[arg(long)]
    pub(crate) dns_fallthrough: bool,
    /// Do not answer the first name of a search list with the name that the search would find.
    #[arg(long)]
    pub(crate) no_dns_search_collapse: bool,
    /// Upstream for other names, asked from the node, with one cache for all pods (default: the endpoints of
    /// --dns-service, asked from each pod's network namespace). Repeatable.
    #[arg(long = "dns-upstream", value_name = "ADDRESS[:PORT]", value_parser = upstream)]
    pub(crate) dns_upstreams: Vec<SocketAddr>,
    /// Upstreams for the names in a zone, asked from the node: corp.example=10.0.0.53,10.0.1.53. Repeatable.
    #[arg(long = "dns-stub", value_name = "ZONE=ADDRESS[:PORT],...", value_parser = stub, requires = "dns_upstreams")]
    pub(crate) dns_stubs: Vec<(Name, Vec<SocketAddr>)>,
    /// Maximum size of the cache of upstream answers, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=4_096))]
    pub(crate) dns_cache: u32,
    /// Queries to upstreams that each pod can cause per second on average, and twice as many at once. Beyond it, the answer
    /// is SERVFAIL. Names of the cluster do not count.
    #[arg(long, value_name = "NUMBER", default_value_t = ResolverOptions::default().client_rate.per_second)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) dns_upstream_rate: u32,
    /// Answer queries although Cilium runs on the node. Its DNS proxy no longer sees them, so policies with toFQDNs do not
    /// work.
    #[arg(long)]
    pub(crate) dns_with_cilium: bool,
    /// Number of DNS threads (0: one per CPU, at most 2).
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) dns_threads: usize,
}

impl DnsArgs {
    /// The settings, if DNS is enabled.
    pub(crate) fn settings(&self) -> Option<DnsSettings> {
        self.dns.then(|| DnsSettings {
            zone: ZoneConfig {
                domain: self.cluster_domain.clone(),
                ttl_s: self.dns_ttl,
                has_pod_records: self.dns_pod_records,
                has_fallthrough: self.dns_fallthrough,
                dns_service: self.dns_service.clone(),
                dns_addresses: self.dns_addresses.clone(),
                ..ZoneConfig::default()
            },
            search: self.dns_search.clone(),
        })
    }

    /// The options of the resolver.
    pub(crate) fn resolver_options(&self) -> ResolverOptions {
        let upstreams = if self.dns_upstreams.is_empty() {
            Upstreams::Cluster
        } else {
            Upstreams::Node { upstreams: self.dns_upstreams.clone(), stubs: self.dns_stubs.clone() }
        };
        let per_second = self.dns_upstream_rate;
        ResolverOptions {
            upstreams,
            is_search_collapsed: !self.no_dns_search_collapse,
            cache_bytes_max: (self.dns_cache as usize * (1 << 20)) / self.threads(),
            in_flight_max: IN_FLIGHT_MAX / self.threads(),
            client_rate: Rate { per_second, burst: per_second.saturating_mul(2) },
            ..ResolverOptions::default()
        }
    }

    /// The number of threads.
    pub(crate) fn threads(&self) -> usize {
        const THREADS_MAX: usize = 2;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        if self.dns_threads == 0 { processors.min(THREADS_MAX) } else { self.dns_threads }
    }
}

fn service_key(text: &str) -> Result<ServiceKey, String> {
    let (namespace, name) = text.split_once('/').ok_or("must be NAMESPACE/NAME")?;
    Ok(ServiceKey::new(namespace, name))
}

fn domain(text: &str) -> Result<Name, &'static str> {
    Name::parse(text).filter(|name| *name != Name::ROOT).ok_or("must be a domain name")
}

fn upstream(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    address.or_else(|_| text.parse()).map_err(|_| "must be an address, with or without a port".to_owned())
}

fn stub(text: &str) -> Result<(Name, Vec<SocketAddr>), String> {
    let (zone, servers) = text.split_once('=').ok_or("must be ZONE=ADDRESS[:PORT],...")?;
    Ok((domain(zone)?, servers.split(',').map(upstream).collect::<Result<_, _>>()?))
}

/// The time that pending queries have at the end: the resolver answers each one within it.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_without_a_port_has_port_53() {
        assert_eq!(upstream("10.0.0.1"), Ok(SocketAddr::from(([10, 0, 0, 1], 53))));
        assert_eq!(upstream("10.0.0.1:5353"), Ok(SocketAddr::from(([10, 0, 0, 1], 5353))));
        assert_eq!(upstream("fd00::1").map(|address| address.port()), Ok(53));
        assert!(upstream("dns.example").is_err());
    }

    #[test]
    fn stub_has_a_zone_and_at_least_one_upstream() {
        let (zone, upstreams) = stub("Corp.Example.=10.0.0.1,10.0.0.2:54").expect("a stub");
        assert_eq!((Some(zone), upstreams.len()), (Name::parse("corp.example"), 2));
        assert!(
            stub("corp.example").is_err() && stub("corp.example=").is_err() && stub("=10.0.0.1").is_err()
        );
    }
}
