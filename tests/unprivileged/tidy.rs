//! The tidy test: the rules of the house style that a program can check.
//!
//! Each test is one rule; its name is the claim, and its failure lists every offender with its position. If a rule makes
//! the code worse, change the rule, and explain why in the commit. The rules are in tidy/, each with a test that it
//! finds an invented offender.

mod annotation;
mod citation;
pub(crate) mod dependency;
mod document;
mod language;
mod layer;
mod link;
pub(crate) mod manifest;
pub(crate) mod repository;
mod source;
mod type_name;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use repository::{File, file, files, refuse, root, sources};

fn refuse_each(rule: &str, files: &[File], findings: impl Fn(&File) -> Vec<String>) {
    assert!(!files.is_empty(), "{rule}\n  no file to check: the path of the rule is wrong");
    refuse(rule, &files.iter().flat_map(findings).collect::<Vec<_>>());
}

fn files_in(dir: &str) -> Vec<File> {
    files().into_iter().filter(|file| file.path.starts_with(dir)).collect()
}

fn pages() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".md")).collect()
}

#[test]
fn every_source_has_a_header() {
    refuse_each("each .rs file begins with `//!`", &sources(), source::header);
}

#[test]
fn no_source_is_too_long() {
    refuse_each("split files that contain more than one concept", &sources(), source::size);
}

#[test]
fn no_source_has_a_vague_name() {
    refuse_each("a file is named after the one concept that it contains", &sources(), source::vague_name);
}

#[test]
fn no_source_has_leftovers() {
    refuse_each("finish it, or open an issue", &sources(), source::leftovers);
}

#[test]
fn text_is_plain_english() {
    refuse_each("write as docs/style.md says", &files(), language::dialect);
}

#[test]
fn pure_crates_have_no_input_or_output() {
    for dir in ["proxy-core/src/", "crates/admission-review/src/"] {
        refuse_each(
            "time, randomness and data are arguments of a pure crate",
            &files_in(dir),
            source::impure_paths,
        );
    }
}

#[test]
fn core_depends_only_on_allowed_crates() {
    refuse(
        "proxy-core stays without runtimes and IO",
        &manifest::core_extras(&file("proxy-core/Cargo.toml")),
    );
}

#[test]
fn plugin_depends_only_on_allowed_crates() {
    let tree = dependency::linked_into("cni-plugin");
    refuse(
        "the plugin starts for each pod, so it must be small",
        &dependency::too_much_for_the_plugin(&tree),
    );
}

#[test]
fn every_dependency_has_a_reason() {
    refuse(
        "default features off, and a reason on the line",
        &manifest::dependencies_without_reason(&file("Cargo.toml")),
    );
}

#[test]
fn members_inherit_their_dependencies() {
    // The fuzz targets are a workspace of their own, with nothing to inherit from.
    let is_member = |file: &File| file.path.ends_with("/Cargo.toml") && !file.path.starts_with("fuzz/");
    let members: Vec<_> = files().into_iter().filter(is_member).collect();
    refuse_each("versions are only in the root Cargo.toml", &members, manifest::own_versions);
}

#[test]
fn every_licence_is_allowed() {
    refuse(
        "deny.toml lists the permitted licences",
        &dependency::refused_licences(&dependency::tree(), &file("deny.toml")),
    );
}

#[test]
fn no_crate_is_banned() {
    refuse("deny.toml has the reason", &dependency::banned_crates(&dependency::tree(), &file("deny.toml")));
}

#[test]
fn every_system_test_is_declared() {
    let sources: Vec<File> = sources().into_iter().filter(|file| file.path.starts_with("tests/")).collect();
    refuse("each file runs", &manifest::undeclared_tests(&file("tests/Cargo.toml"), &sources));
}

#[test]
fn tests_share_code_by_crates() {
    let is_test = |file: &File| file.path.split('/').any(|part| matches!(part, "tests" | "benches"));
    let tests: Vec<File> = sources().into_iter().filter(is_test).collect();
    refuse_each("put it into tests/support", &tests, source::hidden_sharing);
}

#[test]
fn every_invariant_names_its_test() {
    let findings = document::untested_invariants(&file("ARCHITECTURE.md"), &sources());
    refuse("an invariant needs a test", &findings);
}

#[test]
fn every_claim_of_the_security_model_names_its_test() {
    let findings = document::missing_tests(&file("docs/security.md"), &sources());
    refuse("the threat model cites tests that exist", &findings);
}

#[test]
fn every_example_is_shown_or_run() {
    // cli/tests/documents.rs runs the commands in pages.
    let (pages, sources) = (pages(), sources());
    let tests = sources.iter().filter(|source| source.text.contains("#[test]"));
    let readers: Vec<&File> = tests.chain(&pages).collect();
    let examples = files_in("examples/");
    let findings = examples.iter().flat_map(|example| document::unused_example(example, &readers));
    refuse("an example that no test runs becomes wrong", &findings.collect::<Vec<_>>());
}

#[test]
fn every_example_explains_itself() {
    let yaml: Vec<_> =
        files_in("examples/").into_iter().filter(|file| file.path.ends_with(".yaml")).collect();
    refuse_each(
        "two comment lines: what it shows, and a command to try",
        &yaml,
        document::unexplained_example,
    );
}

#[test]
fn groups_of_the_core_use_only_groups_below() {
    refuse_each("groups of proxy-core have an order", &files_in("proxy-core/src/"), layer::upward_imports);
}

#[test]
fn public_type_names_are_unique_within_a_crate() {
    refuse("a name stands for one type", &type_name::repeated_names(&sources()));
}

#[test]
fn every_script_has_a_purpose() {
    let mut scripts = files_in("scripts/");
    scripts.extend(files_in(".ci/"));
    refuse_each("the purpose comes first", &scripts, document::unexplained_script);
}

#[test]
fn every_script_prints_its_header_for_help() {
    let is_command = |file: &File| file.path.matches('/').count() == 1 && file.name() != "lib.sh";
    let scripts: Vec<File> = files_in("scripts/").into_iter().filter(is_command).collect();
    // A script that does not source lib.sh would run below.
    refuse_each("--help prints the comment at the top", &scripts, document::script_without_help);
    for script in &scripts {
        let output = Command::new(root().join(&script.path)).arg("--help").output().expect("run a script");
        assert!(output.status.success(), "{}: {output:?}", script.path);
        assert_eq!(String::from_utf8_lossy(&output.stdout), document::header(script), "{}", script.path);
    }
}

#[test]
fn every_script_is_executable() {
    let scripts = files_in("scripts/").into_iter().chain(files_in(".ci/"));
    let others = scripts.filter(|script| {
        let mode = root().join(&script.path).metadata().expect("it was read before").permissions().mode();
        mode & 0o111 == 0
    });
    refuse("chmod +x", &others.map(|script| script.path).collect::<Vec<_>>());
}

#[test]
fn every_annotation_is_in_the_table_of_the_core() {
    refuse_each(
        "docs/reference contains only annotations of that table",
        &files(),
        annotation::unknown_names,
    );
}

#[test]
fn code_uses_the_keys_of_the_annotation_table() {
    refuse_each("use the constant", &sources(), annotation::literal_keys);
}

#[test]
fn every_link_is_valid() {
    let pages = pages();
    refuse_each("update the links to a page that moves", &pages, |page| link::broken_links(page, &pages));
}

#[test]
fn no_file_contains_a_path_of_one_machine() {
    refuse_each("paths are relative to the repository", &files(), document::machine_directories);
}
