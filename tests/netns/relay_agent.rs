//! The real agent as a relay: what its pods see of backends that die, of portals on demand, and of the agent's own end.

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
use test_support::agent::{Agent, AgentDir, PATIENCE};
use test_support::conversation::{ANSWER, answer, ask, assert_refused, serve, serve_beyond};
use test_support::manifest::{RELAYED, service};
use test_support::namespace::{add_address, bare, run};
use test_support::pod::Pod;
use test_support::program::program;
use test_support::served::pod;

const RANGE: [&str; 2] = ["--service-cidr", "10.96.0.0/16"];

fn node(body: impl FnOnce(&AgentDir) + Send) {
    bare(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        body(&AgentDir::new());
    });
}

fn says(pod: &Pod, portal: &str) -> String {
    pod.within(|| answer(portal))
}

/// What is told of the relayed portals of the only pod.
fn relayed(agent: &Agent) -> Vec<Value> {
    let status = agent.status();
    let places = status["relay"]["namespaces"].as_array().expect("a list").clone();
    places.first().and_then(|place| place["portals"].as_array().cloned()).unwrap_or_default()
}

/// The portals that stand in the pod's kernel.
fn programmed(pod: &Pod) -> BTreeSet<String> {
    let socket = pod.netns.socket().expect("a socket");
    let TableState::Intact(table) = socket.read_table().expect("look") else { panic!("no table of ours") };
    table.portals.keys().map(ToString::to_string).collect()
}

#[test]
fn a_pod_never_sees_a_backend_that_is_dead() {
    node(|folder| {
        folder.put("web.json", &service("web", "10.96.0.1", RELAYED, &["10.1.0.1", "10.1.0.7", "10.1.0.2"]));
        let agent = Agent::start(folder, &[]);
        let pod = pod();
        agent.attach("a", &pod);
        for _ in 0..10 {
            assert_eq!(says(&pod, "10.96.0.1:80"), "a");
            assert_eq!(says(&pod, "10.96.0.1:80"), "b");
        }
        let portals = relayed(&agent);
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
fn top_shows_what_passes_and_which_backend_rests() {
    node(|folder| {
        folder.put("web.json", &service("web", "10.96.0.1", RELAYED, &["10.1.0.1", "10.1.0.7", "10.1.0.2"]));
        let agent = Agent::start(folder, &[]);
        let pod = pod();
        agent.attach("a", &pod);
        let top = || {
            let socket = folder.socket();
            run(
                program("portico").to_str().expect("a path"),
                &["top", "-n", "1", "--interval", "0.1", "--socket", socket.to_str().expect("a path")],
                "",
            )
        };
        assert!(top().contains("no relayed connections yet"), "{}", top());
        (0..3).for_each(|_| drop(says(&pod, "10.96.0.1:80")));
        let shown = top();
        for text in ["10.96.0.1/TCP/80", "default/web", "2 of 3 up", "10.1.0.7:8080", "ejected (failures: 1)"]
        {
            assert!(shown.contains(text), "{text} is not in\n{shown}");
        }
    });
}

#[test]
fn a_held_connection_gets_the_first_backend_that_comes() {
    node(|folder| {
        let held = r#""portico.dev/hold":"20s""#;
        folder.put("web.json", &service("web", "10.96.0.1", held, &[]));
        let agent = Agent::start(folder, &[]);
        let pod = pod();
        agent.attach("a", &pod);
        let waiting = thread::scope(|scope| {
            let waiting = scope.spawn(|| says(&pod, "10.96.0.1:80"));
            agent.until("it is held", |agent| agent.status()["relay"]["namespaces"][0]["pending"] == 1);
            folder.put("web.json", &service("web", "10.96.0.1", held, &["10.1.0.2"]));
            waiting.join().expect("an answer")
        });
        assert_eq!(waiting, "b");
        // With a backend the kernel serves it.
        agent.settled(2);
        assert_eq!(says(&pod, "10.96.0.1:80"), "b");
        assert_eq!(relayed(&agent)[0]["connections"], 1);
    });
}

#[test]
fn on_demand_a_first_connection_is_relayed_and_all_later_ones_are_the_kernels() {
    node(|folder| {
        folder.put("web.json", &service("web", "10.96.0.1", "", &["10.1.0.1"]));
        folder.put("db.json", &service("db", "10.96.0.2", "", &["10.1.0.2"]));
        let agent = Agent::start(folder, &[&["--portals", "on-demand"], &RANGE[..]].concat());
        let pod = pod();
        agent.attach("a", &pod);
        assert_eq!(programmed(&pod), BTreeSet::new());
        assert_eq!(says(&pod, "10.96.0.1:80"), "a");
        agent.until("the portal is the kernel's", |_| programmed(&pod).contains("10.96.0.1/TCP/80"));
        for _ in 0..5 {
            assert_eq!(says(&pod, "10.96.0.1:80"), "a");
        }
        assert_eq!(relayed(&agent)[0]["connections"], 1);
        assert!(!programmed(&pod).contains("10.96.0.2/TCP/80"), "nobody used it");
        // What is used follows its backends.
        folder.put("web.json", &service("web", "10.96.0.1", "", &["10.1.0.2"]));
        agent.settled(2);
        assert_eq!(says(&pod, "10.96.0.1:80"), "b");
        assert_eq!(relayed(&agent)[0]["connections"], 1);
    });
}

#[test]
fn on_demand_the_first_datagram_is_answered_and_the_next_socket_is_served_by_the_kernel() {
    node(|folder| {
        folder.put("dns.json", &service("dns", "10.96.0.3", "", &["10.1.0.3"]));
        let agent = Agent::start(folder, &[&["--portals", "on-demand"], &RANGE[..]].concat());
        let pod = pod();
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
                client.set_read_timeout(Some(ANSWER)).expect("a time-out");
                client.send_to(b"who", "10.96.0.3:80").expect("ask");
                let mut buffer = [0; 64];
                let (bytes, from) = client.recv_from(&mut buffer).expect("an answer");
                (buffer[..bytes].to_vec(), from.to_string())
            })
        };
        assert_eq!(asked(), (b"who".to_vec(), "10.96.0.3:80".to_owned()));
        agent.until("the portal is the kernel's", |_| programmed(&pod).contains("10.96.0.3/UDP/80"));
        assert_eq!(asked(), (b"who".to_vec(), "10.96.0.3:80".to_owned()));
        assert_eq!(relayed(&agent)[0]["connections"], 1);
    });
}

#[test]
fn on_demand_without_the_agent_what_was_used_works_and_a_first_use_is_refused_at_once() {
    node(|folder| {
        folder.put("web.json", &service("web", "10.96.0.1", "", &["10.1.0.1"]));
        folder.put("db.json", &service("db", "10.96.0.2", "", &["10.1.0.2"]));
        let args = [&["--portals", "on-demand"], &RANGE[..]].concat();
        let agent = Agent::start(folder, &args);
        let pod = pod();
        agent.attach("a", &pod);
        assert_eq!(says(&pod, "10.96.0.1:80"), "a");
        agent.until("the portal is the kernel's", |_| programmed(&pod).contains("10.96.0.1/TCP/80"));
        agent.kill();
        assert_eq!(says(&pod, "10.96.0.1:80"), "a");
        pod.within(|| assert_refused("10.96.0.2:80"));
        // The kernel's table is the truth for the next agent, too.
        let agent = Agent::start(folder, &args);
        agent.settled(1);
        assert!(programmed(&pod).contains("10.96.0.1/TCP/80"));
        assert_eq!(says(&pod, "10.96.0.1:80"), "a");
        assert_eq!(says(&pod, "10.96.0.2:80"), "b");
        assert_eq!(relayed(&agent).len(), 1, "only the first use of the second portal was relayed");
    });
}

#[test]
fn on_demand_what_is_nobodys_is_never_passed_on() {
    node(|folder| {
        folder.put("web.json", &service("web", "10.96.0.1", "", &["10.1.0.1"]));
        let agent = Agent::start(folder, &[&["--portals", "on-demand"], &RANGE[..]].concat());
        let pod = pod();
        agent.attach("a", &pod);
        pod.within(|| {
            // Somebody listens at an address of the service range that is no service's.
            serve_beyond("stranger", "10.96.9.9:80");
            let end = ask("10.96.9.9:80", ANSWER);
            assert!(matches!(&end, Err(why) if why.kind() == ErrorKind::ConnectionReset), "{end:?}");
        });
        // A wrong port is reset by the relay at first, and refused by the kernel from then on.
        pod.within(|| ask("10.96.0.1:81", ANSWER).expect_err("no such portal"));
        agent.until("the address is known", |_| programmed(&pod).contains("10.96.0.1/TCP/80"));
        pod.within(|| assert_refused("10.96.0.1:81"));
    });
}

#[test]
fn on_demand_a_relayed_portal_without_a_backend_is_refused_by_the_kernel_once_it_was_used() {
    node(|folder| {
        folder.put("web.json", &service("web", "10.96.0.1", RELAYED, &[]));
        let agent = Agent::start(folder, &[&["--portals", "on-demand"], &RANGE[..]].concat());
        let pod = pod();
        agent.attach("a", &pod);
        pod.within(|| ask("10.96.0.1:80", ANSWER).expect_err("no backend"));
        agent.until("the kernel knows it", |_| programmed(&pod).contains("10.96.0.1/TCP/80"));
        pod.within(|| assert_refused("10.96.0.1:80"));
    });
}

#[test]
fn a_pod_that_goes_takes_its_relayed_connections_along() {
    node(|folder| {
        folder.put("web.json", &service("web", "10.96.0.1", RELAYED, &["10.1.0.4"]));
        let agent = Agent::start(folder, &[]);
        let pod = pod();
        agent.attach("a", &pod);
        let (mut client, mut server) = connected(&pod, "10.1.0.4:8080");
        client.write_all(b"x").expect("say");
        server.read_exact(&mut [0]).expect("hear");
        assert_eq!(agent.status()["relay"]["connections"], 1);
        agent.ask(&agent_ipc::Request::Detach { key: agent::key("a") }, None);
        agent.until("no connection is left", |agent| agent.status()["relay"]["connections"] == 0);
        assert_eq!(server.read(&mut [0]).unwrap_or(0), 0, "it ends at the backend, too");
    });
}

/// A connection of the pod through the portal, and its other end at a backend of its own.
fn connected(pod: &Pod, at: &str) -> (TcpStream, TcpStream) {
    pod.within(|| {
        add_address(at.split_once(':').expect("a port").0);
        let listener = TcpListener::bind(at).expect("listen");
        let client = TcpStream::connect_timeout(&backend("10.96.0.1:80"), ANSWER).expect("connect");
        let server = listener.accept().expect("accept").0;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(ANSWER)).expect("a time-out");
        }
        (client, server)
    })
}

#[test]
fn under_load_no_connection_is_lost_when_one_agent_takes_over_from_another() {
    node(|folder| {
        folder.put("web.json", &service("web", "10.96.0.2", RELAYED, &["10.1.0.1", "10.1.0.2"]));
        folder.put("long.json", &service("long", "10.96.0.1", RELAYED, &["10.1.0.4"]));
        let old = Agent::start(folder, &["--drain", "60"]);
        let pod = pod();
        old.attach("a", &pod);
        let (mut client, mut server) = connected(&pod, "10.1.0.4:8080");
        let (asked, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let load = || {
            pod.within(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let said = answer("10.96.0.2:80");
                    assert!(["a", "b"].contains(&&*said), "{said}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        };
        thread::scope(|scope| {
            let loads = [scope.spawn(load), scope.spawn(load)];
            let after = |count| {
                let reached = asked.load(Ordering::Relaxed) + count;
                let deadline = Instant::now() + PATIENCE;
                while asked.load(Ordering::Relaxed) < reached {
                    let goes_on = Instant::now() < deadline && !loads.iter().any(|load| load.is_finished());
                    assert!(goes_on, "the load stands still");
                    thread::yield_now();
                }
            };
            after(50);
            let new = Agent::start(folder, &["--take-over"]);
            new.until("it has taken over", |agent| agent.log().contains("took over from the agent"));
            new.until("it serves", |agent| relayed(agent).iter().any(|portal| portal["connections"] != 0));
            after(200);
            // The old connection goes on at the old agent.
            client.write_all(b"x").expect("say");
            server.read_exact(&mut [0]).expect("hear");
            drop(client);
            assert_eq!(server.read(&mut [0]).expect("an end"), 0);
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
fn an_agent_that_has_retired_takes_its_place_again_when_the_other_one_ends() {
    node(|folder| {
        folder.put("web.json", &service("web", "10.96.0.1", RELAYED, &["10.1.0.1"]));
        let old = Agent::start(folder, &["--take-over"]);
        let pod = pod();
        old.attach("a", &pod);
        let new = Agent::start(folder, &["--take-over"]);
        new.until("it has taken over", |agent| agent.log().contains("took over from the agent"));
        new.until("the old one waits", |agent| agent.log().contains("in reserve until"));
        new.kill();
        old.until("it begins anew", |agent| agent.log().contains("beginning anew"));
        old.until("it serves", |agent| agent.try_status().is_some_and(|status| status["synced"] == true));
        folder.put("web.json", &service("web", "10.96.0.1", RELAYED, &["10.1.0.2"]));
        // Between the two agents nobody serves, and who comes is refused.
        let is_b = || ask("10.96.0.1:80", ANSWER).is_ok_and(|name| name == "b");
        old.until("the pod follows", |_| pod.within(is_b));
    });
}

#[test]
fn a_second_agent_that_was_not_told_to_take_over_does_not_start() {
    node(|folder| {
        let _first = Agent::start(folder, &[]);
        let manifests = folder.manifests();
        let output = std::process::Command::new(program("portico"))
            .args(["agent", "--metrics", "none", "--manifests"])
            .arg(manifests)
            .arg("--socket")
            .arg(folder.socket())
            .arg("--state-dir")
            .arg(folder.state())
            .output()
            .expect("start a second agent");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("an agent is already listening on"), "{said}");
    });
}

#[test]
fn backends_are_dialled_from_the_node_only_in_namespaces_that_the_operator_lists() {
    let annotations = r#""portico.dev/mode":"relay","portico.dev/dial":"node""#;
    for (listed, expected) in [
        (&[][..], false),
        (&["--dial-from-node", "other"], false),
        (&["--dial-from-node", "*"], true),
        (&["--dial-from-node", "other,default"], true),
    ] {
        node(|folder| {
            serve("node", "10.1.0.7:8080");
            folder.put("web.json", &service("web", "10.96.0.1", annotations, &["10.1.0.7"]));
            let agent = Agent::start(folder, listed);
            let pod = pod();
            agent.attach("a", &pod);
            // The pod itself reaches nobody there.
            pod.ip(&["route", "add", "unreachable", "10.1.0.7"]);
            let outcome = pod.within(|| ask("10.96.0.1:80", ANSWER)).ok();
            assert_eq!(outcome.as_deref(), expected.then_some("node"), "{listed:?}");
            let ignored = &agent.status()["counts"]["dialIgnored"];
            assert_eq!(ignored, &Value::from(u8::from(!expected)), "{listed:?}");
            assert_eq!(agent.log().contains("--dial-from-node does not list"), !expected, "{}", agent.log());
        });
    }
}
