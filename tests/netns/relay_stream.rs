//! Bytes through a relayed portal: all of them, in order, from both sides, and no more held back than is named.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use proxy_core::sample::tcp;
use test_support::namespace::run;
use test_support::relayed;
use test_support::relayed::{
    Relayed, accepted, break_off, connected, end_of, eventually, leads, listener, relayed, web,
};

const BACKEND: &str = "10.1.0.1";
const PORTAL: &str = "10.96.0.1:80";

/// A relayed connection, as its client and as its backend see it.
struct Pair {
    client: TcpStream,
    backend: TcpStream,
}

impl Pair {
    fn new(world: &Relayed, listener: &TcpListener) -> Self {
        let client = world.connect(PORTAL);
        Self { client, backend: accepted(listener).0 }
    }

    /// Both sides, the one that acts first.
    fn sides(self, is_client_first: bool) -> (TcpStream, TcpStream) {
        if is_client_first { (self.client, self.backend) } else { (self.backend, self.client) }
    }
}

fn both_ways(body: impl Fn(&Relayed, TcpStream, TcpStream) + Sync) {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let listener = listener("10.1.0.1:8080");
        for is_client_first in [true, false] {
            let (one, other) = Pair::new(world, &listener).sides(is_client_first);
            body(world, one, other);
            eventually("the connection is over", || world.connections() == 0);
        }
    });
}

fn hears(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("an orderly end");
    assert_eq!(heard, expected);
}

#[test]
fn who_has_said_all_still_hears_the_other_side() {
    both_ways(|_, mut one, mut other| {
        one.write_all(b"question").expect("say");
        one.shutdown(Shutdown::Write).expect("say that this was all");
        hears(&mut other, b"question");
        other.write_all(b"answer").expect("answer after the end");
        other.shutdown(Shutdown::Write).expect("say that this was all");
        hears(&mut one, b"answer");
    });
}

#[test]
fn a_reset_reaches_the_other_side_as_a_reset() {
    both_ways(|_, mut one, mut other| {
        one.write_all(b"half a").expect("say");
        other.read_exact(&mut [0; 6]).expect("hear");
        break_off(one);
        assert_eq!(end_of(&mut other), Err(ErrorKind::ConnectionReset));
    });
}

/// Writes until nothing more is taken for a while.
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

/// The most that the kernel buffers for one direction of a connection.
fn kernel_buffers() -> u64 {
    let most = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("a setting");
        text.split_whitespace().last().expect("three numbers").parse::<u64>().expect("a number")
    };
    most("tcp_rmem") + most("tcp_wmem")
}

#[test]
fn what_one_side_does_not_read_the_other_cannot_say() {
    /// What the relay holds of one direction: a pipe.
    const HELD: u64 = 512 << 10;
    both_ways(|world, mut one, other| {
        let written = fill(&mut one);
        // Twice: before the relay and behind it.
        assert!(written <= 2 * kernel_buffers() + HELD, "{written}");
        let report = world.report(tcp(PORTAL));
        let taken = report.totals.sent.max(report.totals.received);
        assert!(taken <= kernel_buffers() + HELD, "{taken} taken of {written}");
        break_off(other);
        eventually("it may not go on either", || {
            one.write(&[7]).is_err_and(|error| {
                matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
            })
        });
    });
}

#[test]
fn a_break_is_noticed_while_the_other_side_does_not_read() {
    both_ways(|world, mut one, mut other| {
        fill(&mut one);
        break_off(one);
        eventually("the relay has let go of it", || world.connections() == 0);
        // Most of what was said has arrived; that it was not all is seen at its end.
        let mut heard = Vec::new();
        let ended = other.read_to_end(&mut heard).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn what_was_said_before_an_end_arrives_however_slowly_it_is_read() {
    both_ways(|_, mut one, mut other| {
        let (bytes, mut heard) = (vec![7; 3 << 20], Vec::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                one.write_all(&bytes).expect("say");
                drop(one);
            });
            let mut block = vec![0; 5_000];
            while let Ok(count @ 1..) = other.read(&mut block) {
                heard.extend_from_slice(&block[..count]);
            }
        });
        assert!(heard == bytes, "{} of {} bytes", heard.len(), bytes.len());
    });
}

const TRANSFER_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: usize = 1 << 20;

/// Block `number` of a transfer: no two are alike.
fn stamp(block: &mut [u8], seed: u64, number: u64) {
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
        stamp(&mut block, seed, number);
        stream.write_all(&block).expect("send");
    }
    stream.shutdown(Shutdown::Write).expect("say that this was all");
}

fn receive(stream: &mut TcpStream, seed: u64) {
    let (mut expected, mut block) = (pattern(), vec![0; BLOCK_BYTES]);
    for number in 0..TRANSFER_BYTES / BLOCK_BYTES as u64 {
        stream.read_exact(&mut block).expect("receive");
        stamp(&mut expected, seed, number);
        assert!(block == expected, "block {number} of transfer {seed} differs");
    }
    assert_eq!(stream.read(&mut block).expect("an orderly end"), 0);
}

#[test]
fn eight_transfers_at_a_time_arrive_byte_for_byte_and_are_answered_after_their_end() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let listener = listener("10.1.0.1:8080");
        let pairs: Vec<Pair> = (0..8).map(|_| Pair::new(world, &listener)).collect();
        thread::scope(|scope| {
            for (seed, pair) in pairs.into_iter().enumerate() {
                let (mut from, mut to) = pair.sides(seed % 2 == 0);
                let seed = seed as u64;
                scope.spawn(move || {
                    send(&mut from, seed);
                    hears(&mut from, b"received");
                });
                scope.spawn(move || {
                    receive(&mut to, seed);
                    to.write_all(b"received").expect("answer");
                });
            }
        });
        eventually("all are over", || world.connections() == 0);
        let report = world.report(tcp(PORTAL));
        let sum = 4 * TRANSFER_BYTES + 4 * "received".len() as u64;
        assert_eq!((report.totals.sent, report.totals.received), (sum, sum));
    });
}

#[test]
fn a_backend_that_says_nothing_disturbs_no_other_client() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let listener = listener("10.1.0.1:8080");
        let mute: Vec<Pair> = (0..50).map(|_| Pair::new(world, &listener)).collect();
        let mut pair = Pair::new(world, &listener);
        pair.backend.write_all(b"x").expect("say");
        pair.client.read_exact(&mut [0]).expect("hear");
        drop(pair);
        eventually("the others stay", || world.connections() == mute.len());
        mute.into_iter().for_each(|pair| break_off(pair.client));
        eventually("all have gone", || world.connections() == 0);
    });
}

#[test]
fn both_ends_are_asked_after_a_while_whether_they_are_still_there() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let listener = listener("10.1.0.1:8080");
        let _pair = Pair::new(world, &listener);
        // The connection is of use as soon as bytes go, and only then is nothing on its way.
        eventually("both of the relay's sockets wait for a minute", || {
            let sockets = world.within(|| run("ss", &["-Htno", "state", "established"], ""));
            let asked = |socket: &&str| socket.contains("timer:(keepalive,");
            sockets.lines().filter(asked).count() == 2
        });
    });
}

#[test]
fn a_client_that_connects_and_goes_leaves_nothing() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = relayed::Server::on(listener("10.1.0.1:8080"), "a");
        world.within(|| {
            for _ in 0..100 {
                drop(connected(PORTAL));
                break_off(connected(PORTAL));
            }
        });
        eventually("nothing is left", || world.connections() == 0);
        assert_eq!(world.report(tcp(PORTAL)).active, 0);
    });
}
