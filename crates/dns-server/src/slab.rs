//! `Slab`: values with keys that are never reused.
//!
//! The event queue can hold an event of a source that an earlier event of the same batch removed. A key contains the
//! generation of its slot, so such an event finds nothing, instead of another source in the same slot.

/// The key of a value. As a number it is the data of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) const fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    const fn new(slot: u32, generation: u32) -> Self {
        Self(((generation as u64) << u32::BITS) | slot as u64)
    }

    /// The slot, and its generation.
    const fn parts(self) -> (usize, u32) {
        ((self.0 & u32::MAX as u64) as usize, (self.0 >> u32::BITS) as u32)
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by key.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds a value.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        if let Some(slot) = self.free.pop()
            && let Some(entry) = self.slots.get_mut(slot as usize)
        {
            entry.value = Some(value);
            return Key::new(slot, entry.generation);
        }
        let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Key::new(slot, 0)
    }

    /// Returns a value, unless it was removed.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (slot, generation) = key.parts();
        let entry = self.slots.get_mut(slot).filter(|entry| entry.generation == generation)?;
        entry.value.as_mut()
    }

    /// Returns a value, unless it was removed.
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let (slot, generation) = key.parts();
        self.slots.get(slot).filter(|entry| entry.generation == generation)?.value.as_ref()
    }

    /// Removes and returns a value, unless it was removed before.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let (slot, generation) = key.parts();
        let entry = self.slots.get_mut(slot).filter(|entry| entry.generation == generation)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot as u32);
        Some(value)
    }

    /// Returns the values with their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        let entries = self.slots.iter().enumerate();
        entries.filter_map(|(slot, entry)| {
            Some((Key::new(slot as u32, entry.generation), entry.value.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_of_a_removed_value_does_not_find_the_next_value_in_its_slot() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!((slab.get(first), slab.get(second), slab.len()), (None, Some(&'b'), 1));
        assert_eq!(slab.remove(first), None, "a stale key removes nothing");
        assert_eq!(slab.iter().map(|(key, value)| (key, *value)).collect::<Vec<_>>(), [(second, 'b')]);
    }
}
