//! The rule for the groups of a crate: a group uses only the groups below it.
//!
//! Each top-level module of these crates is a group. A file names other groups by paths that begin with `crate::`, so
//! the rule reads those. Tests may use any group.

use super::repository::File;
use super::source::code_only;

/// A group, and the groups that it may use.
type Group = (&'static str, &'static [&'static str]);

const CORE: &[Group] = &[
    ("admission", &["env", "model"]),
    ("env", &["model"]),
    ("inspect", &["model", "routing", "ruleset"]),
    ("model", &[]),
    ("render", &["model", "routing", "ruleset"]),
    ("routing", &["model"]),
    ("ruleset", &["model", "routing"]),
];

const KUBE_SOURCE: &[Group] = &[
    ("cluster", &["event", "objects"]),
    ("event", &[]),
    ("files", &["event", "manifests", "objects"]),
    ("manifests", &["objects"]),
    ("objects", &[]),
];

/// The sources of each crate with groups.
const CRATES: [(&str, &[Group]); 2] = [("crates/kube-source/src/", KUBE_SOURCE), ("proxy-core/src/", CORE)];

/// Returns the uses of groups that are not below that of the file.
pub(crate) fn upward_imports(file: &File) -> Vec<String> {
    let in_crate = |(source, groups)| Some((file.path.strip_prefix(source)?, groups));
    let Some((path, groups)) = CRATES.into_iter().find_map(in_crate) else { return Vec::new() };
    let mut parts = path.split('/').map(|part| part.trim_end_matches(".rs"));
    let group = parts.next().unwrap_or_default();
    let Some((_, below)) = groups.iter().find(|(name, _)| *name == group) else { return Vec::new() };
    if parts.any(|part| part == "tests") {
        return Vec::new();
    }
    let code = code_only(&file.text);
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let uses = code.lines().enumerate().flat_map(|(index, line)| {
        let uses = line.match_indices("crate::").map(|(at, prefix)| &line[at + prefix.len()..]);
        uses.map(move |rest| (index + 1, rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()))
    });
    let uses = uses.filter(|(_, used)| used.is_none_or(|used| used != group && !below.contains(&used)));
    uses.map(|(number, used)| format!("{}:{number}: crate::{}", file.path, used.unwrap_or_default()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_of_higher_groups_are_found() {
        let text =
            "use crate::model::node::Node;\nuse crate::{routing, env};\nuse crate::ruleset::plan::plan;\n";
        let found = ["{}:2: crate::", "{}:3: crate::ruleset"];
        let found = |path: &str| found.map(|line| line.replace("{}", path));
        let path = "proxy-core/src/routing/portal.rs";
        assert_eq!(upward_imports(&File::sample(path, text)), found(path));
        assert_eq!(upward_imports(&File::sample("proxy-core/src/routing/portal/tests.rs", text)), [""; 0]);
        assert_eq!(upward_imports(&File::sample("proxy-core/src/sample.rs", text)), [""; 0]);
        assert_eq!(upward_imports(&File::sample("relay/src/routing.rs", text)), [""; 0]);
        let (objects, text) = ("crates/kube-source/src/objects/node.rs", "use crate::manifests::Report;\n");
        assert_eq!(upward_imports(&File::sample(objects, text)), [format!("{objects}:1: crate::manifests")]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
        assert_eq!(upward_imports(&File::sample(objects, &tests)), [""; 0]);
    }
}
