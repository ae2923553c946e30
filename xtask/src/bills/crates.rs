//! `Crates`: the crates of a program, as cargo resolves them for that program only.
//!
//! Crates, features and dependencies are from `cargo tree`, licences and sources from `cargo metadata`, checksums from
//! Cargo.lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bills::error::BillError;

/// A crate in one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrateKey {
    /// The name.
    pub name: String,
    /// The version.
    pub version: String,
}

impl fmt::Display for CrateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// The origin of a crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This repository.
    Workspace,
    /// A registry, with the SHA-256 of the downloaded crate.
    Registry(String),
}

/// One crate of a program.
#[derive(Debug, Clone)]
pub struct Crate {
    /// The enabled features.
    pub features: BTreeSet<String>,
    /// The direct dependencies, including those of build scripts.
    pub needs: BTreeSet<CrateKey>,
    /// The licence, as an SPDX expression.
    pub licence: String,
    /// The URL of the repository.
    pub repository: Option<String>,
    /// The origin.
    pub origin: Origin,
    /// The directory with its sources on this machine.
    pub directory: PathBuf,
}

/// All crates of a program.
#[derive(Debug, Clone)]
pub struct Crates {
    /// The crate that contains the program.
    pub root: CrateKey,
    /// All crates, including the root.
    pub all: BTreeMap<CrateKey, Crate>,
}

#[derive(Default)]
struct Node {
    features: BTreeSet<String>,
    needs: BTreeSet<CrateKey>,
}

impl Crates {
    /// Parses lines of `cargo tree --prefix depth --format ' {p}|{f}|'`, `cargo metadata`, and `Cargo.lock`.
    ///
    /// # Errors
    /// If one of them cannot be parsed, or lacks a crate that another one names.
    pub fn read(tree: &str, metadata: &Value, lock: &str) -> Result<Self, BillError> {
        let (root, nodes) = nodes(tree)?;
        let (packages, checksums) = (packages(metadata), checksums(lock));
        let mut all = BTreeMap::new();
        for (key, Node { features, needs }) in nodes {
            let missing = |what| BillError::Metadata { key: key.clone(), what };
            let package = packages.get(&key).copied().ok_or_else(|| missing("entry"))?;
            let licence = package["license"].as_str().ok_or_else(|| missing("licence"))?;
            let manifest = package["manifest_path"].as_str().and_then(|path| Path::new(path).parent());
            let directory = manifest.ok_or_else(|| missing("directory"))?.to_owned();
            let origin = if package["source"].is_null() {
                Origin::Workspace
            } else {
                let checksum = checksums.get(&key);
                Origin::Registry(checksum.ok_or_else(|| BillError::NoChecksum(key.clone()))?.clone())
            };
            let repository = package["repository"].as_str().map(str::to_owned);
            let licence = expression(licence);
            all.insert(key, Crate { features, needs, licence, repository, origin, directory });
        }
        Ok(Self { root, all })
    }
}

/// Parses lines such as `2 name v1.0.0 (proc-macro)|default,std| (*)`; the number is the depth.
fn nodes(tree: &str) -> Result<(CrateKey, BTreeMap<CrateKey, Node>), BillError> {
    let mut nodes: BTreeMap<CrateKey, Node> = BTreeMap::new();
    let mut path: Vec<CrateKey> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let unexpected = || unexpected(line);
        let mut fields = line.split('|');
        let mut words = fields.next().unwrap_or_default().split_whitespace();
        let mut word = || words.next().ok_or_else(unexpected);
        let depth: usize = word()?.parse().map_err(|_| unexpected())?;
        let name = word()?.to_owned();
        let version = word()?.strip_prefix('v').ok_or_else(unexpected)?.to_owned();
        let key = CrateKey { name, version };
        let features = fields.next().ok_or_else(unexpected)?;
        path.truncate(depth);
        if path.len() != depth {
            return Err(unexpected());
        }
        if let Some(user) = path.last().and_then(|user| nodes.get_mut(user)) {
            user.needs.insert(key.clone());
        }
        let node = nodes.entry(key.clone()).or_default();
        // A crate appears twice if its features differ between the program and build scripts.
        node.features.extend(features.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        path.push(key);
    }
    let root = path.into_iter().next().ok_or_else(|| unexpected(tree))?;
    Ok((root, nodes))
}

fn unexpected(output: &str) -> BillError {
    BillError::Output { program: "cargo tree", output: output.to_owned() }
}

fn packages(metadata: &Value) -> BTreeMap<CrateKey, &Value> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let keyed = packages.filter_map(|package| {
        let text = |name: &str| package[name].as_str().map(str::to_owned);
        Some((CrateKey { name: text("name")?, version: text("version")? }, package))
    });
    keyed.collect()
}

/// Parses Cargo.lock, in which cargo writes one `key = "value"` per line of a package.
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

/// Converts `MIT/ISC`, the form before SPDX expressions, to `MIT OR ISC`.
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

    const TREE: &str = "0 ours v0.1.0 (/repository/ours)|default|\n\
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
             "manifest_path": "/repository/ours/Cargo.toml"},
            {"name": "good", "version": "1.0.0+a", "license": "MIT/Apache-2.0", "source": registry,
             "manifest_path": "/cargo/good/Cargo.toml", "repository": "https://example.org/good"},
            {"name": "low", "version": "2.0.0", "license": "ISC", "source": registry,
             "manifest_path": "/cargo/low/Cargo.toml"},
        ]})
    }

    /// Returns a program of three crates.
    pub(crate) fn sample() -> Crates {
        Crates::read(TREE, &metadata(), LOCK).unwrap()
    }

    #[test]
    fn all_dependencies_and_features_of_the_tree_are_parsed() {
        let Crates { root, all } = sample();
        assert_eq!(root, key("ours", "0.1.0"));
        assert_eq!(all.len(), 3);
        assert_eq!(all[&root].needs, [key("good", "1.0.0+a"), key("low", "2.0.0")].into());
        assert_eq!(all[&key("good", "1.0.0+a")].needs, [key("low", "2.0.0")].into());
        assert_eq!(all[&key("low", "2.0.0")].features, ["alloc".to_owned(), "std".to_owned()].into());
    }

    #[test]
    fn crate_has_the_licence_and_checksum_of_its_version() {
        let all = sample().all;
        let good = &all[&key("good", "1.0.0+a")];
        assert_eq!((&*good.licence, &good.origin), ("MIT OR Apache-2.0", &Origin::Registry("aa".to_owned())));
        assert_eq!(all[&key("ours", "0.1.0")].origin, Origin::Workspace);
    }

    #[test]
    fn missing_data_is_an_error() {
        let error = |tree: &str, metadata: &Value, lock: &str| {
            Crates::read(tree, metadata, lock).unwrap_err().to_string()
        };
        assert_eq!(error(TREE, &json!({}), LOCK), "cargo metadata has no entry for good 1.0.0+a");
        assert_eq!(error(TREE, &metadata(), ""), "no checksum for good 1.0.0+a in Cargo.lock");
        let mut unlicensed = metadata();
        unlicensed["packages"][2]["license"] = Value::Null;
        assert_eq!(error(TREE, &unlicensed, LOCK), "cargo metadata has no licence for low 2.0.0");
        for bad in ["", "x ours v1||", "0 ours 1.0.0||", "1 ours v1.0.0||", "0 ours v1.0.0"] {
            assert!(
                error(bad, &metadata(), LOCK).starts_with("unexpected output from cargo tree"),
                "{bad:?}"
            );
        }
    }
}
