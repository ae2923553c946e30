//! Checks of the node's own network namespace, for an agent that serves node ports (`--node-portals`).
//!
//! They read settings of the kernel and rules of other programs that decide whether packets from outside reach a pod.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use netns_nft::{Anchor, ChainSummary, Error, KubeProxyRules, Socket};
use node_agent::node_portals::kube_proxy_probe::probe_kube_proxy;
use node_agent::node_portals::local_ports::LocalPortOverlap;
use support::with_causes;

use crate::check::Finding::{self, Fail, Pass, Skip, Warn};
use crate::conntrack::{ConntrackArgs, SYSCTL_DIR, processors};
use crate::temporary_netns::temporary_netns;

const IPV4_FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6_FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// The results of all checks, with their names.
pub(super) fn findings() -> Vec<(&'static str, Finding)> {
    let chains = Socket::open().and_then(|socket| socket.chains());
    vec![
        ("IPv4 forwarding", forwarding(IPV4_FORWARDING, "net.ipv4.ip_forward", Fail)),
        ("IPv6 forwarding", forwarding(IPV6_FORWARDING, "net.ipv6.conf.all.forwarding", Warn)),
        ("connection tracking", connection_tracking(Path::new(SYSCTL_DIR))),
        ("local ports", local_ports(LocalPortOverlap::of_this_node())),
        ("firewall", chains.as_deref().map_or_else(unreadable, firewall)),
        (
            "kube-proxy",
            chains
                .as_deref()
                .map_or_else(unreadable, |chains| kube_proxy(chains, probe_kube_proxy().is_some())),
        ),
        ("anchor table", anchor_table()),
    ]
}

fn unreadable(error: &Error) -> Finding {
    Fail(with_causes(error), "run as root, with NET_ADMIN".to_owned())
}

fn forwarding(path: &str, sysctl: &str, disabled: fn(String, String) -> Finding) -> Finding {
    match fs::read_to_string(path) {
        Ok(value) if value.trim() == "0" => disabled(
            "disabled: connections from outside do not reach pods of this family".to_owned(),
            format!("sysctl -w {sysctl}=1, and set it permanently in /etc/sysctl.d"),
        ),
        Ok(_) => Pass("enabled".to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Skip("the node does not have this family".to_owned())
        }
        Err(error) => Fail(format!("failed to read {path}: {error}"), "mount /proc".to_owned()),
    }
}

/// Compares the settings with those that kube-proxy makes.
fn connection_tracking(dir: &Path) -> Finding {
    let (mut values, mut low) = (Vec::new(), Vec::new());
    for setting in ConntrackArgs::default().settings(processors()) {
        let Ok(value) = setting.value(dir) else {
            return Skip("the kernel has not loaded nf_conntrack yet".to_owned());
        };
        values.push(format!("{} {value}", setting.name));
        if value < setting.minimum {
            low.push(format!("{} is {value}, kube-proxy sets {}", setting.name, setting.minimum));
        }
    }
    if low.is_empty() {
        return Pass(values.join(", "));
    }
    Warn(
        low.join("; "),
        "portico conntrack, or agent.nodePortals.conntrack.enabled=true in the chart".to_owned(),
    )
}

fn local_ports(overlap: Option<LocalPortOverlap>) -> Finding {
    let Some(LocalPortOverlap { ports }) = overlap else {
        return Pass("the kernel assigns no node port to local sockets".to_owned());
    };
    Warn(
        format!("the kernel assigns node ports from {} to {} to local sockets", ports.start(), ports.end()),
        "sysctl -w net.ipv4.ip_local_reserved_ports=30000-32767, and set it permanently in /etc/sysctl.d"
            .to_owned(),
    )
}

/// Finds firewalls that drop forwarded packets unless one of their rules accepts them.
fn firewall(chains: &[ChainSummary]) -> Finding {
    let dropping = chains.iter().filter(|chain| chain.drops_forwarded);
    let dropping: Vec<String> =
        dropping.map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name)).collect();
    if dropping.is_empty() {
        return Pass("no chain of nf_tables drops forwarded packets by its policy".to_owned());
    }
    Warn(
        format!("forwarded packets are dropped by the policy of: {}", dropping.join(", ")),
        "accept forwarded packets from and to pods in this table, for example `ct status dnat accept`"
            .to_owned(),
    )
}

fn kube_proxy(chains: &[ChainSummary], is_running: bool) -> Finding {
    if is_running {
        return Pass("running; the node's rules of Portico run before its rules".to_owned());
    }
    let rules = KubeProxyRules::of(chains);
    if rules.is_empty() {
        return Pass("not running; no rules of it".to_owned());
    }
    Warn(
        format!("not running, but its rules are still there: {rules}"),
        "run kube-proxy --cleanup, or restart the node".to_owned(),
    )
}

/// Creates the anchor table in a temporary network namespace.
fn anchor_table() -> Finding {
    let hold = || -> anyhow::Result<Result<Anchor, Error>> { Ok(Anchor::hold(temporary_netns()?.socket()?)) };
    match hold() {
        Ok(Ok(_)) => Pass("supported: open connections survive a flush of the ruleset".to_owned()),
        Ok(Err(Error::AnchorUnsupported(_))) => Warn(
            "not supported by this kernel: open connections stall if a program flushes the ruleset"
                .to_owned(),
            "Linux 6.9 or newer".to_owned(),
        ),
        Ok(Err(error)) => Fail(with_causes(&error), "run as root, with NET_ADMIN".to_owned()),
        Err(error) => Fail(format!("{error:#}"), "run as root, with SYS_ADMIN".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, name: &str, drops_forwarded: bool) -> ChainSummary {
        let (table, name) = (table.to_owned(), name.to_owned());
        ChainSummary { family: "ip", table, name, drops_forwarded, destination_nat: None, is_nat: false }
    }

    #[test]
    fn firewall_that_drops_forwarded_packets_is_named() {
        assert!(matches!(firewall(&[chain("filter", "INPUT", false)]), Pass(_)));
        let found = firewall(&[chain("filter", "FORWARD", true)]);
        assert!(matches!(&found, Warn(problem, _) if problem.contains("ip filter FORWARD")), "{found:?}");
    }

    #[test]
    fn rules_of_a_kube_proxy_that_does_not_run_are_named() {
        let left = [chain("kube-proxy", "services", false)];
        assert!(matches!(kube_proxy(&left, true), Pass(_)));
        assert!(matches!(kube_proxy(&left, false), Warn(..)));
        assert!(matches!(kube_proxy(&[chain("nat", "KUBE-SVC-ABC", false)], false), Warn(..)));
        assert!(matches!(kube_proxy(&[chain("nat", "KUBE-MARK", false)], false), Pass(_)));
    }

    #[test]
    fn overlapping_local_ports_are_a_warning_with_the_ports() {
        assert!(matches!(local_ports(None), Pass(_)));
        let found = local_ports(Some(LocalPortOverlap { ports: 32_000..=32_767 }));
        assert!(matches!(&found, Warn(problem, _) if problem.contains("from 32000 to 32767")), "{found:?}");
    }

    #[test]
    fn conntrack_settings_below_those_of_kube_proxy_are_a_warning() {
        let dir = std::env::temp_dir().join(format!("portico-check-node-{}", std::process::id()));
        assert!(matches!(connection_tracking(&dir), Skip(_)));
        fs::create_dir_all(&dir).expect("create a directory");
        for setting in ConntrackArgs::default().settings(processors()) {
            fs::write(dir.join(setting.name), setting.minimum.to_string()).expect("write a setting");
        }
        assert!(matches!(connection_tracking(&dir), Pass(_)));
        fs::write(dir.join("nf_conntrack_tcp_timeout_close_wait"), "60\n").expect("write a setting");
        let found = connection_tracking(&dir);
        fs::remove_dir_all(&dir).expect("remove the directory");
        assert!(matches!(&found, Warn(problem, _) if problem.contains("close_wait is 60")), "{found:?}");
    }
}
