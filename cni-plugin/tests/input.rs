//! Invalid environments and configurations: each is rejected with its error code of the CNI specification and a message
//! that names the problem, before a network namespace is entered, so these tests need no privileges.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use agent_ipc::Reply;
use serde_json::{Value, json};
use test_support::plugin::{Call, conf, with, without};
use test_support::plugin_agent::FakeAgent;
use test_support::temp_dir::TempDir;

fn call(verb: &str, conf: &Value) -> Call {
    Call::new(Path::new(env!("CARGO_BIN_EXE_portico-cni")), verb, conf)
}

fn add(conf: &Value) -> Call {
    call("ADD", conf)
}

fn good() -> Value {
    conf(Path::new("/nonexistent"))
}

/// Asserts that an ADD is valid except for the network namespace, which is the plugin's own.
#[track_caller]
fn assert_only_netns_is_wrong(call: &Call) {
    call.run().failed(8, &["CNI_NETNS", "this process's own"]);
}

#[test]
fn valid_call_fails_only_because_of_its_netns() {
    assert_only_netns_is_wrong(&add(&good()));
}

#[test]
fn all_missing_variables_are_reported_at_once() {
    for verb in ["ADD", "CHECK"] {
        let call = call(verb, &good()).without("CNI_CONTAINERID").without("CNI_NETNS");
        let call = call.env("CNI_IFNAME", "").without("CNI_ARGS");
        call.run().failed(4, &["[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]"]);
    }
    add(&good()).without("CNI_NETNS").run().failed(4, &["[CNI_NETNS]"]);
}

#[test]
fn gc_status_and_version_require_no_variables() {
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
fn invalid_names_are_rejected() {
    for id in ["a/b", "../x", "-a", "a b", "ä"] {
        add(&good()).env("CNI_CONTAINERID", id).run().failed(4, &["CNI_CONTAINERID", id]);
    }
    for interface in ["sixteen-bytes-xx", ".", "..", "a/b", "a:b", "a b", "a\tb"] {
        add(&good()).env("CNI_IFNAME", interface).run().failed(4, &["CNI_IFNAME"]);
    }
    assert_only_netns_is_wrong(&add(&good()).env("CNI_IFNAME", "fifteen-bytes-x"));
}

#[test]
fn unknown_command_is_rejected_and_an_empty_one_prints_the_version() {
    call("DANCE", &good()).run().failed(4, &["CNI_COMMAND", "DANCE"]);
    call("add", &good()).run().failed(4, &["CNI_COMMAND", "add"]);
    for call in [call("", &good()), call(" ", &good()), call("", &good()).without("CNI_COMMAND")] {
        let outcome = call.run();
        outcome.succeeded("");
        assert!(outcome.stderr.contains("portico-cni"), "{outcome:?}");
    }
}

#[test]
fn input_that_is_not_a_json_object_is_rejected() {
    for (input, words) in [
        (&b""[..], "standard input is empty"),
        (b"{", "EOF while parsing"),
        (b"null", "expected a map"),
        (b"[]", "expected a map"),
        (b"{} {}", "trailing characters"),
        (b"{\"name\":\"\xff\"}", "invalid configuration on standard input"),
        (b"\xef\xbb\xbf{}", "invalid configuration on standard input"),
    ] {
        for verb in ["ADD", "CHECK", "GC", "STATUS"] {
            call(verb, &good()).input(input).run().failed(6, &[words]);
        }
    }
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = format!("{{\"x\":{}", "[".repeat(1 << 20));
    add(&good()).input(deep).run().failed(6, &["EOF while parsing a list"]);
}

#[test]
fn input_of_10_mb_is_accepted_and_of_17_mb_rejected() {
    let padded = |bytes| with(good(), "args", json!({"x": "y".repeat(bytes)}));
    assert_only_netns_is_wrong(&add(&padded(10 << 20)));
    add(&padded(17 << 20)).run().failed(5, &["larger than 16777216 bytes"]);
}

#[test]
fn last_duplicate_key_counts_as_in_libcni() {
    let text = good().to_string();
    let doubled = text.replacen('{', r#"{"name":"../x","#, 1);
    assert_only_netns_is_wrong(&add(&good()).input(doubled));
}

#[test]
fn only_versions_with_chained_plugins_are_supported() {
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
fn verb_is_rejected_for_versions_that_lack_it() {
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
fn network_name_is_required_and_validated() {
    add(&without(good(), "name")).run().failed(7, &["name", "missing"]);
    for name in ["../x", "", "a/b", "-x"] {
        add(&with(good(), "name", json!(name))).run().failed(7, &["name", "not a valid network name"]);
    }
    add(&with(good(), "name", json!(5))).run().failed(7, &["name", "expected a string"]);
}

#[test]
fn prev_result_is_required_and_validated() {
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
fn values_of_the_plugins_keys_are_validated() {
    add(&with(good(), "onAgentDown", json!("panic")))
        .run()
        .failed(7, &["onAgentDown", "\"panic\"", "snapshot, fail, ignore"]);
    add(&with(good(), "onAgentDown", json!(true))).run().failed(7, &["onAgentDown"]);
    add(&with(good(), "socket", json!("agent.sock"))).run().failed(7, &["socket", "not an absolute path"]);
    add(&with(good(), "stateDir", json!(["/run"]))).run().failed(7, &["stateDir"]);
}

#[test]
fn malformed_cni_args_are_ignored() {
    for args in ["a", "a=b=c", "", ";;", "K8S_POD_NAME=x", "=", "K8S_POD_NAMESPACE"] {
        assert_only_netns_is_wrong(&add(&good()).env("CNI_ARGS", args));
    }
}

#[test]
fn only_annotations_with_porticos_prefix_are_validated() {
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
fn invalid_netns_is_rejected_before_the_agent_is_contacted() {
    let dir = TempDir::new("no-netns");
    let agent = FakeAgent::start(&dir.join("agent.sock"), |_, _| Reply::Done);
    fs::write(dir.join("file"), "").unwrap();
    for verb in ["ADD", "CHECK"] {
        let refused = |netns: &Path, words: &[&str]| {
            let call = call(verb, &conf(dir.path())).env("CNI_NETNS", netns.to_str().unwrap());
            call.run().failed(8, &[&["CNI_NETNS", netns.to_str().unwrap()], words].concat());
        };
        refused(Path::new("/proc/self/ns/net"), &["this process's own"]);
        refused(&dir.join("absent"), &["No such file"]);
        refused(&dir.join("file"), &["not a network namespace"]);
        refused(dir.path(), &["not a network namespace"]);
        refused(Path::new("/dev/null"), &["not a network namespace"]);
        refused(Path::new("/proc/self/ns/uts"), &["not a network namespace"]);
    }
    assert!(agent.requests().is_empty(), "{:?}", agent.requests());
}

#[test]
fn variables_that_are_not_utf8_are_named() {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"/run/\xff");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portico-cni"));
    command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "c1").env("CNI_IFNAME", "eth0");
    let output = command.env("CNI_NETNS", name).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("env variables [CNI_NETNS] are not UTF-8"), "{text}");
}

#[test]
fn closed_standard_output_is_an_error_without_a_panic() {
    for verb in ["VERSION", "ADD"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = call(verb, &good()).start(writer.into()).wait_with_output().unwrap();
        assert!(output.status.code() == Some(1) && output.stderr.is_empty(), "{output:?}");
    }
}
