//! Upgrade from release 0.1.0: the agent recovers pods from its tables and records, and serves its plugin.
//!
//! Records and messages are the bytes of 0.1.0, except for the identity and path of the pod's network namespace.

use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use netns_nft::Batch;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg, socket,
};
use test_support::agent::{Agent, AgentDir};
use test_support::backend_pod::pod_with_backends;
use test_support::backend_server::backend_of;
use test_support::manifest::web_manifest;
use test_support::namespace::{add_address, in_new_netns, run};
use test_support::pod::Pod;

/// The transaction by which 0.1.0 programmed a pod: 10.96.0.1:80 leads to 10.1.0.1:8080.
const TABLE: &[u8] = include_bytes!("table-of-layout-8.bin");
const ATTACHMENT: &str = r#""key":{"network":"net","containerId":"c1","interface":"eth0"},"netns":"NETNS","pod":{"namespace":"shop","name":"web-0","uid":"u-1"},"addresses":["10.1.0.5","fd00::5"],"annotations":{"portals":"all"},"notes":["a note"]"#;
const RECORD: &str =
    r#"{"attachment":{ATTACHMENT},"netnsId":{"dev":DEV,"inode":INODE,"cookie":COOKIE},"programmer":"agent"}"#;
const DONE: &str = r#"{"version":2,"answer":"done"}"#;

fn with_node(body: impl FnOnce(&AgentDir) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        dir.write_manifest("services.json", &web_manifest(&["10.1.0.1"]));
        body(&dir);
    });
}

/// Replaces the placeholders in a text by the identity and path of this pod's network namespace.
fn filled_in(text: &str, pod: &Pod) -> String {
    let id = pod.netns.id();
    let text = text.replace("ATTACHMENT", ATTACHMENT).replace("NETNS", &pod.path());
    let text = text.replace("DEV", &id.dev.to_string()).replace("INODE", &id.inode.to_string());
    text.replace("COOKIE", &id.cookie.to_string())
}

fn records(dir: &AgentDir) -> Vec<String> {
    let entries = fs::read_dir(dir.state().join("attachments")).expect("the records");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

/// Sends these bytes and the pod's network namespace to the agent. Returns the reply.
fn send(dir: &AgentDir, text: &str, pod: Option<&Pod>) -> String {
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    connect(socket.as_raw_fd(), &UnixAddr::new(&dir.socket()).expect("a short path")).expect("connect");
    let file = pod.map(|pod| File::open(pod.path()).expect("open the network namespace"));
    let descriptors: Vec<_> = file.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &control[..] };
    let bytes = [IoSlice::new(text.as_bytes())];
    sendmsg::<()>(socket.as_raw_fd(), &bytes, control, MsgFlags::empty(), None).expect("send");
    let mut reply = vec![0; 65_536];
    let length = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty()).expect("a reply");
    String::from_utf8(reply[..length].to_vec()).expect("text")
}

#[test]
fn pod_of_release_0_1_0_is_recovered_with_its_connections() {
    with_node(|dir| {
        let pod = pod_with_backends();
        let socket = pod.netns.socket().expect("a socket in the pod");
        socket.apply(&Batch::from_bytes(TABLE.to_vec())).expect("program the pod as 0.1.0 did");
        let records_dir = dir.state().join("attachments");
        fs::create_dir_all(&records_dir).expect("create the directory");
        fs::write(records_dir.join("net,c1,eth0.json"), filled_in(RECORD, &pod)).expect("write the record");
        assert_eq!(pod.within(|| backend_of("10.96.0.1:80")), "a");
        // A connection that was opened with the old table, and sends data after the upgrade.
        let (mut client, mut server) = pod.within(|| {
            add_address("10.1.0.3");
            let listener = TcpListener::bind("10.1.0.3:8080").expect("listen");
            let client = TcpStream::connect("10.1.0.3:8080").expect("connect");
            (client, listener.accept().expect("accept").0)
        });
        let agent = Agent::start(dir, &[]);
        agent.wait_until("the pod is recovered", |agent| {
            let attachment = agent.status()["attachments"][0].clone();
            attachment["pod"]["name"] == "web-0" && attachment["lagMs"] == 0 && attachment["error"].is_null()
        });
        assert_eq!(pod.within(|| backend_of("10.96.0.1:80")), "a");
        client.write_all(b"after").expect("write");
        let mut received = [0; 5];
        server.read_exact(&mut received).expect("the connection is open");
        dir.write_manifest("services.json", &web_manifest(&["10.1.0.2"]));
        agent.wait_until("the pod follows changes", |_| pod.within(|| backend_of("10.96.0.1:80")) == "b");
        assert_eq!(records(dir), ["net,c1,eth0.json"]);
    });
}

#[test]
fn plugin_of_release_0_1_0_is_served() {
    with_node(|dir| {
        let (agent, pod) = (Agent::start(dir, &[]), pod_with_backends());
        let [attach, check] = ["attach", "check"]
            .map(|verb| filled_in(&format!(r#"{{"version":1,"verb":"{verb}",ATTACHMENT}}"#), &pod));
        assert_eq!(send(dir, r#"{"version":1,"verb":"ready"}"#, None), DONE);
        assert_eq!(send(dir, &attach, Some(&pod)), DONE);
        assert_eq!(pod.within(|| backend_of("10.96.0.1:80")), "a");
        assert_eq!(send(dir, &check, Some(&pod)), DONE);
        let gc = |valid: &str| format!(r#"{{"version":1,"verb":"gc","network":"net","valid":[{valid}]}}"#);
        let key = r#"{"network":"net","containerId":"c1","interface":"eth0"}"#;
        assert_eq!(send(dir, &gc(key), None), DONE);
        assert_eq!(records(dir), ["net,c1,eth0.json"], "the valid attachment is kept");
        assert_eq!(send(dir, &gc(""), None), DONE);
        agent.wait_until("the invalid attachment is removed", |_| records(dir).is_empty());
        assert_eq!(send(dir, &attach, Some(&pod)), DONE);
        let detach =
            r#"{"version":1,"verb":"detach","key":{"network":"net","containerId":"c1","interface":"eth0"}}"#;
        assert_eq!(send(dir, detach, None), DONE);
        agent.wait_until("the pod is detached", |_| records(dir).is_empty());
        assert_eq!(send(dir, r#"{"version":1,"verb":"retire"}"#, None), DONE);
    });
}
