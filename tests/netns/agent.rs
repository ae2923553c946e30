//! The real agent with real network namespaces: how it programs and repairs them, survives a restart, and rejects
//! invalid requests.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use agent_ipc::{Reply, Request};
use netns_nft::{TableState, encode};
use proxy_core::plan::plan;
use proxy_core::portal::{NodeContext, Portals};
use proxy_core::ruleset::Ruleset;
use proxy_core::sample::{backend, ip, slice, snapshot, svc};
use proxy_core::snapshot::Change;
use test_support::agent;
use test_support::agent::{Agent, AgentDir, attachment, key};
use test_support::backend_pod::pod_with_backends;
use test_support::backend_server::{
    DROP_TIMEOUT, REPLY_TIMEOUT, assert_refused, backend_of, serve, try_backend_of,
};
use test_support::manifest::web_manifest;
use test_support::namespace;
use test_support::namespace::{in_new_netns, load, run};
use test_support::pod::Pod;
use test_support::program::program;

/// Runs `body` on a node with manifests in which `web` has backend a.
fn with_node(body: impl FnOnce(&AgentDir) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        dir.write_manifest("web.json", &web_manifest(&["10.1.0.1"]));
        body(&dir);
    });
}

/// The portals of `web`, as the agent computes them.
fn expected_portals() -> Portals {
    let range = Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")]);
    let web = svc("web").ip("10.96.0.1").tcp("", 80);
    let made = slice("web").named("web-1").tcp("", 8080).at("10.1.0.1");
    proxy_core::portal::portals(&snapshot([range, web.into(), made.into()]), &NodeContext::default())
}

fn backend_seen_by(pod: &Pod, portal: &str) -> String {
    pod.within(|| backend_of(portal))
}

#[test]
fn attached_pod_reaches_services_and_follows_their_changes() {
    with_node(|dir| {
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "a");
        dir.write_manifest("web.json", &web_manifest(&["10.1.0.2"]));
        agent.wait_until_converged(2);
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "b");
        dir.write_manifest("web.json", &web_manifest(&[]));
        agent.wait_until_converged(3);
        pod.within(|| assert_refused("10.96.0.1:80"));
    });
}

#[test]
fn pod_without_a_route_to_service_addresses_gets_one() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--service-cidr", "10.96.0.0/16"]);
        let pod = Pod::new();
        pod.within(|| serve("a", "10.1.0.1:8080"));
        let mut attachment = attachment("a", &pod);
        attachment.addresses = vec!["10.1.0.1".parse().expect("an address")];
        assert_eq!(agent.request(&Request::Attach(attachment), Some(&pod)), Reply::Done, "{}", agent.log());
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "a");
    });
}

#[test]
fn nodes_in_two_zones_program_different_tables() {
    let zoned = |ip: &str, zone: &str| {
        format!(r#"{{"addresses":["{ip}"],"zone":"{zone}","hints":{{"forZones":[{{"name":"{zone}"}}]}}}}"#)
    };
    let endpoints = format!("{},{}", zoned("10.1.0.1", "z1"), zoned("10.1.0.2", "z2"));
    let node_of = |name: &str, zone: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}",
            "labels":{{"topology.kubernetes.io/zone":"{zone}"}}}}}}"#
        )
    };
    with_node(|dir| {
        dir.write_manifest(
            "web.json",
            &web_manifest(&["10.1.0.9"]).replace(r#"{"addresses":["10.1.0.9"]}"#, &endpoints),
        );
        dir.write_manifest("n1.json", &node_of("n1", "z1"));
        dir.write_manifest("n2.json", &node_of("n2", "z2"));
        for (name, expected) in [("n1", "a"), ("n2", "b")] {
            let agent = Agent::start(dir, &["--node", name]);
            let pod = pod_with_backends();
            agent.attach(name, &pod);
            for _ in 0..8 {
                assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), expected, "a pod on {name}");
            }
        }
    });
}

#[test]
fn killed_agent_interrupts_nothing_and_its_successor_continues() {
    with_node(|dir| {
        let pod = pod_with_backends();
        let first = Agent::start(dir, &[]);
        first.attach("a", &pod);
        let (mut client, mut server) = pod.within(|| {
            namespace::add_address("10.1.0.3");
            let listener = TcpListener::bind("10.1.0.3:8080").expect("listen");
            dir.write_manifest("web.json", &web_manifest(&["10.1.0.3"]));
            first.wait_until_converged(2);
            let client =
                TcpStream::connect_timeout(&backend("10.96.0.1:80"), REPLY_TIMEOUT).expect("connect");
            (client, listener.accept().expect("accept").0)
        });
        first.kill();
        let mut exchange = |words: &[u8]| {
            client.write_all(words).expect("write");
            let mut received = vec![0; words.len()];
            server.read_exact(&mut received).expect("read");
            assert_eq!(received, words);
        };
        exchange(b"without an agent");
        dir.write_manifest("web.json", &web_manifest(&["10.1.0.2"]));
        let second = Agent::start(dir, &[]);
        second.wait_until_converged(1);
        assert_eq!(
            second.status()["attachments"].as_array().map(Vec::len),
            Some(1),
            "the attachment is recovered"
        );
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "b", "the change is applied");
        exchange(b"with the new agent");
    });
}

#[test]
fn restart_without_drift_writes_nothing() {
    with_node(|dir| {
        let pod = pod_with_backends();
        let first = Agent::start(dir, &[]);
        first.attach("a", &pod);
        let generation = || pod.netns.socket().expect("a socket").generation().expect("a generation");
        let before = generation();
        assert!(first.terminate().success(), "the agent exits cleanly on SIGTERM");
        assert!(!dir.socket().exists(), "clients get an error at once");
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "a", "the rules stay in the kernel");
        let second = Agent::start(dir, &[]);
        second.wait_until_converged(1);
        assert_eq!(generation(), before);
    });
}

#[test]
fn on_demand_mode_replaces_a_full_table_and_keeps_used_portals_over_a_restart() {
    with_node(|dir| {
        let pod = pod_with_backends();
        let socket = || pod.netns.socket().expect("a socket");
        let reported = |agent: &Agent| {
            let status = agent.status();
            (status["attachments"][0]["portals"].clone(), status["attachments"][0]["programmed"].clone())
        };
        // Counters in a full table do not activate its portals.
        let full = Agent::start(dir, &["--service-cidr", "10.96.0.0/16", "--portals", "all", "--counters"]);
        full.attach("a", &pod);
        assert_eq!(reported(&full), ("all".into(), 1.into()));
        full.kill();
        let args = ["--service-cidr", "10.96.0.0/16", "--portals", "on-demand"];
        let first = Agent::start(dir, &args);
        first.wait_until_converged(1);
        assert_eq!(reported(&first), ("on-demand".into(), 0.into()));
        first.kill();
        // Activates the portal as the agent does at its first use.
        let TableState::Intact(before) = socket().read_table().expect("read the table") else {
            panic!("no table")
        };
        let portals = expected_portals();
        let empty = Ruleset::new(&portals, before.settings.expect("a table has settings"));
        let mut used = empty.clone();
        used.activate(&portals, ip("10.96.0.1"));
        socket().apply(&encode(&plan(&empty, &used))).expect("apply");
        let generation = socket().generation().expect("a generation");
        let second = Agent::start(dir, &args);
        second.wait_until_converged(1);
        assert_eq!(reported(&second), ("on-demand".into(), 1.into()));
        assert_eq!(socket().generation().expect("a generation"), generation, "the agent writes nothing");
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "a");
    });
}

#[test]
fn pod_deleted_while_the_agent_was_down_is_removed() {
    with_node(|dir| {
        let first = Agent::start(dir, &[]);
        let (stays, goes) = (pod_with_backends(), pod_with_backends());
        first.attach("stays", &stays);
        first.attach("goes", &goes);
        first.kill();
        drop(goes);
        let second = Agent::start(dir, &["--audit-interval", "1"]);
        second.wait_until_converged(1);
        let names = |agent: &Agent| -> Vec<String> {
            let status = agent.status();
            let all = status["attachments"].as_array().expect("a list").iter();
            all.map(|a| a["containerId"].as_str().expect("a name").to_owned()).collect()
        };
        assert_eq!(names(&second), ["stays"]);
        assert_eq!(fs::read_dir(dir.state().join("attachments")).expect("the records").count(), 1);
        drop(stays);
        second.wait_until("the audit notices the deletion of the other pod", |agent| names(agent).is_empty());
    });
}

#[test]
fn netns_ends_with_its_pod_although_the_agent_has_it_open() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--audit-interval", "1"]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        let descriptors =
            || fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("its descriptors").count();
        let with = descriptors();
        assert_eq!(agent.request(&Request::Detach { key: key("a") }, None), Reply::Done);
        agent.wait_until("the agent closes its descriptors", |_| descriptors() < with);
    });
}

#[test]
fn connected_udp_socket_moves_off_a_removed_backend() {
    let dns = |backend: &str| {
        let tcp = web_manifest(&[backend]);
        tcp.replace(r#""port":80}"#, r#""port":80,"protocol":"UDP"}"#)
            .replace(r#""port":8080}"#, r#""port":8080,"protocol":"UDP"}"#)
    };
    with_node(|dir| {
        dir.write_manifest("web.json", &dns("10.1.0.1"));
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        let [a, b, client] = pod.within(|| {
            ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.1:0"].map(|at| UdpSocket::bind(at).expect("bind"))
        });
        client.connect("10.96.0.1:80").expect("connect");
        a.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        b.set_nonblocking(true).expect("do not wait");
        client.send(b"x").expect("send");
        a.recv(&mut [0; 1]).expect("a receives it");
        dir.write_manifest("web.json", &dns("10.1.0.2"));
        agent.wait_until_converged(2);
        agent.wait_until("b receives datagrams of the same socket", |_| {
            client.send(b"x").expect("send");
            b.recv(&mut [0; 1]).is_ok()
        });
    });
}

#[test]
fn drift_made_by_a_pod_is_detected_and_repaired() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--audit-interval", "1"]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        for damage in
            ["flush ruleset", "flush chain inet portico portals", "flush map inet portico backends4"]
        {
            let repairs = agent.status()["counts"]["repairs"].as_u64();
            pod.within(|| load(damage));
            agent.wait_until("the table is repaired", |agent| {
                agent.status()["counts"]["repairs"].as_u64() > repairs
            });
            agent.wait_until_converged(1);
            assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "a", "after {damage}");
        }
        let log = agent.log();
        assert!(log.contains("ruleset drift detected") && log.contains("the table is gone"), "{log}");
    });
}

#[test]
fn check_reports_each_difference() {
    with_node(|dir| {
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        let check = |pod: &Pod| agent.request(&Request::Check(attachment("a", pod)), Some(pod));
        assert!(matches!(check(&pod), Reply::Refused { transient: false, .. }), "the pod is not attached");
        agent.attach("a", &pod);
        assert_eq!(check(&pod), Reply::Done);
        pod.within(|| load("flush ruleset"));
        let Reply::Refused { message, transient: true } = check(&pod) else { panic!("{:?}", check(&pod)) };
        assert!(message.contains("the table is gone"), "{message}");
        agent.wait_until_converged(1);
        assert_eq!(check(&pod), Reply::Done, "the agent has repaired the table");
    });
}

#[test]
fn invalid_manifest_removes_nothing_and_is_reported() {
    with_node(|dir| {
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        dir.write_manifest("web.json", "{");
        agent.wait_until("the outage is reported", |agent| !agent.status()["outage"].is_null());
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "a");
        let shown = Command::new(program("portico")).args(["status", "--socket"]).arg(dir.socket()).output();
        let shown = shown.expect("run portico status");
        assert_eq!(shown.status.code(), Some(1), "an outage is an error");
        assert!(String::from_utf8_lossy(&shown.stdout).contains("web.json"), "{shown:?}");
        dir.write_manifest("web.json", &web_manifest(&["10.1.0.2"]));
        agent.wait_until("the outage is over", |agent| agent.status()["outage"].is_null());
        agent.wait_until_converged(2);
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "b");
    });
}

#[test]
fn agent_reports_the_reason_if_it_cannot_start() {
    let refusal = |args: &[&str]| {
        let output =
            Command::new(program("portico")).arg("agent").args(args).output().expect("run the agent");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    with_node(|dir| {
        let [manifests, socket] = [dir.manifests(), dir.socket()].map(|path| path.display().to_string());
        let with =
            |more: &[&str]| refusal(&[&["--manifests", &manifests, "--socket", &socket], more].concat());
        let text = with(&["--state-dir", "/proc/no"]);
        assert!(text.contains("state directory /proc/no"), "{text}");
        let _agent = Agent::start(dir, &[]);
        let state = dir.state().display().to_string();
        let text = with(&["--state-dir", &state]);
        assert!(text.contains("an agent is already listening on") && text.contains(&socket), "{text}");
        let text =
            refusal(&["--socket", &format!("{socket}.2"), "--state-dir", &state, "--kubeconfig", "/no/file"]);
        assert!(text.contains("/no/file") && text.contains("--manifests"), "{text}");
    });
}

#[test]
fn pods_are_programmed_only_after_the_manifests_are_read() {
    with_node(|dir| {
        dir.write_manifest("web.json", "{");
        let agent = Agent::start(dir, &[]);
        let Reply::Refused { message, transient: true } = agent.request(&Request::Ready, None) else {
            panic!("the agent is ready: {}", agent.log())
        };
        assert!(message.contains("initial sync not complete"), "{message}");
    });
}

#[test]
fn own_netns_and_other_files_are_rejected() {
    with_node(|dir| {
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        let own = fs::File::open("/proc/thread-self/ns/net").expect("open the node's network namespace");
        let ask = |file: &fs::File| {
            let request = Request::Attach(attachment("a", &pod));
            agent_ipc::send_request(
                &dir.socket(),
                &request,
                Some(std::os::fd::AsFd::as_fd(file)),
                agent::TIMEOUT,
            )
            .expect("an answer")
            .0
        };
        let Reply::Refused { message, transient: false } = ask(&own) else {
            panic!("the node's network namespace is accepted")
        };
        assert!(message.contains("own"), "{message}");
        let file = fs::File::open("/dev/null").expect("open a file");
        let Reply::Refused { message, transient: false } = ask(&file) else {
            panic!("another file is accepted")
        };
        assert!(message.contains("not a network namespace"), "{message}");
        assert_eq!(agent.status()["attachments"].as_array().map(Vec::len), Some(0));
    });
}

#[test]
fn malformed_requests_are_rejected_and_the_agent_keeps_running() {
    with_node(|dir| {
        let agent = Agent::start(dir, &[]);
        assert!(UnixStream::connect(dir.socket()).is_err(), "the socket is not a stream socket");
        let pod = pod_with_backends();
        for _ in 0..20 {
            let mut unknown = attachment("a", &pod);
            unknown.annotations.insert("portals".to_owned(), "no such service".to_owned());
            assert!(matches!(agent.request(&Request::Attach(unknown), Some(&pod)), Reply::Refused { .. }));
        }
        agent.attach("a", &pod);
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "a");
    });
}

#[test]
#[cfg_attr(not(feature = "root"), ignore = "a user namespace has no user but root")]
fn requests_from_non_root_are_rejected() {
    const UNPRIVILEGED: u32 = 65_534;
    with_node(|dir| {
        let _agent = Agent::start(dir, &[]);
        let open =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("open it");
        // The user may not be permitted to enter the build directory.
        let copy = dir.join("portico");
        fs::copy(program("portico"), &copy).expect("copy the program");
        open(dir.path(), 0o755);
        let status = || {
            let mut status = Command::new(&copy);
            status.args(["status", "--socket"]).arg(dir.socket()).uid(UNPRIVILEGED).gid(UNPRIVILEGED);
            let output = status.output().expect("run portico status");
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        assert!(status().contains("ermission denied"), "only root may open the socket: {}", status());
        open(&dir.socket(), 0o666);
        assert!(status().contains("only root may connect"), "{}", status());
    });
}

#[test]
fn metrics_and_health_are_served() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--metrics", "127.0.0.1:9477"]);
        let get = |path: &str| {
            let mut stream = TcpStream::connect("127.0.0.1:9477").expect("connect to the metrics");
            write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("ask");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("an answer");
            text
        };
        assert!(get("/healthz").starts_with("HTTP/1.1 200"));
        agent.wait_until("the agent is ready", |_| get("/readyz").starts_with("HTTP/1.1 200"));
        assert!(get("/nothing").starts_with("HTTP/1.1 404"));
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        let page = get("/metrics");
        for line in ["portico_attachments 1", "portico_applied_total 1", "portico_portals 1"] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    });
}

#[test]
fn stored_ruleset_programs_a_pod_without_an_agent() {
    with_node(|dir| {
        let agent = Agent::start(dir, &[]);
        let path = agent_ipc::ruleset_path(&dir.state(), agent_ipc::VIEW_DEFAULT);
        agent.wait_until("the ruleset is stored", |_| path.exists());
        agent.kill();
        let stored = netns_nft::RulesetSnapshot::read(&path).expect("a stored ruleset");
        let pod = pod_with_backends();
        let socket = pod.netns.socket().expect("a socket");
        socket.apply(&stored.batch).expect("apply it");
        assert!(matches!(socket.read_table().expect("read the table"), TableState::Intact(_)));
        assert_eq!(backend_seen_by(&pod, "10.96.0.1:80"), "a");
    });
}

#[test]
fn pod_has_only_the_portals_that_its_annotation_selects() {
    with_node(|dir| {
        dir.write_manifest(
            "other.json",
            &web_manifest(&["10.1.0.2"]).replace("web", "other").replace("10.96.0.1", "10.96.0.2"),
        );
        let agent = Agent::start(dir, &[]);
        let (selective, other) = (pod_with_backends(), pod_with_backends());
        let mut request = attachment("selective", &selective);
        request.annotations.insert("portals".to_owned(), "default/other".to_owned());
        assert_eq!(agent.request(&Request::Attach(request), Some(&selective)), Reply::Done);
        agent.attach("other", &other);
        assert_eq!(backend_seen_by(&selective, "10.96.0.2:80"), "b");
        selective.within(|| {
            assert!(try_backend_of("10.96.0.1:80", DROP_TIMEOUT).is_err(), "web is out of its view");
        });
        assert_eq!(backend_seen_by(&other, "10.96.0.1:80"), "a");
    });
}
