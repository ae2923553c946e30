//! The names that a value refers to as `$(NAME)`.
//!
//! The kubelet's grammar (third_party/forked/golang/expansion/expand.go): `$$` is a dollar, an unclosed `$(` refers to
//! nothing, and a dollar before any other character is skipped together with it.

/// Returns the names that `text` refers to.
pub(super) fn references(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let dollar = rest.find('$')?;
            let after = rest.get(dollar + 1..)?;
            let end = after.strip_prefix('(').and_then(|name| name.find(')'));
            // The character after a dollar is consumed with it, even if it is a dollar.
            rest = match end {
                Some(end) => &after[end + 2..],
                None => after.get(after.chars().next()?.len_utf8()..)?,
            };
            if let Some(end) = end {
                return Some(&after[1..=end]);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_parentheses_after_a_single_dollar_are_references() {
        let found = |text| references(text).collect::<Vec<_>>();
        assert_eq!(found("redis://$(HOST):$(PORT)/"), ["HOST", "PORT"]);
        assert_eq!(found("$$(NO)$$$(YES)$ä$(ALSO)$a$(A)"), ["YES", "ALSO", "A"]);
        assert_eq!(found("$()$(a$(b)"), ["", "a$(b"]);
        for none in ["", "$", "$(", "$(X", "${X}", "$X", "$$", "a$"] {
            assert_eq!(found(none), [""; 0], "{none}");
        }
    }
}
