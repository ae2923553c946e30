//! The schema of the node's table: its chains and rules, as netlink messages; its sets are in `sets`.
//!
//! ```text
//! prerouting, output ─► services ─► (code ─► map codes) ─► pick-N, own ─► backend
//!                          │                        ├────► flagged, by-client, short ─► (map picks) ─► pick-N
//!                          └─► loopback             └────► refuse, drop
//! postrouting ─► at-address, external ─► internal, local-policy ─► masquerade
//! ```
//! All chains are of type nat, so only the first packet of a connection passes them. No rule sets a packet mark: the
//! original destination in conntrack determines at postrouting whether the connection is masqueraded. The packet's
//! priority carries the value of the frontend from a lookup to the next one, as in pods. The first packet of a connection to
//! a node port takes eight lookups: maps by address come before maps by port, and others follow only from flags.

use proxy_core::address::Family;
use proxy_core::ruleset::node::{BackendSelection, NodeChain, NodeSettings, OwnChain, PodDetection, code};
use proxy_core::service::Protocol;

use crate::netlink::uapi::*;
use crate::nft::element::protocol_number;
use crate::nft::expression::{HeaderField, KEY_REGISTER, NumberGenerator, RuleBuilder};
use crate::nft::names::per_family;
use crate::nft::node::element::{CONSTANT_CODES, code_key};
use crate::nft::node::masquerade::add_masquerade_rules;
use crate::nft::node::names::{chain, clients, set};
use crate::nft::node::sets::add_sets;
use crate::nft::schema::add_refusal;
use crate::nft::table_writer::{ElementChange, TableWriter};

/// The version of the schema, which is a part of the table's comment. A table of another version is replaced.
pub(crate) const NODE_LAYOUT: u32 = 2;
/// The priority of the chain that masquerades, before those of kube-proxy and of CNI plugins.
const MASQUERADE_PRIORITY: i32 = NF_IP_PRI_NAT_SRC - 1;
const TCP: u8 = protocol_number(Protocol::Tcp);

const FRONTEND_KEY: [HeaderField; 3] =
    [HeaderField::DestinationAddress, HeaderField::Protocol, HeaderField::DestinationPort];
const PORT_KEY: [HeaderField; 2] = [HeaderField::Protocol, HeaderField::DestinationPort];
const SOURCE_KEY: [HeaderField; 4] = [
    HeaderField::DestinationAddress,
    HeaderField::Protocol,
    HeaderField::DestinationPort,
    HeaderField::SourceAddress,
];

/// The comment of the table: the version of the schema, and the settings.
pub(crate) fn comment(settings: NodeSettings) -> String {
    let NodeSettings { nat_priority, loopback_port, .. } = settings;
    let options = options(settings);
    format!(
        "portico node layout {NODE_LAYOUT}, nat priority {nat_priority}, loopback port {loopback_port}{options}"
    )
}

fn options(settings: NodeSettings) -> String {
    let NodeSettings { detects_pods, masquerade_all, keep_client_address, .. } = settings;
    let options = [
        (detects_pods == PodDetection::BOTH, ", detects pods"),
        (detects_pods.v4 && !detects_pods.v6, ", detects pods in IPv4"),
        (detects_pods.v6 && !detects_pods.v4, ", detects pods in IPv6"),
        (masquerade_all, ", masquerades all"),
        (keep_client_address, ", keeps client addresses"),
    ];
    options.into_iter().filter(|(is_set, _)| *is_set).map(|(_, text)| text).collect()
}

/// Parses the settings from a comment of this version.
pub(crate) fn settings(text: &str) -> Option<NodeSettings> {
    let rest = text.strip_prefix(&format!("portico node layout {NODE_LAYOUT}, nat priority "))?;
    let (nat_priority, rest) = rest.split_once(", loopback port ")?;
    let port = rest.split(',').next()?;
    let detects_pods = match () {
        () if rest.contains(", detects pods in IPv4") => PodDetection { v4: true, v6: false },
        () if rest.contains(", detects pods in IPv6") => PodDetection { v4: false, v6: true },
        () if rest.contains(", detects pods") => PodDetection::BOTH,
        () => PodDetection::NONE,
    };
    let settings = NodeSettings {
        nat_priority: nat_priority.parse().ok()?,
        loopback_port: port.parse().ok()?,
        detects_pods,
        masquerade_all: rest.contains(", masquerades all"),
        keep_client_address: rest.contains(", keeps client addresses"),
    };
    (comment(settings) == text).then_some(settings)
}

/// Adds the table with its sets, and the chains and rules that do not depend on targets.
pub(crate) fn add_table(table: &mut TableWriter<'_>, settings: NodeSettings) {
    table.add(&comment(settings));
    add_sets(table);
    for name in [
        chain::ANCHOR,
        chain::REFUSE,
        chain::REFUSE_CURRENT,
        chain::DROP,
        chain::FLAGGED,
        chain::BY_CLIENT,
        chain::SHORT,
        chain::OWN,
        chain::SERVICES,
        chain::AT_ADDRESS,
        chain::INTERNAL,
        chain::LOCAL_POLICY,
        chain::EXTERNAL,
    ] {
        table.add_chain(name);
    }
    table.add_base_chain(chain::PREROUTING, NF_INET_PRE_ROUTING, settings.nat_priority);
    table.add_base_chain(chain::OUTPUT, NF_INET_LOCAL_OUT, settings.nat_priority);
    table.add_base_chain(chain::POSTROUTING, NF_INET_POST_ROUTING, MASQUERADE_PRIORITY);
    // A NAT rule that never matches and is never removed: translated connections freeze without any.
    table.add_rule(chain::ANCHOR, |rule| rule.match_protocol(u8::MAX).redirect(1));
    add_refusal(table);
    table.add_rule(chain::DROP, |rule| rule.verdict(NF_DROP, None));
    table.add_rule(chain::OWN, |rule| {
        load_target(rule).lookup_verdict(set::OWN, KEY_REGISTER);
    });
    for code in CONSTANT_CODES {
        let chain = constant_chain(code);
        table.put_verdict(ElementChange::Add, set::PICKS, &code_key(code), (NFT_GOTO, chain));
        for flags in code::ALL_FLAGS {
            let chain = if flags == 0 { chain } else { chain::FLAGGED };
            table.put_verdict(ElementChange::Add, set::CODES, &code_key(code | flags), (NFT_GOTO, chain));
        }
    }
    add_flagged_rules(table, settings);
    add_service_rules(table);
    add_base_rules(table, settings);
    add_masquerade_rules(table, settings);
}

/// The chain of an action without a number of backends.
pub(crate) const fn constant_chain(code: u16) -> &'static str {
    match code {
        code::REJECT => chain::REFUSE,
        code::OWN_CHAIN => chain::OWN,
        _ => chain::DROP,
    }
}

/// Loads the target of the frontend, which `lookup_frontend` stored.
fn load_target<'a, 'b>(rule: &'a mut RuleBuilder<'b>) -> &'a mut RuleBuilder<'b> {
    let mask = (!u32::from(code::MASK)).to_ne_bytes();
    rule.load_from_priority(KEY_REGISTER).mask(KEY_REGISTER, mask, KEY_REGISTER)
}

/// Looks the key in the registers up in a map of frontends, and stores the value.
fn lookup_frontend<'a, 'b>(rule: &'a mut RuleBuilder<'b>, map: &str) -> &'a mut RuleBuilder<'b> {
    rule.lookup(map, KEY_REGISTER).store_in_priority(KEY_REGISTER)
}

/// Continues in the chain of the code that `lookup_frontend` stored.
fn dispatch(rule: &mut RuleBuilder<'_>, map: &str, mask: u16) {
    rule.load_from_priority(KEY_REGISTER).mask(KEY_REGISTER, u32::from(mask).to_ne_bytes(), KEY_REGISTER);
    rule.lookup_verdict(map, KEY_REGISTER);
}

/// As `dispatch`, without the flags of the code.
fn dispatch_without_flags(rule: &mut RuleBuilder<'_>) {
    dispatch(rule, set::PICKS, code::MASK & !code::FLAGS);
}

/// Adds the rules of frontends with flags: the check of sources, and another action for clients in the cluster.
fn add_flagged_rules(table: &mut TableWriter<'_>, settings: NodeSettings) {
    for family in Family::BOTH {
        table.add_rule(chain::FLAGGED, |rule| {
            rule.match_flag(code::GUARDED).match_family(family).load(family, &SOURCE_KEY);
            rule.match_not_in(&per_family(set::SOURCES, family)).verdict(NF_DROP, None);
        });
    }
    table.add_rule(chain::FLAGGED, |rule| {
        rule.match_flag(code::SHORT).verdict(NFT_JUMP, Some(chain::BY_CLIENT));
    });
    table.add_rule(chain::FLAGGED, dispatch_without_flags);
    // The node itself, whose packets have no input interface, is a client in the cluster.
    table.add_rule(chain::BY_CLIENT, |rule| {
        rule.match_no_input_interface().verdict(NFT_GOTO, Some(chain::SHORT));
    });
    for_pods(table, settings, chain::BY_CLIENT, (NFT_GOTO, Some(chain::SHORT)));
    for family in Family::BOTH {
        // Only a node port leads here without an element of the first map.
        for (key, map) in [(&FRONTEND_KEY[..], set::SHORT), (&PORT_KEY, set::SHORT_PORTS)] {
            table.add_rule(chain::SHORT, |rule| {
                rule.match_family(family).load(family, key);
                dispatch_without_flags(lookup_frontend(rule, &per_family(map, family)));
            });
        }
    }
}

/// Adds the rules that look up frontends: by address and port, otherwise by the port of a node address.
fn add_service_rules(table: &mut TableWriter<'_>) {
    for family in Family::BOTH {
        table.add_rule(chain::SERVICES, |rule| {
            rule.match_family(family).load(family, &FRONTEND_KEY);
            dispatch(lookup_frontend(rule, &per_family(set::SERVICES, family)), set::CODES, code::MASK);
        });
        table.add_rule(chain::SERVICES, |rule| {
            rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
            rule.match_in(&per_family(set::NODE_ADDRESSES, family)).load(family, &PORT_KEY);
            dispatch(lookup_frontend(rule, &per_family(set::NODE_PORTS, family)), set::CODES, code::MASK);
        });
        for (name, (verdict, target)) in
            [(set::ADDRESSES, (NFT_GOTO, Some(chain::REFUSE))), (set::RANGES, (NF_DROP, None))]
        {
            table.add_rule(chain::SERVICES, |rule| {
                rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
                rule.match_in(&per_family(name, family)).verdict(verdict, target);
            });
        }
    }
}

/// Adds the rules of the base chains that translate destinations.
fn add_base_rules(table: &mut TableWriter<'_>, settings: NodeSettings) {
    for hook in [chain::PREROUTING, chain::OUTPUT] {
        table.add_rule(hook, |rule| rule.verdict(NFT_JUMP, Some(chain::SERVICES)));
    }
    if settings.loopback_port == 0 {
        return;
    }
    for family in Family::BOTH {
        table.add_rule(chain::OUTPUT, |rule| {
            rule.match_family(family).match_protocol(TCP).match_loopback_address(family);
            rule.load(family, &PORT_KEY);
            // Only whether there is such a node port matters; the listener finds its backends.
            rule.lookup(&per_family(set::NODE_PORTS, family), KEY_REGISTER);
            rule.store_in_priority(KEY_REGISTER).redirect(settings.loopback_port);
        });
    }
}

/// Adds rules with a verdict for packets from pods, in the families in which they are detected.
pub(super) fn for_pods(
    table: &mut TableWriter<'_>,
    settings: NodeSettings,
    chain: &str,
    (verdict, target): (i32, Option<&str>),
) {
    for family in detecting_families(settings) {
        table.add_rule(chain, |rule| {
            rule.match_family(family).load(family, &[HeaderField::SourceAddress]);
            rule.match_in(&per_family(set::PODS, family)).verdict(verdict, target);
        });
    }
    if settings.detects_pods != PodDetection::NONE {
        table.add_rule(chain, |rule| {
            rule.load_input_interface().match_in(set::POD_INTERFACES).verdict(verdict, target);
        });
    }
}

/// Returns the families in which pods are detected.
pub(super) fn detecting_families(settings: NodeSettings) -> impl Iterator<Item = Family> {
    Family::BOTH.into_iter().filter(move |family| settings.detects_pods.in_family(*family))
}

/// Adds the chain that selects a backend, with its rules.
pub(crate) fn add_target_chain(table: &mut TableWriter<'_>, target: NodeChain) {
    let name = target.to_string();
    table.add_chain(&name);
    match target {
        NodeChain::Pick(count) => {
            for family in Family::BOTH {
                table.add_rule(&name, |rule| {
                    load_target(rule.match_family(family));
                    rule.generate_number(NumberGenerator::Random(count), KEY_REGISTER + 1);
                    translate(rule, family);
                });
            }
        }
        NodeChain::Own(own) => {
            let generator = match own.selection {
                BackendSelection::Affinity(seconds) => return add_affinity_rules(table, &name, own, seconds),
                BackendSelection::Random => NumberGenerator::Random(own.count),
                BackendSelection::RoundRobin => NumberGenerator::Incremental(own.count),
            };
            table.add_rule(&name, |rule| {
                rule.load_immediate(KEY_REGISTER, &own.number.key().to_ne_bytes());
                rule.generate_number(generator, KEY_REGISTER + 1);
                translate(rule, own.family);
            });
        }
    }
}

/// Translates to the backend with the target and the number in the registers.
fn translate(rule: &mut RuleBuilder<'_>, family: Family) {
    rule.lookup(&per_family(set::BACKENDS, family), KEY_REGISTER).translate(family);
}

/// Adds the rules for session affinity: a known client goes to the same backend; an entry whose backend was removed is
/// deleted; a new client is recorded. If the map of clients is full, the client is balanced like one without affinity.
fn add_affinity_rules(table: &mut TableWriter<'_>, name: &str, own: OwnChain, seconds: u32) {
    let OwnChain { number, family, count, .. } = own;
    let clients = clients(family, number);
    let client = [HeaderField::SourceAddress];
    let number = number.key().to_ne_bytes();
    let translate_to_stored_id = |rule: &mut RuleBuilder<'_>| {
        rule.load_immediate(KEY_REGISTER, &number).load_from_priority(KEY_REGISTER + 1);
        translate(rule, family);
    };
    let store_random_id = |rule: &mut RuleBuilder<'_>| {
        rule.load_immediate(KEY_REGISTER, &number);
        rule.generate_number(NumberGenerator::Random(count), KEY_REGISTER + 1);
        rule.lookup(&per_family(set::IDS, family), KEY_REGISTER).store_in_priority(KEY_REGISTER);
    };
    table.add_rule(name, |rule| {
        let id = rule.load(family, &client);
        rule.lookup(&clients, id).via_priority(id).map_update(&clients, id, seconds);
        translate_to_stored_id(rule);
    });
    table.add_rule(name, |rule| {
        let id = rule.load(family, &client);
        rule.load_immediate(id, &[0; 4]).map_delete(&clients, id);
    });
    table.add_rule(name, |rule| {
        store_random_id(rule);
        let id = rule.load(family, &client);
        rule.load_from_priority(id).map_update(&clients, id, seconds);
        translate_to_stored_id(rule);
    });
    table.add_rule(name, |rule| {
        store_random_id(rule);
        translate_to_stored_id(rule);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_contains_the_settings() {
        for bits in 0..16_u8 {
            let settings = NodeSettings {
                nat_priority: -101,
                loopback_port: u16::from(bits),
                detects_pods: PodDetection { v4: bits & 1 != 0, v6: bits & 8 != 0 },
                masquerade_all: bits & 2 != 0,
                keep_client_address: bits & 4 != 0,
            };
            assert_eq!(super::settings(&comment(settings)), Some(settings));
        }
        assert_eq!(super::settings("portico node layout 1, nat priority -101, loopback port 0"), None);
        assert_eq!(super::settings("portico layout 1, nat priority -101, relay port 0"), None);
    }
}
