//! Digests: numbers that depend only on a value, and are the same in every program, run and version.
//!
//! They are stored in kernels and files that outlive a program, and the hashes of the standard library can change with
//! its version. A digest is not collision-resistant: the caller must handle two values with the same digest.

use std::fmt::{self, Display, Write};

/// Returns the FNV-1a digest of a value's text.
#[must_use]
pub fn digest(value: impl Display) -> u64 {
    let mut fnv = Fnv::default();
    // `Fnv` never fails.
    let _ = write!(fnv, "{value}");
    fnv.0
}

/// Returns the FNV-1a digest of bytes. Each step is a bijection, so a single changed byte always changes the digest.
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
    fn digest_is_fnv_1a_regardless_of_how_the_text_is_written() {
        assert_eq!(digest(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(digest("foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(digest(format_args!("{}{}", "foo", "bar")), digest("foobar"));
        assert_eq!(digest_bytes(b"foobar"), digest("foobar"));
    }
}
