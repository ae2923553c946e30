//! The schedulers of relayed portals over thousands of real connections, each against its definition.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::sample::{svc, tcp};
use proxy_core::service::Scheduler;
use test_support::conversation::{answer, serve};
use test_support::relayed;
use test_support::relayed::{
    Relayed, Server, accepted, connected, eventually, leads, listener, name, relayed, web,
};

const BACKENDS: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
const PORTAL: &str = "10.96.0.1:80";
const CLIENTS: usize = 4;

fn three_that_answer() {
    serve("a", "10.1.0.1:8080");
    serve("b", "10.1.0.2:8080");
    serve("c", "10.1.0.3:8080");
}

fn three_that_stay() -> [Server; 3] {
    [("a", BACKENDS[0]), ("b", BACKENDS[1]), ("c", BACKENDS[2])]
        .map(|(name, address)| Server::start(name, &format!("{address}:8080")))
}

/// Who answers so many connections, of some clients at the same time.
fn tally(world: &Relayed, times: usize) -> BTreeMap<String, usize> {
    let one = || (0..times / CLIENTS).map(|_| answer(PORTAL)).collect::<Vec<_>>();
    let names = world.within(|| {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
            clients.into_iter().flat_map(|client| client.join().expect("no failure")).collect::<Vec<_>>()
        })
    });
    let mut tally = BTreeMap::new();
    names.into_iter().for_each(|name| *tally.entry(name).or_default() += 1);
    tally
}

/// Connections that stay, and who took them.
fn kept(world: &Relayed, count: usize) -> Vec<(String, TcpStream)> {
    world.within(|| {
        let one = || connected(PORTAL);
        (0..count).map(|_| one()).map(|mut stream| (name(&mut stream), stream)).collect()
    })
}

fn counted<'a>(names: impl Iterator<Item = &'a String>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    names.for_each(|name| *counts.entry(&**name).or_default() += 1);
    counts
}

#[test]
fn unless_it_says_otherwise_each_backend_has_its_turn() {
    relayed(leads(web("10.96.0.1").ip("2001:db8:96::1"), &BACKENDS), |world| {
        three_that_answer();
        let names: Vec<String> = world.within(|| (0..301).map(|_| answer(PORTAL)).collect());
        assert!(names.chunks_exact(3).all(|turn| turn == &names[..3]), "{names:?}");
        // One more, so that all turns are complete.
        let others = tally(world, 9_700);
        let all = counted(names.iter());
        let sums: Vec<usize> = ["a", "b", "c"].iter().map(|name| all[name] + others[*name]).collect();
        let (least, most) = (sums.iter().min().expect("three"), sums.iter().max().expect("three"));
        assert_eq!((sums.iter().sum::<usize>(), most - least), (10_001, 1), "{sums:?}");
    });
}

#[test]
fn at_random_each_backend_has_its_share_of_10_000() {
    relayed(leads(web("10.96.0.1").scheduler(Scheduler::Random), &BACKENDS), |world| {
        three_that_answer();
        let tally = tally(world, 10_000);
        // Six standard deviations of 47 on either side.
        assert!(tally.len() == 3 && tally.values().all(|count| (3_050..=3_617).contains(count)), "{tally:?}");
    });
}

#[test]
fn connections_that_stay_are_spread_evenly_by_least_connection() {
    relayed(leads(web("10.96.0.1").scheduler(Scheduler::LeastConnection), &BACKENDS), |world| {
        let _servers = three_that_stay();
        let mut all = kept(world, 300);
        assert_eq!(counted(all.iter().map(|(name, _)| name)), [("a", 100), ("b", 100), ("c", 100)].into());
        // Those of one backend end, and the next ones are its.
        all.retain(|(name, _)| name != "b");
        eventually("the connections to b have ended", || world.report(tcp(PORTAL)).backends[1].active == 0);
        let next = kept(world, 100);
        assert_eq!(counted(next.iter().map(|(name, _)| name)), [("b", 100)].into());
    });
}

#[test]
fn by_least_connection_clients_that_come_together_are_spread_evenly() {
    relayed(leads(web("10.96.0.1").scheduler(Scheduler::LeastConnection), &BACKENDS), |world| {
        let servers = three_that_stay();
        let clients = world.within(|| {
            thread::scope(|scope| {
                let one = || (0..75).map(|_| connected(PORTAL)).collect::<Vec<_>>();
                let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
                clients.into_iter().flat_map(|client| client.join().expect("no failure")).collect::<Vec<_>>()
            })
        });
        eventually("all are served", || servers.iter().map(Server::count).sum::<usize>() == clients.len());
        assert_eq!(servers.each_ref().map(Server::count), [100; 3]);
    });
}

#[test]
fn inside_one_pod_hashing_is_constant_and_by_source_the_same_for_all_portals() {
    let scheduled = |name: &str, address: &str, scheduler| {
        leads(svc(name).ip(address).tcp("http", 80).scheduler(scheduler), &BACKENDS)
    };
    let [one, ones] = scheduled("one", "10.96.0.1", Scheduler::SourceHashing);
    let [two, twos] = scheduled("two", "10.96.0.2", Scheduler::SourceHashing);
    let [three, threes] = scheduled("three", "10.96.0.3", Scheduler::DestinationHashing);
    relayed([one, ones, two, twos, three, threes], |world| {
        three_that_answer();
        let ask = |portal: &str| -> Vec<String> { (0..100).map(|_| answer(portal)).collect() };
        let [one, two, three] =
            ["10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80"].map(|portal| world.within(|| ask(portal)));
        for names in [&one, &two, &three] {
            assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
        }
        assert_eq!(one, two);
    });
}

/// Answers each connection after this time.
fn answers_after(address: &str, name: &'static [u8], delay: Duration) {
    let listener = listener(address);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                thread::sleep(delay);
                let _ = stream.write_all(name);
                let _ = stream.read(&mut [0]);
            });
        }
    });
}

#[test]
fn the_one_that_answers_soonest_has_nearly_all_and_an_idle_one_is_never_left_out() {
    let scheduled = |name: &str, address: &str, scheduler| {
        leads(svc(name).ip(address).tcp("http", 80).scheduler(scheduler), &BACKENDS[..2])
    };
    let [sed, seds] = scheduled("sed", "10.96.0.1", Scheduler::ShortestExpectedDelay);
    let [nq, nqs] = scheduled("nq", "10.96.0.2", Scheduler::NeverQueue);
    relayed([sed, seds, nq, nqs], |world| {
        answers_after("10.1.0.1:8080", b"q", Duration::ZERO);
        answers_after("10.1.0.2:8080", b"s", Duration::from_millis(300));
        let ask = |portal: &str| name(&mut connected(portal));
        let names: Vec<String> = world.within(|| (0..100).map(|_| ask(PORTAL)).collect());
        let slow = names.iter().filter(|name| **name == "s").count();
        assert!((1..=2).contains(&slow), "asked once, to know it: {names:?}");
        // The slow one is known to both portals now; who stays on the quick one makes no difference to SED.
        world.within(|| (0..4).for_each(|_| drop(ask("10.96.0.2:80"))));
        for (portal, expected) in [("10.96.0.1:80", ["q", "q"]), ("10.96.0.2:80", ["q", "s"])] {
            let is_idle = || world.report(tcp(portal)).backends.iter().all(|backend| backend.active == 0);
            eventually("no connection is left", is_idle);
            let mut streams = [world.connect(portal), world.connect(portal)];
            let mut names = streams.each_mut().map(name);
            names.sort();
            assert_eq!(names, expected, "{portal}");
        }
    });
}

#[test]
fn a_backend_that_accepts_and_says_nothing_does_not_get_every_connection() {
    let service = web("10.96.0.1").scheduler(Scheduler::ShortestExpectedDelay);
    relayed(leads(service, &BACKENDS[..2]), |world| {
        let mute = listener("10.1.0.1:8080");
        let server = Server::start("a", "10.1.0.2:8080");
        let clients: Vec<TcpStream> = (0..40).map(|_| world.connect(PORTAL)).collect();
        eventually("half of them or more are served", || server.count() >= clients.len() / 2);
        drop(mute);
    });
}

#[test]
fn a_sticky_client_stays_until_its_backend_fails_and_then_with_the_next() {
    relayed(leads(web("10.96.0.1").sticky(10_800), &BACKENDS), |world| {
        let mut servers: BTreeMap<_, _> = ["a", "b", "c"].into_iter().zip(three_that_stay()).collect();
        let ask = || world.within(|| (0..20).map(|_| name(&mut connected(PORTAL))).collect::<Vec<_>>());
        let first = ask();
        assert!(first.iter().all(|name| *name == first[0]), "{first:?}");
        drop(servers.remove(&*first[0]));
        let second = ask();
        assert!(second.iter().all(|name| *name == second[0] && *name != first[0]), "{first:?} {second:?}");
        let back = BACKENDS.iter().zip(["a", "b", "c"]).find(|(_, name)| *name == first[0]);
        let (address, name) = back.expect("one of three");
        let listener = TcpListener::bind((*address, 8080)).expect("it is back");
        let _server = Server::on(listener, name);
        assert_eq!(ask(), second, "it stays");
    });
}

#[test]
fn a_sticky_client_is_free_when_its_time_is_over() {
    relayed(leads(web("10.96.0.1").sticky(1), &BACKENDS), |world| {
        let _servers = three_that_stay();
        let ask = || world.within(|| name(&mut connected(PORTAL)));
        let first = ask();
        let start = Instant::now();
        // The time itself is the claim.
        thread::sleep(Duration::from_millis(1_100));
        assert_ne!(ask(), first, "in turn, after {:?}", start.elapsed());
    });
}

#[test]
fn ipv6_connections_take_turns_as_well() {
    relayed(leads(web("2001:db8:96::1"), &["2001:db8:1::1", "2001:db8:1::2"]), |world| {
        let (one, two) = (listener("[2001:db8:1::1]:8080"), listener("[2001:db8:1::2]:8080"));
        for listener in [&one, &two, &one, &two] {
            let _client = world.connect("[2001:db8:96::1]:80");
            let (_, from) = accepted(listener);
            assert_eq!(from.ip().to_string(), relayed::POD6);
        }
    });
}
