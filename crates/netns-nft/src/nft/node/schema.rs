//! The schema of the node's table: its chains and rules, as netlink messages; its sets are in `sets`.
//!
//! ```text
//! prerouting ─► guard ─► (pods) short ─► services ─► (action ─► map picks) ─► pick-N, own ─► backend
//! output ─────► loopback, guard ─► short ─► services             └─► refuse, drop
//! postrouting ─► hairpin, internal, local-policy, external ─► masquerade
//! ```
//! All chains are of type nat, so only the first packet of a connection passes them. No rule sets a packet mark: the
//! original destination in conntrack determines at postrouting whether the connection is masqueraded. The packet's
//! priority carries the action of the frontend from a lookup to the next one, as in pods.

use proxy_core::address::Family;
use proxy_core::ruleset::node::{BackendSelection, FrontendAction, NodeChain, NodeSettings, OwnChain, code};
use proxy_core::service::Protocol;

use crate::netlink::uapi::*;
use crate::nft::element::protocol_number;
use crate::nft::expression::conntrack::Original;
use crate::nft::expression::{HeaderField, KEY_REGISTER, NumberGenerator, RuleBuilder};
use crate::nft::names::per_family;
use crate::nft::node::element::{CONSTANT_CODES, code_key};
use crate::nft::node::names::{chain, clients, set};
use crate::nft::node::sets::add_sets;
use crate::nft::schema::add_refusal;
use crate::nft::table_writer::{ElementChange, TableWriter};

/// The version of the schema, which is a part of the table's comment. A table of another version is replaced.
pub(crate) const NODE_LAYOUT: u32 = 1;
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
        (detects_pods, ", detects pods"),
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
    let settings = NodeSettings {
        nat_priority: nat_priority.parse().ok()?,
        loopback_port: port.parse().ok()?,
        detects_pods: rest.contains(", detects pods"),
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
        chain::GUARD,
        chain::SHORT,
        chain::OWN,
        chain::SERVICES,
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
    for (code, target) in CONSTANT_CODES.into_iter().map(|code| (code, constant_chain(code))) {
        table.put_verdict(ElementChange::Add, set::PICKS, &code_key(code), (NFT_GOTO, target));
    }
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

/// Loads the target of the frontend, which `dispatch` stored.
fn load_target<'a, 'b>(rule: &'a mut RuleBuilder<'b>) -> &'a mut RuleBuilder<'b> {
    let mask = (!FrontendAction::CODE_MASK).to_ne_bytes();
    rule.load_from_priority(KEY_REGISTER).mask(KEY_REGISTER, mask, KEY_REGISTER)
}

/// Looks the key in the registers up in a map of frontends, and continues in the chain of the action.
fn dispatch(rule: &mut RuleBuilder<'_>, map: &str) {
    rule.lookup(map, KEY_REGISTER).via_priority(KEY_REGISTER);
    let mask = FrontendAction::CODE_MASK.to_ne_bytes();
    rule.mask(KEY_REGISTER, mask, KEY_REGISTER).lookup_verdict(set::PICKS, KEY_REGISTER);
}

/// Adds the rules that look up frontends: by address and port, then by the port of a node address.
fn add_service_rules(table: &mut TableWriter<'_>) {
    for family in Family::BOTH {
        table.add_rule(chain::GUARD, |rule| {
            rule.match_family(family).load(family, &SOURCE_KEY);
            // The key of a frontend is the start of the key of a source.
            rule.match_in(&per_family(set::GUARDED, family)).match_not_in(&per_family(set::SOURCES, family));
            rule.verdict(NF_DROP, None);
        });
        add_frontend_lookup(table, family, chain::SHORT, set::SHORT);
        add_node_port_lookup(table, family, chain::SHORT, set::SHORT_PORTS);
    }
    for family in Family::BOTH {
        add_frontend_lookup(table, family, chain::SERVICES, set::SERVICES);
        for (name, (verdict, target)) in
            [(set::ADDRESSES, (NFT_GOTO, Some(chain::REFUSE))), (set::RANGES, (NF_DROP, None))]
        {
            table.add_rule(chain::SERVICES, |rule| {
                rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
                rule.match_in(&per_family(name, family)).verdict(verdict, target);
            });
        }
        add_node_port_lookup(table, family, chain::SERVICES, set::NODE_PORTS);
    }
}

/// Adds a rule that looks frontends up in a map by address and port.
fn add_frontend_lookup(table: &mut TableWriter<'_>, family: Family, chain: &str, map: &str) {
    table.add_rule(chain, |rule| {
        rule.match_family(family).load(family, &FRONTEND_KEY);
        dispatch(rule, &per_family(map, family));
    });
}

/// Adds a rule that looks frontends up in a map by the port of a node address.
fn add_node_port_lookup(table: &mut TableWriter<'_>, family: Family, chain: &str, map: &str) {
    table.add_rule(chain, |rule| {
        rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
        rule.match_in(&per_family(set::NODE_ADDRESSES, family)).load(family, &PORT_KEY);
        dispatch(rule, &per_family(map, family));
    });
}

/// Adds the rules of the base chains that translate destinations.
fn add_base_rules(table: &mut TableWriter<'_>, settings: NodeSettings) {
    table.add_rule(chain::PREROUTING, |rule| rule.verdict(NFT_JUMP, Some(chain::GUARD)));
    if settings.detects_pods {
        for_pods(table, chain::PREROUTING, (NFT_JUMP, Some(chain::SHORT)));
    }
    table.add_rule(chain::PREROUTING, |rule| rule.verdict(NFT_JUMP, Some(chain::SERVICES)));
    if settings.loopback_port != 0 {
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
    table.add_rule(chain::OUTPUT, |rule| rule.verdict(NFT_JUMP, Some(chain::GUARD)));
    // The node itself is a client in the cluster.
    table.add_rule(chain::OUTPUT, |rule| rule.verdict(NFT_JUMP, Some(chain::SHORT)));
    table.add_rule(chain::OUTPUT, |rule| rule.verdict(NFT_JUMP, Some(chain::SERVICES)));
}

/// Adds rules with a verdict for packets from pods.
fn for_pods(table: &mut TableWriter<'_>, chain: &str, (verdict, target): (i32, Option<&str>)) {
    for family in Family::BOTH {
        table.add_rule(chain, |rule| {
            rule.match_family(family).load(family, &[HeaderField::SourceAddress]);
            rule.match_in(&per_family(set::PODS, family)).verdict(verdict, target);
        });
    }
    table.add_rule(chain, |rule| {
        rule.load_input_interface().match_in(set::POD_INTERFACES).verdict(verdict, target);
    });
}

/// Adds the rules that masquerade connections whose destination this table translated.
fn add_masquerade_rules(table: &mut TableWriter<'_>, settings: NodeSettings) {
    table.add_rule(chain::POSTROUTING, |rule| rule.match_translated(false).verdict(NFT_RETURN, None));
    table.add_rule(chain::POSTROUTING, |rule| rule.match_loopback(true).verdict(NFT_RETURN, None));
    for family in Family::BOTH {
        table.add_rule(chain::POSTROUTING, |rule| {
            rule.match_family(family);
            rule.load(family, &[HeaderField::SourceAddress, HeaderField::DestinationAddress]);
            reset_priority(rule.match_in(&per_family(set::HAIRPIN, family))).masquerade();
        });
    }
    for family in Family::BOTH {
        table.add_rule(chain::POSTROUTING, |rule| {
            rule.match_family(family).load_original(KEY_REGISTER, Original::DestinationAddress(family));
            reset_priority(rule.match_in(&per_family(set::ADDRESSES, family)));
            rule.verdict(NFT_GOTO, Some(chain::INTERNAL));
        });
        for (services, ports, target) in [
            (set::SHORT, set::SHORT_PORTS, chain::LOCAL_POLICY),
            (set::SERVICES, set::NODE_PORTS, chain::EXTERNAL),
        ] {
            table.add_rule(chain::POSTROUTING, |rule| {
                let address = Original::DestinationAddress(family);
                let port = rule.match_family(family).load_original(KEY_REGISTER, address);
                rule.load_original_port(port);
                match_key_of(rule, &per_family(services, family)).verdict(NFT_GOTO, Some(target));
            });
            table.add_rule(chain::POSTROUTING, |rule| {
                rule.match_family(family).load_original(KEY_REGISTER, Original::DestinationAddress(family));
                rule.match_in(&per_family(set::NODE_ADDRESSES, family)).load_original_port(KEY_REGISTER);
                match_key_of(rule, &per_family(ports, family)).verdict(NFT_GOTO, Some(target));
            });
        }
    }
    add_masquerade_chains(table, settings);
}

/// Continues if a map contains the key in the registers. The kernel requires a target for the value, and nft lists the
/// lookup only if the value is used.
fn match_key_of<'a, 'b>(rule: &'a mut RuleBuilder<'b>, map: &str) -> &'a mut RuleBuilder<'b> {
    reset_priority(rule.lookup(map, KEY_REGISTER).store_in_priority(KEY_REGISTER))
}

/// Resets the packet's priority, which carried the action of its frontend: queues of network devices read it.
fn reset_priority<'a, 'b>(rule: &'a mut RuleBuilder<'b>) -> &'a mut RuleBuilder<'b> {
    rule.load_immediate(KEY_REGISTER, &[0; 4]).store_in_priority(KEY_REGISTER)
}

fn add_masquerade_chains(table: &mut TableWriter<'_>, settings: NodeSettings) {
    if settings.masquerade_all {
        for name in [chain::INTERNAL, chain::LOCAL_POLICY, chain::EXTERNAL] {
            table.add_rule(name, |rule| rule.masquerade());
        }
        return;
    }
    if settings.detects_pods {
        for_pods(table, chain::INTERNAL, (NFT_RETURN, None));
        table.add_rule(chain::INTERNAL, |rule| rule.masquerade());
    }
    table.add_rule(chain::LOCAL_POLICY, |rule| rule.match_local(HeaderField::SourceAddress).masquerade());
    if settings.keep_client_address {
        for family in Family::BOTH {
            table.add_rule(chain::EXTERNAL, |rule| {
                rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
                rule.match_in(&per_family(set::LOCAL_ENDPOINTS, family)).verdict(NFT_RETURN, None);
            });
        }
    }
    table.add_rule(chain::EXTERNAL, |rule| rule.masquerade());
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
        NodeChain::Own(own) => match own.selection {
            BackendSelection::Affinity(seconds) => add_affinity_rules(table, &name, own, seconds),
            BackendSelection::Random | BackendSelection::RoundRobin => table.add_rule(&name, |rule| {
                rule.load_immediate(KEY_REGISTER, &own.number.key().to_ne_bytes());
                rule.generate_number(NumberGenerator::Incremental(own.count), KEY_REGISTER + 1);
                translate(rule, own.family);
            }),
        },
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
        for bits in 0..8_u8 {
            let settings = NodeSettings {
                nat_priority: -101,
                loopback_port: u16::from(bits),
                detects_pods: bits & 1 != 0,
                masquerade_all: bits & 2 != 0,
                keep_client_address: bits & 4 != 0,
            };
            assert_eq!(super::settings(&comment(settings)), Some(settings));
        }
        assert_eq!(super::settings("portico node layout 0, nat priority -101, loopback port 0"), None);
        assert_eq!(super::settings("portico layout 1, nat priority -101, relay port 0"), None);
    }
}
