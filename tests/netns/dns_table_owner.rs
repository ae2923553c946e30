//! The lifetime of the DNS table: the ordinary portal serves the pod after the table expired, or after the process that
//! owns it died. Other tables, and what reads them, are unaffected.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netns_nft::{
    DNS_ARMED_TIME, DnsRedirect, DnsTable, DnsTableSettings, Error, GenerationRuns, KubeProxyRules, Monitor,
    TableChange, TableState,
};
use test_support::backend_server::REPLY_TIMEOUT;
use test_support::child_guard::ChildGuard;
use test_support::dns_pod::{
    AGENT, DNS, DnsClient, PORTAL, QueryWay, agent_redirects, arm, assert_reaches, create_with, in_dns_pod,
};
use test_support::eventually::eventually;
use test_support::namespace::{load, run};
use test_support::pod::Pod;

/// A table with the name of the DNS table that another process created.
const OTHER_CONTENT: &str = "table inet portico-dns {
  chain output { type filter hook output priority 0; policy drop; }
}";

/// The name of the responder to a query.
fn ask(pod: &Pod) -> String {
    pod.within(|| QueryWay::ConnectedUdp.ask(DNS[0])).expect("a response")
}

fn try_create(pod: &Pod, redirects: &[DnsRedirect]) -> Result<DnsTable, Error> {
    let socket = pod.netns.socket().expect("a socket");
    DnsTable::create(socket, redirects, DnsTableSettings::default()).map(|(table, _)| table)
}

fn tables(pod: &Pod) -> String {
    pod.within(|| run("nft", &["list", "tables"], ""))
}

fn generation(pod: &Pod) -> u32 {
    pod.netns.socket().and_then(|socket| socket.generation()).expect("a generation")
}

#[test]
fn portal_serves_the_pod_after_the_armed_time() {
    in_dns_pod(|pod| {
        let table = create_with(pod, &agent_redirects(pod), Duration::from_secs(2));
        let start = Instant::now();
        table.arm().expect("arm");
        let mut client = pod
            .within(|| DnsClient::new(QueryWay::Tcp, DNS[0].parse().expect("an address"), 0, REPLY_TIMEOUT))
            .expect("a connection");
        assert_eq!(client.exchange("first").expect("a response").name, AGENT);
        assert_eq!(ask(pod), AGENT);
        eventually("the table expires", || ask(pod) == PORTAL);
        // The kernel counts the time in ticks.
        assert!(start.elapsed() >= Duration::from_millis(1_900), "after {:?}", start.elapsed());
        assert_reaches(pod, PORTAL);
        assert_eq!(client.exchange("second").expect("a response").name, AGENT, "the open connection");
        table.arm().expect("arm an expired table");
        assert_reaches(pod, AGENT);
    });
}

#[test]
fn renewals_extend_the_armed_time() {
    const ARMED_TIME: Duration = Duration::from_secs(1);
    in_dns_pod(|pod| {
        let table = create_with(pod, &agent_redirects(pod), ARMED_TIME);
        let start = Instant::now();
        while start.elapsed() < 3 * ARMED_TIME {
            table.arm().expect("arm");
            assert_eq!(ask(pod), AGENT, "after {:?}", start.elapsed());
        }
    });
}

#[test]
fn no_query_misses_the_agent_while_the_table_is_renewed() {
    in_dns_pod(|pod| {
        let table = arm(pod);
        std::thread::scope(|scope| {
            let queries = scope.spawn(|| {
                pod.within(|| {
                    let dns = DNS[0].parse().expect("an address");
                    let mut client =
                        DnsClient::new(QueryWay::UnconnectedUdp, dns, 0, REPLY_TIMEOUT).expect("a client");
                    (0..20_000).all(|_| client.exchange("q").expect("a response").name == AGENT)
                })
            });
            while !queries.is_finished() {
                table.arm().expect("renew");
            }
            assert!(queries.join().expect("no panic"));
        });
    });
}

#[test]
fn portal_serves_the_pod_after_the_owner_was_killed() {
    in_dns_pod(|pod| {
        let table = arm(pod);
        let socket = table.as_fd().try_clone_to_owned().expect("a second descriptor");
        let mut owner = ChildGuard::spawn(Command::new("sleep").arg("1000").stdin(Stdio::from(socket)));
        drop(table);
        assert_reaches(pod, AGENT);
        owner.kill_and_wait();
        eventually("the kernel removes the table", || !tables(pod).contains("portico-dns"));
        assert_reaches(pod, PORTAL);
    });
}

#[test]
fn dropped_table_is_removed_without_a_new_generation() {
    in_dns_pod(|pod| {
        let table = arm(pod);
        let before = generation(pod);
        drop(table);
        assert!(!tables(pod).contains("portico-dns"), "{}", tables(pod));
        assert_eq!(generation(pod), before, "an audit reads nothing");
        assert_reaches(pod, PORTAL);
    });
}

#[test]
fn owned_dns_table_is_refused_to_others_and_survives_a_flush() {
    in_dns_pod(|pod| {
        let redirects = agent_redirects(pod);
        let table = try_create(pod, &redirects).expect("the table");
        let error = try_create(pod, &redirects).expect_err("a second owner");
        assert!(matches!(error, Error::DnsTableOwned), "{error:?}");
        pod.within(|| run("nft", &["flush", "ruleset"], ""));
        assert_eq!(tables(pod).trim(), "table inet portico-dns");
        table.arm().expect("arm");
        assert_reaches(pod, AGENT);
        drop(table);
        try_create(pod, &redirects).expect("the table after its owner");
    });
}

#[test]
fn dns_table_without_an_owner_is_replaced_whatever_it_contains() {
    in_dns_pod(|pod| {
        pod.within(|| load(OTHER_CONTENT));
        let table = arm(pod);
        assert_reaches(pod, AGENT);
        drop(table);
        assert_reaches(pod, PORTAL);
    });
}

#[test]
fn adopted_table_outlives_the_descriptor_of_its_first_owner() {
    in_dns_pod(|pod| {
        let first = create_with(pod, &agent_redirects(pod), DNS_ARMED_TIME);
        let sent = first.as_fd().try_clone_to_owned().expect("a second descriptor");
        let second = DnsTable::adopt(sent).expect("adopt the table");
        drop(first);
        second.arm().expect("arm");
        assert_reaches(pod, AGENT);
    });
}

#[test]
fn socket_that_owns_no_dns_table_is_not_adopted() {
    in_dns_pod(|pod| {
        let socket =
            || pod.netns.socket().expect("a socket").as_fd().try_clone_to_owned().expect("a descriptor");
        let missing = DnsTable::adopt(socket()).expect_err("no table");
        assert!(matches!(missing, Error::DnsTableMissing), "{missing:?}");
        let _table = arm(pod);
        let other = DnsTable::adopt(socket()).expect_err("the table of another socket");
        assert!(matches!(other, Error::DnsTableMissing), "{other:?}");
    });
}

#[test]
fn recorded_spans_cover_all_changes_of_the_dns_table_and_no_others() {
    in_dns_pod(|pod| {
        let redirects = agent_redirects(pod);
        let (runs, start) = (GenerationRuns::default(), generation(pod));
        let socket = pod.netns.socket().expect("a socket");
        let (table, span) =
            DnsTable::create(socket, &redirects, DnsTableSettings::default()).expect("the table");
        runs.record(span);
        for _ in 0..3 {
            runs.record(table.arm().expect("arm"));
        }
        assert!(runs.cover(start, generation(pod)), "after renewals");
        runs.record(table.disarm().expect("disarm"));
        pod.within(|| load("table inet other { }"));
        runs.record(table.arm().expect("arm after a change of another process"));
        assert!(!runs.cover(start, generation(pod)), "the other table");
        let start = generation(pod);
        runs.record(table.arm().expect("arm"));
        runs.record(table.remove().expect("remove"));
        assert!(runs.cover(start, generation(pod)), "after the removal");
    });
}

#[test]
fn table_of_the_portals_its_monitor_and_the_list_of_proxies_are_unaffected() {
    in_dns_pod(|pod| {
        let socket = pod.netns.socket().expect("a socket");
        let mut monitor = pod.within(|| Monitor::open("portico", &socket)).expect("a monitor");
        let read = || pod.netns.socket().and_then(|socket| socket.read_table()).expect("read the table");
        let before = read();
        assert!(matches!(before, TableState::Intact(_)), "{before:?}");
        let table = arm(pod);
        assert_eq!(read(), before);
        drop(table);
        assert_eq!(monitor.next_changes().expect("changes").table, TableChange::None);
        let _table = arm(pod);
        let chains = socket.chains().expect("the chains");
        let of_dns: Vec<_> = chains.iter().filter(|chain| chain.table == "portico-dns").collect();
        assert_eq!(of_dns.len(), 3, "{of_dns:?}");
        assert!(of_dns.iter().all(|chain| !chain.drops_forwarded));
        assert!(KubeProxyRules::of(&chains).is_empty());
        // nft 1.0.6 aborts at rules that it cannot express, and then lists no other table.
        let listing = pod.within(|| run("nft", &["list", "ruleset"], ""));
        assert!(listing.contains("table inet portico {") && listing.contains("notrack"), "{listing}");
    });
}
