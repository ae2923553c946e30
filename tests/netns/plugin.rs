//! The plugin with a pod: its result, its requests to the agent, and its behaviour without an agent, up to a real
//! connection through a portal.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use agent_ipc::{
    Attachment, AttachmentKey, Listener, PodDns, PodName, ProgrammedBy, Record, Records, Reply, Request,
    ruleset_path,
};
use netns_nft::{RulesetSnapshot, encode_fresh};
use proxy_core::sample::{backend, slice, svc};
use serde_json::{Value, json};
use test_support::namespace::{in_routed_netns, load, run};
use test_support::plugin::{PluginCall, conf, with, without};
use test_support::plugin_agent::FakeAgent;
use test_support::pod::Pod;
use test_support::program::program;
use test_support::ruleset_loader::ruleset_of;
use test_support::temp_dir::TempDir;

use crate::wired_pod::wired_pod;

const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const PORTAL: &str = "10.96.0.1:80";

/// A call of a verb for a pod.
fn call(verb: &str, pod: &Pod, conf: &Value) -> PluginCall {
    PluginCall::new(&program("portico-cni"), verb, conf).env("CNI_NETNS", &pod.path())
}

/// The output of ADD for `conf`.
fn result(dir: &TempDir) -> String {
    conf(dir.path())["prevResult"].to_string()
}

fn on_agent_down(dir: &TempDir, what: &str) -> Value {
    with(conf(dir.path()), "onAgentDown", json!(what))
}

/// Stores the snapshot of an agent with one service, whose backend is on this side of the veth pair.
fn store_snapshot(dir: &TempDir) {
    let made = slice("web").tcp("", 8080).at("10.244.1.1");
    let ruleset = ruleset_of([svc("web").ip("10.96.0.1").tcp("", 80).into(), made.into()]);
    let batch = encode_fresh(&ruleset);
    let ranges = vec!["10.96.0.0/12".parse().expect("a network")];
    let path = ruleset_path(dir.path(), "all");
    fs::create_dir_all(path.parent().expect("a directory")).expect("create the directory");
    fs::write(&path, RulesetSnapshot { revision: 7, ranges, batch }.encode()).expect("write the snapshot");
}

/// Returns the name of the backend that the pod reaches through the portal.
fn backend_of(pod: &Pod) -> std::io::Result<String> {
    pod.within(|| {
        let mut name = String::new();
        let mut stream = TcpStream::connect_timeout(&backend(PORTAL), REPLY_TIMEOUT)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.read_to_string(&mut name)?;
        Ok(name)
    })
}

fn records(dir: &TempDir) -> Vec<Record> {
    Records::new(dir.path()).read_all().expect("read the records").0
}

fn key() -> AttachmentKey {
    AttachmentKey { network: "net".into(), container_id: "c1".into(), interface: "eth0".into() }
}

#[test]
fn prev_result_is_returned_unchanged_in_every_version() {
    let dir = TempDir::new("through");
    FakeAgent::start(&dir.join("agent.sock"), |_, _| Reply::Done);
    let pod = Pod::new();
    for (version, ip_version) in
        [("0.3.0", true), ("0.3.1", true), ("0.4.0", true), ("1.0.0", false), ("1.1.0", false)]
    {
        let ip = if ip_version { r#""version":"4","# } else { "" };
        for result in [
            // the result of bridge and host-local, which portmap returns unchanged
            format!(
                r#"{{"cniVersion":"{version}","interfaces":[{{"name":"cni0","mac":"aa:bb:cc:dd:ee:ff"}},{{"name":"eth0","mac":"aa:bb:cc:dd:ee:01","sandbox":"/run/netns/x"}}],"ips":[{{{ip}"interface":1,"address":"10.88.0.2/16","gateway":"10.88.0.1"}}],"routes":[{{"dst":"0.0.0.0/0"}}],"dns":{{}}}}"#
            ),
            // the form of podman, written from Go types
            format!(
                "{{\n  \"cniVersion\": \"{version}\",\n  \"ips\": [ {{ {ip} \"address\": \"10.88.0.2/16\" }} ],\n  \"dns\": {{}}\n}}"
            ),
            // unknown fields, numbers beyond all types, and text with optional escapes
            format!(
                r#"{{"dns":{{"nameservers":["10.0.0.1"],"x":1}},"new":{{"a":[1.0,1e400,18446744073709551616],"b":"\u00e4\/ä"}},"interfaces":[{{"name":"eth0","mtu":1500,"socketPath":"","pciID":""}}],"cniVersion":"{version}","ips":null}}"#
            ),
        ] {
            let input = with(conf(dir.path()), "cniVersion", json!(version));
            let input = without(input, "prevResult").to_string();
            let input = input.replacen('{', &format!("{{\"prevResult\":{result},"), 1);
            call("ADD", &pod, &json!({})).input(input).run().assert_success(&result);
        }
    }
}

#[test]
fn attach_request_contains_all_fields_of_the_attachment() {
    let dir = TempDir::new("fields");
    let (seen, netns) = mpsc::channel();
    let agent = FakeAgent::start(&dir.join("agent.sock"), move |_, netns| {
        seen.send(netns.map(netns_nft::Netns::id)).expect("the test listens");
        Reply::Done
    });
    let pod = Pod::new();
    let annotations = json!({"portico.dev/portals": "a,b", "other.io/x": "y"});
    let input = with(conf(dir.path()), "sokcet", json!("/typing/error"));
    let dns = json!({"Servers": ["10.96.0.10", "bad"], "Searches": ["shop.svc.cluster.local"], "Options": ["ndots:5"]});
    let input =
        with(input, "runtimeConfig", json!({"io.kubernetes.cri.pod-annotations": annotations, "dns": dns}));
    let expected = Attachment {
        key: key(),
        netns: pod.path().into(),
        pod: Some(PodName { namespace: "shop".into(), name: "web-0".into(), uid: "u1".into() }),
        addresses: vec!["10.244.1.5".parse().unwrap()],
        annotations: [("portals".into(), "a,b".into())].into(),
        dns: Some(PodDns {
            servers: vec!["10.96.0.10".parse().unwrap()],
            searches: vec!["shop.svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        }),
        notes: vec![
            "unknown configuration key \"sokcet\"".into(),
            "dns: ignored server \"bad\": not an IP address".into(),
        ],
    };
    call("ADD", &pod, &input).run().assert_success(&result(&dir));
    call("CHECK", &pod, &input).run().assert_success("");
    assert_eq!(agent.requests(), [Request::Attach(expected.clone()), Request::Check(expected)]);
    assert_eq!(netns.try_iter().collect::<Vec<_>>(), [Some(pod.netns.id()); 2]);
    assert!(records(&dir).is_empty(), "the agent writes the records");

    call("ADD", &pod, &input).env("CNI_ARGS", "K8S_POD_NAME=web-0").run().assert_success(&result(&dir));
    match agent.requests().last() {
        Some(Request::Attach(attachment)) => {
            assert_eq!(attachment.pod, None, "a pod name requires a namespace");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_of_the_agent_have_the_right_cni_code() {
    let pod = Pod::new();
    for (name, reply, code, words) in [
        (
            "later",
            Reply::Refused { message: "no services yet".into(), transient: true },
            11,
            "no services yet",
        ),
        ("never", Reply::Refused { message: "no such view".into(), transient: false }, 100, "no such view"),
        ("unexpected", Reply::File, 101, "file"),
    ] {
        let dir = TempDir::new(name);
        FakeAgent::start(&dir.join("agent.sock"), move |_, _| reply.clone());
        for verb in ["ADD", "CHECK"] {
            call(verb, &pod, &conf(dir.path())).run().assert_error(code, &[words]);
        }
    }
}

#[test]
fn connection_closed_by_the_agent_is_a_transient_error() {
    let dir = TempDir::new("ends");
    let listener = Listener::bind(&dir.join("agent.sock")).expect("listen");
    thread::spawn(move || drop(listener.accept()));
    call("ADD", &Pod::new(), &conf(dir.path()))
        .run()
        .assert_error(11, &["agent.sock", "closed without a message"]);
}

#[test]
fn annotations_beyond_the_size_of_a_message_are_rejected() {
    let dir = TempDir::new("oversized");
    FakeAgent::start(&dir.join("agent.sock"), |_, _| Reply::Done);
    let annotations = json!({"portico.dev/portals": "x".repeat(100_000)});
    let input =
        with(conf(dir.path()), "runtimeConfig", json!({"io.kubernetes.cri.pod-annotations": annotations}));
    call("ADD", &Pod::new(), &input).run().assert_error(104, &["exceeds 65536 bytes"]);
}

#[test]
fn plugin_programs_a_pod_from_the_snapshot_without_an_agent() {
    in_routed_netns(|| {
        let dir = TempDir::new("snapshot");
        store_snapshot(&dir);
        let pod = wired_pod();
        let kind = backend_of(&pod).expect_err("the pod is not programmed").kind();
        assert_eq!(kind, ErrorKind::NetworkUnreachable);
        call("ADD", &pod, &conf(dir.path())).run().assert_success(&result(&dir));
        assert_eq!(backend_of(&pod).expect("a reply through the portal"), "web");
        let [record] = records(&dir).try_into().expect("one record");
        assert_eq!((record.programmed_by, record.netns_id), (ProgrammedBy::Plugin, pod.netns.id()));
        assert_eq!(record.attachment.key, key());
        call("CHECK", &pod, &conf(dir.path())).run().assert_success("");
        call("STATUS", &pod, &conf(dir.path())).run().assert_success("");
        let listed = pod.within(rules);
        call("ADD", &pod, &conf(dir.path())).run().assert_success(&result(&dir));
        assert_eq!(pod.within(rules), listed, "a second ADD adds nothing");
        assert_eq!(backend_of(&pod).expect("a reply after a second ADD"), "web");
        for _ in 0..2 {
            call("DEL", &pod, &conf(dir.path())).run().assert_success("");
            assert!(records(&dir).is_empty());
        }
    });
}

/// The whole ruleset of this network namespace.
fn rules() -> String {
    run("nft", &["list", "ruleset"], "")
}

#[test]
fn check_without_an_agent_requires_the_table() {
    let dir = TempDir::new("check");
    store_snapshot(&dir);
    let pod = pod_with_interface();
    call("CHECK", &pod, &conf(dir.path())).run().assert_error(102, &["table inet portico is missing"]);
    call("ADD", &pod, &conf(dir.path())).run().assert_success(&result(&dir));
    call("CHECK", &pod, &conf(dir.path())).run().assert_success("");
    pod.within(|| load("flush chain inet portico output"));
    call("CHECK", &pod, &conf(dir.path())).run().assert_error(102, &["has drifted"]);
    pod.within(|| load("flush ruleset"));
    call("CHECK", &pod, &conf(dir.path())).run().assert_error(102, &["table inet portico is missing"]);
}

/// A pod with only the interface.
fn pod_with_interface() -> Pod {
    let pod = Pod::new();
    pod.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
    pod.ip(&["address", "add", "10.244.1.5/24", "dev", "eth0"]);
    pod.ip(&["link", "set", "other", "up"]);
    pod.ip(&["link", "set", "eth0", "up"]);
    pod
}

#[test]
fn missing_agent_and_snapshot_are_a_transient_error() {
    let dir = TempDir::new("nothing");
    let pod = Pod::new();
    call("ADD", &pod, &conf(dir.path()))
        .run()
        .assert_error(11, &["no agent is listening on", "no usable snapshot"]);
    store_snapshot(&dir);
    let annotations = json!({"io.kubernetes.cri.pod-annotations": {"portico.dev/portals": "a"}});
    let selecting = with(conf(dir.path()), "runtimeConfig", annotations);
    call("ADD", &pod, &selecting).run().assert_error(11, &["no usable snapshot", "portico.dev/portals"]);
    fs::write(ruleset_path(dir.path(), "all"), "garbage").unwrap();
    call("ADD", &pod, &conf(dir.path())).run().assert_error(11, &["no usable snapshot", "all.ruleset"]);
    call("ADD", &pod, &on_agent_down(&dir, "fail")).run().assert_error(11, &["no agent is listening on"]);
    assert!(records(&dir).is_empty());
    assert_eq!(pod.within(|| run("nft", &["list", "ruleset"], "")), "");
}

#[test]
fn snapshot_of_release_0_1_0_is_not_used() {
    let dir = TempDir::new("earlier");
    let path = ruleset_path(dir.path(), "all");
    fs::create_dir_all(path.parent().expect("a directory")).expect("create the directory");
    fs::write(&path, include_bytes!("snapshot-of-0.1.0.bin")).expect("write the snapshot");
    let pod = Pod::new();
    let words = ["no agent is listening on", "no usable snapshot", "unsupported layout 8"];
    call("ADD", &pod, &conf(dir.path())).run().assert_error(11, &words);
    assert!(records(&dir).is_empty());
    assert_eq!(pod.within(rules), "");
    call("ADD", &pod, &on_agent_down(&dir, "ignore")).run().assert_success(&result(&dir));
    assert_eq!(pod.within(rules), "");
}

#[test]
fn on_agent_down_ignore_starts_a_pod_without_portals() {
    let dir = TempDir::new("ignore");
    let (pod, input) = (Pod::new(), on_agent_down(&dir, "ignore"));
    call("ADD", &pod, &input).run().assert_success(&result(&dir));
    let [record] = records(&dir).try_into().expect("one record");
    assert_eq!((record.programmed_by, record.netns_id), (ProgrammedBy::NotYet, pod.netns.id()));
    // CRI-O sends CHECK after each ADD.
    call("CHECK", &pod, &input).run().assert_success("");
    assert_eq!(pod.within(|| run("nft", &["list", "ruleset"], "")), "");
}

#[test]
fn failed_write_of_a_record_is_an_error() {
    let dir = TempDir::new("unwritten");
    fs::write(dir.join("attachments"), "in the loader").unwrap();
    let input = on_agent_down(&dir, "ignore");
    call("ADD", &Pod::new(), &input).run().assert_error(5, &["failed to write record of net/c1/eth0"]);
}

#[test]
fn sixty_four_pods_start_at_once_with_and_without_an_agent() {
    for is_agent_up in [true, false] {
        let dir = TempDir::new(if is_agent_up { "many-up" } else { "many-down" });
        store_snapshot(&dir);
        let agent = is_agent_up.then(|| FakeAgent::start(&dir.join("agent.sock"), |_, _| Reply::Done));
        let pods: Vec<Pod> = (0..64).map(|_| pod_with_interface()).collect();
        let started: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(number, pod)| {
                let call = call("ADD", pod, &conf(dir.path())).env("CNI_CONTAINERID", &format!("c{number}"));
                call.start(Stdio::piped())
            })
            .collect();
        for child in started {
            let output = child.wait_with_output().expect("wait for the plugin");
            assert!(output.status.success(), "{output:?}");
            assert_eq!(String::from_utf8(output.stdout).unwrap(), result(&dir));
        }
        match agent {
            Some(agent) => assert_eq!(agent.requests().len(), 64),
            None => {
                let found: Vec<_> = records(&dir).iter().map(|record| record.netns_id).collect();
                assert!(pods.iter().all(|pod| found.contains(&pod.netns.id())) && found.len() == 64);
            }
        }
    }
}

#[test]
fn del_succeeds_after_add_was_killed() {
    let dir = TempDir::new("killed");
    let (requested, is_requested) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let agent = FakeAgent::start(&dir.join("agent.sock"), move |request, _| {
        if matches!(request, Request::Attach(_)) {
            requested.send(()).expect("the test listens");
            let _ = may_go_on.lock().expect("one at a time").recv();
        }
        Reply::Done
    });
    let pod = Pod::new();
    let mut child = call("ADD", &pod, &conf(dir.path())).start(Stdio::piped());
    is_requested.recv_timeout(REPLY_TIMEOUT).expect("the agent gets the request");
    child.kill().expect("SIGKILL");
    assert_eq!(child.wait().expect("wait for the plugin").code(), None);
    go_on.send(()).expect("the agent waits");
    call("DEL", &pod, &conf(dir.path())).run().assert_success("");
    assert_eq!(agent.requests().last(), Some(&Request::Detach { key: key() }));
    drop(go_on);
    call("ADD", &pod, &conf(dir.path())).run().assert_success(&result(&dir));
}
