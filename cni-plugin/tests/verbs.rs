//! The verbs that need no network namespace: DEL never fails, GC removes invalid attachments only, STATUS reports whether
//! ADD can succeed, and VERSION ignores its input.

use std::fs;
use std::path::Path;

use agent_ipc::{Attachment, AttachmentKey, ProgrammedBy, Record, Records, Reply, Request, ruleset_path};
use netns_nft::Netns;
use serde_json::{Value, json};
use test_support::plugin::{PluginCall, conf, with, without};
use test_support::plugin_agent::FakeAgent;
use test_support::temp_dir::TempDir;

fn call(verb: &str, conf: &Value) -> PluginCall {
    PluginCall::new(Path::new(env!("CARGO_BIN_EXE_portico-cni")), verb, conf)
}

fn start_agent(
    dir: &TempDir,
    answer: impl Fn(&Request, Option<&Netns>) -> Reply + Send + Sync + 'static,
) -> FakeAgent {
    FakeAgent::start(&dir.join("agent.sock"), answer)
}

fn accept(_: &Request, _: Option<&Netns>) -> Reply {
    Reply::Done
}

fn refuse(
    message: &str,
    transient: bool,
) -> impl Fn(&Request, Option<&Netns>) -> Reply + Send + Sync + 'static {
    let reply = Reply::Refused { message: message.to_owned(), transient };
    move |_, _| reply.clone()
}

fn key(network: &str, container_id: &str) -> AttachmentKey {
    AttachmentKey { network: network.into(), container_id: container_id.into(), interface: "eth0".into() }
}

fn write_records(dir: &TempDir, keys: impl IntoIterator<Item = AttachmentKey>) {
    for key in keys {
        let attachment = Attachment {
            key,
            netns: "/run/netns/gone".into(),
            pod: None,
            addresses: Vec::new(),
            annotations: [].into(),
            dns: None,
            notes: Vec::new(),
        };
        let netns_id = serde_json::from_value(json!({"dev": 4, "inode": 5, "cookie": 6}));
        let netns_id = netns_id.expect("an identity");
        let record = Record { attachment, netns_id, programmed_by: ProgrammedBy::Plugin };
        Records::new(dir.path()).write(&record).expect("write a record");
    }
}

/// The keys of the remaining records.
fn remaining_keys(dir: &TempDir) -> Vec<AttachmentKey> {
    let (records, broken) = Records::new(dir.path()).read_all().expect("read the records");
    assert!(broken.is_empty(), "{broken:?}");
    records.into_iter().map(|record| record.attachment.key).collect()
}

#[test]
fn version_ignores_its_input() {
    let supported = concat!(
        r#"{"cniVersion":"1.1.0","#,
        r#""supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
    );
    let call = call("VERSION", &json!({"cniVersion": "9.9.9"}));
    call.run().assert_success(supported);
    call.input("{").env("CNI_NETNS", "dummy").env("CNI_CONTAINERID", "").run().assert_success(supported);
}

#[test]
fn del_succeeds_for_any_input() {
    let dir = TempDir::new("del");
    let conf = conf(dir.path());
    let del = |conf: &Value| call("DEL", conf);
    for call in [
        del(&conf),
        del(&conf).env("CNI_NETNS", ""),
        del(&conf).without("CNI_NETNS"),
        del(&conf).env("CNI_NETNS", "/run/netns/gone"),
        del(&without(conf.clone(), "prevResult")),
        del(&with(conf.clone(), "prevResult", json!("x"))),
        del(&with(conf.clone(), "onAgentDown", json!("panic"))),
        del(&with(conf.clone(), "socket", json!(5))),
        del(&with(conf.clone(), "stateDir", json!("/proc/1/nothing"))),
        del(&with(conf.clone(), "cniVersion", json!("9.9.9"))),
        del(&without(conf.clone(), "cniVersion")),
        del(&with(conf.clone(), "runtimeConfig", json!("x"))),
        del(&with(conf.clone(), "name", json!("../x"))),
        del(&conf).env("CNI_ARGS", ";;="),
        del(&conf).env("CNI_CONTAINERID", "../../x"),
        del(&conf).without("CNI_CONTAINERID").without("CNI_IFNAME"),
        del(&conf).input(""),
        del(&conf).input("{"),
        del(&conf).input("null"),
        del(&conf).input([0xff; 100]),
        del(&conf).input(vec![b' '; 17 << 20]),
    ] {
        call.run().assert_success("");
    }
}

#[test]
fn del_succeeds_if_the_agent_refuses_or_sends_an_unexpected_reply() {
    for (name, answer) in [("no", refuse("broken", false)), ("later", refuse("busy", true))] {
        let dir = TempDir::new(name);
        start_agent(&dir, answer);
        call("DEL", &conf(dir.path())).run().assert_success("");
    }
    let dir = TempDir::new("nonsense");
    start_agent(&dir, |_, _| Reply::File);
    call("DEL", &conf(dir.path())).run().assert_success("");
}

#[test]
fn del_removes_the_record_with_and_without_an_agent() {
    for is_agent_up in [false, true] {
        let dir = TempDir::new(if is_agent_up { "del-up" } else { "del-down" });
        let agent = is_agent_up.then(|| start_agent(&dir, accept));
        write_records(&dir, [key("net", "c1"), key("net", "c2"), key("other", "c1")]);
        for _ in 0..2 {
            call("DEL", &conf(dir.path())).run().assert_success("");
            assert_eq!(remaining_keys(&dir), [key("net", "c2"), key("other", "c1")]);
        }
        if let Some(agent) = agent {
            assert_eq!(agent.requests(), vec![Request::Detach { key: key("net", "c1") }; 2]);
        }
    }
}

fn gc(dir: &TempDir, valid: Value) -> PluginCall {
    call("GC", &with(conf(dir.path()), "cni.dev/valid-attachments", valid))
}

#[test]
fn gc_sends_the_valid_attachments_to_the_agent() {
    let dir = TempDir::new("gc-up");
    let agent = start_agent(&dir, accept);
    gc(&dir, json!([{"containerID": "c1", "ifname": "eth0", "new": 1}])).run().assert_success("");
    gc(&dir, json!([])).run().assert_success("");
    gc(&dir, json!(null)).run().assert_success("");
    let request = |valid: &[AttachmentKey]| Request::Gc { network: "net".into(), valid: valid.to_vec() };
    assert_eq!(agent.requests(), [request(&[key("net", "c1")]), request(&[]), request(&[])]);
}

#[test]
fn gc_without_an_agent_prunes_the_records_of_its_network() {
    let all = [key("net", "c1"), key("net", "c2"), key("other", "c1")];
    for (valid, kept) in [
        (json!([{"containerID": "c2", "ifname": "eth0"}]), &all[1..]),
        (json!([{"containerID": "c2", "ifname": "eth1"}]), &all[2..]),
        (json!([]), &all[2..]),
        (json!(null), &all[2..]),
    ] {
        let dir = TempDir::new("gc-down");
        write_records(&dir, all.clone());
        gc(&dir, valid).run().assert_success("");
        assert_eq!(remaining_keys(&dir), kept);
    }
}

#[test]
fn gc_without_valid_attachments_deletes_nothing() {
    for is_agent_up in [false, true] {
        let dir = TempDir::new(if is_agent_up { "gc-absent-up" } else { "gc-absent-down" });
        let agent = is_agent_up.then(|| start_agent(&dir, accept));
        write_records(&dir, [key("net", "c1")]);
        call("GC", &conf(dir.path())).run().assert_success("");
        for nonsense in [json!("x"), json!([{"ifname": "eth0"}]), json!([1]), json!({"c1": "eth0"})] {
            gc(&dir, nonsense).run().assert_error(7, &["cni.dev/valid-attachments"]);
        }
        assert_eq!(remaining_keys(&dir), [key("net", "c1")]);
        assert!(agent.is_none_or(|agent| agent.requests().is_empty()));
    }
}

#[test]
fn gc_beyond_the_size_of_a_message_sends_all_valid_attachments() {
    let dir = TempDir::new("gc-list");
    let agent = start_agent(&dir, accept);
    gc(&dir, many_attachments()).run().assert_success("");
    let [Request::Gc { network, valid }] = &agent.requests()[..] else { panic!("{:?}", agent.requests()) };
    assert_eq!((network.as_str(), valid.len()), ("net", 20_000));
    assert_eq!(valid[19_999], key("net", "c19999"));
}

/// More attachments than fit into a message.
fn many_attachments() -> Value {
    json!(
        (0..20_000)
            .map(|number| json!({"containerID": format!("c{number}"), "ifname": "eth0"}))
            .collect::<Vec<_>>()
    )
}

#[test]
fn gc_detaches_one_by_one_if_an_old_agent_refuses_the_list() {
    let dir = TempDir::new("gc-huge");
    // The reply of version 0.1.0 to an unknown request.
    let agent = start_agent(&dir, |request, netns| match request {
        Request::Gc { .. } => refuse(
            "receive a request: the message cannot be understood: unknown variant",
            false,
        )(request, netns),
        _ => accept(request, netns),
    });
    write_records(&dir, [key("net", "c1"), key("net", "gone"), key("other", "gone")]);
    gc(&dir, many_attachments()).run().assert_success("");
    assert_eq!(agent.requests()[1..], [Request::Detach { key: key("net", "gone") }]);
    assert_eq!(remaining_keys(&dir), [key("net", "c1"), key("other", "gone")]);
}

#[test]
fn gc_returns_the_agents_error() {
    let dir = TempDir::new("gc-refused");
    start_agent(&dir, refuse("the disk is full", false));
    gc(&dir, json!([])).run().assert_error(100, &["the agent: the disk is full"]);
}

#[test]
fn status_returns_the_agents_error() {
    let dir = TempDir::new("status-done");
    let asked = start_agent(&dir, accept);
    call("STATUS", &conf(dir.path())).run().assert_success("");
    assert_eq!(asked.requests(), [Request::Ready]);
    let dir = TempDir::new("status-later");
    start_agent(&dir, refuse("no services yet", true));
    call("STATUS", &conf(dir.path())).run().assert_error(50, &["no services yet"]);
    let dir = TempDir::new("status-never");
    start_agent(&dir, refuse("no nf_tables in this kernel", false));
    call("STATUS", &conf(dir.path())).run().assert_error(51, &["no nf_tables in this kernel"]);
}

#[test]
fn status_without_an_agent_depends_on_on_agent_down() {
    let dir = TempDir::new("status-down");
    let status = |on_agent_down: &str| {
        let conf = with(conf(dir.path()), "onAgentDown", json!(on_agent_down));
        call("STATUS", &without(conf, "prevResult")).run()
    };
    status("ignore").assert_success("");
    status("fail").assert_error(50, &["no agent is listening on", "agent.sock"]);
    status("snapshot").assert_error(50, &["no agent is listening on", "no usable snapshot", "all.ruleset"]);
    let path = ruleset_path(dir.path(), "all");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "garbage").unwrap();
    status("snapshot").assert_error(50, &["no usable snapshot", "all.ruleset"]);
}
