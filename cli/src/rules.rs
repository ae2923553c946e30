//! `portico rules`: the ruleset of a pod's network namespace, as text for nft or iptables, or as JSON; with
//! `--node-portals`, the table of the node's network namespace, as text for nft.

use std::io::Write;

use proxy_core::address::Family;
use proxy_core::iptables::Iptables;
use proxy_core::portal::{NodeContext, Place, portals};
use proxy_core::ruleset::node::{NodeRuleset, NodeSettings};
use proxy_core::ruleset::{Rule, Ruleset, Settings};
use serde_json::{Value, json};

use crate::args::{RulesArgs, RulesOutput};
use crate::manifests;
use crate::node_portals::table_inputs;
use crate::portals::warn_conflicts;

/// Runs `portico rules`. Returns whether all of the input was valid.
pub(crate) fn run(args: &RulesArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let RulesArgs { input, context, node_portals, node, nat_priority, counters, output } = args;
    let (objects, is_valid) = manifests::read_objects(input);
    let place = if *node_portals { Place::Node } else { Place::Pod };
    let context = NodeContext { place, ..manifests::node_context(context, &objects) };
    let portals = portals(&objects.into_snapshot(), &context);
    warn_conflicts(&portals);
    if *node_portals {
        let (settings, environment) = table_inputs(node, &context);
        let nat_priority = nat_priority.unwrap_or(settings.nat_priority);
        let settings = NodeSettings { nat_priority, ..settings };
        write!(out, "{}", NodeRuleset::new(&portals, settings, environment))?;
        return Ok(is_valid);
    }
    let defaults = Settings::default();
    let nat_priority = nat_priority.unwrap_or(defaults.nat_priority);
    let settings = Settings { nat_priority, counters: *counters, ..defaults };
    match output {
        RulesOutput::Nft => write!(out, "{}", Ruleset::new(&portals, settings))?,
        RulesOutput::Iptables => write!(out, "{}", Iptables { portals: &portals, family: Family::V4 })?,
        RulesOutput::Ip6tables => write!(out, "{}", Iptables { portals: &portals, family: Family::V6 })?,
        RulesOutput::Json => {
            serde_json::to_writer_pretty(&mut *out, &to_json(&Ruleset::new(&portals, settings)))?;
            writeln!(out)?;
        }
    }
    Ok(is_valid)
}

fn to_json(ruleset: &Ruleset) -> Value {
    let portals: Vec<Value> = ruleset
        .rules()
        .map(|(key, Rule { dispatch: pick, backends, ids, sources, is_cluster_ip })| {
            json!({
                "address": key.address, "protocol": key.protocol, "port": key.port,
                "code": pick.code(), "chain": pick.to_string(), "action": pick.action,
                "backends": backends, "ids": ids, "sources": sources, "clusterAddress": is_cluster_ip,
            })
        })
        .collect();
    let addresses: Vec<_> = ruleset.addresses().collect();
    json!({
        "table": proxy_core::nft::TABLE, "settings": ruleset.settings(),
        "portals": portals, "addresses": addresses, "ranges": ruleset.ranges(),
    })
}
