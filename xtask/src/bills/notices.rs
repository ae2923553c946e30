//! The notices: what the licences of everything linked in ask to be told with it.
//!
//! Equal texts stand once. What must not go in here: judging licences, which deny.toml and the tidy test do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::bills::crates::{Crate, CrateKey, Origin};
use crate::bills::error::ReleaseError;
use crate::bills::libraries::Library;

/// How licence files begin, in capital letters.
const BEGINNINGS: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// A text and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LicenceText {
    /// Whose.
    pub key: CrateKey,
    /// What it says.
    pub text: String,
}

/// The licence files in the crates' own folders.
///
/// # Errors
/// Where a folder or a file cannot be read.
pub fn licence_texts(crates: &BTreeMap<CrateKey, Crate>) -> Result<Vec<LicenceText>, ReleaseError> {
    let mut found = Vec::new();
    for (key, part) in crates.iter().filter(|(_, part)| part.origin != Origin::Ours) {
        for name in licence_files(&part.folder)? {
            let path = part.folder.join(name);
            let bytes = fs::read(&path).map_err(|source| ReleaseError::Read { path, source })?;
            let text = String::from_utf8_lossy(&bytes).replace('\r', "").trim().to_owned();
            found.push(LicenceText { key: key.clone(), text });
        }
    }
    Ok(found)
}

fn licence_files(folder: &Path) -> Result<BTreeSet<String>, ReleaseError> {
    let reading = |source| ReleaseError::Read { path: folder.to_owned(), source };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().map_err(reading)?.is_file();
        let upper = name.to_uppercase();
        if is_file && BEGINNINGS.iter().any(|beginning| upper.starts_with(beginning)) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// The whole text. `lgpl` is that licence, which asks to come with the C library.
#[must_use]
pub fn notices(
    crates: &BTreeMap<CrateKey, Crate>,
    texts: &[LicenceText],
    libraries: &[Library],
    lgpl: &str,
) -> String {
    let mut told = String::from(
        "Portico is under the Apache License 2.0 (LICENSE). Its programs contain what is listed here.\n\n\
         Libraries of the machine that built them, linked in as they are:\n",
    );
    for Library { name, version, licence, sources } in libraries {
        let _ = writeln!(told, "  {name} {version}: {licence}; {sources}");
    }
    told.push_str(
        "To link Portico with another version of the C library (LGPL, section 6), build its sources there by\n\
         scripts/release.\n\nCrates:\n",
    );
    for (key, part) in crates.iter().filter(|(_, part)| part.origin != Origin::Ours) {
        let sources = part.repository.as_deref().unwrap_or("https://crates.io");
        let _ = writeln!(told, "  {key}: {}; {sources}", part.licence);
    }
    let mut owners: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for LicenceText { key, text } in texts {
        owners.entry(text).or_default().insert(key.to_string());
    }
    for (text, keys) in owners {
        let keys: Vec<String> = keys.into_iter().collect();
        let _ = write!(told, "\n{}\n{}\n\n{text}\n", "=".repeat(80), keys.join(", "));
    }
    let _ = write!(told, "\n{}\nglibc\n\n{}\n", "=".repeat(80), lgpl.trim());
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bills::crates::tests::{key, sample};

    #[test]
    fn a_text_that_two_crates_share_stands_once_under_both_names() {
        let text = |name: &str, version: &str, text: &str| LicenceText {
            key: key(name, version),
            text: text.to_owned(),
        };
        let texts = [
            text("low", "2.0.0", "the terms"),
            text("good", "1.0.0+a", "the terms"),
            text("low", "2.0.0", "more"),
        ];
        let told = notices(&sample().all, &texts, &[], "the lesser terms\n");
        assert_eq!(told.matches("the terms").count(), 1);
        assert!(told.contains("\ngood 1.0.0+a, low 2.0.0\n\nthe terms\n"), "{told}");
        assert!(
            told.contains("\nlow 2.0.0\n\nmore\n") && told.ends_with("\nglibc\n\nthe lesser terms\n"),
            "{told}"
        );
    }

    #[test]
    fn every_crate_of_others_is_listed_and_none_of_ours() {
        let told = notices(&sample().all, &[], &[], "");
        assert!(told.contains("  good 1.0.0+a: MIT OR Apache-2.0; https://example.org/good\n"), "{told}");
        assert!(told.contains("  low 2.0.0: ISC; https://crates.io\n") && !told.contains("ours"), "{told}");
    }
}
