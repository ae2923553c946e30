//! The time from a new service at the API server until all pods resolve its name.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use bench_report::{Sheet, Spread, Verdict};
use hickory_proto::rr::RecordType;
use serde_json::json;
use test_support::agent::AgentDir;
use test_support::agent_dns::wait_until_armed;
use test_support::apiserver::ApiServer;
use test_support::dns::query;
use test_support::pod::Pod;

use super::node::{DNS, Dns, add_routes, attach, kube_dns, start_agent};
use super::queries::{connect, has_records};
use crate::kube_proxy_process::create_objects;

/// The pause between two changes, so that each begins a new burst.
const PAUSE: Duration = Duration::from_millis(30);
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn measure(sheet: &Sheet, services: usize, pods: usize, changes: usize) {
    let api = ApiServer::double();
    create_objects(&api, services);
    api.put(kube_dns());
    let dir = AgentDir::new();
    let agent = start_agent(&dir, &api, &["--portals", "all", "--dns"]);
    let pods: Vec<Pod> = (0..pods).map(|_| Pod::new()).collect();
    for (number, pod) in pods.iter().enumerate() {
        add_routes(pod);
        attach(&agent, &format!("p{number}"), pod, Dns::On);
    }
    wait_until_armed(&agent, pods.len());
    let clients: Vec<UdpSocket> =
        pods.iter().map(|pod| pod.within(|| connect(&format!("{DNS}:53")))).collect();
    let took = Spread::of((0..changes).map(|number| change_time(&api, &clients, number)).collect());
    let title = format!("a new service in DNS, {services} services");
    let table = sheet.rows("change", &title, "ms");
    let row = format!("from the API server to the answers of all {} pods", pods.len());
    table.put(&row, &took, &[Verdict::at_most("ms", took.median, 10.0)]);
}

fn change_time(api: &ApiServer, clients: &[UdpSocket], number: usize) -> f64 {
    let name = format!("new{number}");
    let service = json!({"kind": "Service", "metadata": {"name": name, "namespace": "n0"},
        "spec": {"clusterIP": format!("10.0.200.{}", number + 1), "ports": [{"port": 80, "protocol": "TCP"}]}});
    let question = query(1, &format!("{name}.n0.svc.cluster.local."), RecordType::A);
    thread::sleep(PAUSE);
    let start = Instant::now();
    api.put(service);
    let (mut left, mut buffer): (Vec<&UdpSocket>, _) = (clients.iter().collect(), [0; 1_232]);
    while !left.is_empty() {
        assert!(start.elapsed() < TIMEOUT, "the name does not resolve");
        for client in &left {
            client.send(&question).expect("send");
        }
        left.retain(|client| {
            let length = client.recv(&mut buffer).expect("a response");
            !has_records(&buffer[..length])
        });
    }
    start.elapsed().as_secs_f64() * 1e3
}
