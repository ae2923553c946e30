//! A straightforward resolver: it lists all records of a small cluster, and searches the list.
//!
//! It shares no code with the zone: names are texts, there is no index, and nothing is kept between questions.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dns::{Client, ZoneConfig};
use ipnet::IpNet;
use proxy_core::dns::DnsEndpoints;
use proxy_core::endpoint::{Endpoint, EndpointPort, EndpointSlice};
use proxy_core::service::{ClusterIps, Service};

const DOMAIN: &str = "cluster.local.";

/// The objects of a cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) services: Vec<Service>,
    pub(crate) slices: Vec<EndpointSlice>,
    pub(crate) ranges: Vec<IpNet>,
}

/// What a resolver must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A response code, and `OWNER TYPE DATA` in order.
    Answer(&'static str, Vec<String>),
    /// An upstream is asked.
    Upstream,
    /// An upstream is asked for the target of an alias.
    External(String),
}

/// All names of a cluster, as a client sees them.
#[derive(Default)]
pub(crate) struct Names {
    /// Owner, type, data.
    records: Vec<(String, &'static str, String)>,
    /// Names that exist; those with records are among them.
    existing: BTreeSet<String>,
    /// Names that must not be forwarded, whether or not they exist.
    hidden: Vec<String>,
}

impl Names {
    fn add(&mut self, owner: &str, record_type: &'static str, data: &str) {
        self.existing.insert(owner.to_owned());
        let record = (owner.to_owned(), record_type, data.to_owned());
        if !self.records.contains(&record) {
            self.records.push(record);
        }
    }

    /// Returns the owner of one of the records.
    pub(crate) fn owner(&self, number: usize) -> &str {
        &self.records[number % self.records.len()].0
    }

    fn add_address(&mut self, owner: &str, address: IpAddr) {
        self.add(owner, if address.is_ipv4() { "A" } else { "AAAA" }, &address.to_string());
    }
}

impl Cluster {
    /// Returns all names.
    pub(crate) fn names(&self, config: &ZoneConfig, client: &Client) -> Names {
        let mut names = Names::default();
        names.add(&format!("dns-version.{DOMAIN}"), "TXT", "1.1.0");
        names.add(DOMAIN, "NS", &format!("ns.dns.{DOMAIN}"));
        names.add(DOMAIN, "SOA", "");
        for name in ["svc", "pod", "dns", "ns.dns"] {
            names.existing.insert(format!("{name}.{DOMAIN}"));
        }
        for service in &self.services {
            if service.key == config.dns_service {
                service.cluster_ips.iter().for_each(|ip| names.add_address(&format!("ns.dns.{DOMAIN}"), ip));
            }
        }
        for namespace in self.all_namespaces() {
            names.existing.insert(format!("{namespace}.svc.{DOMAIN}"));
            if config.has_pod_records {
                names.existing.insert(format!("{namespace}.pod.{DOMAIN}"));
            }
        }
        for service in &self.services {
            if client.view.includes(&service.key) {
                self.add_service(&mut names, config, service);
            } else {
                names.hidden.push(full_name(service));
            }
        }
        self.add_reverse(&mut names, client);
        names
    }

    fn all_namespaces(&self) -> BTreeSet<String> {
        let used = self.services.iter().map(|service| service.key.namespace.to_string());
        self.namespaces.iter().cloned().chain(used).collect()
    }

    /// The ready endpoints of a service.
    fn ready(&self, service: &Service) -> Vec<(&[EndpointPort], &Endpoint)> {
        let own = self.slices.iter().filter(|slice| slice.service == service.key);
        let all = own.flat_map(|slice| slice.endpoints.iter().map(|e| (slice.ports.as_slice(), e)));
        all.filter(|(_, endpoint)| endpoint.conditions.ready).collect()
    }

    fn add_service(&self, names: &mut Names, config: &ZoneConfig, service: &Service) {
        let name = full_name(service);
        if let Some(target) = &service.external_name {
            if target.parse::<IpAddr>().is_err() && dns::Name::parse(target).is_some() {
                names.add(&name, "CNAME", &format!("{target}."));
            }
            return;
        }
        let ready = self.ready(service);
        for (ports, endpoint) in &ready {
            let host = format!("{}.{name}", host(endpoint));
            names.add_address(&host, endpoint.address);
            ports.iter().for_each(|port| names.add(&host, "SRV", &srv(port.port, &host)));
        }
        if service.cluster_ips == ClusterIps::Headless {
            let is_near = |(_, endpoint): &&(&[EndpointPort], &Endpoint)| match service.dns_endpoints {
                DnsEndpoints::All => true,
                DnsEndpoints::Node => endpoint.node.is_some() && endpoint.node.as_ref() == Some(&config.node),
                DnsEndpoints::Zone => endpoint.zone.as_ref() == Some(&config.node_zone),
            };
            let near: Vec<_> = ready.iter().filter(is_near).copied().collect();
            for (ports, endpoint) in if near.is_empty() { ready } else { near } {
                names.add_address(&name, endpoint.address);
                for port in ports {
                    let data = srv(port.port, &format!("{}.{name}", host(endpoint)));
                    names.add(&name, "SRV", &data);
                    for owner in port_names(&port.name, port.protocol.lower(), &name, names) {
                        names.add(&owner, "SRV", &data);
                        names.add_address(&owner, endpoint.address);
                    }
                }
            }
            return;
        }
        service.cluster_ips.iter().for_each(|address| names.add_address(&name, address));
        for port in &service.ports {
            names.add(&name, "SRV", &srv(port.port, &name));
            for owner in port_names(&port.name, port.protocol.lower(), &name, names) {
                names.add(&owner, "SRV", &srv(port.port, &name));
                service.cluster_ips.iter().for_each(|address| names.add_address(&owner, address));
            }
        }
    }

    fn add_reverse(&self, names: &mut Names, client: &Client) {
        let mut services: Vec<&Service> =
            self.services.iter().filter(|s| s.external_name.is_none()).collect();
        services.sort_by(|left, right| left.key.cmp(&right.key));
        let (visible, hidden): (Vec<&Service>, Vec<&Service>) =
            services.into_iter().partition(|service| client.view.includes(&service.key));
        let mut owned = BTreeSet::new();
        for service in &visible {
            for address in service.cluster_ips.iter() {
                if owned.insert(address) {
                    names.add(&reverse_name(address), "PTR", &full_name(service));
                }
            }
        }
        for service in &visible {
            for (_, endpoint) in self.ready(service) {
                if !owned.contains(&endpoint.address) {
                    let target = format!("{}.{}", host(endpoint), full_name(service));
                    names.add(&reverse_name(endpoint.address), "PTR", &target);
                }
            }
        }
        for service in &hidden {
            let endpoints = self.ready(service);
            let addresses = endpoints.iter().map(|(_, endpoint)| endpoint.address);
            names.hidden.extend(service.cluster_ips.iter().chain(addresses).map(reverse_name));
        }
    }

    /// Answers a question in lower case.
    pub(crate) fn answer(
        &self,
        names: &Names,
        config: &ZoneConfig,
        name: &str,
        record_type: &'static str,
    ) -> Expected {
        let (mut name, mut answer) = (name.to_owned(), Vec::new());
        loop {
            let mut found: Vec<(&'static str, String)> = names
                .records
                .iter()
                .filter(|(owner, ..)| *owner == name)
                .map(|(_, record_type, data)| (*record_type, data.clone()))
                .collect();
            found.extend(self.pod_record(config, &name));
            let is_any = record_type == "ANY";
            let alias = found.iter().find(|(found_type, _)| *found_type == "CNAME");
            if let Some((_, target)) = alias {
                let is_owner = |record: &String| record.starts_with(&format!("{target} CNAME "));
                if !answer.is_empty() && (*target == name || answer.iter().any(is_owner)) {
                    return Expected::Answer("NOERROR", answer);
                }
                answer.push(format!("{name} CNAME {target}"));
                if record_type == "CNAME" || is_any {
                    return Expected::Answer("NOERROR", answer);
                }
                name = target.clone();
                continue;
            }
            let exists = names.existing.contains(&name) || !found.is_empty();
            if exists && is_any {
                answer.push(format!("{name} HINFO "));
            }
            let of_type = found.iter().filter(|(found_type, _)| *found_type == record_type);
            let mut records: Vec<String> =
                of_type.map(|(found_type, data)| format!("{name} {found_type} {data}")).collect();
            records.sort();
            answer.extend(records);
            return match (exists, self.is_outside(names, config, &name), answer.is_empty()) {
                (true, ..) => Expected::Answer("NOERROR", answer),
                (false, true, true) => Expected::Upstream,
                (false, true, false) => Expected::External(name),
                (false, false, _) => Expected::Answer("NXDOMAIN", answer),
            };
        }
    }

    /// Whether a name that does not exist is forwarded.
    fn is_outside(&self, names: &Names, config: &ZoneConfig, name: &str) -> bool {
        let is_in_zone = name == DOMAIN || name.ends_with(&format!(".{DOMAIN}"));
        // A name of more labels than any service has cannot be that of a hidden service.
        let is_hidden = names.hidden.iter().any(|hidden| {
            let labels = name.strip_suffix(hidden.as_str()).map(|rest| rest.matches('.').count());
            let is_below = name.ends_with(&format!(".{hidden}")) && labels.is_some_and(|labels| labels <= 2);
            name == hidden || (is_below && hidden.ends_with(DOMAIN))
        });
        let in_ranges = |address: IpAddr| self.ranges.iter().any(|range| range.contains(&address));
        let is_denied = is_in_zone || address_of(name).is_some_and(in_ranges);
        !is_hidden && (!is_denied || config.has_fallthrough)
    }

    fn pod_record(&self, config: &ZoneConfig, name: &str) -> Option<(&'static str, String)> {
        let (label, namespace) = name.strip_suffix(&format!(".pod.{DOMAIN}"))?.split_once('.')?;
        let is_namespace = config.has_pod_records && self.all_namespaces().contains(namespace);
        let dots = label.replace('-', ".").parse::<IpAddr>().ok().filter(IpAddr::is_ipv4);
        let address = dots.or_else(|| label.replace('-', ":").parse().ok()).filter(|_| is_namespace)?;
        Some((if address.is_ipv4() { "A" } else { "AAAA" }, address.to_string()))
    }
}

fn full_name(service: &Service) -> String {
    format!("{}.{}.svc.{DOMAIN}", service.key.name, service.key.namespace)
}

fn srv(port: u16, target: &str) -> String {
    format!("0 100 {port} {target}")
}

/// The label of an endpoint.
fn host(endpoint: &Endpoint) -> String {
    endpoint.hostname.as_ref().map_or_else(
        || {
            let label = endpoint.address.to_string().replace(['.', ':'], "-");
            if label.ends_with('-') { format!("{label}0") } else { label }
        },
        |hostname| hostname.to_string(),
    )
}

/// The names of a port, with and without underscores. An empty name above them exists.
fn port_names(port: &str, protocol: &str, service: &str, names: &mut Names) -> Vec<String> {
    if port.is_empty() {
        return Vec::new();
    }
    names.existing.insert(format!("_{protocol}.{service}"));
    let prefixes = ["", "_"];
    let pairs = prefixes.iter().flat_map(|first| prefixes.iter().map(move |second| (first, second)));
    pairs.map(|(first, second)| format!("{first}{port}.{second}{protocol}.{service}")).collect()
}

/// The name of an address in the reverse zones.
pub(crate) fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(v6) => {
            let digits = format!("{:032x}", v6.to_bits());
            let labels: String = digits.chars().rev().map(|digit| format!("{digit}.")).collect();
            format!("{labels}ip6.arpa.")
        }
    }
}

fn address_of(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".ip6.arpa.") {
        let digits: Vec<char> = digits.replace('.', "").chars().rev().collect();
        let groups = digits.chunks(4).map(|group| group.iter().collect::<String>());
        let address: IpAddr = groups.collect::<Vec<_>>().join(":").parse().ok()?;
        return Some(address).filter(|address| reverse_name(*address) == name);
    }
    let mut octets: Vec<&str> = name.strip_suffix(".in-addr.arpa.")?.split('.').collect();
    octets.reverse();
    octets.join(".").parse().ok()
}
