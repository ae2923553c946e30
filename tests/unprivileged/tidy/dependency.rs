//! Rules for dependencies: the tree of this machine complies with the licences and bans of deny.toml.
//!
//! cargo-deny checks the same lists and more (advisories, other platforms), but it may not be installed.

use std::collections::BTreeSet;
use std::process::Command;

use super::manifest::split_comment;
use super::repository::{File, root};

/// API client, event loop, HTTP, TLS, argument parser, logs: other crates for these depend on one of them.
const PLUGIN_REFUSES: [&str; 8] =
    ["clap", "hyper", "kube", "kube-client", "log", "rustls", "tokio", "tracing"];

/// The dependency tree as sets.
#[derive(Default)]
pub(crate) struct Tree {
    /// Crates with their licence expressions.
    licences: BTreeSet<(String, String)>,
    /// Crates with their direct dependencies.
    edges: BTreeSet<(String, String)>,
}

/// Returns the tree of the workspace.
pub(crate) fn tree() -> Tree {
    tree_of(&["--workspace"])
}

/// Returns the crates that are linked into a member if it is built by itself.
pub(crate) fn linked_into(member: &str) -> Tree {
    tree_of(&["--package", member, "--edges", "normal"])
}

/// Returns the tree that cargo resolves from Cargo.lock. It works offline, because cargo has just built this test.
fn tree_of(what: &[&str]) -> Tree {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let how = ["tree", "--locked", "--offline", "--prefix", "depth", "--format", " {p}|{l}|"];
    let output =
        Command::new(cargo).args(how).args(what).current_dir(root()).output().expect("run cargo tree");
    assert!(output.status.success(), "cargo tree {what:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    parse_tree(&String::from_utf8_lossy(&output.stdout))
}

/// Finds crates that the plugin must not link: it starts for each pod, and has no credentials.
pub(crate) fn too_much_for_the_plugin(tree: &Tree) -> Vec<String> {
    let names = tree.licences.iter().map(|(name, _)| name);
    names.filter(|name| PLUGIN_REFUSES.contains(&name.as_str())).cloned().collect()
}

/// Whether the policy permits a licence.
pub(crate) fn is_permitted(licence: &str, policy: &File) -> bool {
    let allowed: Vec<&str> = list(&policy.text, "allow").map(|line| strings(line)[0]).collect();
    assert!(!allowed.is_empty(), "{} has no `allow` list", policy.path);
    satisfies(licence, &allowed)
}

pub(crate) fn refused_licences(tree: &Tree, policy: &File) -> Vec<String> {
    let refused = tree.licences.iter().filter(|(_, licence)| !is_permitted(licence, policy));
    refused
        .map(|(name, licence)| format!("{name}: \"{licence}\" is not in the list of {}", policy.path))
        .collect()
}

pub(crate) fn banned_crates(tree: &Tree, policy: &File) -> Vec<String> {
    let mut findings = Vec::new();
    let bans: Vec<_> = list(&policy.text, "deny").map(strings).collect();
    assert!(!bans.is_empty(), "{} has no `deny` list", policy.path);
    for ban in bans {
        let [name, wrappers @ ..] = ban.as_slice() else { continue };
        for (user, used) in &tree.edges {
            if used == name && !wrappers.contains(&user.as_str()) {
                findings.push(format!("{user} depends on {name}, which {} refuses", policy.path));
            }
        }
    }
    findings
}

/// Parses lines such as `2 name v1.0.0 (proc-macro)|MIT OR Apache-2.0| (*)`; the number is the depth.
fn parse_tree(text: &str) -> Tree {
    let mut tree = Tree::default();
    let mut path: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut fields = line.split('|');
        let mut words = fields.next().unwrap_or("").split_whitespace();
        let depth: usize =
            words.next().and_then(|depth| depth.parse().ok()).expect("a depth before each crate");
        let name = words.next().expect("a name after the depth").to_owned();
        path.truncate(depth);
        if let Some(user) = path.last() {
            tree.edges.insert((user.clone(), name.clone()));
        }
        tree.licences.insert((name.clone(), fields.next().unwrap_or("").to_owned()));
        path.push(name);
    }
    tree
}

/// Returns the code of the lines inside `key = [ ... ]`, one item per line.
fn list<'a>(text: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    let opening = format!("{key} = [");
    let lines = text.lines().skip_while(move |line| line.trim() != opening).skip(1);
    lines
        .take_while(|line| line.trim() != "]")
        .map(|line| split_comment(line).0)
        .filter(|code| !code.is_empty())
}

/// Returns the quoted strings of a line.
fn strings(line: &str) -> Vec<&str> {
    line.split('"').skip(1).step_by(2).collect()
}

/// Whether permitted licences satisfy an SPDX expression. `MIT/ISC` is an old form of `MIT OR ISC`.
fn satisfies(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    let permitted = any_of(&mut rest, allowed);
    permitted && rest.is_empty()
}

fn any_of(tokens: &mut &[&str], allowed: &[&str]) -> bool {
    let mut permitted = all_of(tokens, allowed);
    while let ["OR", rest @ ..] = *tokens {
        *tokens = rest;
        permitted |= all_of(tokens, allowed);
    }
    permitted
}

fn all_of(tokens: &mut &[&str], allowed: &[&str]) -> bool {
    let mut permitted = one(tokens, allowed);
    while let ["AND", rest @ ..] = *tokens {
        *tokens = rest;
        permitted &= one(tokens, allowed);
    }
    permitted
}

fn one(tokens: &mut &[&str], allowed: &[&str]) -> bool {
    match *tokens {
        ["(", rest @ ..] => {
            *tokens = rest;
            let permitted = any_of(tokens, allowed);
            *tokens = tokens.strip_prefix(&[")"]).unwrap_or(&[]);
            permitted
        }
        [licence, "WITH", exception, rest @ ..] => {
            *tokens = rest;
            allowed.contains(&format!("{licence} WITH {exception}").as_str())
        }
        [licence, rest @ ..] => {
            *tokens = rest;
            allowed.contains(licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0 ours v0.1.0 (/somewhere/ours)|Apache-2.0|\n\
                        1 good v1.0.0 (proc-macro)|MIT OR GPL-3.0|\n\
                        2 native v1.0.0|MIT|\n\
                        1 copyleft v1.0.0|GPL-3.0|\n\n\
                        0 other v0.1.0|Apache-2.0|\n\
                        1 native v1.0.0|MIT| (*)\n\
                        1 nothing v1.0.0||\n";
    const POLICY: &str = "[licenses]\nallow = [\n  # most\n  \"MIT\", # reason\n  \"Apache-2.0\",\n]\n[bans]\ndeny = [\n\
                          { name = \"native\", wrappers = [\"good\"] },\n{ name = \"copyleft\" },\n]\n";

    #[test]
    fn copyleft_and_missing_licences_are_found() {
        let found = refused_licences(&parse_tree(TREE), &File::sample("deny.toml", POLICY));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("copyleft: ") && found[1].starts_with("nothing: "), "{found:?}");
    }

    #[test]
    fn banned_crate_is_found_except_below_its_wrapper() {
        let found = banned_crates(&parse_tree(TREE), &File::sample("deny.toml", POLICY));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("other depends on native"), "{found:?}");
        assert!(found[1].starts_with("ours depends on copyleft"), "{found:?}");
    }

    #[test]
    fn dependency_not_allowed_for_the_plugin_is_found_at_any_depth() {
        let tree = parse_tree("0 cni-plugin v0.1.0|MIT|\n1 good v1.0.0|MIT|\n2 tokio v1.0.0|MIT|\n");
        assert_eq!(too_much_for_the_plugin(&tree), ["tokio"]);
    }

    #[test]
    fn licence_expressions_are_parsed_as_spdx() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
        for good in [
            "MIT",
            "GPL-2.0 OR MIT",
            "MIT/GPL-2.0",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "GPL-2.0 OR MIT AND Apache-2.0",
        ] {
            assert!(satisfies(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "GPL-2.0",
            "MIT AND GPL-2.0",
            "(MIT OR ISC) AND GPL-2.0",
            "Apache-2.0 WITH LLVM-exception",
            "MIT GPL-2.0",
        ] {
            assert!(!satisfies(bad, &allowed), "{bad}");
        }
    }
}
