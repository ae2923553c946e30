//! Upstreams that are slow, silent, wrong or gone.

use super::*;
use crate::simulation::Script;

const SERVERS: [&str; 2] = ["10.1.0.2:53", "10.1.0.3:53"];

/// Returns a simulation in which the first server has a fault, and the second one works.
fn with_fault(mut fault: impl FnMut(&Asked) -> Vec<Arrival> + 'static) -> Simulation {
    let script: Script =
        Box::new(
            move |asked| if asked.upstream == address(SERVERS[0]) { fault(asked) } else { working(asked) },
        );
    Simulation::new(ResolverOptions::default(), script)
}

/// Resolves different names, one after the other, and returns the times.
fn resolve_many(world: &mut Simulation, range: std::ops::Range<u32>) -> Vec<Duration> {
    let resolve = |number| {
        let answer = world.resolve(&pod(1), &format!("n{number}.example"), A);
        assert_eq!(answer.rcode(), 3);
        answer.after
    };
    range.map(resolve).collect()
}

#[test]
fn silent_server_is_hedged_after_300_ms_and_then_out() {
    let mut world = with_fault(|_| Vec::new());
    let times = resolve_many(&mut world, 0..100);
    let slow = times.iter().filter(|time| **time > ROUND_TRIP).count();
    // Four until the server is out, and one when it is tested.
    assert_eq!(slow, 5, "{times:?}");
    assert!(times.iter().all(|time| *time <= Duration::from_millis(300) + ROUND_TRIP), "{times:?}");
    assert!(world.resolver.exchange_counters().hedged == 5);
    world.assert_idle();
}

#[test]
fn hedge_delay_follows_the_latency_of_the_server() {
    let mut count = 0;
    let mut world = with_fault(move |asked| {
        count += 1;
        if count > 40 { Vec::new() } else { working(asked) }
    });
    let times = resolve_many(&mut world, 0..200);
    let hedged = times.iter().find(|time| **time > ROUND_TRIP).unwrap();
    assert_eq!(*hedged, Duration::from_millis(20) + ROUND_TRIP);
}

#[test]
fn refused_connection_moves_to_the_next_server_at_once() {
    let mut world = with_fault(|_| vec![(Duration::from_millis(1), None)]);
    let times = resolve_many(&mut world, 0..100);
    assert!(times.iter().all(|time| *time <= ROUND_TRIP + Duration::from_millis(1)));
    // The server is out, and tested by one query when its time is over.
    let asked =
        |world: &Simulation| world.asked.iter().filter(|asked| asked.upstream == address(SERVERS[0])).count();
    let before = asked(&world);
    assert!(before <= 3, "{before} queries to a server that is out");
    world.advance(SECOND * 60);
    resolve_many(&mut world, 100..120);
    assert!(asked(&world) > before);
    world.assert_idle();
}

#[test]
fn error_response_is_relayed_only_if_no_server_has_a_better_one() {
    for rcode in [2, 5] {
        let mut world =
            with_fault(move |asked| vec![(ROUND_TRIP, Some(reply(&asked.message, rcode, &[], None)))]);
        let times = resolve_many(&mut world, 0..20);
        assert!(times.iter().all(|time| *time <= ROUND_TRIP * 2));
        world.assert_idle();
        let script = move |asked: &Asked| vec![(ROUND_TRIP, Some(reply(&asked.message, rcode, &[], None)))];
        let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
        let answer = world.resolve(&pod(1), "github.com", A);
        assert_eq!((answer.rcode(), answer.after), (rcode, ROUND_TRIP * 2));
        world.assert_idle();
    }
}

#[test]
fn silent_servers_give_servfail_within_the_time_of_a_lookup() {
    let mut world = Simulation::new(ResolverOptions::default(), Box::new(|_| Vec::new()));
    let answer = world.resolve(&pod(1), "github.com", A);
    assert_eq!((answer.rcode(), answer.after), (2, Duration::from_millis(4_500)));
    assert!(world.asked.len() <= 8, "{} queries", world.asked.len());
    world.assert_idle();
}

#[test]
fn unreachable_servers_give_servfail_after_a_bounded_number_of_tries() {
    let mut world = Simulation::new(ResolverOptions::default(), Box::new(|_| vec![(Duration::ZERO, None)]));
    let answer = world.resolve(&pod(1), "github.com", A);
    assert_eq!((answer.rcode(), world.asked.len(), answer.after), (2, 4, Duration::from_millis(300)));
    world.assert_idle();
}

#[test]
fn wrong_messages_are_ignored_and_counted() {
    let wrong: [fn(&mut Vec<u8>); 7] = [
        |message| message[0] ^= 1,
        |message| message[1] ^= 0x80,
        |message| message[13] ^= 1,
        |message| message[2] &= 0x7f,
        |message| message[2] |= 0x10,
        |message| message[5] = 0,
        |message| {
            // Another type: 28 instead of 1.
            let at = message.iter().rposition(|byte| *byte == 1).unwrap();
            message.truncate(at + 1);
            message[7] = 0;
            message[at - 2] = 28;
        },
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        let script = move |asked: &Asked| {
            let mut message = reply(&asked.message, 0, &[(A, 60, &[203, 0, 113, 66])], None);
            if number == 6 {
                message.truncate(asked.message.len());
            }
            change(&mut message);
            vec![(Duration::from_millis(1), Some(message)), (ROUND_TRIP, Some(internet(asked)))]
        };
        let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
        let answer = world.resolve(&pod(1), "github.com", A);
        assert_eq!(answer.records().0, ["A 192.0.2.1"], "case {number}");
        let counters = world.resolver.exchange_counters();
        assert_eq!((counters.mismatched, counters.malformed), (1, 0), "case {number}");
    }
}

#[test]
fn malformed_body_is_ignored_and_counted() {
    let script = |asked: &Asked| {
        let mut message = internet(asked);
        message.pop();
        let longer = [internet(asked), vec![0]].concat();
        let [first, second] = [1, 2].map(Duration::from_millis);
        vec![(first, Some(message)), (second, Some(longer)), (ROUND_TRIP, Some(internet(asked)))]
    };
    let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
    assert_eq!(world.resolve(&pod(1), "github.com", A).records().0, ["A 192.0.2.1"]);
    assert_eq!(world.resolver.exchange_counters().malformed, 2);
}

#[test]
fn attacker_that_tries_many_ids_meets_a_new_port_and_id() {
    let script = |asked: &Asked| {
        let flood = (0..10_000_u16).map(|id| {
            let mut message = reply(&asked.message, 0, &[(A, 60, &[203, 0, 113, 66])], None);
            let own = u16::from_be_bytes([asked.message[0], asked.message[1]]);
            message[..2].copy_from_slice(&own.wrapping_add(id + 1).to_be_bytes());
            (Duration::from_micros(u64::from(id)), Some(message))
        });
        flood.collect()
    };
    let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
    let answer = world.resolve(&pod(1), "github.com", A);
    assert_eq!(answer.rcode(), 2);
    let counters = world.resolver.exchange_counters();
    assert!(counters.mismatched <= 8 * 33, "{counters:?}");
    assert_eq!(counters.sent, 8);
    world.assert_idle();
}

#[test]
fn query_fails_within_a_second_if_all_servers_refuse_connections() {
    let script = |_: &Asked| vec![(Duration::from_millis(1), None)];
    let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
    for name in ["github.com", "github.com", "n1.example"] {
        let answer = world.resolve(&pod(1), name, A);
        assert_eq!(answer.rcode(), 2);
        assert!(answer.after < SECOND, "{:?}", answer.after);
    }
    world.assert_idle();
}

#[test]
fn servers_that_refuse_connections_for_100_ms_cause_no_failure() {
    let mut count = 0;
    let script = move |asked: &Asked| {
        count += 1;
        if count <= SERVERS.len() { vec![(Duration::from_millis(1), None)] } else { working(asked) }
    };
    let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
    let answer = world.resolve(&pod(1), "github.com", A);
    assert_eq!(answer.rcode(), 0);
    assert!(answer.after < Duration::from_millis(150), "{:?}", answer.after);
}

#[test]
fn expired_response_is_served_only_if_all_upstreams_fail() {
    let (mut world, client) = (simulation(), pod(1));
    world.resolve(&client, "github.com", A);
    world.advance(SECOND * 61);
    world.set_script(Box::new(|_| Vec::new()));
    let stale = world.resolve(&client, "github.com", A);
    assert_eq!(stale.records(), (vec!["A 192.0.2.1".to_owned()], Some(30)));
    // Upstreams have just failed, so the next query does not wait for them.
    assert_eq!(world.resolve(&client, "github.com", A).after, Duration::ZERO);
    let counters = world.resolver.counters(1);
    assert_eq!((counters.stale, counters.cache_hits), (2, 2));
    world.set_script(Box::new(working));
    world.advance(SECOND * 40);
    assert_eq!(world.resolve(&client, "github.com", A).records().1, Some(60));
    world.set_script(Box::new(|_| Vec::new()));
    world.advance(SECOND * 3_700);
    assert_eq!(world.resolve(&client, "github.com", A).rcode(), 2);
    world.assert_idle();
}

#[test]
fn servfail_of_all_servers_gives_the_expired_response() {
    let mut world = simulation();
    world.resolve(&pod(1), "github.com", A);
    world.advance(SECOND * 61);
    world.set_script(Box::new(|asked| vec![(ROUND_TRIP, Some(reply(&asked.message, 2, &[], None)))]));
    assert_eq!(world.resolve(&pod(1), "github.com", A).records().1, Some(30));
}

#[test]
fn servfail_is_cached_for_a_second() {
    let script = |asked: &Asked| vec![(ROUND_TRIP, Some(reply(&asked.message, 2, &[], None)))];
    let mut world = Simulation::new(ResolverOptions::default(), Box::new(script));
    let ask = |world: &mut Simulation| world.resolve(&pod(1), "github.com", A).after;
    assert_eq!([ask(&mut world), ask(&mut world)], [ROUND_TRIP * 2, Duration::ZERO]);
    world.advance(SECOND);
    assert_eq!(ask(&mut world), ROUND_TRIP * 2);
}

#[test]
fn popular_name_is_looked_up_before_it_expires_so_that_no_client_waits() {
    let (mut world, client) = (simulation(), pod(1));
    world.resolve(&client, "github.com", A);
    for _ in 0..600 {
        world.advance(SECOND);
        assert_eq!(world.resolve(&client, "github.com", A).after, Duration::ZERO);
    }
    assert_eq!(world.asked.len(), 11);
    // The upstream fails: the valid response remains, and is served after its expiry too.
    world.set_script(Box::new(|asked| vec![(ROUND_TRIP, Some(reply(&asked.message, 2, &[], None)))]));
    for _ in 0..120 {
        world.advance(SECOND);
        assert_eq!(world.resolve(&client, "github.com", A).rcode(), 0);
    }
    world.assert_idle();
}

#[test]
fn loop_through_an_upstream_ends() {
    // The upstream forwards each query to the agent, as another client of it.
    let queue = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let forwarded = std::rc::Rc::clone(&queue);
    let upstreams = Upstreams::Node { upstreams: vec![address("192.0.2.53:53")], stubs: Vec::new() };
    let options = ResolverOptions { upstreams, ..ResolverOptions::default() };
    let script: Script = Box::new(move |asked| {
        forwarded.borrow_mut().push(asked.message.clone());
        Vec::new()
    });
    let mut world = Simulation::new(options, script);
    for message in [query("github.com", A, None), query_with_option("github.com", 10)] {
        let before = world.asked.len();
        world.ask(&pod(1), Transport::Udp, &message);
        for _ in 0..10_000 {
            world.advance(Duration::from_micros(500));
            let messages: Vec<Vec<u8>> = queue.borrow_mut().drain(..).collect();
            for message in messages {
                world.ask(&pod(2), Transport::Udp, &message);
            }
        }
        let sent = world.asked.len() - before;
        assert!(sent <= 64 * 8, "{sent} queries to the upstream");
        world.assert_idle();
    }
}
