//! The same with the real kube-proxy, whose rules are also recorded for `migration`.
//!
//! The tests need a real API server, and the variable `KUBE_PROXY`, which names the program. With `UPDATE_EXPECT=1` they
//! write the recorded rules.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use test_support::agent::AgentDir;
use test_support::apiserver::ApiServer;
use test_support::eventually::eventually;
use test_support::namespace::run;

use crate::migration::{migration, move_under_load, start_agent, with_services};
use crate::migration_command::put_objects;
use crate::migration_peer::{PeerProxy, ProxyMode};

/// A server with the services of `migration`. kube-proxy ignores the service of the server, whose port is another one in
/// each test.
pub(crate) fn real_api() -> ApiServer {
    let api = ApiServer::real();
    let ignored = json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}});
    eventually("the server has a service", || {
        let path = "/api/v1/namespaces/default/services/kubernetes";
        let answer = api.send("PATCH", path, "application/merge-patch+json", &ignored);
        if answer.status == 200 { Ok(()) } else { Err(answer.object.to_string()) }
    });
    put_objects(&api);
    api
}

/// Waits until kube-proxy has programmed all services.
fn until_programmed(folder: &AgentDir, mode: ProxyMode) {
    let agent = start_agent(folder);
    agent.wait_until("kube-proxy has programmed the services", |agent| {
        let rules = match mode {
            ProxyMode::Nftables => run("nft", &["list", "ruleset"], ""),
            ProxyMode::Iptables => run("iptables-save", &[], ""),
        };
        migration(agent)["kubeProxy"]["synced"] == true
            && migration(agent)["kubeProxy"]["mode"] == mode.name()
            && ["web", "echo", "dns"].iter().all(|name| rules.contains(&format!("default/{name}")))
            && has_ipv6_rules(mode)
    });
}

/// Whether kube-proxy has written the rules of IPv6, for which there are no services.
fn has_ipv6_rules(mode: ProxyMode) -> bool {
    match mode {
        ProxyMode::Nftables => run("nft", &["list", "tables"], "").contains("table ip6 kube-proxy"),
        ProxyMode::Iptables => run("ip6tables-save", &[], "").contains("-A KUBE-POSTROUTING"),
    }
}

fn move_with_the_real_kube_proxy(mode: ProxyMode) -> String {
    let mut load = String::new();
    with_services(|network, folder| {
        let api = real_api();
        let first = PeerProxy::real(mode, &api);
        until_programmed(folder, mode);
        first.stop();
        load = move_under_load(network, folder, false, &|| PeerProxy::real(mode, &api));
    });
    load
}

#[test]
#[cfg_attr(
    not(feature = "api-server"),
    ignore = "needs KUBEBUILDER_ASSETS, KUBE_PROXY and the feature api-server"
)]
fn node_moves_from_kube_proxy_in_nftables_mode_and_back_without_a_failure() {
    println!("{}", move_with_the_real_kube_proxy(ProxyMode::Nftables));
}

#[test]
#[cfg_attr(
    not(feature = "api-server"),
    ignore = "needs KUBEBUILDER_ASSETS, KUBE_PROXY and the feature api-server"
)]
fn node_moves_from_kube_proxy_in_iptables_mode_and_back_without_a_failure() {
    println!("{}", move_with_the_real_kube_proxy(ProxyMode::Iptables));
}

/// Compares recorded rules with current ones, in any order of lines, or records them.
fn check_recorded(file: &str, current: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("netns").join(file);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, current).expect("write the rules");
        return;
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(lines(&recorded), lines(current), "{file}: UPDATE_EXPECT=1 records the rules");
}

/// The rules of iptables that are the same on each node: without counters, comments and accounting objects.
fn normalized(rules: &str) -> String {
    let lines = rules.lines().filter(|line| !line.starts_with('#'));
    let line = |line: &str| {
        let line = line.split(" [").next().unwrap_or_default().to_owned();
        let Some((start, rest)) = line.split_once(" -m nfacct --nfacct-name ") else { return line };
        let target = rest.find(" -j ").map_or("", |at| &rest[at..]);
        format!("{start}{target}")
    };
    lines.map(|text| line(text) + "\n").collect()
}

#[test]
#[cfg_attr(
    not(feature = "api-server"),
    ignore = "needs KUBEBUILDER_ASSETS, KUBE_PROXY and the feature api-server"
)]
fn recorded_rules_are_those_of_kube_proxy() {
    for mode in [ProxyMode::Nftables, ProxyMode::Iptables] {
        with_services(|_, folder| {
            let api = real_api();
            let proxy = PeerProxy::real(mode, &api);
            until_programmed(folder, mode);
            match mode {
                ProxyMode::Nftables => {
                    check_recorded("kube-proxy-nftables.nft", &run("nft", &["list", "ruleset"], ""));
                }
                ProxyMode::Iptables => {
                    for (save, file) in [
                        ("iptables-save", "kube-proxy-iptables.rules"),
                        ("ip6tables-save", "kube-proxy-ip6tables.rules"),
                    ] {
                        check_recorded(file, &normalized(&run(save, &[], "")));
                    }
                }
            }
            proxy.stop();
        });
    }
}
