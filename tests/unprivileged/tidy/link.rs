//! The rule for links in Markdown pages: the file and the heading exist in this repository.
//!
//! Links to other sites are not checked, because tests do not use the network.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::repository::{File, root};

/// Finds broken links. `pages` are all Markdown files.
pub(crate) fn broken_links(page: &File, pages: &[File]) -> Vec<String> {
    let links =
        prose(&page.text).into_iter().flat_map(|(number, line)| targets(line).map(move |to| (number, to)));
    let here = links.filter(|(_, target)| !target.contains("://") && !target.starts_with("mailto:"));
    let dead = here.filter_map(|(number, target)| {
        let why = problem(page, target, pages)?;
        Some(format!("{}:{number}: ({target}): {why}", page.path))
    });
    dead.collect()
}

fn problem(page: &File, target: &str, pages: &[File]) -> Option<String> {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = if path.is_empty() { PathBuf::from(&page.path) } else { resolve(&page.path, path) };
    let Some(anchor) = anchor else {
        return (!root().join(&path).exists()).then(|| "no such file".to_owned());
    };
    let Some(there) = pages.iter().find(|page| Path::new(&page.path) == path) else {
        return Some("no such page".to_owned());
    };
    (!anchors(&there.text).contains(anchor)).then(|| "no such heading".to_owned())
}

/// Resolves a link of a page to a path from the root.
fn resolve(page: &str, path: &str) -> PathBuf {
    let mut whole = PathBuf::from(page);
    whole.pop();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            Component::Normal(name) => whole.push(name),
            _ => {}
        }
    }
    whole
}

/// Returns the lines outside code blocks, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            found.push((index + 1, line));
        }
    }
    found
}

fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// Returns the anchors that GitHub generates for headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter(|(_, line)| line.starts_with('#'));
    let anchor = |(_, line): (usize, &str)| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept =
            words.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    };
    headings.map(anchor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_link_is_found() {
        let page = File::sample(
            "docs/page.md",
            "# A page: one\n[a](#a-page-one)\n[b](#gone)\n[c](gone.md)\n[d](../Cargo.toml)\n[e](https://x.org/#y)\n```\n[f](gone)\n```\n",
        );
        let found = broken_links(&page, std::slice::from_ref(&page));
        assert_eq!(
            found,
            ["docs/page.md:3: (#gone): no such heading", "docs/page.md:4: (gone.md): no such file"]
        );
    }
}
