//! Runs Helm: returns the objects that the chart renders with given values, or the errors.
//!
//! `scripts/helm` downloads it. Without it, these tests fail.

use std::process::{Command, Output};

use serde_json::Value;

use crate::program::repository;

/// The namespace of the release in all tests.
pub const NAMESPACE: &str = "portico-system";

/// A file of the repository.
pub fn text(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|why| panic!("read {path}: {why}"))
}

/// Runs Helm and returns its output, as an error if it failed.
pub fn run_helm(args: &[&str]) -> Result<String, String> {
    let output = helm(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let text = text(&output.stdout) + &text(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn helm(args: &[&str]) -> Output {
    let mut command = Command::new(repository().join("scripts/helm"));
    command.args(args).current_dir(repository()).output().expect("run scripts/helm")
}

/// The documents of a YAML text that are not empty.
pub fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).unwrap_or_else(|why| panic!("{why}\n{yaml}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// Returns the objects that the chart renders with these values (`--set` of Helm), or Helm's error.
pub fn rendered(values: &[&str]) -> Result<Vec<Value>, String> {
    let mut args = vec!["template", "portico", "deploy/helm/portico", "--namespace", NAMESPACE];
    args.extend(["--kube-version", "1.33.0"]);
    args.extend(values.iter().flat_map(|value| ["--set", value]));
    let output = helm(&args);
    if output.status.success() {
        return Ok(documents(&String::from_utf8(output.stdout).expect("text")));
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Like `rendered`, but panics on errors.
pub fn objects(values: &[&str]) -> Vec<Value> {
    rendered(values).unwrap_or_else(|why| panic!("{values:?}: {why}"))
}

/// Returns the only object of a kind whose name has this suffix.
pub fn one<'a>(objects: &'a [Value], kind: &str, end: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| {
        object["kind"] == kind && object["metadata"]["name"].as_str().is_some_and(|name| name.ends_with(end))
    });
    let one = found.next().unwrap_or_else(|| panic!("no {kind} {end}"));
    assert!(found.next().is_none(), "more than one {kind} {end}");
    one
}
