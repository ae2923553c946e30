//! `portico dns`, `portico status` and `portico top --dns` with a real agent.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use agent_ipc::Attachment;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use test_support::agent::{Agent, AgentDir};
use test_support::agent_dns::{dns_attachment, wait_until_armed};
use test_support::command::{CommandOutput, portico};
use test_support::dns::{UPSTREAM_ANSWER, ask};
use test_support::pod::Pod;
use test_support::program::program;

use crate::dns_agent::{A, DNS, EXTERNAL, WEB, attach, pod_with_upstream, served_pod, start, with_node};

/// The pod of the tests.
const POD: &str = "default/a";

/// Runs a command with the socket of the agent.
fn command(dir: &AgentDir, command: &str, args: &[&str]) -> CommandOutput {
    let socket = dir.socket();
    portico(&[&[command, "--socket", socket.to_str().expect("a path")], args].concat())
}

/// The explanation of an answer, as JSON.
fn explained(dir: &AgentDir, args: &[&str]) -> Value {
    serde_json::from_str(&command(dir, "dns", &[&["-o", "json"], args].concat()).expect_success())
        .expect("JSON")
}

fn source(answer: &Value) -> (&str, &str) {
    let text = |key: &str| answer["response"][key].as_str().unwrap_or("-");
    (text("outcome"), text("source"))
}

#[test]
fn answer_to_a_pod_is_explained_with_its_source() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, upstream) = pod_with_upstream();
        let mut attachment = dns_attachment("a", &pod, &[DNS]);
        attachment.dns.as_mut().expect("a configuration").options.push("ndots:5".to_owned());
        attach(&agent, attachment, &pod);
        wait_until_armed(&agent, 1);
        let zone = explained(dir, &[POD, WEB]);
        assert_eq!((source(&zone), &zone["object"]), (("noerror", "zone"), &"service default/web".into()));
        let first = explained(dir, &[POD, EXTERNAL]);
        assert_eq!(source(&first), ("noerror", "upstream"), "{first}");
        assert_eq!(first["response"]["upstream"], "10.1.0.53:53");
        let records = first["response"]["records"].as_array().expect("a list");
        assert!(records[0].as_str().is_some_and(|record| record.ends_with(UPSTREAM_ANSWER)), "{records:?}");
        let second = explained(dir, &[POD, EXTERNAL]);
        assert_eq!(source(&second), ("noerror", "cache"));
        assert!(second["response"]["upstream"] == "10.1.0.53:53" && second["response"]["ageMs"].is_u64());
        assert_eq!(upstream.count(), 1);
        // The walk of the search list, which the explanation of the zone alone does not show.
        let collapsed = explained(dir, &[POD, "www.example.com.default.svc.cluster.local"]);
        assert_eq!((source(&collapsed), &collapsed["outcome"]), (("noerror", "search"), &"nxdomain".into()));
        let text = command(dir, "dns", &[POD, EXTERNAL, "A"]).expect_success();
        assert!(text.contains("NOERROR from the cache (10.1.0.53:53 answered"), "{text}");
    });
}

#[test]
fn name_is_explained_without_a_pod() {
    with_node(|dir| {
        let _agent = start(dir, &[]);
        let answer = explained(dir, &[WEB]);
        assert_eq!((&answer["outcome"], &answer["response"]), (&"noerror".into(), &Value::Null));
        assert_eq!(explained(dir, &[EXTERNAL])["outcome"], "upstream");
    });
}

#[test]
fn pod_that_is_not_answered_is_refused_with_the_reason() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = pod_with_upstream();
        let annotations = [("dns".to_owned(), "off".to_owned())].into();
        attach(&agent, Attachment { annotations, ..dns_attachment("a", &pod, &[DNS]) }, &pod);
        for (args, message) in [
            (&[POD, WEB][..], "default/a uses the cluster's DNS: portico.dev/dns is off"),
            (&["--follow", POD], "portico.dev/dns is off"),
            (&["default/b", WEB], "no pod default/b on this node"),
        ] {
            let output = command(dir, "dns", args);
            assert!(output.code == 1 && output.stderr.contains(message), "{args:?}: {}", output.stderr);
        }
        let status = command(dir, "status", &[]).expect_success();
        assert!(status.contains("dns: 0 of 0 pods answered"), "{status}");
        assert!(
            status.contains("dns: not answered (portico.dev/dns is off): 1 pods, default/a\n"),
            "{status}"
        );
    });
}

#[test]
fn agent_without_dns_refuses_to_explain() {
    with_node(|dir| {
        let _agent = Agent::start(dir, &[]);
        let output = command(dir, "dns", &[WEB]);
        assert!(output.code == 1 && output.stderr.contains("it has no --dns"), "{}", output.stderr);
        assert!(
            command(dir, "top", &["--dns", "-n", "1", "--interval", "0.1"])
                .stdout
                .contains("it has no --dns")
        );
    });
}

/// Starts to follow the queries of the pod.
fn follow(dir: &AgentDir) -> Child {
    let mut command = Command::new(program("portico"));
    command.args(["dns", "--follow", "-o", "json", POD, "--socket"]).arg(dir.socket());
    command.stdout(Stdio::piped()).spawn().expect("run portico dns")
}

#[test]
fn queries_of_a_pod_are_followed_until_the_command_is_stopped() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = served_pod(&agent, "a");
        let (other, _upstream) = served_pod(&agent, "b");
        let mut child = follow(dir);
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        // The log starts with the first request of the command, so the pods repeat their queries until then.
        let asked = query_pods_until_logged(&pod, &other, &mut lines);
        assert_eq!(
            (&asked["name"], &asked["type"], &asked["outcome"]),
            (&WEB.into(), &"A".into(), &"noerror".into())
        );
        assert_eq!((&asked["source"], asked["timeMs"].is_u64()), (&"zone".into(), true));
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("stop the command");
        assert!(child.wait().expect("wait for the command").success());
    });
}

/// Queries from the pods until a query of the first one is in the log. Returns it.
fn query_pods_until_logged(
    pod: &Pod,
    other: &Pod,
    lines: &mut (impl Iterator<Item = std::io::Result<String>> + Send),
) -> Value {
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let is_running = move || stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty);
        scope.spawn(move || {
            while is_running() {
                other.within(|| drop(ask(DNS, EXTERNAL, A)));
                pod.within(|| drop(ask(DNS, WEB, A)));
            }
        });
        let line = lines.next().expect("a query").expect("a line");
        drop(stop);
        serde_json::from_str(&line).expect("JSON")
    })
}

#[test]
fn status_and_top_show_the_queries_of_each_pod() {
    with_node(|dir| {
        let agent = start(dir, &[]);
        let (pod, _upstream) = served_pod(&agent, "a");
        pod.within(|| {
            ask(DNS, WEB, A);
            ask(DNS, "web.missing.svc.cluster.local.", A);
            ask(DNS, EXTERNAL, A);
            ask(DNS, EXTERNAL, A);
        });
        let status = command(dir, "status", &[]).expect_success();
        assert!(
            status.contains("dns: 1 of 1 pods answered; 4 queries, 1 NXDOMAIN, 0 SERVFAIL, 1 from the cache"),
            "{status}"
        );
        let top = command(dir, "top", &["--dns", "-n", "1", "--interval", "0.1"]).expect_success();
        let row = top.lines().find(|line| line.starts_with(POD)).expect("a row of the pod");
        let cells: Vec<&str> = row.split_whitespace().collect();
        // Queries per second, queries, NXDOMAIN, SERVFAIL, cache, collapsed, limited, lookups.
        assert_eq!(cells[1..9], ["0.0", "4", "1", "0", "1", "0", "0", "1"], "{top}");
        assert!(cells[9].parse::<f64>().is_ok_and(|ms| ms >= 0.0) && cells[10] == "ms", "{top}");
    });
}
