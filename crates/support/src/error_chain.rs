//! Errors with all of their causes.
//!
//! An error type prints its own context and leaves its cause to `source()`; the code that prints the error appends the
//! causes. Some libraries also print the cause themselves: a text that was printed already is not repeated.

use std::error::Error;

/// Iterates over an error and its causes, outermost first.
pub fn error_chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// Returns an error in one line: each cause follows after a colon, unless the line contains its text already.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for error in error_chain(error) {
        let text = error.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, Option<Box<Outer>>);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    fn chain(texts: &[&'static str]) -> Outer {
        let (first, rest) = texts.split_first().expect("an error has a text");
        Outer(first, (!rest.is_empty()).then(|| Box::new(chain(rest))))
    }

    #[test]
    fn causes_follow_after_a_colon() {
        let error = chain(&["failed to start relay", "failed to listen on port 1", "address in use"]);
        assert_eq!(with_causes(&error), "failed to start relay: failed to listen on port 1: address in use");
        assert_eq!(error_chain(&error).count(), 3);
    }

    #[test]
    fn cause_that_the_outer_error_prints_is_not_repeated() {
        let error = chain(&["request failed: connection refused", "connection refused", "os error 111"]);
        assert_eq!(with_causes(&error), "request failed: connection refused: os error 111");
    }

    #[test]
    fn error_without_cause_is_its_own_text() {
        assert_eq!(with_causes(&io::Error::other("disk full")), "disk full");
    }
}
