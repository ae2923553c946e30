//! The rule for the groups of proxy-core: a group uses only the groups below it.
//!
//! Each top-level module of the crate is a group. A file names other groups by paths that begin with `crate::`, so the
//! rule reads those. Tests may use any group.

use crate::repository::File;
use crate::source::code_only;

const CORE: &str = "proxy-core/src/";

/// Each group, and the groups that it may use.
const GROUPS: [(&str, &[&str]); 6] = [
    ("env", &["model"]),
    ("inspect", &["model", "routing", "ruleset"]),
    ("model", &[]),
    ("render", &["model", "routing", "ruleset"]),
    ("routing", &["model"]),
    ("ruleset", &["model", "routing"]),
];

/// Returns the uses of groups that are not below that of the file.
pub(crate) fn upward(file: &File) -> Vec<String> {
    let Some(path) = file.path.strip_prefix(CORE) else { return Vec::new() };
    let mut parts = path.split('/').map(|part| part.trim_end_matches(".rs"));
    let group = parts.next().unwrap_or_default();
    let Some((_, below)) = GROUPS.iter().find(|(name, _)| *name == group) else { return Vec::new() };
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
        assert_eq!(upward(&File::sample(path, text)), found(path));
        assert_eq!(upward(&File::sample("proxy-core/src/routing/portal/tests.rs", text)), [""; 0]);
        assert_eq!(upward(&File::sample("proxy-core/src/sample.rs", text)), [""; 0]);
        assert_eq!(upward(&File::sample("relay/src/routing.rs", text)), [""; 0]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
        assert_eq!(upward(&File::sample(path, &tests)), [""; 0]);
    }
}
