//! The bills of materials of the three programs, compared with cargo, CycloneDX and deny.toml.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;
use xtask::bills::{Build, Crates, Library, Origin, bill, crates_of, libraries, licence_texts, notices};
use xtask::{PROGRAMS, Program};

use crate::tidy::dependency::is_permitted;
use crate::tidy::repository::{file, root};

/// The target of this machine: crates that only others need may not have been downloaded.
const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

fn crates(package: &str, target: &str) -> Crates {
    crates_of(&root(), package, target).unwrap_or_else(|why| panic!("{package}: {why}"))
}

/// Cargo needs seconds for each query, so all tests share the bills.
static BILLS: LazyLock<Vec<(&str, Value)>> = LazyLock::new(bills);

fn bills() -> Vec<(&'static str, Value)> {
    let libraries = libraries().expect("versions of the libraries");
    let text = str::to_owned;
    let bills = PROGRAMS.map(|Program { package, name, .. }| {
        let build = Build {
            program: text(name),
            sha256: "0".repeat(64),
            target: text(TARGET),
            revision: text("0123456789abcdef0123456789abcdef01234567"),
            time: text("2026-01-02T03:04:05Z"),
        };
        (package, bill(&build, &crates(package, TARGET), &libraries))
    });
    bills.into()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("no list {key} in {value}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}"))
}

/// Returns names and versions of the crates of a package, from another query than the bill.
fn crates_of_cargo_tree(package: &str) -> BTreeSet<String> {
    let format = ["tree", "--locked", "--offline", "--prefix", "none", "--no-dedupe", "--format", "{p}"];
    let package = ["--package", package, "--target", TARGET, "--edges", "normal,build"];
    let output = Command::new("cargo")
        .args(format)
        .args(package)
        .current_dir(root())
        .output()
        .expect("run cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("text");
    lines
        .lines()
        .map(|line| line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ").replace(" v", " "))
        .collect()
}

#[test]
fn bill_contains_every_linked_crate_and_no_other() {
    let libraries: BTreeSet<String> = libraries()
        .expect("versions")
        .iter()
        .map(|Library { name, version, .. }| format!("{name} {version}"))
        .collect();
    assert_eq!(libraries.len(), 3);
    for (package, bill) in &*BILLS {
        let components = list(bill, "components");
        let mut named: BTreeSet<String> = components
            .iter()
            .map(|part| format!("{} {}", text(part, "name"), text(part, "version")))
            .collect();
        assert_eq!(named.len(), components.len(), "{package}: a component appears twice");
        assert!(libraries.is_subset(&named), "{package}: {libraries:?}");
        let root = format!("{package} {}", text(&bill["metadata"]["component"], "version"));
        assert!(named.insert(root));
        let all: BTreeSet<String> = crates_of_cargo_tree(package).union(&libraries).cloned().collect();
        assert_eq!(named, all, "{package}");
    }
}

#[test]
fn dependencies_of_a_bill_are_complete_and_reach_every_component() {
    for (package, bill) in &*BILLS {
        let program = text(&bill["metadata"]["component"], "bom-ref");
        let components = list(bill, "components").iter().map(|part| text(part, "bom-ref"));
        let known: BTreeSet<&str> = components.chain([program]).collect();
        let edges = list(bill, "dependencies").iter().map(|edge| {
            let needs = list(edge, "dependsOn").iter().map(|need| need.as_str().expect("text"));
            (text(edge, "ref"), needs.collect::<BTreeSet<_>>())
        });
        let edges: BTreeMap<&str, BTreeSet<&str>> = edges.collect();
        assert_eq!(edges.keys().copied().collect::<BTreeSet<_>>(), known, "{package}");
        let mut reached = BTreeSet::new();
        let mut next = vec![program];
        while let Some(name) = next.pop() {
            if reached.insert(name) {
                next.extend(edges.get(name).unwrap_or_else(|| panic!("{package}: {name} is unknown")));
            }
        }
        assert_eq!(reached, known, "{package}");
    }
}

#[test]
fn bill_is_valid_cyclonedx_1_5() {
    let keys =
        |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(" ");
    let is_hex = |hash: &str| hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit());
    for (package, bill) in &*BILLS {
        assert_eq!(keys(bill), "$schema bomFormat components dependencies metadata specVersion version");
        assert_eq!((text(bill, "bomFormat"), text(bill, "specVersion")), ("CycloneDX", "1.5"));
        assert_eq!(keys(&bill["metadata"]), "component properties timestamp");
        let program = &bill["metadata"]["component"];
        assert_eq!(text(program, "type"), "application");
        for part in list(bill, "components").iter().chain([program]) {
            let known = [
                "bom-ref",
                "externalReferences",
                "hashes",
                "licenses",
                "name",
                "properties",
                "purl",
                "type",
                "version",
            ];
            assert!(keys(part).split(' ').all(|key| known.contains(&key)), "{package}: {part}");
            assert!(["library", "application"].contains(&text(part, "type")), "{part}");
            let scheme = ["pkg:cargo/", "pkg:generic/", "pkg:github/portico-proxy/portico@"];
            assert!(scheme.iter().any(|scheme| text(part, "purl").starts_with(scheme)), "{part}");
            assert!(!text(part, "purl").contains([' ', '+']), "{part}");
            let hashes = part["hashes"].as_array().into_iter().flatten();
            let hashes: Vec<&str> =
                hashes.filter(|hash| hash["alg"] == "SHA-256").map(|hash| text(hash, "content")).collect();
            assert!(hashes.iter().copied().all(is_hex), "{part}");
            assert_eq!(
                hashes.len(),
                usize::from(text(part, "purl").starts_with("pkg:cargo/") || part == program),
                "{part}"
            );
            for reference in list(part, "externalReferences") {
                assert_eq!(
                    (text(reference, "type"), &text(reference, "url")[..8]),
                    ("vcs", "https://"),
                    "{part}"
                );
            }
        }
        for edge in list(bill, "dependencies") {
            assert_eq!(keys(edge), "dependsOn ref");
        }
    }
}

#[test]
fn licences_of_a_bill_are_permitted() {
    let policy = file("deny.toml");
    for (package, bill) in &*BILLS {
        for part in list(bill, "components") {
            let [licence] = &list(part, "licenses")[..] else { panic!("{package}: {part}") };
            let licence = text(licence, "expression");
            // Linked statically: the notices fulfil the LGPL, and GCC's exception requires nothing.
            let is_library = match text(part, "name") {
                "glibc" => licence == "LGPL-2.1-or-later",
                "libgcc" => licence == "GPL-3.0-or-later WITH GCC-exception-3.1",
                _ => false,
            };
            assert!(is_library || is_permitted(licence, &policy), "{package}: {part}");
        }
    }
}

#[test]
fn bill_is_deterministic() {
    assert_eq!(bills(), *BILLS);
}

#[test]
fn notices_contain_the_terms_of_every_crate() {
    let mut all = BTreeMap::new();
    for Program { package, .. } in PROGRAMS {
        all.extend(crates(package, TARGET).all);
    }
    let texts = licence_texts(&all).expect("read the licences");
    let notices = notices(&all, &texts, &libraries().expect("versions"), "GNU LESSER GENERAL PUBLIC LICENSE");
    let with_text: BTreeSet<&str> = texts.iter().map(|text| &*text.key.name).collect();
    for (key, part) in all.iter().filter(|(_, part)| part.origin != Origin::Workspace) {
        assert!(notices.contains(&format!("  {key}: {}; https://", part.licence)), "{key}");
        // For a crate without a licence file, the SPDX expression is sufficient.
        let has_terms = with_text.contains(&*key.name)
            || part.licence.contains("Apache-2.0")
            || part.licence.contains("MIT");
        assert!(has_terms, "{key} requires a notice that it does not contain");
    }
}
