//! `BucketMap`: a persistent hash table, for indexes with ten thousands of small entries.
//!
//! It has a fixed directory of 64 x 64 buckets, each of which is a slice of entries. A clone shares the directory, and an
//! update copies one bucket and its path. The persistent maps of `rpds` allocate two nodes for each entry, about 100
//! bytes: four times the size of an entry of the reverse index. Here an entry costs its own size.

use std::sync::Arc;

const FAN_OUT: usize = 64;

type Bucket<T> = Option<Arc<[T]>>;
type Branch<T> = [Bucket<T>; FAN_OUT];

/// Entries in buckets by their hash.
#[derive(Debug)]
pub(crate) struct BucketMap<T> {
    branches: Arc<[Option<Arc<Branch<T>>>; FAN_OUT]>,
}

impl<T> Clone for BucketMap<T> {
    fn clone(&self) -> Self {
        Self { branches: self.branches.clone() }
    }
}

impl<T> Default for BucketMap<T> {
    fn default() -> Self {
        Self { branches: Arc::new([const { None }; FAN_OUT]) }
    }
}

/// Returns the positions of a hash in the directory, from its 12 highest bits.
fn position(hash: u64) -> (usize, usize) {
    let at = |shift: u32| usize::try_from(hash >> shift).unwrap_or(0) % FAN_OUT;
    (at(58), at(52))
}

impl<T: Clone> BucketMap<T> {
    /// Returns the entries with this hash, among others.
    pub(crate) fn bucket(&self, hash: u64) -> &[T] {
        let (branch, bucket) = position(hash);
        self.branches[branch].as_ref().and_then(|branch| branch[bucket].as_deref()).unwrap_or_default()
    }

    /// Changes the entries in the bucket of this hash.
    pub(crate) fn update(&mut self, hash: u64, change: impl FnOnce(&mut Vec<T>)) {
        let (branch, bucket) = position(hash);
        let branch = Arc::make_mut(&mut self.branches)[branch]
            .get_or_insert_with(|| Arc::new([const { None }; FAN_OUT]));
        let bucket = &mut Arc::make_mut(branch)[bucket];
        let mut entries = bucket.as_deref().unwrap_or_default().to_vec();
        change(&mut entries);
        *bucket = (!entries.is_empty()).then(|| entries.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn entries_are_found_in_the_bucket_of_their_hash() {
        let mut map = BucketMap::default();
        (0..20_000_u64).for_each(|number| map.update(hash(number), |bucket| bucket.push(number)));
        assert!((0..20_000).all(|number| map.bucket(hash(number)).contains(&number)));
        assert!(map.bucket(hash(7)).len() < 100);
        map.update(hash(7), |bucket| bucket.retain(|number| *number != 7));
        assert!(!map.bucket(hash(7)).contains(&7));
    }

    #[test]
    fn clone_does_not_change_with_the_original() {
        let mut map = BucketMap::default();
        map.update(hash(1), |bucket| bucket.push(1));
        let old = map.clone();
        map.update(hash(1), Vec::clear);
        assert_eq!((old.bucket(hash(1)), map.bucket(hash(1))), (&[1][..], &[][..]));
    }
}
