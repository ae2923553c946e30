//! `portico status --watch` with the real agent: the traffic of portals, an agent that stops and starts, and the end of
//! the command.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_core::sample::backend;
use serde_json::Value;
use test_support::agent::{Agent, AgentDir};
use test_support::backend_pod::pod_with_backends;
use test_support::backend_server::{REPLY_TIMEOUT, backend_of};
use test_support::manifest::{RELAYED, service};
use test_support::namespace::{add_address, in_new_netns, run};
use test_support::pod::Pod;
use test_support::program::program;

const TURNS: &str = r#""portico.dev/scheduler":"rr""#;
const RANGE: [&str; 2] = ["--service-cidr", "10.96.0.0/16"];

fn with_node(body: impl FnOnce(&AgentDir) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        dir.write_manifest("web.json", &service("web", "10.96.0.1", TURNS, &["10.1.0.1", "10.1.0.2"]));
        dir.write_manifest("slow.json", &service("slow", "10.96.0.2", RELAYED, &["10.1.0.2"]));
        body(&dir);
    });
}

fn connect(pod: &Pod, portal: &str, times: usize) {
    pod.within(|| (0..times).for_each(|_| drop(backend_of(portal))));
}

fn watch_command(dir: &AgentDir, args: &[&str]) -> Command {
    let mut command = Command::new(program("portico"));
    command.args(["status", "--watch", "--interval", "0.1", "--socket"]).arg(dir.socket()).args(args);
    command
}

fn watch_output(dir: &AgentDir, args: &[&str]) -> Output {
    watch_command(dir, args).output().expect("run portico status --watch")
}

fn watch_text(dir: &AgentDir, args: &[&str]) -> String {
    String::from_utf8(watch_output(dir, args).stdout).expect("text")
}

/// One sample, as JSON.
fn one_sample(dir: &AgentDir, args: &[&str]) -> Value {
    serde_json::from_str(&watch_text(dir, &[&["-n", "1", "-o", "json"], args].concat())).expect("JSON")
}

/// The portals of a sample: the serving component, the hits, and those of the backends.
fn portals_of_sample(sample: &Value) -> Vec<(String, String, u64, Vec<u64>)> {
    let lines = sample["rates"].as_array().expect("a list").iter();
    let mut portals: Vec<_> = lines
        .map(|line| {
            let of = |key: &str| line[key].as_str().expect("text").to_owned();
            let backends = line["backends"].as_array().expect("a list").iter();
            let backends = backends.map(|backend| backend["hits"].as_u64().expect("a number")).collect();
            (of("portal"), of("by"), line["hits"].as_u64().expect("a number"), backends)
        })
        .collect();
    portals.sort();
    portals
}

/// The samples of a running command, one JSON object each.
struct Watch {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watch {
    fn start(dir: &AgentDir) -> Self {
        let mut command = watch_command(dir, &["-o", "json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start portico status --watch");
        let lines = BufReader::new(child.stdout.take().expect("piped above"));
        Self { child, lines }
    }

    fn next_sample(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("read a sample");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Returns the first sample that fulfils a condition. The condition is evaluated for each sample.
    fn next_matching(&mut self, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        loop {
            let sample = self.next_sample();
            if is_so(&sample) {
                return sample;
            }
        }
    }

    fn interrupt(mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        kill(pid, Signal::SIGINT).expect("signal");
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("read the remaining output");
        self.child.wait().expect("wait for the command").code()
    }
}

#[test]
fn watch_shows_connections_per_portal_and_backend_with_the_serving_component() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--counters"]);
        let (one, other) = (pod_with_backends(), pod_with_backends());
        agent.attach("one", &one);
        agent.attach("other", &other);
        connect(&one, "10.96.0.1:80", 10);
        connect(&one, "10.96.0.2:80", 3);
        connect(&other, "10.96.0.1:80", 4);
        let kernel = |hits, backends: &[u64]| {
            ("10.96.0.1/TCP/80".to_owned(), "kernel".to_owned(), hits, backends.to_vec())
        };
        let relay = ("10.96.0.2/TCP/80".to_owned(), "relay".to_owned(), 3, vec![3]);
        assert_eq!(
            portals_of_sample(&one_sample(dir, &[])),
            [kernel(4, &[2, 2]), kernel(10, &[5, 5]), relay.clone()]
        );
        assert_eq!(portals_of_sample(&one_sample(dir, &["--pod", "one"])), [kernel(10, &[5, 5]), relay]);
        assert_eq!(portals_of_sample(&one_sample(dir, &["--pod", "oth"])), [kernel(4, &[2, 2])]);
        assert_eq!(one_sample(dir, &["--top", "1"])["rates"].as_array().map(Vec::len), Some(1));
        // A status without traffic does not read the counters.
        assert_eq!((&agent.status()["counters"], &agent.status()["traffic"]), (&true.into(), &Value::Null));
    });
}

#[test]
fn refreshes_follow_one_another_on_a_pipe() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--counters"]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        connect(&pod, "10.96.0.1:80", 2);
        let output = watch_output(dir, &["-n", "3"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        for (part, times) in
            [("agent ", 3), ("10.96.0.1/TCP/80", 3), ("  10.1.0.1:8080", 3), ("  0.0\n", 6), ("\x1b", 0)]
        {
            assert_eq!(text.matches(part).count(), times, "{part:?} in\n{text}");
        }
        assert!(!text.contains("--counters"), "{text}");
        let [summary, table] = ["audits: every 30 s, none yet", "PORTAL            SERVICE"];
        assert!(text.contains(summary) && text.contains(table), "{text}");
    });
}

#[test]
fn watch_without_counters_refers_to_the_flag_and_shows_relayed_connections() {
    with_node(|dir| {
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        connect(&pod, "10.96.0.1:80", 2);
        connect(&pod, "10.96.0.2:80", 2);
        let text = watch_text(dir, &["-n", "1"]);
        assert!(text.contains("--counters") && text.contains("10.96.0.2/TCP/80"), "{text}");
        assert!(!text.contains("10.96.0.1/TCP/80"), "{text}");
    });
}

#[test]
fn on_demand_portal_has_one_row_for_the_relay_and_one_for_the_kernel() {
    with_node(|dir| {
        let args = [&["--counters", "--portals", "on-demand"], &RANGE[..]].concat();
        let agent = Agent::start(dir, &args);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        connect(&pod, "10.96.0.1:80", 1);
        agent.wait_until("the portal is active", |agent| agent.status()["attachments"][0]["programmed"] == 2);
        connect(&pod, "10.96.0.1:80", 4);
        let of = |by: &str, hits, backends: &[u64]| {
            ("10.96.0.1/TCP/80".to_owned(), by.to_owned(), hits, backends.to_vec())
        };
        assert_eq!(
            portals_of_sample(&one_sample(dir, &[])),
            [of("kernel", 4, &[2, 2]), of("relay", 1, &[1])]
        );
    });
}

#[test]
fn changed_backends_cause_no_negative_rate_and_an_interrupt_exits_with_success() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--counters"]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        connect(&pod, "10.96.0.1:80", 20);
        let mut watch = Watch::start(dir);
        let hits = |sample: &Value| sample["rates"][0]["hits"].as_u64();
        assert_eq!(hits(&watch.next_sample()), Some(20));
        dir.write_manifest("web.json", &service("web", "10.96.0.1", TURNS, &["10.1.0.1"]));
        agent.wait_until_converged(2);
        connect(&pod, "10.96.0.1:80", 4);
        let is_rate = |rate: &Value| rate.is_null() || rate.as_f64().is_some_and(|rate| rate >= 0.0);
        let mut counted = 0.0;
        let last = watch.next_matching(|sample| {
            let line = &sample["rates"][0];
            let backends = line["backendsPerSecond"].as_array().into_iter().flatten();
            assert!(backends.chain([&line["perSecond"]]).all(is_rate), "{sample}");
            counted += line["perSecond"].as_f64().unwrap_or(0.0);
            hits(sample) == Some(4)
        });
        assert!(counted > 0.0, "{last}");
        // The remaining backend keeps its counter.
        assert_eq!(last["rates"][0]["backends"][0]["hits"], 14);
        assert_eq!(watch.interrupt(), Some(0));
    });
}

#[test]
fn stopped_agent_is_reported_and_watched_again_after_its_restart() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--counters"]);
        let mut watch = Watch::start(dir);
        assert_eq!(watch.next_sample()["synced"], true);
        agent.kill();
        let away = watch.next_matching(|sample| !sample["unreachable"].is_null());
        assert_eq!(away["forSeconds"], 0);
        let output = watch_output(dir, &["-n", "1"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.code() == Some(1) && text.contains("agent unreachable for 0 s"), "{output:?}");
        let _agent = Agent::start(dir, &["--counters"]);
        watch.next_matching(|sample| sample["synced"] == true);
        // The command exits if its output is closed.
        let Watch { mut child, lines } = watch;
        drop(lines);
        assert_eq!(child.wait().expect("wait for the command").code(), Some(0));
    });
}

#[test]
fn unreadable_netns_is_named_and_others_are_shown() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--counters", "--audit-interval", "86400"]);
        let (whole, broken) = (pod_with_backends(), pod_with_backends());
        agent.attach("whole", &whole);
        agent.attach("broken", &broken);
        connect(&whole, "10.96.0.1:80", 2);
        broken.within(|| run("nft", &["delete", "table", "inet", "portico"], ""));
        let text = watch_text(dir, &["-n", "1"]);
        assert!(
            text.contains("traffic of broken unavailable: failed to read counters: the table is gone"),
            "{text}"
        );
        assert!(text.contains("10.96.0.1/TCP/80"), "{text}");
    });
}

#[test]
fn changed_counters_setting_replaces_the_table_atomically_and_keeps_connections() {
    with_node(|dir| {
        let pod = pod_with_backends();
        let generation = || pod.netns.socket().and_then(|socket| socket.generation()).expect("a number");
        let first = Agent::start(dir, &[]);
        first.attach("a", &pod);
        let (mut client, mut server) = pod.within(|| {
            add_address("10.1.0.3");
            dir.write_manifest("echo.json", &service("echo", "10.96.0.3", "", &["10.1.0.3"]));
            first.wait_until_converged(2);
            let listener = TcpListener::bind("10.1.0.3:8080").expect("listen");
            let client =
                TcpStream::connect_timeout(&backend("10.96.0.3:80"), REPLY_TIMEOUT).expect("connect");
            (client, listener.accept().expect("accept").0)
        });
        let mut exchange = |words: &[u8; 4]| {
            client.write_all(words).expect("write");
            let mut received = [0; 4];
            server.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
            server.read_exact(&mut received).expect("read");
            assert_eq!(&received, words);
        };
        exchange(b"one ");
        let mut agent = first;
        for args in [&["--counters"][..], &[]] {
            agent.kill();
            let before = generation();
            agent = Agent::start(dir, args);
            agent.wait_until_converged(1);
            assert_eq!(generation(), before + 1);
            exchange(b"and ");
            assert_eq!(agent.status()["counts"]["repairs"], 0);
        }
    });
}

#[test]
fn status_without_watch_fails_without_an_agent_and_rejects_the_flags_of_watch() {
    with_node(|dir| {
        let status = |args: &[&str]| {
            let mut command = Command::new(program("portico"));
            command
                .args(["status", "--socket"])
                .arg(dir.socket())
                .args(args)
                .output()
                .expect("run portico status")
        };
        let away = status(&[]);
        assert_eq!((away.status.code(), away.stdout.is_empty()), (Some(1), true), "{away:?}");
        for args in [["-n", "1"], ["--interval", "1"], ["--top", "1"], ["--pod", "a"]] {
            assert_eq!(status(&args).status.code(), Some(2), "{args:?}");
        }
    });
}
