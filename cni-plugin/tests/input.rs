//! Invalid environments and configurations: each is rejected with its error code of the CNI specification and a message
//! that names the problem, before a network namespace is entered, so these tests need no privileges.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use agent_ipc::Reply;
use serde_json::{Value, json};
use test_support::plugin::{PluginCall, conf, with, without};
use test_support::plugin_agent::FakeAgent;
use test_support::temp_dir::TempDir;

fn call(verb: &str, conf: &Value) -> PluginCall {
    PluginCall::new(Path::new(env!("CARGO_BIN_EXE_portico-cni")), verb, conf)
}

fn add(conf: &Value) -> PluginCall {
    call("ADD", conf)
}

fn valid_conf() -> Value {
    conf(Path::new("/nonexistent"))
}

/// Asserts that an ADD is valid except for the network namespace, which is the plugin's own.
#[track_caller]
fn assert_only_netns_is_wrong(call: &PluginCall) {
    call.run().assert_error(8, &["CNI_NETNS", "this process's own"]);
}

#[test]
fn valid_call_fails_only_because_of_its_netns() {
    assert_only_netns_is_wrong(&add(&valid_conf()));
}

#[test]
fn all_missing_variables_are_reported_at_once() {
    for verb in ["ADD", "CHECK"] {
        let call = call(verb, &valid_conf()).without("CNI_CONTAINERID").without("CNI_NETNS");
        let call = call.env("CNI_IFNAME", "").without("CNI_ARGS");
        call.run().assert_error(4, &["[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]"]);
    }
    add(&valid_conf()).without("CNI_NETNS").run().assert_error(4, &["[CNI_NETNS]"]);
}

#[test]
fn gc_status_and_version_require_no_variables() {
    for verb in ["GC", "STATUS", "VERSION"] {
        let conf = with(valid_conf(), "onAgentDown", json!("ignore"));
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
        add(&valid_conf()).env("CNI_CONTAINERID", id).run().assert_error(4, &["CNI_CONTAINERID", id]);
    }
    for interface in ["sixteen-bytes-xx", ".", "..", "a/b", "a:b", "a b", "a\tb"] {
        add(&valid_conf()).env("CNI_IFNAME", interface).run().assert_error(4, &["CNI_IFNAME"]);
    }
    assert_only_netns_is_wrong(&add(&valid_conf()).env("CNI_IFNAME", "fifteen-bytes-x"));
}

#[test]
fn unknown_command_is_rejected_and_an_empty_one_prints_the_version() {
    call("DANCE", &valid_conf()).run().assert_error(4, &["CNI_COMMAND", "DANCE"]);
    call("add", &valid_conf()).run().assert_error(4, &["CNI_COMMAND", "add"]);
    for call in
        [call("", &valid_conf()), call(" ", &valid_conf()), call("", &valid_conf()).without("CNI_COMMAND")]
    {
        let outcome = call.run();
        outcome.assert_success("");
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
            call(verb, &valid_conf()).input(input).run().assert_error(6, &[words]);
        }
    }
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = format!("{{\"x\":{}", "[".repeat(1 << 20));
    add(&valid_conf()).input(deep).run().assert_error(6, &["EOF while parsing a list"]);
}

#[test]
fn input_of_10_mb_is_accepted_and_of_17_mb_rejected() {
    let padded = |bytes| with(valid_conf(), "args", json!({"x": "y".repeat(bytes)}));
    assert_only_netns_is_wrong(&add(&padded(10 << 20)));
    add(&padded(17 << 20)).run().assert_error(5, &["larger than 16777216 bytes"]);
}

#[test]
fn last_duplicate_key_counts_as_in_libcni() {
    let text = valid_conf().to_string();
    let doubled = text.replacen('{', r#"{"name":"../x","#, 1);
    assert_only_netns_is_wrong(&add(&valid_conf()).input(doubled));
}

#[test]
fn only_versions_with_chained_plugins_are_supported() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let outcome = add(&with(valid_conf(), "cniVersion", json!(version))).run();
        outcome.assert_error(8, &[]);
        assert!(outcome.stdout.contains(&format!("\"cniVersion\":\"{version}\"")), "{outcome:?}");
    }
    for version in ["9.9.9", "0.1.0", "0.2.0", "1.1", "v1.0.0"] {
        add(&with(valid_conf(), "cniVersion", json!(version)))
            .run()
            .assert_error(1, &[version, "0.3.0", "1.1.0"]);
    }
    add(&with(valid_conf(), "cniVersion", json!(""))).run().assert_error(1, &["no cniVersion", "0.1.0"]);
    add(&without(valid_conf(), "cniVersion")).run().assert_error(1, &["no cniVersion", "0.1.0"]);
    add(&with(valid_conf(), "cniVersion", json!(1.0))).run().assert_error(6, &["cniVersion"]);
}

#[test]
fn verb_is_rejected_for_versions_that_lack_it() {
    for (verb, version, since) in [
        ("CHECK", "0.3.0", "0.4.0"),
        ("CHECK", "0.3.1", "0.4.0"),
        ("GC", "1.0.0", "1.1.0"),
        ("STATUS", "0.4.0", "1.1.0"),
    ] {
        call(verb, &with(valid_conf(), "cniVersion", json!(version)))
            .run()
            .assert_error(1, &[verb, since, version]);
    }
}

#[test]
fn network_name_is_required_and_validated() {
    add(&without(valid_conf(), "name")).run().assert_error(7, &["name", "missing"]);
    for name in ["../x", "", "a/b", "-x"] {
        add(&with(valid_conf(), "name", json!(name)))
            .run()
            .assert_error(7, &["name", "not a valid network name"]);
    }
    add(&with(valid_conf(), "name", json!(5))).run().assert_error(7, &["name", "expected a string"]);
}

#[test]
fn prev_result_is_required_and_validated() {
    add(&without(valid_conf(), "prevResult")).run().assert_error(7, &["prevResult", "missing"]);
    add(&with(valid_conf(), "prevResult", json!(null))).run().assert_error(7, &["prevResult", "missing"]);
    add(&with(valid_conf(), "prevResult", json!("x")))
        .run()
        .assert_error(7, &["prevResult", "expected a map"]);
    let ips = |ips: Value| add(&with(valid_conf(), "prevResult", json!({"ips": ips})));
    ips(json!([{"address": "10.0.0.1/40"}])).run().assert_error(7, &["prevResult.ips", "10.0.0.1/40"]);
    ips(json!([{"address": "x"}])).run().assert_error(7, &["prevResult.ips", "\"x\""]);
    ips(json!([{}])).run().assert_error(7, &["prevResult.ips", "missing field `address`"]);
    ips(json!("x")).run().assert_error(7, &["prevResult.ips"]);
    assert_only_netns_is_wrong(&add(&with(valid_conf(), "prevResult", json!({}))));
    for index in [json!(99), json!(-1), json!(null)] {
        assert_only_netns_is_wrong(&ips(json!([{"address": "10.0.0.1/8", "interface": index}])));
    }
}

#[test]
fn values_of_the_plugins_keys_are_validated() {
    add(&with(valid_conf(), "onAgentDown", json!("panic")))
        .run()
        .assert_error(7, &["onAgentDown", "\"panic\"", "snapshot, fail, ignore"]);
    add(&with(valid_conf(), "onAgentDown", json!(true))).run().assert_error(7, &["onAgentDown"]);
    add(&with(valid_conf(), "socket", json!("agent.sock")))
        .run()
        .assert_error(7, &["socket", "not an absolute path"]);
    add(&with(valid_conf(), "stateDir", json!(["/run"]))).run().assert_error(7, &["stateDir"]);
}

#[test]
fn malformed_cni_args_are_ignored() {
    for args in ["a", "a=b=c", "", ";;", "K8S_POD_NAME=x", "=", "K8S_POD_NAMESPACE"] {
        assert_only_netns_is_wrong(&add(&valid_conf()).env("CNI_ARGS", args));
    }
}

#[test]
fn only_annotations_with_porticos_prefix_are_validated() {
    let annotations = |value: Value| {
        add(&with(valid_conf(), "runtimeConfig", json!({"io.kubernetes.cri.pod-annotations": value})))
    };
    assert_only_netns_is_wrong(&add(&with(valid_conf(), "runtimeConfig", json!(null))));
    assert_only_netns_is_wrong(&add(&with(valid_conf(), "runtimeConfig", json!({}))));
    assert_only_netns_is_wrong(&annotations(json!(null)));
    assert_only_netns_is_wrong(&annotations(json!({"other.io/x": 5, "y": "z".repeat(1 << 20)})));
    annotations(json!({"portico.dev/services": 5}))
        .run()
        .assert_error(7, &["annotation portico.dev/services"]);
    annotations(json!("x")).run().assert_error(7, &["runtimeConfig.io.kubernetes.cri.pod-annotations"]);
    add(&with(valid_conf(), "runtimeConfig", json!("x"))).run().assert_error(7, &["runtimeConfig"]);
}

#[test]
fn invalid_dns_configuration_does_not_prevent_the_start() {
    let dns = |value: Value| add(&with(valid_conf(), "runtimeConfig", json!({"dns": value})));
    for value in [json!(null), json!(5), json!("x"), json!({"servers": 5}), json!({"servers": [5]})] {
        assert_only_netns_is_wrong(&dns(value));
    }
    assert_only_netns_is_wrong(&dns(json!({"servers": vec!["x"; 100], "searches": ["y".repeat(1 << 20)]})));
}

#[test]
fn invalid_netns_is_rejected_before_the_agent_is_contacted() {
    let dir = TempDir::new("no-netns");
    let agent = FakeAgent::start(&dir.join("agent.sock"), |_, _| Reply::Done);
    fs::write(dir.join("file"), "").unwrap();
    for verb in ["ADD", "CHECK"] {
        let refused = |netns: &Path, words: &[&str]| {
            let call = call(verb, &conf(dir.path())).env("CNI_NETNS", netns.to_str().unwrap());
            call.run().assert_error(8, &[&["CNI_NETNS", netns.to_str().unwrap()], words].concat());
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
        let output = call(verb, &valid_conf()).start(writer.into()).wait_with_output().unwrap();
        assert!(output.status.code() == Some(1) && output.stderr.is_empty(), "{output:?}");
    }
}
