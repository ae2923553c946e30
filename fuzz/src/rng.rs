//! `Rng`: pseudo-random numbers from a seed (SplitMix64).
//!
//! The fuzzer passes a seed to each mutation, and the same seed must give the same mutation.

/// A pseudo-random number generator.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    /// Creates a generator from a seed.
    #[must_use]
    pub fn new(seed: u32) -> Self {
        Self(seed.into())
    }

    /// Returns a number below `end`, or 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let number = usize::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default();
        number.checked_rem(end).unwrap_or_default()
    }

    /// Returns one of the elements, or `None` if there are none.
    pub fn choose<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}
