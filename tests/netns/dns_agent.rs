//! DNS in pods with a real agent: which queries it answers, and what serves a pod when the agent is gone.
//!
//! The cluster's DNS servers are an upstream in the pod itself, so that a test needs no other network namespace.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agent_ipc::{Attachment, Reply, Request};
use hickory_proto::rr::RecordType;
use netns_nft::DNS_ARMED_TIME;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_support::agent::{Agent, AgentDir};
use test_support::agent_dns::{armed, dns_attachment, wait_until_armed};
use test_support::dns::{Answer, UPSTREAM_ANSWER, UpstreamLog, ask, ask_tcp, query, serve_upstream, try_ask};
use test_support::manifest::service;
use test_support::namespace::{in_new_netns, run};
use test_support::pod::Pod;

/// The addresses of the cluster's DNS.
pub(crate) const DNS: &str = "10.96.0.10";
const DNS6: &str = "fd00:96::a";
/// An endpoint of the cluster's DNS.
const ENDPOINT: &str = "10.1.0.53";
const RANGES: [&str; 4] = ["--service-cidr", "10.96.0.0/16", "--service-cidr", "fd00:96::/112"];
pub(crate) const A: RecordType = RecordType::A;
/// A name outside of the cluster.
pub(crate) const EXTERNAL: &str = "www.example.com.";
/// The name of service `web`.
pub(crate) const WEB: &str = "web.default.svc.cluster.local.";
/// The timeout of a query while no server can be expected to answer.
const LOST_TIMEOUT: Duration = Duration::from_millis(20);

fn dns_manifest() -> String {
    let port = |name, protocol| format!(r#"{{"name":"{name}","port":53,"protocol":"{protocol}"}}"#);
    let ports = format!("{},{}", port("dns", "UDP"), port("dns-tcp", "TCP"));
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[
        {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"kube-dns","namespace":"kube-system"}},
          "spec":{{"clusterIP":"{DNS}","clusterIPs":["{DNS}","{DNS6}"],"ipFamilies":["IPv4","IPv6"],
                   "ipFamilyPolicy":"PreferDualStack","ports":[{ports}]}}}},
        {{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
          "metadata":{{"name":"kube-dns-1","namespace":"kube-system",
                       "labels":{{"kubernetes.io/service-name":"kube-dns"}}}},
          "ports":[{ports}],"endpoints":[{{"addresses":["{ENDPOINT}"]}}]}}]}}"#
    )
}

pub(crate) fn with_node(body: impl FnOnce(&AgentDir) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        dir.write_manifest("dns.json", &dns_manifest());
        dir.write_manifest("web.json", &service("web", "10.96.0.1", "", &["10.1.0.1"]));
        body(&dir);
    });
}

pub(crate) fn start(dir: &AgentDir, args: &[&str]) -> Agent {
    Agent::start(dir, &[&["--dns"], &RANGES[..], args].concat())
}

/// A pod with an endpoint of the cluster's DNS, and routes for both families.
pub(crate) fn pod_with_upstream() -> (Pod, UpstreamLog) {
    let pod = Pod::new();
    let log = pod.within(|| {
        let log = serve_upstream(ENDPOINT);
        run("ip", &["address", "add", "fd00:1::5/64", "dev", "lo", "nodad"], "");
        run("ip", &["route", "add", "default", "dev", "lo"], "");
        run("ip", &["-6", "route", "add", "default", "dev", "lo"], "");
        log
    });
    (pod, log)
}

pub(crate) fn attach(agent: &Agent, attachment: Attachment, pod: &Pod) {
    assert_eq!(agent.request(&Request::Attach(attachment), Some(pod)), Reply::Done, "{}", agent.log());
}

/// Attaches a pod with both nameservers, and waits until the agent answers it.
pub(crate) fn served_pod(agent: &Agent, name: &str) -> (Pod, UpstreamLog) {
    let (pod, log) = pod_with_upstream();
    let before = armed(agent);
    attach(agent, dns_attachment(name, &pod, &[DNS, DNS6]), &pod);
    wait_until_armed(agent, before + 1);
    (pod, log)
}

/// The number of conntrack entries of a pod.
fn conntrack_entries(pod: &Pod) -> usize {
    let count = "/proc/sys/net/netfilter/nf_conntrack_count";
    pod.within(|| std::fs::read_to_string(count)).expect("a number").trim().parse().expect("a number")
}

#[test]
fn names_of_services_are_answered_over_both_protocols_and_families() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, upstream) = served_pod(&agent, "a");
        pod.within(|| {
            for server in [DNS, DNS6] {
                let answers = [ask(server, WEB, A), ask_tcp(server, WEB, A).expect("an answer over TCP")];
                for answer in answers {
                    assert_eq!(
                        (answer.content(), answer.is_authoritative),
                        (Answer::of(&["10.96.0.1"]), true)
                    );
                }
            }
        });
        assert_eq!(upstream.count(), 0, "the cluster's DNS servers are not asked");
    });
}

#[test]
fn pod_of_one_family_is_served_in_a_cluster_whose_dns_has_both() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, upstream) = pod_with_upstream();
        pod.within(|| run("ip", &["-6", "route", "del", "default"], ""));
        let ipv4 = Attachment { dns: None, ..dns_attachment("a", &pod, &[]) };
        attach(&agent, ipv4, &pod);
        wait_until_armed(&agent, 1);
        pod.within(|| assert_eq!(ask(DNS, WEB, A).content(), Answer::of(&["10.96.0.1"])));
        assert_eq!(upstream.count(), 0);
    });
}

#[test]
fn name_resolves_when_its_service_exists_and_not_after_its_deletion() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = served_pod(&agent, "a");
        let name = "new.default.svc.cluster.local.";
        let code = || pod.within(|| ask(DNS, name, A)).code;
        assert_eq!(code(), "Non-Existent Domain");
        dir.write_manifest("new.json", &service("new", "10.96.0.9", "", &[]));
        agent.wait_until("the name exists", |_| code() == "No Error");
        assert_eq!(pod.within(|| ask(DNS, name, A)).content(), Answer::of(&["10.96.0.9"]));
        std::fs::remove_file(dir.manifests().join("new.json")).expect("remove the manifest");
        agent.wait_until("the name is gone", |_| code() == "Non-Existent Domain");
    });
}

#[test]
fn other_names_are_asked_from_the_network_namespace_of_the_pod() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, upstream) = served_pod(&agent, "a");
        let (udp, tcp) = pod.within(|| (ask(DNS, EXTERNAL, A), ask_tcp(DNS6, EXTERNAL, A)));
        assert_eq!(udp.content(), Answer::of(&[UPSTREAM_ANSWER]));
        assert_eq!(tcp.expect("an answer over TCP").content(), Answer::of(&[UPSTREAM_ANSWER]));
        let clients: Vec<String> = upstream.queries().iter().map(|(client, ..)| client.to_string()).collect();
        assert!(!clients.is_empty() && clients.iter().all(|client| client == ENDPOINT), "{clients:?}");
    });
}

#[test]
fn hundred_thousand_queries_leave_no_conntrack_entry() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = served_pod(&agent, "a");
        pod.within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect((DNS, 53)).expect("connect");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            let mut buffer = [0; 512];
            for id in 0..100_000_u32 {
                let message = query(u16::try_from(id % 65_536).expect("16 bits"), WEB, A);
                socket.send(&message).expect("send");
                socket.recv(&mut buffer).expect("a response");
            }
        });
        assert_eq!(conntrack_entries(&pod), 0);
    });
}

#[test]
fn queries_to_other_addresses_are_not_answered_by_the_agent() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = served_pod(&agent, "a");
        let own = pod.within(|| serve_upstream("10.1.0.99"));
        pod.within(|| drop(ask("10.1.0.99", WEB, A)));
        assert_eq!(own.count(), 1, "a nameserver of dnsConfig is reached");
    });
}

#[test]
fn pod_without_a_cluster_dns_address_is_listed_with_the_reason() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = pod_with_upstream();
        attach(&agent, dns_attachment("a", &pod, &["10.1.0.99"]), &pod);
        agent.wait_until("the pod is listed", |agent| {
            agent.status()["dns"]["unserved"][0]["reason"] == "nameservers"
        });
        assert_eq!(armed(&agent), 0);
    });
}

#[test]
fn annotation_of_a_pod_leaves_its_queries_to_the_cluster_dns() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, upstream) = pod_with_upstream();
        let annotations = BTreeMap::from([("dns".to_owned(), "off".to_owned())]);
        attach(&agent, Attachment { annotations, ..dns_attachment("a", &pod, &[DNS]) }, &pod);
        pod.within(|| drop(ask(DNS, WEB, A)));
        assert_eq!(upstream.count(), 1, "the portal of the cluster's DNS serves the pod");
        assert_eq!(agent.status()["dns"]["unserved"][0]["reason"], "annotation");
    });
}

#[test]
fn annotation_of_a_namespace_takes_effect_in_running_pods() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, upstream) = served_pod(&agent, "a");
        let namespace = |value: &str| {
            format!(
                r#"{{"apiVersion":"v1","kind":"Namespace",
                     "metadata":{{"name":"default","annotations":{{"portico.dev/dns":"{value}"}}}}}}"#
            )
        };
        dir.write_manifest("namespace.json", &namespace("off"));
        agent.wait_until("the agent no longer answers", |agent| armed(agent) == 0);
        pod.within(|| drop(ask(DNS, WEB, A)));
        assert_eq!(upstream.count(), 1, "the portal of the cluster's DNS serves the pod");
        dir.write_manifest("namespace.json", &namespace("on"));
        wait_until_armed(&agent, 1);
        pod.within(|| assert_eq!(ask(DNS, WEB, A).content(), Answer::of(&["10.96.0.1"])));
    });
}

#[test]
fn pod_that_does_not_see_a_service_does_not_resolve_its_name() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = pod_with_upstream();
        let portals = BTreeMap::from([("portals".to_owned(), "kube-system/kube-dns".to_owned())]);
        attach(&agent, Attachment { annotations: portals, ..dns_attachment("a", &pod, &[DNS]) }, &pod);
        wait_until_armed(&agent, 1);
        let reverse = "1.0.96.10.in-addr.arpa.";
        let (name, address) = pod.within(|| (ask(DNS, WEB, A), ask(DNS, reverse, RecordType::PTR)));
        assert_eq!((&*name.code, &*address.code), ("Non-Existent Domain", "Non-Existent Domain"));
        let own = pod.within(|| ask(DNS, "kube-dns.kube-system.svc.cluster.local.", A));
        assert_eq!(own.content(), Answer::of(&[DNS]));
    });
}

#[test]
fn address_outside_of_the_service_ranges_is_served_and_has_a_route() {
    with_node(|dir| {
        let agent = start(dir, &["--dns-address", "169.254.20.10"]);
        let (pod, _upstream) = pod_with_upstream();
        pod.ip(&["route", "del", "default"]);
        pod.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0-peer"]);
        pod.ip(&["link", "set", "eth0", "up"]);
        pod.ip(&["link", "set", "eth0-peer", "up"]);
        pod.ip(&["address", "add", "10.244.1.5/24", "dev", "eth0"]);
        let mut attachment = dns_attachment("a", &pod, &["169.254.20.10"]);
        attachment.key.interface = "eth0".to_owned();
        attachment.addresses = vec!["10.244.1.5".parse().expect("an address")];
        attach(&agent, attachment, &pod);
        wait_until_armed(&agent, 1);
        let answer = pod.within(|| ask("169.254.20.10", WEB, A));
        assert_eq!(answer.content(), Answer::of(&["10.96.0.1"]));
    });
}

/// Asks in a loop until the stop flag is set. Returns the number of answers, and the longest time between two answers.
fn ask_until(stop: &AtomicBool, pod: &Pod, name: &str) -> (usize, Duration) {
    pod.within(|| {
        let (mut answers, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            if try_ask(DNS, name, A, LOST_TIMEOUT).is_ok() {
                longest = longest.max(last.elapsed());
                (answers, last) = (answers + 1, Instant::now());
            }
        }
        (answers, longest.max(last.elapsed()))
    })
}

#[test]
fn portal_of_the_cluster_dns_serves_a_hundred_pods_after_the_agent_is_killed() {
    const PODS: usize = 100;
    with_node(|dir| {
        let agent = start(dir, &[]);
        let pods: Vec<(Pod, UpstreamLog)> = (0..PODS).map(|_| pod_with_upstream()).collect();
        for (number, (pod, _)) in pods.iter().enumerate() {
            attach(&agent, dns_attachment(&format!("p{number}"), pod, &[DNS, DNS6]), pod);
        }
        wait_until_armed(&agent, PODS);
        let stop = AtomicBool::new(false);
        let longest = thread::scope(|scope| {
            let loads: Vec<_> =
                pods.iter().take(4).map(|(pod, _)| scope.spawn(|| ask_until(&stop, pod, WEB))).collect();
            agent.kill();
            let killed = Instant::now();
            for (pod, _) in &pods {
                while pod.within(|| try_ask(DNS, WEB, A, LOST_TIMEOUT)).is_err() {
                    assert!(killed.elapsed() < Duration::from_secs(20), "no fallback");
                }
            }
            stop.store(true, Ordering::Relaxed);
            let longest = loads.into_iter().map(|load| load.join().expect("a load").1).max();
            longest.expect("at least one load").max(killed.elapsed())
        });
        // 1 to 2 s on a machine without other load. A busy one needs longer to end the process; the element of a table
        // that the kernel did not remove by then has expired.
        assert!(longest <= DNS_ARMED_TIME + Duration::from_secs(1), "{longest:?}");
        assert!(pods.iter().all(|(_, upstream)| upstream.count() > 0), "the cluster's DNS served each pod");
    });
}

#[test]
fn portal_of_the_cluster_dns_serves_pods_of_an_agent_that_hangs() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, upstream) = served_pod(&agent, "a");
        let pid = Pid::from_raw(agent.pid().cast_signed());
        kill(pid, Signal::SIGSTOP).expect("stop the agent");
        let stopped = Instant::now();
        // The first queries can be answered before all threads have stopped.
        while upstream.count() == 0 {
            assert!(stopped.elapsed() < Duration::from_secs(30), "no fallback");
            let _ = pod.within(|| try_ask(DNS, WEB, A, LOST_TIMEOUT));
        }
        let gap = stopped.elapsed();
        assert!(gap <= Duration::from_millis(10_500), "{gap:?}");
        kill(pid, Signal::SIGCONT).expect("continue the agent");
        agent.wait_until("the agent answers again", |_| {
            pod.within(|| ask(DNS, WEB, A)).content() == Answer::of(&["10.96.0.1"])
        });
    });
}

#[test]
fn restarted_agent_answers_its_pods_again() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = served_pod(&agent, "a");
        agent.kill();
        let agent = start(dir, &[]);
        wait_until_armed(&agent, 1);
        pod.within(|| assert_eq!(ask(DNS, WEB, A).content(), Answer::of(&["10.96.0.1"])));
    });
}

#[test]
fn no_query_is_lost_when_the_agent_stops() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = served_pod(&agent, "a");
        let stop = AtomicBool::new(false);
        let lost = thread::scope(|scope| {
            let load = scope.spawn(|| lost_queries(&stop, &pod));
            agent.wait_until("the load runs", |_| pod.within(|| ask(DNS, WEB, A)).code == "No Error");
            assert!(agent.terminate().success());
            pod.within(|| drop(ask(DNS, WEB, A)));
            stop.store(true, Ordering::Relaxed);
            load.join().expect("a load")
        });
        assert_eq!(lost.1, 0, "of {}", lost.0);
    });
}

/// Asks in a loop until the stop flag is set. Returns the number of queries, and of those without an answer.
fn lost_queries(stop: &AtomicBool, pod: &Pod) -> (usize, usize) {
    pod.within(|| {
        let (mut asked, mut lost) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            asked += 1;
            // The test of 100,000 queries has the highest rate; this one leaves the CPU to other tests.
            thread::sleep(Duration::from_micros(500));
            lost += usize::from(try_ask(DNS, WEB, A, Duration::from_secs(2)).is_err());
        }
        (asked, lost)
    })
}

#[test]
fn no_query_is_lost_at_a_handover() {
    with_node(|dir| {
        let first = start(dir, &[]);
        let (pod, upstream) = served_pod(&first, "a");
        let stop = AtomicBool::new(false);
        let (asked, lost) = thread::scope(|scope| {
            let load = scope.spawn(|| lost_queries(&stop, &pod));
            let second = start(dir, &["--take-over"]);
            wait_until_armed(&second, 1);
            second.wait_until("the takeover is complete", |agent| agent.log().contains("takeover complete"));
            first.wait_until("the first agent stands by", |agent| agent.log().contains("standing by"));
            pod.within(|| assert_eq!(ask(DNS, WEB, A).content(), Answer::of(&["10.96.0.1"])));
            let since = Instant::now();
            second.wait_until("the last renewal of the first agent has expired", |_| {
                since.elapsed() > DNS_ARMED_TIME + Duration::from_secs(1)
            });
            stop.store(true, Ordering::Relaxed);
            load.join().expect("a load")
        });
        assert_eq!(
            (lost, upstream.count()),
            (0, 0),
            "of {asked}: none is lost, none was left to the fallback"
        );
    });
}
