//! Rules for citations of tests in documents: `program::path::name` is a test that runs by default, to its end.
//!
//! The first part of a citation is a test program, or a crate for its unit tests; the rest is what `cargo test` prints.
//! So a reader finds the file, and `cargo test` can select the test.

use super::repository::File;
use super::source::code_only;

/// The attribute of a test is at most this many lines above its function.
const ATTRIBUTE_LINES_MAX: usize = 6;

/// The directory of a crate that has another name than its directory.
const NAMED_DIRECTORIES: [(&str, &str); 1] = [("tests/support", "test_support")];

const IGNORED: &str = "is ignored by default";

/// A test function in a source file.
struct Test {
    /// `program::path::name`
    path: String,
    is_ignored: bool,
    returns_early: bool,
}

/// Returns what is wrong with the citations for one claim. If one of the tests runs by default, others may need more.
pub(crate) fn citation_errors(paths: &[&str], sources: &[File]) -> Vec<String> {
    let errors: Vec<Option<String>> = paths.iter().map(|path| citation_error(path, sources)).collect();
    let runs = errors.iter().any(Option::is_none);
    errors.into_iter().flatten().filter(|error| !(runs && error.ends_with(IGNORED))).collect()
}

/// Returns what is wrong with a citation.
fn citation_error(path: &str, sources: &[File]) -> Option<String> {
    let name = path.rsplit("::").next().unwrap_or(path);
    let found: Vec<Test> = sources.iter().flat_map(|source| tests_named(source, name)).collect();
    let Some(test) = found.iter().find(|test| test.path == path) else {
        let others: Vec<String> = found.iter().map(|test| format!("`{}`", test.path)).collect();
        let hint = if others.is_empty() { String::new() } else { format!(", only {}", others.join(", ")) };
        return Some(format!("there is no test `{path}`{hint}"));
    };
    if test.is_ignored {
        return Some(format!("`{path}` {IGNORED}"));
    }
    test.returns_early.then(|| format!("`{path}` can return early, so it can pass without a check"))
}

fn tests_named(source: &File, name: &str) -> Vec<Test> {
    let function = format!("fn {name}(");
    if !source.text.contains(&function) {
        return Vec::new();
    }
    let code = code_only(&source.text);
    let lines: Vec<&str> = code.lines().collect();
    let places = lines.iter().enumerate().filter(|(_, line)| line.contains(&function));
    let tests = places.filter_map(|(at, line)| {
        let above = &lines[at.saturating_sub(ATTRIBUTE_LINES_MAX)..at];
        let after_last_item = above.iter().rposition(|line| line.contains("fn ") || line.trim() == "}");
        let attributes = &above[after_last_item.map_or(0, |last| last + 1)..];
        let has = |word: &str| {
            attributes.iter().any(|line| line.trim_start().starts_with("#[") && has_word(line, word))
        };
        if !has("test") {
            return None;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let body = lines[at..].iter().take_while(|line| **line != end);
        let module = (!indent.is_empty())
            .then(|| lines[..at].iter().rev().find_map(|line| line.strip_prefix("mod ")?.strip_suffix(" {")))
            .flatten();
        let parts = module_path(&source.path).into_iter().chain(module.map(str::to_owned));
        Some(Test {
            path: parts.chain([name.to_owned()]).collect::<Vec<_>>().join("::"),
            is_ignored: has("ignore"),
            returns_early: body.into_iter().any(|line| has_word(line, "return")),
        })
    });
    tests.collect()
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

/// Returns the path of the module that a file contains, from its crate or test program on.
fn module_path(file: &str) -> Vec<String> {
    let file = file.trim_end_matches(".rs");
    let (krate, rest) = if let Some((directory, rest)) = file.split_once("/src/") {
        let named = NAMED_DIRECTORIES.iter().find(|(known, _)| *known == directory);
        let last = directory.rsplit('/').next().unwrap_or(directory);
        (Some(named.map_or(last.replace('-', "_"), |(_, name)| (*name).to_owned())), rest)
    } else {
        // The first part below `tests/` is the program.
        (
            None,
            file.rsplit_once("/tests/").map_or(file.strip_prefix("tests/").unwrap_or(file), |(_, rest)| rest),
        )
    };
    let parts = rest.split('/').filter(|part| !matches!(*part, "main" | "lib")).map(str::to_owned);
    krate.into_iter().chain(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citation_of_a_test_names_its_program_and_modules() {
        for (file, path) in [
            ("proxy-core/src/ruleset/plan/tests.rs", "proxy_core::ruleset::plan::tests::exact"),
            ("crates/relay/src/lib.rs", "relay::exact"),
            ("tests/support/src/pod.rs", "test_support::pod::exact"),
            ("tests/netns/relay_stream.rs", "netns::relay_stream::exact"),
            ("webhook/tests/served/main.rs", "served::exact"),
            ("webhook/tests/served/memory.rs", "served::memory::exact"),
            ("cli/tests/install.rs", "install::exact"),
        ] {
            let sources = [File::sample(file, "#[test]\n#[should_panic]\nfn exact() {}\n")];
            assert_eq!(citation_error(path, &sources), None, "{file}");
            assert!(citation_error("exact", &sources).is_some_and(|why| why.contains(path)), "{file}");
        }
        let inline = [File::sample("a/src/b.rs", "mod tests {\n    #[test]\n    fn exact() {\n    }\n}\n")];
        assert_eq!(citation_error("a::b::tests::exact", &inline), None);
    }

    #[test]
    fn citation_of_a_test_that_may_not_run_is_found() {
        for text in [
            "fn exact() {}\n",
            "#[test]\nfn other() {}\nfn exact() {}\n",
            "#[test]\n#[ignore = \"slow\"]\nfn exact() {}\n",
            "#[test]\n#[cfg_attr(not(feature = \"x\"), ignore = \"needs x\")]\nfn exact() {}\n",
            "#[test]\nfn exact() {\n    let Some(x) = x() else { return };\n}\n",
        ] {
            let sources =
                [File::sample("a/src/b.rs", text), File::sample("a/src/c.rs", "#[test]\nfn runs() {}\n")];
            assert!(citation_error("a::b::exact", &sources).is_some(), "{text}");
            let is_permitted = citation_errors(&["a::b::exact", "a::c::runs"], &sources).is_empty();
            assert_eq!(is_permitted, text.contains("ignore"), "{text}");
        }
    }
}
