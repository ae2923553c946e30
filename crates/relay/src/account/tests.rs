//! What an account remembers, and for how long; the time is an argument.

use proxy_core::portal::{Portals, Standpoint, portals};
use proxy_core::sample::{backend, ip, slice, snapshot, svc, tcp};
use proxy_core::service::Service;

use super::*;

const CLIENT: &str = "10.244.0.2";

fn shown(service: Service, addresses: &[&str]) -> Portals {
    let made = addresses.iter().fold(slice("s").tcp("", 8080), |made, address| made.at(address));
    portals(&snapshot([service.into(), made.into()]), &Standpoint::default())
}

fn portal(affinity_s: Option<u32>) -> Portal {
    let service = svc("s").ip("10.96.0.1").tcp("", 80);
    let service = Service { affinity_s, ..service };
    let shown = shown(service, &["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    shown.get(tcp("10.96.0.1:80")).expect("it was just shown").clone()
}

fn at(last: u8) -> SocketAddr {
    backend(&format!("10.1.0.{last}:8080"))
}

fn chosen(account: &mut Account, portal: &Portal, tried: &[SocketAddr], now: Instant) -> Option<SocketAddr> {
    account.choose(portal, ip(CLIENT), tried, now).map(|chosen| chosen.backend)
}

fn reached(account: &mut Account, portal: &Portal, now: Instant) -> SocketAddr {
    let chosen = account.choose(portal, ip(CLIENT), &[], now).expect("one of three");
    account.reached(portal, ip(CLIENT), chosen, now);
    chosen.backend
}

#[test]
fn who_failed_rests_for_a_named_time_and_is_the_last_resort_meanwhile() {
    let (mut account, portal, now) = (Account::default(), portal(None), Instant::now());
    account.failed(ip(CLIENT), at(1), now);
    let almost = now + REST - Duration::from_millis(1);
    let choices: Vec<_> = (0..4).map(|_| chosen(&mut account, &portal, &[], almost)).collect();
    assert_eq!(choices, [Some(at(2)), Some(at(3)), Some(at(2)), Some(at(3))]);
    assert_eq!(chosen(&mut account, &portal, &[at(2), at(3)], almost), Some(at(1)), "better than none");
    assert_eq!(chosen(&mut account, &portal, &[at(1), at(2), at(3)], almost), None);
    let awake: Vec<_> = (0..3).map(|_| chosen(&mut account, &portal, &[], now + REST)).collect();
    assert_eq!(awake, [Some(at(2)), Some(at(3)), Some(at(1))]);
}

#[test]
fn who_answers_again_rests_no_more() {
    let (mut account, portal, now) = (Account::default(), portal(None), Instant::now());
    account.failed(ip(CLIENT), at(1), now);
    account.reached(&portal, ip(CLIENT), Chosen { backend: at(1), via_node: true }, now);
    assert_eq!(
        account.choose(&portal, ip(CLIENT), &[], now),
        Some(Chosen { backend: at(1), via_node: true }),
        "and from where it is reached is remembered"
    );
}

#[test]
fn a_sticky_client_keeps_its_backend_from_one_connection_to_the_next_in_time() {
    let (mut account, portal, now) = (Account::default(), portal(Some(10)), Instant::now());
    let second = |count| now + Duration::from_secs(count);
    assert_eq!([0, 9, 18, 27].map(|count| reached(&mut account, &portal, second(count))), [at(1); 4]);
    assert_eq!(reached(&mut account, &portal, second(37)), at(2), "its time is over");
}

#[test]
fn a_sticky_client_is_balanced_anew_when_its_backend_fails_rests_or_goes() {
    let (mut account, portal, now) = (Account::default(), portal(Some(10)), Instant::now());
    assert_eq!(reached(&mut account, &portal, now), at(1));
    // To another client, and so it rests.
    account.failed(ip("10.244.0.9"), at(1), now);
    assert_eq!(reached(&mut account, &portal, now), at(2));
    // What another backend does is nothing to this client.
    account.failed(ip(CLIENT), at(3), now);
    assert_eq!(reached(&mut account, &portal, now), at(2));
    account.failed(ip(CLIENT), at(2), now);
    assert_eq!(reached(&mut account, &portal, now + REST), at(3), "forgotten, not only passed over");
    let backends = [at(1), at(2)].into();
    let left = Portal { backends, ..portal };
    assert_ne!(reached(&mut account, &left, now + REST), at(3));
}

#[test]
fn only_so_many_clients_are_remembered() {
    let (mut account, portal, now) = (Account::default(), portal(Some(10)), Instant::now());
    for number in 0..=u32::try_from(CLIENTS_MAX).expect("a small number") {
        let client = IpAddr::from(number.to_be_bytes());
        account.reached(&portal, client, Chosen { backend: at(1), via_node: false }, now);
    }
    assert_eq!(account.clients.len(), CLIENTS_MAX);
    account.tidy(Some(&portal), now + Duration::from_secs(10));
    assert!(account.clients.is_empty());
}

#[test]
fn connections_are_counted_where_they_are_and_where_they_were() {
    let (mut account, portal, now) = (Account::default(), portal(None), Instant::now());
    account.begin(at(1));
    account.failed(ip(CLIENT), at(1), now);
    account.end(at(1));
    account.begin(at(2));
    account.reached(&portal, ip(CLIENT), Chosen { backend: at(2), via_node: false }, now);
    let known = |last: u8| &account.backends[&at(last)];
    assert_eq!((known(1).load.connections, known(1).connections, known(1).failures), (0, 0, 1));
    assert_eq!((known(2).load.connections, known(2).connections, known(2).failures), (1, 1, 0));
}

#[test]
fn a_delay_counts_for_an_eighth_and_is_never_nothing() {
    let mut account = Account::default();
    account.begin(at(1));
    let mut delays = Vec::new();
    for delay_us in [0, 800, 800, 0] {
        account.answered(at(1), delay_us);
        delays.push(account.backends[&at(1)].load.delay_us);
    }
    assert_eq!(delays, [1, 101, 189, 166]);
}

#[test]
fn what_is_over_is_forgotten_and_what_goes_on_is_not() {
    let (mut account, portal, now) = (Account::default(), portal(None), Instant::now());
    (1..=3).for_each(|last| account.begin(at(last)));
    account.end(at(1));
    account.end(at(3));
    let left = Portal { backends: [at(3)].into(), ..portal };
    account.tidy(Some(&left), now);
    let mut known: Vec<_> = account.backends().map(|(backend, _)| *backend).collect();
    known.sort();
    assert_eq!(known, [at(2), at(3)], "one has a connection, one is there");
    account.end(at(2));
    account.tidy(None, now);
    assert_eq!(account.backends().count(), 0);
}
