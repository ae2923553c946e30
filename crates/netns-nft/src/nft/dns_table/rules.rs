//! The chains and rules of the DNS table, and the set that arms it.
//!
//! ```text
//! UDP: query to A:53 ─► output: exempt from tracking, to 127.0.0.1:PORT ─► agent
//!      reply of 127.0.0.1:PORT ─► output: exempt from tracking, from A:53 ─► client
//! TCP: connection to A:53 ─► first-packets: NAT redirect to 127.0.0.1:TCP_PORT ─► agent
//! ```
//! A port of the agent belongs to one DNS address, so that a reply needs no state. The rules for UDP come before
//! connection tracking, and those for TCP before the NAT chains of the portals. Each chain is passed by all packets of
//! the pod, so its rules compare the protocol and the port first.

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

const COMMENT: &str = "portico: passes DNS queries to the agent";
/// The protocols whose queries are redirected.
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
const TCP: u8 = protocol_number(Protocol::Tcp);
const UDP: u8 = protocol_number(Protocol::Udp);

/// Adds the table, which is not armed.
pub(super) fn add_table(table: &mut TableWriter<'_>, redirects: &[DnsRedirect], settings: DnsTableSettings) {
    table.add_with_flags(COMMENT, NFT_TABLE_F_OWNER);
    let armed = SetType { flags: NFT_SET_TIMEOUT, key_type: datatype::INET_PROTOCOL, key_bytes: 1 };
    table.add_set(ARMED, armed, |buffer| put_timeout(buffer, settings.armed_time, GC_INTERVAL));
    table.add_base_chain_of(ROUTE_CHAIN, OUTPUT, NF_INET_LOCAL_OUT, REWRITE_PRIORITY);
    table.add_base_chain(FIRST_PACKETS, NF_INET_LOCAL_OUT, settings.nat_priority.saturating_sub(1));
    table.add_base_chain_of(FILTER_CHAIN, INPUT, NF_INET_LOCAL_IN, NF_IP_PRI_FILTER);
    for (chain, protocol) in [(OUTPUT, UDP), (FIRST_PACKETS, TCP)] {
        table.add_rule(chain, |rule| {
            rule.match_priority(DNS_BYPASS_PRIORITY).match_protocol(protocol).reset_priority();
            rule.verdict(NF_ACCEPT.cast_signed(), None);
        });
    }
    for redirect in redirects {
        add_redirect(table, redirect);
    }
}

/// Adds the rules of a DNS address.
fn add_redirect(table: &mut TableWriter<'_>, redirect: &DnsRedirect) {
    let DnsRedirect { address, udp_port, tcp_port } = *redirect;
    let family = Family::of(address);
    let (address, loopback) = (octets(address), octets(loopback(family)));
    table.add_rule(OUTPUT, |rule| {
        match_query(rule, family, UDP, &address);
        rule.exempt_from_tracking().rewrite_udp(family, HeaderField::DestinationAddress, &loopback);
        rule.rewrite_udp(family, HeaderField::DestinationPort, &udp_port.to_be_bytes());
    });
    table.add_rule(OUTPUT, |rule| {
        rule.match_protocol(UDP).match_field(family, HeaderField::SourcePort, &udp_port.to_be_bytes());
        rule.match_family(family).match_field(family, HeaderField::SourceAddress, &loopback);
        rule.exempt_from_tracking().rewrite_udp(family, HeaderField::SourceAddress, &address);
        rule.rewrite_udp(family, HeaderField::SourcePort, &DNS_PORT.to_be_bytes());
    });
    table.add_rule(FIRST_PACKETS, |rule| {
        match_query(rule, family, TCP, &address);
        rule.redirect(tcp_port);
    });
    // The kernel itself drops packets to ::1 from other interfaces, but those to 127.0.0.1 only if `route_localnet` is 0.
    for (protocol, port) in [(UDP, udp_port), (TCP, tcp_port)].into_iter().filter(|_| family == Family::V4) {
        table.add_rule(INPUT, |rule| {
            rule.match_input_from_outside().match_protocol(protocol).match_port(port);
            rule.match_family(family).match_field(family, HeaderField::DestinationAddress, &loopback);
            rule.verdict(NF_DROP, None);
        });
    }
}

/// Continues with queries only to a DNS address, and only while the table is armed.
fn match_query(rule: &mut RuleBuilder<'_>, family: Family, protocol: u8, address: &[u8]) {
    rule.match_protocol(protocol).match_port(DNS_PORT);
    rule.match_family(family).match_field(family, HeaderField::DestinationAddress, address);
    rule.load(family, &[HeaderField::Protocol]);
    rule.match_in(ARMED);
}

const fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// Adds the elements, or renews their timeouts. Before Linux 6.12, adding an existing element does not do that.
pub(super) fn arm(table: &mut TableWriter<'_>) {
    disarm(table);
    table.put_elements(ElementChange::Add, ARMED, [UDP, TCP].into_iter(), |buffer, protocol| {
        put_key(buffer, &[*protocol]);
    });
}

/// Deletes the elements, whether they exist or not.
pub(super) fn disarm(table: &mut TableWriter<'_>) {
    table.flush_set(ARMED);
}
