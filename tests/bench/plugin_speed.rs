//! The cost of the plugin: the whole process, from `exec` to its exit, as a runtime waits for it.
//!
//! ADD is for a new pod with 100 services: the real agent programs it, or without an agent the plugin applies the
//! snapshot. The peers are `/bin/true` (the minimum), and the plugins `tuning` and `portmap` with nothing to do. All take
//! turns in each round.
//!
//! It needs its own network namespace and the binary of scripts/build-plugin. `scripts/bench` provides both.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use agent_ipc::ruleset_path;
use bench_report::{Sheet, Spread, Verdict, is_quick};
use netns_nft::{Batch, RulesetSnapshot, encode_fresh};
use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::cluster;
use proxy_core::snapshot::Snapshot;
use serde_json::json;
use test_support::agent;
use test_support::plugin::{PluginCall, conf, with};
use test_support::pod::Pod;
use test_support::temp_dir::TempDir;

const SERVICES: u32 = 100;
const ENDPOINTS: u32 = 3;
/// The directory of Debian's package containernetworking-plugins.
const PEERS: &str = "/usr/lib/cni";

pub(crate) fn bench() {
    let rounds = if is_quick() { 20 } else { 200 };
    let (with_agent, without) = (agent::AgentDir::new(), TempDir::new("speed-down"));
    let stored = RulesetSnapshot { revision: 1, ranges: Vec::new(), batch: batch() };
    let path = ruleset_path(without.path(), "all");
    fs::create_dir_all(path.parent().expect("a directory")).expect("create the directory");
    stored.write(&path).expect("write the snapshot");
    with_agent.write_manifest("services.json", &manifest());
    let _agent = agent::Agent::start(&with_agent, &[]);

    let ours = plugin_path();
    let peer = |name: &str| Path::new(PEERS).join(name);
    let meta = |name: &str| {
        let mut conf = with(with(conf(without.path()), "cniVersion", json!("1.0.0")), "type", json!(name));
        conf["prevResult"]["cniVersion"] = json!("1.0.0");
        conf
    };
    let idle = |program: &Path, verb: &str| PluginCall::new(program, verb, &json!({"cniVersion": "1.0.0"}));
    let calls = [
        ("/bin/true", idle(Path::new("/bin/true"), "")),
        ("portico-cni VERSION", idle(&ours, "VERSION")),
        ("tuning VERSION", idle(&peer("tuning"), "VERSION")),
        ("portmap VERSION", idle(&peer("portmap"), "VERSION")),
        (
            "portico-cni ADD, the agent programs 100 services",
            PluginCall::new(&ours, "ADD", &conf(with_agent.path())),
        ),
        (
            "portico-cni ADD, no agent, 100 services stored",
            PluginCall::new(&ours, "ADD", &conf(without.path())),
        ),
        ("tuning ADD, nothing to tune", PluginCall::new(&peer("tuning"), "ADD", &meta("tuning"))),
        ("portmap ADD, nothing to map", PluginCall::new(&peer("portmap"), "ADD", &meta("portmap"))),
    ];
    let mut pods = Vec::new();
    let took = Spread::in_turns(rounds, &calls, |(name, call)| {
        let pod = Pod::new();
        pod.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
        let call = call.clone().env("CNI_NETNS", &pod.path()).env("CNI_PATH", PEERS);
        // Kept, since the deletion of a namespace in the kernel would disturb the measurement.
        pods.push(pod);
        let start = Instant::now();
        let outcome = call.run();
        let took = start.elapsed().as_secs_f64() * 1e3;
        assert_eq!(outcome.status, Some(0), "{name}: {outcome:?}");
        took
    });
    let table = Sheet::open("plugin_speed");
    let table = table.rows("process", "one process from start to end", "ms");
    let nothing = &took[0];
    for (number, ((name, _), took)) in calls.iter().zip(&took).enumerate() {
        let targets = match number {
            1 => vec![Verdict::at_most("times /bin/true", took.times(nothing), 1.5)],
            4 => vec![Verdict::at_most(
                "ms (1.5 times /bin/true, and 1)",
                took.median,
                1.5 * nothing.median + 1.0,
            )],
            _ => vec![],
        };
        table.put(name, took, &targets);
    }
}

/// The manifest of the services of a small cluster.
fn manifest() -> String {
    let service = |index: u32| {
        let name = format!("s{index}");
        let endpoints: Vec<_> = (0..ENDPOINTS)
            .map(|number| json!({"addresses": [format!("10.{}.0.{}", 100 + number, index + 1)]}))
            .collect();
        [
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"clusterIP": format!("10.96.0.{}", index + 1), "ports": [{"port": 80}]}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
                "ports": [{"name": "", "port": 8080}], "endpoints": endpoints}),
        ]
    };
    let items: Vec<_> = (0..SERVICES).flat_map(service).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// The batch that programs a pod with the services of a small cluster.
fn batch() -> Batch {
    let snapshot: Snapshot = cluster(SERVICES, ENDPOINTS).collect();
    let portals = portals(&snapshot, &NodeContext::default());
    encode_fresh(&Ruleset::new(&portals, Settings::default()))
}

/// The path of the release build of the plugin.
fn plugin_path() -> PathBuf {
    let this = std::env::current_exe().expect("the path of this program");
    let program = this.ancestors().nth(3).expect("target/release/deps").join("plugin/portico-cni");
    assert!(program.exists(), "no {}: start with scripts/bench", program.display());
    program
}
