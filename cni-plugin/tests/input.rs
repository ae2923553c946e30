//! What comes in: every environment and every configuration that is not as it should be gets the code that
//! CNI has for it, and a message that names what is wrong. No privilege is needed: all of it is found
//! before a network namespace is entered.

#[path = "fixture/runtime.rs"]
#[allow(dead_code, unused_imports)]
mod runtime;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use agent_ipc::Reply;
use runtime::{Agent, Call, Folder, conf, with, without};
use serde_json::{Value, json};

fn call(verb: &str, conf: &Value) -> Call {
    Call::new(Path::new(env!("CARGO_BIN_EXE_portico-cni")), verb, conf)
}

fn add(conf: &Value) -> Call {
    call("ADD", conf)
}

fn good() -> Value {
    conf(Path::new("/nonexistent"))
}

/// An ADD that is right but for the network namespace, which is the plugin's own.
#[track_caller]
fn assert_only_netns_is_wrong(call: &Call) {
    call.run().failed(8, &["CNI_NETNS", "this process's own"]);
}

#[test]
fn a_good_call_has_nothing_wrong_but_the_netns() {
    assert_only_netns_is_wrong(&add(&good()));
}

#[test]
fn all_missing_variables_are_named_at_once() {
    for verb in ["ADD", "CHECK"] {
        let call = call(verb, &good()).without("CNI_CONTAINERID").without("CNI_NETNS");
        let call = call.env("CNI_IFNAME", "").without("CNI_ARGS");
        call.run().failed(4, &["[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]"]);
    }
    add(&good()).without("CNI_NETNS").run().failed(4, &["[CNI_NETNS]"]);
}

#[test]
fn gc_status_and_version_need_no_variables() {
    for verb in ["GC", "STATUS", "VERSION"] {
        let conf = with(good(), "onAgentDown", json!("ignore"));
        let mut call = call(verb, &conf);
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
            call = call.without(name);
        }
        assert_eq!(call.run().status, Some(0), "{verb}");
    }
}

#[test]
fn names_that_are_none_are_refused() {
    for id in ["a/b", "../x", "-a", "a b", "ä"] {
        add(&good()).env("CNI_CONTAINERID", id).run().failed(4, &["CNI_CONTAINERID", id]);
    }
    for interface in ["sixteen-bytes-xx", ".", "..", "a/b", "a:b", "a b", "a\tb"] {
        add(&good()).env("CNI_IFNAME", interface).run().failed(4, &["CNI_IFNAME"]);
    }
    assert_only_netns_is_wrong(&add(&good()).env("CNI_IFNAME", "fifteen-bytes-x"));
}

#[test]
fn a_verb_that_nobody_knows_is_named_and_none_is_a_question_about_us() {
    call("DANCE", &good()).run().failed(4, &["CNI_COMMAND", "DANCE"]);
    call("add", &good()).run().failed(4, &["CNI_COMMAND", "add"]);
    for call in [call("", &good()), call(" ", &good()), call("", &good()).without("CNI_COMMAND")] {
        let outcome = call.run();
        outcome.said("");
        assert!(outcome.stderr.contains("portico-cni"), "{outcome:?}");
    }
}

#[test]
fn what_is_no_json_object_cannot_be_decoded() {
    for (input, words) in [
        (&b""[..], "standard input is empty"),
        (b"{", "EOF while parsing"),
        (b"null", "expected a map"),
        (b"[]", "expected a map"),
        (b"{} {}", "trailing characters"),
        (b"{\"name\":\"\xff\"}", "standard input is no configuration"),
        (b"\xef\xbb\xbf{}", "standard input is no configuration"),
    ] {
        for verb in ["ADD", "CHECK", "GC", "STATUS"] {
            call(verb, &good()).input(input).run().failed(6, &[words]);
        }
    }
}

#[test]
fn deep_nesting_is_no_stack_overflow() {
    let deep = format!("{{\"x\":{}", "[".repeat(1 << 20));
    add(&good()).input(deep).run().failed(6, &["EOF while parsing a list"]);
}

#[test]
fn ten_megabytes_are_read_and_seventeen_are_refused_by_name() {
    let padded = |bytes| with(good(), "args", json!({"x": "y".repeat(bytes)}));
    assert_only_netns_is_wrong(&add(&padded(10 << 20)));
    add(&padded(17 << 20)).run().failed(5, &["larger than 16777216 bytes"]);
}

#[test]
fn of_equal_keys_the_last_one_counts_as_for_libcni() {
    let text = good().to_string();
    let doubled = text.replacen('{', r#"{"name":"../x","#, 1);
    assert_only_netns_is_wrong(&add(&good()).input(doubled));
}

#[test]
fn only_versions_that_can_be_chained_are_supported() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let outcome = add(&with(good(), "cniVersion", json!(version))).run();
        outcome.failed(8, &[]);
        assert!(outcome.stdout.contains(&format!("\"cniVersion\":\"{version}\"")), "{outcome:?}");
    }
    for version in ["9.9.9", "0.1.0", "0.2.0", "1.1", "v1.0.0"] {
        add(&with(good(), "cniVersion", json!(version))).run().failed(1, &[version, "0.3.0", "1.1.0"]);
    }
    add(&with(good(), "cniVersion", json!(""))).run().failed(1, &["no cniVersion", "0.1.0"]);
    add(&without(good(), "cniVersion")).run().failed(1, &["no cniVersion", "0.1.0"]);
    add(&with(good(), "cniVersion", json!(1.0))).run().failed(6, &["cniVersion"]);
}

#[test]
fn a_verb_that_came_later_is_refused_to_an_older_configuration() {
    for (verb, version, since) in [
        ("CHECK", "0.3.0", "0.4.0"),
        ("CHECK", "0.3.1", "0.4.0"),
        ("GC", "1.0.0", "1.1.0"),
        ("STATUS", "0.4.0", "1.1.0"),
    ] {
        call(verb, &with(good(), "cniVersion", json!(version))).run().failed(1, &[verb, since, version]);
    }
}

#[test]
fn a_network_has_a_name() {
    add(&without(good(), "name")).run().failed(7, &["name", "missing"]);
    for name in ["../x", "", "a/b", "-x"] {
        add(&with(good(), "name", json!(name))).run().failed(7, &["name", "no name of a network"]);
    }
    add(&with(good(), "name", json!(5))).run().failed(7, &["name", "expected a string"]);
}

#[test]
fn a_result_of_the_plugins_before_is_required_and_looked_at() {
    add(&without(good(), "prevResult")).run().failed(7, &["prevResult", "missing"]);
    add(&with(good(), "prevResult", json!(null))).run().failed(7, &["prevResult", "missing"]);
    add(&with(good(), "prevResult", json!("x"))).run().failed(7, &["prevResult", "expected a map"]);
    let ips = |ips: Value| add(&with(good(), "prevResult", json!({"ips": ips})));
    ips(json!([{"address": "10.0.0.1/40"}])).run().failed(7, &["prevResult.ips", "10.0.0.1/40"]);
    ips(json!([{"address": "x"}])).run().failed(7, &["prevResult.ips", "\"x\""]);
    ips(json!([{}])).run().failed(7, &["prevResult.ips", "missing field `address`"]);
    ips(json!("x")).run().failed(7, &["prevResult.ips"]);
    assert_only_netns_is_wrong(&add(&with(good(), "prevResult", json!({}))));
    for index in [json!(99), json!(-1), json!(null)] {
        assert_only_netns_is_wrong(&ips(json!([{"address": "10.0.0.1/8", "interface": index}])));
    }
}

#[test]
fn our_own_keys_are_held_to_what_they_mean() {
    add(&with(good(), "onAgentDown", json!("panic")))
        .run()
        .failed(7, &["onAgentDown", "\"panic\"", "\"snapshot\"", "\"fail\"", "\"ignore\""]);
    add(&with(good(), "onAgentDown", json!(true))).run().failed(7, &["onAgentDown"]);
    add(&with(good(), "socket", json!("agent.sock"))).run().failed(7, &["socket", "no absolute path"]);
    add(&with(good(), "stateDir", json!(["/run"]))).run().failed(7, &["stateDir"]);
}

#[test]
fn strange_arguments_are_skipped() {
    for args in ["a", "a=b=c", "", ";;", "K8S_POD_NAME=x", "=", "K8S_POD_NAMESPACE"] {
        assert_only_netns_is_wrong(&add(&good()).env("CNI_ARGS", args));
    }
}

#[test]
fn annotations_that_are_ours_must_be_text_and_others_are_not_looked_at() {
    let annotations = |value: Value| {
        add(&with(good(), "runtimeConfig", json!({"io.kubernetes.cri.pod-annotations": value})))
    };
    assert_only_netns_is_wrong(&add(&with(good(), "runtimeConfig", json!(null))));
    assert_only_netns_is_wrong(&add(&with(good(), "runtimeConfig", json!({}))));
    assert_only_netns_is_wrong(&annotations(json!(null)));
    assert_only_netns_is_wrong(&annotations(json!({"other.io/x": 5, "y": "z".repeat(1 << 20)})));
    annotations(json!({"portico.dev/services": 5})).run().failed(7, &["annotation portico.dev/services"]);
    annotations(json!("x")).run().failed(7, &["runtimeConfig.io.kubernetes.cri.pod-annotations"]);
    add(&with(good(), "runtimeConfig", json!("x"))).run().failed(7, &["runtimeConfig"]);
}

#[test]
fn what_is_no_netns_of_a_pod_is_refused_before_anything_is_done() {
    let folder = Folder::new("no-netns");
    let agent = Agent::start(&folder.join("agent.sock"), |_, _| Reply::Done);
    fs::write(folder.join("file"), "").unwrap();
    for verb in ["ADD", "CHECK"] {
        let refused = |netns: &Path, words: &[&str]| {
            let call = call(verb, &conf(&folder.0)).env("CNI_NETNS", netns.to_str().unwrap());
            call.run().failed(8, &[&["CNI_NETNS", netns.to_str().unwrap()], words].concat());
        };
        refused(Path::new("/proc/self/ns/net"), &["this process's own"]);
        refused(&folder.join("absent"), &["No such file"]);
        refused(&folder.join("file"), &["it is none"]);
        refused(&folder.0, &["it is none"]);
        refused(Path::new("/dev/null"), &["it is none"]);
        refused(Path::new("/proc/self/ns/uts"), &["it is none"]);
    }
    assert!(agent.requests().is_empty(), "{:?}", agent.requests());
}

#[test]
fn variables_that_are_no_text_are_named() {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"/run/\xff");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portico-cni"));
    command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "c1").env("CNI_IFNAME", "eth0");
    let output = command.env("CNI_NETNS", name).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("env variables [CNI_NETNS] are not UTF-8"), "{text}");
}

#[test]
fn an_answer_that_nobody_takes_is_no_panic() {
    for verb in ["VERSION", "ADD"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = call(verb, &good()).start(writer.into()).wait_with_output().unwrap();
        assert!(output.status.code() == Some(1) && output.stderr.is_empty(), "{output:?}");
    }
}
