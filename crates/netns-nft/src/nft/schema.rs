//! The schema of the table: its chains and rules, as netlink messages; its sets are in `sets`. `proxy_core::nft` writes
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

use crate::netlink::batch::BatchWriter;
use crate::netlink::uapi::*;
use crate::nft::element::{dispatch_key, family_number, protocol_number, put_verdict_element};
use crate::nft::expression::{HeaderField, KEY_REGISTER, NumberGenerator, RuleBuilder};
use crate::nft::names::{TABLE, chain, per_family, set};
use crate::nft::sets::add_sets;

/// The version of the schema, which is a part of the table's comment. A table of another version is replaced.
pub(crate) const LAYOUT: u32 = 9;
/// The part of the comment that states on-demand mode.
const ON_DEMAND: &str = ", portals on demand";
/// The part of the comment that states counters.
const COUNTERS: &str = ", counters";
/// The base chains that pass the first packets of connections to the portals.
const PORTAL_HOOKS: [(&str, u32); 2] =
    [(chain::OUTPUT, NF_INET_LOCAL_OUT), (chain::PREROUTING, NF_INET_PRE_ROUTING)];
/// The type of all base chains. Only the first packet of a connection passes a chain of this type.
const NAT_CHAIN: &str = "nat";
/// The type of nft's user data of a table that contains its comment (`NFTNL_UDATA_TABLE_COMMENT`).
const TABLE_COMMENT: u8 = 0;
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

/// Deletes the table, whether it exists or not. The kernel rejects the deletion of a missing table, so the table is
/// created first.
pub(crate) fn clear_table(writer: &mut BatchWriter) {
    writer.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, |buffer| buffer.put_string(NFTA_TABLE_NAME, TABLE));
    delete_table(writer);
}

pub(crate) fn delete_table(writer: &mut BatchWriter) {
    writer.message(NFT_MSG_DELTABLE, 0, |buffer| buffer.put_string(NFTA_TABLE_NAME, TABLE));
}

/// Adds the table with its sets, and the chains and rules that do not depend on portals.
pub(crate) fn add_table(writer: &mut BatchWriter, settings: Settings) {
    add_table_with_comment(writer, &comment(settings));
    add_sets(writer, settings);
    for name in
        [chain::ANCHOR, chain::REFUSE, chain::REFUSE_CURRENT, chain::RELAY, chain::SEND, chain::PORTALS]
    {
        add_chain(writer, name);
    }
    for (name, hook) in PORTAL_HOOKS {
        add_base_chain(writer, name, hook, settings.nat_priority);
    }
    // The guard of the relay's port sees destinations after their translation.
    add_base_chain(writer, chain::INPUT, NF_INET_LOCAL_IN, NF_IP_PRI_NAT_SRC);
    // A NAT rule that never matches and is never removed: see `proxy_core::nft`.
    add_rule(writer, chain::ANCHOR, |rule| rule.match_protocol(u8::MAX).redirect(settings.relay_port));
    add_refusal(writer);
    add_relay_rules(writer, settings);
    // All chains of dispatch keys go to this chain with a number: a map that many rules use is slow to change.
    for family in Family::BOTH {
        add_rule(writer, chain::SEND, |rule| {
            let number = rule.match_family(family).load(family, &PORTAL_KEY);
            rule.load_from_priority(number).lookup(&per_family(set::BACKENDS, family), KEY_REGISTER);
            rule.translate(family);
        });
    }
    add_portal_rules(writer, settings.on_demand);
    add_base_rules(writer, settings.relay_port);
}

fn add_table_with_comment(writer: &mut BatchWriter, comment: &str) {
    let length = u8::try_from(comment.len() + 1).expect("the comment of any settings is below 100 bytes");
    let mut data = vec![TABLE_COMMENT, length];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    writer.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, |buffer| {
        buffer.put_string(NFTA_TABLE_NAME, TABLE);
        buffer.put(NFTA_TABLE_USERDATA, &data);
    });
}

/// Redirects to the relay, or rejects if the agent has none.
fn add_relay_rules(writer: &mut BatchWriter, settings: Settings) {
    for protocol in [TCP, UDP] {
        add_rule(writer, chain::RELAY, |rule| match settings.has_relay() {
            true => rule.match_protocol(protocol).redirect(settings.relay_port),
            false => rule.match_protocol(protocol).verdict(NFT_GOTO, Some(chain::REFUSE)),
        });
    }
    // Protocols that the relay does not support must not bypass it.
    add_rule(writer, chain::RELAY, |rule| rule.verdict(NF_DROP, None));
}

/// Adds the chains that reject.
///
/// A packet that is being processed while its table is replaced finds the maps empty at once, but the plain sets still
/// full: the kernel removes the elements of maps only. Such a packet would be rejected as one to a port without a
/// portal. So the table rejects only while its map `current` has its elements; otherwise it drops the packet, the
/// client retransmits it, and the new table processes it.
fn add_refusal(writer: &mut BatchWriter) {
    add_rule(writer, chain::REFUSE, |rule| rule.load_family().lookup_verdict(set::CURRENT, KEY_REGISTER));
    add_rule(writer, chain::REFUSE, |rule| rule.verdict(NF_DROP, None));
    add_rule(writer, chain::REFUSE_CURRENT, |rule| rule.match_protocol(TCP).reject(true));
    add_rule(writer, chain::REFUSE_CURRENT, |rule| rule.reject(false));
    writer.message(NFT_MSG_NEWSETELEM, NLM_F_CREATE, |buffer| {
        buffer.put_string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
        buffer.put_string(NFTA_SET_ELEM_LIST_SET, set::CURRENT);
        buffer.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |buffer| {
            for family in Family::BOTH {
                put_verdict_element(buffer, &[family_number(family)], NFT_GOTO, chain::REFUSE_CURRENT);
            }
        });
    });
}

/// Adds the rules of the base chains: packets of the pod and of its guests go to the portals, except those to a local
/// address. Packets from other hosts on the pod's networks do not.
fn add_base_rules(writer: &mut BatchWriter, relay_port: u16) {
    add_rule(writer, chain::PREROUTING, |rule| {
        rule.load_input_interface().match_not_in(set::GUESTS).verdict(NFT_RETURN, None);
    });
    // Packets to a local address leave through loopback, so all others can go on at once: a lookup fails if the table
    // was just replaced, and each additional lookup makes that more likely.
    add_rule(writer, chain::OUTPUT, |rule| {
        rule.match_not_loopback().verdict(NFT_GOTO, Some(chain::PORTALS));
    });
    // The pod's own packets to the relay's port were not redirected; redirection happens after these rules.
    for protocol in [TCP, UDP] {
        add_rule(writer, chain::OUTPUT, |rule| {
            rule.match_protocol(protocol).match_port(relay_port).match_local_address();
            rule.verdict(NFT_GOTO, Some(chain::REFUSE));
        });
    }
    for (name, _) in PORTAL_HOOKS {
        add_rule(writer, name, |rule| rule.match_local_address().verdict(NFT_RETURN, None));
        add_rule(writer, name, |rule| rule.verdict(NFT_JUMP, Some(chain::PORTALS)));
    }
    for protocol in [TCP, UDP] {
        add_rule(writer, chain::INPUT, |rule| {
            rule.match_protocol(protocol).match_port(relay_port).match_not_translated();
            rule.verdict(NF_DROP, None);
        });
    }
}

fn add_portal_rules(writer: &mut BatchWriter, on_demand: bool) {
    let (range_verdict, range_chain) =
        if on_demand { (NFT_GOTO, Some(chain::RELAY)) } else { (NF_DROP, None) };
    for family in Family::BOTH {
        add_rule(writer, chain::PORTALS, |rule| {
            let key = rule.match_family(family).load(family, &PORTAL_KEY);
            rule.lookup(&per_family(set::PORTALS, family), key).via_priority(key);
            rule.lookup_verdict(set::DISPATCH, key);
        });
    }
    for family in Family::BOTH {
        add_rule(writer, chain::PORTALS, |rule| {
            rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
            rule.match_in(&per_family(set::ADDRESSES, family)).verdict(NFT_GOTO, Some(chain::REFUSE));
        });
        add_rule(writer, chain::PORTALS, |rule| {
            rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
            rule.match_in(&per_family(set::RANGES, family)).verdict(range_verdict, range_chain);
        });
    }
}

/// Adds the chain of a dispatch key, and its element in the map of verdicts.
pub(crate) fn add_dispatch_key(writer: &mut BatchWriter, dispatch: DispatchKey) {
    let name = dispatch.to_string();
    add_chain(writer, &name);
    for family in Family::BOTH.into_iter().filter(|_| dispatch.guarded) {
        add_rule(writer, &name, |rule| {
            rule.match_family(family).load(family, &SOURCE_KEY);
            rule.match_not_in(&per_family(set::SOURCES, family)).verdict(NF_DROP, None);
        });
    }
    match dispatch.action {
        Action::Reject => add_rule(writer, &name, |rule| rule.verdict(NFT_GOTO, Some(chain::REFUSE))),
        Action::Relay => add_rule(writer, &name, |rule| rule.verdict(NFT_GOTO, Some(chain::RELAY))),
        Action::Drop => add_rule(writer, &name, |rule| rule.verdict(NF_DROP, None)),
        Action::Forward { count, affinity_s: 0 } => {
            add_forward_rule(writer, &name, NumberGenerator::Random(count));
        }
        Action::RoundRobin { count, .. } => {
            add_forward_rule(writer, &name, NumberGenerator::Incremental(count));
        }
        Action::Forward { count, affinity_s } => {
            for family in Family::BOTH {
                add_affinity_rules(writer, &name, family, count, affinity_s);
            }
        }
    }
    put_dispatch_element(writer, NFT_MSG_NEWSETELEM, NLM_F_CREATE, dispatch);
}

/// Deletes the chain of a dispatch key, and its element in the map of verdicts.
pub(crate) fn delete_dispatch_key(writer: &mut BatchWriter, dispatch: DispatchKey) {
    put_dispatch_element(writer, NFT_MSG_DELSETELEM, 0, dispatch);
    writer.message(NFT_MSG_DELCHAIN, 0, |buffer| {
        buffer.put_string(NFTA_CHAIN_TABLE, TABLE);
        buffer.put_string(NFTA_CHAIN_NAME, &dispatch.to_string());
    });
}

fn put_dispatch_element(writer: &mut BatchWriter, kind: u16, flags: u16, dispatch: DispatchKey) {
    writer.message(kind, flags, |buffer| {
        buffer.put_string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
        buffer.put_string(NFTA_SET_ELEM_LIST_SET, set::DISPATCH);
        buffer.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |buffer| {
            put_verdict_element(buffer, &dispatch_key(&dispatch), NFT_JUMP, &dispatch.to_string());
        });
    });
}

fn add_forward_rule(writer: &mut BatchWriter, chain: &str, generator: NumberGenerator) {
    add_rule(writer, chain, |rule| {
        rule.generate_number(generator, KEY_REGISTER).store_in_priority(KEY_REGISTER);
        rule.verdict(NFT_GOTO, Some(self::chain::SEND));
    });
}

/// Adds the rules for session affinity, as in the text form: a known client goes to the same backend, an entry whose
/// backend was removed is deleted, and a new client is recorded. The keys of portal and client have the same length, so
/// the slot, and later the backend id, are in the register after both.
fn add_affinity_rules(writer: &mut BatchWriter, chain: &str, family: Family, count: u16, affinity_s: u32) {
    let clients = per_family(set::CLIENTS, family);
    add_rule(writer, chain, |rule| {
        let id = rule.match_family(family).load(family, &CLIENT_KEY);
        rule.lookup(&clients, id).via_priority(id).map_update(&clients, id, affinity_s);
        rule.verdict(NFT_JUMP, Some(self::chain::SEND));
    });
    add_rule(writer, chain, |rule| {
        let id = rule.match_family(family).load(family, &CLIENT_KEY);
        rule.load_immediate(id, &[0; 4]).map_delete(&clients, id);
    });
    add_rule(writer, chain, |rule| {
        let id = rule.match_family(family).load(family, &PORTAL_KEY);
        rule.generate_number(NumberGenerator::Random(count), id);
        rule.lookup(&per_family(set::IDS, family), id).via_priority(id);
        rule.load(family, &CLIENT_KEY);
        rule.map_update(&clients, id, affinity_s).verdict(NFT_GOTO, Some(self::chain::SEND));
    });
}

fn add_chain(writer: &mut BatchWriter, name: &str) {
    writer.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |buffer| {
        buffer.put_string(NFTA_CHAIN_TABLE, TABLE);
        buffer.put_string(NFTA_CHAIN_NAME, name);
    });
}

fn add_base_chain(writer: &mut BatchWriter, name: &str, hook: u32, priority: i32) {
    writer.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |buffer| {
        buffer.put_string(NFTA_CHAIN_TABLE, TABLE);
        buffer.put_string(NFTA_CHAIN_NAME, name);
        buffer.nest(NFTA_CHAIN_HOOK, |buffer| {
            buffer.put_u32(NFTA_HOOK_HOOKNUM, hook);
            buffer.put(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
        });
        buffer.put_string(NFTA_CHAIN_TYPE, NAT_CHAIN);
        buffer.put_u32(NFTA_CHAIN_POLICY, NF_ACCEPT);
    });
}

fn add_rule(writer: &mut BatchWriter, chain: &str, fill: impl FnOnce(&mut RuleBuilder<'_>)) {
    writer.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |buffer| {
        buffer.put_string(NFTA_RULE_TABLE, TABLE);
        buffer.put_string(NFTA_RULE_CHAIN, chain);
        buffer.nest(NFTA_RULE_EXPRESSIONS, |buffer| fill(&mut RuleBuilder(buffer)));
    });
}
