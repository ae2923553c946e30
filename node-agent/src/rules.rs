//! `portico rules`: what programs a pod's network namespace, as text or as a value.

use std::io::Write;

use proxy_core::address::Family;
use proxy_core::iptables::Iptables;
use proxy_core::portal::portals;
use proxy_core::ruleset::{Rule, Ruleset, Settings};
use serde_json::{Value, json};

use crate::args::{RulesArgs, RulesOutput};
use crate::input;
use crate::portals::tell_losses;

/// Answers `portico rules`.
pub(crate) fn answer(args: &RulesArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let RulesArgs { input, standpoint, nat_priority, counters, output } = args;
    let (objects, sound) = input::objects(input);
    let standpoint = input::standpoint(standpoint, &objects);
    let portals = portals(&objects.into_snapshot(), &standpoint);
    tell_losses(&portals);
    let settings = Settings { nat_priority: *nat_priority, counters: *counters, ..Settings::default() };
    match output {
        RulesOutput::Nft => write!(out, "{}", Ruleset::new(&portals, settings))?,
        RulesOutput::Iptables => write!(out, "{}", Iptables { portals: &portals, family: Family::V4 })?,
        RulesOutput::Ip6tables => write!(out, "{}", Iptables { portals: &portals, family: Family::V6 })?,
        RulesOutput::Json => {
            serde_json::to_writer_pretty(&mut *out, &value(&Ruleset::new(&portals, settings)))?;
            writeln!(out)?;
        }
    }
    Ok(sound)
}

fn value(ruleset: &Ruleset) -> Value {
    let portals: Vec<Value> = ruleset
        .rules()
        .map(|(key, Rule { pick, backends, ids, sources, is_cluster_ip })| {
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
