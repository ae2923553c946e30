//! A name outside of the cluster, as glibc's `getaddrinfo` asks for it: each name of the search list until one exists,
//! types A and AAAA at the same time from one socket.
//!
//! The cluster's DNS responds after a delay. Its round trip is measured as well.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use agent_ipc::{Reply, Request};
use bench_report::{Sheet, Spread, Verdict};
use hickory_proto::rr::RecordType;
use test_support::agent::{Agent, AgentDir};
use test_support::agent_dns::{dns_attachment, wait_until_armed};
use test_support::apiserver::ApiServer;
use test_support::dns::{query, serve_upstream_after};
use test_support::namespace::run;
use test_support::pod::Pod;

use super::node::{DNS, kube_dns, start_agent};
use super::queries::{connect, exchange_times, has_records};

/// The endpoint of the cluster's DNS, which is in the pod itself.
const ENDPOINT: &str = "10.1.0.53";
const DELAY: Duration = Duration::from_millis(1);
/// The search domain that the node adds.
const NODE_DOMAIN: &str = "corp.internal";

pub(crate) fn measure(sheet: &Sheet, walks: usize) {
    let api = ApiServer::double();
    api.put(kube_dns());
    api.put(endpoint());
    let nodes = [
        ("the first name of the search list is answered", None),
        ("--no-dns-search-collapse", Some("--no-dns-search-collapse")),
    ]
    .map(|(name, argument)| (name, Node::start(&api, argument)));
    let mut samples = [(); 2].map(|()| Samples::default());
    for walk in 0..walks {
        for ((_, node), samples) in nodes.iter().zip(&mut samples) {
            node.walk(walk, samples);
        }
    }
    let spreads = samples.map(|samples| [samples.queries, samples.round_trips, samples.ms].map(Spread::of));
    let table = sheet.rows("external_queries", "an external name with 4 search domains", "queries");
    for (number, ((name, _), [queries, ..])) in nodes.iter().zip(&spreads).enumerate() {
        let target = Verdict::at_most("queries", queries.highest, 2.0);
        table.put(name, queries, (number == 0).then_some(target).as_slice());
    }
    let table = sheet.rows("external_time", "the same name, upstream with a delay of 1 ms", "round trips");
    for (number, ((name, _), [_, round_trips, _])) in nodes.iter().zip(&spreads).enumerate() {
        let target = Verdict::at_most("round trips", round_trips.median, 1.1);
        table.put(name, round_trips, (number == 0).then_some(target).as_slice());
    }
    let table = sheet.rows("external_ms", "the same name", "ms");
    for ((name, _), [.., ms]) in nodes.iter().zip(&spreads) {
        table.put(name, ms, &[]);
    }
}

fn endpoint() -> serde_json::Value {
    serde_json::json!({"kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kube-dns-a", "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"}},
        "endpoints": [{"addresses": [ENDPOINT], "conditions": {"ready": true}}],
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]})
}

#[derive(Default)]
struct Samples {
    queries: Vec<f64>,
    round_trips: Vec<f64>,
    ms: Vec<f64>,
}

/// An agent with one pod, in which the upstream is.
struct Node {
    _agent: Agent,
    pod: Pod,
    searches: Vec<String>,
    client: UdpSocket,
    upstream: UdpSocket,
    _dir: AgentDir,
}

impl Node {
    fn start(api: &ApiServer, argument: Option<&str>) -> Self {
        let dir = AgentDir::new();
        let args: Vec<&str> =
            ["--dns", "--dns-upstream-rate", "1000000"].into_iter().chain(argument).collect();
        let agent = start_agent(&dir, api, &args);
        let pod = Pod::new();
        let connect_to = |address: &str| connect(&format!("{address}:53"));
        let (client, upstream) = pod.within(|| {
            drop(serve_upstream_after(ENDPOINT, DELAY));
            run("ip", &["route", "add", "default", "dev", "lo"], "");
            (connect_to(DNS), connect_to(ENDPOINT))
        });
        let mut attachment = dns_attachment("a", &pod, &[DNS]);
        let dns = attachment.dns.as_mut().expect("a DNS configuration");
        dns.searches.push(NODE_DOMAIN.to_owned());
        let searches = dns.searches.clone();
        assert_eq!(agent.request(&Request::Attach(attachment), Some(&pod)), Reply::Done, "{}", agent.log());
        wait_until_armed(&agent, 1);
        Self { _agent: agent, pod, searches, client, upstream, _dir: dir }
    }

    fn walk(&self, number: usize, samples: &mut Samples) {
        // Each name is new, so that no cache has it.
        let name = format!("w{number}.example.com");
        let candidates =
            self.searches.iter().map(|search| format!("{name}.{search}.")).chain([format!("{name}.")]);
        let candidates: Vec<[Vec<u8>; 2]> = candidates
            .map(|name| [query(1, &name, RecordType::A), query(2, &name, RecordType::AAAA)])
            .collect();
        self.pod.within(|| {
            let round_trip =
                exchange_times(&self.upstream, &[query(1, &format!("r{name}."), RecordType::A)], 1)[0];
            let start = Instant::now();
            let queries = get_address(&self.client, &candidates);
            let us = start.elapsed().as_secs_f64() * 1e6;
            samples.queries.push(queries as f64);
            samples.round_trips.push(us / round_trip);
            samples.ms.push(us / 1e3);
        });
    }
}

/// Asks until a name has addresses, and returns the number of queries.
fn get_address(client: &UdpSocket, candidates: &[[Vec<u8>; 2]]) -> usize {
    let mut buffer = [0; 1_232];
    for (number, pair) in candidates.iter().enumerate() {
        for query in pair {
            client.send(query).expect("send");
        }
        let mut found = false;
        for _ in pair {
            let length = client.recv(&mut buffer).expect("a response");
            found |= has_records(&buffer[..length]);
        }
        if found {
            return 2 * (number + 1);
        }
    }
    panic!("no name has addresses");
}
