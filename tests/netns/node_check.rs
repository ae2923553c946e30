//! What Portico reports about a node that is to serve node ports, and what it sets there.

use std::fs;
use std::process::Command;

use netns_nft::{ChainSummary, Socket};
use test_support::agent::{Agent, AgentDir};
use test_support::namespace::{in_new_netns, load, run};
use test_support::program::program;

/// A firewall, and chains that are similar but drop no forwarded packets.
const FIREWALL: &str = "table ip filter {
        chain FORWARD { type filter hook forward priority 0; policy drop; }
        chain INPUT { type filter hook input priority 0; policy drop; }
        chain DOCKER { }
    }
    table inet other {
        chain forward { type filter hook forward priority 0; policy accept; }
    }
    table bridge frames {
        chain forward { type filter hook forward priority 0; policy drop; }
    }";

fn dropping(chains: &[ChainSummary]) -> Vec<String> {
    let dropping = chains.iter().filter(|chain| chain.drops_forwarded);
    dropping.map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name)).collect()
}

/// Returns the line of a finding of `portico check --node-portals`.
fn finding(name: &str) -> String {
    let output =
        Command::new(program("portico")).args(["check", "--node-portals"]).output().expect("run portico");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(&format!(" {name}: ")));
    line.unwrap_or_else(|| panic!("no finding {name}:\n{text}")).to_owned()
}

#[test]
fn chains_of_all_tables_are_listed_with_those_that_drop_forwarded_packets() {
    in_new_netns(|| {
        let socket = Socket::open().expect("a socket");
        assert_eq!(socket.chains().expect("no chains"), []);
        load(FIREWALL);
        let chains = socket.chains().expect("the chains");
        assert_eq!(chains.len(), 5, "{chains:?}");
        assert_eq!(dropping(&chains), ["ip filter FORWARD"]);
    });
}

#[test]
fn check_names_the_firewall_and_the_rules_of_a_stopped_kube_proxy() {
    in_new_netns(|| {
        assert!(finding("firewall").starts_with('✓'), "{}", finding("firewall"));
        assert!(finding("kube-proxy").starts_with('✓'), "{}", finding("kube-proxy"));
        load(FIREWALL);
        load("add table ip kube-proxy; add chain ip kube-proxy services");
        let firewall = finding("firewall");
        assert!(firewall.starts_with('!') && firewall.contains("ip filter FORWARD"), "{firewall}");
        let kube_proxy = finding("kube-proxy");
        assert!(kube_proxy.starts_with('!') && kube_proxy.contains("ip kube-proxy"), "{kube_proxy}");
    });
}

#[test]
fn check_follows_forwarding_and_local_ports() {
    in_new_netns(|| {
        for (range, mark) in [("32768 60999", '✓'), ("1024 65535", '!')] {
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("set the local ports");
            assert!(finding("local ports").starts_with(mark), "{range}");
        }
        for (value, mark) in [("0", '✗'), ("1", '✓')] {
            fs::write("/proc/sys/net/ipv4/ip_forward", value).expect("set forwarding");
            assert!(finding("IPv4 forwarding").starts_with(mark), "{value}");
        }
        // The kernel of these tests supports it: tests/netns/anchor.rs.
        assert!(finding("anchor table").starts_with('✓'));
        assert_eq!(run("nft", &["list", "ruleset"], ""), "", "a check changes nothing");
    });
}

#[test]
fn agent_warns_about_local_ports_that_are_node_ports() {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        for (range, is_warned) in [("32768 60999", false), ("1024 65535", true)] {
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("set the local ports");
            let dir = AgentDir::new();
            let agent = Agent::start(&dir, &["--node-portals", "--node", "n1"]);
            assert_eq!(
                agent.log().contains("local ports overlap with node ports"),
                is_warned,
                "{}",
                agent.log()
            );
        }
    });
}

#[test]
fn conntrack_timeouts_are_raised_and_never_lowered() {
    in_new_netns(|| {
        // The maximum can be set only in the first network namespace of a machine.
        let raise = |seconds: &str| {
            let command =
                ["conntrack", "--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-close-wait", seconds];
            let output = Command::new(program("portico")).args(command).output().expect("run portico");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
            fs::read_to_string(path).expect("the timeout").trim().to_owned()
        };
        assert_eq!(raise("3600"), "3600");
        assert_eq!(raise("0"), "3600");
        assert_eq!(raise("60"), "3600");
    });
}
