//! The collapse of a search list.

use super::*;
use crate::SearchList;
use crate::simulation::name;

/// Returns the answers of a client that walks its search list as glibc does, and the number of its queries.
fn getaddrinfo(world: &mut Simulation, text: &str) -> ([Answer; 2], usize) {
    let client = pod(1);
    let domains = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example", ""];
    let mut queries = 0;
    for domain in domains {
        let asked = format!("{text}.{domain}");
        let asked = asked.trim_end_matches('.');
        let origins =
            [A, AAAA].map(|record_type| world.ask(&client, Transport::Udp, &query(asked, record_type, None)));
        let answers = origins.map(|origin| world.wait(origin));
        queries += 2;
        // musl ends its search at NXDOMAIN for either family, so both must agree.
        assert_eq!(answers[0].rcode(), answers[1].rcode(), "{asked}");
        if answers.iter().any(|answer| answer.rcode() == 0 && !answer.parsed().answers.is_empty()) {
            return (answers, queries);
        }
        if domain.is_empty() {
            return (answers, queries);
        }
    }
    unreachable!("the last name has a response")
}

#[test]
fn external_name_costs_two_queries_and_one_round_trip() {
    let mut world = simulation();
    let ([v4, v6], queries) = getaddrinfo(&mut world, "github.com");
    assert_eq!((queries, world.elapsed()), (2, ROUND_TRIP));
    assert_eq!(v4.records(), (vec!["CNAME github.com.".to_owned(), "A 192.0.2.1".to_owned()], Some(5)));
    assert_eq!((v6.rcode(), v6.records().0), (0, vec!["CNAME github.com.".to_owned()]));
    assert_eq!(v6.parsed().authorities.len(), 1);
    world.assert_idle();
    let counters = world.resolver.counters(1);
    assert_eq!((counters.collapsed, counters.upstream_lookups), (2, 4));
    let (_, queries) = getaddrinfo(&mut world, "github.com");
    assert_eq!((queries, world.resolver.counters(1).upstream_lookups), (2, 4));
}

#[test]
fn service_of_another_namespace_and_complete_name_cost_two_queries() {
    // The host domain comes before a complete name, so the upstream must deny that the name exists there.
    for (text, target, lookups) in [
        ("api.other", "api.other.svc.cluster.local.", 0),
        ("api.other.svc", "api.other.svc.cluster.local.", 0),
        ("web.default.svc.cluster.local", "web.default.svc.cluster.local.", 2),
    ] {
        let mut world = simulation();
        let ([v4, v6], queries) = getaddrinfo(&mut world, text);
        assert_eq!((queries, world.asked.len()), (2, lookups), "{text}");
        assert_eq!(v4.records().0[0], format!("CNAME {target}"));
        assert_eq!((v4.records().0.len(), v6.records().0.len(), v6.rcode()), (2, 1, 0));
    }
}

#[test]
fn name_of_the_host_domain_is_found_before_the_name_itself() {
    let mut world = simulation();
    let ([v4, v6], queries) = getaddrinfo(&mut world, "dual");
    assert_eq!(v4.records().0, ["CNAME dual.corp.example.", "A 192.0.2.1"]);
    assert_eq!((v6.records().0.len(), queries), (2, 2));
}

#[test]
fn missing_name_is_denied_as_the_client_asked_it() {
    let (mut world, client) = (simulation(), pod(1));
    let answer = world.resolve(&client, "missing.example.default.svc.cluster.local", A);
    assert_eq!((answer.rcode(), answer.records().0.len()), (3, 0));
    assert!(answer.message[12..].starts_with(&name("missing.example.default.svc.cluster.local")));
    let (_, queries) = getaddrinfo(&mut world, "missing.example");
    assert_eq!(queries, 10);
}

#[test]
fn uncertain_name_before_the_found_one_gives_the_plain_denial() {
    let failures: [fn(&Asked) -> Vec<Arrival>; 3] = [
        |_| Vec::new(),
        |asked| vec![(ROUND_TRIP, Some(reply(&asked.message, 2, &[], None)))],
        |asked| vec![(ROUND_TRIP, Some(reply(&asked.message, 0, &[], Some(60))))],
    ];
    for failure in failures {
        let script = move |asked: &Asked| {
            let is_host_domain = asked.message[12..].ends_with(b"\x04corp\x07example\0\0\x01\0\x01")
                || asked.message[12..].windows(13).any(|bytes| bytes == b"\x04corp\x07example");
            if is_host_domain { failure(asked) } else { working(asked) }
        };
        let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
        let answer = world.resolve(&pod(1), "github.com.default.svc.cluster.local", A);
        assert_eq!((answer.rcode(), answer.records().0.len()), (3, 0));
        world.assert_idle();
    }
}

#[test]
fn failure_of_the_name_itself_gives_the_plain_denial() {
    let mut world = Simulation::new(ResolverOptions::default(), Box::new(|_| Vec::new()));
    let answer = world.resolve(&pod(1), "github.com.default.svc.cluster.local", A);
    assert_eq!(answer.rcode(), 3);
    world.assert_idle();
}

#[test]
fn other_walks_are_not_collapsed() {
    let list = |searches: &[&str], options: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
        SearchList::new(&owned(searches), &owned(options))
    };
    let cluster = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
    let with_search = |search| std::sync::Arc::new(crate::Client { search, ..(*pod(1)).clone() });
    let clients = [
        ("no list", with_search(None)),
        (
            "another namespace",
            with_search(list(&["x.svc.cluster.local", cluster[1], cluster[2]], &["ndots:5"])),
        ),
        ("a domain before", with_search(list(&["corp.example", cluster[0], cluster[1]], &["ndots:5"]))),
        ("two domains", with_search(list(&cluster[..2], &["ndots:5"]))),
        ("ndots 1", with_search(list(&cluster, &[]))),
    ];
    for (case, client) in clients {
        let mut world = simulation();
        let answer = world.resolve(&client, "www.github.com.default.svc.cluster.local", A);
        assert_eq!((answer.rcode(), world.asked.len()), (3, 0), "{case}");
    }
    let mut world = simulation();
    for (text, record_type) in [
        ("default.svc.cluster.local", A),
        ("github.com.svc.cluster.local", A),
        ("github.com.default.svc.cluster.local", TXT),
        ("a.b.c.d.e.github.com.default.svc.cluster.local", A),
    ] {
        world.resolve(&pod(1), text, record_type);
        assert!(world.asked.is_empty(), "{text} {record_type}");
    }
    let mut dnssec = query("github.com.default.svc.cluster.local", A, Some(1_232));
    let at = dnssec.len() - 4;
    dnssec[at] |= 0x80;
    world.ask(&pod(1), Transport::Udp, &dnssec);
    assert!(world.asked.is_empty());
}

#[test]
fn collapse_can_be_switched_off() {
    let options = ResolverOptions { is_search_collapsed: false, ..ResolverOptions::default() };
    let mut world = Simulation::new(options, Box::new(working));
    assert_eq!(getaddrinfo(&mut world, "github.com").1, 10);
}

#[test]
fn truncated_lookup_of_a_walk_is_repeated_over_tcp() {
    let script = |asked: &Asked| {
        let mut message = internet(asked);
        if asked.transport == Transport::Udp && message[7] == 1 {
            message[2] |= 2;
        }
        vec![(ROUND_TRIP, Some(message))]
    };
    let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
    let ([v4, _], queries) = getaddrinfo(&mut world, "github.com");
    assert_eq!((queries, v4.records().0.len()), (2, 2));
    assert_eq!(world.resolver.exchange_counters().tcp_retries, 1);
    world.assert_idle();
}

#[test]
fn name_with_one_family_in_the_host_domain_is_found_for_both_families() {
    for text in ["printer", "only6"] {
        let mut world = simulation();
        let ([v4, v6], queries) = getaddrinfo(&mut world, text);
        let alias = format!("CNAME {text}.corp.example.");
        let mut counts = [&v4, &v6].map(|answer| {
            assert_eq!((answer.rcode(), &answer.records().0[0]), (0, &alias));
            answer.records().0.len()
        });
        counts.sort_unstable();
        assert_eq!((queries, counts), (2, [1, 2]));
        // The question for the other family joins the lookup of the other query.
        assert_eq!((world.asked.len(), world.elapsed()), (4, ROUND_TRIP));
        world.assert_idle();
    }
    let mut world = simulation();
    let answer = world.resolve(&pod(1), "printer.default.svc.cluster.local", AAAA);
    assert_eq!((answer.rcode(), answer.after), (0, ROUND_TRIP * 2));
    world.assert_idle();
}
