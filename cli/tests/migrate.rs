//! `portico migrate` with an API server, and agents and a controller of DaemonSets that react as real ones do.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use test_support::apiserver::{ApiServer, Fault};
use test_support::objects::{agent_pod, has_proxy_pod, proxy_daemon_set, proxy_pod};
use test_support::program::program;
use test_support::temp_dir::TempDir;

const LABEL: &str = "portico.dev/service-proxy";
const RULES: &str = "table ip kube-proxy, table ip6 kube-proxy";
/// The interval at which the cluster reacts.
const REACTION: Duration = Duration::from_millis(5);

/// A cluster whose nodes kube-proxy serves.
struct TestCluster {
    api: ApiServer,
    dir: TempDir,
    kubectl: PathBuf,
    nodes: &'static [&'static str],
    /// The node on which a service is not reachable once Portico serves it.
    broken: Option<&'static str>,
    is_over: AtomicBool,
}

impl TestCluster {
    fn new(api: ApiServer, nodes: &'static [&'static str], broken: Option<&'static str>) -> Self {
        let dir = TempDir::new("migrate");
        // A pod of the agent is named after its node.
        let script = format!(
            "#!/bin/sh\nfor word; do case \"$word\" in agent-*) exec cat {}/\"$word\".json;; esac; done\n",
            dir.path().display()
        );
        let kubectl = dir.write("kubectl", &script);
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).expect("make it executable");
        for namespace in ["kube-system", "portico-system"] {
            api.put(json!({"kind": "Namespace", "metadata": {"name": namespace}}));
        }
        api.put(proxy_daemon_set());
        for node in nodes {
            api.put(json!({"kind": "Node", "metadata": {"name": node}}));
            api.put(agent_pod(node));
        }
        let cluster = Self { api, dir, kubectl, nodes, broken, is_over: AtomicBool::new(false) };
        nodes.iter().for_each(|node| cluster.react(node));
        cluster
    }

    /// Runs `body` while the agents and the controller react.
    fn run<T>(&self, body: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            scope.spawn(|| {
                while !self.is_over.load(Relaxed) {
                    self.nodes.iter().for_each(|node| self.react(node));
                    thread::sleep(REACTION);
                }
            });
            let ending = Ending(&self.is_over);
            let result = body();
            drop(ending);
            result
        })
    }

    fn node(&self, name: &str) -> Value {
        self.api.get("Node", "", name).expect("the node exists")
    }

    fn label(&self, name: &str) -> String {
        self.node(name)["metadata"]["labels"][LABEL].as_str().unwrap_or("kube-proxy").to_owned()
    }

    fn daemon_set(&self) -> Value {
        self.api.get("DaemonSet", "kube-system", "kube-proxy").expect("the DaemonSet exists")
    }

    fn has_proxy_pod(&self, node: &str) -> bool {
        self.api.get("Pod", "kube-system", &format!("kube-proxy-{node}")).is_some()
    }

    /// Does for a node what the controller of DaemonSets, kube-proxy and the agent do.
    fn react(&self, node: &str) {
        let object = self.node(node);
        let label = object["metadata"]["labels"][LABEL].as_str().unwrap_or("kube-proxy").to_owned();
        let runs = has_proxy_pod(&self.daemon_set(), &object);
        let pod = format!("kube-proxy-{node}");
        if runs != self.has_proxy_pod(node) {
            if runs {
                self.api.put(proxy_pod(node));
            } else {
                self.api.delete("Pod", "kube-system", &pod);
            }
        }
        let file = self.dir.join(&format!("agent-{node}.json"));
        let before: Value = fs::read_to_string(&file)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let report = self.report(
            node,
            &object["metadata"]["annotations"],
            &label,
            runs,
            &before["nodePortals"]["migration"],
        );
        let report = json!({"nodePortals": {"migration": report}});
        if report != before {
            let temporary = self.dir.write(&format!("agent-{node}.new"), report.to_string());
            fs::rename(temporary, file).expect("replace the report");
        }
    }

    fn report(&self, node: &str, annotations: &Value, label: &str, runs: bool, before: &Value) -> Value {
        let serving = label != "kube-proxy";
        let mut rules = before["kubeProxy"]["rules"].as_str().unwrap_or_default().to_owned();
        if runs {
            RULES.clone_into(&mut rules);
        }
        let mut removal = before["ruleRemoval"].clone();
        let request = &annotations["portico.dev/remove-kube-proxy-rules"];
        if request.is_string() && removal["request"] != *request && label == "portico" && !runs {
            removal = json!({"request": request, "removed": rules, "retrying": false});
            rules.clear();
        }
        let mut verification = before["verification"].clone();
        let request = &annotations["portico.dev/verify-node"];
        if request.is_string() && verification["request"] != *request {
            let error = (serving && self.broken == Some(node)).then_some("timed out after 2s");
            let connection = json!({"service": "default/kubernetes", "portal": "10.96.0.1:443",
                "backend": "192.0.2.1:6443", "error": error});
            verification = json!({"request": request, "serving": serving, "connections": [connection]});
        }
        let kube_proxy = json!({"running": runs, "synced": runs, "mode": "nftables", "rules": rules});
        let mut report = json!({"label": label, "serving": serving, "kubeProxy": kube_proxy});
        for (key, value) in [("verification", verification), ("ruleRemoval", removal)] {
            if value.is_object() {
                report[key] = value;
            }
        }
        report
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("portico"));
        command.arg("migrate").args(args).arg("--kubeconfig").arg(self.api.kubeconfig());
        command.arg("--kubectl").arg(&self.kubectl).args(["--timeout", "60"]);
        command
    }

    fn migrate(&self, args: &[&str]) -> (bool, String, String) {
        let output = self.command(args).output().expect("run portico");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    fn is_at_goal(&self, node: &str, is_portico: bool) -> bool {
        let annotations = self.node(node)["metadata"]["annotations"].to_string();
        self.label(node) == (if is_portico { "portico" } else { "kube-proxy" })
            && self.has_proxy_pod(node) != is_portico
            && !annotations.contains("portico.dev/")
    }
}

/// Ends the reactions when it is dropped, also by a failed assertion.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn node_moves_over_and_back_and_the_requests_are_removed() {
    let cluster = TestCluster::new(ApiServer::start(), &["n1"], None);
    cluster.run(|| {
        let (is_success, text, error) = cluster.migrate(&["n1"]);
        assert!(is_success && cluster.is_at_goal("n1", true), "{text}{error}");
        assert!(text.contains(&format!("n1: removed {RULES}")), "{text}");
        let template = cluster.daemon_set()["spec"]["template"]["spec"].clone();
        assert_eq!(template["nodeSelector"], json!({"kubernetes.io/os": "linux"}), "the rest is kept");
        let (is_success, text, error) = cluster.migrate(&["n1", "--back"]);
        assert!(is_success && cluster.is_at_goal("n1", false), "{text}{error}");
        let (is_success, text, _) = cluster.migrate(&["n1", "--back"]);
        assert!(is_success && !text.contains("label"), "a second call changes nothing: {text}");
    });
}

#[test]
fn dry_run_prints_the_steps_and_changes_nothing() {
    let cluster = TestCluster::new(ApiServer::double(), &["n1"], None);
    cluster.api.requests();
    let (is_success, text, error) = cluster.migrate(&["n1", "--dry-run"]);
    assert!(is_success, "{text}{error}");
    for expected in [
        "n1: label kube-proxy; kube-proxy: running in mode nftables, table ip kube-proxy",
        "set the label portico.dev/service-proxy=both",
        "set the label portico.dev/service-proxy=portico",
        "remove the rules of kube-proxy",
        "restarts kube-proxy once on each node",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(cluster.label("n1"), "kube-proxy");
    assert!(cluster.daemon_set()["spec"]["template"]["spec"]["affinity"].is_null());
}

/// Kills a move to Portico after this number of lines of its output, and moves the node again or back.
fn interrupt_after(lines: usize, is_back: bool) {
    let cluster = TestCluster::new(ApiServer::double(), &["n1"], None);
    cluster.run(|| {
        let mut command = cluster.command(&["n1"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run portico");
        let mut output = BufReader::new(child.stdout.take().expect("piped above"));
        for _ in 0..lines {
            let _ = output.read_line(&mut String::new());
        }
        let _ = child.kill();
        child.wait().expect("wait for portico");
        let args: &[&str] = if is_back { &["n1", "--back"] } else { &["n1"] };
        let (is_success, text, error) = cluster.migrate(args);
        assert!(is_success && cluster.is_at_goal("n1", !is_back), "after {lines} lines: {text}{error}");
    });
}

#[test]
fn call_after_an_interruption_at_each_line_of_output_reaches_the_goal() {
    // The lines of a complete move.
    for is_back in [false, true] {
        thread::scope(|scope| {
            (1..=10).for_each(|lines| drop(scope.spawn(move || interrupt_after(lines, is_back))));
        });
    }
}

#[test]
fn all_nodes_stop_at_the_first_that_is_not_as_before() {
    let cluster = TestCluster::new(ApiServer::double(), &["n1", "n2", "n3"], Some("n2"));
    cluster.run(|| {
        let (is_success, text, error) = cluster.migrate(&["--all"]);
        assert!(!is_success, "{text}");
        assert!(
            error.contains("node n2: default/kubernetes at 10.96.0.1:443 is not reachable any more"),
            "{error}"
        );
        assert!(text.contains("the way back: portico migrate n2 --back"), "{text}");
        assert!(text.contains("moved before, and as before: n1"), "{text}");
        assert_eq!(["n1", "n2", "n3"].map(|node| cluster.label(node)), ["portico", "both", "kube-proxy"]);
        let (is_success, text, error) = cluster.migrate(&["n2", "--back"]);
        assert!(is_success && cluster.is_at_goal("n2", false), "{text}{error}");
    });
}

#[test]
fn all_nodes_move_over_and_back_two_at_a_time() {
    let cluster = TestCluster::new(ApiServer::double(), &["n1", "n2", "n3"], None);
    cluster.run(|| {
        for (args, is_portico) in [
            (&["--all", "--max-unavailable", "2"][..], true),
            (&["--all", "--max-unavailable", "2", "--back"], false),
        ] {
            let (is_success, text, error) = cluster.migrate(args);
            let is_moved = cluster.nodes.iter().all(|node| cluster.is_at_goal(node, is_portico));
            assert!(is_success && is_moved, "{text}{error}");
        }
    });
}

#[test]
fn concurrent_change_of_the_daemon_set_is_kept() {
    let cluster = TestCluster::new(ApiServer::double(), &["n1"], None);
    let mut changed = cluster.daemon_set();
    changed["metadata"]["labels"] = json!({"changed": "concurrently"});
    cluster.api.fault(Fault::Race("daemonsets", changed));
    cluster.run(|| {
        let (is_success, text, error) = cluster.migrate(&["n1"]);
        assert!(is_success && text.contains("will retry"), "{text}{error}");
        assert_eq!(cluster.daemon_set()["metadata"]["labels"]["changed"], "concurrently");
        assert!(cluster.is_at_goal("n1", true));
    });
}
