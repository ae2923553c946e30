//! `portico check --dns`: what the command reports about a node and a cluster for an agent with `--dns`.

use std::process::Command;

use serde_json::json;
use test_support::apiserver::ApiServer;
use test_support::namespace::{in_new_netns, load, run};
use test_support::program::program;

/// Returns the line of a finding, with this kubeconfig.
fn finding(name: &str, kubeconfig: Option<&std::path::Path>) -> String {
    let mut command = Command::new(program("portico"));
    command.args(["check", "--dns"]).env_remove("KUBECONFIG");
    if let Some(file) = kubeconfig {
        command.arg("--kubeconfig").arg(file);
    }
    let output = command.output().expect("run portico");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(&format!(" {name}: ")));
    line.unwrap_or_else(|| panic!("no finding {name}:\n{text}")).to_owned()
}

#[test]
fn check_names_cilium_and_the_support_of_the_kernel() {
    in_new_netns(|| {
        let [table, cilium, dns] = ["DNS table", "Cilium", "cluster DNS"].map(|name| finding(name, None));
        assert!(table.starts_with('✓') && cilium.starts_with('✓'), "{table}\n{cilium}");
        assert!(dns.starts_with('-') && dns.contains("no --kubeconfig"), "{dns}");
        load("add table ip mangle; add chain ip mangle CILIUM_PRE_mangle");
        let cilium = finding("Cilium", None);
        assert!(cilium.starts_with('!') && cilium.contains("would no longer see the queries"), "{cilium}");
    });
}

#[test]
fn check_names_plugins_of_coredns_that_portico_bypasses() {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let api = ApiServer::double();
        let checked = || finding("cluster DNS", Some(api.kubeconfig()));
        let missing = checked();
        assert!(
            missing.starts_with('-') && missing.contains("no ConfigMap kube-system/coredns"),
            "{missing}"
        );
        let put = |plugins: &str| {
            let corefile =
                format!(".:53 {{\n  {plugins}\n  kubernetes cluster.local in-addr.arpa {{\n  }}\n}}\n");
            api.put(json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "coredns", "namespace": "kube-system"}, "data": {"Corefile": corefile}}));
        };
        put("cache 30");
        assert!(checked().starts_with('✓'), "{}", checked());
        put("rewrite name a.default.svc.cluster.local b.example");
        let bypassed = checked();
        assert!(
            bypassed.starts_with('!') && bypassed.contains("with rewrite; Portico does not"),
            "{bypassed}"
        );
    });
}
