//! Tests of documents, lists, syntax errors and hostile input.
//!
//! Each error must be reported with its location and must not affect the rest of the input. The meaning of objects is
//! tested elsewhere.

use super::{key, lines, read_text, read_valid};
use crate::{MAX_PROBLEMS, ReadOptions, read_str};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const A: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n";
const B: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 1}]}\n";
const JSON: &str =
    r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"NAME"},"spec":{"ports":[{"port":1}]}}"#;

fn json(name: &str) -> String {
    JSON.replace("NAME", name)
}

/// Returns the names of the services in a text.
fn names(text: &str) -> Vec<String> {
    read_text(text).0.services.into_keys().map(|key| key.name.to_string()).collect()
}

#[test]
fn stream_is_split_at_yaml_document_markers() {
    let texts = [
        format!("{A}---\n{B}"),
        format!("---\n{A}---\n---\n# nothing\n---\n{B}---\n"),
        format!("# comment\n\n%YAML 1.2\n---\n{A}...\n---\n{B}..."),
        format!("{A}...\n{B}"),
        format!("--- {}\n---\t{}\n", json("a"), json("b")),
        format!("{A}---\r\n{}", B.replace('\n', "\r\n")),
        format!("\u{feff}{A}---\n{B}"),
        format!("{}\n---\n{B}", json("a")),
        format!("{}\n---\n{}\n--- # b\n", json("a"), json("b")),
        format!("{A}---\nnull\n---\n~\n---\n{B}"),
    ];
    for text in texts {
        assert_eq!(names(&text), ["a", "b"], "{text}");
        assert_eq!(lines(&read_text(&text).1), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn json_documents_can_follow_one_another() {
    let texts = [
        format!("{}{}", json("a"), json("b")),
        format!("\u{feff} \n{}\n{}\n", json("a"), json("b")),
        format!("[{}, {}]", json("a"), json("b")),
        format!("{} [{}]", json("a"), json("b")),
        format!(r#"{{"items":[{},{}],"kind":"List","apiVersion":"v1"}}"#, json("a"), json("b")),
    ];
    for text in texts {
        assert_eq!(names(&text), ["a", "b"], "{text}");
        assert_eq!(lines(&read_text(&text).1), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn yaml_can_start_with_a_bracket() {
    assert_eq!(
        names("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}"),
        ["a"]
    );
    let text = format!(
        "  \n{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{ports: [{{port: 1}}]}}}}\n---\n{B}"
    );
    assert_eq!(names(&text), ["a", "b"]);
    assert_eq!(
        names("{\"apiVersion\": v1, kind: Service, metadata: {name: 'a'}, spec: {ports: [{port: 1}],},}"),
        ["a"]
    );
    assert_eq!(
        names("{apiVersion: v1, kind: Service, x: '}', metadata: {name: a}, spec: {ports: [{port: 1}]}}"),
        ["a"]
    );
    let (_, report) = read_str("a.json", "{a: 1}", &ReadOptions::default());
    assert_eq!(lines(&report), ["a.json:1:2: document 1: failed to parse document: key must be a string"]);
}

#[test]
fn items_of_a_typed_list_have_its_kind_before_or_after_it() {
    let items = r#""items":[{"metadata":{"name":"a"},"spec":{"ports":[{"port":1}]}},{"metadata":{"name":"b"},"spec":{"ports":[{"port":1}]}}]"#;
    let kind = r#""kind":"ServiceList","apiVersion":"v1""#;
    for text in [format!("{{{items},{kind}}}"), format!("{{{kind},{items}}}")] {
        assert_eq!(names(&text), ["a", "b"]);
        assert_eq!(read_text(&text).1.objects, 2);
        read_valid(&text);
    }
    assert_eq!(
        lines(&read_text(&format!("{{{items}}}")).1),
        [
            "a.yaml:1: document 1: object default/a: missing apiVersion and kind",
            "a.yaml:1: document 1: object default/b: missing apiVersion and kind",
        ]
    );
}

#[test]
fn lists_can_be_nested_twice_but_not_deeper() {
    let list = |items: &str| format!(r#"{{"apiVersion":"v1","kind":"List","items":[{items}]}}"#);
    assert_eq!(names(&list(&list(&json("a")))), ["a"]);
    let (_, report) = read_text(&list(&list(&list(&json("a")))));
    assert_eq!(
        lines(&report),
        ["a.yaml:1: document 1: items[0]: lists are nested too deep: at most 2 levels"]
    );
    read_valid(&list(""));
    read_valid("apiVersion: v1\nkind: ServiceList\nitems: null\n");
}

#[test]
fn yaml_syntax_error_has_line_and_column_and_affects_no_other_document() {
    let text = format!("{A}---\na: 1\n b: [\n---\n{B}");
    assert_eq!(names(&text), ["a", "b"]);
    let (_, report) = read_text(&text);
    assert_eq!(report.problems.len(), 1);
    let line = &lines(&report)[0];
    assert!(line.starts_with("a.yaml:7:3: document 2: failed to parse document: "), "{line}");
    assert!(!line.contains("at line"), "{line}");
    let duplicate = lines(&read_text("# x\na: 1\na: 2\n").1);
    assert!(
        duplicate[0].starts_with("a.yaml:3:1: document 1: failed to parse document: duplicate"),
        "{duplicate:?}"
    );
}

#[test]
fn json_syntax_error_has_line_and_column_and_affects_no_other_document() {
    let text = format!("{}\n{{\"a\" \n \"b\"}}\n{}\n}} garbage\n{}", json("a"), json("b"), json("c"));
    assert_eq!(names(&text), ["a", "b", "c"]);
    assert_eq!(
        lines(&read_text(&text).1),
        [
            "a.yaml:3:2: document 2: failed to parse document: expected `:`",
            "a.yaml:5:1: document 4: failed to parse document: expected value",
        ]
    );
}

#[test]
fn syntax_error_in_the_first_document_does_not_affect_the_next() {
    let text = format!("{{\"a\" 1}}\n{}\n", json("b"));
    assert_eq!(names(&text), ["b"]);
    assert_eq!(
        lines(&read_text(&text).1),
        ["a.yaml:1:6: document 1: failed to parse document: expected `:`"]
    );
    let text = format!("{{a: [\n---\n{B}");
    assert_eq!(names(&text), ["b"]);
    assert_eq!(read_text(&text).1.problems.len(), 1);
}

#[test]
fn list_items_before_a_syntax_error_are_kept() {
    let text = format!(
        "{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[\n{},\n{},\n{{\"a\":}}]}}",
        json("a"),
        json("b")
    );
    assert_eq!(names(&text), ["a", "b"]);
    assert_eq!(
        lines(&read_text(&text).1),
        [
            "a.yaml:4:6: document 1: failed to parse document: expected value; the 2 objects before it are kept"
        ]
    );
    let item = |name: &str| {
        format!(
            "- apiVersion: v1\n  kind: Service\n  metadata: {{name: {name}}}\n  spec: {{ports: [{{port: 1}}]}}\n"
        )
    };
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{}{}- [}}\n---\n{B}", item("a"), item("c"));
    assert_eq!(names(&text), ["a", "b", "c"]);
    assert!(lines(&read_text(&text).1)[0].ends_with("; the 2 objects before it are kept"));
}

#[test]
fn binary_input_is_rejected() {
    let text = format!("{A}---\nkind: \u{0}\n---\n{B}");
    assert_eq!(names(&text), ["a", "b"]);
    assert!(lines(&read_text(&text).1)[0].starts_with("a.yaml:6:"));
    let binary = lines(&read_text("\u{0}\u{0}").1);
    assert_eq!(binary, ["a.yaml: failed to read file: binary file: starts with a NUL byte"]);
    for empty in ["", "\n\n", "---\n", "# only\n", "\u{feff}", "...\n...\n"] {
        assert_eq!(read_text(empty).1.documents, 0);
        read_valid(empty);
    }
}

#[test]
fn messages_are_bounded_in_number_and_length() {
    let bad = "- {apiVersion: v1, kind: Service}\n".repeat(MAX_PROBLEMS + 7);
    let (_, report) = read_text(&bad);
    assert_eq!((report.problems.len(), report.has_errors()), (MAX_PROBLEMS, true));
    assert_eq!(report.problems.len() + report.suppressed, report.errors);
    let long =
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: \"{}\\e[31m\"}}\n", "x".repeat(10_000));
    for line in lines(&read_text(&long).1) {
        assert!(line.len() < 500 && !line.contains('\u{1b}'), "{line}");
    }
    let mut kinds = String::new();
    for n in 0..1000 {
        writeln!(kinds, "- {{apiVersion: v1, kind: K{n}}}").unwrap();
    }
    let ignored = read_text(&kinds).1.ignored;
    assert!(ignored.len() < 300 && ignored.values().sum::<usize>() == 1000);
}

/// Checks that a hostile text is rejected soon. It takes about 0.1 s; the limit allows for a loaded machine, but not for
/// a cost that grows with the attack.
fn assert_rejected_soon(text: &str) {
    let start = Instant::now();
    for name in ["a.yaml", "a.json"] {
        assert!(read_str(name, text, &ReadOptions::default()).1.has_errors());
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn hostile_documents_are_rejected_soon() {
    let mut laughs = "a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]\n".to_owned();
    for n in 1..10 {
        let last = format!("*a{}", n - 1);
        writeln!(laughs, "a{n}: &a{n} [{}]", vec![last; 10].join(",")).unwrap();
    }
    assert_rejected_soon(&laughs);
    assert_rejected_soon("a: &a [*a]");
    assert_rejected_soon("a: &a\n  b: *a");
    assert_rejected_soon(&"[".repeat(100_000));
    assert_rejected_soon(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)));
    assert_rejected_soon(&"{a: ".repeat(100_000));
    assert_rejected_soon(&"- ".repeat(100_000));
    assert_rejected_soon(&"? ".repeat(100_000));
    assert_rejected_soon(&format!("a: \"{}", "x\n".repeat(100_000)));
    assert_rejected_soon(&"{\"a\":".repeat(100_000));
    assert_rejected_soon(&"\"".repeat(100_001));
}

#[test]
fn many_documents_are_read() {
    let mut text = String::new();
    let count = if cfg!(debug_assertions) { 5_000 } else { 100_000 };
    for n in 0..count {
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{ports: [{{port: 1}}]}}\n"
        )
        .unwrap();
    }
    let options = ReadOptions { portal_nets: vec!["10.0.0.0/8".parse().unwrap()] };
    let (objects, report) = read_str("a.yaml", &text, &options);
    assert_eq!((objects.services.len(), report.documents, report.problems.len()), (count, count, 0));
    assert!(objects.services.contains_key(&key("s4999")));
}

#[test]
fn line_and_document_numbers_continue_if_yaml_follows_json() {
    let text = format!("{}\n\n{}\n---\n{A}---\nkind: [\n", json("x"), json("y"));
    let (objects, report) = read_text(&text);
    assert_eq!((objects.services.len(), report.documents), (3, 4));
    assert!(lines(&report)[0].starts_with("a.yaml:10:7: document 4: "), "{:?}", lines(&report));
}

#[test]
fn other_kind_with_items_is_not_a_list() {
    for text in [
        "apiVersion: v1\nkind: ConfigMap\nitems: [1]\n",
        "items: [1, {a: b}]\napiVersion: v1\nkind: ConfigMap\n",
    ] {
        let (_, report) = read_text(text);
        assert_eq!((lines(&report), report.ignored.len()), (Vec::new(), 1), "{text}");
    }
}
