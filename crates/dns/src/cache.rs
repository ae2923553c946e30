//! `Cache`: responses of upstreams, bounded in bytes.
//!
//! A response is stored as one unit under its scope and question; its records never answer other questions. Each entry
//! belongs to the client that caused it. If the cache is full, the client with the most bytes loses its oldest entries
//! first, so a client that asks for random names evicts its own entries and not those of others. An entry that was used
//! since it was last considered is kept once more (second chance).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::counters::Outcome;
use crate::relay::AnswerKind;

/// The longest time for which a positive response is stored.
const POSITIVE_LIFETIME_MAX: Duration = Duration::from_secs(3_600);
/// The longest time for which a negative response is stored.
const NEGATIVE_LIFETIME_MAX: Duration = Duration::from_secs(300);
/// The time after its expiry for which a response can be served if all upstreams fail.
const STALE_LIFETIME: Duration = Duration::from_secs(3_600);
/// The time for which a stale response is served without another attempt (RFC 8767, 5: failure recheck timer).
const STALE_RECHECK: Duration = Duration::from_secs(5);
/// The memory of an entry in addition to its key and message: two map slots, the queue, and the allocations.
const ENTRY_OVERHEAD: usize = 200;
/// An entry is at most this fraction of the cache.
const ENTRY_SHARE: usize = 8;
/// A response that was used more often than this is looked up again
const POPULAR_USES: u32 = 3;
/// in the last tenth of its lifetime.
const LATE_SHARE: u32 = 10;
/// The interval at which expired entries are removed.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// A response in the cache.
#[derive(Debug)]
struct Entry {
    owner: u64,
    upstream: SocketAddr,
    message: Box<[u8]>,
    kind: AnswerKind,
    stored_at: Instant,
    expires_at: Instant,
    /// Until this time the expired response is served without another attempt.
    recheck_at: Option<Instant>,
    was_used: bool,
    /// The number of uses since the entry was stored or looked up again.
    uses: u32,
}

impl Entry {
    fn found(&self, now: Instant) -> Found<'_> {
        let age = now.saturating_duration_since(self.stored_at);
        Found { message: &self.message, kind: self.kind, age, is_due: false }
    }
}

/// The entries that one client caused.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    /// The keys in the order of their insertion.
    queue: VecDeque<Arc<[u8]>>,
}

/// A response to store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storable<'a> {
    pub(crate) upstream: SocketAddr,
    pub(crate) kind: AnswerKind,
    /// The message without an OPT record.
    pub(crate) message: &'a [u8],
    pub(crate) ttl_s: u32,
}

/// A stored response, for an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedAnswer {
    /// The upstream that sent it.
    pub upstream: SocketAddr,
    /// The time since it arrived.
    pub age: Duration,
    /// The time until it expires. Zero: it is served only if all upstreams fail.
    pub remaining: Duration,
    /// What it states.
    pub outcome: Outcome,
}

/// A response that was found.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) message: &'a [u8],
    pub(crate) kind: AnswerKind,
    pub(crate) age: Duration,
    /// The response is popular and expires soon. True once for each entry.
    pub(crate) is_due: bool,
}

/// The responses of one thread.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: HashMap<Arc<[u8]>, Entry>,
    shares: HashMap<u64, Share>,
    by_bytes: BTreeSet<(usize, u64)>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let (entries, shares) = (HashMap::new(), HashMap::new());
        Self { entries, shares, by_bytes: BTreeSet::new(), bytes: 0, bytes_max }
    }

    /// Returns the response for a key, unless it has expired.
    pub(crate) fn get(&mut self, now: Instant, key: &[u8]) -> Option<Found<'_>> {
        let entry = self.entries.get_mut(key).filter(|entry| now < entry.expires_at)?;
        entry.was_used = true;
        entry.uses = entry.uses.saturating_add(1);
        let lifetime = entry.expires_at.saturating_duration_since(entry.stored_at);
        let is_late = entry.expires_at.saturating_duration_since(now) <= lifetime / LATE_SHARE;
        let is_due = is_late && entry.uses > POPULAR_USES && entry.kind == AnswerKind::Positive;
        if is_due {
            entry.uses = 0;
        }
        Some(Found { is_due, ..entry.found(now) })
    }

    /// Describes the response for a key.
    pub(crate) fn describe(&self, now: Instant, key: &[u8]) -> Option<CachedAnswer> {
        let entry = self.entries.get(key)?;
        Some(CachedAnswer {
            upstream: entry.upstream,
            age: now.saturating_duration_since(entry.stored_at),
            remaining: entry.expires_at.saturating_duration_since(now),
            outcome: Outcome::of(&entry.message),
        })
    }

    /// Whether upstreams failed for a key recently.
    pub(crate) fn has_failed(&self, now: Instant, key: &[u8]) -> bool {
        self.entries.get(key).and_then(|entry| entry.recheck_at).is_some_and(|recheck_at| now < recheck_at)
    }

    /// Whether there is an expired response that can be served if all upstreams fail.
    pub(crate) fn has_stale(&self, now: Instant, key: &[u8]) -> bool {
        self.entries.get(key).is_some_and(|entry| is_usable(entry, now))
    }

    /// Whether there is a response, expired or not, that can be served if all upstreams fail.
    fn has_usable(&self, now: Instant, key: &[u8]) -> bool {
        let is_usable =
            |entry: &Entry| entry.kind != AnswerKind::Failure && now < entry.expires_at + STALE_LIFETIME;
        self.entries.get(key).is_some_and(is_usable)
    }

    /// Returns the expired response for a key after all upstreams failed.
    pub(crate) fn stale(&mut self, now: Instant, key: &[u8]) -> Option<Found<'_>> {
        let entry = self.entries.get_mut(key).filter(|entry| is_usable(entry, now))?;
        if entry.recheck_at.is_none_or(|recheck_at| now >= recheck_at) {
            entry.recheck_at = Some(now + STALE_RECHECK);
        }
        entry.was_used = true;
        Some(entry.found(now))
    }

    /// Stores a response under a key, for its lifetime, which the limit for its kind may reduce.
    pub(crate) fn insert(&mut self, now: Instant, owner: u64, key: &[u8], response: Storable<'_>) {
        let Storable { upstream, kind, message, ttl_s } = response;
        let lifetime = Duration::from_secs(u64::from(ttl_s)).min(match kind {
            AnswerKind::Positive => POSITIVE_LIFETIME_MAX,
            AnswerKind::NoData | AnswerKind::NxDomain => NEGATIVE_LIFETIME_MAX,
            AnswerKind::Failure => Duration::from_secs(1),
        });
        // A failure does not replace a response that can still be served.
        let is_worse = kind == AnswerKind::Failure && self.has_usable(now, key);
        let size = key.len() + message.len() + ENTRY_OVERHEAD;
        if lifetime.is_zero() || is_worse || size > self.bytes_max / ENTRY_SHARE {
            return;
        }
        let entry = Entry {
            owner,
            upstream,
            message: message.into(),
            kind,
            stored_at: now,
            expires_at: now + lifetime,
            recheck_at: None,
            was_used: false,
            uses: 0,
        };
        if let Some(old) = self.entries.get_mut(key) {
            // The new entry takes the place of the old one in the queue.
            let (owner, old_size) = (old.owner, key.len() + old.message.len() + ENTRY_OVERHEAD);
            *old = Entry { owner, was_used: true, ..entry };
            self.charge(owner, |bytes| bytes - old_size + size);
        } else {
            let key: Arc<[u8]> = key.into();
            self.entries.insert(Arc::clone(&key), entry);
            self.shares.entry(owner).or_default().queue.push_back(key);
            self.charge(owner, |bytes| bytes + size);
        }
        while self.bytes > self.bytes_max {
            self.evict_one();
        }
    }

    /// Removes the entries of a client.
    pub(crate) fn remove_owner(&mut self, owner: u64) {
        while let Some(key) = self.shares.get_mut(&owner).and_then(|share| share.queue.pop_front()) {
            self.forget(&key);
        }
    }

    /// Removes the entries that cannot be served any more.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let is_dead = |entry: &Entry| now >= entry.expires_at && !is_usable(entry, now);
        let dead: Vec<Arc<[u8]>> =
            self.entries.iter().filter(|(_, entry)| is_dead(entry)).map(|(key, _)| Arc::clone(key)).collect();
        if dead.is_empty() {
            return;
        }
        dead.iter().for_each(|key| self.forget(key));
        let entries = &self.entries;
        for share in self.shares.values_mut() {
            share.queue.retain(|key| entries.contains_key(key));
            share.queue.shrink_to_fit();
        }
    }

    /// Returns the bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Removes an entry that is no longer in the queue.
    fn forget(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            let size = key.len() + entry.message.len() + ENTRY_OVERHEAD;
            self.charge(entry.owner, |bytes| bytes - size);
        }
    }

    /// Removes one entry of the client with the most bytes.
    fn evict_one(&mut self) {
        let Some(&(_, owner)) = self.by_bytes.last() else { return };
        // Each entry is passed over at most once, because that clears its mark.
        while let Some(share) = self.shares.get_mut(&owner) {
            let Some(key) = share.queue.pop_front() else { return };
            match self.entries.get_mut(&key) {
                Some(entry) if entry.was_used => {
                    entry.was_used = false;
                    share.queue.push_back(key);
                }
                _ => return self.forget(&key),
            }
        }
    }

    fn charge(&mut self, owner: u64, change: impl Fn(usize) -> usize) {
        let share = self.shares.entry(owner).or_default();
        self.by_bytes.remove(&(share.bytes, owner));
        self.bytes -= share.bytes;
        share.bytes = change(share.bytes);
        self.bytes += share.bytes;
        if share.bytes == 0 {
            self.shares.remove(&owner);
        } else {
            self.by_bytes.insert((share.bytes, owner));
        }
    }
}

/// Whether an expired response can be served if all upstreams fail.
fn is_usable(entry: &Entry, now: Instant) -> bool {
    entry.kind != AnswerKind::Failure && now >= entry.expires_at && now < entry.expires_at + STALE_LIFETIME
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn storable(kind: AnswerKind, ttl_s: u32) -> Storable<'static> {
        Storable { upstream: "192.0.2.53:53".parse().unwrap(), kind, message: &[0; 100], ttl_s }
    }

    fn insert(cache: &mut Cache, now: Instant, owner: u64, name: &str, ttl_s: u32) {
        cache.insert(now, owner, name.as_bytes(), storable(AnswerKind::Positive, ttl_s));
    }

    #[test]
    fn entry_expires_after_its_ttl_and_is_stale_for_an_hour() {
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        insert(&mut cache, now, 1, "a", 10);
        assert_eq!(cache.get(now + SECOND * 9, b"a").unwrap().age, SECOND * 9);
        assert!(cache.get(now + SECOND * 10, b"a").is_none());
        assert!(cache.stale(now + SECOND * 10, b"a").is_some());
        assert!(cache.has_stale(now + SECOND * 3_609, b"a"));
        assert!(!cache.has_stale(now + SECOND * 3_610, b"a"));
    }

    #[test]
    fn lifetimes_have_a_limit_for_each_kind() {
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        let kinds = [
            (AnswerKind::Positive, 3_600),
            (AnswerKind::NoData, 300),
            (AnswerKind::NxDomain, 300),
            (AnswerKind::Failure, 1),
        ];
        for (kind, seconds) in kinds {
            let key = format!("{kind:?}").into_bytes();
            cache.insert(now, 1, &key, storable(kind, u32::MAX));
            assert!(cache.get(now + SECOND * seconds - SECOND / 2, &key).is_some(), "{kind:?}");
            assert!(cache.get(now + SECOND * seconds, &key).is_none(), "{kind:?}");
        }
    }

    #[test]
    fn failure_does_not_replace_a_stale_response() {
        let (mut cache, now) = (Cache::new(1 << 20), Instant::now());
        insert(&mut cache, now, 1, "a", 10);
        cache.insert(now + SECOND * 11, 1, b"a", storable(AnswerKind::Failure, 1));
        assert!(cache.get(now + SECOND * 11, b"a").is_none());
        assert!(cache.stale(now + SECOND * 11, b"a").is_some());
        assert!(cache.has_failed(now + SECOND * 15, b"a"));
        assert!(!cache.has_failed(now + SECOND * 16, b"a"));
    }

    #[test]
    fn client_with_random_names_does_not_evict_the_entries_of_others() {
        let (mut cache, now) = (Cache::new(64 << 10), Instant::now());
        for name in 0..20 {
            insert(&mut cache, now, 1, &format!("kept{name}"), 60);
        }
        for name in 0..10_000 {
            insert(&mut cache, now, 2, &format!("random{name}"), 60);
        }
        assert!((0..20).all(|name| cache.get(now, format!("kept{name}").as_bytes()).is_some()));
        assert!(cache.bytes() <= 64 << 10 && cache.bytes() > 60 << 10, "{} bytes", cache.bytes());
    }

    #[test]
    fn used_entry_survives_one_round_of_eviction() {
        let (mut cache, now) = (Cache::new(64 << 10), Instant::now());
        insert(&mut cache, now, 1, "used", 60);
        for name in 0..300 {
            cache.get(now, b"used");
            insert(&mut cache, now, 1, &format!("random{name}"), 60);
        }
        assert!(cache.get(now, b"used").is_some());
        assert!(cache.get(now, b"random0").is_none());
    }

    #[test]
    fn nothing_remains_of_removed_and_expired_entries() {
        let (mut cache, now) = (Cache::new(64 << 10), Instant::now());
        for owner in 0..10 {
            (0..5).for_each(|name| insert(&mut cache, now, owner, &format!("{owner}.{name}"), 5));
            (0..5).for_each(|name| insert(&mut cache, now, owner, &format!("{owner}.{name}"), 10));
        }
        assert_eq!((cache.len(), cache.shares[&0].queue.len()), (50, 5));
        cache.remove_owner(0);
        assert_eq!(cache.len(), 45);
        cache.sweep(now + STALE_LIFETIME + SECOND * 9);
        assert_eq!(cache.len(), 45);
        cache.sweep(now + STALE_LIFETIME + SECOND * 10);
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
        assert!(cache.shares.is_empty() && cache.by_bytes.is_empty());
    }
}
