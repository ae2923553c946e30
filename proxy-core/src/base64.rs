//! Base64 (RFC 4648, with padding), as Go reads and writes bytes in JSON.
//!
//! Few lines are less than a dependency of the core. What must not go in here: decoding; nobody sends us any.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// So many bytes are a group, which is text of its own.
const GROUP_LEN: usize = 3;

/// Appends these bytes as text.
pub fn encode(bytes: &[u8], text: &mut Vec<u8>) {
    text.reserve(bytes.len().div_ceil(GROUP_LEN) * 4);
    let (whole, rest) = bytes.as_chunks();
    text.extend(whole.iter().flat_map(|group| four(*group)));
    if !rest.is_empty() {
        let byte = |index: usize| rest.get(index).copied().unwrap_or_default();
        let mut last = four([byte(0), byte(1), byte(2)]);
        last[rest.len() + 1..].fill(b'=');
        text.extend_from_slice(&last);
    }
}

/// Appends spaces, which mean nothing in JSON, up to whole groups: what follows can be encoded by itself.
pub fn fill_up(json: &mut Vec<u8>) {
    json.resize(json.len().next_multiple_of(GROUP_LEN), b' ');
}

/// Three bytes as four characters.
fn four([first, second, third]: [u8; GROUP_LEN]) -> [u8; 4] {
    let bits = u32::from(first) << 16 | u32::from(second) << 8 | u32::from(third);
    [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift) as usize & 0x3f])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bytes: &[u8]) -> String {
        let mut text = Vec::new();
        encode(bytes, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_vectors_of_the_standard_hold() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, text) in vectors {
            assert_eq!(encoded(plain.as_bytes()), text);
        }
        assert_eq!(encoded(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn what_is_filled_up_is_encoded_by_itself() {
        for len in 0..10 {
            let mut json = b"123456789"[..len.min(9)].to_vec();
            fill_up(&mut json);
            assert_eq!([encoded(&json), encoded(b"[]")].concat(), encoded(&[&json[..], b"[]"].concat()));
        }
    }
}
