//! The latency and throughput of admissions, over persistent TLS connections like those of an API server.
//!
//! The peer is a bare server of hyper and rustls in a separate process, which receives and sends the same number of bytes.
//! Both are measured in turns. docs/benchmarks.md has the results. `PORTICO_BENCH_QUICK` selects short rounds.

#[allow(clippy::print_stdout)] // It prints its address.
mod echo;

use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use bench_report::{Sheet, Spread, Verdict, is_quick};
use echo::Echo;
use serde_json::{Value, json};
use test_support::caller::Caller;
use test_support::proc_memory::proc_memory_kb;
use test_support::review;
use test_support::temp_dir::TempDir;
use test_support::webhook::Webhook;

const OURS: &str = "portico-webhook";
const PEER: &str = "peer: bare hyper and rustls";
const CONNECTIONS: u32 = 4;
const RATE_PER_S: u32 = 500;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--echo") {
        return echo::run(&arguments[at + 1]);
    }
    let (rounds, seconds) = if is_quick() { (1, 1) } else { (6, 5) };
    let sheet = Sheet::open("serve");

    let dir = TempDir::new("webhook");
    let manifest = services(0..100, 50);
    let began = Instant::now();
    let webhook = Webhook::on_manifests(&dir, &manifest, &[]);
    let ready = Spread::one(began.elapsed().as_secs_f64() * 1e3);
    let large = review("ns-7");
    let paced_rounds: Vec<Spread> =
        (0..rounds).map(|_| Spread::of(response_times_at_rate(webhook.address, &large, seconds))).collect();
    let memory = Spread::one(rss_mb(webhook.pid()));
    let mut caller = Caller::local(webhook.address).expect("connect");
    for number in 0..100 {
        caller.review(&review(&format!("ns-{number}"))).expect("an answer");
    }
    let memory_of_all = Spread::one(rss_mb(webhook.pid()));
    drop(webhook);
    let title = "portico-webhook, 5,000 services in 100 namespaces, a pod with 3 containers";
    let table = sheet.rows("time", title, "ms");
    table.put("start to ready", &ready, &[Verdict::at_most("ms", ready.median, 1_000.0)]);
    let name = format!("an admission, 50 services in its namespace, {RATE_PER_S} a second");
    let [p50, p99] = medians_and_p99s(&paced_rounds);
    table.put(&format!("{name}: p50 of each round"), &p50, &[]);
    table.put(&format!("{name}: p99 of each round"), &p99, &[Verdict::at_most("ms", p99.median, 3.0)]);
    let table = sheet.rows("memory", "resident memory of portico-webhook", "MB");
    table.put("after admissions in one namespace", &memory, &[Verdict::at_most("MB", memory.median, 50.0)]);
    let target = Verdict::at_most("MB", memory_of_all.median, 50.0);
    table.put("and in each of the 100 namespaces", &memory_of_all, &[target]);

    // One namespace of those has 20 services.
    let webhook =
        Webhook::on_manifests(&dir, &(services(0..1, 20) + &services(1..100, 50)), &["--mode", "inline"]);
    let body = review("ns-0");
    let answer =
        Caller::local(webhook.address).and_then(|mut caller| caller.request("POST", "/mutate", &body));
    let answer_len = answer.expect("an answer").2.len();
    let echo = Echo::start(answer_len);
    let title =
        format!("inline, 20 services, {} bytes in, {answer_len} out, {CONNECTIONS} connections", body.len());
    compare_with_peer(&sheet, &title, [webhook.address, echo.address], &body, (rounds, seconds));
}

/// Measures latency and throughput of the webhook and of the peer, in turns.
fn compare_with_peer(
    sheet: &Sheet,
    title: &str,
    servers: [SocketAddr; 2],
    body: &[u8],
    (rounds, seconds): (usize, u32),
) {
    let (mut times, mut rates) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for _ in 0..rounds {
        for (number, address) in servers.into_iter().enumerate() {
            times[number].push(Spread::of(response_times_at_rate(address, body, seconds)));
            rates[number].push(throughput(address, body, seconds) / 1e3);
        }
    }
    let [ours, peer] = times.each_ref().map(|times| medians_and_p99s(times));
    let title_paced = format!("{title}, {RATE_PER_S} a second");
    let table = sheet.rows("inline", &title_paced, "ms");
    let target = Verdict::at_most("times the peer", ours[0].times(&peer[0]), 1.5);
    for (name, [p50, p99], targets) in [(OURS, ours, vec![target]), (PEER, peer, vec![])] {
        table.put(&format!("{name}: p50 of each round"), &p50, &targets);
        table.put(&format!("{name}: p99 of each round"), &p99, &[]);
    }
    let [ours, peer] = rates.map(Spread::of);
    let table = sheet.rows("throughput", &format!("{title}, as many as go"), "thousands a second");
    table.put(OURS, &ours, &[Verdict::at_least("of the peer", ours.times(&peer), 0.6)]);
    table.put(PEER, &peer, &[]);
}

/// Returns the medians and the 99th percentiles of several rounds.
fn medians_and_p99s(rounds: &[Spread]) -> [Spread; 2] {
    [|round: &Spread| round.median, |round: &Spread| round.p99]
        .map(|of| Spread::of(rounds.iter().map(of).collect()))
}

/// Returns services in namespaces, each with one named port.
fn services(namespaces: Range<u32>, each: u32) -> String {
    let mut text = String::new();
    for namespace in namespaces {
        for number in 0..each {
            let (high, low) = ((namespace * each + number) / 250, (namespace * each + number) % 250 + 1);
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: service-{number:02}, namespace: ns-{namespace}}}\n\
                 spec: {{clusterIP: 10.0.{high}.{low}, ports: [{{name: main, port: 8080}}]}}\n"
            );
        }
    }
    text
}

/// Returns the review of a pod of a Deployment.
fn review(namespace: &str) -> Vec<u8> {
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example/some/image:1.2.3", "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "A", "value": "$(SERVICE_01_SERVICE_HOST)"}, {"name": "B", "value": "b"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]})
    };
    let containers: Vec<Value> = ["one", "two", "three"].map(container).to_vec();
    let mut pod = review::pod("web-5d9c7b8f6d-x2x7k");
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["labels"] = json!({"app": "web", "pod-template-hash": "5d9c7b8f6d"});
    pod["spec"]["containers"] = containers.into();
    let text = String::from_utf8(review::review("705ab4f5-6393-11e8-b7cc-42010a800002", &pod)).expect("text");
    text.replace("\"namespace\":\"default\"", &format!("\"namespace\":\"{namespace}\"")).into_bytes()
}

/// Returns the milliseconds from the due time of each request to its response, at a fixed rate.
fn response_times_at_rate(address: SocketAddr, body: &[u8], seconds: u32) -> Vec<f64> {
    let interval = Duration::from_secs(1) * CONNECTIONS / RATE_PER_S;
    let count = RATE_PER_S * seconds / CONNECTIONS;
    each_connection(|number| {
        let mut caller = Caller::local(address).expect("connect");
        let began = Instant::now() + interval * number / CONNECTIONS;
        let one = |turn: u32| {
            let due = began + interval * turn;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            caller.request("POST", "/mutate?timeout=3s", body).expect("an answer");
            due.elapsed().as_secs_f64() * 1e3
        };
        (0..count).map(one).collect()
    })
}

/// Returns the requests per second, sent one after the other on each connection.
fn throughput(address: SocketAddr, body: &[u8], seconds: u32) -> f64 {
    let counts = each_connection(|_| {
        let mut caller = Caller::local(address).expect("connect");
        let (began, mut count) = (Instant::now(), 0.0);
        while began.elapsed() < Duration::from_secs(seconds.into()) {
            caller.request("POST", "/mutate?timeout=3s", body).expect("an answer");
            count += 1.0;
        }
        vec![count / began.elapsed().as_secs_f64()]
    });
    counts.iter().sum()
}

fn each_connection(work: impl Fn(u32) -> Vec<f64> + Sync) -> Vec<f64> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..CONNECTIONS).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no failure")).collect()
    })
}

fn rss_mb(pid: u32) -> f64 {
    proc_memory_kb(&format!("/proc/{pid}/status"), "VmRSS:") / 1024.0
}
