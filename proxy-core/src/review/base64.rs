//! Base64 (RFC 4648, with padding), as Go reads and writes bytes in JSON.
//!
//! Twenty lines are less than a dependency of the core. What must not go in here: decoding; nobody sends us any.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// These bytes as text.
pub(super) fn encoded(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    let (whole, rest) = bytes.as_chunks();
    for chunk in whole {
        text.extend_from_slice(&four(*chunk));
    }
    if !rest.is_empty() {
        let byte = |index: usize| rest.get(index).copied().unwrap_or_default();
        let mut last = four([byte(0), byte(1), byte(2)]);
        last[rest.len() + 1..].fill(b'=');
        text.extend_from_slice(&last);
    }
    // The alphabet is ASCII.
    String::from_utf8(text).unwrap_or_default()
}

/// Three bytes as four characters.
fn four([first, second, third]: [u8; 3]) -> [u8; 4] {
    let bits = u32::from(first) << 16 | u32::from(second) << 8 | u32::from(third);
    [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift) as usize & 0x3f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_standard_hold() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, text) in vectors {
            assert_eq!(encoded(plain.as_bytes()), text);
        }
        assert_eq!(encoded(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}
