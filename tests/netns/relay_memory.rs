//! A real agent with a memory limit: the connections of one pod neither kill it nor affect other pods.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use proxy_core::sample::backend;
use serde_json::Value;
use test_support::agent::{Agent, AgentDir};
use test_support::backend_pod::pod_with_backends;
use test_support::backend_server::backend_of;
use test_support::manifest::{RELAYED, service};
use test_support::memory_cgroup::MemoryCgroup;
use test_support::namespace::{add_address, in_new_netns, run};
use test_support::own_process;
use test_support::pod::Pod;

const MIB: u64 = 1 << 20;
/// A service whose backend accepts every connection and reads nothing.
const HOLDING: &str = "10.96.0.2:80";
const ANSWERING: &str = "10.96.0.1:80";

/// Runs `body` with an agent with this memory limit, a pod that attacks and another pod.
fn with_memory_limit(limit: u64, body: impl FnOnce(&Agent, &dyn Fn() -> f64, &Pod, &Pod) + Send) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit");
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let (dir, group) = (AgentDir::new(), MemoryCgroup::new(limit));
        dir.write_manifest("a.json", &service("answering", "10.96.0.1", RELAYED, &["10.1.0.1"]));
        dir.write_manifest("b.json", &service("holding", "10.96.0.2", RELAYED, &["10.1.0.9"]));
        let manifests = dir.manifests();
        group.count_tcp();
        let args = ["--manifests", manifests.to_str().expect("a path")];
        let agent = Agent::start_through(&dir, &group.launcher().each_ref().map(String::as_str), &args);
        let pods = [pod_with_backends(), pod_with_backends()];
        agent.attach("attacker", &pods[0]);
        agent.attach("other", &pods[1]);
        let used = || group.charged_with_tcp() as f64 / limit as f64;
        body(&agent, &used, &pods[0], &pods[1]);
    });
}

/// Starts a backend in the pod that accepts connections and reads nothing.
fn start_silent_backend(pod: &Pod) {
    let listener = pod.within(|| {
        add_address("10.1.0.9");
        TcpListener::bind("10.1.0.9:8080").expect("listen")
    });
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
}

fn connections(agent: &Agent) -> Value {
    agent.status()["relay"]["connections"].clone()
}

#[test]
fn agent_with_48_mib_survives_5000_idle_connections_of_one_pod() {
    own_process!(|| {
        const CLIENTS: usize = 5_000;
        with_memory_limit(48 * MIB, |agent, used, attacker, other| {
            start_silent_backend(attacker);
            let connect = |_| TcpStream::connect(backend(HOLDING)).ok();
            let clients: Vec<TcpStream> = attacker.within(|| (0..CLIENTS).filter_map(connect).collect());
            assert!(clients.len() > CLIENTS / 2, "{} connected", clients.len());
            agent.wait_until("some are refused", |agent| {
                agent.status()["relay"]["refused"]["pod"].as_u64() > Some(1_000)
            });
            assert!(connections(agent).as_u64() >= Some(100), "some are served: {}", connections(agent));
            assert!(used() < 0.9, "{:.2} of the limit", used());
            assert_eq!(other.within(|| backend_of(ANSWERING)), "a", "another pod is served");
            eprintln!(
                "IDLE used {:.3} connections {} relay {}",
                used(),
                connections(agent),
                agent.status()["relay"]["refused"]
            );
        });
    });
}

#[test]
fn stalled_connections_of_one_pod_stay_within_the_memory_limit_of_the_chart() {
    own_process!(|| {
        const CLIENTS: usize = 400;
        with_memory_limit(512 * MIB, |agent, used, attacker, other| {
            start_silent_backend(attacker);
            let connect = |_| {
                let stream = TcpStream::connect(backend(HOLDING)).ok()?;
                // Keeps the memory of the clients small, which is not measured.
                setsockopt(&stream, sockopt::SndBuf, &(32 << 10)).expect("a small buffer");
                stream.set_nonblocking(true).expect("do not wait");
                Some(stream)
            };
            let mut clients: Vec<TcpStream> = attacker.within(|| (0..CLIENTS).filter_map(connect).collect());
            let (zeros, mut most) = (vec![0; 64 << 10], 0.0_f64);
            let mut moved = Instant::now();
            // Until no connection accepts more bytes.
            while moved.elapsed() < Duration::from_secs(1) {
                for client in &mut clients {
                    if client.write(&zeros).is_ok_and(|bytes| bytes > 0) {
                        moved = Instant::now();
                    }
                }
                most = most.max(used());
            }
            assert!(most < 0.9, "{most:.2} of the limit");
            assert_eq!(other.within(|| backend_of(ANSWERING)), "a", "another pod is served");
            let relay = agent.status()["relay"].clone();
            let open = relay["connections"].as_u64().expect("a number");
            assert!(open >= 30, "most were refused: {open}; {most:.2} of the limit");
        });
    });
}
