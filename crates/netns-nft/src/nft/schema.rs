//! The schema of a pod's table: its chains and rules, as netlink messages; its sets are in `sets`. `proxy_core::nft` writes
//! the same ruleset as text.
//!
//! ```text
//! output, prerouting ─► portals ─► (map portals4 ─► dispatch key ─► map picks) ─► chain of the key ─► send ─► backend
//!                          │                                                        └────────────────► relay
//!                          └─ no portal: refuse, drop, or relay (on demand)
//! ```
//! The text form passes looked-up values through the packet mark; this form keeps them in registers.

use proxy_core::address::Family;
use proxy_core::dispatch::{Action, DispatchKey};
use proxy_core::ruleset::Settings;
use proxy_core::service::Protocol;

use crate::netlink::uapi::*;
use crate::nft::element::{dispatch_key, family_number, protocol_number, put_verdict_element};
use crate::nft::expression::{HeaderField, KEY_REGISTER, NumberGenerator};
use crate::nft::names::{chain, per_family, set};
use crate::nft::sets::add_sets;
use crate::nft::table_writer::{ElementChange, TableWriter};

/// The version of the schema, which is a part of the table's comment. A table of another version is replaced.
pub(crate) const LAYOUT: u32 = 10;
/// The part of the comment that states on-demand mode.
const ON_DEMAND: &str = ", portals on demand";
/// The part of the comment that states counters.
const COUNTERS: &str = ", counters";
/// The base chains that pass the first packets of connections to the portals.
const PORTAL_HOOKS: [(&str, u32); 2] =
    [(chain::OUTPUT, NF_INET_LOCAL_OUT), (chain::PREROUTING, NF_INET_PRE_ROUTING)];
const TCP: u8 = protocol_number(Protocol::Tcp);
const UDP: u8 = protocol_number(Protocol::Udp);

const PORTAL_KEY: [HeaderField; 3] =
    [HeaderField::DestinationAddress, HeaderField::Protocol, HeaderField::DestinationPort];
const CLIENT_KEY: [HeaderField; 3] =
    [HeaderField::Protocol, HeaderField::DestinationPort, HeaderField::DestinationAddress];
const SOURCE_KEY: [HeaderField; 4] = [
    HeaderField::DestinationAddress,
    HeaderField::Protocol,
    HeaderField::DestinationPort,
    HeaderField::SourceAddress,
];

/// The comment of the table: the version of the schema, and the settings.
pub(crate) fn comment(settings: Settings) -> String {
    let Settings { nat_priority, relay_port, on_demand, counters } = settings;
    let on_demand = if on_demand { ON_DEMAND } else { "" };
    let counters = if counters { COUNTERS } else { "" };
    format!(
        "portico layout {LAYOUT}, nat priority {nat_priority}, relay port {relay_port}{on_demand}{counters}"
    )
}

/// Parses the settings from a comment of this version.
pub(crate) fn settings(comment: &str) -> Option<Settings> {
    let (layout, rest) = comment.split_once(", nat priority ")?;
    let (nat_priority, relay_port) = rest.split_once(", relay port ")?;
    let (relay_port, counters) = split_suffix(relay_port, COUNTERS);
    let (relay_port, on_demand) = split_suffix(relay_port, ON_DEMAND);
    let is_this_layout = layout.strip_prefix("portico layout ")?.parse() == Ok(LAYOUT);
    let nat_priority = nat_priority.parse().ok().filter(|_| is_this_layout)?;
    Some(Settings { nat_priority, relay_port: relay_port.parse().ok()?, on_demand, counters })
}

/// A text without its suffix, and whether it had the suffix.
fn split_suffix<'a>(text: &'a str, suffix: &str) -> (&'a str, bool) {
    text.strip_suffix(suffix).map_or((text, false), |rest| (rest, true))
}

/// Adds the table with its sets, and the chains and rules that do not depend on portals.
pub(crate) fn add_table(table: &mut TableWriter<'_>, settings: Settings) {
    table.add(&comment(settings));
    add_sets(table, settings);
    for name in
        [chain::ANCHOR, chain::REFUSE, chain::REFUSE_CURRENT, chain::RELAY, chain::SEND, chain::PORTALS]
    {
        table.add_chain(name);
    }
    for (name, hook) in PORTAL_HOOKS {
        table.add_base_chain(name, hook, settings.nat_priority);
    }
    // The guard of the relay's port sees destinations after their translation.
    table.add_base_chain(chain::INPUT, NF_INET_LOCAL_IN, NF_IP_PRI_NAT_SRC);
    // A NAT rule that never matches and is never removed: see `proxy_core::nft`.
    table.add_rule(chain::ANCHOR, |rule| rule.match_protocol(u8::MAX).redirect(settings.relay_port));
    add_refusal(table);
    add_relay_rules(table, settings);
    // All chains of dispatch keys go to this chain with a number: a map that many rules use is slow to change.
    for family in Family::BOTH {
        table.add_rule(chain::SEND, |rule| {
            let number = rule.match_family(family).load(family, &PORTAL_KEY);
            rule.load_from_priority(number).lookup(&per_family(set::BACKENDS, family), KEY_REGISTER);
            rule.translate(family);
        });
    }
    add_portal_rules(table, settings.on_demand);
    add_base_rules(table, settings.relay_port);
}

/// Redirects to the relay, or rejects if the agent has none.
fn add_relay_rules(table: &mut TableWriter<'_>, settings: Settings) {
    for protocol in [TCP, UDP] {
        table.add_rule(chain::RELAY, |rule| match settings.has_relay() {
            true => rule.match_protocol(protocol).redirect(settings.relay_port),
            false => rule.match_protocol(protocol).verdict(NFT_GOTO, Some(chain::REFUSE)),
        });
    }
    // Protocols that the relay does not support must not bypass it.
    table.add_rule(chain::RELAY, |rule| rule.verdict(NF_DROP, None));
}

/// Adds the chains that reject.
///
/// A packet that is being processed while its table is replaced finds the maps empty at once, but the plain sets still
/// full: the kernel removes the elements of maps only. Such a packet would be rejected as one to a port without a
/// portal. So the table rejects only while its map `current` has its elements; otherwise it drops the packet, the
/// client retransmits it, and the new table processes it.
pub(crate) fn add_refusal(table: &mut TableWriter<'_>) {
    table.add_rule(chain::REFUSE, |rule| rule.load_family().lookup_verdict(set::CURRENT, KEY_REGISTER));
    table.add_rule(chain::REFUSE, |rule| rule.verdict(NF_DROP, None));
    table.add_rule(chain::REFUSE_CURRENT, |rule| rule.match_protocol(TCP).reject(true));
    table.add_rule(chain::REFUSE_CURRENT, |rule| rule.reject(false));
    table.put_elements(ElementChange::Add, set::CURRENT, Family::BOTH.into_iter(), |buffer, family| {
        put_verdict_element(buffer, &[family_number(*family)], NFT_GOTO, chain::REFUSE_CURRENT);
    });
}

/// Adds the rules of the base chains: packets of the pod and of its guests go to the portals, except those to a local
/// address. Packets from other hosts on the pod's networks do not.
fn add_base_rules(table: &mut TableWriter<'_>, relay_port: u16) {
    table.add_rule(chain::PREROUTING, |rule| {
        rule.load_input_interface().match_not_in(set::GUESTS).verdict(NFT_RETURN, None);
    });
    // Packets to a local address leave through loopback, so all others can go on at once: a lookup fails if the table
    // was just replaced, and each additional lookup makes that more likely.
    table.add_rule(chain::OUTPUT, |rule| {
        rule.match_loopback(false).verdict(NFT_GOTO, Some(chain::PORTALS));
    });
    // The pod's own packets to the relay's port were not redirected; redirection happens after these rules.
    for protocol in [TCP, UDP] {
        table.add_rule(chain::OUTPUT, |rule| {
            rule.match_protocol(protocol).match_port(relay_port).match_local(HeaderField::DestinationAddress);
            rule.verdict(NFT_GOTO, Some(chain::REFUSE));
        });
    }
    for (name, _) in PORTAL_HOOKS {
        table.add_rule(name, |rule| {
            rule.match_local(HeaderField::DestinationAddress).verdict(NFT_RETURN, None);
        });
        table.add_rule(name, |rule| rule.verdict(NFT_JUMP, Some(chain::PORTALS)));
    }
    for protocol in [TCP, UDP] {
        table.add_rule(chain::INPUT, |rule| {
            rule.match_protocol(protocol).match_port(relay_port).match_translated(false);
            rule.verdict(NF_DROP, None);
        });
    }
}

fn add_portal_rules(table: &mut TableWriter<'_>, on_demand: bool) {
    // Connections that were opened before the pod had portals keep their backends: see `proxy_core::nft`.
    table.add_rule(chain::PORTALS, |rule| {
        rule.match_protocol(TCP).match_open_connection().verdict(NFT_RETURN, None);
    });
    let (range_verdict, range_chain) =
        if on_demand { (NFT_GOTO, Some(chain::RELAY)) } else { (NF_DROP, None) };
    for family in Family::BOTH {
        table.add_rule(chain::PORTALS, |rule| {
            let key = rule.match_family(family).load(family, &PORTAL_KEY);
            rule.lookup(&per_family(set::PORTALS, family), key).via_priority(key);
            rule.lookup_verdict(set::DISPATCH, key);
        });
    }
    for family in Family::BOTH {
        table.add_rule(chain::PORTALS, |rule| {
            rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
            rule.match_in(&per_family(set::ADDRESSES, family)).verdict(NFT_GOTO, Some(chain::REFUSE));
        });
        table.add_rule(chain::PORTALS, |rule| {
            rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
            rule.match_in(&per_family(set::RANGES, family)).verdict(range_verdict, range_chain);
        });
    }
}

/// Adds the chain of a dispatch key, and its element in the map of verdicts.
pub(crate) fn add_dispatch_key(table: &mut TableWriter<'_>, dispatch: DispatchKey) {
    let name = dispatch.to_string();
    table.add_chain(&name);
    for family in Family::BOTH.into_iter().filter(|_| dispatch.guarded) {
        table.add_rule(&name, |rule| {
            rule.match_family(family).load(family, &SOURCE_KEY);
            rule.match_not_in(&per_family(set::SOURCES, family)).verdict(NF_DROP, None);
        });
    }
    match dispatch.action {
        Action::Reject => table.add_rule(&name, |rule| rule.verdict(NFT_GOTO, Some(chain::REFUSE))),
        Action::Relay => table.add_rule(&name, |rule| rule.verdict(NFT_GOTO, Some(chain::RELAY))),
        Action::Drop => table.add_rule(&name, |rule| rule.verdict(NF_DROP, None)),
        Action::Forward { count, affinity_s: 0 } => {
            add_forward_rule(table, &name, NumberGenerator::Random(count));
        }
        Action::RoundRobin { count, .. } => {
            add_forward_rule(table, &name, NumberGenerator::Incremental(count));
        }
        Action::Forward { count, affinity_s } => {
            for family in Family::BOTH {
                add_affinity_rules(table, &name, family, count, affinity_s);
            }
        }
    }
    put_dispatch_element(table, ElementChange::Add, dispatch);
}

/// Deletes the chain of a dispatch key, and its element in the map of verdicts.
pub(crate) fn delete_dispatch_key(table: &mut TableWriter<'_>, dispatch: DispatchKey) {
    put_dispatch_element(table, ElementChange::Delete, dispatch);
    table.delete_chain(&dispatch.to_string());
}

fn put_dispatch_element(table: &mut TableWriter<'_>, change: ElementChange, dispatch: DispatchKey) {
    let chain = dispatch.to_string();
    table.put_verdict(change, set::DISPATCH, &dispatch_key(&dispatch), (NFT_JUMP, &chain));
}

fn add_forward_rule(table: &mut TableWriter<'_>, chain: &str, generator: NumberGenerator) {
    table.add_rule(chain, |rule| {
        rule.generate_number(generator, KEY_REGISTER).store_in_priority(KEY_REGISTER);
        rule.verdict(NFT_GOTO, Some(self::chain::SEND));
    });
}

/// Adds the rules for session affinity, as in the text form: a known client goes to the same backend, an entry whose
/// backend was removed is deleted, and a new client is recorded. The keys of portal and client have the same length, so
/// the slot, and later the backend id, are in the register after both.
fn add_affinity_rules(table: &mut TableWriter<'_>, chain: &str, family: Family, count: u16, affinity_s: u32) {
    let clients = per_family(set::CLIENTS, family);
    table.add_rule(chain, |rule| {
        let id = rule.match_family(family).load(family, &CLIENT_KEY);
        rule.lookup(&clients, id).via_priority(id).map_update(&clients, id, affinity_s);
        rule.verdict(NFT_JUMP, Some(self::chain::SEND));
    });
    table.add_rule(chain, |rule| {
        let id = rule.match_family(family).load(family, &CLIENT_KEY);
        rule.load_immediate(id, &[0; 4]).map_delete(&clients, id);
    });
    table.add_rule(chain, |rule| {
        let id = rule.match_family(family).load(family, &PORTAL_KEY);
        rule.generate_number(NumberGenerator::Random(count), id);
        rule.lookup(&per_family(set::IDS, family), id).via_priority(id);
        rule.load(family, &CLIENT_KEY);
        rule.map_update(&clients, id, affinity_s).verdict(NFT_GOTO, Some(self::chain::SEND));
    });
}
