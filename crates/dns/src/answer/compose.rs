//! `Composer`: writes the records of a name.
//!
//! Several addresses are rotated: the first one is random, so that clients which use only the first are balanced. The
//! order of the others is that of the addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proxy_core::address::Family;
use proxy_core::endpoint::{Endpoint, EndpointPort};
use proxy_core::service::Protocol;

use super::find::{Finding, Node, PortQuery};
use super::{Answered, reverse::Pointer};
use crate::message::{
    HEADER_LEN, Name, Owner, Query, Rcode, RecordData, RecordType, Response, Section, Transport,
};
use crate::zone::{HostLabel, HostQuery, ServiceEntry, ServiceKind, Zone};

/// The version of the specification of DNS-based service discovery.
const SPECIFICATION_VERSION: &[u8] = b"1.1.0";
/// The maximum TTL of an SOA record in a negative response, in seconds, as in CoreDNS.
const SOA_TTL_MAX_S: u32 = 300;
/// SOA: refresh, retry and expire, in seconds, as in CoreDNS.
const SOA_TIMES_S: [u32; 3] = [7_200, 1_800, 86_400];
/// SRV: all targets are equal.
const SRV_PRIORITY: u16 = 0;
const SRV_WEIGHT: u16 = 100;

/// A response with records of a zone.
pub(super) struct Composer<'a> {
    zone: &'a Zone,
    pub(super) response: Response<'a>,
    record_type: RecordType,
    rotation: u32,
    /// The position in the message of the name whose records are written, uncompressed.
    pub(super) origin: usize,
}

impl<'a> Composer<'a> {
    pub(super) fn new(
        zone: &'a Zone,
        query: &Query<'_>,
        transport: Transport,
        rotation: u32,
        out: &'a mut Vec<u8>,
    ) -> Self {
        let bytes_max = query.response_bytes_max(transport);
        let response = Response::new(query, Rcode::NoError, bytes_max, out).authoritative();
        Self { zone, response, record_type: query.record_type, rotation, origin: HEADER_LEN }
    }

    pub(super) fn finish(self) {
        self.response.finish();
    }

    /// Writes a chain of aliases that begins at the question. The records that follow are those of its last name.
    pub(super) fn write_aliases(&mut self, chain: &[Name]) {
        for target in chain {
            let owner = Owner::At(self.origin);
            self.push(Section::Answer, owner, RecordType::CNAME, |data| data.bytes(target.as_bytes()));
            self.origin = self.response.position() - target.as_bytes().len();
        }
    }

    /// Writes the records of `name`, or an SOA record.
    pub(super) fn write(&mut self, name: &Name, finding: &Finding<'_>) -> Answered {
        let answered = match finding {
            Finding::Present(node) => {
                let start = self.response.position();
                self.write_node(name, node);
                let has_records = self.response.position() > start || self.response.is_truncated();
                if has_records { Answered::Records } else { Answered::NoData }
            }
            _ => {
                self.response.set_rcode(Rcode::NxDomain);
                Answered::NxDomain
            }
        };
        if answered != Answered::Records {
            self.write_soa(Section::Authority, name);
        }
        answered
    }

    fn write_node(&mut self, name: &Name, node: &Node<'_>) {
        if self.record_type == RecordType::ANY && !matches!(node, Node::Alias(..)) {
            return self.write_hinfo();
        }
        match (node, self.record_type) {
            (Node::Alias(_, target), RecordType::CNAME | RecordType::ANY) => {
                self.write_aliases(std::slice::from_ref(target));
            }
            (Node::Service(entry), RecordType::A | RecordType::AAAA) => self.write_service_addresses(entry),
            (Node::Service(entry), RecordType::SRV) => self.write_service_ports(name, 0, entry, None),
            (Node::Port(entry, port), RecordType::A | RecordType::AAAA) => {
                self.write_port_addresses(entry, *port);
            }
            (Node::Port(entry, port), RecordType::SRV) => {
                let skip = name.labels().take(2).map(|label| 1 + label.len()).sum();
                self.write_service_ports(name, skip, entry, Some(*port));
            }
            (Node::Endpoint(entry, host), RecordType::A | RecordType::AAAA) => {
                let endpoints = entry.ready().filter(|(_, endpoint)| host.matches(endpoint));
                self.push_addresses(endpoints.map(|(_, endpoint)| endpoint.address));
            }
            (Node::Endpoint(entry, host), RecordType::SRV) => self.write_endpoint_ports(name, entry, *host),
            (Node::Pod(address), RecordType::A | RecordType::AAAA) => self.push_addresses([*address]),
            (Node::NameServer, RecordType::A | RecordType::AAAA) => {
                self.push_addresses(self.zone.dns_addresses());
            }
            (Node::Address(pointers), RecordType::PTR) => self.write_pointers(pointers),
            (Node::Version, RecordType::TXT) => {
                let owner = Owner::At(self.origin);
                self.push(Section::Answer, owner, RecordType::TXT, |data| data.label(SPECIFICATION_VERSION));
            }
            (Node::Apex, RecordType::SOA) => self.write_soa(Section::Answer, name),
            (Node::Apex, RecordType::NS) => self.write_name_server(),
            _ => {}
        }
    }

    fn push(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        record_type: RecordType,
        write_data: impl FnOnce(&mut RecordData<'_>),
    ) -> bool {
        self.response.push(section, owner, record_type, self.zone.config.ttl_s, write_data)
    }

    fn write_service_addresses(&mut self, entry: &ServiceEntry) {
        match &entry.kind {
            ServiceKind::ClusterIp(addresses) => {
                let family = if self.record_type == RecordType::A { Family::V4 } else { Family::V6 };
                if let Some(address) = addresses.of(family) {
                    self.push_address(Section::Answer, Owner::At(self.origin), address);
                }
            }
            ServiceKind::Headless { v4, .. } if self.record_type == RecordType::A => {
                self.push_rotated(v4, |address: &Ipv4Addr| (*address).into());
            }
            ServiceKind::Headless { v6, .. } => {
                self.push_rotated(v6, |address: &Ipv6Addr| (*address).into());
            }
            ServiceKind::External(_) => {}
        }
    }

    fn write_port_addresses(&mut self, entry: &ServiceEntry, port: PortQuery<'_>) {
        if let ServiceKind::Headless { .. } = entry.kind {
            let endpoints = entry.selected(&self.zone.config);
            let with_port =
                endpoints.filter(|(ports, _)| ports.iter().any(|p| port.matches(&p.name, p.protocol)));
            self.push_addresses(with_port.map(|(_, endpoint)| endpoint.address));
        } else {
            self.write_service_addresses(entry);
        }
    }

    /// Writes the addresses of the question's family, without duplicates.
    fn push_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let is_v4 = self.record_type == RecordType::A;
        let mut addresses: Vec<IpAddr> =
            addresses.into_iter().filter(|address| address.is_ipv4() == is_v4).collect();
        addresses.sort_unstable();
        addresses.dedup();
        self.push_rotated(&addresses, |address| *address);
    }

    fn push_rotated<T>(&mut self, addresses: &[T], to_address: impl Fn(&T) -> IpAddr) {
        let (last, first) = addresses.split_at(self.first_of(addresses.len()));
        for address in first.iter().chain(last) {
            if !self.push_address(Section::Answer, Owner::At(self.origin), to_address(address)) {
                return;
            }
        }
    }

    /// Returns the position of the first record of `count`.
    fn first_of(&self, count: usize) -> usize {
        usize::try_from(self.rotation).unwrap_or(0).checked_rem(count).unwrap_or(0)
    }

    fn push_address(&mut self, section: Section, owner: Owner<'_>, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.push(section, owner, RecordType::A, |data| data.bytes(&v4.octets())),
            IpAddr::V6(v6) => self.push(section, owner, RecordType::AAAA, |data| data.bytes(&v6.octets())),
        }
    }

    /// Writes the ports of a service; its name is at position `skip` of `name`.
    fn write_service_ports(
        &mut self,
        name: &Name,
        skip: usize,
        entry: &ServiceEntry,
        port: Option<PortQuery<'_>>,
    ) {
        let matches = |name: &str, own: Protocol| port.is_none_or(|port| port.matches(name, own));
        let service_name = &name.as_bytes()[skip..];
        if let ServiceKind::ClusterIp(addresses) = entry.kind {
            let ports = entry.service.ports.iter().filter(|port| matches(&port.name, port.protocol));
            let mut numbers: Vec<u16> = ports.map(|port| port.port).collect();
            numbers.sort_unstable();
            numbers.dedup();
            for number in numbers {
                self.push_srv(number, |data| data.bytes(service_name));
            }
            for address in addresses.iter() {
                self.push_address(Section::Additional, Owner::At(self.origin + skip), address);
            }
            return;
        }
        let of_port = |ports: &[EndpointPort]| -> Vec<u16> {
            ports.iter().filter(|port| matches(&port.name, port.protocol)).map(|port| port.port).collect()
        };
        let targets = Targets::of(entry.selected(&self.zone.config), of_port);
        let (last, first) = targets.ports.split_at(self.first_of(targets.ports.len()));
        for (host, number) in first.iter().chain(last) {
            let is_written = self.push_srv(*number, |data| {
                data.label(host.as_bytes());
                data.bytes(service_name);
            });
            if !is_written {
                return;
            }
        }
        for (host, address) in &targets.addresses {
            let owner = Owner::Below { label: host.as_bytes(), position: self.origin + skip };
            self.push_address(Section::Additional, owner, *address);
        }
    }

    /// Writes the ports of an endpoint, which CoreDNS answers too.
    fn write_endpoint_ports(&mut self, name: &Name, entry: &ServiceEntry, host: HostQuery<'_>) {
        let endpoints = entry.ready().filter(|(_, endpoint)| host.matches(endpoint));
        let targets = Targets::of(endpoints, |ports| ports.iter().map(|port| port.port).collect());
        for (_, number) in &targets.ports {
            self.push_srv(*number, |data| data.bytes(name.as_bytes()));
        }
        for (_, address) in &targets.addresses {
            self.push_address(Section::Additional, Owner::At(self.origin), *address);
        }
    }

    /// Writes an SRV record; its target is never compressed (RFC 2782).
    fn push_srv(&mut self, port: u16, write_target: impl FnOnce(&mut RecordData<'_>)) -> bool {
        self.push(Section::Answer, Owner::At(self.origin), RecordType::SRV, |data| {
            data.u16(SRV_PRIORITY);
            data.u16(SRV_WEIGHT);
            data.u16(port);
            write_target(data);
        })
    }

    fn write_pointers(&mut self, pointers: &[Pointer<'_>]) {
        for Pointer { entry, host } in pointers {
            let key = &entry.service.key;
            let zone = self.zone;
            let owner = Owner::At(self.origin);
            self.push(Section::Answer, owner, RecordType::PTR, |data| {
                if let Some(host) = host {
                    data.label(host.as_bytes());
                }
                data.label(key.name.as_bytes());
                data.label(key.namespace.as_bytes());
                data.label(b"svc");
                data.bytes(zone.config.domain.as_bytes());
            });
        }
    }

    /// Writes the minimal response to ANY (RFC 8482, 4.2).
    fn write_hinfo(&mut self) {
        self.push(Section::Answer, Owner::At(self.origin), RecordType::HINFO, |data| {
            data.label(b"RFC8482");
            data.label(b"");
        });
    }

    /// Writes the name server of the domain, which is the name that is being answered.
    fn write_name_server(&mut self) {
        let origin = self.origin;
        let mut target_at = 0;
        let target_before = self.response.position();
        self.push(Section::Answer, Owner::At(origin), RecordType::NS, |data| {
            target_at = target_before + RECORD_HEAD_LEN;
            data.label(b"ns");
            data.label(b"dns");
            data.pointer(origin);
        });
        for address in self.zone.dns_addresses() {
            self.push_address(Section::Additional, Owner::At(target_at), address);
        }
    }

    /// Writes the SOA record of the zone in which `name` is: the domain, or a reverse zone.
    fn write_soa(&mut self, section: Section, name: &Name) {
        let config = &self.zone.config;
        let domain_at = name.suffix_at(&config.domain).map(|at| self.origin + at);
        let apex_at = domain_at.unwrap_or_else(|| self.origin + reverse_apex_at(name));
        let serial =
            self.zone.snapshot.as_ref().map_or(0, |snapshot| snapshot.revision() & u64::from(u32::MAX));
        let ttl_s = config.ttl_s.min(SOA_TTL_MAX_S);
        self.response.push(section, Owner::At(apex_at), RecordType::SOA, ttl_s, |data| {
            for labels in [&[b"ns".as_slice(), b"dns"][..], &[b"hostmaster"]] {
                labels.iter().for_each(|label| data.label(label));
                match domain_at {
                    Some(at) => data.pointer(at),
                    None => data.bytes(config.domain.as_bytes()),
                }
            }
            data.u32(u32::try_from(serial).unwrap_or(u32::MAX));
            SOA_TIMES_S.iter().for_each(|seconds| data.u32(*seconds));
            data.u32(config.ttl_s);
        });
    }
}

/// The length of a record with a compressed owner, up to its data.
const RECORD_HEAD_LEN: usize = 12;

/// Returns the position of the last two labels, `in-addr.arpa` or `ip6.arpa`.
fn reverse_apex_at(name: &Name) -> usize {
    let count = name.labels().count();
    name.labels().take(count.saturating_sub(2)).map(|label| 1 + label.len()).sum()
}

/// The targets of SRV records of endpoints, sorted and without duplicates.
struct Targets {
    ports: Vec<(HostLabel, u16)>,
    addresses: Vec<(HostLabel, IpAddr)>,
}

impl Targets {
    fn of<'e>(
        endpoints: impl Iterator<Item = (&'e [EndpointPort], &'e Endpoint)>,
        numbers: impl Fn(&[EndpointPort]) -> Vec<u16>,
    ) -> Self {
        let mut targets = Self { ports: Vec::new(), addresses: Vec::new() };
        for (ports, endpoint) in endpoints {
            let numbers = numbers(ports);
            if !numbers.is_empty() {
                let host = HostLabel::of(endpoint);
                targets.ports.extend(numbers.into_iter().map(|number| (host, number)));
                targets.addresses.push((host, endpoint.address));
            }
        }
        targets.ports.sort_unstable();
        targets.ports.dedup();
        targets.addresses.sort_unstable();
        targets.addresses.dedup();
        targets
    }
}
