//! Edits of configuration texts: what an edit changes, and what it leaves unchanged.

use agent_ipc::OnAgentDown;
use expect_test::{Expect, expect};

use super::*;

const SPACED: &str = r#"{
  "plugins": [
    {"type": "bridge", "x": 1.0, "odd":[ 1,2 ]},
    {
      "type": "portmap"
    }
  ],
  "unknown": {"b": 1, "a": 1e3},
  "name": "pods", "cniVersion": "1.0.0"
}
"#;
const DENSE: &str =
    r#"{"cniVersion":"0.4.0","name":"k8s-pod-network","plugins":[{"type":"calico"},{"type":"bandwidth"}]}"#;
const ONE: &str = r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]}"#;

fn entry() -> Entry {
    Entry::new(None, None, None).expect("an entry")
}

fn with(text: &str) -> Option<String> {
    Conflist::parse(text).expect("a conflist").with_entry(&entry()).expect("chainable")
}

fn without(text: &str) -> Option<String> {
    Conflist::parse(text).expect("a conflist").without_entries()
}

fn assert_edit(text: &str, expected: &Expect) {
    expected.assert_eq(&with(text).expect("a change"));
}

#[test]
fn adding_the_entry_keeps_everything_else_byte_for_byte() {
    assert_edit(
        SPACED,
        &expect![[r#"
            {
              "plugins": [
                {"type": "bridge", "x": 1.0, "odd":[ 1,2 ]},
                {
                  "type": "portmap"
                },
                {"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true, "dns": true}}
              ],
              "unknown": {"b": 1, "a": 1e3},
              "name": "pods", "cniVersion": "1.0.0"
            }
        "#]],
    );
    assert_edit(
        DENSE,
        &expect![[
            r#"{"cniVersion":"0.4.0","name":"k8s-pod-network","plugins":[{"type":"calico"},{"type":"bandwidth"},{"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true, "dns": true}}]}"#
        ]],
    );
    assert_edit(
        ONE,
        &expect![[
            r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}, {"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true, "dns": true}}]}"#
        ]],
    );
}

#[test]
fn removing_the_entry_restores_the_original_text() {
    for text in [SPACED, DENSE, ONE] {
        let changed = with(text).expect("a change");
        assert_eq!(without(&changed).as_deref(), Some(text));
        assert_eq!(with(&changed), None, "the second run changes nothing");
        assert_eq!(without(text), None);
    }
}

/// A conflist of these plugins; `+` is the entry, `-` the entry with other settings, `~` an older entry.
fn chain(plugins: &str) -> String {
    let plugin = |plugin: char| match plugin {
        '+' => entry().text,
        '-' => r#"{"type":"portico-cni","socket":"/x"}"#.to_owned(),
        // The entry of releases before in-pod DNS.
        '~' => entry().text.replace(", \"dns\": true", ""),
        other => format!(r#"{{"type":"{other}"}}"#),
    };
    let plugins: Vec<String> = plugins.chars().map(plugin).collect();
    format!(r#"{{"name":"n","plugins":[{}]}}"#, plugins.join(","))
}

#[test]
fn exactly_one_entry_remains_and_follows_another_plugin() {
    for (before, after) in [
        ("a", "a+"),
        ("ab", "ab+"),
        ("a-", "a+"),
        ("a~", "a+"),
        ("a-b", "a+b"),
        ("-a", "a+"),
        ("+a", "a+"),
        ("a++", "a+"),
        ("a+b-", "ab+"),
        ("--a-b-", "ab+"),
    ] {
        assert_eq!(with(&chain(before)).as_deref(), Some(&*chain(after)), "{before}");
    }
    for unchanged in ["a+", "a+b", "abc+"] {
        assert_eq!(with(&chain(unchanged)), None, "{unchanged}");
    }
}

#[test]
fn all_entries_are_removed() {
    for (before, after) in
        [("a+", "a"), ("+a", "a"), ("++a", "a"), ("a+-b", "ab"), ("-+a-b+", "ab"), ("++", "")]
    {
        assert_eq!(without(&chain(before)).as_deref(), Some(&*chain(after)), "{before}");
    }
}

#[test]
fn an_equivalent_entry_with_other_formatting_is_up_to_date() {
    let formatted = r#"{"capabilities":{"dns": true, "io.kubernetes.cri.pod-annotations":true} , "type" : "portico-cni"}"#;
    assert_eq!(with(&chain("a+").replace(&entry().text, formatted)), None);
}

#[test]
fn entry_contains_settings_under_the_keys_of_the_plugin() {
    let entry = Entry::new(Some(Path::new("/run/\"x\"")), Some(Path::new("/s")), Some(OnAgentDown::Fail));
    let expected = expect![[
        r#"{"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true, "dns": true}, "socket": "/run/\"x\"", "stateDir": "/s", "onAgentDown": "fail"}"#
    ]];
    expected.assert_eq(&entry.expect("an entry").text);
}

#[test]
fn invalid_configurations_are_rejected_with_the_reason() {
    let reason = |text: &str| match Conflist::parse(text) {
        Ok(conflist) => format!("{:#}", conflist.with_entry(&entry()).expect_err("not chainable")),
        Err(error) => format!("{error:#}"),
    };
    let invalid = [
        "{\n  \"name\": \"n\",\n  \"plugins\": [}\n",
        "",
        "[]",
        r#"{"name": "n", "type": "bridge"}"#,
        r#"{"plugins": []}"#,
        r#"{"name": "../n", "plugins": []}"#,
        r#"{"name": "n", "plugins": 7}"#,
        r#"{"name": "n", "plugins": [{"type": "a"}, {}]}"#,
        r#"{"name": "n", "plugins": []}"#,
    ];
    let reasons: String = invalid.iter().map(|text| reason(text) + "\n").collect();
    expect![[r#"
        not a JSON object: expected value at line 3 column 15
        not a JSON object: EOF while parsing a value at line 1 column 0
        not a JSON object: invalid type: sequence, expected a map at line 1 column 0
        no "plugins" list: cannot chain
        no "name"
        name: "../n" is not a valid network name
        plugins: invalid type: integer `7`, expected a sequence at line 1 column 1
        plugins[1]: no "type"
        no plugin creates an interface
    "#]]
    .assert_eq(&reasons);
}

#[test]
fn unsupported_cni_versions_are_rejected() {
    let supported = ["0.4.0", "1.0.0"].map(str::to_owned);
    let is_supported = |version: &str| {
        let text = format!(r#"{{"name": "n", {version} "plugins": []}}"#);
        Conflist::parse(&text).expect("a conflist").check_versions(&supported).is_ok()
    };
    assert!(is_supported(r#""cniVersion": "1.0.0","#));
    assert!(is_supported(r#""cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0"],"#));
    assert!(!is_supported(r#""cniVersion": "1.0.0", "cniVersions": ["0.4.0", "9.0.0"],"#));
    assert!(!is_supported(r#""cniVersion": "0.2.0","#));
    assert!(!is_supported(""), "the default is 0.1.0");
}
