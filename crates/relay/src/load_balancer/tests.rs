//! Tests of the selection of backends, ejection, session affinity and eviction, with the time as an argument.

use proxy_core::portal::{NodeContext, Portals, portals};
use proxy_core::sample::{backend, ip, slice, snapshot, svc, tcp};
use proxy_core::service::Service;

use super::*;

const CLIENT: &str = "10.244.0.2";

fn portals_of(service: Service, addresses: &[&str]) -> Portals {
    let slice = addresses.iter().fold(slice("s").tcp("", 8080), |slice, address| slice.at(address));
    portals(&snapshot([service.into(), slice.into()]), &NodeContext::default())
}

fn portal(affinity_s: Option<u32>) -> Portal {
    let service = svc("s").ip("10.96.0.1").tcp("", 80);
    let service = Service { affinity_s, ..service };
    let portals = portals_of(service, &["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    portals.get(tcp("10.96.0.1:80")).expect("the portal of the service").clone()
}

fn at(last: u8) -> SocketAddr {
    backend(&format!("10.1.0.{last}:8080"))
}

fn select(
    balancer: &mut LoadBalancer,
    portal: &Portal,
    tried: &[SocketAddr],
    now: Instant,
) -> Option<SocketAddr> {
    balancer.select(portal, ip(CLIENT), tried, now).map(|selection| selection.backend)
}

fn connect(balancer: &mut LoadBalancer, portal: &Portal, now: Instant) -> SocketAddr {
    let selection = balancer.select(portal, ip(CLIENT), &[], now).expect("one of three backends");
    balancer.record_success(portal, ip(CLIENT), selection, now);
    selection.backend
}

#[test]
fn failed_backend_is_ejected_and_used_only_if_no_other_is_left() {
    let (mut balancer, portal, now) = (LoadBalancer::default(), portal(None), Instant::now());
    balancer.record_failure(ip(CLIENT), at(1), now);
    let before_end = now + EJECTION_TIME - Duration::from_millis(1);
    let selections: Vec<_> = (0..4).map(|_| select(&mut balancer, &portal, &[], before_end)).collect();
    assert_eq!(selections, [Some(at(2)), Some(at(3)), Some(at(2)), Some(at(3))]);
    assert_eq!(select(&mut balancer, &portal, &[at(2), at(3)], before_end), Some(at(1)), "the last one left");
    assert_eq!(select(&mut balancer, &portal, &[at(1), at(2), at(3)], before_end), None);
    let after_end: Vec<_> =
        (0..3).map(|_| select(&mut balancer, &portal, &[], now + EJECTION_TIME)).collect();
    assert_eq!(after_end, [Some(at(2)), Some(at(3)), Some(at(1))]);
}

#[test]
fn success_ends_an_ejection() {
    let (mut balancer, portal, now) = (LoadBalancer::default(), portal(None), Instant::now());
    balancer.record_failure(ip(CLIENT), at(1), now);
    balancer.record_success(&portal, ip(CLIENT), Selection { backend: at(1), via_node: true }, now);
    assert_eq!(
        balancer.select(&portal, ip(CLIENT), &[], now),
        Some(Selection { backend: at(1), via_node: true }),
        "via_node is remembered as well"
    );
}

#[test]
fn affinity_is_renewed_by_each_connection_and_expires() {
    let (mut balancer, portal, now) = (LoadBalancer::default(), portal(Some(10)), Instant::now());
    let second = |count| now + Duration::from_secs(count);
    assert_eq!([0, 9, 18, 27].map(|count| connect(&mut balancer, &portal, second(count))), [at(1); 4]);
    assert_eq!(connect(&mut balancer, &portal, second(37)), at(2), "the affinity has expired");
}

#[test]
fn affinity_ends_if_the_backend_fails_is_ejected_or_is_removed() {
    let (mut balancer, portal, now) = (LoadBalancer::default(), portal(Some(10)), Instant::now());
    assert_eq!(connect(&mut balancer, &portal, now), at(1));
    // It fails for another client, which ejects it.
    balancer.record_failure(ip("10.244.0.9"), at(1), now);
    assert_eq!(connect(&mut balancer, &portal, now), at(2));
    // The failure of another backend does not affect this client.
    balancer.record_failure(ip(CLIENT), at(3), now);
    assert_eq!(connect(&mut balancer, &portal, now), at(2));
    balancer.record_failure(ip(CLIENT), at(2), now);
    let selected = connect(&mut balancer, &portal, now + EJECTION_TIME);
    assert_eq!(selected, at(3), "the affinity was removed, not only skipped");
    let backends = [at(1), at(2)].into();
    let changed = Portal { backends, ..portal };
    assert_ne!(connect(&mut balancer, &changed, now + EJECTION_TIME), at(3));
}

#[test]
fn number_of_clients_with_affinity_is_bounded() {
    let (mut balancer, portal, now) = (LoadBalancer::default(), portal(Some(10)), Instant::now());
    for number in 0..=u32::try_from(CLIENTS_MAX).expect("a small number") {
        let client = IpAddr::from(number.to_be_bytes());
        balancer.record_success(&portal, client, Selection { backend: at(1), via_node: false }, now);
    }
    assert_eq!(balancer.clients.len(), CLIENTS_MAX);
    balancer.gc(Some(&portal), now + Duration::from_secs(10));
    assert!(balancer.clients.is_empty());
}

#[test]
fn open_connections_successes_and_failures_are_counted_by_backend() {
    let (mut balancer, portal, now) = (LoadBalancer::default(), portal(None), Instant::now());
    balancer.connection_opened(at(1));
    balancer.record_failure(ip(CLIENT), at(1), now);
    balancer.connection_closed(at(1));
    balancer.connection_opened(at(2));
    balancer.record_success(&portal, ip(CLIENT), Selection { backend: at(2), via_node: false }, now);
    let state = |last: u8| &balancer.backends[&at(last)];
    assert_eq!((state(1).load.connections, state(1).connections, state(1).failures), (0, 0, 1));
    assert_eq!((state(2).load.connections, state(2).connections, state(2).failures), (1, 1, 0));
}

#[test]
fn response_time_is_smoothed_by_an_eighth_and_never_zero() {
    let mut balancer = LoadBalancer::default();
    balancer.connection_opened(at(1));
    let mut delays = Vec::new();
    for delay_us in [0, 800, 800, 0] {
        balancer.record_response_time(at(1), delay_us);
        delays.push(balancer.backends[&at(1)].load.delay_us);
    }
    assert_eq!(delays, [1, 101, 189, 166]);
}

#[test]
fn removed_backend_is_kept_until_its_last_connection_closes() {
    let (mut balancer, portal, now) = (LoadBalancer::default(), portal(None), Instant::now());
    (1..=3).for_each(|last| balancer.connection_opened(at(last)));
    balancer.connection_closed(at(1));
    balancer.connection_closed(at(3));
    let changed = Portal { backends: [at(3)].into(), ..portal };
    balancer.gc(Some(&changed), now);
    let mut backends: Vec<_> = balancer.backends().map(|(backend, _)| *backend).collect();
    backends.sort();
    assert_eq!(backends, [at(2), at(3)], "one has a connection, one is the portal's");
    balancer.connection_closed(at(2));
    balancer.gc(None, now);
    assert_eq!(balancer.backends().count(), 0);
}
