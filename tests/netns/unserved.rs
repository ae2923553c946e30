//! Pods with `portico.dev/portals: off`: the real plugin and agent do nothing in them, and another proxy serves them.

use std::fs;
use std::net::TcpListener;
use std::sync::{Mutex, mpsc};

use agent_ipc::{ProgrammedBy, Records, Reply};
use serde_json::{Value, json};
use test_support::agent::{Agent, AgentDir};
use test_support::backend_pod::pod_with_backends;
use test_support::backend_server::backend_of;
use test_support::namespace::{in_routed_netns, load, run};
use test_support::plugin::{PluginCall, conf, with};
use test_support::plugin_agent::FakeAgent;
use test_support::pod::Pod;
use test_support::program::program;

use crate::wired_pod::wired_pod;

/// Everything that an agent can do in a pod: portals in the kernel, relayed ones, and routes to a service range.
const AGENT: [&str; 4] = ["--service-cidr", "10.96.0.0/16", "--audit-interval", "1"];
const SERVICES: &str = r#"{"apiVersion":"v1","kind":"List","items":[
  {"apiVersion":"v1","kind":"Service","metadata":{"name":"web","annotations":{"portico.dev/mode":"relay"}},
   "spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}},
  {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
   "metadata":{"name":"web-1","labels":{"kubernetes.io/service-name":"web"}},
   "ports":[{"name":"","port":8080}],"endpoints":[{"addresses":["10.1.0.1"]}]}]}"#;
/// Another service proxy, in the node's network namespace.
const OTHER_PROXY: &str = "
table ip other {
  chain services {
    type nat hook prerouting priority dstnat
    ip daddr 10.96.0.1 tcp dport 80 dnat to 10.244.1.1:8080
  }
}
";

fn agent_dir() -> AgentDir {
    let dir = AgentDir::new();
    dir.write_manifest("services.json", SERVICES);
    dir
}

/// The configuration of the plugin for a pod that is off, with the socket and the state of the agent.
fn off(dir: &AgentDir) -> Value {
    let annotations = json!({"io.kubernetes.cri.pod-annotations": {"portico.dev/portals": "off"}});
    with(with(conf(dir.path()), "stateDir", json!(dir.state())), "runtimeConfig", annotations)
}

fn call(verb: &str, pod: &Pod, conf: &Value) -> PluginCall {
    PluginCall::new(&program("portico-cni"), verb, conf).env("CNI_NETNS", &pod.path())
}

/// The routes of a pod, in both families.
fn routes(pod: &Pod) -> [String; 2] {
    ["-4", "-6"].map(|family| pod.ip(&[family, "route", "show"]))
}

/// Asserts that Portico does nothing in the pod: no rules, no routes, and no listener.
fn assert_untouched(pod: &Pod, before: &[String; 2], when: &str) {
    assert_eq!(pod.within(|| run("nft", &["list", "ruleset"], "")), "", "{when}");
    assert_eq!(&routes(pod), before, "{when}");
    for address in ["0.0.0.0:15999", "[::]:15999"] {
        pod.within(|| TcpListener::bind(address).map(drop))
            .unwrap_or_else(|why| panic!("{when}: {address}: {why}"));
    }
}

fn unserved(agent: &Agent) -> Value {
    agent.status()["unserved"].clone()
}

/// What the status has of the pod of `PluginCall`.
fn listed() -> Value {
    let pod = json!({"namespace": "shop", "name": "web-0", "uid": "u1"});
    let attachment = json!({"network": "net", "containerId": "c1", "interface": "eth0", "pod": pod});
    json!({"attachments": 1, "pods": [attachment]})
}

/// Waits until the agent has audited network namespaces twice from now on.
fn await_audits(agent: &Agent) {
    let audits = || agent.status()["counts"]["audits"].as_u64().expect("a number");
    let until = audits() + 2;
    agent.wait_until("two audits", |_| audits() >= until);
}

#[test]
fn pod_that_is_off_is_untouched_and_another_proxy_serves_it() {
    in_routed_netns(|| {
        let (dir, pod) = (agent_dir(), wired_pod());
        let (conf, before) = (off(&dir), routes(&pod));
        let agent = Agent::start(&dir, &AGENT);
        call("ADD", &pod, &conf).run().assert_success(&conf["prevResult"].to_string());
        assert_untouched(&pod, &before, "after ADD");
        call("CHECK", &pod, &conf).run().assert_success("");
        assert_eq!(unserved(&agent), listed());

        let served = pod_with_backends();
        agent.attach("served", &served);
        assert!(served.within(|| run("nft", &["list", "tables"], "")).contains("inet portico"));
        await_audits(&agent);
        assert_untouched(&pod, &before, "after audits");

        agent.kill();
        let agent = Agent::start(&dir, &AGENT);
        agent.wait_until_converged(0);
        await_audits(&agent);
        assert_eq!(unserved(&agent), listed(), "recovered from its record");
        assert_untouched(&pod, &before, "after a restart and audits");
        call("CHECK", &pod, &conf).run().assert_success("");

        load(OTHER_PROXY);
        pod.ip(&["route", "add", "default", "via", "10.244.1.1"]);
        assert_eq!(pod.within(|| backend_of("10.96.0.1:80")), "web", "by the other proxy");
        for _ in 0..2 {
            call("DEL", &pod, &conf).run().assert_success("");
        }
        assert_eq!(unserved(&agent), json!({"attachments": 0, "pods": []}));
        assert_eq!(agent.status()["attachments"].as_array().map(Vec::len), Some(1));
        assert_eq!(pod.within(|| backend_of("10.96.0.1:80")), "web", "after DEL, too");
    });
}

#[test]
fn pod_that_is_off_needs_no_agent_whatever_the_configuration_requires() {
    for on_agent_down in ["snapshot", "fail", "ignore"] {
        in_routed_netns(|| {
            let (dir, pod) = (agent_dir(), wired_pod());
            let (conf, before) = (with(off(&dir), "onAgentDown", json!(on_agent_down)), routes(&pod));
            call("ADD", &pod, &conf).run().assert_success(&conf["prevResult"].to_string());
            call("CHECK", &pod, &conf).run().assert_success("");
            let records = || Records::new(&dir.state()).read_all().expect("read the records").0;
            let [record] = records().try_into().expect("one record");
            assert_eq!((record.programmed_by, record.netns_id), (ProgrammedBy::NotYet, pod.netns.id()));
            let agent = Agent::start(&dir, &AGENT);
            assert_eq!(unserved(&agent), listed(), "{on_agent_down}");
            assert_untouched(&pod, &before, on_agent_down);
            agent.kill();
            call("DEL", &pod, &conf).run().assert_success("");
            assert!(records().is_empty(), "{on_agent_down}");
        });
    }
}

#[test]
fn pod_that_is_off_starts_whatever_the_agent_replies() {
    in_routed_netns(|| {
        let (dir, pod) = (agent_dir(), wired_pod());
        let conf = off(&dir);
        let records = || Records::new(&dir.state()).read_all().expect("read the records").0;
        let (held, is_held) = mpsc::channel::<()>();
        let is_held = Mutex::new(is_held);
        let replies = Mutex::new(vec![
            Reply::Refused { message: "the agent is stopping".to_owned(), transient: true },
            Reply::Refused { message: "annotation portico.dev/portals".to_owned(), transient: false },
        ]);
        FakeAgent::start(&dir.socket(), move |_, _| {
            let next = replies.lock().expect("one at a time").pop();
            next.unwrap_or_else(|| {
                let _ = is_held.lock().expect("one at a time").recv();
                Reply::Done
            })
        });
        for _ in 0..3 {
            call("ADD", &pod, &conf).run().assert_success(&conf["prevResult"].to_string());
            assert_eq!(records().len(), 1, "the agent finds the pod later");
            fs::remove_dir_all(dir.state()).expect("remove the record");
        }
        drop(held);
    });
}

#[test]
fn running_pod_that_is_off_is_left_alone_when_it_is_found_in_the_cni_cache() {
    in_routed_netns(|| {
        let (dir, pod) = (agent_dir(), wired_pod());
        let before = routes(&pod);
        let cni = dir.join("cni");
        fs::create_dir_all(&cni).expect("create the directory");
        let entry = json!({"type": "portico-cni", "socket": dir.socket()});
        let conflist = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, entry]});
        fs::write(cni.join("10-net.conflist"), conflist.to_string()).expect("write a configuration");
        // The result that libcni caches for a pod (api.go).
        let cached = json!({
            "kind": "cniCacheV1", "containerId": "c1", "networkName": "net", "ifName": "eth0", "config": "e30=",
            "netns": pod.path(),
            "cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-0"], ["K8S_POD_UID", "u1"]],
            "capabilityArgs": {"io.kubernetes.cri.pod-annotations": {"portico.dev/portals": "off"}},
            "result": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path()}]},
        });
        fs::write(cni.join("net-c1-eth0"), cached.to_string()).expect("write a CNI result");
        let agent = Agent::start(&dir, &AGENT);
        agent.wait_until("the pod is found", |agent| unserved(agent) == listed());
        let served = pod_with_backends();
        agent.attach("served", &served);
        await_audits(&agent);
        assert_untouched(&pod, &before, "after audits");
        call("GC", &pod, &with(off(&dir), "cni.dev/valid-attachments", json!([]))).run().assert_success("");
        assert_eq!(unserved(&agent)["attachments"], 0);
        assert_untouched(&pod, &before, "after GC");
    });
}
