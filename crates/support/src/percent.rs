//! Percent-encoding (RFC 3986, section 2.1): bytes that are not allowed at a place become `%XX`.
//!
//! The encoding is injective if `%` is not among the allowed bytes: two texts never have the same result.

use std::fmt::Write;

/// Replaces each byte of a text that is not allowed by `%` and two upper-case hexadecimal digits.
#[must_use]
pub fn percent_encode(text: &str, is_allowed: impl Fn(u8) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        // A byte beyond ASCII is a part of a character, and never allowed.
        if byte.is_ascii() && is_allowed(byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Encodes a text as a value in the query of a URL: only the unreserved characters of RFC 3986 stay as they are.
#[must_use]
pub fn percent_encode_query(text: &str) -> String {
    percent_encode(text, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_value_keeps_only_unreserved_characters() {
        assert_eq!(percent_encode_query("aZ09-._~"), "aZ09-._~");
        assert_eq!(percent_encode_query("!a/b,c=d&e f%"), "%21a%2Fb%2Cc%3Dd%26e%20f%25");
    }

    #[test]
    fn characters_beyond_ascii_are_encoded_byte_by_byte() {
        assert_eq!(percent_encode("ü", |_| true), "%C3%BC");
    }

    #[test]
    fn caller_decides_which_bytes_are_allowed() {
        assert_eq!(percent_encode("a~b", |byte| byte.is_ascii_alphanumeric()), "a%7Eb");
        assert_eq!(percent_encode("", |_| false), "");
    }
}
