//! Renders the pages of docs/reference as Markdown, from the command lines, metrics and values of the programs.
//!
//! Tests of each program compare its pages with the code, and `cargo xtask goldens reference` updates them, so no
//! released program links this. It reads no files, and contains no text about services.

mod commands;
mod metrics;
mod values;

pub use commands::commands;
pub use metrics::metrics;
pub use values::values;

/// Renders a whole page.
#[must_use]
pub fn page(title: &str, about: &str, body: &str) -> String {
    format!(
        "<!-- Generated from the code by a test; `cargo xtask goldens reference` updates it. -->\n\n# {title}\n\n{about}\n\n{}\n",
        body.trim_end()
    )
}

/// Renders a table; without rows, the result is empty.
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

/// Formats text as code; empty text stays empty.
#[must_use]
pub fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// Adds a capital letter at the beginning and a full stop at the end.
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
    fn cell_with_a_bar_does_not_break_its_row() {
        let rows = [vec!["`a|b`".to_owned(), String::new()]];
        assert_eq!(table(&["x", "y"], &rows), "| x | y |\n|---|---|\n| `a\\|b` | |\n");
        assert_eq!(table(&["x"], &[]), "");
    }

    #[test]
    fn help_text_becomes_a_sentence() {
        assert_eq!(sentence("how many"), "How many.");
        assert_eq!(sentence("How many."), "How many.");
        assert_eq!(sentence(""), "");
    }
}
