//! Who goes first under pressure.

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::task::{Context, Waker};

use super::*;

const LIMITS: Limits =
    Limits { connections: 4, connections_of_a_peer: 3, requests: 3, bytes: 100 << 10, large: 2 };

/// Whether a notice was given.
fn told(notice: &Arc<Notify>) -> bool {
    pin!(notice.notified()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn peer(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn connected(state: &mut State, last: u8) -> (u64, Arc<Notify>) {
    state.connect(&LIMITS, peer(last)).expect("a place")
}

fn begun(state: &mut State, connection: u64) -> (u64, Arc<Notify>) {
    state.begin(&LIMITS, connection).expect("a place")
}

#[test]
fn the_peer_with_the_most_connections_loses_the_one_that_is_idle_for_longest() {
    let mut state = State::default();
    let honest = connected(&mut state, 1);
    let first = connected(&mut state, 2);
    let second = connected(&mut state, 2);
    let third = connected(&mut state, 2);
    // One that was used is not the oldest any more.
    let (request, _) = begun(&mut state, first.0);
    assert!(state.arrived(request));
    state.answered(request);
    assert!(state.send(&LIMITS, request, 10));
    state.end(request);
    connected(&mut state, 3);
    assert!(told(&second.1) && !told(&honest.1) && !told(&first.1) && !told(&third.1));
    state.disconnect(second.0);
    // Beyond its share a peer loses one of its own, however many places there are.
    connected(&mut state, 2);
    assert!(told(&third.1) && !told(&first.1));
    assert_eq!(state.connections(), 5);
    state.disconnect(third.0);
    assert_eq!(state.connections(), 4);
}

#[test]
fn a_connection_whose_request_is_being_answered_is_not_closed() {
    let mut state = State::default();
    let connections: Vec<_> = (0..4).map(|last| connected(&mut state, last)).collect();
    let limits = Limits { requests: 10, ..LIMITS };
    for (connection, _) in &connections {
        assert!(state.connections() == 4 && connections.iter().all(|(_, close)| !told(close)));
        let (request, _) = state.begin(&limits, *connection).expect("a place");
        assert!(state.arrived(request));
    }
    assert!(state.connect(&LIMITS, peer(9)).is_none() && !state.close_one());
}

/// A large request that holds so much.
fn large(state: &mut State, connection: u64, bytes: usize) -> (u64, Arc<Notify>) {
    let request = begun(state, connection);
    assert!(
        state.has_turn(&LIMITS, Instant::now(), request.0, bytes) && state.grow(&LIMITS, request.0, bytes)
    );
    request
}

#[test]
fn the_peer_that_holds_the_most_bytes_loses_its_oldest_incomplete_request() {
    let mut state = State::default();
    let (honest, _) = connected(&mut state, 1);
    let (hostile, _) = connected(&mut state, 2);
    let few = large(&mut state, honest, 40 << 10);
    let many = large(&mut state, hostile, 60 << 10);
    // Nothing is taken before it has been given back.
    assert!(!state.grow(&LIMITS, few.0, 20 << 10));
    assert!(told(&many.1) && !told(&few.1));
    assert!(!state.arrived(many.0));
    state.end(many.0);
    assert!(state.grow(&LIMITS, few.0, 20 << 10) && state.arrived(few.0));
    assert_eq!(state.bytes(), 60 << 10);
}

#[test]
fn a_small_request_has_room_whatever_large_ones_hold() {
    let mut state = State::default();
    let (connection, _) = connected(&mut state, 1);
    let all = large(&mut state, connection, LIMITS.bytes);
    let small = begun(&mut state, connection);
    assert!(state.has_turn(&LIMITS, Instant::now(), small.0, 10_000) && state.grow(&LIMITS, small.0, 10_000));
    assert!(told(&all.1) && !told(&small.1));
}

#[test]
fn an_answer_that_is_not_taken_goes_with_its_connection_and_one_that_is_being_made_stays() {
    let mut state = State::default();
    let (connection, close) = connected(&mut state, 1);
    let made = large(&mut state, connection, 40 << 10).0;
    let (sent, _) = begun(&mut state, connection);
    assert!(state.arrived(made) && state.arrived(sent));
    state.answered(sent);
    assert!(state.send(&LIMITS, sent, 60 << 10) && !told(&close));
    state.answered(made);
    assert!(!state.send(&LIMITS, made, 60 << 10));
    assert!(told(&close));
    state.end(sent);
    assert!(state.send(&LIMITS, made, 60 << 10));
    assert_eq!(state.bytes(), 60 << 10);
}

#[test]
fn beyond_the_number_of_requests_the_oldest_that_waits_for_its_client_is_evicted() {
    let mut state = State::default();
    let (connection, _) = connected(&mut state, 1);
    let requests: Vec<_> = (0..3).map(|_| begun(&mut state, connection)).collect();
    assert!(state.arrived(requests[0].0));
    begun(&mut state, connection);
    assert!(!told(&requests[0].1) && told(&requests[1].1) && !told(&requests[2].1));
    assert!(state.arrived(requests[2].0));
    state.end(requests[1].0);
}

#[test]
fn large_requests_take_turns_and_one_that_comes_slowly_gives_way() {
    const LARGE: usize = 1 << 20;
    let limits = Limits { bytes: 100 << 20, ..LIMITS };
    let (mut state, began) = (State::default(), Instant::now());
    let (connection, _) = connected(&mut state, 1);
    let requests: Vec<_> = (0..3).map(|_| begun(&mut state, connection)).collect();
    let [fast, slow, waiting] = [0, 1, 2].map(|index: usize| requests[index].0);
    let mut grow = |now, id, bytes| state.has_turn(&limits, now, id, bytes) && state.grow(&limits, id, bytes);
    assert!(grow(began, fast, LARGE) && grow(began, slow, LARGE));
    // What is small needs no turn.
    assert!(grow(began, waiting, 1_000) && !grow(began, waiting, LARGE));
    let later = began + Duration::from_millis(1_500);
    assert!(grow(later, fast, LARGE) && !told(&requests[1].1));
    assert!(!grow(later, waiting, LARGE) && told(&requests[1].1) && !told(&requests[0].1));
    assert!(state.end(slow));
    assert!(state.has_turn(&limits, later, waiting, LARGE) && state.grow(&limits, waiting, LARGE));
}

#[test]
fn an_ipv6_peer_is_its_network() {
    let address = |text: &str| share(text.parse().expect("an address"));
    assert_eq!(address("fd00:1::1"), address("fd00:1::2"));
    assert_ne!(address("fd00:1::1"), address("fd00:2::1"));
    assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
}
