//! What an admission costs: the real program over TLS connections that are kept, as an API server keeps them.
//!
//! The peer is a bare server of hyper and rustls in a process of its own, which takes and sends as many bytes; both are
//! measured in turns. Figures stand in docs/benchmarks.md. `PORTICO_BENCH_QUICK`: short rounds.

// A benchmark's report is its output.
#![allow(clippy::print_stdout)]

#[path = "../tests/fixture/caller.rs"]
#[allow(dead_code)]
mod caller;
#[path = "serve/echo.rs"]
mod echo;
#[path = "../tests/fixture/pod.rs"]
#[allow(dead_code)]
mod pod;
#[path = "../tests/fixture/program.rs"]
#[allow(dead_code)]
mod program;

use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use caller::Caller;
use echo::Echo;
use program::{Folder, Webhook};
use serde_json::{Value, json};

const CONNECTIONS: u32 = 4;
const RATE_PER_S: u32 = 500;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--echo") {
        return echo::run(&arguments[at + 1]);
    }
    let names: Vec<&String> = arguments[1..].iter().filter(|name| !name.starts_with("--")).collect();
    if !names.is_empty() && !names.iter().any(|name| "serve".contains(&***name)) {
        return;
    }
    let quick = std::env::var_os("PORTICO_BENCH_QUICK").is_some();
    let (rounds, seconds) = if quick { (1, 1) } else { (3, 5) };

    let folder = Folder::new();
    let manifest = services(0..100, 50);
    let began = Instant::now();
    let webhook = Webhook::on_manifests(&folder, &manifest, &[]);
    println!(
        "start to ready, 5,000 services in 100 namespaces: {:.0} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    let large = review("ns-7");
    println!("a pod with 3 containers, 50 services in its namespace, {RATE_PER_S} requests/s:");
    for _ in 0..rounds {
        report("portico-webhook", paced(webhook.address, &large, seconds));
    }
    println!("memory after that: {:.1} MB", rss_mb(webhook.pid()));
    let mut caller = Caller::local(webhook.address).expect("connect");
    for number in 0..100 {
        caller.review(&review(&format!("ns-{number}"))).expect("an answer");
    }
    println!("and after an admission in each namespace: {:.1} MB", rss_mb(webhook.pid()));
    drop(webhook);

    // One namespace of those has 20 services.
    let webhook =
        Webhook::on_manifests(&folder, &(services(0..1, 20) + &services(1..100, 50)), &["--mode", "inline"]);
    let body = review("ns-0");
    let answer = Caller::local(webhook.address).and_then(|mut caller| caller.ask("POST", "/mutate", &body));
    let answer_len = answer.expect("an answer").2.len();
    let echo = Echo::start(answer_len);
    println!("\ninline, 20 services, {} bytes in, {answer_len} out; {CONNECTIONS} connections:", body.len());
    for _ in 0..rounds {
        for (name, address) in
            [("portico-webhook", webhook.address), ("peer: bare hyper and rustls", echo.address)]
        {
            report(&format!("{name}, {RATE_PER_S}/s"), paced(address, &body, seconds));
            let per_s = throughput(address, &body, seconds);
            println!("  {name}, as many as go: {per_s:.0} requests/s");
        }
    }
}

/// Services in namespaces, each with one named port.
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

/// The review of a pod as a Deployment makes it.
fn review(namespace: &str) -> Vec<u8> {
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example/some/image:1.2.3", "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "A", "value": "$(SERVICE_01_SERVICE_HOST)"}, {"name": "B", "value": "b"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]})
    };
    let containers: Vec<Value> = ["one", "two", "three"].map(container).to_vec();
    let mut pod = pod::pod("web-5d9c7b8f6d-x2x7k");
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["labels"] = json!({"app": "web", "pod-template-hash": "5d9c7b8f6d"});
    pod["spec"]["containers"] = containers.into();
    let text = String::from_utf8(pod::review("705ab4f5-6393-11e8-b7cc-42010a800002", &pod)).expect("text");
    text.replace("\"namespace\":\"default\"", &format!("\"namespace\":\"{namespace}\"")).into_bytes()
}

/// Milliseconds from when each request was due to its answer, at a fixed rate.
fn paced(address: SocketAddr, body: &[u8], seconds: u32) -> Vec<f64> {
    let interval = Duration::from_secs(1) * CONNECTIONS / RATE_PER_S;
    let count = RATE_PER_S * seconds / CONNECTIONS;
    each_connection(|number| {
        let mut caller = Caller::local(address).expect("connect");
        let began = Instant::now() + interval * number / CONNECTIONS;
        let one = |turn: u32| {
            let due = began + interval * turn;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            caller.ask("POST", "/mutate?timeout=3s", body).expect("an answer");
            due.elapsed().as_secs_f64() * 1e3
        };
        (0..count).map(one).collect()
    })
}

/// Requests each second, one after the other on each connection.
fn throughput(address: SocketAddr, body: &[u8], seconds: u32) -> f64 {
    let counts = each_connection(|_| {
        let mut caller = Caller::local(address).expect("connect");
        let (began, mut count) = (Instant::now(), 0.0);
        while began.elapsed() < Duration::from_secs(seconds.into()) {
            caller.ask("POST", "/mutate?timeout=3s", body).expect("an answer");
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

fn report(name: &str, mut times_ms: Vec<f64>) {
    times_ms.sort_by(f64::total_cmp);
    let at = |share: f64| times_ms[((times_ms.len() - 1) as f64 * share) as usize];
    println!("  {name}: p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms", at(0.5), at(0.99), at(1.0));
}

fn rss_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of the webhook");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib / 1024.0
}
