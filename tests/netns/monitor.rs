//! The monitor of a table: it reports what other processes change, and nothing else.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use netns_nft::{Changes, Monitor, Socket, TableChange, encode, encode_fresh};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proxy_core::plan::plan;
use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::cluster;
use proxy_core::snapshot::Snapshot;
use test_support::namespace::{in_new_netns, load, run};
use test_support::own_process;

/// The name of a pod's table.
const TABLE: &str = "portico";
/// The limit of a notification in milliseconds; it takes less than 1 ms.
const DEADLINE_MS: u16 = 10_000;
/// The number of transactions that fill the buffer: each takes about 50 kB there.
const TRANSACTIONS: usize = 500;

fn ruleset(services: u32) -> Ruleset {
    let snapshot: Snapshot = cluster(services, 3).collect();
    Ruleset::new(&portals(&snapshot, &NodeContext::default()), Settings::default())
}

fn open() -> (Socket, Monitor) {
    let writer = Socket::open().expect("a socket");
    let monitor = Monitor::open(TABLE, &writer).expect("the monitor");
    (writer, monitor)
}

fn is_readable(monitor: &Monitor, timeout_ms: u16) -> bool {
    let mut polled = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::from(timeout_ms)).expect("poll") == 1
}

/// The next change, for which the file descriptor becomes readable.
fn next_change(monitor: &mut Monitor) -> TableChange {
    assert!(is_readable(monitor, DEADLINE_MS), "no notification");
    monitor.next_changes().expect("the changes").table
}

/// Reads until no notification is left. Returns the most important change.
fn drain(monitor: &mut Monitor) -> TableChange {
    let mut change = TableChange::None;
    loop {
        let changes = monitor.next_changes().expect("the changes");
        change = change.max(changes.table);
        if changes.is_drained {
            return change;
        }
    }
}

/// Runs `body` in a network namespace, and in a process without large transactions of other tests.
macro_rules! in_own_process {
    ($body:expr) => {
        own_process!(|| in_new_netns($body))
    };
}

#[test]
fn changes_by_other_processes_are_reported() {
    in_own_process!(|| {
        let (writer, mut monitor) = open();
        let fresh = encode_fresh(&ruleset(10));
        for (command, expected) in [
            ("add rule inet portico send counter", TableChange::Changed),
            ("delete element inet portico addresses4 { 10.96.0.1 }", TableChange::Changed),
            ("delete table inet portico", TableChange::Deleted),
            ("flush ruleset", TableChange::Deleted),
            ("delete table inet portico; add table inet portico", TableChange::Deleted),
        ] {
            writer.apply(&fresh).expect("apply");
            load(command);
            assert_eq!(next_change(&mut monitor), expected, "{command}");
            drain(&mut monitor);
        }
    });
}

#[test]
fn own_transactions_and_other_tables_are_not_reported() {
    in_own_process!(|| {
        let (writer, mut monitor) = open();
        let (small, large) = (ruleset(10), ruleset(5_000));
        writer.apply(&encode_fresh(&small)).expect("apply");
        writer.apply(&encode_fresh(&small)).expect("apply");
        assert!(!is_readable(&monitor, 0), "the kernel discards notifications of the writer");
        for _ in 0..10 {
            writer.apply(&encode(&plan(&small, &large))).expect("apply");
            writer.apply(&encode(&plan(&large, &small))).expect("apply");
        }
        assert_eq!(drain(&mut monitor), TableChange::None);
        run("nft", &["add", "table", "ip", TABLE], "");
        run("nft", &["delete", "table", "ip", TABLE], "");
        run("nft", &["add", "table", "inet", "other"], "");
        assert_eq!(next_change(&mut monitor), TableChange::None);
        let next = Socket::open().expect("a socket");
        monitor.set_writer(&next).expect("the next writer");
        next.apply(&encode(&plan(&small, &large))).expect("apply");
        assert_eq!(drain(&mut monitor), TableChange::None, "the next writer");
        writer.apply(&encode(&plan(&ruleset(20), &ruleset(10)))).expect("apply");
        assert_eq!(next_change(&mut monitor), TableChange::Changed, "the old writer is another process");
    });
}

#[test]
fn large_transaction_elsewhere_is_no_change_and_loses_none_after_it() {
    in_own_process!(|| {
        let (writer, mut monitor) = open();
        writer.apply(&encode_fresh(&ruleset(10))).expect("apply");
        in_new_netns(|| {
            Socket::open().and_then(|pod| pod.apply(&encode_fresh(&ruleset(5_000)))).expect("apply");
        });
        assert_eq!(drain(&mut monitor), TableChange::None);
        load("flush ruleset");
        assert_eq!(next_change(&mut monitor), TableChange::Deleted);
    });
}

#[test]
fn change_during_a_large_transaction_is_unknown() {
    in_own_process!(|| {
        let (_writer, mut monitor) = open();
        // No notifications are sent during this transaction, which is not the writer's.
        Socket::open().and_then(|other| other.apply(&encode_fresh(&ruleset(5_000)))).expect("apply");
        assert_eq!(next_change(&mut monitor), TableChange::Unknown);
    });
}

#[test]
fn lost_notifications_are_reported_as_unknown() {
    in_own_process!(|| {
        let (writer, other) = (Socket::open().expect("a socket"), Socket::open().expect("a socket"));
        // Notifications about other tables need room as well, and a lost one may have been about this table.
        let mut monitor = Monitor::open("portico-node", &writer).expect("the monitor");
        let batch = encode_fresh(&ruleset(100));
        for _ in 0..TRANSACTIONS {
            other.apply(&batch).expect("apply");
        }
        let mut changes = Vec::new();
        while changes.last().is_none_or(|last: &Changes| !last.is_drained) {
            changes.push(monitor.next_changes().expect("the changes"));
        }
        assert!(changes.len() > 1, "a call reads a bounded number of notifications");
        let reported: BTreeSet<TableChange> = changes.into_iter().map(|changes| changes.table).collect();
        assert_eq!(reported, [TableChange::None, TableChange::Unknown].into());
    });
}
