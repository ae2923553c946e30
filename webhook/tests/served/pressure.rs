//! Slow, silent and hostile clients without credentials, and their effect on an honest one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use test_support::caller::Caller;
use test_support::http2::{
    CONTINUATION, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, frame, head, request,
};
use test_support::memory_limit::MemoryLimit;
use test_support::review::{REDIS, pod, review};
use test_support::temp_dir::TempDir;
use test_support::webhook::Webhook;

const LIMIT: u64 = 256 << 20;
const PEAK_MAX: u64 = LIMIT / 10 * 9;
/// The limit of requests and responses: 44 MiB, and 512 small requests of 32 KiB.
const HELD_MAX: f64 = (60 << 20) as f64;
/// The delay that the scheduler of a busy machine can add to a request.
const NOISE: Duration = Duration::from_millis(10);
/// Other programs on the machine can only slow a round down, so one good round suffices.
const ROUNDS: usize = 3;

fn webhook_with_limit(args: &[&str]) -> (TempDir, Webhook, MemoryLimit) {
    let dir = TempDir::new("webhook");
    let webhook = Webhook::on_manifests(&dir, REDIS, args);
    let limit = MemoryLimit::new(webhook.pid(), LIMIT);
    (dir, webhook, limit)
}

/// A webhook without attackers, called alternately with the attacked one, so that other load slows both.
struct ControlWebhook {
    webhook: Webhook,
    _folder: TempDir,
}

impl ControlWebhook {
    fn start() -> Self {
        let dir = TempDir::new("webhook");
        let webhook = Webhook::on_manifests(&dir, REDIS, &[]);
        Self { webhook, _folder: dir }
    }

    /// Asserts that the p99 of reviews on one connection under attack is at peak_held twice that of the control, and that
    /// none fails.
    fn assert_as_fast(&self, attacked: &mut Caller) {
        let mut alone = Caller::local(self.webhook.address).expect("connect");
        let body = review("u", &pod("a"));
        let took = |caller: &mut Caller| {
            let start = Instant::now();
            caller.review(&body).expect("a response");
            start.elapsed()
        };
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let (mut control, mut under_attack): (Vec<_>, Vec<_>) =
                (0..200).map(|_| (took(&mut alone), took(attacked))).unzip();
            control.sort_unstable();
            under_attack.sort_unstable();
            let at = control.len() * 99 / 100;
            rounds.push((control[at], under_attack[at]));
            if under_attack[at] <= control[at] * 2 + NOISE {
                return;
            }
        }
        panic!("control and under attack: {rounds:?}");
    }
}

/// Ends the threads of the attackers, also if the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Clients that send their bodies byte by byte, and start again after they are closed.
fn send_byte_by_byte(address: SocketAddr, count: usize, stop: &AtomicBool) {
    const HEAD: &[u8] = b"POST /mutate?timeout=30s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let begin = || {
        let mut caller = Caller::local(address).ok()?;
        caller.send(HEAD).ok()?;
        Some(caller)
    };
    let mut callers: Vec<Option<Caller>> = (0..count).map(|_| begin()).collect();
    while !stop.load(Ordering::Relaxed) {
        for caller in &mut callers {
            let sent = caller.as_mut().is_some_and(|caller| caller.send(b"1\r\n \r\n").is_ok());
            if !sent {
                *caller = begin();
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn forty_slow_and_two_thousand_idle_clients_do_not_delay_an_honest_one() {
    let (_folder, webhook, limit) = webhook_with_limit(&[]);
    let address = webhook.address;
    let mut honest = Caller::local(address).expect("connect");
    let control = ControlWebhook::start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let attack = StopOnDrop(&stop);
        scope.spawn(|| send_byte_by_byte(address, 40, &stop));
        let idle: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let connect = |_| {
                        let mut caller = Caller::local(address).expect("connect");
                        // After a response a client may be idle.
                        caller.review(&review("u", &pod("a"))).expect("a response");
                        caller
                    };
                    (0..500).map(connect).collect::<Vec<_>>()
                })
            })
            .collect();
        // A connection in use is not closed while others come.
        while idle.iter().any(|thread| !thread.is_finished()) {
            honest.review(&review("u", &pod("a"))).expect("a response");
        }
        let idle: Vec<Caller> = idle.into_iter().flat_map(|thread| thread.join().expect("2,000")).collect();
        control.assert_as_fast(&mut honest);
        // A new client gets a connection, too.
        let mut late = Caller::local(address).expect("connect");
        control.assert_as_fast(&mut late);
        assert_eq!(idle.len(), 2_000);
        assert!(webhook.metric("connections") <= 300.0, "{}", webhook.metric("connections"));
        assert!(webhook.metric("connections_closed_total{reason=\"pressure\"}") >= 1_700.0);
        drop(attack);
    });
    let peak = limit.peak();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
}

#[test]
fn unfinished_handshakes_do_not_block_other_clients() {
    let (_folder, webhook, _limit) = webhook_with_limit(&[]);
    let silent: Vec<TcpStream> =
        (0..2_000).map(|_| TcpStream::connect(webhook.address).expect("connect")).collect();
    let mut honest = Caller::local(webhook.address).expect("connect");
    honest.review(&review("u", &pod("a"))).expect("a response");
    assert_eq!(silent.len(), 2_000);
    assert!(webhook.metric("connections") <= 300.0);
}

#[test]
fn incomplete_requests_are_charged_as_they_arrive_and_the_oldest_are_closed() {
    let (_folder, webhook, limit) = webhook_with_limit(&[]);
    let part = vec![b' '; 6 << 20];
    // Each is incomplete; together they would hold 240 MiB.
    let hostile: Vec<Caller> = (0..40)
        .map(|_| {
            let mut caller = Caller::local(webhook.address).expect("connect");
            caller.send(Caller::head("POST", "/mutate?timeout=30s", 7 << 20).as_bytes()).expect("send");
            let _ = caller.send(&part);
            caller
        })
        .collect();
    let mut honest = Caller::local(webhook.address).expect("connect");
    honest.review(&review("u", &pod("a"))).expect("a response");
    assert!(webhook.metric("requests_total{outcome=\"overloaded\"}") >= 20.0);
    assert!(webhook.metric("in_flight_bytes") <= HELD_MAX);
    assert_eq!(hostile.len(), 40);
    let peak = limit.peak();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
}

#[test]
fn rapid_reset_and_endless_header_end_only_their_connection() {
    let (_folder, webhook, limit) = webhook_with_limit(&[]);
    let mut honest = Caller::local(webhook.address).expect("connect");
    let control = ControlWebhook::start();
    let stop = AtomicBool::new(false);
    let address = webhook.address;
    thread::scope(|scope| {
        let attack = StopOnDrop(&stop);
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut client) = Frames::new(address, &[]) else { continue };
                for number in 0..20_000 {
                    let stream = number * 2 + 1;
                    let headers = frame(HEADERS, END_HEADERS, stream, &head());
                    let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
                    if client.send(&[headers, reset].concat()).is_err() {
                        break;
                    }
                }
                client.read_until_closed();
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut client) = Frames::new(address, &[]) else { continue };
                let headers = frame(HEADERS, END_STREAM, 1, &head());
                // An endless header field: literal, not indexed, with a name of one letter.
                let more = [&[0x00, 1, b'a', 0x7f, 0xff, 0xff, 0x03][..], &[b'a'; 16_000]].concat();
                let mut sent = client.send(&headers);
                while sent.is_ok() && !stop.load(Ordering::Relaxed) {
                    sent = client.send(&frame(CONTINUATION, 0, 1, &more));
                }
                client.read_until_closed();
            }
        });
        control.assert_as_fast(&mut honest);
        drop(attack);
    });
    assert!(webhook.metric("connections_closed_total{reason=\"broken\"}") >= 2.0);
    let peak = limit.peak();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
}

#[test]
fn unread_responses_are_bounded_and_end_with_their_connection() {
    let dir = TempDir::new("webhook");
    // With this many services a response is about a megabyte.
    let services: String = (0..1_500)
        .map(|number| {
            let address = format!("10.0.{}.{}", number / 250 + 1, number % 250 + 1);
            let service = REDIS.replace("redis", &format!("service-{number}"));
            service.replace("10.0.0.11", &address) + "---\n"
        })
        .collect();
    let webhook = Webhook::on_manifests(&dir, &services, &["--mode", "inline"]);
    let limit = MemoryLimit::new(webhook.pid(), LIMIT);
    let body = review("u", &pod("a"));
    let mut peak_held: f64 = 0.0;
    let mut clients = Vec::new();
    for _ in 0..20 {
        // SETTINGS_INITIAL_WINDOW_SIZE 0: the server cannot send any byte of a body.
        let mut client = Frames::new(webhook.address, &[(4, 0)]).expect("connect");
        for number in 0..60 {
            // The server may close the connection before everything is sent.
            let _ = client.send(&request(number * 2 + 1, &body));
        }
        clients.push(client);
        peak_held = peak_held.max(webhook.metric("in_flight_bytes"));
    }
    let mut honest = Caller::local(webhook.address).expect("connect");
    honest.review(&body).expect("a response");
    webhook.wait_until("connections with unread responses are closed", |webhook| {
        webhook.metric("connections_closed_total{reason=\"pressure\"}") >= 10.0
    });
    assert!((f64::from(20 << 20)..=HELD_MAX).contains(&peak_held), "{peak_held}");
    assert_eq!(clients.len(), 20);
    let peak = limit.peak();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
}

#[test]
fn two_thousand_silent_metrics_clients_do_not_delay_a_probe() {
    let (_folder, webhook, _limit) = webhook_with_limit(&[]);
    let silent: Vec<TcpStream> = (0..2_000)
        .map(|number| {
            let mut client = TcpStream::connect(webhook.admin).expect("connect");
            // Half of them have started a request.
            if number % 2 == 0 {
                let _ = client.write_all(b"GET /metrics HTTP/1.1\r\n");
            }
            client
        })
        .collect();
    let start = Instant::now();
    let mut probe = TcpStream::connect(webhook.admin).expect("connect");
    probe.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    let mut text = String::new();
    // The server closes the connection after the response.
    probe.read_to_string(&mut text).expect("a response");
    assert!(text.starts_with("HTTP/1.1 200") && start.elapsed() < Duration::from_secs(2), "{text}");
    assert_eq!(silent.len(), 2_000);
}
