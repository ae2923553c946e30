//! Each scheduler against its definition.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

fn backends(count: u8) -> Vec<SocketAddr> {
    (1..=count).map(|last| SocketAddr::from(([10, 1, 0, last], 8080))).collect()
}

fn input() -> ScheduleInput {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    ScheduleInput { next: 0, draw: 0, source: any, destination: any }
}

fn idle(_: &SocketAddr) -> Option<Load> {
    Some(Load::default())
}

#[test]
fn round_robin_selects_each_once_and_skips_unavailable_ones() {
    let backends = backends(3);
    let from = |next| Scheduler::RoundRobin.select(&backends, idle, ScheduleInput { next, ..input() });
    assert_eq!([0, 1, 2, 3].map(from), [Some(0), Some(1), Some(2), Some(0)]);
    let without_second = |backend: &SocketAddr| (*backend != backends[1]).then(Load::default);
    let from =
        |next| Scheduler::RoundRobin.select(&backends, without_second, ScheduleInput { next, ..input() });
    assert_eq!([0, 1, 2].map(from), [Some(0), Some(2), Some(2)]);
}

#[test]
fn random_selects_each_with_equal_probability() {
    let (backends, mut seen) = (backends(3), BTreeMap::new());
    for draw in 0..300 {
        let place = Scheduler::Random.select(&backends, idle, ScheduleInput { draw, ..input() });
        *seen.entry(place).or_insert(0) += 1;
    }
    assert_eq!(seen, BTreeMap::from([(Some(0), 100), (Some(1), 100), (Some(2), 100)]));
}

#[test]
fn least_connection_selects_the_next_of_equal_backends() {
    let backends = backends(4);
    let connections = |counts: [u32; 4]| {
        move |backend: &SocketAddr| {
            let IpAddr::V4(address) = backend.ip() else { unreachable!("all are IPv4") };
            let connections = counts[usize::from(address.octets()[3]) - 1];
            Some(Load { connections, delay_us: 1 })
        }
    };
    let choice = |counts, next| {
        Scheduler::LeastConnection.select(&backends, connections(counts), ScheduleInput { next, ..input() })
    };
    assert_eq!(choice([3, 1, 2, 1], 0), Some(1));
    assert_eq!(choice([3, 1, 2, 1], 2), Some(3));
    assert_eq!(choice([0, 1, 2, 1], 2), Some(0));
}

#[test]
fn shortest_expected_delay_weighs_connections_with_response_time() {
    let backends = backends(2);
    let choice = |scheduler: Scheduler, fast, slow| {
        let load = |backend: &SocketAddr| {
            let is_fast = *backend == backends[0];
            let (connections, delay_us) = if is_fast { (fast, 100) } else { (slow, 1_000) };
            Some(Load { connections, delay_us })
        };
        scheduler.select(&backends, load, input())
    };
    // The slow one is ten times as slow: it is worth waiting behind nine at the fast one.
    assert_eq!(choice(Scheduler::ShortestExpectedDelay, 8, 0), Some(0));
    assert_eq!(choice(Scheduler::ShortestExpectedDelay, 10, 0), Some(1));
    // Never queue where one is idle, however slow.
    assert_eq!(choice(Scheduler::NeverQueue, 1, 0), Some(1));
    assert_eq!(choice(Scheduler::NeverQueue, 8, 1), Some(0));
}

#[test]
fn backend_without_a_measurement_is_preferred() {
    let backends = backends(2);
    let load = |backend: &SocketAddr| {
        Some(Load { connections: 5, delay_us: if *backend == backends[1] { 0 } else { 1 } })
    };
    assert_eq!(Scheduler::ShortestExpectedDelay.select(&backends, load, input()), Some(1));
}

#[test]
fn silent_backend_does_not_get_every_connection() {
    let (backends, mut counts) = (backends(2), [0; 2]);
    for _ in 0..100 {
        let load = |backend: &SocketAddr| {
            let place = usize::from(*backend == backends[1]);
            Some(Load { connections: counts[place], delay_us: [700, 0][place] })
        };
        let place = Scheduler::ShortestExpectedDelay.select(&backends, load, input()).expect("one of two");
        counts[place] += 1;
    }
    assert_eq!(counts, [50, 50]);
}

#[test]
fn nothing_is_selected_if_no_backend_is_available() {
    for scheduler in Scheduler::ALL {
        assert_eq!(scheduler.select(&backends(3), |_| None, input()), None, "{scheduler:?}");
        assert_eq!(scheduler.select(&[], idle, input()), None, "{scheduler:?}");
    }
}

proptest! {
    #[test]
    fn hashing_moves_only_addresses_of_a_removed_backend(gone in 0_usize..5) {
        let backends = backends(5);
        let without = |backend: &SocketAddr| (*backend != backends[gone]).then(Load::default);
        for scheduler in [Scheduler::SourceHashing, Scheduler::DestinationHashing] {
            let mut seen = BTreeSet::new();
            for last in 0..=255 {
                let address = IpAddr::V4(Ipv4Addr::new(10, 9, 0, last));
                let input = ScheduleInput { source: address, destination: address, next: usize::from(last), draw: last.into() };
                let before = scheduler.select(&backends, idle, input).expect("all are to be had");
                let after = scheduler.select(&backends, without, input).expect("four are to be had");
                seen.insert(before);
                prop_assert_ne!(after, gone);
                prop_assert!(before == gone || before == after, "{} moved", address);
            }
            prop_assert_eq!(seen.len(), 5);
        }
    }
}
