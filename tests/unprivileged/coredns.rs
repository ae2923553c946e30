//! In-pod DNS and the real CoreDNS, with the same API server: random questions have the same answers, except for the
//! intended differences in `coredns/difference.rs`.
//!
//! It needs the programs that `KUBEBUILDER_ASSETS` and `COREDNS` name.

mod difference;
mod random_objects;
mod reply;

use std::collections::BTreeMap;
use std::time::Duration;

use dns::{Answered, Client, Name, Query, RecordType, Transport, Zone, ZoneConfig};
use fastrand::Rng;
use kube_source::WatchScope;
use test_support::apiserver::ApiServer;
use test_support::coredns::CoreDns;
use test_support::eventually::eventually;

use crate::cluster_live::observed_cluster::{ObservedCluster, limits};
use difference::{ALL, Difference, difference};
use random_objects::{RandomObjects, SERVICE_RANGES};
use reply::Reply;

const ROUNDS: usize = 3;
const QUESTIONS: usize = 34_000;
/// The time after which a query is repeated while CoreDNS starts.
const RETRY: Duration = Duration::from_millis(100);
/// An OPT record for responses of up to 4,096 bytes.
const OPT: [u8; 11] = [0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0];

/// Returns a query with EDNS.
fn query(name: &Name, record_type: RecordType) -> Vec<u8> {
    let mut message = dns::encode_query(fastrand::u16(..), name, record_type);
    message[11] = 1;
    message.extend_from_slice(&OPT);
    message
}

/// Answers a query with the zone. CoreDNS stands for the upstream of aliases.
fn own_reply(zone: &Zone, peer: &CoreDns, message: &[u8]) -> Reply {
    let parsed = Query::parse(message).expect("a query");
    let mut out = Vec::new();
    match zone.answer(&Client::default(), &parsed, Transport::Udp, fastrand::u32(..), &mut out) {
        Answered::Upstream => Reply::Forwarded,
        Answered::External(external) => {
            let upstream = peer.answer(&query(external.target(), parsed.record_type));
            zone.write_external(&parsed, &external, &upstream, Transport::Udp, &mut out);
            Reply::read(&out)
        }
        _ => Reply::read(&out),
    }
}

/// Waits until both have seen an object of each kind that was created last.
fn wait(cluster: &mut ObservedCluster, peer: &CoreDns, marker: &str) {
    let service = format!("{marker}.{marker}.svc.cluster.local");
    cluster.until(|cluster| {
        let mut zone = Zone::new(ZoneConfig::default());
        zone.refresh(&cluster.snapshot, None);
        let message = query(&Name::parse(&service).expect("a name"), RecordType::A);
        let mut out = Vec::new();
        let parsed = Query::parse(&message).expect("a query");
        cluster.snapshot.namespace(marker).is_some()
            && zone.answer(&Client::default(), &parsed, Transport::Udp, 0, &mut out) == Answered::Records
    });
    eventually("CoreDNS sees the last objects", || {
        let message = query(&Name::parse(&service).expect("a name"), RecordType::A);
        let reply = peer.ask(&message, RETRY).map(|bytes| Reply::read(&bytes));
        reply.is_some_and(|reply| matches!(reply, Reply::Answered { records, .. } if !records.is_empty()))
    });
}

#[test]
#[cfg_attr(not(feature = "coredns"), ignore = "needs KUBEBUILDER_ASSETS, COREDNS and the feature coredns")]
fn answers_agree_with_coredns_except_for_intended_differences() {
    let program = CoreDns::program().expect("COREDNS: the path of CoreDNS");
    let api = ApiServer::real_with_ranges(SERVICE_RANGES);
    let peer = CoreDns::start(&program, api.kubeconfig());
    let scope = WatchScope::Proxy { node: None, has_names: true };
    let mut cluster = ObservedCluster::new(api.kubeconfig(), scope, limits());
    let mut objects = RandomObjects::new(Rng::with_seed(1_636));
    let mut found: BTreeMap<Difference, usize> = BTreeMap::new();
    let (mut positive, mut unlisted) = (0, Vec::new());
    for round in 0..ROUNDS {
        let marker = format!("marker-{round}");
        objects.change(&api, round);
        objects.create_marker(&api, &marker);
        wait(&mut cluster, &peer, &marker);
        let config = ZoneConfig { has_pod_records: true, ..ZoneConfig::default() };
        let mut zone = Zone::new(config);
        zone.refresh(&cluster.snapshot, None);
        for _ in 0..QUESTIONS {
            let (name, record_type) = objects.question();
            let message = query(&name, record_type);
            let (own, theirs) = (own_reply(&zone, &peer, &message), Reply::read(&peer.answer(&message)));
            positive += usize::from(own.has_records());
            if own == theirs {
                continue;
            }
            let exists = || Reply::read(&peer.answer(&query(&name, RecordType::A))).exists();
            match difference(&name, record_type, &own, &theirs, exists) {
                Some(listed) => *found.entry(listed).or_default() += 1,
                None => unlisted.push(format!("{name} {record_type}: {own:?}, CoreDNS {theirs:?}")),
            }
        }
    }
    eprintln!("{} questions, {positive} with records; differences: {found:?}", ROUNDS * QUESTIONS);
    assert!(unlisted.is_empty(), "{} other differences:\n{}", unlisted.len(), unlisted.join("\n"));
    assert!(positive > ROUNDS * QUESTIONS / 5, "only {positive} answers have records");
    let unseen: Vec<&Difference> = ALL.iter().filter(|listed| !found.contains_key(listed)).collect();
    assert!(unseen.is_empty(), "no question shows these differences: {unseen:?}");
}
