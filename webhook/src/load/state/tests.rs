//! The order in which connections and requests are closed.

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::task::{Context, Waker};

use super::*;

const LIMITS: Limits = Limits {
    connections: ConnectionLimits { total: 4, of_a_peer: 3 },
    requests: 3,
    bytes: 100 << 10,
    large: 2,
};

/// Whether a notification was sent.
fn is_notified(notice: &Arc<Notify>) -> bool {
    pin!(notice.notified()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn peer(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn connect(state: &mut State, last: u8) -> (u64, Arc<Notify>) {
    state.connections.connect(LIMITS.connections, peer(last)).expect("room")
}

fn begin(state: &mut State, connection: u64) -> (u64, Arc<Notify>) {
    state.begin(&LIMITS, connection).expect("room")
}

#[test]
fn answered_request_makes_its_connection_the_most_recently_used() {
    let mut state = State::default();
    let [first, second, third] = [(); 3].map(|()| connect(&mut state, 2));
    let (request, _) = begin(&mut state, first.0);
    assert!(state.arrived(request));
    state.answered(request);
    assert!(state.send(&LIMITS, request, 10));
    state.end(request);
    // The peer has reached its limit.
    connect(&mut state, 2);
    let closed = [&first, &second, &third].map(|(_, close)| is_notified(close));
    assert_eq!(closed, [false, true, false]);
}

#[test]
fn connection_with_a_request_being_answered_is_not_closed() {
    let mut state = State::default();
    let connections: Vec<_> = (0..4).map(|last| connect(&mut state, last)).collect();
    let limits = Limits { requests: 10, ..LIMITS };
    for (connection, _) in &connections {
        assert!(state.connections.count() == 4 && connections.iter().all(|(_, close)| !is_notified(close)));
        let (request, _) = state.begin(&limits, *connection).expect("room");
        assert!(state.arrived(request));
    }
    assert!(
        state.connections.connect(LIMITS.connections, peer(9)).is_none() && !state.connections.close_one()
    );
}

/// Starts a large request of this size.
fn begin_large(state: &mut State, connection: u64, bytes: usize) -> (u64, Arc<Notify>) {
    let request = begin(state, connection);
    assert!(
        state.has_turn(&LIMITS, Instant::now(), request.0, bytes) && state.grow(&LIMITS, request.0, bytes)
    );
    request
}

#[test]
fn oldest_incomplete_request_of_the_largest_peer_is_evicted_first() {
    let mut state = State::default();
    let (honest, _) = connect(&mut state, 1);
    let (hostile, _) = connect(&mut state, 2);
    let few = begin_large(&mut state, honest, 40 << 10);
    let many = begin_large(&mut state, hostile, 60 << 10);
    // Memory is only charged after it was released.
    assert!(!state.grow(&LIMITS, few.0, 20 << 10));
    assert!(is_notified(&many.1) && !is_notified(&few.1));
    assert!(!state.arrived(many.0));
    state.end(many.0);
    assert!(state.grow(&LIMITS, few.0, 20 << 10) && state.arrived(few.0));
    assert_eq!(state.bytes(), 60 << 10);
}

#[test]
fn small_request_always_has_room() {
    let mut state = State::default();
    let (connection, _) = connect(&mut state, 1);
    let all = begin_large(&mut state, connection, LIMITS.bytes);
    let small = begin(&mut state, connection);
    assert!(state.has_turn(&LIMITS, Instant::now(), small.0, 10_000) && state.grow(&LIMITS, small.0, 10_000));
    assert!(is_notified(&all.1) && !is_notified(&small.1));
}

#[test]
fn unread_response_is_closed_and_one_being_prepared_is_not() {
    let mut state = State::default();
    let (connection, close) = connect(&mut state, 1);
    let answering = begin_large(&mut state, connection, 40 << 10).0;
    let (sent, _) = begin(&mut state, connection);
    assert!(state.arrived(answering) && state.arrived(sent));
    state.answered(sent);
    assert!(state.send(&LIMITS, sent, 60 << 10) && !is_notified(&close));
    state.answered(answering);
    assert!(!state.send(&LIMITS, answering, 60 << 10));
    assert!(is_notified(&close));
    state.end(sent);
    assert!(state.send(&LIMITS, answering, 60 << 10));
    assert_eq!(state.bytes(), 60 << 10);
}

#[test]
fn oldest_request_that_waits_for_its_client_is_evicted_at_the_limit() {
    let mut state = State::default();
    let (connection, _) = connect(&mut state, 1);
    let requests: Vec<_> = (0..3).map(|_| begin(&mut state, connection)).collect();
    assert!(state.arrived(requests[0].0));
    begin(&mut state, connection);
    assert!(!is_notified(&requests[0].1) && is_notified(&requests[1].1) && !is_notified(&requests[2].1));
    assert!(state.arrived(requests[2].0));
    state.end(requests[1].0);
}

#[test]
fn large_requests_take_turns_and_a_slow_one_is_evicted() {
    const LARGE: usize = 1 << 20;
    let limits = Limits { bytes: 100 << 20, ..LIMITS };
    let (mut state, start) = (State::default(), Instant::now());
    let (connection, _) = connect(&mut state, 1);
    let requests: Vec<_> = (0..3).map(|_| begin(&mut state, connection)).collect();
    let [fast, slow, waiting] = [0, 1, 2].map(|index: usize| requests[index].0);
    let mut grow = |now, id, bytes| state.has_turn(&limits, now, id, bytes) && state.grow(&limits, id, bytes);
    assert!(grow(start, fast, LARGE) && grow(start, slow, LARGE));
    // A small request needs no turn.
    assert!(grow(start, waiting, 1_000) && !grow(start, waiting, LARGE));
    let later = start + Duration::from_millis(1_500);
    assert!(grow(later, fast, LARGE) && !is_notified(&requests[1].1));
    assert!(!grow(later, waiting, LARGE) && is_notified(&requests[1].1) && !is_notified(&requests[0].1));
    assert!(state.end(slow));
    assert!(state.has_turn(&limits, later, waiting, LARGE) && state.grow(&limits, waiting, LARGE));
}
