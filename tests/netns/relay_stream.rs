//! The byte streams of relayed connections: complete, in order, half-closed and reset, with bounded buffers.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use proxy_core::sample::tcp;
use test_support::eventually::eventually;
use test_support::namespace::run;
use test_support::relay_fixture::{
    RelayFixture, Server, accept, close_with_reset, connect_with_timeouts, listen, read_to_end,
    relayed_service, web_service, with_relay,
};

const BACKEND: &str = "10.1.0.1";
const PORTAL: &str = "10.96.0.1:80";

/// The two ends of a relayed connection.
struct Pair {
    client: TcpStream,
    backend: TcpStream,
}

impl Pair {
    fn new(fixture: &RelayFixture, listener: &TcpListener) -> Self {
        let client = fixture.connect(PORTAL);
        Self { client, backend: accept(listener).0 }
    }

    /// Returns both ends, the one that acts first in front.
    fn sides(self, is_client_first: bool) -> (TcpStream, TcpStream) {
        if is_client_first { (self.client, self.backend) } else { (self.backend, self.client) }
    }
}

fn in_both_directions(body: impl Fn(&RelayFixture, TcpStream, TcpStream) + Sync) {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let listener = listen("10.1.0.1:8080");
        for is_client_first in [true, false] {
            let (one, other) = Pair::new(fixture, &listener).sides(is_client_first);
            body(fixture, one, other);
            eventually("the connection is closed", || fixture.connections() == 0);
        }
    });
}

fn expect_stream(stream: &mut TcpStream, expected: &[u8]) {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("the end of the stream");
    assert_eq!(received, expected);
}

#[test]
fn half_closed_end_still_receives() {
    in_both_directions(|_, mut one, mut other| {
        one.write_all(b"question").expect("send");
        one.shutdown(Shutdown::Write).expect("shut down");
        expect_stream(&mut other, b"question");
        other.write_all(b"answer").expect("reply after the end of the request");
        other.shutdown(Shutdown::Write).expect("shut down");
        expect_stream(&mut one, b"answer");
    });
}

#[test]
fn reset_is_forwarded_as_a_reset() {
    in_both_directions(|_, mut one, mut other| {
        one.write_all(b"half a").expect("send");
        other.read_exact(&mut [0; 6]).expect("receive");
        close_with_reset(one);
        assert_eq!(read_to_end(&mut other), Err(ErrorKind::ConnectionReset));
    });
}

/// Writes until the socket accepts no byte for 700 ms.
fn fill(stream: &mut TcpStream) -> u64 {
    let (mut written, block) = (0, vec![0; 1 << 20]);
    stream.set_write_timeout(Some(Duration::from_millis(700))).expect("set a time-out");
    loop {
        match stream.write(&block) {
            Ok(bytes) => written += bytes as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return written;
            }
        }
    }
}

/// The maximum that the kernel buffers for one direction of a connection.
fn kernel_buffers() -> u64 {
    let most = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("a setting");
        text.split_whitespace().last().expect("three numbers").parse::<u64>().expect("a number")
    };
    most("tcp_rmem") + most("tcp_wmem")
}

#[test]
fn unread_bytes_stop_the_sender() {
    /// The maximum that the relay buffers in one direction: a pipe.
    const PIPE_BYTES: u64 = 512 << 10;
    in_both_directions(|fixture, mut one, other| {
        let written = fill(&mut one);
        // Twice, for the connection to the relay and the connection from it.
        assert!(written <= 2 * kernel_buffers() + PIPE_BYTES, "{written}");
        let report = fixture.report(tcp(PORTAL));
        let taken = report.totals.sent.max(report.totals.received);
        assert!(taken <= kernel_buffers() + PIPE_BYTES, "{taken} taken of {written}");
        close_with_reset(other);
        eventually("the sender is reset", || {
            one.write(&[7]).is_err_and(|error| {
                matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
            })
        });
    });
}

#[test]
fn reset_is_noticed_while_the_receiver_does_not_read() {
    in_both_directions(|fixture, mut one, mut other| {
        fill(&mut one);
        close_with_reset(one);
        eventually("the relay has closed the connection", || fixture.connections() == 0);
        // The receiver gets most of the bytes, and then a reset instead of the end of the stream.
        let mut received = Vec::new();
        let ended = other.read_to_end(&mut received).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn slow_reader_receives_all_bytes_sent_before_close() {
    in_both_directions(|_, mut one, mut other| {
        let (bytes, mut received) = (vec![7; 3 << 20], Vec::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                one.write_all(&bytes).expect("send");
                drop(one);
            });
            let mut block = vec![0; 5_000];
            while let Ok(count @ 1..) = other.read(&mut block) {
                received.extend_from_slice(&block[..count]);
            }
        });
        assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
    });
}

const TRANSFER_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: usize = 1 << 20;

/// Marks block `number` of a transfer, so that all blocks differ.
fn mark_block(block: &mut [u8], seed: u64, number: u64) {
    for (place, chunk) in block.chunks_exact_mut(64 << 10).enumerate() {
        chunk[..8].copy_from_slice(&(seed << 56 | number << 8 | place as u64).to_be_bytes());
    }
}

fn pattern() -> Vec<u8> {
    (0..BLOCK_BYTES as u64).map(|place| (place * place / 7 + place / 251) as u8).collect()
}

fn send(stream: &mut TcpStream, seed: u64) {
    let mut block = pattern();
    for number in 0..TRANSFER_BYTES / BLOCK_BYTES as u64 {
        mark_block(&mut block, seed, number);
        stream.write_all(&block).expect("send");
    }
    stream.shutdown(Shutdown::Write).expect("shut down");
}

fn receive(stream: &mut TcpStream, seed: u64) {
    let (mut expected, mut block) = (pattern(), vec![0; BLOCK_BYTES]);
    for number in 0..TRANSFER_BYTES / BLOCK_BYTES as u64 {
        stream.read_exact(&mut block).expect("receive");
        mark_block(&mut expected, seed, number);
        assert!(block == expected, "block {number} of transfer {seed} differs");
    }
    assert_eq!(stream.read(&mut block).expect("the end of the stream"), 0);
}

#[test]
fn eight_concurrent_transfers_arrive_intact_and_are_answered_after_half_close() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let listener = listen("10.1.0.1:8080");
        let pairs: Vec<Pair> = (0..8).map(|_| Pair::new(fixture, &listener)).collect();
        thread::scope(|scope| {
            for (seed, pair) in pairs.into_iter().enumerate() {
                let (mut from, mut to) = pair.sides(seed % 2 == 0);
                let seed = seed as u64;
                scope.spawn(move || {
                    send(&mut from, seed);
                    expect_stream(&mut from, b"received");
                });
                scope.spawn(move || {
                    receive(&mut to, seed);
                    to.write_all(b"received").expect("reply");
                });
            }
        });
        eventually("all are closed", || fixture.connections() == 0);
        let report = fixture.report(tcp(PORTAL));
        let sum = 4 * TRANSFER_BYTES + 4 * "received".len() as u64;
        assert_eq!((report.totals.sent, report.totals.received), (sum, sum));
    });
}

#[test]
fn mute_backend_does_not_disturb_other_clients() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let listener = listen("10.1.0.1:8080");
        let mute: Vec<Pair> = (0..50).map(|_| Pair::new(fixture, &listener)).collect();
        let mut pair = Pair::new(fixture, &listener);
        pair.backend.write_all(b"x").expect("send");
        pair.client.read_exact(&mut [0]).expect("receive");
        drop(pair);
        eventually("the others are still open", || fixture.connections() == mute.len());
        mute.into_iter().for_each(|pair| close_with_reset(pair.client));
        eventually("all are closed", || fixture.connections() == 0);
    });
}

#[test]
fn keepalive_is_active_on_both_sockets() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let listener = listen("10.1.0.1:8080");
        let _pair = Pair::new(fixture, &listener);
        // The keepalive timer is visible once all handshakes have ended.
        eventually("both sockets of the relay have a keepalive timer", || {
            let sockets = fixture.within(|| run("ss", &["-Htno", "state", "established"], ""));
            let has_keepalive = |socket: &&str| socket.contains("timer:(keepalive,");
            sockets.lines().filter(has_keepalive).count() == 2
        });
    });
}

#[test]
fn aborted_clients_leave_no_connection() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let _server = Server::on(listen("10.1.0.1:8080"), "a");
        fixture.within(|| {
            for _ in 0..100 {
                drop(connect_with_timeouts(PORTAL));
                close_with_reset(connect_with_timeouts(PORTAL));
            }
        });
        eventually("no connection is left", || fixture.connections() == 0);
        assert_eq!(fixture.report(tcp(PORTAL)).active, 0);
    });
}
