//! `Stalls`: the connections whose receiver does not read while the sender goes on, and the memory that they hold.
//!
//! The socket buffers of a stalled connection are full. Clients and backends could exhaust the memory of this process
//! in this way. If stalled connections exceed the limit together, `Stalls` evicts the oldest one of the pod that
//! holds the most bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netns_nft::NetnsId;
use support::lock;
use tokio::sync::Notify;

/// The time within which a slow receiver reads something. A connection that stalls for less is evicted only beyond
/// twice the limit.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// All stalled connections, and their limit.
#[derive(Debug)]
pub(crate) struct Stalls {
    bytes_max: usize,
    table: Mutex<StallTable>,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct StallTable {
    next_id: u64,
    bytes: usize,
    bytes_by_pod: HashMap<NetnsId, usize>,
    /// By ID, which is the order in which they stalled.
    connections: BTreeMap<u64, StalledConnection>,
}

#[derive(Debug)]
struct StalledConnection {
    netns: NetnsId,
    bytes: usize,
    since: Instant,
    evict: Arc<Notify>,
}

/// A registered stall, which ends on drop.
#[derive(Debug)]
pub(crate) struct StallGuard {
    stalls: Arc<Stalls>,
    id: u64,
    evict: Arc<Notify>,
}

impl StallGuard {
    /// Waits until the connection must be reset.
    pub(crate) async fn evicted(&self) {
        self.evict.notified().await;
    }
}

impl Drop for StallGuard {
    fn drop(&mut self) {
        lock(&self.stalls.table).remove(self.id);
    }
}

impl StallTable {
    fn remove(&mut self, id: u64) -> Option<StalledConnection> {
        let connection = self.connections.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(connection.bytes);
        if let Some(bytes) = self.bytes_by_pod.get_mut(&connection.netns) {
            *bytes = bytes.saturating_sub(connection.bytes);
            if *bytes == 0 {
                self.bytes_by_pod.remove(&connection.netns);
            }
        }
        Some(connection)
    }

    /// Returns the ID and the start of the oldest stall of the pod that holds the most bytes.
    fn eviction_candidate(&self) -> Option<(u64, Instant)> {
        let (netns, _) = self.bytes_by_pod.iter().max_by_key(|(_, bytes)| **bytes)?;
        let of_pod = self.connections.iter().find(|(_, connection)| connection.netns == *netns);
        of_pod.map(|(id, connection)| (*id, connection.since))
    }
}

impl Stalls {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, table: Mutex::default(), evicted: AtomicU64::default() }
    }

    /// Registers a stalled connection of a pod with the bytes that it holds, and enforces the limit.
    pub(crate) fn register(self: &Arc<Self>, netns: NetnsId, bytes: usize, now: Instant) -> StallGuard {
        let evict = Arc::<Notify>::default();
        let mut table = lock(&self.table);
        let id = table.next_id;
        table.next_id += 1;
        table.bytes += bytes;
        *table.bytes_by_pod.entry(netns).or_default() += bytes;
        let connection = StalledConnection { netns, bytes, since: now, evict: Arc::clone(&evict) };
        table.connections.insert(id, connection);
        self.evict_excess(&mut table, now);
        StallGuard { stalls: Arc::clone(self), id, evict }
    }

    /// Evicts connections beyond the limit whose grace period has ended.
    pub(crate) fn enforce_limit(&self, now: Instant) {
        self.evict_excess(&mut lock(&self.table), now);
    }

    fn evict_excess(&self, table: &mut StallTable, now: Instant) {
        while table.bytes > self.bytes_max {
            let Some((id, since)) = table.eviction_candidate() else { return };
            let is_in_grace_period = now.saturating_duration_since(since) < GRACE_PERIOD;
            if is_in_grace_period && table.bytes <= self.bytes_max.saturating_mul(2) {
                return;
            }
            if let Some(connection) = table.remove(id) {
                connection.evict.notify_one();
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns the number of evicted connections.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: NetnsId = NetnsId { dev: 0, inode: 1, cookie: 1 };
    const OTHER: NetnsId = NetnsId { dev: 0, inode: 2, cookie: 2 };

    fn is_evicted(stall: &StallGuard) -> bool {
        !lock(&stall.stalls.table).connections.contains_key(&stall.id)
    }

    #[test]
    fn excess_evicts_the_oldest_stall_of_the_pod_with_the_most_bytes() {
        let (stalls, start) = (Arc::new(Stalls::new(100)), Instant::now());
        let late = start + GRACE_PERIOD;
        let other = stalls.register(OTHER, 40, start);
        let first = stalls.register(POD, 30, start);
        let second = stalls.register(POD, 30, start);
        assert_eq!(stalls.evicted(), 0);
        let third = stalls.register(POD, 30, late);
        let evicted = [&other, &first, &second, &third].map(is_evicted);
        assert_eq!((evicted, stalls.evicted()), ([false, true, false, false], 1));
    }

    #[test]
    fn stall_in_its_grace_period_is_evicted_only_beyond_twice_the_limit() {
        let (stalls, start) = (Arc::new(Stalls::new(100)), Instant::now());
        let first = stalls.register(POD, 150, start);
        assert!(!is_evicted(&first));
        let second = stalls.register(POD, 60, start);
        assert!(is_evicted(&first) && !is_evicted(&second));
        stalls.enforce_limit(start + GRACE_PERIOD);
        assert!(!is_evicted(&second));
    }

    #[test]
    fn ended_stall_releases_its_bytes() {
        let (stalls, start) = (Arc::new(Stalls::new(100)), Instant::now());
        for _ in 0..10 {
            drop(stalls.register(POD, 90, start));
        }
        let table = lock(&stalls.table);
        assert_eq!((table.bytes, table.bytes_by_pod.len(), table.connections.len()), (0, 0, 0));
    }
}
