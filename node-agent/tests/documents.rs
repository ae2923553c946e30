//! Whether the commands in the documentation answer what stands below them.
//!
//! Of each console block, `$ portico ...` is run from the root of the repository, and what follows has to be its answer;
//! a line `...` stands for any number of lines. What a node or a shell would have to answer is left to other tests.

mod command;

use std::fs;
use std::path::{Path, PathBuf};

use command::portico;

/// The commands that need nothing but manifests.
const OFFLINE: [&str; 4] = ["env", "portals", "rules", "explain"];

/// A command and what stands below it.
struct Shown {
    args: Vec<String>,
    answer: String,
}

/// The commands of a page that can be run here.
fn shown(page: &str) -> Vec<Shown> {
    let mut found: Vec<Option<Shown>> = Vec::new();
    let mut in_console = false;
    for line in page.lines() {
        if line.starts_with("```") {
            in_console = line == "```console";
            found.push(None);
        } else if !in_console {
        } else if let Some(command) = line.strip_prefix("$ ") {
            found.push(runnable(command).map(|args| Shown { args, answer: String::new() }));
        } else if let Some(Some(last)) = found.last_mut() {
            last.answer += &format!("{line}\n");
        }
    }
    found.into_iter().flatten().collect()
}

fn runnable(command: &str) -> Option<Vec<String>> {
    let mut words = command.split_whitespace().map(str::to_owned);
    let is_ours = words.next().as_deref() == Some("portico") && !command.contains(['|', '<', '#', '$']);
    let args: Vec<String> = words.collect();
    (is_ours && OFFLINE.contains(&args.first()?.as_str())).then_some(args)
}

/// Whether this is the answer that is shown, where `...` stands for any number of lines.
fn is_as_shown(answer: &str, shown: &str) -> bool {
    let mut rest: Vec<&str> = answer.lines().collect();
    let parts: Vec<Vec<&str>> =
        shown.lines().collect::<Vec<_>>().split(|line| *line == "...").map(<[_]>::to_vec).collect();
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
fn each_command_in_the_documentation_answers_what_stands_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository");
    let docs = fs::read_dir(root.join("docs")).expect("docs/ is there");
    let docs = docs.map(|entry| entry.expect("docs/ can be read").path());
    let pages: Vec<PathBuf> = docs
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .chain([root.join("README.md")])
        .collect();
    let mut count = 0;
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page is text");
        for Shown { args, answer } in shown(&text) {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let real = portico(&args).sound();
            assert!(is_as_shown(&real, &answer), "{}: portico {args:?} answers\n{real}", page.display());
            count += 1;
        }
    }
    assert!(count > 4, "only {count} commands were found: the pages are in another form");
}

#[test]
fn dots_stand_for_any_number_of_lines_and_for_nothing_else() {
    let answer = "a\nb\nc\n";
    for good in ["a\nb\nc\n", "a\n...\n", "...\nc\n", "a\n...\nc\n", "...\nb\n...\n", "a\n...\nb\nc\n"] {
        assert!(is_as_shown(answer, good), "{good}");
    }
    for bad in ["", "a\nb\n", "a\nc\n", "...\nb\n", "b\n...\n", "a\n...\nd\n"] {
        assert!(!is_as_shown(answer, bad), "{bad}");
    }
}
