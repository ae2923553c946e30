//! The pods of the chart: their privileges on the node and in the cluster, and the arguments of their programs.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use test_support::helm::{objects, one};
use test_support::program::program;

fn spec<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    &one(objects, kind, "")["spec"]["template"]["spec"]
}

fn containers(spec: &Value) -> &Vec<Value> {
    spec["containers"].as_array().expect("containers")
}

/// All containers, including init containers.
fn all_containers(spec: &Value) -> impl Iterator<Item = &Value> {
    containers(spec).iter().chain(spec["initContainers"].as_array().into_iter().flatten())
}

fn each_pod(objects: &[Value]) -> [&Value; 2] {
    [spec(objects, "DaemonSet"), spec(objects, "Deployment")]
}

#[test]
fn containers_have_only_the_privileges_that_they_need() {
    let objects = objects(&[]);
    let cleaning = test_support::helm::objects(&["agent.enabled=false", "cleanup.enabled=true"]);
    for pod in each_pod(&objects).into_iter().chain(each_pod(&cleaning)) {
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert!(pod["hostPID"].is_null() && pod["hostIPC"].is_null());
        for container in all_containers(pod) {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{}", container["name"]);
            assert_eq!(context["allowPrivilegeEscalation"], false, "{}", container["name"]);
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{}", container["name"]);
            assert!(context["privileged"].is_null());
            let added = &context["capabilities"]["add"];
            match container["name"].as_str() {
                // tests/netns/capabilities.rs runs the agent with these.
                Some("agent") => assert_eq!(*added, json!(["NET_ADMIN", "SYS_ADMIN"])),
                _ => assert!(added.is_null(), "{}", container["name"]),
            }
            assert!(container["resources"]["requests"]["memory"].is_string());
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
    }
    assert_eq!(spec(&objects, "Deployment")["securityContext"]["runAsNonRoot"], true);
}

#[test]
fn tokens_are_projected_expire_and_are_mounted_only_if_needed() {
    let objects = objects(&[]);
    for pod in each_pod(&objects) {
        let volumes = pod["volumes"].as_array().expect("volumes");
        let token = volumes.iter().find(|volume| volume["name"] == "token").expect("a token");
        let source = &token["projected"]["sources"][0]["serviceAccountToken"];
        assert_eq!(source["expirationSeconds"], 3600);
        for container in containers(pod) {
            let mounts = container["volumeMounts"].as_array().expect("mounts");
            let has_token = mounts.iter().any(|mount| mount["name"] == "token");
            assert_eq!(has_token, container["name"] != "install", "{}", container["name"]);
        }
    }
}

#[test]
fn every_mounted_volume_exists_and_every_volume_is_mounted() {
    for values in [
        &[][..],
        &["agent.install.enabled=false"],
        &["agent.enabled=false", "cleanup.enabled=true"],
        &["webhook.tls.mode=cert-manager"],
    ] {
        let objects = objects(values);
        for pod in each_pod(&objects) {
            let names = |list: &Value| -> BTreeSet<String> {
                let all = list.as_array().into_iter().flatten();
                all.filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect()
            };
            let used: BTreeSet<String> =
                all_containers(pod).flat_map(|container| names(&container["volumeMounts"])).collect();
            assert_eq!(names(&pod["volumes"]), used);
        }
    }
}

#[test]
fn later_mounts_of_the_node_reach_the_agent_and_are_read_only() {
    let objects = objects(&[]);
    let agent = &containers(spec(&objects, "DaemonSet"))[0];
    let mounts = agent["volumeMounts"].as_array().expect("mounts");
    let netns: Vec<&Value> = mounts.iter().filter(|mount| mount["name"] == "netns").collect();
    let paths: Vec<&Value> = netns.iter().map(|mount| &mount["mountPath"]).collect();
    assert_eq!(paths, ["/run/netns", "/var/run/netns"]);
    assert!(netns.iter().all(|mount| mount["mountPropagation"] == "HostToContainer"));
    let writable = mounts.iter().filter(|mount| mount["readOnly"] != true);
    assert_eq!(writable.map(|mount| &mount["name"]).collect::<Vec<_>>(), ["run"]);
}

#[test]
fn second_agent_can_run_next_to_the_first_and_takes_over() {
    let objects = objects(&[]);
    let set = &one(&objects, "DaemonSet", "")["spec"];
    let pod = &set["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    // With `hostNetwork` container ports are node ports, and the scheduler would not place two pods with one port on a node.
    assert!(containers(pod).iter().all(|container| container["ports"].is_null()));
    assert!(containers(pod)[0]["args"].as_array().expect("args").contains(&json!("--take-over")));
    assert_eq!(set["updateStrategy"]["rollingUpdate"], json!({"maxSurge": "10%", "maxUnavailable": 0}));
    assert!(set["minReadySeconds"].as_u64() > Some(0));
}

#[test]
fn counters_are_enabled_only_on_request() {
    for (values, counts) in [(&[][..], false), (&["agent.counters=true"], true)] {
        let objects = objects(values);
        let args = &containers(spec(&objects, "DaemonSet"))[0]["args"];
        assert_eq!(args.as_array().expect("args").contains(&json!("--counters")), counts, "{args}");
    }
}

/// All values of node portals that have an effect, apart from the modes of detection.
const NODE_PORTALS: [&str; 10] = [
    "agent.nodePortals.enabled=true",
    "agent.nodePortals.mode=label",
    "agent.nodePortals.nodeportAddresses={primary,192.0.2.0/24}",
    "agent.nodePortals.clusterCidr={10.244.0.0/16,fd00:10::/56}",
    "agent.nodePortals.masqueradeAll=true",
    "agent.nodePortals.keepClientAddress=true",
    "agent.nodePortals.externalPolicyGraceSeconds=30",
    "agent.nodePortals.anchorTable=false",
    "agent.nodePortals.natPriority=-102",
    "agent.nodePortals.conntrack.enabled=true",
];

fn args_of_agent(values: &[&str]) -> BTreeSet<String> {
    let objects = objects(values);
    let args = containers(spec(&objects, "DaemonSet"))[0]["args"].as_array().expect("args").clone();
    args.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn node_portals_are_enabled_only_on_request() {
    let all = [
        "--node-portals=label",
        "--nodeport-addresses=primary,192.0.2.0/24",
        "--detect-local-mode=cluster-cidr",
        "--cluster-cidr=10.244.0.0/16,fd00:10::/56",
        "--masquerade-all",
        "--keep-client-address",
        "--external-policy-grace=30",
        "--no-anchor-table",
        "--node-nat-priority=-102",
    ];
    let defaults = [
        "--node-portals=always",
        "--nodeport-addresses=primary",
        "--detect-local-mode=cluster-cidr",
        "--node-nat-priority=-101",
    ];
    let enabled = ["agent.nodePortals.enabled=true"];
    for (values, expected) in [(&NODE_PORTALS[1..], &[][..]), (&enabled, &defaults), (&NODE_PORTALS, &all)] {
        let (with, without) = (args_of_agent(values), args_of_agent(&[]));
        let added: BTreeSet<&str> = with.difference(&without).map(String::as_str).collect();
        assert_eq!(added, expected.iter().copied().collect(), "{values:?}");
    }
}

#[test]
fn only_a_container_without_token_that_ends_is_privileged_and_only_on_request() {
    for values in [&NODE_PORTALS[1..], &NODE_PORTALS[..9], &["agent.nodePortals.enabled=true"]] {
        assert!(spec(&objects(values), "DaemonSet")["initContainers"].is_null(), "{values:?}");
    }
    let objects = objects(&NODE_PORTALS);
    let pod = spec(&objects, "DaemonSet");
    let [conntrack] = &pod["initContainers"].as_array().expect("init containers")[..] else {
        panic!("{}", pod["initContainers"]);
    };
    assert_eq!(conntrack["securityContext"]["privileged"], true);
    assert!(conntrack["volumeMounts"].is_null());
    assert_eq!(conntrack["args"][0], "conntrack");
    for container in containers(pod) {
        assert!(container["securityContext"]["privileged"].is_null(), "{}", container["name"]);
    }
}

#[test]
fn probes_use_the_address_of_the_metrics_page() {
    for (host, probed) in [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("[::]", "::1"),
        ("192.0.2.7", "192.0.2.7"),
        ("[fd00::7]", "fd00::7"),
    ] {
        let objects = objects(&[&format!("agent.metrics.host={host}")]);
        let agent = &containers(spec(&objects, "DaemonSet"))[0];
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(agent[probe]["httpGet"]["host"], probed);
        }
        let flag = json!(format!("--metrics={host}:9477"));
        assert!(agent["args"].as_array().expect("args").contains(&flag));
    }
}

/// Asserts that a program accepts arguments. With `--help` last, the program reports an unknown flag but does not run.
fn assert_accepts(name: &str, args: &Value) {
    let args: Vec<&str> = args.as_array().expect("args").iter().filter_map(Value::as_str).collect();
    let output = Command::new(program(name)).args(&args).arg("--help").output().expect("run the program");
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn programs_accept_the_arguments_in_the_chart() {
    for values in [
        &[][..],
        &[
            "agent.serviceCidrs={10.96.0.0/12}",
            "agent.counters=true",
            "webhook.tls.mode=cert-manager",
            "agent.metrics.host=[::]",
            "agent.install.network=pods",
        ],
        &NODE_PORTALS,
        &[
            "agent.nodePortals.enabled=true",
            "agent.nodePortals.detectLocalMode=bridge-interface",
            "agent.nodePortals.podBridgeInterface=cbr0",
        ],
        &[
            "agent.nodePortals.enabled=true",
            "agent.nodePortals.detectLocalMode=interface-name-prefix",
            "agent.nodePortals.podInterfaceNamePrefix=veth",
        ],
    ] {
        let objects = objects(values);
        for container in all_containers(spec(&objects, "DaemonSet")) {
            assert_accepts("portico", &container["args"]);
        }
        assert_accepts("portico-webhook", &containers(spec(&objects, "Deployment"))[0]["args"]);
    }
    let cleaning = objects(&["agent.enabled=false", "cleanup.enabled=true"]);
    assert_accepts("portico", &spec(&cleaning, "DaemonSet")["initContainers"][0]["args"]);
}
