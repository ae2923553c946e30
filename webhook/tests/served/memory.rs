//! The program stays within the memory limit of the chart, for any requests.

use std::sync::Barrier;
use std::thread;

use test_support::caller::Caller;
use test_support::memory_limit::MemoryLimit;
use test_support::review::{REDIS, pod, review};
use test_support::temp_dir::TempDir;
use test_support::webhook::Webhook;

/// The limit of the chart (`webhook.resources.limits.memory`), and the allowed peak below it.
const LIMIT: u64 = 256 << 20;
const PEAK_MAX: u64 = LIMIT / 10 * 9;

/// A review of at least this many bytes, which repeats an entry in the `env` of a container.
fn review_of_size(bytes: usize, entry: &str) -> Vec<u8> {
    let body = String::from_utf8(review("u-1", &pod("a"))).expect("text");
    let mut env = String::with_capacity(bytes + 16);
    while env.len() < bytes {
        env.extend([if env.is_empty() { "" } else { "," }, entry]);
    }
    body.replace("\"image\":\"x\"", &format!("\"env\":[{env}]")).into_bytes()
}

/// Sends reviews concurrently, each on its own connection; returns the statuses, 0 for a broken connection.
fn send_concurrently(webhook: &Webhook, bodies: &[Vec<u8>]) -> Vec<u16> {
    let barrier = Barrier::new(bodies.len());
    let send = |body: &Vec<u8>| {
        barrier.wait();
        let caller = Caller::local(webhook.address);
        let response = caller.and_then(|mut caller| caller.request("POST", "/mutate?timeout=30s", body));
        response.map_or(0, |(status, ..)| status)
    };
    thread::scope(|scope| {
        let senders: Vec<_> = bodies.iter().map(|body| scope.spawn(|| send(body))).collect();
        senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
    })
}

fn webhook_with_limit() -> (TempDir, Webhook, MemoryLimit) {
    let dir = TempDir::new("webhook");
    let webhook = Webhook::on_manifests(&dir, REDIS, &[]);
    let limit = MemoryLimit::new(webhook.pid(), LIMIT);
    (dir, webhook, limit)
}

/// Asserts that it responds, and that its peak is below the limit.
fn assert_within(webhook: &Webhook, limit: &MemoryLimit) {
    Caller::local(webhook.address).expect("connect").review(&review("u", &pod("a"))).expect("a response");
    let peak = limit.peak();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
}

#[test]
fn eight_pods_of_3_mb_at_once_are_each_answered_within_the_memory_limit() {
    let (_folder, webhook, limit) = webhook_with_limit();
    for entry in ["{\"name\":\"a\"}", "{}", "[]", "{\"name\":\"a\",\"value\":\"$(b)$(c)\"}"] {
        let bodies = vec![review_of_size(3_000_000, entry); 8];
        assert_eq!(send_concurrently(&webhook, &bodies), [200; 8], "{entry}");
    }
    assert_eq!(webhook.metric("requests_total{outcome=\"too_large\"}"), 32.0);
    assert_within(&webhook, &limit);
}

#[test]
fn concurrent_reviews_of_maximum_length_stay_within_the_memory_limit() {
    let (_folder, webhook, limit) = webhook_with_limit();
    let long_text = format!("{{\"name\":\"a\",\"value\":\"{}\"}}", "x".repeat(6_900_000));
    let quoted = format!("{{\"name\":\"a\",\"value\":\"{}\"}}", "\\u0001".repeat(1_150_000));
    for entry in ["{\"name\":\"a\"}", "{\"a\":{\"b\":[{}]}}", &long_text, &quoted] {
        let statuses = send_concurrently(&webhook, &vec![review_of_size(6_900_000, entry); 40]);
        // Requests without room are rejected or closed, and the others get a response.
        assert!(statuses.iter().all(|status| [0, 200, 408, 503, 504].contains(status)), "{statuses:?}");
        assert!(statuses.contains(&200), "{statuses:?}");
    }
    assert_within(&webhook, &limit);
}

#[test]
fn hostile_annotations_take_little_memory_and_time() {
    let (_folder, webhook, limit) = webhook_with_limit();
    let start = std::time::Instant::now();
    for bytes in [250_000, 3_000_000] {
        let items: String = (0..bytes / 6).map(|number| format!("={number:04x},")).collect();
        let mut hostile = pod("a");
        for name in ["portico.dev/services", "portico.dev/require"] {
            hostile["metadata"]["annotations"] = serde_json::json!({ name: items });
            assert_eq!(send_concurrently(&webhook, &vec![review("u", &hostile); 4]), [200; 4]);
        }
    }
    assert!(start.elapsed().as_secs() < 15, "{:?}", start.elapsed());
    assert_within(&webhook, &limit);
}
