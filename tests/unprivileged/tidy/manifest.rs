//! Rules for Cargo.toml files: versions are in one file, each dependency has a reason, the core stays small, and each test
//! is declared.
//!
//! The parser below reads only the subset of TOML in these manifests: one entry per line, arrays on several.

use super::repository::File;

/// The dependencies that the core may have: values, errors, address arithmetic, shared maps. No runtime, no I/O.
const CORE_DEPENDENCIES: [&str; 5] = ["ipnet", "rpds", "serde", "serde_json", "thiserror"];

const REASON_LEN_MIN: usize = 10;

/// One `key = value # comment` of a manifest.
struct Entry {
    line: usize,
    /// The table that contains it, and the line where that table starts (`[[test]]` appears several times).
    section: String,
    section_line: usize,
    key: String,
    value: String,
    comment: String,
}

pub(crate) fn dependencies_without_reason(root: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for entry in entries(&root.text) {
        let place = format!("{}:{}: {}", root.path, entry.line, entry.key);
        if entry.section.starts_with("workspace.dependencies.") {
            findings.push(format!("{place}: write [{}] as one line with its reason", entry.section));
        }
        if entry.section != "workspace.dependencies" || has_field(&entry.value, "path") {
            continue;
        }
        if !entry.value.contains("default-features = false") {
            findings.push(format!("{place}: no `default-features = false`; list the features that are used"));
        }
        if entry.comment.len() < REASON_LEN_MIN {
            findings.push(format!("{place}: no `# reason` at the end of the line"));
        }
    }
    findings
}

pub(crate) fn own_versions(member: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for entry in entries(&member.text) {
        let place = format!("{}:{}: {}", member.path, entry.line, entry.key);
        if entry.section.contains("dependencies.") {
            findings.push(format!("{place}: write [{}] as one line", entry.section));
        }
        // A crate may depend on itself with a feature, for its own tests.
        if !is_dependencies(&entry.section) || entry.value.contains("path = \".\"") {
            continue;
        }
        let inherits = (entry.key.ends_with(".workspace") && entry.value == "true")
            || entry.value.contains("workspace = true");
        if !inherits || ["version", "path", "git"].iter().any(|field| has_field(&entry.value, field)) {
            findings
                .push(format!("{place}: not inherited; write `.workspace = true`, and the rest in the root"));
        }
    }
    findings
}

pub(crate) fn core_extras(core: &File) -> Vec<String> {
    let listed = entries(&core.text)
        .into_iter()
        .filter(|entry| is_dependencies(&entry.section) && !entry.section.ends_with("dev-dependencies"));
    let extras =
        listed.filter(|entry| !CORE_DEPENDENCIES.contains(&entry.key.trim_end_matches(".workspace")));
    extras.map(|entry| format!("{}:{}: {}", core.path, entry.line, entry.key)).collect()
}

/// Finds files of test programs that cargo or rustc does not compile. `sources` are the Rust files of `tests/`.
pub(crate) fn undeclared_tests(manifest: &File, sources: &[File]) -> Vec<String> {
    let entries = entries(&manifest.text);
    let mut findings = Vec::new();
    for source in sources {
        let path = source.path.strip_prefix("tests/").unwrap_or(&source.path);
        let Some((program, file)) = path.split_once('/').filter(|(_, file)| !file.contains('/')) else {
            continue;
        };
        if file == "main.rs" {
            findings.extend(undeclared_program(manifest, &entries, program));
            continue;
        }
        let main = sources.iter().find(|source| source.path == format!("tests/{program}/main.rs"));
        let module = format!("mod {};", file.trim_end_matches(".rs"));
        if !main.is_some_and(|main| main.lines().any(|(_, line)| line == module)) {
            findings.push(format!("{}: no `{module}` in main.rs, so it never runs", source.path));
        }
    }
    findings
}

fn undeclared_program(manifest: &File, entries: &[Entry], program: &str) -> Option<String> {
    let path = format!("\"{program}/main.rs\"");
    let Some(target) = entries.iter().find(|entry| entry.key == "path" && entry.value == path) else {
        return Some(format!("{}: no [[test]] with path = {path}, so it never runs", manifest.path));
    };
    let is_feature = entries.iter().any(|entry| entry.section == "features" && entry.key == program);
    let requires_it = entries.iter().any(|entry| {
        entry.section_line == target.section_line
            && entry.key == "required-features"
            && entry.value.contains(&format!("\"{program}\""))
    });
    let rule = format!("a program with the name of a feature has required-features = [\"{program}\"]");
    (is_feature && !requires_it).then(|| format!("{}:{}: {rule}", manifest.path, target.section_line))
}

fn is_dependencies(section: &str) -> bool {
    section == "dependencies"
        || section.ends_with("-dependencies")
        || (section.starts_with("target.") && section.ends_with(".dependencies"))
}

/// Whether an inline table has this field; `path-name = 1` and strings do not count as `path`.
fn has_field(value: &str, field: &str) -> bool {
    let fields = value.split(['{', ',', '}']).filter_map(|part| part.split_once('='));
    fields.into_iter().any(|(key, _)| key.trim() == field) || (field == "version" && value.starts_with('"'))
}

fn entries(text: &str) -> Vec<Entry> {
    let (mut section, mut section_line) = (String::new(), 0);
    let mut found: Vec<Entry> = Vec::new();
    let mut open = 0_i32; // open brackets of an array with several lines
    for (index, line) in text.lines().enumerate() {
        let (code, comment) = split_comment(line);
        let depth =
            |code: &str| code.matches(['[', '{']).count() as i32 - code.matches([']', '}']).count() as i32;
        if open > 0 {
            let last = found.last_mut().expect("an open array belongs to an entry");
            last.value.push_str(code.trim());
            last.comment.push_str(comment);
            open += depth(code);
        } else if code.starts_with('[') {
            section = code.trim_matches(['[', ']', ' ']).to_owned();
            section_line = index + 1;
        } else if let Some((key, value)) = code.split_once('=') {
            open += depth(value);
            found.push(Entry {
                line: index + 1,
                section: section.clone(),
                section_line,
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
                comment: comment.to_owned(),
            });
        }
    }
    found
}

/// Splits a line into code and comment, both trimmed; a `#` in a string is code.
pub(crate) fn split_comment(line: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => return (line[..at].trim(), line[at + 1..].trim()),
            _ => {}
        }
    }
    (line.trim(), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_without_reason_or_with_default_features_is_found() {
        let bad = "[workspace.dependencies]\n\
                   good = { version = \"1\", default-features = false } # a reason that says why\n\
                   ours = { path = \"ours\" }\n\
                   bare = \"1.0\"\n\
                   defaults = { version = \"1\" } # a reason that says why\n\
                   silent = { version = \"1\", default-features = false, features = [\n  \"#1\",\n] }\n\
                   [workspace.dependencies.table]\nversion = \"1\"\n";
        let findings = dependencies_without_reason(&File::sample("Cargo.toml", bad));
        let keys: Vec<_> = findings.iter().map(|finding| finding.split(": ").nth(1).unwrap_or("")).collect();
        assert_eq!(keys, ["bare", "bare", "defaults", "silent", "version"]);
        assert!(findings[0].starts_with("Cargo.toml:4: "), "{findings:?}");
    }

    #[test]
    fn dependency_that_is_not_inherited_is_found() {
        let bad = "[package]\nversion.workspace = true\n[dependencies]\n\
                   good.workspace = true\n\
                   also-good = { workspace = true, features = [\"path\"] }\n\
                   itself = { path = \".\", features = [\"sample\"] }\n\
                   version = \"1.0\"\n\
                   local = { path = \"../local\" }\n\
                   [target.'cfg(unix)'.dependencies]\nnix = { version = \"1\", workspace = true }\n";
        assert_eq!(own_versions(&File::sample("a/Cargo.toml", bad)).len(), 3);
    }

    #[test]
    fn runtime_in_the_core_is_found() {
        let bad = "[dependencies]\nserde.workspace = true\ntokio.workspace = true\n[dev-dependencies]\nproptest.workspace = true\n";
        assert_eq!(
            core_extras(&File::sample("core/Cargo.toml", bad)),
            ["core/Cargo.toml:3: tokio.workspace"]
        );
    }

    #[test]
    fn undeclared_test_is_found() {
        let text = "[features]\na = []\nb = []\n\
                    [[test]]\nname = \"a\"\npath = \"a/main.rs\"\nrequired-features = [\"a\"]\n\
                    [[test]]\nname = \"b\"\npath = \"b/main.rs\"\n";
        let undeclared = |sources: &[(&str, &str)]| {
            let sources: Vec<File> = sources.iter().map(|(path, text)| File::sample(path, text)).collect();
            undeclared_tests(&File::sample("tests/Cargo.toml", text), &sources).len()
        };
        assert_eq!(
            undeclared(&[("tests/a/main.rs", "mod x;\n"), ("tests/a/x.rs", ""), ("tests/a/x/y.rs", "")]),
            0
        );
        assert_eq!(undeclared(&[("tests/a/main.rs", "mod x;\n"), ("tests/a/y.rs", "")]), 1);
        assert_eq!(undeclared(&[("tests/b/main.rs", "")]), 1);
        assert_eq!(undeclared(&[("tests/c/main.rs", "")]), 1);
    }
}
