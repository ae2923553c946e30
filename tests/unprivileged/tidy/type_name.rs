//! The rule for type names: no public name is used twice in a crate, so that a search for it finds one definition.

use std::collections::BTreeMap;

use super::repository::File;
use super::source::code_only;

const KEYWORDS: [&str; 4] = ["pub struct ", "pub enum ", "pub trait ", "pub type "];

/// Returns the public type names that several sources of one crate define.
pub(crate) fn repeated_names(sources: &[File]) -> Vec<String> {
    let mut places: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
    for source in sources {
        let Some((package, _)) = source.path.split_once("/src/") else { continue };
        for (index, line) in code_only(&source.text).lines().enumerate() {
            let name = KEYWORDS.iter().find_map(|keyword| line.strip_prefix(keyword));
            let name = name.and_then(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next());
            if let Some(name) = name {
                let place = format!("{}:{}", source.path, index + 1);
                places.entry((package, name.to_owned())).or_default().push(place);
            }
        }
    }
    let repeated = places.into_iter().filter(|(_, places)| places.len() > 1);
    repeated.map(|((_, name), places)| format!("{name}: {}", places.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_is_defined_twice_in_a_crate_is_found() {
        let files = [
            File::sample("crates/a/src/lib.rs", "pub struct Store;\npub enum Kind {}\n"),
            File::sample(
                "crates/a/src/b.rs",
                "pub type Store<T> = Vec<T>;\n// pub enum Kind\nstruct Kind;\n",
            ),
            File::sample("crates/c/src/lib.rs", "pub struct Kind;\n"),
        ];
        assert_eq!(repeated_names(&files), ["Store: crates/a/src/lib.rs:1, crates/a/src/b.rs:1"]);
    }
}
