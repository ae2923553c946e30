//! Guests of a pod with the real agent: an annotation of the pod names the interfaces of its guests.

use agent_ipc::{Attachment, Reply, Request};
use netns_nft::TableState;
use test_support::agent::{Agent, AgentDir, attachment};
use test_support::backend_pod::pod_with_backends;
use test_support::backend_server::{DROP_TIMEOUT, backend_of, try_backend_of};
use test_support::manifest::{RELAYED, service};
use test_support::namespace::{add_address_to, in_new_netns, run};
use test_support::pod::Pod;

const KERNEL: &str = "10.96.0.1:80";
const RELAY: &str = "10.96.0.2:80";

/// Runs `body` with a pod that contains backends, and its guest behind tap0.
fn with_guest(body: impl FnOnce(&AgentDir, &Pod, &Pod) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        dir.write_manifest("kernel.json", &service("kernel", "10.96.0.1", "", &["10.1.0.1"]));
        dir.write_manifest("relay.json", &service("relay", "10.96.0.2", RELAYED, &["10.1.0.2"]));
        let (pod, guest) = (pod_with_backends(), Pod::new());
        pod.within(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("enable forwarding in the pod");
            let peer = ["peer", "name", "eth0", "netns", &guest.path()];
            run("ip", &[&["link", "add", "tap0", "type", "veth"][..], &peer].concat(), "");
            run("ip", &["link", "set", "tap0", "up"], "");
            add_address_to("tap0", "10.50.0.1/24");
        });
        guest.within(|| {
            run("ip", &["link", "set", "eth0", "up"], "");
            add_address_to("eth0", "10.50.0.2/24");
            run("ip", &["route", "add", "default", "via", "10.50.0.1"], "");
        });
        body(&dir, &pod, &guest);
    });
}

fn attachment_with_guests(pod: &Pod, interfaces: &str) -> Attachment {
    let mut attachment = attachment("a", pod);
    attachment.annotations.insert("guest-interfaces".to_owned(), interfaces.to_owned());
    attachment
}

fn attach(agent: &Agent, pod: &Pod, interfaces: &str) -> Reply {
    agent.request(&Request::Attach(attachment_with_guests(pod, interfaces)), Some(pod))
}

/// The guest interfaces in the pod's table.
fn guests(pod: &Pod) -> String {
    let found = pod.netns.socket().and_then(|socket| socket.read_table()).expect("read the table");
    let TableState::Intact(table) = found else { panic!("no table of this layout: {found:?}") };
    table.guests.to_string()
}

fn replies_to_guest(guest: &Pod) -> [String; 2] {
    guest.within(|| [KERNEL, RELAY].map(backend_of))
}

#[test]
fn guest_behind_the_annotated_interface_is_served_over_a_restart() {
    with_guest(|dir, pod, guest| {
        let agent = Agent::start(dir, &["--audit-interval", "1"]);
        assert_eq!(attach(&agent, pod, "tap*"), Reply::Done, "{}", agent.log());
        assert_eq!(
            (replies_to_guest(guest), guests(pod)),
            (["a", "b"].map(str::to_owned), "tap*".to_owned())
        );
        dir.write_manifest("more.json", &service("more", "10.96.0.3", "", &["10.1.0.1"]));
        agent.wait_until_converged(2);
        assert_eq!((replies_to_guest(guest), guests(pod).as_str()), (["a", "b"].map(str::to_owned), "tap*"));
        pod.within(|| run("nft", &["flush", "set", "inet", "portico", "guests"], ""));
        agent.wait_until("an audit restores the guests", |_| guests(pod) == "tap*");
        let repaired = |agent: &Agent| agent.status()["counts"]["repairs"].clone();
        assert_eq!(repaired(&agent), 1);
        agent.kill();
        let agent = Agent::start(dir, &["--audit-interval", "1"]);
        agent.wait_until("the attachment is recovered", |agent| {
            agent.status()["attachments"][0]["revision"].is_u64()
        });
        assert_eq!((replies_to_guest(guest), guests(pod).as_str()), (["a", "b"].map(str::to_owned), "tap*"));
        assert_eq!(repaired(&agent), 0, "there was no drift: {}", agent.log());
    });
}

#[test]
fn guest_behind_another_interface_is_not_served() {
    with_guest(|dir, pod, guest| {
        let agent = Agent::start(dir, &[]);
        assert_eq!(attach(&agent, pod, "tap1,k6t-*"), Reply::Done, "{}", agent.log());
        guest.within(|| {
            [KERNEL, RELAY].map(|portal| assert!(try_backend_of(portal, DROP_TIMEOUT).is_err(), "{portal}"))
        });
        assert_eq!(pod.within(|| backend_of(KERNEL)), "a", "the pod itself is served");
    });
}

#[test]
fn annotation_with_the_interface_of_the_attachment_is_rejected() {
    with_guest(|dir, pod, _| {
        let agent = Agent::start(dir, &[]);
        for wrong in ["lo", "tap0,l*", "", "*"] {
            let reply = attach(&agent, pod, wrong);
            let Reply::Refused { message, transient: false } = &reply else { panic!("{wrong}: {reply:?}") };
            assert!(message.contains("portico.dev/guest-interfaces"), "{message}");
        }
    });
}
