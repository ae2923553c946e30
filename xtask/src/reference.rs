//! The pages of docs/reference as Markdown, from what the programs themselves say.
//!
//! Tests of each program hold its pages to the code, and `scripts/bless` writes them anew; so no shipped program links
//! this. What must not go in here: a word about services, or a file.

mod commands;
mod metrics;
mod values;

pub use commands::commands;
pub use metrics::metrics;
pub use values::values;

/// A whole page.
#[must_use]
pub fn page(title: &str, about: &str, body: &str) -> String {
    format!(
        "<!-- Generated from the code by a test; `cargo xtask goldens reference` updates it. -->\n\n# {title}\n\n{about}\n\n{}\n",
        body.trim_end()
    )
}

/// A table; none where there is no row.
#[must_use]
pub fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let rule = "---|".repeat(columns.len());
    let mut text = format!("| {} |\n|{rule}\n", columns.join(" | "));
    for row in rows {
        text.push('|');
        for cell in row {
            let cell = cell.trim().replace('|', "\\|");
            text += &if cell.is_empty() { " |".to_owned() } else { format!(" {cell} |") };
        }
        text.push('\n');
    }
    text
}

/// As code; nothing stays nothing.
#[must_use]
pub fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// With a capital letter at the beginning and a full stop at the end.
fn sentence(text: &str) -> String {
    let mut letters = text.trim().chars();
    let Some(first) = letters.next() else { return String::new() };
    let stop = if text.trim_end().ends_with(['.', ':']) { "" } else { "." };
    format!("{}{}{stop}", first.to_uppercase(), letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_never_breaks_its_row() {
        let rows = [vec!["`a|b`".to_owned(), String::new()]];
        assert_eq!(table(&["x", "y"], &rows), "| x | y |\n|---|---|\n| `a\\|b` | |\n");
        assert_eq!(table(&["x"], &[]), "");
    }

    #[test]
    fn a_help_text_becomes_a_sentence() {
        assert_eq!(sentence("how many"), "How many.");
        assert_eq!(sentence("How many."), "How many.");
        assert_eq!(sentence(""), "");
    }
}
