//! Random upstreams and random messages: each query has one response in time, and nothing remains.

use std::collections::HashSet;

use super::*;
use crate::simulation::{mutate, parse, pod};
use crate::{Origin, SearchList};

/// What a random upstream does with a query.
fn behave(rng: &mut fastrand::Rng, asked: &Asked) -> Vec<Arrival> {
    let delay = |rng: &mut fastrand::Rng| Duration::from_micros(rng.u64(0..6_000_000) >> rng.u32(0..12));
    let mut right = internet(asked);
    match rng.u32(0..12) {
        0 => Vec::new(),
        1 => vec![(delay(rng), None)],
        2 => vec![(delay(rng), Some(reply(&asked.message, [1, 2, 4, 5][rng.usize(0..4)], &[], None)))],
        3 => {
            right[2] |= 2;
            vec![(delay(rng), Some(right))]
        }
        4 => {
            let mutated = mutate(rng, &right);
            vec![(delay(rng), Some(mutated)), (delay(rng), Some(right))]
        }
        5 => (0..rng.usize(0..80)).map(|_| (delay(rng), Some(mutate(rng, &right)))).collect(),
        6 => vec![(delay(rng), Some(right.clone())), (delay(rng), Some(right)), (delay(rng), None)],
        7 => vec![(delay(rng), Some(Vec::new())), (delay(rng), Some(vec![0; rng.usize(0..600)]))],
        _ => vec![(delay(rng), Some(right))],
    }
}

/// The names that clients ask: of the cluster, starts of a walk, and external ones.
const NAMES: [&str; 10] = [
    "web.default.svc.cluster.local",
    "ext.default.svc.cluster.local",
    "missing.default.svc.cluster.local",
    "github.com.default.svc.cluster.local",
    "dual.default.svc.cluster.local",
    "nothing.example.default.svc.cluster.local",
    "github.com",
    "dual.example",
    "big.example",
    "nothing.example",
];

#[test]
fn each_query_has_one_response_in_time_and_nothing_remains() {
    for seed in 0..150 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut script_rng = rng.fork();
        let options = ResolverOptions {
            upstreams: if rng.bool() {
                Upstreams::Cluster
            } else {
                Upstreams::Node {
                    upstreams: (1..4).map(|n| address(&format!("192.0.2.{n}:53"))).collect(),
                    stubs: Vec::new(),
                }
            },
            client_in_flight_max: 40,
            cache_bytes_max: rng.usize(1_000..8_000),
            ..ResolverOptions::default()
        };
        let mut world = Simulation::new(options, Box::new(move |asked| behave(&mut script_rng, asked)));
        world.is_garbled = true;
        let clients = [pod(1), pod(2), pod(3)];
        let mut origins: Vec<Origin> = Vec::new();
        for _ in 0..rng.usize(1..200) {
            let name = NAMES[rng.usize(0..NAMES.len())];
            let edns = [None, Some(512), Some(1_232), Some(4_096)][rng.usize(0..4)];
            let message = query(name, [A, AAAA, TXT][rng.usize(0..3)], edns);
            let transport = if rng.u32(0..4) == 0 { Transport::Tcp } else { Transport::Udp };
            origins.push(world.ask(&clients[rng.usize(0..3)], transport, &message));
            if rng.bool() {
                world.advance(Duration::from_millis(rng.u64(0..2_000)));
            }
        }
        world.assert_idle();
        assert!(origins.iter().all(|origin| world.answers.contains_key(origin)), "seed {seed}");
        let totals = world.resolver.totals();
        assert_eq!(totals.queries, origins.len() as u64, "seed {seed}");
        let answers = totals.noerror
            + totals.nodata
            + totals.nxdomain
            + totals.servfail
            + totals.refused
            + totals.other;
        assert_eq!(answers, totals.queries, "seed {seed}");
    }
}

#[test]
fn mutated_responses_are_never_accepted_with_another_question_and_never_panic() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut accepted = 0;
    for round in 0..1_000 {
        let mut script_rng = rng.fork();
        let script = move |asked: &Asked| {
            let right = internet(asked);
            (0..100).map(|_| (Duration::from_millis(1), Some(mutate(&mut script_rng, &right)))).collect()
        };
        let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
        world.is_garbled = true;
        let answer = world.resolve(&pod(1), "dual.example", A);
        let message = answer.message;
        // The response has the client's id and question, whatever the upstream sent.
        assert!(message.starts_with(b"\x12\x34") && message[2] & 0x80 != 0, "round {round}");
        assert!(message[12..].starts_with(&query("dual.example", A, None)[12..]), "round {round}");
        accepted += u32::from(message[3] & 0x0f == 0);
        world.assert_idle();
        let counters = world.resolver.exchange_counters();
        assert!(counters.sent <= 8 && counters.mismatched + counters.malformed <= 8 * 33, "{counters:?}");
    }
    // Mutations of TTLs, addresses and flags cannot be detected.
    assert!(accepted > 100, "{accepted} of 1,000 rounds have a response");
}

#[test]
fn random_names_leave_memory_within_the_limit() {
    let max = 256 << 10;
    let options = ResolverOptions { cache_bytes_max: max, ..ResolverOptions::default() };
    let (mut world, clients) = (Simulation::new(options, Box::new(working)), [pod(1), pod(2)]);
    let mut names = HashSet::new();
    for number in 0..3_000_u64 {
        let client = &clients[usize::from(number % 10 == 0)];
        let name = format!("{number}-{}.example", "x".repeat(usize::try_from(number % 40).unwrap()));
        world.resolve(client, &name, A);
        names.insert(name);
    }
    let usage = world.resolver.usage();
    assert!(usage.cache_bytes <= max && usage.cache_entries < names.len(), "{usage:?}");
    world.assert_idle();
    world.advance(SECOND * 4_000);
    world.resolver.tick(world.now);
    assert_eq!(world.resolver.usage().cache_bytes, 0);
}

#[test]
fn random_bytes_of_a_client_have_at_most_one_response_that_can_be_parsed() {
    let (mut world, client, mut rng) = (simulation(), pod(1), fastrand::Rng::with_seed(3));
    for _ in 0..20_000 {
        let name = NAMES[rng.usize(0..NAMES.len())];
        let message = mutate(&mut rng, &query(name, A, Some(1_232)));
        let origin = world.ask(&client, Transport::Udp, &message);
        if let Some(answer) = world.answers.get(&origin) {
            parse(&answer.message);
        }
    }
    world.assert_idle();
}

#[test]
fn random_search_lists_are_parsed_or_rejected() {
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..10_000 {
        let text: String = (0..rng.usize(0..40)).map(|_| char::from(rng.u8(..))).collect();
        let _ = SearchList::new(&[text.clone(), text.repeat(9)], &[text]);
    }
}
