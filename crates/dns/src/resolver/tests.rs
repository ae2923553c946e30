//! The resolver with upstreams that work.

mod faults;
mod properties;
mod search;

use std::net::SocketAddr;
use std::time::Duration;

use crate::simulation::{Answer, Arrival, Asked, Simulation, parse, pod, query, reply};
use crate::{
    AnswerSource, ClientCounters, Name, Outcome, Rate, ResolverOptions, Source, Transport, Upstreams,
};

const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const ROUND_TRIP: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

/// Answers as the servers of the Internet would.
fn internet(asked: &Asked) -> Vec<u8> {
    let (name, len) = Name::read(&asked.message[12..]).unwrap();
    let record_type = u16::from(asked.message[12 + len + 1]);
    let (text, message) = (name.to_string(), &asked.message);
    match (text.as_str(), record_type) {
        ("big.example.", TXT) => {
            let text = [&[199], [b'x'; 199].as_slice()].concat();
            let all = vec![(TXT, 60, text.as_slice()); 10];
            match asked.transport {
                Transport::Tcp => reply(message, 0, &all, None),
                Transport::Udp => {
                    let mut truncated = reply(message, 0, &all[..2], None);
                    truncated[2] |= 2;
                    truncated
                }
            }
        }
        ("github.com." | "dual.example." | "target.example." | "printer.corp.example.", A) => {
            reply(message, 0, &[(A, 60, &[192, 0, 2, 1])], None)
        }
        ("only6.corp.example.", A) => reply(message, 0, &[], Some(60)),
        ("dual.corp.example.", A) => reply(message, 0, &[(A, 60, &[192, 0, 2, 1])], None),
        ("dual.example." | "dual.corp.example." | "only6.corp.example.", AAAA) => {
            reply(message, 0, &[(AAAA, 60, &[1; 16])], None)
        }
        ("github.com." | "dual.example." | "target.example." | "printer.corp.example.", _) => {
            reply(message, 0, &[], Some(60))
        }
        ("unsigned.example.", _) => reply(message, 3, &[], None),
        _ => reply(message, 3, &[], Some(60)),
    }
}

fn working(asked: &Asked) -> Vec<Arrival> {
    vec![(ROUND_TRIP, Some(internet(asked)))]
}

fn simulation() -> Simulation {
    Simulation::new(ResolverOptions::default(), Box::new(working))
}

fn node_simulation() -> Simulation {
    let stubs = vec![(Name::parse("corp.example").unwrap(), vec![address("192.0.2.54:53")])];
    let upstreams = vec![address("192.0.2.53:53"), address("10.96.0.10:53")];
    let upstreams = Upstreams::Node { upstreams, stubs };
    Simulation::new(ResolverOptions { upstreams, ..ResolverOptions::default() }, Box::new(working))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Returns a query with an OPT record that contains this option.
fn query_with_option(name: &str, code: u8) -> Vec<u8> {
    let mut message = query(name, A, Some(1_232));
    let len = message.len();
    message[len - 1] = 12;
    message.extend_from_slice(&[0, code, 0, 8, 0, 1, 32, 0, 192, 0, 2, 1]);
    message
}

#[test]
fn cluster_name_is_answered_from_the_zone_without_an_upstream() {
    let (mut world, client) = (simulation(), pod(1));
    let answer = world.resolve(&client, "web.default.svc.cluster.local", A);
    assert_eq!((answer.records().0, answer.after), (vec!["A 10.96.0.1".to_owned()], Duration::ZERO));
    assert!(world.asked.is_empty());
}

#[test]
fn external_name_is_relayed_and_cached() {
    let (mut world, client) = (simulation(), pod(1));
    let first = world.resolve(&client, "github.com", A);
    assert_eq!(first.records(), (vec!["A 192.0.2.1".to_owned()], Some(60)));
    world.advance(SECOND * 20);
    let second = world.resolve(&client, "GitHub.com", A);
    assert_eq!((second.records().1, second.after), (Some(40), Duration::ZERO));
    assert!(second.message[12..].starts_with(b"\x06GitHub\x03com"));
    assert_eq!(world.asked.len(), 1);
    world.advance(SECOND * 40);
    assert_eq!(world.resolve(&client, "github.com", A).records().1, Some(60));
    assert_eq!(world.asked.len(), 2);
    world.assert_idle();
}

#[test]
fn negative_response_is_cached_only_with_an_soa_record() {
    let (mut world, client) = (simulation(), pod(1));
    for (name, rcode, queries) in [("missing.example", 3, 1), ("unsigned.example", 3, 3)] {
        (0..3).for_each(|_| assert_eq!(world.resolve(&client, name, A).rcode(), rcode));
        let count =
            world.asked.iter().filter(|asked| asked.message[13..].starts_with(&name.as_bytes()[..7])).count();
        assert_eq!(count, queries, "{name}");
    }
    assert_eq!(world.resolve(&client, "dual.example", TXT).rcode(), 0);
    assert_eq!(world.resolve(&client, "dual.example", TXT).after, Duration::ZERO);
}

#[test]
fn upstream_is_an_endpoint_of_the_cluster_dns_asked_from_the_pod() {
    let (mut world, client) = (simulation(), pod(7));
    (0..50).for_each(|number| drop(world.resolve(&client, &format!("n{number}.example"), A)));
    assert!(world.asked.iter().all(|asked| asked.from == Source::Client(7)));
    let mut upstreams: Vec<_> = world.asked.iter().map(|asked| asked.upstream).collect();
    upstreams.sort();
    upstreams.dedup();
    assert_eq!(upstreams, ["10.1.0.2:53", "10.1.0.3:53"].map(address));
    let mut ids: Vec<_> = world.asked.iter().map(|asked| asked.message[..2].to_vec()).collect();
    ids.sort();
    ids.dedup();
    assert!(ids.len() >= 49, "ids are random");
}

#[test]
fn cache_and_lookups_of_a_pod_are_its_own_in_cluster_mode_and_shared_in_node_mode() {
    for (mut world, lookups) in [(simulation(), 2), (node_simulation(), 1)] {
        let origins = [pod(1), pod(2), pod(1), pod(2)]
            .map(|client| world.ask(&client, Transport::Udp, &query("github.com", A, None)));
        origins.iter().for_each(|origin| assert_eq!(world.wait(*origin).records().0, ["A 192.0.2.1"]));
        [pod(1), pod(2)].iter().for_each(|client| drop(world.resolve(client, "github.com", A)));
        assert_eq!(world.asked.len(), lookups);
        world.assert_idle();
    }
}

#[test]
fn node_upstreams_are_selected_by_domain_and_never_a_captured_address() {
    let (mut world, client) = (node_simulation(), pod(1));
    for name in ["github.com", "printer.CORP.example", "corp.example", "notcorp.example"] {
        world.resolve(&client, name, A);
    }
    let asked: Vec<_> = world.asked.iter().map(|asked| (asked.from, asked.upstream)).collect();
    let [servers, stub] = ["192.0.2.53:53", "192.0.2.54:53"].map(|text| (Source::Node, address(text)));
    assert_eq!(asked, [servers, stub, stub, servers]);
}

#[test]
fn truncated_response_is_relayed_and_the_client_gets_the_rest_over_tcp() {
    let (mut world, client) = (simulation(), pod(1));
    let udp = world.resolve(&client, "big.example", TXT);
    assert_eq!((udp.message[2] & 2, udp.records().0.len()), (2, 2));
    let origin = world.ask(&client, Transport::Tcp, &query("big.example", TXT, None));
    let tcp = world.wait(origin);
    assert_eq!((tcp.message[2] & 2, tcp.records().0.len()), (0, 10));
    // The complete response is in the cache now: over UDP as much of it as fits.
    let origin = world.ask(&client, Transport::Udp, &query("big.example", TXT, Some(1_000)));
    let cut = world.wait(origin);
    assert_eq!((cut.message[2] & 2, cut.records().0.len(), cut.after), (2, 4, Duration::ZERO));
    assert!(cut.message.len() <= 1_000);
    let transports: Vec<_> = world.asked.iter().map(|asked| asked.transport).collect();
    assert_eq!(transports, [Transport::Udp, Transport::Tcp]);
}

#[test]
fn opt_record_is_passed_through_and_responses_have_one_only_if_asked() {
    let (mut world, client) = (simulation(), pod(1));
    let plain = world.resolve(&client, "github.com", A);
    assert!(plain.parsed().edns.is_none());
    let origin = world.ask(&client, Transport::Udp, &query("github.com", A, Some(1_400)));
    let cached = world.wait(origin);
    assert_eq!((world.asked.len(), cached.parsed().edns.unwrap().max_payload()), (1, 1_232));
    let origin = world.ask(&client, Transport::Udp, &query("dual.example", A, Some(1_400)));
    let fresh = world.wait(origin);
    assert_eq!(fresh.parsed().edns.unwrap().max_payload(), 1_400);
    assert!(world.resolve(&client, "dual.example", A).parsed().edns.is_none());
    assert_eq!(world.asked.len(), 2);
}

#[test]
fn response_to_an_option_is_never_sent_to_another_query() {
    let (mut world, client) = (simulation(), pod(1));
    let (cookie, subnet) = (query_with_option("github.com", 10), query_with_option("github.com", 8));
    let origins = [&cookie, &cookie].map(|message| world.ask(&client, Transport::Udp, message));
    for origin in origins {
        assert!(world.wait(origin).message.ends_with(&cookie[cookie.len() - 8..]));
    }
    assert_eq!(world.asked.len(), 2);
    // The response is stored without the cookie.
    let origin = world.ask(&client, Transport::Udp, &query("github.com", A, Some(1_232)));
    let cached = world.wait(origin);
    assert_eq!(
        (cached.after, parse(&cached.message).edns.unwrap().options().as_ref().len()),
        (Duration::ZERO, 0)
    );
    // The subnet can change the answer: it is always asked.
    for _ in 0..2 {
        let origin = world.ask(&client, Transport::Udp, &subnet);
        assert_eq!(world.wait(origin).after, ROUND_TRIP);
    }
}

#[test]
fn flags_that_change_the_answer_are_part_of_the_key() {
    let (mut world, client) = (simulation(), pod(1));
    let mut dnssec = query("github.com", A, Some(1_232));
    let at = dnssec.len() - 4;
    dnssec[at] |= 0x80;
    let mut checking_disabled = query("github.com", A, None);
    checking_disabled[3] |= 0x10;
    for message in [query("github.com", A, None), dnssec, checking_disabled] {
        for after in [ROUND_TRIP, Duration::ZERO] {
            let origin = world.ask(&client, Transport::Udp, &message);
            assert_eq!(world.wait(origin).after, after);
        }
    }
    assert_eq!(world.asked.len(), 3);
}

#[test]
fn alias_of_an_external_name_has_the_records_of_its_target() {
    let (mut world, client) = (simulation(), pod(1));
    let external = world.resolve(&client, "ext.default.svc.cluster.local", A);
    assert_eq!(external.records().0, ["CNAME target.example.", "A 192.0.2.1"]);
    let absent_family = world.resolve(&client, "ext.default.svc.cluster.local", AAAA);
    assert_eq!((absent_family.rcode(), absent_family.records().0.len()), (0, 1));
    let missing = world.resolve(&client, "missing.default.svc.cluster.local", A);
    assert_eq!(missing.records().0, ["CNAME missing.example."]);
    let inside = world.resolve(&client, "inside.default.svc.cluster.local", A);
    assert_eq!(inside.records().0.last().unwrap(), "A 10.96.0.1");
    assert_eq!(world.asked.len(), 3);
    world.assert_idle();
}

#[test]
fn client_over_its_rate_gets_servfail_and_others_do_not() {
    let options =
        ResolverOptions { client_rate: Rate { per_second: 10, burst: 20 }, ..ResolverOptions::default() };
    let mut world = Simulation::new(options, Box::new(working));
    let (flood, other) = (pod(1), pod(2));
    for number in 0..100 {
        world.ask(&flood, Transport::Udp, &query(&format!("n{number}.example"), A, None));
    }
    assert_eq!(world.resolve(&other, "github.com", A).rcode(), 0);
    let counters = world.resolver.counters(1);
    assert_eq!((counters.limited, counters.servfail, counters.nxdomain), (80, 80, 20));
    let notices = world.resolver.take_log();
    assert_eq!(notices.iter().map(|notice| (notice.client, notice.count)).collect::<Vec<_>>(), [(1, 1)]);
    // Names of the cluster and of the cache are not limited.
    assert_eq!(world.resolve(&flood, "web.default.svc.cluster.local", A).rcode(), 0);
    assert_eq!(world.resolve(&flood, "n0.example", A).rcode(), 3);
}

#[test]
fn queries_in_flight_are_limited_for_each_client_and_for_all() {
    let options =
        ResolverOptions { client_in_flight_max: 30, in_flight_max: 50, ..ResolverOptions::default() };
    let mut world = Simulation::new(options, Box::new(|_| Vec::new()));
    for number in 0..60 {
        for id in 1..=2 {
            world.ask(&pod(id), Transport::Udp, &query(&format!("n{number}.example"), A, None));
        }
    }
    assert_eq!(world.resolver.usage().pending, 50);
    let limited = [1, 2].map(|id| world.resolver.counters(id).limited);
    assert_eq!(limited, [35, 35]);
    world.assert_idle();
    assert_eq!(world.resolver.totals().servfail, 120);
}

#[test]
fn stored_response_is_described_with_its_upstream_and_age() {
    let (mut world, client) = (simulation(), pod(1));
    world.resolve(&client, "github.com", A);
    world.advance(SECOND * 20);
    let describe = |world: &Simulation, client, name: &str| {
        let name = Name::parse(name).unwrap();
        world.resolver.cached_answer(
            world.now,
            client,
            crate::simulation::SERVER,
            &name,
            crate::RecordType::A,
        )
    };
    let cached = describe(&world, 1, "github.com").unwrap();
    assert_eq!((cached.age, cached.remaining, cached.outcome), (SECOND * 20, SECOND * 40, Outcome::NoError));
    assert_eq!(cached.upstream, world.asked[0].upstream);
    assert_eq!((describe(&world, 2, "github.com"), describe(&world, 1, "dual.example")), (None, None));
}

#[test]
fn large_query_is_refused_unless_the_zone_answers_it() {
    let (mut world, client) = (simulation(), pod(1));
    for (name, rcode) in [("github.com", 5), ("web.default.svc.cluster.local", 0)] {
        let mut message = query(name, A, Some(1_232));
        let len = message.len();
        message[len - 2..].copy_from_slice(&[0x10, 0]);
        // Padding.
        message.extend_from_slice(&[0, 12, 0x0f, 0xfc]);
        message.resize(len + 0x1000, 0);
        let origin = world.ask(&client, Transport::Tcp, &message);
        assert_eq!(world.wait(origin).rcode(), rcode, "{name}");
    }
    assert!(world.asked.is_empty());
}

#[test]
fn removed_client_leaves_nothing_but_its_share_of_the_totals() {
    let (mut world, client) = (simulation(), pod(1));
    world.resolve(&client, "github.com", A);
    world.ask(&client, Transport::Udp, &query("dual.example", A, None));
    world.resolver.remove_client(1);
    let usage = world.resolver.usage();
    assert_eq!((usage.pending, usage.lookups, usage.exchanges, usage.cache_entries), (0, 0, 0, 0));
    assert_eq!(world.resolver.counters(1), ClientCounters::default());
    assert_eq!(world.resolver.totals().queries, 1);
    assert_eq!(world.resolver.deadline(), None);
}

#[test]
fn shared_lookup_outlives_the_client_that_caused_it() {
    let (mut world, first, second) = (node_simulation(), pod(1), pod(2));
    world.ask(&first, Transport::Udp, &query("github.com", A, None));
    let origin = world.ask(&second, Transport::Udp, &query("github.com", A, None));
    world.resolver.remove_client(1);
    assert_eq!(world.wait(origin).records().0, ["A 192.0.2.1"]);
    assert_eq!((world.asked.len(), world.resolver.totals().upstream_lookups), (1, 1));
    assert_eq!(world.resolver.top_clients(10).len(), 1);
}

#[test]
fn counters_and_log_state_what_answered_each_query() {
    let (mut world, client) = (simulation(), pod(1));
    world.resolver.set_query_log(1, true);
    let names = ["web.default.svc.cluster.local", "github.com", "github.com", "missing.example"];
    names.iter().for_each(|name| drop(world.resolve(&client, name, A)));
    world.resolve(&pod(2), "github.com", A);
    let log = world.resolver.take_query_log(1).entries;
    assert_eq!(
        log.iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>(),
        names.map(|name| format!("{name}."))
    );
    let sources: Vec<_> = log.iter().map(|entry| (entry.source, entry.outcome, entry.duration)).collect();
    assert_eq!(sources[0], (AnswerSource::Zone, Outcome::NoError, Duration::ZERO));
    assert!(matches!(sources[1], (AnswerSource::Upstream(_), Outcome::NoError, ROUND_TRIP)));
    assert_eq!(sources[2], (AnswerSource::Cache, Outcome::NoError, Duration::ZERO));
    assert!(matches!(sources[3], (AnswerSource::Upstream(_), Outcome::NxDomain, ROUND_TRIP)));
    let counters = world.resolver.counters(1);
    let expected = ClientCounters {
        queries: 4,
        noerror: 3,
        nxdomain: 1,
        cache_hits: 1,
        upstream_lookups: 2,
        upstream_time_us: 20_000,
        upstream_time_max_us: 10_000,
        ..ClientCounters::default()
    };
    assert_eq!(counters, expected);
    assert_eq!(world.resolver.top_clients(1), [(1, expected)]);
    assert_eq!(world.resolver.totals().queries, 5);
}
