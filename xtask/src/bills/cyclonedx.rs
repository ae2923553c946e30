//! The bill of materials of a program: CycloneDX 1.5, as JSON.
//!
//! Downloaded crates are identified as in the registry, and crates of this repository by its commit, so that a scanner
//! does not take one for a crate of the same name in the registry. There is no serial number, so equal contents are
//! equal bytes. Everything here is pure.

use serde_json::{Value, json};

use crate::bills::crates::{Crate, CrateKey, Crates, Origin};
use crate::bills::libraries::Library;

/// A program that was built.
#[derive(Debug, Clone)]
pub struct Build {
    /// The name of the program.
    pub program: String,
    /// The SHA-256 of the program.
    pub sha256: String,
    /// Rust's target triple.
    pub target: String,
    /// The hash of the commit.
    pub revision: String,
    /// The time of that commit, in RFC 3339.
    pub time: String,
}

/// Returns the bill of materials of one program.
#[must_use]
pub fn bill(build: &Build, crates: &Crates, libraries: &[Library]) -> Value {
    let Build { program, sha256, target, revision, time } = build;
    let name = |key: &CrateKey| package_url(key, &crates.all[key], revision);
    let root = &crates.all[&crates.root];
    let others = crates.all.iter().filter(|(key, _)| **key != crates.root);
    let components = others.map(|(key, part)| component(key, part, revision));
    let components: Vec<Value> = components.chain(libraries.iter().map(library)).collect();
    let edges = crates.all.iter().map(|(key, part)| {
        let mut needs: Vec<String> = part.needs.iter().map(name).collect();
        if *key == crates.root {
            needs.extend(libraries.iter().map(library_url));
        }
        json!({"ref": name(key), "dependsOn": needs})
    });
    let leaves = libraries.iter().map(|library| json!({"ref": library_url(library), "dependsOn": []}));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time,
            "component": {
                "type": "application",
                "bom-ref": name(&crates.root),
                "name": program,
                "version": crates.root.version,
                "hashes": [{"alg": "SHA-256", "content": sha256}],
                "licenses": [{"expression": root.licence}],
                "purl": name(&crates.root),
                "externalReferences": vcs(root.repository.as_deref()),
            },
            "properties": [{"name": "portico:target", "value": target}, {"name": "portico:revision", "value": revision}],
        },
        "components": components,
        "dependencies": edges.chain(leaves).collect::<Vec<Value>>(),
    })
}

fn component(key: &CrateKey, part: &Crate, revision: &str) -> Value {
    let url = package_url(key, part, revision);
    let hashes = match &part.origin {
        Origin::Workspace => json!([]),
        Origin::Registry(sha256) => json!([{"alg": "SHA-256", "content": sha256}]),
    };
    let features = part.features.iter().map(|name| json!({"name": "cargo:feature", "value": name}));
    json!({
        "type": "library",
        "bom-ref": url,
        "name": key.name,
        "version": key.version,
        "hashes": hashes,
        "licenses": [{"expression": part.licence}],
        "purl": url,
        "externalReferences": vcs(part.repository.as_deref()),
        "properties": features.collect::<Vec<Value>>(),
    })
}

fn library(library: &Library) -> Value {
    let url = library_url(library);
    json!({
        "type": "library",
        "bom-ref": url,
        "name": library.name,
        "version": library.version,
        "licenses": [{"expression": library.licence}],
        "purl": url,
        "externalReferences": vcs(Some(library.sources)),
    })
}

/// Returns the package URL, which is also the identifier within the bill.
fn package_url(key: &CrateKey, part: &Crate, revision: &str) -> String {
    let CrateKey { name, version } = key;
    match part.origin {
        Origin::Workspace => format!("pkg:github/portico-proxy/portico@{revision}#{name}"),
        // In a package URL, a plus is a space.
        Origin::Registry(_) => format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")),
    }
}

fn library_url(Library { name, version, .. }: &Library) -> String {
    format!("pkg:generic/{name}@{version}")
}

fn vcs(repository: Option<&str>) -> Value {
    repository.map_or_else(|| json!([]), |url| json!([{"type": "vcs", "url": url}]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bills::crates::tests::sample;

    fn sample_bill() -> Value {
        let text = |text: &str| text.to_owned();
        let build = Build {
            program: text("portico"),
            sha256: text("cc"),
            target: text("x86_64-unknown-linux-gnu"),
            revision: text("abc"),
            time: text("2026-01-02T03:04:05Z"),
        };
        let glibc = Library {
            name: "glibc",
            version: text("2.36"),
            licence: "LGPL-2.1-or-later",
            sources: "https://g",
        };
        bill(&build, &sample(), &[glibc])
    }

    #[test]
    fn program_is_described_and_is_not_its_own_component() {
        let bill = sample_bill();
        let program = &bill["metadata"]["component"];
        assert_eq!(program["name"], "portico");
        assert_eq!(program["hashes"][0]["content"], "cc");
        assert_eq!(program["bom-ref"], "pkg:github/portico-proxy/portico@abc#ours");
        let names: Vec<&Value> =
            bill["components"].as_array().unwrap().iter().map(|part| &part["name"]).collect();
        assert_eq!(names, ["good", "low", "glibc"]);
    }

    #[test]
    fn downloaded_crate_has_its_registry_url_and_checksum() {
        let good = &sample_bill()["components"][0];
        assert_eq!(good["purl"], "pkg:cargo/good@1.0.0%2Ba");
        assert_eq!(good["hashes"], json!([{"alg": "SHA-256", "content": "aa"}]));
        assert_eq!(good["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
    }

    #[test]
    fn program_depends_on_its_crates_and_libraries() {
        let bill = sample_bill();
        let edges = bill["dependencies"].as_array().unwrap();
        let edge_of =
            |name: &str| edges.iter().find(|edge| edge["ref"].as_str().unwrap().contains(name)).unwrap();
        let all = ["pkg:cargo/good@1.0.0%2Ba", "pkg:cargo/low@2.0.0", "pkg:generic/glibc@2.36"];
        assert_eq!(edge_of("#ours")["dependsOn"], json!(all));
        assert_eq!(edge_of("good")["dependsOn"], json!(["pkg:cargo/low@2.0.0"]));
        assert_eq!(edge_of("glibc")["dependsOn"], json!([]));
    }
}
