//! `portico rules`: the ruleset of a pod's network namespace, as text for nft or iptables, or as JSON; with
//! `--node-portals`, the table of the node's network namespace, as text for nft or as JSON.

use std::io::Write;

use clap::CommandFactory;
use clap::error::ErrorKind;
use proxy_core::address::Family;
use proxy_core::iptables::Iptables;
use proxy_core::portal::{NodeContext, Place, portals};
use proxy_core::ruleset::node::{FrontendAction, NodeRuleset, NodeSettings};
use proxy_core::ruleset::{Rule, Ruleset, Settings};
use serde_json::{Value, json};

use crate::args::{Args, RulesArgs, RulesOutput};
use crate::manifests;
use crate::node_portals::{refuse_unused, table_inputs};
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
        let (settings, environment) = table_inputs(node.as_ref(), &context);
        let nat_priority = nat_priority.unwrap_or(settings.nat_priority);
        let settings = NodeSettings { nat_priority, ..settings };
        write_node_table(&NodeRuleset::new(&portals, settings, environment), *output, out)?;
        return Ok(is_valid);
    }
    refuse_unused(node.as_ref(), "--node-portals");
    let defaults = Settings::default();
    let nat_priority = nat_priority.unwrap_or(defaults.nat_priority);
    let settings = Settings { nat_priority, counters: *counters, ..defaults };
    match output {
        RulesOutput::Nft => write!(out, "{}", Ruleset::new(&portals, settings))?,
        RulesOutput::Iptables => write!(out, "{}", Iptables { portals: &portals, family: Family::V4 })?,
        RulesOutput::Ip6tables => write!(out, "{}", Iptables { portals: &portals, family: Family::V6 })?,
        RulesOutput::Json => write_json(&to_json(&Ruleset::new(&portals, settings)), out)?,
    }
    Ok(is_valid)
}

fn write_node_table(ruleset: &NodeRuleset, output: RulesOutput, out: &mut impl Write) -> anyhow::Result<()> {
    match output {
        RulesOutput::Nft => Ok(write!(out, "{ruleset}")?),
        RulesOutput::Json => write_json(&node_to_json(ruleset), out),
        RulesOutput::Iptables | RulesOutput::Ip6tables => {
            let message = "the node's table has no form for iptables; use --output nft or json";
            Args::command().error(ErrorKind::ArgumentConflict, message).exit()
        }
    }
}

fn write_json(value: &Value, out: &mut impl Write) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    Ok(writeln!(out)?)
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

fn node_to_json(ruleset: &NodeRuleset) -> Value {
    let action = |action: FrontendAction| match action {
        FrontendAction::Reject => json!("reject"),
        FrontendAction::Drop => json!("drop"),
        FrontendAction::Forward(target, _) | FrontendAction::OwnChain(target) => {
            let target = ruleset.target(target).expect("every frontend's target is in the table");
            json!({"backends": target.backends, "selection": target.selection})
        }
    };
    let frontends: Vec<Value> = ruleset
        .frontends()
        .map(|(key, frontend)| {
            json!({
                "address": (!key.is_node_port()).then_some(key.address), "family": Family::of(key.address),
                "protocol": key.protocol, "port": key.port, "action": action(frontend.action),
                "actionInCluster": frontend.short.map(action), "sources": frontend.sources,
                "clusterAddress": frontend.is_cluster_ip,
            })
        })
        .collect();
    let environment = ruleset.environment();
    json!({
        "table": proxy_core::node_nft::NODE_TABLE, "frontends": frontends, "ranges": ruleset.ranges(),
        "nodeAddresses": environment.addresses, "podRanges": environment.pod_ranges,
    })
}
