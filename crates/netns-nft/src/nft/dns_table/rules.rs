//! The chains and rules of the DNS table, and the set that arms it.
//!
//! ```text
//! UDP: query to A:53 ─► output: exempt from tracking, to 127.0.0.1:PORT ─► agent
//!      reply of 127.0.0.1:PORT ─► output: exempt from tracking, from A:53 ─► client
//! TCP: connection to A:53 ─► first-packets: NAT redirect to 127.0.0.1:TCP_PORT ─► agent
//! ```
//! A port of the agent belongs to one DNS address, so that a reply needs no state. The rules for UDP come before
//! connection tracking, and those for TCP before the NAT chains of the portals.
//!
//! All packets of the pod pass `output` and `input`, so most of them end at the first rule. The kernel keeps each rule
//! twice, in blocks of 96 to 2,048 bytes; common conditions are rules of their own so that the others are small.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proxy_core::address::Family;
use proxy_core::service::Protocol;

use crate::netlink::uapi::*;
use crate::nft::dns_table::{DNS_BYPASS_PRIORITY, DnsRedirect, DnsTableSettings};
use crate::nft::element::{octets, protocol_number, put_key};
use crate::nft::expression::{HeaderField, RuleBuilder};
use crate::nft::set_type::{SetType, datatype, put_timeout};
use crate::nft::table_writer::{ElementChange, FILTER_CHAIN, ROUTE_CHAIN, TableWriter};
use crate::nft::value_bytes::ValueBytes;

const COMMENT: &str = "portico: passes DNS queries to the agent";
/// The set whose element, the port of DNS, has the timeout. It has no element while queries are not redirected.
const ARMED: &str = "armed";
/// Base chain: rewrites UDP.
const OUTPUT: &str = "output";
/// Base chain: redirects TCP.
const FIRST_PACKETS: &str = "first-packets";
/// Base chain: protects the agent's ports.
const INPUT: &str = "input";
/// Before the chains of other programs that exempt packets from tracking.
const REWRITE_PRIORITY: i32 = NF_IP_PRI_RAW - 10;
/// The kernel frees elements that expired within this interval. An expired element does not match anyway.
const GC_INTERVAL: Duration = Duration::from_secs(60);
const DNS_PORT: u16 = 53;
const PORT_BYTES: u32 = 2;
const TCP: u8 = protocol_number(Protocol::Tcp);
const UDP: u8 = protocol_number(Protocol::Udp);

/// Adds the table, which is not armed.
pub(super) fn add_table(table: &mut TableWriter<'_>, redirects: &[DnsRedirect], settings: DnsTableSettings) {
    table.add_with_flags(COMMENT, NFT_TABLE_F_OWNER);
    let armed = SetType { flags: NFT_SET_TIMEOUT, key_type: datatype::INET_SERVICE, key_bytes: PORT_BYTES };
    table.add_set(ARMED, armed, |buffer| put_timeout(buffer, settings.armed_time, GC_INTERVAL));
    table.add_base_chain_of(ROUTE_CHAIN, OUTPUT, NF_INET_LOCAL_OUT, REWRITE_PRIORITY);
    table.add_base_chain(FIRST_PACKETS, NF_INET_LOCAL_OUT, settings.nat_priority.saturating_sub(1));
    table.add_base_chain_of(FILTER_CHAIN, INPUT, NF_INET_LOCAL_IN, NF_IP_PRI_FILTER);
    add_rewriting_rules(table, redirects);
    add_connection_rules(table, redirects);
    for redirect in redirects {
        add_guard(table, redirect);
    }
}

/// Adds the rules that rewrite UDP: replies first, then queries.
fn add_rewriting_rules(table: &mut TableWriter<'_>, redirects: &[DnsRedirect]) {
    table.add_rule(OUTPUT, |rule| accept(rule.match_other_protocol(UDP)));
    table.add_rule(OUTPUT, |rule| accept(rule.match_priority(DNS_BYPASS_PRIORITY)));
    for redirect in redirects {
        let (family, address, loopback) = redirect.parts();
        let port = redirect.udp_port.to_be_bytes();
        table.add_rule(OUTPUT, |rule| {
            rule.match_field(family, HeaderField::SourcePort, &port);
            match_address(rule, family, HeaderField::SourceAddress, &loopback);
            rule.exempt_from_tracking().rewrite_udp(family, HeaderField::SourceAddress, &address);
            rule.rewrite_udp(family, HeaderField::SourcePort, &DNS_PORT.to_be_bytes());
        });
    }
    table.add_rule(OUTPUT, |rule| accept(rule.match_other_port(DNS_PORT)));
    table.add_rule(OUTPUT, accept_unless_armed);
    for redirect in redirects {
        let (family, address, loopback) = redirect.parts();
        table.add_rule(OUTPUT, |rule| {
            match_address(rule, family, HeaderField::DestinationAddress, &address);
            rule.exempt_from_tracking().rewrite_udp(family, HeaderField::DestinationAddress, &loopback);
            rule.rewrite_udp(family, HeaderField::DestinationPort, &redirect.udp_port.to_be_bytes());
        });
    }
}

/// Adds the rules that redirect TCP. A UDP query that arrives here belongs to the portal, also if the table was armed
/// since it passed the other chain.
fn add_connection_rules(table: &mut TableWriter<'_>, redirects: &[DnsRedirect]) {
    table.add_rule(FIRST_PACKETS, |rule| accept(rule.match_other_protocol(TCP)));
    table.add_rule(FIRST_PACKETS, |rule| accept(rule.match_priority(DNS_BYPASS_PRIORITY)));
    table.add_rule(FIRST_PACKETS, accept_unless_armed);
    for redirect in redirects {
        let (family, address, _) = redirect.parts();
        table.add_rule(FIRST_PACKETS, |rule| {
            match_address(rule, family, HeaderField::DestinationAddress, &address);
            rule.redirect(redirect.tcp_port);
        });
    }
}

/// Adds the rules that drop packets from other interfaces to the agent's ports. The kernel itself drops those to ::1,
/// but those to 127.0.0.1 only if `route_localnet` is 0.
fn add_guard(table: &mut TableWriter<'_>, redirect: &DnsRedirect) {
    let (Family::V4, _, loopback) = redirect.parts() else { return };
    for port in BTreeSet::from([redirect.udp_port, redirect.tcp_port]) {
        table.add_rule(INPUT, |rule| {
            rule.match_input_from_outside().match_port(port);
            match_address(rule, Family::V4, HeaderField::DestinationAddress, &loopback);
            rule.verdict(NF_DROP, None);
        });
    }
}

impl DnsRedirect {
    /// The family of the address, the address, and the loopback address of the family.
    fn parts(&self) -> (Family, ValueBytes, ValueBytes) {
        let family = Family::of(self.address);
        (family, octets(self.address), octets(loopback(family)))
    }
}

fn accept(rule: &mut RuleBuilder<'_>) {
    rule.verdict(NF_ACCEPT.cast_signed(), None);
}

/// Accepts packets to ports for which the table is not armed.
fn accept_unless_armed(rule: &mut RuleBuilder<'_>) {
    rule.load(Family::V4, &[HeaderField::DestinationPort]);
    accept(rule.match_not_in(ARMED));
}

/// Continues with packets only that have this address.
fn match_address(rule: &mut RuleBuilder<'_>, family: Family, field: HeaderField, address: &[u8]) {
    rule.match_family(family).match_field(family, field, address);
}

const fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// Adds the element, or renews its timeout. Before Linux 6.12, adding an existing element does not do that; since then
/// it does, but takes twice as long.
pub(super) fn arm(table: &mut TableWriter<'_>) {
    disarm(table);
    table.put_elements(ElementChange::Add, ARMED, [DNS_PORT].into_iter(), |buffer, port| {
        put_key(buffer, &port.to_be_bytes());
    });
}

/// Deletes the element, whether it exists or not.
pub(super) fn disarm(table: &mut TableWriter<'_>) {
    table.flush_set(ARMED);
}
