//! Digests: numbers that follow from a value alone, the same in every program, run and version.
//!
//! They stand in kernels and in the memory of network namespaces that outlive a program, so the standard
//! library's hashes, which promise nothing from one version to the next, will not do. Nothing here resists
//! someone who looks for collisions: whoever uses a digest says what happens when two are the same.

use std::fmt::{self, Display, Write};

/// The digest of a value's text (FNV-1a).
#[must_use]
pub fn digest(value: impl Display) -> u64 {
    let mut fnv = Fnv::default();
    // Writing into a number does not fail.
    let _ = write!(fnv, "{value}");
    fnv.0
}

/// The digest of bytes (FNV-1a). Each step is a bijection, so a single changed byte always changes the digest.
#[must_use]
pub fn digest_bytes(bytes: &[u8]) -> u64 {
    let mut fnv = Fnv::default();
    fnv.update(bytes);
    fnv.0
}

struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn update(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    }
}

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.update(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_fnv_1a_however_the_text_is_written() {
        assert_eq!(digest(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(digest("foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(digest(format_args!("{}{}", "foo", "bar")), digest("foobar"));
        assert_eq!(digest_bytes(b"foobar"), digest("foobar"));
    }
}
