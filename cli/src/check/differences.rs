//! Differences between the kube-proxy that runs on the node and the settings of node portals, which users could notice
//! if the node moves from one to the other.
//!
//! kube-proxy serves its configuration at the port of its metrics, and the agent reports its own settings. After the move
//! the same checks say what Portico does.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use agent_ipc::Request;
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use node_agent::NodeSettingsReport;
use node_agent::node_portals::health_check::{HEALTH_PORT, MODE_PORT};
use node_agent::node_portals::kube_proxy_probe::kube_proxy_config;
use serde_json::Value;

use crate::check::Finding::{self, Pass, Skip, Warn};
use crate::status::fetch;

/// The results of the comparison, with their names.
pub(super) fn findings(socket: &Path) -> Vec<(&'static str, Finding)> {
    let report = fetch(socket, &Request::status()).map(|(_, report)| report.node_portals);
    let settings = match report {
        Ok(Some(node_portals)) => node_portals.settings,
        Ok(None) => return vec![("kube-proxy's settings", Skip("the agent has no node portals".to_owned()))],
        Err(error) => return vec![("kube-proxy's settings", Skip(format!("{error:#}")))],
    };
    match kube_proxy_config() {
        Some(config) => differences(&config, &settings, &local_addresses()),
        None => state(&settings),
    }
}

/// What Portico does on a node without a kube-proxy that serves its configuration.
fn state(settings: &NodeSettingsReport) -> Vec<(&'static str, Finding)> {
    let NodeSettingsReport { node_port_addresses, localhost, detects_pods, masquerade_all } = settings;
    let masquerade = match (masquerade_all, detects_pods) {
        (true, _) => "all connections are masqueraded",
        (false, true) => "clients of cluster addresses that are not pods are masqueraded",
        (false, false) => "clients of cluster addresses are not masqueraded",
    };
    let localhost = if *localhost { "served, TCP only" } else { "not served" };
    vec![
        ("node port addresses", Pass(node_port_addresses.join(", "))),
        ("node ports on localhost", Pass(localhost.to_owned())),
        ("source addresses", Pass(masquerade.to_owned())),
    ]
}

fn differences(
    config: &Value,
    settings: &NodeSettingsReport,
    local: &BTreeSet<IpAddr>,
) -> Vec<(&'static str, Finding)> {
    vec![
        ("node port addresses", addresses(config, settings, local)),
        ("node ports on localhost", localhost(config, settings)),
        ("health checks", health_checks(config)),
        ("source addresses", source_addresses(config, settings)),
    ]
}

fn text<'a>(config: &'a Value, key: &str) -> &'a str {
    config[key].as_str().unwrap_or_default()
}

fn is_nftables(config: &Value) -> bool {
    text(config, "mode") == "nftables"
}

fn ranges(config: &Value) -> Vec<&str> {
    config["nodePortAddresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Compares the addresses at which node ports are served.
fn addresses(config: &Value, settings: &NodeSettingsReport, local: &BTreeSet<IpAddr>) -> Finding {
    let own = settings.node_port_addresses.join(", ");
    let ranges = ranges(config);
    let is_primary = ranges == ["primary"] || (ranges.is_empty() && is_nftables(config));
    if is_primary {
        return Pass(format!("{own}; kube-proxy serves them at the primary addresses"));
    }
    let nets: Vec<IpNet> = ranges.iter().filter_map(|range| range.parse().ok()).collect();
    let is_served = |address: &IpAddr| nets.is_empty() || nets.iter().any(|net| net.contains(address));
    let lost: Vec<String> = local
        .iter()
        .filter(|address| is_served(address))
        .map(ToString::to_string)
        .filter(|address| !settings.node_port_addresses.contains(address))
        .collect();
    if lost.is_empty() {
        return Pass(own);
    }
    Warn(
        format!("kube-proxy serves node ports also at {}; Portico at {own}", lost.join(", ")),
        "agent.nodePortals.nodeportAddresses={all}, or the CIDRs of kube-proxy's --nodeport-addresses"
            .to_owned(),
    )
}

fn localhost(config: &Value, settings: &NodeSettingsReport) -> Finding {
    let is_served = text(config, "mode") == "iptables"
        && config["iptables"]["localhostNodePorts"] != false
        && ranges(config).iter().all(|range| range.starts_with("127.") || *range == "0.0.0.0/0");
    match (is_served, settings.localhost) {
        (true, false) => Warn(
            "kube-proxy serves node ports at 127.0.0.1, Portico does not".to_owned(),
            "agent.nodePortals.nodeportAddresses={primary,localhost} (TCP only)".to_owned(),
        ),
        (true, true) => Pass("served by both; by Portico TCP only".to_owned()),
        (false, _) => Pass("not served by kube-proxy".to_owned()),
    }
}

fn health_checks(config: &Value) -> Finding {
    let at = |key: &str, port: u16| {
        let address = text(config, key);
        (!address.is_empty() && !address.ends_with(&format!(":{port}"))).then(|| format!("{key} {address}"))
    };
    let other: Vec<String> = [at("healthzBindAddress", HEALTH_PORT), at("metricsBindAddress", MODE_PORT)]
        .into_iter()
        .flatten()
        .collect();
    if other.is_empty() {
        return Pass("port 10256 is answered by kube-proxy, and by Portico when kube-proxy stops".to_owned());
    }
    Warn(
        format!("kube-proxy has other ports than Portico: {}", other.join(", ")),
        "Portico answers at 10256 and 127.0.0.1:10249; change the load balancers that check the others"
            .to_owned(),
    )
}

fn source_addresses(config: &Value, settings: &NodeSettingsReport) -> Finding {
    let mode = if is_nftables(config) { "nftables" } else { "iptables" };
    let masquerades_all = config[mode]["masqueradeAll"] == true;
    if masquerades_all != settings.masquerade_all {
        return Warn(
            format!(
                "{} masquerades all connections",
                if masquerades_all { "only kube-proxy" } else { "only Portico" }
            ),
            format!("agent.nodePortals.masqueradeAll={masquerades_all}"),
        );
    }
    let cidr = text(config, "clusterCIDR");
    let detect = text(config, "detectLocalMode");
    let detects = match detect {
        "" | "ClusterCIDR" => !cidr.is_empty(),
        _ => true,
    };
    let name = if cidr.is_empty() { detect } else { cidr };
    match (detects, settings.detects_pods) {
        (true, false) => Warn(
            format!(
                "kube-proxy masquerades clients of cluster addresses that are not pods ({name}), Portico does not"
            ),
            "agent.nodePortals.clusterCidr, or agent.nodePortals.detectLocalMode".to_owned(),
        ),
        (false, true) => Warn(
            "Portico masquerades clients of cluster addresses that are not pods, kube-proxy does not"
                .to_owned(),
            "agent.nodePortals.clusterCidr={}".to_owned(),
        ),
        (_, true) => Pass(format!("both masquerade clients of cluster addresses that are not pods ({name})")),
        (_, false) => Pass("neither masquerades clients of cluster addresses".to_owned()),
    }
}

/// The addresses of the node at which a process could listen for others.
fn local_addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return BTreeSet::new() };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    });
    let is_link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    addresses.filter(|address| !address.is_loopback() && !is_link_local(address)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings() -> NodeSettingsReport {
        NodeSettingsReport {
            node_port_addresses: vec!["192.0.2.1".to_owned()],
            detects_pods: true,
            ..NodeSettingsReport::default()
        }
    }

    fn config(mode: &str) -> Value {
        json!({"mode": mode, "clusterCIDR": "10.1.0.0/16", "detectLocalMode": "ClusterCIDR",
            "healthzBindAddress": "0.0.0.0:10256", "metricsBindAddress": "127.0.0.1:10249",
            "iptables": {"masqueradeAll": false, "localhostNodePorts": true}, "nodePortAddresses": null})
    }

    fn warnings(config: &Value, settings: &NodeSettingsReport) -> Vec<&'static str> {
        let local = ["192.0.2.1", "198.51.100.7"].map(|address| address.parse().expect("an address"));
        let found = differences(config, settings, &BTreeSet::from(local));
        found.into_iter().filter(|(_, finding)| matches!(finding, Warn(..))).map(|(name, _)| name).collect()
    }

    #[test]
    fn nftables_mode_with_the_defaults_has_no_difference() {
        assert_eq!(warnings(&config("nftables"), &settings()), [""; 0]);
    }

    #[test]
    fn iptables_mode_serves_more_addresses_unless_portico_does_as_well() {
        assert_eq!(
            warnings(&config("iptables"), &settings()),
            ["node port addresses", "node ports on localhost"]
        );
        let all = NodeSettingsReport {
            node_port_addresses: vec!["192.0.2.1".to_owned(), "198.51.100.7".to_owned()],
            localhost: true,
            ..settings()
        };
        assert_eq!(warnings(&config("iptables"), &all), [""; 0]);
        let mut ranges = config("iptables");
        ranges["nodePortAddresses"] = json!(["192.0.2.0/24"]);
        assert_eq!(warnings(&ranges, &settings()), [""; 0]);
    }

    #[test]
    fn other_source_addresses_and_health_ports_are_named() {
        let without_pods = NodeSettingsReport { detects_pods: false, ..settings() };
        assert_eq!(warnings(&config("nftables"), &without_pods), ["source addresses"]);
        let all = NodeSettingsReport { masquerade_all: true, ..settings() };
        assert_eq!(warnings(&config("nftables"), &all), ["source addresses"]);
        let mut other_port = config("nftables");
        other_port["healthzBindAddress"] = "0.0.0.0:9999".into();
        assert_eq!(warnings(&other_port, &settings()), ["health checks"]);
    }
}
