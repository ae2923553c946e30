//! Tests of the selection of pods, and of retries.

use agent_ipc::PodDns;
use proxy_core::dns::Namespace;
use proxy_core::sample::svc;
use proxy_core::snapshot::Change;

use super::*;
use crate::test_builders;

const DNS: &str = "10.96.0.10";
const NETNS: NetnsId = NetnsId { dev: 1, inode: 2, cookie: 3 };

/// A state that knows the service of the cluster's DNS, and its snapshot.
fn synced() -> (DnsState, Snapshot) {
    let snapshot: Snapshot =
        [svc("kube-dns").namespace("kube-system").ip(DNS).udp("dns", 53).into()].into_iter().collect();
    let mut state = DnsState::new(DnsSettings { zone: ZoneConfig::default(), search: Vec::new() });
    let (effect, is_changed) = state.refresh(&snapshot, &Node::default(), None);
    assert!(matches!(effect, Effect::SetZone(_)) && is_changed);
    (state, snapshot)
}

fn attachment(servers: &[&str], annotation: Option<&str>) -> Attachment {
    Attachment {
        annotations: annotation.map(|value| ("dns".to_owned(), value.to_owned())).into_iter().collect(),
        dns: (!servers.is_empty()).then(|| PodDns {
            servers: servers.iter().map(|server| server.parse().expect("an address")).collect(),
            ..PodDns::default()
        }),
        ..test_builders::attachment("web")
    }
}

fn select(state: &mut DnsState, snapshot: &Snapshot, attachment: &Attachment) -> Option<Effect> {
    state.select(NETNS, [attachment].into_iter(), &ServiceFilter::All, snapshot)
}

fn reasons(state: &DnsState) -> Vec<DnsUnservedReason> {
    state.status().unserved.iter().map(|pod| pod.reason).collect()
}

#[test]
fn pod_is_served_at_those_of_its_nameservers_that_are_the_cluster_dns() {
    let (mut state, snapshot) = synced();
    let effect = select(&mut state, &snapshot, &attachment(&["192.0.2.1", DNS], None));
    let Some(Effect::ServeDns(NETNS, target)) = effect else { panic!("{effect:?}") };
    assert_eq!(target.servers, [DNS.parse::<IpAddr>().expect("an address")]);
    assert_eq!((target.client.id, &*target.client.namespace), (NETNS.cookie, "default"));
    let again = select(&mut state, &snapshot, &attachment(&["192.0.2.1", DNS], None));
    assert!(again.is_none(), "nothing changed");
}

#[test]
fn pod_whose_nameservers_are_unknown_is_served_at_the_cluster_dns() {
    let (mut state, snapshot) = synced();
    let effect = select(&mut state, &snapshot, &attachment(&[], None));
    let Some(Effect::ServeDns(NETNS, target)) = effect else { panic!("{effect:?}") };
    assert!(target.client.search.is_some(), "the search list is that of dnsPolicy ClusterFirst");
}

#[test]
fn pod_with_other_nameservers_is_not_served() {
    let (mut state, snapshot) = synced();
    assert!(select(&mut state, &snapshot, &attachment(&["192.0.2.1"], None)).is_none());
    assert_eq!(reasons(&state), [DnsUnservedReason::Nameservers]);
}

#[test]
fn annotation_of_the_pod_takes_precedence_over_that_of_its_namespace() {
    let (mut state, mut snapshot) = synced();
    snapshot.apply(Change::Namespace(Namespace { name: "default".into(), is_dns_off: true }));
    for (annotation, is_served) in [(None, false), (Some("off"), false), (Some("on"), true)] {
        state.remove(NETNS);
        let effect = select(&mut state, &snapshot, &attachment(&[DNS], annotation));
        assert_eq!(matches!(effect, Some(Effect::ServeDns(..))), is_served, "{annotation:?}");
    }
}

#[test]
fn pod_with_a_service_mesh_is_no_longer_served() {
    let (mut state, snapshot) = synced();
    let pod = attachment(&[DNS], None);
    assert!(matches!(select(&mut state, &snapshot, &pod), Some(Effect::ServeDns(..))));
    assert!(state.set_mesh(NETNS, true) && !state.set_mesh(NETNS, true));
    assert!(matches!(select(&mut state, &snapshot, &pod), Some(Effect::StopDns(NETNS))));
    assert_eq!(reasons(&state), [DnsUnservedReason::Mesh]);
    assert!(state.set_mesh(NETNS, false));
    assert!(matches!(select(&mut state, &snapshot, &pod), Some(Effect::ServeDns(..))));
}

#[test]
fn failure_is_reported_once_and_retried() {
    let (mut state, snapshot) = synced();
    let (pod, now) = (attachment(&[DNS], None), Instant::now());
    select(&mut state, &snapshot, &pod);
    assert!(state.fail(NETNS, "no sockets".to_owned(), now));
    assert_eq!((state.retries(now), state.deadline()), (Vec::new(), Some(now + RETRY_DELAY)));
    let failed = DnsFailedPod { netns_inode: NETNS.inode, error: "no sockets".to_owned() };
    assert_eq!((state.status().failed, state.status().unserved), (vec![failed], Vec::new()));
    assert_eq!(state.retries(now + RETRY_DELAY), [NETNS]);
    assert!(matches!(select(&mut state, &snapshot, &pod), Some(Effect::ServeDns(..))));
}

#[test]
fn new_address_of_the_cluster_dns_is_a_change_for_pods() {
    let (mut state, mut snapshot) = synced();
    let other = svc("kube-dns").namespace("kube-system").ip("10.96.0.11").udp("dns", 53);
    let Change::Service(other) = other.into() else { panic!("a service") };
    let changed = snapshot.apply(Change::Service(other));
    assert!(state.refresh(&snapshot, &Node::default(), Some(&changed)).1);
    let changed = snapshot.apply(svc("web").ip("10.96.0.1").tcp("", 80).into());
    assert!(!state.refresh(&snapshot, &Node::default(), Some(&changed)).1);
    assert_eq!(state.addresses(), ["10.96.0.11".parse::<IpAddr>().expect("an address")]);
}
