//! The notices: the licence texts that must accompany the programs.
//!
//! Equal texts appear once. deny.toml and the tidy test decide which licences are permitted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::bills::crates::{Crate, CrateKey, Origin};
use crate::bills::error::BillError;
use crate::bills::libraries::Library;

/// The prefixes of the names of licence files, in upper case.
const PREFIXES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// The licence text of a crate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LicenceText {
    /// The crate.
    pub key: CrateKey,
    /// The text.
    pub text: String,
}

/// Reads the licence files in the directories of the crates.
///
/// # Errors
/// If a directory or file cannot be read.
pub fn licence_texts(crates: &BTreeMap<CrateKey, Crate>) -> Result<Vec<LicenceText>, BillError> {
    let mut found = Vec::new();
    for (key, part) in crates.iter().filter(|(_, part)| part.origin != Origin::Workspace) {
        for name in licence_files(&part.directory)? {
            let path = part.directory.join(name);
            let bytes = fs::read(&path).map_err(|source| BillError::Read { path, source })?;
            let text = String::from_utf8_lossy(&bytes).replace('\r', "").trim().to_owned();
            found.push(LicenceText { key: key.clone(), text });
        }
    }
    Ok(found)
}

fn licence_files(directory: &Path) -> Result<BTreeSet<String>, BillError> {
    let error = |source| BillError::Read { path: directory.to_owned(), source };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().map_err(error)?.is_file();
        let upper = name.to_uppercase();
        if is_file && PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Returns the notices of all programs. `lgpl` is the text of the licence of the C library.
#[must_use]
pub fn notices(
    crates: &BTreeMap<CrateKey, Crate>,
    texts: &[LicenceText],
    libraries: &[Library],
    lgpl: &str,
) -> String {
    let mut output = String::from(
        "Portico is licensed under the Apache License 2.0 (LICENSE). Its programs contain the following libraries and \
         crates.\n\nLibraries of the build machine, linked statically and unmodified:\n",
    );
    for Library { name, version, licence, sources } in libraries {
        let _ = writeln!(output, "  {name} {version}: {licence}; {sources}");
    }
    output.push_str(
        "To link Portico with another version of the C library (LGPL, section 6), build its sources with that version\n\
         by scripts/release.\n\nCrates:\n",
    );
    for (key, part) in crates.iter().filter(|(_, part)| part.origin != Origin::Workspace) {
        let sources = part.repository.as_deref().unwrap_or("https://crates.io");
        let _ = writeln!(output, "  {key}: {}; {sources}", part.licence);
    }
    let mut owners: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for LicenceText { key, text } in texts {
        owners.entry(text).or_default().insert(key.to_string());
    }
    for (text, keys) in owners {
        let keys: Vec<String> = keys.into_iter().collect();
        let _ = write!(output, "\n{}\n{}\n\n{text}\n", "=".repeat(80), keys.join(", "));
    }
    let _ = write!(output, "\n{}\nglibc\n\n{}\n", "=".repeat(80), lgpl.trim());
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bills::crates::tests::{key, sample};

    #[test]
    fn shared_text_appears_once_with_the_names_of_both_crates() {
        let text = |name: &str, version: &str, text: &str| LicenceText {
            key: key(name, version),
            text: text.to_owned(),
        };
        let texts = [
            text("low", "2.0.0", "the terms"),
            text("good", "1.0.0+a", "the terms"),
            text("low", "2.0.0", "more"),
        ];
        let notices = notices(&sample().all, &texts, &[], "the lesser terms\n");
        assert_eq!(notices.matches("the terms").count(), 1);
        assert!(notices.contains("\ngood 1.0.0+a, low 2.0.0\n\nthe terms\n"), "{notices}");
        assert!(
            notices.contains("\nlow 2.0.0\n\nmore\n") && notices.ends_with("\nglibc\n\nthe lesser terms\n"),
            "{notices}"
        );
    }

    #[test]
    fn downloaded_crates_are_listed_and_workspace_crates_are_not() {
        let notices = notices(&sample().all, &[], &[], "");
        assert!(
            notices.contains("  good 1.0.0+a: MIT OR Apache-2.0; https://example.org/good\n"),
            "{notices}"
        );
        assert!(
            notices.contains("  low 2.0.0: ISC; https://crates.io\n") && !notices.contains("ours"),
            "{notices}"
        );
    }
}
