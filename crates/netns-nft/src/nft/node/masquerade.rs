//! The rules of the node's table that masquerade connections whose destination it translated, as netlink messages.
//!
//! A connection is recognised by its original destination in conntrack: the rules look the frontend up again, by address
//! before node ports. Its kind and a flag in its value select the chain that decides.

use proxy_core::address::Family;
use proxy_core::ruleset::node::{NodeSettings, code};

use crate::netlink::uapi::*;
use crate::nft::expression::conntrack::Original;
use crate::nft::expression::{HeaderField, KEY_REGISTER, RuleBuilder};
use crate::nft::names::per_family;
use crate::nft::node::names::{chain, set};
use crate::nft::node::schema::{detecting_families, for_pods};
use crate::nft::table_writer::TableWriter;

/// Adds the rules that look up the frontends of translated connections, in the order of the chain `services`.
pub(super) fn add_masquerade_rules(table: &mut TableWriter<'_>, settings: NodeSettings) {
    table.add_rule(chain::POSTROUTING, |rule| rule.match_translated(false).verdict(NFT_RETURN, None));
    table.add_rule(chain::POSTROUTING, |rule| rule.match_loopback(true).verdict(NFT_RETURN, None));
    for family in Family::BOTH {
        let address = Original::DestinationAddress(family);
        table.add_rule(chain::POSTROUTING, |rule| {
            let port = rule.match_family(family).load_original(KEY_REGISTER, address);
            rule.load_original_port(port).lookup(&per_family(set::SERVICES, family), KEY_REGISTER);
            rule.store_in_priority(KEY_REGISTER).verdict(NFT_GOTO, Some(chain::AT_ADDRESS));
        });
        table.add_rule(chain::POSTROUTING, |rule| {
            rule.match_family(family).load_original(KEY_REGISTER, address);
            rule.match_in(&per_family(set::NODE_ADDRESSES, family)).load_original_port(KEY_REGISTER);
            rule.lookup(&per_family(set::NODE_PORTS, family), KEY_REGISTER);
            rule.store_in_priority(KEY_REGISTER).verdict(NFT_GOTO, Some(chain::EXTERNAL));
        });
        table.add_rule(chain::AT_ADDRESS, |rule| {
            rule.match_family(family).load_original(KEY_REGISTER, address);
            rule.match_in(&per_family(set::ADDRESSES, family)).verdict(NFT_GOTO, Some(chain::INTERNAL));
        });
    }
    table.add_rule(chain::AT_ADDRESS, |rule| rule.verdict(NFT_GOTO, Some(chain::EXTERNAL)));
    table.add_rule(chain::EXTERNAL, |rule| {
        rule.match_flag(code::SHORT).verdict(NFT_GOTO, Some(chain::LOCAL_POLICY));
    });
    add_masquerade_chains(table, settings);
}

/// Resets the packet's priority, which carried the value of its frontend: queues of network devices read it.
fn reset_priority<'a, 'b>(rule: &'a mut RuleBuilder<'b>) -> &'a mut RuleBuilder<'b> {
    rule.load_immediate(KEY_REGISTER, &[0; 4]).store_in_priority(KEY_REGISTER)
}

/// Adds the rules that masquerade. An endpoint that reaches itself is masqueraded in any case.
fn add_masquerade_chains(table: &mut TableWriter<'_>, settings: NodeSettings) {
    for name in [chain::INTERNAL, chain::LOCAL_POLICY, chain::EXTERNAL] {
        let masquerades_all = match name {
            chain::INTERNAL => settings.masquerade_all,
            chain::EXTERNAL => !settings.keep_client_address,
            _ => false,
        };
        if masquerades_all {
            table.add_rule(name, |rule| reset_priority(rule).masquerade());
            continue;
        }
        table.add_rule(name, |rule| {
            reset_priority(rule);
        });
        for family in Family::BOTH {
            table.add_rule(name, |rule| {
                rule.match_family(family);
                rule.load(family, &[HeaderField::SourceAddress, HeaderField::DestinationAddress]);
                rule.match_in(&per_family(set::HAIRPIN, family)).masquerade();
            });
        }
        match name {
            chain::INTERNAL => {
                for_pods(table, settings, name, (NFT_RETURN, None));
                for family in detecting_families(settings) {
                    table.add_rule(name, |rule| rule.match_family(family).masquerade());
                }
            }
            chain::LOCAL_POLICY => {
                // As with kube-proxy, a process of the node with a source address of pods counts as a pod.
                for_pods(table, settings, name, (NFT_RETURN, None));
                table.add_rule(name, |rule| rule.match_local(HeaderField::SourceAddress).masquerade());
            }
            _ => add_kept_addresses(table, name),
        }
    }
}

/// Adds the rules that masquerade unless the endpoint is on this node.
fn add_kept_addresses(table: &mut TableWriter<'_>, chain: &str) {
    for family in Family::BOTH {
        table.add_rule(chain, |rule| {
            rule.match_family(family).load(family, &[HeaderField::DestinationAddress]);
            rule.match_in(&per_family(set::LOCAL_ENDPOINTS, family)).verdict(NFT_RETURN, None);
        });
    }
    table.add_rule(chain, |rule| rule.masquerade());
}
