//! Attacks on the agent by a tenant or a pod do not prevent other pods from starting.
//!
//! Each test attacks a real agent and measures how long the attachment of other pods takes.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_nft::encode;
use proxy_core::plan::plan;
use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::Ruleset;
use proxy_core::sample::{snapshot, svc};
use proxy_core::snapshot::Change;
use test_support::agent;
use test_support::agent::{Agent, AgentDir};
use test_support::namespace::{add_address, in_new_netns, run};
use test_support::pod::Pod;
use test_support::proc_memory::proc_memory_kb;

/// The limit of the median. A single attachment can be scheduled late on a busy machine.
const ATTACH_MAX: Duration = Duration::from_millis(500);
/// The limit of each attachment. The agent reads a pod's table for at most two seconds and then repairs it, so an
/// attachment that waited for an audit thread would take longer.
const SLOWEST_MAX: Duration = Duration::from_secs(2);
/// The limit of the growth of the agent's memory during an attack, in KB.
const GROWTH_MAX_KB: f64 = 16_384.0;

/// Runs `body` on a node.
fn with_node(body: impl FnOnce(&AgentDir) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        body(&AgentDir::new());
    });
}

/// A UDP service at 10.96.0.10:53 with this backend at port 5353.
fn dns_manifest(backend: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[
        {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"dns"}},
          "spec":{{"clusterIP":"10.96.0.10","ports":[{{"port":53,"protocol":"UDP"}}]}}}},
        {{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
          "metadata":{{"name":"dns-1","labels":{{"kubernetes.io/service-name":"dns"}}}},
          "ports":[{{"name":"","port":5353,"protocol":"UDP"}}],"endpoints":[{{"addresses":["{backend}"]}}]}}]}}"#
    )
}

fn resident_kb(agent: &Agent) -> f64 {
    proc_memory_kb(&format!("/proc/{}/status", agent.pid()), "VmRSS:")
}

/// Pods that are not attacked, and the time that the attachment of each took.
#[derive(Default)]
struct HonestPods {
    pods: Vec<Pod>,
    took: Vec<Duration>,
}

impl HonestPods {
    /// Attaches some pods, one after the other.
    fn attach(&mut self, agent: &Agent, name: &str) {
        for _ in 0..8 {
            let pod = Pod::new();
            let start = Instant::now();
            agent.attach(&format!("{name}-{}", self.pods.len()), &pod);
            self.took.push(start.elapsed());
            self.pods.push(pod);
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn median_time(&self) -> Duration {
        let mut sorted = self.took.clone();
        sorted.sort();
        sorted[sorted.len() / 2]
    }

    fn slowest_time(&self) -> Duration {
        self.took.iter().copied().max().expect("some attaches")
    }

    /// Asserts that the attachments took no longer than the limits.
    fn assert_fast(&self, attack: &str) {
        let (median, slowest) = (self.median_time(), self.slowest_time());
        assert!(median < ATTACH_MAX, "{attack}: the median of {} attaches is {median:?}", self.took.len());
        assert!(slowest < SLOWEST_MAX, "{attack}: an attach took {slowest:?}");
    }
}

/// A pod with a UDP flow to the service, and with both backends of the service.
struct Client {
    pod: Pod,
    socket: UdpSocket,
    backends: [UdpSocket; 2],
}

impl Client {
    fn new(agent: &Agent, name: &str) -> Self {
        let pod = Pod::new();
        agent.attach(name, &pod);
        let (socket, backends) = pod.within(|| {
            let backends = ["10.1.0.1", "10.1.0.2"].map(|address| {
                add_address(address);
                let backend = UdpSocket::bind((address, 5353)).expect("bind a backend");
                backend.set_nonblocking(true).expect("do not wait");
                backend
            });
            run("ip", &["route", "add", "default", "dev", "lo"], "");
            let socket = UdpSocket::bind("10.1.0.1:0").expect("bind the client");
            socket.connect("10.96.0.10:53").expect("connect");
            socket.send(b"x").expect("send");
            (socket, backends)
        });
        Self { pod, socket, backends }
    }

    /// Returns whether this backend receives the client's datagrams.
    fn reaches(&self, backend: usize) -> bool {
        self.socket.send(b"x").expect("send");
        self.backends[backend].recv(&mut [0; 1]).is_ok()
    }
}

fn a_flapping_udp_service_delays_no_attach(portals: &str) {
    with_node(|dir| {
        dir.write_manifest("dns.json", &dns_manifest("10.1.0.1"));
        let agent = Agent::start(dir, &["--service-cidr", "10.96.0.0/16", "--portals", portals]);
        let clients: Vec<Client> =
            (0..60).map(|number| Client::new(&agent, &format!("client-{number}"))).collect();
        let revision = |agent: &Agent| agent.status()["views"]["all"]["revision"].as_u64().expect("a number");
        let (stop, mut innocent) = (AtomicBool::new(false), HonestPods::default());
        let (first, before, began) = (revision(&agent), resident_kb(&agent), Instant::now());
        thread::scope(|scope| {
            let flap = scope.spawn(|| {
                for backend in ["10.1.0.2", "10.1.0.1"].into_iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    dir.write_manifest("dns.json", &dns_manifest(backend));
                    thread::sleep(Duration::from_millis(50));
                }
            });
            // Long enough for a queue to build up.
            thread::sleep(Duration::from_secs(3));
            innocent.attach(&agent, "innocent");
            stop.store(true, Ordering::Relaxed);
            flap.join().expect("the service flaps");
        });
        let rate = (revision(&agent) - first) as f64 / began.elapsed().as_secs_f64();
        let grown = resident_kb(&agent) - before;
        innocent.assert_fast(&format!("{portals}, {rate:.1} changes a second"));
        assert!(rate > 5.0, "the service changed {rate:.1} times a second only");
        assert!(grown < GROWTH_MAX_KB, "{portals}: the agent's memory grew by {grown} KB");
        // Eventually each flow moves to the new backend.
        dir.write_manifest("dns.json", &dns_manifest("10.1.0.2"));
        let mut left: Vec<&Client> = clients.iter().collect();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !left.is_empty() {
            left.retain(|client| !client.pod.within(|| client.reaches(1)));
            assert!(Instant::now() < deadline, "{portals}: {} flows were not moved", left.len());
            thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn on_demand_pod_starts_within_500_ms_while_a_udp_service_flaps() {
    a_flapping_udp_service_delays_no_attach("on-demand");
}

#[test]
fn pod_with_all_portals_starts_within_500_ms_while_a_udp_service_flaps() {
    a_flapping_udp_service_delays_no_attach("all");
}

/// A batch that adds 200,000 portals to the table of a pod with one portal, which rejects.
fn batch_of_200_000_portals(current: &Ruleset) -> netns_nft::Batch {
    let services = (0..2_000_u32).map(|number| {
        let [_, _, high, low] = number.to_be_bytes();
        let service = svc(&format!("s{number}")).ip(&format!("10.97.{high}.{low}"));
        let ports = 1..=100_u16;
        Change::from(ports.fold(service, |service, port| service.tcp(&format!("p{port}"), port)))
    });
    let refused = Change::from(svc("refused").ip("10.96.0.1").tcp("", 80));
    let crowded = portals(&snapshot(services.chain([refused])), &NodeContext::default());
    encode(&plan(current, &Ruleset::new(&crowded, current.settings().expect("settings"))))
}

/// The CPU time that the agent has used.
fn cpu_time(agent: &Agent) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).expect("read its times");
    let (_, fields) = stat.rsplit_once(')').expect("the name ends");
    // utime and stime, in hundredths of a second (proc(5)).
    let ticks =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

fn repair_count(agent: &Agent) -> u64 {
    agent.status()["counts"]["repairs"].as_u64().expect("a number")
}

#[test]
fn pod_starts_within_500_ms_while_other_pods_fill_their_tables() {
    const PODS: u64 = 20;
    with_node(|dir| {
        // The service has no endpoints, so the pods add only elements.
        let refused = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"refused"},
            "spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}"#;
        dir.write_manifest("refused.json", refused);
        let agent = Agent::start(dir, &["--portals", "all", "--audit-interval", "5"]);
        let pods: Vec<Pod> = (0..PODS).map(|_| Pod::new()).collect();
        pods.iter().enumerate().for_each(|(number, pod)| agent.attach(&format!("crowded-{number}"), pod));
        let service = Change::from(svc("refused").ip("10.96.0.1").tcp("", 80));
        let crowd = batch_of_200_000_portals(&Ruleset::new(
            &portals(&snapshot([service]), &NodeContext::default()),
            Default::default(),
        ));
        let mut before = HonestPods::default();
        before.attach(&agent, "before");
        before.assert_fast("without an attack");
        for pod in &pods {
            pod.netns.socket().expect("a socket in the pod").apply(&crowd).expect("fill the table");
        }
        let (began, mut innocent) = (cpu_time(&agent), HonestPods::default());
        let deadline = Instant::now() + agent::TIMEOUT;
        while repair_count(&agent) < PODS {
            innocent.attach(&agent, "innocent");
            assert!(Instant::now() < deadline, "{} of {PODS} pods were repaired", repair_count(&agent));
        }
        let each = (cpu_time(&agent) - began).div_f64(PODS as f64);
        let peak = proc_memory_kb(&format!("/proc/{}/status", agent.pid()), "VmHWM:");
        innocent.assert_fast("crowded tables");
        assert!(peak < 131_072.0, "the agent's memory peaked at {peak} KB");
        assert!(each < Duration::from_millis(500), "the detection and repair of a full table took {each:?}");
        let log = agent.log();
        assert!(log.contains(r#"set \"portals4\" contains more than the 1 elements"#), "{log}");
    });
}
