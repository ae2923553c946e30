//! Rules for documents and scripts: invariants cite their tests, examples are used, scripts have a purpose and --help,
//! and no file contains a path of one machine.

use std::collections::BTreeMap;

use super::citation::citation_errors;
use super::repository::File;

/// Directories of one machine. Each is split, so that the rule does not find this file.
const MACHINE_DIRECTORIES: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

pub(crate) fn untested_invariants(architecture: &File, sources: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut cluster = BTreeMap::new();
    for Invariant { line, number, text } in invariants(&architecture.text) {
        let place = format!("{}:{line}: Invariant {number}", architecture.path);
        if let Some(earlier) = cluster.insert(number, line) {
            findings.push(format!("{place}: this number is taken on line {earlier}"));
        }
        let paths = cited_tests(&text);
        if paths.is_empty() {
            findings.push(format!("{place}: does not end with `Test: program::path::of_the_test`"));
        }
        let errors = citation_errors(&paths, sources).into_iter();
        findings.extend(errors.map(|error| format!("{place}: {error}")));
    }
    if cluster.is_empty() {
        findings.push(format!("{}: no line begins with \"Invariant 1\"", architecture.path));
    }
    findings
}

/// Tests that a page cites in backticks, as `program::path::of_the_test`.
pub(crate) fn missing_tests(page: &File, sources: &[File]) -> Vec<String> {
    let is_path = |word: &&str| {
        word.contains("::")
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':')
    };
    let cited: Vec<(usize, Vec<&str>)> = page
        .lines()
        .map(|(line, text)| (line, text.split('`').skip(1).step_by(2).filter(is_path).collect::<Vec<_>>()))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    if cited.is_empty() {
        return vec![format!("{}: cites no test", page.path)];
    }
    let errors = cited.iter().flat_map(|(line, paths)| {
        citation_errors(paths, sources).into_iter().map(move |error| (*line, error))
    });
    errors.map(|(line, error)| format!("{}:{line}: {error}", page.path)).collect()
}

/// `readers` are the pages and the tests, which show an example or run it.
pub(crate) fn unused_example(example: &File, readers: &[&File]) -> Vec<String> {
    let used = readers.iter().any(|reader| reader.text.contains(example.name()));
    if used { Vec::new() } else { vec![format!("{}: neither a page nor a test names it", example.path)] }
}

pub(crate) fn unexplained_example(example: &File) -> Vec<String> {
    let explained = example.text.starts_with("# ") && example.text.contains("\n# Try: portico ");
    if explained {
        Vec::new()
    } else {
        vec![format!("{}:1: no comment with a `# Try: portico ...` line", example.path)]
    }
}

pub(crate) fn unexplained_script(script: &File) -> Vec<String> {
    let mut lines = script.text.lines();
    let mut findings = Vec::new();
    if lines.next() != Some("#!/usr/bin/env bash") {
        findings.push(format!("{}:1: not `#!/usr/bin/env bash`", script.path));
    }
    if !lines.next().is_some_and(|line| line.starts_with("# ")) {
        findings.push(format!("{}:2: no comment with its purpose", script.path));
    }
    if !script.text.contains("\nset -euo pipefail\n") {
        findings.push(format!("{}: no `set -euo pipefail`, so a failure is ignored", script.path));
    }
    findings
}

/// The line by which a script gets `--help`, messages, and the root of the repository.
const LIBRARY: &str = "\n. \"$(dirname \"${BASH_SOURCE[0]}\")/lib.sh\"\n";

pub(crate) fn script_without_help(script: &File) -> Vec<String> {
    let mut findings = Vec::new();
    if !header(script).contains(&format!("\nusage: {}", script.path)) {
        findings.push(format!("{}: no `# usage: {}` in the comment at the top", script.path, script.path));
    }
    if !script.text.contains(LIBRARY) {
        findings
            .push(format!("{}: does not source lib.sh, which prints that comment for --help", script.path));
    }
    findings
}

/// The comment at the top of a script, as `--help` prints it.
pub(crate) fn header(script: &File) -> String {
    let lines = script.text.lines().skip(1).map_while(|line| line.strip_prefix('#'));
    lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect()
}

pub(crate) fn machine_directories(file: &File) -> Vec<String> {
    let found =
        file.lines().filter(|(_, line)| MACHINE_DIRECTORIES.iter().any(|directory| line.contains(directory)));
    found.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())).collect()
}

struct Invariant {
    line: usize,
    number: u32,
    text: String,
}

/// An invariant starts with its name, and ends before an empty line, a heading, or the next one.
fn invariants(text: &str) -> Vec<Invariant> {
    let mut found: Vec<Invariant> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let bare = line.trim_start_matches(|c: char| c.is_ascii_digit() || " .-*#>|`".contains(c));
        let digits = bare.strip_prefix("Invariant ").unwrap_or("");
        let number =
            digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
        if let Some(number) = number {
            found.push(Invariant { line: index + 1, number, text: line.to_owned() });
            open = true;
        } else if line.trim().is_empty() || line.starts_with('#') {
            open = false;
        } else if let Some(invariant) = found.last_mut().filter(|_| open) {
            invariant.text.push(' ');
            invariant.text.push_str(line.trim());
        }
    }
    found
}

/// Returns the paths after the final `Test:` (or `Tests:`, with commas), if nothing else follows.
fn cited_tests(text: &str) -> Vec<&str> {
    let Some((_, named)) = text.rsplit_once("Test: ").or_else(|| text.rsplit_once("Tests: ")) else {
        return Vec::new();
    };
    let ends = |c: char| " .`*_|)".contains(c);
    let paths: Vec<&str> = named.split(',').map(|path| path.trim_matches(ends)).collect();
    let is_path =
        |path: &&str| path.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':') && !path.is_empty();
    if paths.iter().all(is_path) { paths } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn untested(architecture: &str) -> Vec<String> {
        let source = "#[test]\n#[should_panic]\nfn plan_is_exact() {}\nfn helper_only() {}\n";
        untested_invariants(
            &File::sample("ARCHITECTURE.md", architecture),
            &[File::sample("a/src/plan.rs", source)],
        )
    }

    #[test]
    fn invariant_with_a_test_passes() {
        let good = "See Invariant 9 below.\n- **Invariant 1**: what `plan` says\n  is exact. Test: `a::plan::plan_is_exact`.\n";
        assert_eq!(untested(good), [""; 0]);
        assert_eq!(untested("| Invariant 1 | exact | Test: a::plan::plan_is_exact |\n"), [""; 0]);
    }

    #[test]
    fn invariant_without_a_test_is_found() {
        for bad in [
            "Invariant 1: exact. Test: plan_is_exact\n",
            "no invariants here\n",
            "Invariant 1: exact.\n\nTest: a::plan::plan_is_exact\n",
            "Invariant 1: exact. Test: a::plan::is_gone\n",
            "Invariant 1: exact. Test: a::plan::helper_only\n",
            "Invariant 1: exact. Test: a::plan::plan_is_exact, as far as we know\n",
            "Invariant 1: a. Test: a::plan::plan_is_exact\nInvariant 1: b. Test: a::plan::plan_is_exact\n",
        ] {
            assert_eq!(untested(bad).len(), 1, "{bad}: {:?}", untested(bad));
        }
    }

    #[test]
    fn cited_test_that_does_not_exist_is_found() {
        let sources = [File::sample("a/src/plan.rs", "#[test]\nfn plan_is_exact() {}\n")];
        let missing = |text| missing_tests(&File::sample("docs/a.md", text), &sources).len();
        assert_eq!(missing("| pod | `a::plan::plan_is_exact` |\n"), 0);
        assert_eq!(missing("| pod | `a::plan::plan_is_exact`, `a::plan::plan_is_gone` |\n"), 1);
        assert_eq!(missing("a page that cites nothing\n"), 1);
    }

    #[test]
    fn unused_or_unexplained_example_is_found() {
        let example = File::sample("examples/a-sample.yaml", "kind: Service\n");
        let readme = File::sample("README.md", "see examples/a-sample.yaml");
        assert_eq!(unused_example(&example, &[]).len(), 1);
        assert_eq!(unused_example(&example, &[&readme]).len(), 0);
        assert_eq!(unexplained_example(&example).len(), 1);
    }

    #[test]
    fn script_without_a_purpose_is_found() {
        assert_eq!(unexplained_script(&File::sample("scripts/x", "#!/bin/sh\necho\n")).len(), 3);
        let good = "#!/usr/bin/env bash\n# Why.\nset -euo pipefail\n";
        assert_eq!(unexplained_script(&File::sample("scripts/x", good)).len(), 0);
    }

    #[test]
    fn script_without_help_is_found() {
        let good = format!("#!/usr/bin/env bash\n# Why.\n#\n# usage: scripts/x\nset -euo pipefail{LIBRARY}");
        assert_eq!(script_without_help(&File::sample("scripts/x", &good)), [""; 0]);
        assert_eq!(header(&File::sample("scripts/x", &good)), "Why.\n\nusage: scripts/x\n");
        assert_eq!(script_without_help(&File::sample("scripts/y", &good)).len(), 1);
        assert_eq!(script_without_help(&File::sample("scripts/x", "#!/usr/bin/env bash\n# Why.\n")).len(), 2);
    }

    #[test]
    fn path_of_one_machine_is_found() {
        let bad = format!("fine\ncd {}src\n", MACHINE_DIRECTORIES[0]);
        assert_eq!(machine_directories(&File::sample("README.md", &bad)).len(), 1);
        assert_eq!(machine_directories(&File::sample("README.md", "network/routes")).len(), 0);
    }
}
