//! `Stalls`: the connections of which one end takes nothing while the other goes on, and what they hold.
//!
//! Their socket buffers are full for as long as that lasts, which is what a client and a backend can do to fill the
//! memory of this process. Where all together hold too much, the oldest of the pod that holds the most is broken off. What
//! must not go in here: when a connection stalls.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netns_nft::NetnsId;
use tokio::sync::Notify;

use crate::lock::lock;

/// A reader that is slow takes something within this time; who is younger is broken off only beyond the double bound.
const SLOW: Duration = Duration::from_secs(1);

/// All connections that are stalled.
#[derive(Debug)]
pub(crate) struct Stalls {
    bytes_max: usize,
    held: Mutex<Held>,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    bytes: usize,
    pods: HashMap<NetnsId, usize>,
    /// In the order in which they stalled.
    stalls: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    netns: NetnsId,
    bytes: usize,
    since: Instant,
    evict: Arc<Notify>,
}

/// A connection that is stalled as long as this is there.
#[derive(Debug)]
pub(crate) struct Stall {
    stalls: Arc<Stalls>,
    number: u64,
    evict: Arc<Notify>,
}

impl Stall {
    /// Ends when the connection has to be broken off.
    pub(crate) async fn evicted(&self) {
        self.evict.notified().await;
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        lock(&self.stalls.held).remove(self.number);
    }
}

impl Held {
    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.stalls.remove(&number)?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if let Some(bytes) = self.pods.get_mut(&entry.netns) {
            *bytes = bytes.saturating_sub(entry.bytes);
            if *bytes == 0 {
                self.pods.remove(&entry.netns);
            }
        }
        Some(entry)
    }

    /// The oldest of the pod that holds the most.
    fn heaviest(&self) -> Option<(u64, Instant)> {
        let (netns, _) = self.pods.iter().max_by_key(|(_, bytes)| **bytes)?;
        let of_pod = self.stalls.iter().find(|(_, entry)| entry.netns == *netns);
        of_pod.map(|(number, entry)| (*number, entry.since))
    }
}

impl Stalls {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, held: Mutex::default(), evicted: AtomicU64::default() }
    }

    /// A connection of this pod has stalled, and holds so many bytes.
    pub(crate) fn enter(self: &Arc<Self>, netns: NetnsId, bytes: usize, now: Instant) -> Stall {
        let evict = Arc::<Notify>::default();
        let mut held = lock(&self.held);
        let number = held.next;
        held.next += 1;
        held.bytes += bytes;
        *held.pods.entry(netns).or_default() += bytes;
        held.stalls.insert(number, Entry { netns, bytes, since: now, evict: Arc::clone(&evict) });
        self.relieve(&mut held, now);
        Stall { stalls: Arc::clone(self), number, evict }
    }

    /// Breaks off what is too much by now.
    pub(crate) fn tidy(&self, now: Instant) {
        self.relieve(&mut lock(&self.held), now);
    }

    fn relieve(&self, held: &mut Held, now: Instant) {
        while held.bytes > self.bytes_max {
            let Some((number, since)) = held.heaviest() else { return };
            let is_slow_only = now.saturating_duration_since(since) < SLOW;
            if is_slow_only && held.bytes <= self.bytes_max.saturating_mul(2) {
                return;
            }
            if let Some(entry) = held.remove(number) {
                entry.evict.notify_one();
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many were broken off.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: NetnsId = NetnsId { dev: 0, inode: 1, cookie: 1 };
    const OTHER: NetnsId = NetnsId { dev: 0, inode: 2, cookie: 2 };

    fn is_evicted(stall: &Stall) -> bool {
        !lock(&stall.stalls.held).stalls.contains_key(&stall.number)
    }

    #[test]
    fn beyond_the_bound_the_oldest_of_the_heaviest_pod_is_broken_off() {
        let (stalls, begun) = (Arc::new(Stalls::new(100)), Instant::now());
        let late = begun + SLOW;
        let other = stalls.enter(OTHER, 40, begun);
        let first = stalls.enter(POD, 30, begun);
        let second = stalls.enter(POD, 30, begun);
        assert_eq!(stalls.evicted(), 0);
        let third = stalls.enter(POD, 30, late);
        let evicted = [&other, &first, &second, &third].map(is_evicted);
        assert_eq!((evicted, stalls.evicted()), ([false, true, false, false], 1));
    }

    #[test]
    fn who_is_slow_for_a_moment_is_broken_off_only_beyond_the_double_bound() {
        let (stalls, begun) = (Arc::new(Stalls::new(100)), Instant::now());
        let first = stalls.enter(POD, 150, begun);
        assert!(!is_evicted(&first));
        let second = stalls.enter(POD, 60, begun);
        assert!(is_evicted(&first) && !is_evicted(&second));
        stalls.tidy(begun + SLOW);
        assert!(!is_evicted(&second));
    }

    #[test]
    fn who_goes_on_holds_nothing() {
        let (stalls, begun) = (Arc::new(Stalls::new(100)), Instant::now());
        for _ in 0..10 {
            drop(stalls.enter(POD, 90, begun));
        }
        let held = lock(&stalls.held);
        assert_eq!((held.bytes, held.pods.len(), held.stalls.len()), (0, 0, 0));
    }
}
