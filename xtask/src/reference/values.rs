//! The values of a chart as tables: one for each group, one row for each value, told by the comments above them.
//!
//! It reads the shape that values.yaml has: two spaces a level, comments above what they explain, an empty line after
//! which a comment does not hold any more. What must not go in here: YAML in general.

use crate::reference::{code, table};

const COLUMNS: [&str; 3] = ["value", "default", "what it says"];

/// The tables of a values.yaml.
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
                let what = std::mem::take(&mut comment).trim().to_owned();
                match (Below::of(&lines[index + 1..], depth), depth) {
                    (Below::Group, 0) => {
                        out += &table(&COLUMNS, &std::mem::take(&mut rows));
                        out += &format!("\n## {name}\n\n");
                        out += &if what.is_empty() { what } else { format!("{what}\n\n") };
                    }
                    (Below::Group, _) if what.is_empty() => {}
                    (Below::Group, _) => rows.push(vec![code(&path.join(".")), String::new(), what]),
                    (Below::Nothing, _) => rows.push(vec![code(&path.join(".")), code(value), what]),
                    (Below::Items, _) => {
                        let items = text
                            .lines()
                            .skip(index + 1)
                            .take_while(|line| line.trim_start().starts_with("- "));
                        let items: Vec<&str> = items.map(str::trim).collect();
                        rows.push(vec![code(&path.join(".")), code(&items.join(" ")), what]);
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

/// What stands below a key.
enum Below {
    Nothing,
    Group,
    Items,
}

impl Below {
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
    fn a_value_is_told_by_the_comment_above_it_and_a_group_by_its_own() {
        let text = "# The name.\nname: \"\"\n\n# A part.\npart:\n  on: true\n  # How\n  # many.\n  deep:\n    count: 2\n  list:\n    - a: b\n";
        let told = values(text);
        for line in [
            "| `name` | `\"\"` | The name. |",
            "## part",
            "A part.",
            "| `part.on` | `true` | |",
            "| `part.deep` | | How many. |",
            "| `part.deep.count` | `2` | |",
            "| `part.list` | `- a: b` | |",
        ] {
            assert!(told.lines().any(|found| found == line), "{line} is not in\n{told}");
        }
    }
}
