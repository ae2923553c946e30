//! The bill of materials: CycloneDX 1.5, JSON, pure.
//!
//! What was fetched is named as in the registry, what is ours by the revision of this repository, so that nobody takes
//! one of our crates for another's of the same name. There is no serial number: equal bills are equal bytes.
//! What must not go in here: a clock, or the world.

use serde_json::{Value, json};

use crate::bills::crates::{Crate, CrateKey, Crates, Origin};
use crate::bills::libraries::Library;

/// What was built, and from what.
#[derive(Debug, Clone)]
pub struct Build {
    /// The name of the program.
    pub program: String,
    /// The SHA-256 of the program.
    pub sha256: String,
    /// For which machines.
    pub target: String,
    /// The commit.
    pub revision: String,
    /// The time of that commit, as RFC 3339 writes it.
    pub time: String,
}

/// The bill of one program.
#[must_use]
pub fn bill(build: &Build, crates: &Crates, libraries: &[Library]) -> Value {
    let Build { program, sha256, target, revision, time } = build;
    let name = |key: &CrateKey| reference(key, &crates.all[key], revision);
    let root = &crates.all[&crates.root];
    let others = crates.all.iter().filter(|(key, _)| **key != crates.root);
    let parts = others.map(|(key, part)| component(key, part, revision));
    let components: Vec<Value> = parts.chain(libraries.iter().map(library)).collect();
    let edges = crates.all.iter().map(|(key, part)| {
        let mut needs: Vec<String> = part.needs.iter().map(name).collect();
        if *key == crates.root {
            needs.extend(libraries.iter().map(library_reference));
        }
        json!({"ref": name(key), "dependsOn": needs})
    });
    let ends = libraries.iter().map(|library| json!({"ref": library_reference(library), "dependsOn": []}));
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
        "dependencies": edges.chain(ends).collect::<Vec<Value>>(),
    })
}

fn component(key: &CrateKey, part: &Crate, revision: &str) -> Value {
    let reference = reference(key, part, revision);
    let hashes = match &part.origin {
        Origin::Ours => json!([]),
        Origin::Registry(sha256) => json!([{"alg": "SHA-256", "content": sha256}]),
    };
    let features = part.features.iter().map(|name| json!({"name": "cargo:feature", "value": name}));
    json!({
        "type": "library",
        "bom-ref": reference,
        "name": key.name,
        "version": key.version,
        "hashes": hashes,
        "licenses": [{"expression": part.licence}],
        "purl": reference,
        "externalReferences": vcs(part.repository.as_deref()),
        "properties": features.collect::<Vec<Value>>(),
    })
}

fn library(library: &Library) -> Value {
    let reference = library_reference(library);
    json!({
        "type": "library",
        "bom-ref": reference,
        "name": library.name,
        "version": library.version,
        "licenses": [{"expression": library.licence}],
        "purl": reference,
        "externalReferences": vcs(Some(library.sources)),
    })
}

/// A package URL; it is the name within the bill, too.
fn reference(key: &CrateKey, part: &Crate, revision: &str) -> String {
    let CrateKey { name, version } = key;
    match part.origin {
        Origin::Ours => format!("pkg:github/portico-proxy/portico@{revision}#{name}"),
        // A package URL takes a plus for a space.
        Origin::Registry(_) => format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")),
    }
}

fn library_reference(Library { name, version, .. }: &Library) -> String {
    format!("pkg:generic/{name}@{version}")
}

fn vcs(repository: Option<&str>) -> Value {
    repository.map_or_else(|| json!([]), |url| json!([{"type": "vcs", "url": url}]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bills::crates::tests::sample;

    fn made() -> Value {
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
    fn the_program_is_described_and_is_no_component_of_itself() {
        let bill = made();
        let program = &bill["metadata"]["component"];
        assert_eq!(program["name"], "portico");
        assert_eq!(program["hashes"][0]["content"], "cc");
        assert_eq!(program["bom-ref"], "pkg:github/portico-proxy/portico@abc#ours");
        let names: Vec<&Value> =
            bill["components"].as_array().unwrap().iter().map(|part| &part["name"]).collect();
        assert_eq!(names, ["good", "low", "glibc"]);
    }

    #[test]
    fn what_was_fetched_is_named_as_the_registry_names_it_and_hashed() {
        let good = &made()["components"][0];
        assert_eq!(good["purl"], "pkg:cargo/good@1.0.0%2Ba");
        assert_eq!(good["hashes"], json!([{"alg": "SHA-256", "content": "aa"}]));
        assert_eq!(good["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
    }

    #[test]
    fn the_program_depends_on_its_crates_and_on_what_the_machine_brings() {
        let bill = made();
        let edges = bill["dependencies"].as_array().unwrap();
        let of = |name: &str| edges.iter().find(|edge| edge["ref"].as_str().unwrap().contains(name)).unwrap();
        let all = ["pkg:cargo/good@1.0.0%2Ba", "pkg:cargo/low@2.0.0", "pkg:generic/glibc@2.36"];
        assert_eq!(of("#ours")["dependsOn"], json!(all));
        assert_eq!(of("good")["dependsOn"], json!(["pkg:cargo/low@2.0.0"]));
        assert_eq!(of("glibc")["dependsOn"], json!([]));
    }
}
