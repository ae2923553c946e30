//! `Crates`: what is built into a program, as cargo resolves it for that program alone.
//!
//! The tree says which crates, features and edges; the metadata whose they are; the lock file what was fetched.
//! What must not go in here: how cargo is asked, or the form in which it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bills::error::ReleaseError;

/// A crate in one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrateKey {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl fmt::Display for CrateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Where a crate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This repository.
    Ours,
    /// A registry; the SHA-256 of what was fetched.
    Registry(String),
}

/// One crate of a program.
#[derive(Debug, Clone)]
pub struct Crate {
    /// The features that are on.
    pub features: BTreeSet<String>,
    /// What it depends on directly, build scripts included.
    pub needs: BTreeSet<CrateKey>,
    /// The SPDX expression.
    pub licence: String,
    /// Where its sources are kept.
    pub repository: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
    /// The folder with its sources on this machine.
    pub folder: PathBuf,
}

/// Everything that is built into a program.
#[derive(Debug, Clone)]
pub struct Crates {
    /// The crate of the program itself.
    pub root: CrateKey,
    /// That one and all others.
    pub all: BTreeMap<CrateKey, Crate>,
}

#[derive(Default)]
struct Node {
    features: BTreeSet<String>,
    needs: BTreeSet<CrateKey>,
}

impl Crates {
    /// From lines of `cargo tree --prefix depth --format ' {p}|{f}|'`, `cargo metadata`, and `Cargo.lock`.
    ///
    /// # Errors
    /// Where one of them is of another form, or lacks what the others name.
    pub fn read(tree: &str, metadata: &Value, lock: &str) -> Result<Self, ReleaseError> {
        let (root, nodes) = nodes(tree)?;
        let (facts, checksums) = (facts(metadata), checksums(lock));
        let mut all = BTreeMap::new();
        for (key, Node { features, needs }) in nodes {
            let lacks = |what| ReleaseError::Metadata { key: key.clone(), what };
            let fact = facts.get(&key).copied().ok_or_else(|| lacks("the crate"))?;
            let licence = fact["license"].as_str().ok_or_else(|| lacks("the licence"))?;
            let manifest = fact["manifest_path"].as_str().and_then(|path| Path::new(path).parent());
            let folder = manifest.ok_or_else(|| lacks("the folder"))?.to_owned();
            let origin = if fact["source"].is_null() {
                Origin::Ours
            } else {
                let checksum = checksums.get(&key);
                Origin::Registry(checksum.ok_or_else(|| ReleaseError::Unlocked(key.clone()))?.clone())
            };
            let repository = fact["repository"].as_str().map(str::to_owned);
            let licence = expression(licence);
            all.insert(key, Crate { features, needs, licence, repository, origin, folder });
        }
        Ok(Self { root, all })
    }
}

/// Lines look like `2 name v1.0.0 (proc-macro)|default,std| (*)`, the depth first.
fn nodes(tree: &str) -> Result<(CrateKey, BTreeMap<CrateKey, Node>), ReleaseError> {
    let mut nodes: BTreeMap<CrateKey, Node> = BTreeMap::new();
    let mut path: Vec<CrateKey> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let unreadable = || strange(line);
        let mut fields = line.split('|');
        let mut words = fields.next().unwrap_or_default().split_whitespace();
        let mut word = || words.next().ok_or_else(unreadable);
        let depth: usize = word()?.parse().map_err(|_| unreadable())?;
        let name = word()?.to_owned();
        let version = word()?.strip_prefix('v').ok_or_else(unreadable)?.to_owned();
        let key = CrateKey { name, version };
        let features = fields.next().ok_or_else(unreadable)?;
        path.truncate(depth);
        if path.len() != depth {
            return Err(unreadable());
        }
        if let Some(user) = path.last().and_then(|user| nodes.get_mut(user)) {
            user.needs.insert(key.clone());
        }
        let node = nodes.entry(key.clone()).or_default();
        // A crate comes twice where its features differ: for the program, and for what runs while it is built.
        node.features.extend(features.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        path.push(key);
    }
    let root = path.into_iter().next().ok_or_else(|| strange(tree))?;
    Ok((root, nodes))
}

fn strange(said: &str) -> ReleaseError {
    ReleaseError::Answer { program: "cargo tree", said: said.to_owned() }
}

fn facts(metadata: &Value) -> BTreeMap<CrateKey, &Value> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let keyed = packages.filter_map(|package| {
        let text = |name: &str| package[name].as_str().map(str::to_owned);
        Some((CrateKey { name: text("name")?, version: text("version")? }, package))
    });
    keyed.collect()
}

/// The lock file is written by cargo alone, one `key = "value"` on each line of a package.
fn checksums(lock: &str) -> BTreeMap<CrateKey, String> {
    let packages = lock.split("[[package]]").skip(1);
    let keyed = packages.filter_map(|package| {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
            line?.strip_suffix('"').map(str::to_owned)
        };
        Some((CrateKey { name: value("name")?, version: value("version")? }, value("checksum")?))
    });
    keyed.collect()
}

/// `MIT/ISC` is how `MIT OR ISC` was written before SPDX expressions.
fn expression(licence: &str) -> String {
    licence.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn key(name: &str, version: &str) -> CrateKey {
        CrateKey { name: name.to_owned(), version: version.to_owned() }
    }

    const TREE: &str = "0 ours v0.1.0 (/somewhere/ours)|default|\n\
                        1 good v1.0.0+a (proc-macro)||\n\
                        2 low v2.0.0|std|\n\
                        1 low v2.0.0|alloc,std|\n\
                        1 good v1.0.0+a (proc-macro)|| (*)\n";
    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"good\"\nversion = \"1.0.0+a\"\nchecksum = \"aa\"\n\
                        dependencies = [\n \"low\",\n]\n\n[[package]]\nname = \"low\"\nversion = \"2.0.0\"\n\
                        checksum = \"bb\"\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n";

    fn metadata() -> Value {
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        json!({"packages": [
            {"name": "ours", "version": "0.1.0", "license": "Apache-2.0", "source": null,
             "manifest_path": "/somewhere/ours/Cargo.toml"},
            {"name": "good", "version": "1.0.0+a", "license": "MIT/Apache-2.0", "source": registry,
             "manifest_path": "/cargo/good/Cargo.toml", "repository": "https://example.org/good"},
            {"name": "low", "version": "2.0.0", "license": "ISC", "source": registry,
             "manifest_path": "/cargo/low/Cargo.toml"},
        ]})
    }

    /// A program of three crates.
    pub(crate) fn sample() -> Crates {
        Crates::read(TREE, &metadata(), LOCK).unwrap()
    }

    #[test]
    fn every_edge_and_every_feature_of_the_tree_is_known() {
        let Crates { root, all } = sample();
        assert_eq!(root, key("ours", "0.1.0"));
        assert_eq!(all.len(), 3);
        assert_eq!(all[&root].needs, [key("good", "1.0.0+a"), key("low", "2.0.0")].into());
        assert_eq!(all[&key("good", "1.0.0+a")].needs, [key("low", "2.0.0")].into());
        assert_eq!(all[&key("low", "2.0.0")].features, ["alloc".to_owned(), "std".to_owned()].into());
    }

    #[test]
    fn a_crate_has_the_licence_and_the_checksum_of_its_version() {
        let all = sample().all;
        let good = &all[&key("good", "1.0.0+a")];
        assert_eq!((&*good.licence, &good.origin), ("MIT OR Apache-2.0", &Origin::Registry("aa".to_owned())));
        assert_eq!(all[&key("ours", "0.1.0")].origin, Origin::Ours);
    }

    #[test]
    fn what_the_sources_do_not_say_is_an_error() {
        let why = |tree: &str, metadata: &Value, lock: &str| {
            Crates::read(tree, metadata, lock).unwrap_err().to_string()
        };
        assert_eq!(why(TREE, &json!({}), LOCK), "cargo metadata lack the crate of good 1.0.0+a");
        assert_eq!(why(TREE, &metadata(), ""), "Cargo.lock has no checksum of good 1.0.0+a");
        let mut nameless = metadata();
        nameless["packages"][2]["license"] = Value::Null;
        assert_eq!(why(TREE, &nameless, LOCK), "cargo metadata lack the licence of low 2.0.0");
        for bad in ["", "x ours v1||", "0 ours 1.0.0||", "1 ours v1.0.0||", "0 ours v1.0.0"] {
            assert!(
                why(bad, &metadata(), LOCK).starts_with("cargo tree says what cannot be read"),
                "{bad:?}"
            );
        }
    }
}
