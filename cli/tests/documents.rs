//! The commands in the documentation print what the documentation shows.
//!
//! Each `$ portico ...` in a console block runs in the root of the repository, and its output must be the text that
//! follows; a line `...` matches any number of lines. Commands that need a node or a shell are not run here.

use std::fs;
use std::path::{Path, PathBuf};

use test_support::command::portico;

/// The commands that need only manifests. Others need only manifests if they have `-f`.
const OFFLINE: [&str; 4] = ["env", "portals", "rules", "explain"];

/// A command and the output that the documentation shows.
struct DocumentedCommand {
    args: Vec<String>,
    output: String,
}

/// Parses the commands of a page that can run here.
fn documented_commands(page: &str) -> Vec<DocumentedCommand> {
    let mut found: Vec<Option<DocumentedCommand>> = Vec::new();
    let mut in_console = false;
    for line in page.lines() {
        if line.starts_with("```") {
            in_console = line == "```console";
            found.push(None);
        } else if !in_console {
        } else if let Some(command) = line.strip_prefix("$ ") {
            found.push(offline_args(command).map(|args| DocumentedCommand { args, output: String::new() }));
        } else if let Some(Some(last)) = found.last_mut() {
            last.output += &format!("{line}\n");
        }
    }
    found.into_iter().flatten().collect()
}

fn offline_args(command: &str) -> Option<Vec<String>> {
    let mut words = command.split_whitespace().map(str::to_owned);
    let is_portico = words.next().as_deref() == Some("portico") && !command.contains(['|', '<', '#', '$']);
    let args: Vec<String> = words.collect();
    let is_offline = OFFLINE.contains(&args.first()?.as_str()) || args.iter().any(|arg| arg == "-f");
    (is_portico && is_offline).then_some(args)
}

/// Whether the output matches the documentation, in which `...` matches any number of lines.
fn matches(output: &str, documented: &str) -> bool {
    let mut rest: Vec<&str> = output.lines().collect();
    let parts: Vec<Vec<&str>> =
        documented.lines().collect::<Vec<_>>().split(|line| *line == "...").map(<[_]>::to_vec).collect();
    let last = parts.len() - 1;
    for (number, part) in parts.iter().enumerate() {
        let found = if number == 0 {
            rest.starts_with(part).then_some(0)
        } else if number == last {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            (0..=rest.len()).find(|at| rest[*at..].starts_with(part))
        };
        let Some(at) = found else { return false };
        rest.drain(..at + part.len());
    }
    rest.is_empty()
}

#[test]
fn commands_in_the_documentation_print_the_documented_output() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository");
    let docs = fs::read_dir(root.join("docs")).expect("read docs/");
    let docs = docs.map(|entry| entry.expect("read docs/").path());
    let pages: Vec<PathBuf> = docs
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .chain([root.join("README.md")])
        .collect();
    let mut count = 0;
    for page in pages {
        let text = fs::read_to_string(&page).expect("read a page");
        for DocumentedCommand { args, output } in documented_commands(&text) {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let actual = portico(&args).expect_success();
            assert!(matches(&actual, &output), "{}: portico {args:?} prints\n{actual}", page.display());
            count += 1;
        }
    }
    assert!(count > 4, "only {count} commands were found; has the format of the pages changed?");
}

#[test]
fn dots_match_any_number_of_whole_lines() {
    let output = "a\nb\nc\n";
    for good in ["a\nb\nc\n", "a\n...\n", "...\nc\n", "a\n...\nc\n", "...\nb\n...\n", "a\n...\nb\nc\n"] {
        assert!(matches(output, good), "{good}");
    }
    for bad in ["", "a\nb\n", "a\nc\n", "...\nb\n", "b\n...\n", "a\n...\nd\n"] {
        assert!(!matches(output, bad), "{bad}");
    }
}
