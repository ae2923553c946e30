//! The relay in a real agent: failed backends, held connections, on-demand portals, and the handover between agents.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use netns_nft::TableState;
use proxy_core::sample::backend;
use serde_json::Value;
use test_support::agent;
use test_support::agent::{Agent, AgentDir, TIMEOUT};
use test_support::backend_pod::pod_with_backends;
use test_support::backend_server::{
    REPLY_TIMEOUT, assert_refused, backend_of, serve, serve_outside, try_backend_of,
};
use test_support::manifest::{RELAYED, service};
use test_support::namespace::{add_address, in_new_netns, run};
use test_support::pod::Pod;
use test_support::program::program;

const RANGE: [&str; 2] = ["--service-cidr", "10.96.0.0/16"];

fn with_node(body: impl FnOnce(&AgentDir) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        body(&AgentDir::new());
    });
}

fn reply(pod: &Pod, portal: &str) -> String {
    pod.within(|| backend_of(portal))
}

/// The report on the relayed portals of the only pod.
fn relayed_portals(agent: &Agent) -> Vec<Value> {
    let status = agent.status();
    let namespaces = status["relay"]["namespaces"].as_array().expect("a list").clone();
    namespaces.first().and_then(|netns| netns["portals"].as_array().cloned()).unwrap_or_default()
}

/// The portals in the pod's table.
fn programmed_portals(pod: &Pod) -> BTreeSet<String> {
    let socket = pod.netns.socket().expect("a socket");
    let TableState::Intact(table) = socket.read_table().expect("read the table") else {
        panic!("no intact table")
    };
    table.portals.keys().map(ToString::to_string).collect()
}

#[test]
fn dead_backend_is_invisible_to_clients() {
    with_node(|dir| {
        dir.write_manifest(
            "web.json",
            &service("web", "10.96.0.1", RELAYED, &["10.1.0.1", "10.1.0.7", "10.1.0.2"]),
        );
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        for _ in 0..10 {
            assert_eq!(reply(&pod, "10.96.0.1:80"), "a");
            assert_eq!(reply(&pod, "10.96.0.1:80"), "b");
        }
        let portals = relayed_portals(&agent);
        assert_eq!(portals[0]["service"], "default/web");
        assert_eq!((&portals[0]["connections"], &portals[0]["failed"]), (&Value::from(20), &Value::from(0)));
        let dead = &portals[0]["backends"].as_array().expect("a list")[2];
        assert_eq!(
            (&dead["backend"], &dead["isEjected"]),
            (&Value::from("10.1.0.7:8080"), &Value::from(true))
        );
    });
}

#[test]
fn top_shows_traffic_and_ejected_backends() {
    with_node(|dir| {
        dir.write_manifest(
            "web.json",
            &service("web", "10.96.0.1", RELAYED, &["10.1.0.1", "10.1.0.7", "10.1.0.2"]),
        );
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        let top = || {
            let socket = dir.socket();
            run(
                program("portico").to_str().expect("a path"),
                &["top", "-n", "1", "--interval", "0.1", "--socket", socket.to_str().expect("a path")],
                "",
            )
        };
        assert!(top().contains("no relayed connections yet"), "{}", top());
        (0..3).for_each(|_| drop(reply(&pod, "10.96.0.1:80")));
        let output = top();
        for text in ["10.96.0.1/TCP/80", "default/web", "2 of 3 up", "10.1.0.7:8080", "ejected (failures: 1)"]
        {
            assert!(output.contains(text), "{text} is not in\n{output}");
        }
    });
}

#[test]
fn held_connection_is_served_once_a_backend_appears() {
    with_node(|dir| {
        let held = r#""portico.dev/hold":"20s""#;
        dir.write_manifest("web.json", &service("web", "10.96.0.1", held, &[]));
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        let waiting = thread::scope(|scope| {
            let waiting = scope.spawn(|| reply(&pod, "10.96.0.1:80"));
            agent.wait_until("the connection is pending", |agent| {
                agent.status()["relay"]["namespaces"][0]["pending"] == 1
            });
            dir.write_manifest("web.json", &service("web", "10.96.0.1", held, &["10.1.0.2"]));
            waiting.join().expect("an answer")
        });
        assert_eq!(waiting, "b");
        // Now that the portal has a backend, the kernel serves it.
        agent.wait_until_converged(2);
        assert_eq!(reply(&pod, "10.96.0.1:80"), "b");
        assert_eq!(relayed_portals(&agent)[0]["connections"], 1);
    });
}

#[test]
fn on_demand_portal_is_relayed_once_and_then_served_by_the_kernel() {
    with_node(|dir| {
        dir.write_manifest("web.json", &service("web", "10.96.0.1", "", &["10.1.0.1"]));
        dir.write_manifest("db.json", &service("db", "10.96.0.2", "", &["10.1.0.2"]));
        let agent = Agent::start(dir, &[&["--portals", "on-demand"], &RANGE[..]].concat());
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        assert_eq!(programmed_portals(&pod), BTreeSet::new());
        assert_eq!(reply(&pod, "10.96.0.1:80"), "a");
        agent.wait_until("the portal is programmed", |_| {
            programmed_portals(&pod).contains("10.96.0.1/TCP/80")
        });
        for _ in 0..5 {
            assert_eq!(reply(&pod, "10.96.0.1:80"), "a");
        }
        assert_eq!(relayed_portals(&agent)[0]["connections"], 1);
        assert!(!programmed_portals(&pod).contains("10.96.0.2/TCP/80"), "no client used it");
        // An active portal follows its backends.
        dir.write_manifest("web.json", &service("web", "10.96.0.1", "", &["10.1.0.2"]));
        agent.wait_until_converged(2);
        assert_eq!(reply(&pod, "10.96.0.1:80"), "b");
        assert_eq!(relayed_portals(&agent)[0]["connections"], 1);
    });
}

#[test]
fn on_demand_udp_portal_is_relayed_once_and_then_served_by_the_kernel() {
    with_node(|dir| {
        dir.write_manifest("dns.json", &service("dns", "10.96.0.3", "", &["10.1.0.3"]));
        let agent = Agent::start(dir, &[&["--portals", "on-demand"], &RANGE[..]].concat());
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        pod.within(|| {
            add_address("10.1.0.3");
            let server = UdpSocket::bind("10.1.0.3:8080").expect("bind");
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((bytes, client)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..bytes], client);
                }
            });
        });
        let asked = || {
            pod.within(|| {
                let client = UdpSocket::bind("0.0.0.0:0").expect("bind");
                client.set_read_timeout(Some(REPLY_TIMEOUT)).expect("a time-out");
                client.send_to(b"who", "10.96.0.3:80").expect("send");
                let mut buffer = [0; 64];
                let (bytes, from) = client.recv_from(&mut buffer).expect("an answer");
                (buffer[..bytes].to_vec(), from.to_string())
            })
        };
        assert_eq!(asked(), (b"who".to_vec(), "10.96.0.3:80".to_owned()));
        agent.wait_until("the portal is programmed", |_| {
            programmed_portals(&pod).contains("10.96.0.3/UDP/80")
        });
        assert_eq!(asked(), (b"who".to_vec(), "10.96.0.3:80".to_owned()));
        assert_eq!(relayed_portals(&agent)[0]["connections"], 1);
    });
}

#[test]
fn without_agent_active_portals_work_and_inactive_ones_are_rejected_at_once() {
    with_node(|dir| {
        dir.write_manifest("web.json", &service("web", "10.96.0.1", "", &["10.1.0.1"]));
        dir.write_manifest("db.json", &service("db", "10.96.0.2", "", &["10.1.0.2"]));
        let args = [&["--portals", "on-demand"], &RANGE[..]].concat();
        let agent = Agent::start(dir, &args);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        assert_eq!(reply(&pod, "10.96.0.1:80"), "a");
        agent.wait_until("the portal is programmed", |_| {
            programmed_portals(&pod).contains("10.96.0.1/TCP/80")
        });
        agent.kill();
        assert_eq!(reply(&pod, "10.96.0.1:80"), "a");
        pod.within(|| assert_refused("10.96.0.2:80"));
        // The next agent recovers the active portals from the table.
        let agent = Agent::start(dir, &args);
        agent.wait_until_converged(1);
        assert!(programmed_portals(&pod).contains("10.96.0.1/TCP/80"));
        assert_eq!(reply(&pod, "10.96.0.1:80"), "a");
        assert_eq!(reply(&pod, "10.96.0.2:80"), "b");
        assert_eq!(
            relayed_portals(&agent).len(),
            1,
            "only the first connection to the second portal was relayed"
        );
    });
}

#[test]
fn on_demand_unassigned_address_is_never_forwarded() {
    with_node(|dir| {
        dir.write_manifest("web.json", &service("web", "10.96.0.1", "", &["10.1.0.1"]));
        let agent = Agent::start(dir, &[&["--portals", "on-demand"], &RANGE[..]].concat());
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        pod.within(|| {
            // A process listens on an unassigned address of the service range.
            serve_outside("other", "10.96.9.9:80");
            let end = try_backend_of("10.96.9.9:80", REPLY_TIMEOUT);
            assert!(matches!(&end, Err(why) if why.kind() == ErrorKind::ConnectionReset), "{end:?}");
        });
        // The relay resets the first connection to an unused port; the kernel rejects all later ones.
        pod.within(|| try_backend_of("10.96.0.1:81", REPLY_TIMEOUT).expect_err("no such portal"));
        agent.wait_until("the address is programmed", |_| {
            programmed_portals(&pod).contains("10.96.0.1/TCP/80")
        });
        pod.within(|| assert_refused("10.96.0.1:81"));
    });
}

#[test]
fn on_demand_portal_without_backend_is_rejected_by_the_kernel_after_its_first_use() {
    with_node(|dir| {
        dir.write_manifest("web.json", &service("web", "10.96.0.1", RELAYED, &[]));
        let agent = Agent::start(dir, &[&["--portals", "on-demand"], &RANGE[..]].concat());
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        pod.within(|| try_backend_of("10.96.0.1:80", REPLY_TIMEOUT).expect_err("no backend"));
        agent.wait_until("the portal is programmed", |_| {
            programmed_portals(&pod).contains("10.96.0.1/TCP/80")
        });
        pod.within(|| assert_refused("10.96.0.1:80"));
    });
}

#[test]
fn detaching_a_pod_closes_its_relayed_connections() {
    with_node(|dir| {
        dir.write_manifest("web.json", &service("web", "10.96.0.1", RELAYED, &["10.1.0.4"]));
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        let (mut client, mut server) = open_relayed_connection(&pod, "10.1.0.4:8080");
        client.write_all(b"x").expect("send");
        server.read_exact(&mut [0]).expect("receive");
        assert_eq!(agent.status()["relay"]["connections"], 1);
        agent.request(&agent_ipc::Request::Detach { key: agent::key("a") }, None);
        agent.wait_until("no connection is left", |agent| agent.status()["relay"]["connections"] == 0);
        assert_eq!(server.read(&mut [0]).unwrap_or(0), 0, "the connection to the backend is closed, too");
    });
}

/// A connection of the pod through the portal, and the socket of its backend.
fn open_relayed_connection(pod: &Pod, at: &str) -> (TcpStream, TcpStream) {
    pod.within(|| {
        add_address(at.split_once(':').expect("a port").0);
        let listener = TcpListener::bind(at).expect("listen");
        let client = TcpStream::connect_timeout(&backend("10.96.0.1:80"), REPLY_TIMEOUT).expect("connect");
        let server = listener.accept().expect("accept").0;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("a time-out");
        }
        (client, server)
    })
}

#[test]
fn takeover_under_load_loses_no_connection() {
    with_node(|dir| {
        dir.write_manifest("web.json", &service("web", "10.96.0.2", RELAYED, &["10.1.0.1", "10.1.0.2"]));
        dir.write_manifest("long.json", &service("long", "10.96.0.1", RELAYED, &["10.1.0.4"]));
        let old = Agent::start(dir, &["--drain", "60"]);
        let pod = pod_with_backends();
        old.attach("a", &pod);
        let (mut client, mut server) = open_relayed_connection(&pod, "10.1.0.4:8080");
        let (requests, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let load = || {
            pod.within(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let name = backend_of("10.96.0.2:80");
                    assert!(["a", "b"].contains(&&*name), "{name}");
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        };
        thread::scope(|scope| {
            let loads = [scope.spawn(load), scope.spawn(load)];
            let after = |count| {
                let target = requests.load(Ordering::Relaxed) + count;
                let deadline = Instant::now() + TIMEOUT;
                while requests.load(Ordering::Relaxed) < target {
                    let is_running =
                        Instant::now() < deadline && !loads.iter().any(|load| load.is_finished());
                    assert!(is_running, "the clients make no progress");
                    thread::yield_now();
                }
            };
            after(50);
            let new = Agent::start(dir, &["--take-over"]);
            new.wait_until("the new agent has taken over", |agent| agent.log().contains("takeover complete"));
            new.wait_until("the new agent serves", |agent| {
                relayed_portals(agent).iter().any(|portal| portal["connections"] != 0)
            });
            after(200);
            // The old agent still serves its connection.
            client.write_all(b"x").expect("send");
            server.read_exact(&mut [0]).expect("receive");
            drop(client);
            assert_eq!(server.read(&mut [0]).expect("the end of the stream"), 0);
            drop(server);
            assert!(old.terminate().success());
            after(200);
            is_over.store(true, Ordering::Relaxed);
            for load in loads {
                load.join().expect("no connection is lost");
            }
        });
    });
}

#[test]
fn standby_agent_resumes_when_its_successor_exits() {
    with_node(|dir| {
        dir.write_manifest("web.json", &service("web", "10.96.0.1", RELAYED, &["10.1.0.1"]));
        let old = Agent::start(dir, &["--take-over"]);
        let pod = pod_with_backends();
        old.attach("a", &pod);
        let new = Agent::start(dir, &["--take-over"]);
        new.wait_until("the new agent has taken over", |agent| agent.log().contains("takeover complete"));
        new.wait_until("the old agent is on standby", |agent| agent.log().contains("standing by until"));
        new.kill();
        old.wait_until("the old agent resumes", |agent| agent.log().contains("new agent exited; restarting"));
        old.wait_until("the old agent serves", |agent| {
            agent.try_status().is_some_and(|status| status["synced"] == true)
        });
        dir.write_manifest("web.json", &service("web", "10.96.0.1", RELAYED, &["10.1.0.2"]));
        // Connections are refused until the old agent listens again.
        let is_b = || try_backend_of("10.96.0.1:80", REPLY_TIMEOUT).is_ok_and(|name| name == "b");
        old.wait_until("the pod follows", |_| pod.within(is_b));
    });
}

#[test]
fn second_agent_without_take_over_does_not_start() {
    with_node(|dir| {
        let _first = Agent::start(dir, &[]);
        let manifests = dir.manifests();
        let output = std::process::Command::new(program("portico"))
            .args(["agent", "--metrics", "none", "--manifests"])
            .arg(manifests)
            .arg("--socket")
            .arg(dir.socket())
            .arg("--state-dir")
            .arg(dir.state())
            .output()
            .expect("start a second agent");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains("an agent is already listening on"), "{stderr}");
    });
}

#[test]
fn backends_are_dialled_from_the_node_only_in_listed_namespaces() {
    let annotations = r#""portico.dev/mode":"relay","portico.dev/dial":"node""#;
    for (listed, expected) in [
        (&[][..], false),
        (&["--dial-from-node", "other"], false),
        (&["--dial-from-node", "*"], true),
        (&["--dial-from-node", "other,default"], true),
    ] {
        with_node(|dir| {
            serve("node", "10.1.0.7:8080");
            dir.write_manifest("web.json", &service("web", "10.96.0.1", annotations, &["10.1.0.7"]));
            let agent = Agent::start(dir, listed);
            let pod = pod_with_backends();
            agent.attach("a", &pod);
            // The pod itself cannot reach the backend.
            pod.ip(&["route", "add", "unreachable", "10.1.0.7"]);
            let outcome = pod.within(|| try_backend_of("10.96.0.1:80", REPLY_TIMEOUT)).ok();
            assert_eq!(outcome.as_deref(), expected.then_some("node"), "{listed:?}");
            let ignored = &agent.status()["counts"]["dialIgnored"];
            assert_eq!(ignored, &Value::from(u8::from(!expected)), "{listed:?}");
            assert_eq!(agent.log().contains("--dial-from-node does not list"), !expected, "{}", agent.log());
        });
    }
}
