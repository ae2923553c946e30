//! Texts in, texts out: what an edit changes, and what it never does.

use attachment::OnAgentDown;
use expect_test::{Expect, expect};

use super::*;

const AIRY: &str = r#"{
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
    Conflist::parse(text).expect("a conflist").with(&entry()).expect("can be chained")
}

fn without(text: &str) -> Option<String> {
    Conflist::parse(text).expect("a conflist").without()
}

fn shows(text: &str, expected: &Expect) {
    expected.assert_eq(&with(text).expect("a change"));
}

#[test]
fn everything_else_stays_byte_for_byte() {
    shows(
        AIRY,
        &expect![[r#"
            {
              "plugins": [
                {"type": "bridge", "x": 1.0, "odd":[ 1,2 ]},
                {
                  "type": "portmap"
                },
                {"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true}}
              ],
              "unknown": {"b": 1, "a": 1e3},
              "name": "pods", "cniVersion": "1.0.0"
            }
        "#]],
    );
    shows(
        DENSE,
        &expect![[
            r#"{"cniVersion":"0.4.0","name":"k8s-pod-network","plugins":[{"type":"calico"},{"type":"bandwidth"},{"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true}}]}"#
        ]],
    );
    shows(
        ONE,
        &expect![[
            r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}, {"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true}}]}"#
        ]],
    );
}

#[test]
fn what_is_put_in_is_taken_out_again_without_a_trace() {
    for text in [AIRY, DENSE, ONE] {
        let changed = with(text).expect("a change");
        assert_eq!(without(&changed).as_deref(), Some(text));
        assert_eq!(with(&changed), None, "a second time there is nothing to do");
        assert_eq!(without(text), None);
    }
}

/// A conflist of these kinds; `+` is ours as it should be, `-` ours with other settings.
fn chain(kinds: &str) -> String {
    let plugin = |kind: char| match kind {
        '+' => entry().text,
        '-' => r#"{"type":"portico-cni","socket":"/x"}"#.to_owned(),
        other => format!(r#"{{"type":"{other}"}}"#),
    };
    let plugins: Vec<String> = kinds.chars().map(plugin).collect();
    format!(r#"{{"name":"n","plugins":[{}]}}"#, plugins.join(","))
}

#[test]
fn wherever_ours_stands_one_is_left_behind_another_plugin() {
    for (before, after) in [
        ("a", "a+"),
        ("ab", "ab+"),
        ("a-", "a+"),
        ("a-b", "a+b"),
        ("-a", "a+"),
        ("+a", "a+"),
        ("a++", "a+"),
        ("a+b-", "ab+"),
        ("--a-b-", "ab+"),
    ] {
        assert_eq!(with(&chain(before)).as_deref(), Some(&*chain(after)), "{before}");
    }
    for right in ["a+", "a+b", "abc+"] {
        assert_eq!(with(&chain(right)), None, "{right}");
    }
}

#[test]
fn however_many_are_ours_all_go() {
    for (before, after) in
        [("a+", "a"), ("+a", "a"), ("++a", "a"), ("a+-b", "ab"), ("-+a-b+", "ab"), ("++", "")]
    {
        assert_eq!(without(&chain(before)).as_deref(), Some(&*chain(after)), "{before}");
    }
}

#[test]
fn an_entry_written_by_another_hand_is_right_where_it_means_the_same() {
    let ours = r#"{"capabilities":{"io.kubernetes.cri.pod-annotations":true} , "type" : "portico-cni"}"#;
    assert_eq!(with(&chain("a+").replace(&entry().text, ours)), None);
}

#[test]
fn settings_are_in_the_entry_as_the_plugin_reads_them() {
    let entry = Entry::new(Some(Path::new("/run/\"x\"")), Some(Path::new("/s")), Some(OnAgentDown::Fail));
    let expected = expect![[
        r#"{"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true}, "socket": "/run/\"x\"", "stateDir": "/s", "onAgentDown": "fail"}"#
    ]];
    expected.assert_eq(&entry.expect("an entry").text);
}

#[test]
fn what_cannot_be_chained_is_refused_with_the_reason() {
    let why = |text: &str| match Conflist::parse(text) {
        Ok(conflist) => format!("{:#}", conflist.with(&entry()).expect_err("nothing can be chained")),
        Err(error) => format!("{error:#}"),
    };
    let told = [
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
    let told: String = told.iter().map(|text| why(text) + "\n").collect();
    expect![[r#"
        it is no JSON object: expected value at line 3 column 15
        it is no JSON object: EOF while parsing a value at line 1 column 0
        it is no JSON object: invalid type: sequence, expected a map at line 1 column 0
        it has no list "plugins", so nothing can be chained
        it has no "name"
        name: "../n" is no name of a network
        plugins: invalid type: integer `7`, expected a sequence at line 1 column 1
        plugins[1]: it has no "type"
        none of its plugins makes an interface
    "#]]
    .assert_eq(&told);
}

#[test]
fn a_version_that_the_plugin_does_not_speak_is_refused() {
    let known = ["0.4.0", "1.0.0"].map(str::to_owned);
    let speaks = |version: &str| {
        let text = format!(r#"{{"name": "n", {version} "plugins": []}}"#);
        Conflist::parse(&text).expect("a conflist").speaks(&known).is_ok()
    };
    assert!(speaks(r#""cniVersion": "1.0.0","#));
    assert!(speaks(r#""cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0"],"#));
    assert!(!speaks(r#""cniVersion": "1.0.0", "cniVersions": ["0.4.0", "9.0.0"],"#));
    assert!(!speaks(r#""cniVersion": "0.2.0","#));
    assert!(!speaks(""), "that is 0.1.0");
}
