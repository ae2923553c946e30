//! Renders the values of a chart: one table for each group, one row for each value, described by the comment above it.
//!
//! This is not a YAML parser. It reads the format of values.yaml: two spaces per level, a comment above the value that
//! it describes, and an empty line that separates a comment from what follows.

use crate::reference::{code, table};

const COLUMNS: [&str; 3] = ["value", "default", "description"];

/// Renders the tables of a values.yaml.
#[must_use]
pub fn values(text: &str) -> String {
    let lines: Vec<Line<'_>> = text.lines().map(Line::read).collect();
    let mut out = String::new();
    let mut rows = Vec::new();
    let mut path: Vec<&str> = Vec::new();
    let mut comment = String::new();
    for (index, line) in lines.iter().enumerate() {
        match *line {
            Line::Empty => comment.clear(),
            Line::Comment(words) => comment = format!("{comment} {words}"),
            Line::Item => {}
            Line::Key { depth, name, value } => {
                path.truncate(depth);
                path.push(name);
                let description = std::mem::take(&mut comment).trim().to_owned();
                match (Section::of(&lines[index + 1..], depth), depth) {
                    (Section::Group, 0) => {
                        out += &table(&COLUMNS, &std::mem::take(&mut rows));
                        out += &format!("\n## {name}\n\n");
                        out +=
                            &if description.is_empty() { description } else { format!("{description}\n\n") };
                    }
                    (Section::Group, _) if description.is_empty() => {}
                    (Section::Group, _) => rows.push(vec![code(&path.join(".")), String::new(), description]),
                    (Section::Nothing, _) => rows.push(vec![code(&path.join(".")), code(value), description]),
                    (Section::Items, _) => {
                        let items = text
                            .lines()
                            .skip(index + 1)
                            .take_while(|line| line.trim_start().starts_with("- "));
                        let items: Vec<&str> = items.map(str::trim).collect();
                        rows.push(vec![code(&path.join(".")), code(&items.join(" ")), description]);
                    }
                }
            }
        }
    }
    out + &table(&COLUMNS, &rows)
}

#[derive(Clone, Copy)]
enum Line<'a> {
    Empty,
    Comment(&'a str),
    Item,
    Key { depth: usize, name: &'a str, value: &'a str },
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Self {
        let bare = line.trim_start();
        if let Some(words) = bare.strip_prefix('#') {
            return Self::Comment(words.trim());
        }
        match bare.split_once(':') {
            _ if bare.is_empty() => Self::Empty,
            _ if bare.starts_with("- ") => Self::Item,
            Some((name, value)) => {
                Self::Key { depth: (line.len() - bare.len()) / 2, name, value: value.trim() }
            }
            None => Self::Empty,
        }
    }
}

/// The content below a key.
enum Section {
    Nothing,
    Group,
    Items,
}

impl Section {
    fn of(lines: &[Line<'_>], above: usize) -> Self {
        let next = lines.iter().find(|line| !matches!(line, Line::Empty | Line::Comment(_)));
        match next {
            Some(Line::Item) => Self::Items,
            Some(Line::Key { depth, .. }) if *depth > above => Self::Group,
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_and_group_are_described_by_the_comment_above() {
        let text = "# The name.\nname: \"\"\n\n# A part.\npart:\n  on: true\n  # How\n  # many.\n  deep:\n    count: 2\n  list:\n    - a: b\n";
        let tables = values(text);
        for line in [
            "| `name` | `\"\"` | The name. |",
            "## part",
            "A part.",
            "| `part.on` | `true` | |",
            "| `part.deep` | | How many. |",
            "| `part.deep.count` | `2` | |",
            "| `part.list` | `- a: b` | |",
        ] {
            assert!(tables.lines().any(|found| found == line), "{line} is not in\n{tables}");
        }
    }
}
