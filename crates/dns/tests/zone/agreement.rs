//! 100,000 random questions about random clusters: the zone agrees with the reference resolver, and a zone that was
//! refreshed at each change with a new one.

use std::net::IpAddr;

use dns::{Answered, Client, Transport, Zone, ZoneConfig};
use fastrand::Rng;
use proxy_core::dns::{DnsEndpoints, Namespace};
use proxy_core::endpoint::{Endpoint, EndpointSlice};
use proxy_core::portal::ServiceFilter;
use proxy_core::sample::{slice, svc};
use proxy_core::service::{Protocol, Service, ServiceKey};
use proxy_core::snapshot::{Change, Snapshot};

use crate::oracle::{Reply, question};
use crate::reference::{Cluster, Expected, reverse_name};

const CLUSTERS: usize = 100;
const STEPS: usize = 20;
const QUESTIONS: usize = 50;

const NAMESPACES: [&str; 3] = ["default", "svc", "kube-system"];
const SERVICES: [&str; 4] = ["web", "db", "svc", "kube-dns"];
const PORTS: [&str; 4] = ["", "http", "dns", "tcp"];
const HOSTS: [&str; 3] = ["h-0", "h-1", "10-1-0-1"];
const ENDPOINTS: [&str; 7] =
    ["10.1.0.1", "10.1.0.2", "10.1.0.3", "fd00::1", "fd00::", "2001:db8:1:2:3:4:5:6", "10.96.0.3"];
const CLUSTER_IPS: [&str; 6] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd10::1", "fd10::2", "fd10::3"];
const TARGETS: [&str; 6] = [
    "example.com",
    "web.default.svc.cluster.local",
    "db.svc.svc.cluster.local",
    "kube-dns.default.svc.cluster.local",
    "no.cluster.local",
    "10.1.2.3",
];
const TYPES: [&str; 10] = ["A", "A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "NS", "MX", "ANY"];
const PROTOCOLS: [Protocol; 3] = Protocol::ALL;

fn pick<'a, T: ?Sized>(rng: &mut Rng, all: &[&'a T]) -> &'a T {
    all[rng.usize(..all.len())]
}

fn random_service(rng: &mut Rng) -> Service {
    let mut service = svc(pick(rng, &SERVICES)).namespace(pick(rng, &NAMESPACES));
    match rng.u8(..6) {
        0 => service.external_name = Some(pick(rng, &TARGETS).into()),
        1 | 2 => {}
        _ => {
            service = service.ip(CLUSTER_IPS[rng.usize(..6)]);
            if rng.bool() {
                service = service.ip(CLUSTER_IPS[rng.usize(..6)]);
            }
        }
    }
    for _ in 0..rng.usize(..4) {
        service = service.port(PROTOCOLS[rng.usize(..3)], pick(rng, &PORTS), rng.u16(1..4));
    }
    service.dns_endpoints = DnsEndpoints::NAMES[rng.usize(..3)].1;
    service.has_portals = rng.bool();
    service
}

fn random_slice(rng: &mut Rng) -> EndpointSlice {
    let mut random = slice(pick(rng, &SERVICES));
    let namespace = pick(rng, &NAMESPACES);
    random.key.name = format!("{}-{}", random.service.name, rng.u8(..2)).into();
    random.key.namespace = namespace.into();
    random.service.namespace = namespace.into();
    random.has_portals = rng.bool();
    for _ in 0..rng.usize(..3) {
        random = random.port(PROTOCOLS[rng.usize(..3)], pick(rng, &PORTS), rng.u16(1..4));
    }
    for _ in 0..rng.usize(..5) {
        random = random.at(pick(rng, &ENDPOINTS));
        let endpoint: &mut Endpoint = random.endpoints.last_mut().expect("an endpoint was added");
        endpoint.conditions.ready = rng.u8(..4) > 0;
        endpoint.hostname = rng.bool().then(|| pick(rng, &HOSTS).into());
        endpoint.node = rng.bool().then(|| pick(rng, &["n1", "n2"]).into());
        endpoint.zone = rng.bool().then(|| pick(rng, &["z1", "z2"]).into());
    }
    random
}

/// Changes the cluster, and returns the change.
fn change(cluster: &mut Cluster, rng: &mut Rng) -> Change {
    match rng.u8(..16) {
        0 if !cluster.services.is_empty() => {
            let service = cluster.services.swap_remove(rng.usize(..cluster.services.len()));
            Change::ServiceDeleted(service.key)
        }
        1 if !cluster.slices.is_empty() => {
            let slice = cluster.slices.swap_remove(rng.usize(..cluster.slices.len()));
            Change::SliceDeleted(slice.key)
        }
        2 => {
            let name = pick(rng, &["empty", "team", "default"]);
            if cluster.namespaces.remove(name) {
                return Change::NamespaceDeleted(name.into());
            }
            cluster.namespaces.insert(name.to_owned());
            Change::Namespace(Namespace { name: name.into(), is_dns_off: rng.bool() })
        }
        3 => {
            let range = pick(rng, &["10.96.0.0/29", "fd10::/112"]);
            cluster.ranges = vec![range.parse().expect("a range")];
            Change::ServiceRanges(cluster.ranges.clone())
        }
        4..=8 => {
            let service = random_service(rng);
            cluster.services.retain(|other| other.key != service.key);
            cluster.services.push(service.clone());
            Change::Service(service)
        }
        _ => {
            let slice = random_slice(rng);
            cluster.slices.retain(|other| other.key != slice.key);
            cluster.slices.push(slice.clone());
            Change::Slice(slice)
        }
    }
}

fn random_name(rng: &mut Rng) -> String {
    let service = format!("{}.{}", pick(rng, &SERVICES), pick(rng, &NAMESPACES));
    let address = pick(rng, &[&ENDPOINTS[..], &CLUSTER_IPS, &["10.96.0.6", "fd10::9"]].concat());
    let dashed = address.replace(['.', ':'], "-") + if address.ends_with(':') { "0" } else { "" };
    let underscore = |rng: &mut Rng| pick(rng, &["_", "", "__"]);
    let name = match rng.u8(..14) {
        0..=3 => format!("{service}.svc.cluster.local."),
        4 => format!("{}.{service}.svc.cluster.local.", pick(rng, &HOSTS)),
        5 => format!("{dashed}.{service}.svc.cluster.local."),
        6 | 7 => {
            let (port, protocol) = (pick(rng, &PORTS[1..]), PROTOCOLS[rng.usize(..3)].lower());
            let (first, second) = (underscore(rng), underscore(rng));
            format!("{first}{port}.{second}{protocol}.{service}.svc.cluster.local.")
        }
        8 => format!("_{}.{service}.svc.cluster.local.", PROTOCOLS[rng.usize(..3)].lower()),
        9 => format!("{}.{}.cluster.local.", pick(rng, &["empty", "team", "no"]), pick(rng, &["svc", "pod"])),
        10 => format!("{dashed}.{}.pod.cluster.local.", pick(rng, &NAMESPACES)),
        11 => reverse_name(address.parse::<IpAddr>().expect("an address")),
        12 => {
            let names =
                ["", "svc.", "pod.", "dns.", "ns.dns.", "dns-version.", "web.default.", "a.b.c.d.e.svc."];
            format!("{}cluster.local.", pick(rng, &names))
        }
        _ => pick(rng, &["example.com.", "local.", "web.default.svc.", "1.10.in-addr.arpa."]).to_owned(),
    };
    let labels = if rng.u8(..10) == 0 { "x." } else { "" };
    format!("{labels}{name}")
}

fn random_case(rng: &mut Rng, name: &str) -> String {
    let mut flip = |c: char| if rng.bool() { c.to_ascii_uppercase() } else { c };
    name.chars().map(&mut flip).collect()
}

/// The answer of a zone in the form of the reference.
fn actual(reply: &Reply, record_type: &str) -> Expected {
    match &reply.answered {
        Answered::Upstream => return Expected::Upstream,
        Answered::External(external) => return Expected::External(external.target().to_string()),
        _ => {}
    }
    let message = reply.message();
    let aliases = message.answers.iter().filter(|record| record.record_type().to_string() == "CNAME").count();
    let mut records: Vec<String> = message
        .answers
        .iter()
        .map(|record| {
            let (owner, found) = (record.name.to_ascii().to_lowercase(), record.record_type().to_string());
            let has_data = !["SOA", "HINFO"].contains(&found.as_str());
            let data = if has_data { record.data.to_string().to_lowercase() } else { String::new() };
            format!("{owner} {found} {data}")
        })
        .collect();
    let is_chain = record_type != "CNAME";
    records[if is_chain { aliases } else { 0 }..].sort();
    let code = message.metadata.response_code.to_str();
    Expected::Answer(if code == "No Error" { "NOERROR" } else { "NXDOMAIN" }, records)
}

#[test]
fn hundred_thousand_questions_agree_with_the_reference_and_with_a_new_zone() {
    let mut rng = Rng::with_seed(2026);
    let (mut positive, mut negative) = (0, 0);
    for _ in 0..CLUSTERS {
        let config = ZoneConfig {
            has_pod_records: rng.bool(),
            has_fallthrough: rng.u8(..4) == 0,
            node: "n1".into(),
            node_zone: "z1".into(),
            ..ZoneConfig::default()
        };
        let (mut cluster, mut snapshot) = (Cluster::default(), Snapshot::new());
        let mut zone = Zone::new(config.clone());
        zone.refresh(&snapshot, None);
        for step in 0..STEPS {
            for _ in 0..if step == 0 { 40 } else { 3 } {
                let changed = snapshot.apply(change(&mut cluster, &mut rng));
                zone.refresh(&snapshot, Some(&changed));
            }
            let mut new = Zone::new(config.clone());
            new.refresh(&snapshot, None);
            let keys =
                NAMESPACES.iter().flat_map(|ns| SERVICES.iter().map(|name| ServiceKey::new(*ns, *name)));
            let visible = keys.filter(|_| rng.bool()).collect();
            let view = if rng.u8(..4) > 0 { ServiceFilter::All } else { ServiceFilter::Only(visible) };
            let client = Client { view, ..Client::default() };
            let names = cluster.names(&config, &client);
            for _ in 0..QUESTIONS {
                let mut name = random_name(&mut rng);
                if rng.bool() {
                    name = names.owner(rng.usize(..)).to_owned();
                }
                let record_type = pick(&mut rng, &TYPES);
                let asked = random_case(&mut rng, &name);
                let ask = question(&asked, record_type).of(&client).over(Transport::Tcp).rotated(rng.u32(..));
                let expected = cluster.answer(&names, &config, &name, record_type);
                for zone in [&zone, &new] {
                    let found = actual(&ask.clone().ask(zone), record_type);
                    let context = || format!("{config:?} {:?} {cluster:#?}", client.view);
                    assert!(
                        found == expected,
                        "{name} {record_type}: {found:?}, not {expected:?}; {}",
                        context()
                    );
                }
                let has_records = matches!(&expected, Expected::Answer(_, records) if !records.is_empty());
                *if has_records { &mut positive } else { &mut negative } += 1;
            }
        }
    }
    assert_eq!(positive + negative, CLUSTERS * STEPS * QUESTIONS);
    assert!(positive > 20_000, "only {positive} questions have records");
}
