//! The DNS table: queries of a pod reach the agent's sockets in the pod, without conntrack entries, while the table is
//! armed; otherwise the ordinary portal.

use netns_nft::{DnsRedirect, DnsTable, DnsTableSettings};
use test_support::dns_pod::{DNS, PORTAL, QueryWay, in_dns_pod, respond_as_agent};
use test_support::pod::Pod;

const AGENT: &str = "agent";

/// Starts the agent's responders for both DNS addresses.
fn agent_redirects(pod: &Pod) -> Vec<DnsRedirect> {
    pod.within(|| DNS.map(|dns| respond_as_agent(AGENT, dns)).into())
}

fn create(pod: &Pod, redirects: &[DnsRedirect]) -> DnsTable {
    let socket = pod.netns.socket().expect("a socket");
    DnsTable::create(socket, redirects, DnsTableSettings::default()).expect("the DNS table").0
}

/// Asserts that queries to both DNS addresses reach this responder on all ways.
#[track_caller]
fn assert_reaches(pod: &Pod, name: &str) {
    for dns in DNS {
        for way in QueryWay::ALL {
            let found = pod.within(|| way.ask(dns)).unwrap_or_else(|why| panic!("{way:?} to {dns}: {why}"));
            assert_eq!(found, name, "{way:?} to {dns}");
        }
    }
}

#[test]
fn queries_reach_the_agent_only_while_the_table_is_armed() {
    in_dns_pod(|pod| {
        assert_reaches(pod, PORTAL);
        let table = create(pod, &agent_redirects(pod));
        assert_reaches(pod, PORTAL);
        table.arm().expect("arm");
        assert_reaches(pod, AGENT);
        table.disarm().expect("disarm");
        assert_reaches(pod, PORTAL);
        table.arm().expect("arm again");
        table.arm().expect("renew");
        assert_reaches(pod, AGENT);
        drop(table);
        assert_reaches(pod, PORTAL);
    });
}
