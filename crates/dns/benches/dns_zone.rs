//! The zone of in-pod DNS: the time to answer a query without sockets, to refresh the zone, and its memory.
//!
//! Each measurement of a query includes its parsing and the complete response, with EDNS as glibc and systemd-resolved
//! send it. Run it with `scripts/bench dns_zone`.

use std::hint::black_box;

use bench_report::{Sheet, Spread, Verdict, is_quick};
use dns::{Answered, Client, Name, Query, RecordType, Transport, Zone, ZoneConfig, encode_query};
use proxy_core::sample::{cluster, cluster_slice, slice, svc};
use proxy_core::snapshot::{Change, Snapshot};

const US: f64 = 1e6;
const MS: f64 = 1e3;
const SAMPLES: usize = 50;
const QUERIES: usize = 2_000;
/// An OPT record without options, for responses of up to 1,232 bytes.
const OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

fn main() {
    let sheet = Sheet::open("dns_zone");
    // The first, because later measurements leave free memory that it would use.
    memory(&sheet);
    answers(&sheet);
    refreshes(&sheet);
}

/// Services with a cluster address, and headless ones with 5 endpoints each, which have hostnames.
fn objects(services: u32, headless: u32) -> Vec<Change> {
    let members = (0..headless).flat_map(|index| {
        let name = format!("db-{index}");
        let mut slice = slice(&name).tcp("sql", 5432);
        for number in 0..5_u32 {
            let [_, b, c, d] = (index * 5 + number).to_be_bytes();
            slice = slice.at(&format!("10.{b}.{c}.{d}")).hostname(&format!("{name}-{number}"));
        }
        [svc(&name).tcp("sql", 5432).into(), slice.into()]
    });
    cluster(services, 0).chain(members).collect()
}

fn zone_of(snapshot: &Snapshot) -> Zone {
    let mut zone = Zone::new(ZoneConfig::default());
    zone.refresh(snapshot, None);
    zone
}

fn query(name: &str, record_type: RecordType) -> Vec<u8> {
    let name = Name::parse(name).expect("a name");
    let mut message = encode_query(0x1234, &name, record_type);
    message[11] = 1;
    message.extend_from_slice(&OPT);
    message
}

/// Measures the mean time of queries in us, of `QUERIES` different ones in each sample.
fn time_of(zone: &Zone, transport: Transport, expected: &Answered, queries: &[Vec<u8>]) -> Spread {
    let (client, mut out, mut number) = (Client::default(), Vec::with_capacity(65_536), 0);
    let per_second = US / QUERIES as f64;
    Spread::timed(
        SAMPLES,
        per_second,
        || (),
        |()| {
            for _ in 0..QUERIES {
                // A large step: neighbours in the table of names are not neighbours in memory.
                number = (number + 7_919) % queries.len();
                let query = Query::parse(black_box(&queries[number])).expect("a query");
                let answered = zone.answer(&client, &query, transport, number as u32, &mut out);
                assert_eq!(answered, *expected);
            }
        },
    )
}

fn answers(sheet: &Sheet) {
    let sizes: &[u32] = if is_quick() { &[1_000] } else { &[1_000, 10_000, 50_000] };
    let table =
        sheet.scale("answer", "a query, from its bytes to the bytes of the response", "us", "services");
    let many = |count: u32, name: &dyn Fn(u32) -> String, record_type: RecordType| -> Vec<Vec<u8>> {
        (0..count).map(|index| query(&format!("{}.cluster.local", name(index)), record_type)).collect()
    };
    for &services in sizes {
        let zone = zone_of(&objects(services, services).into_iter().collect());
        let address = many(services, &|index| format!("svc-{index}.default.svc"), RecordType::A);
        let took = time_of(&zone, Transport::Udp, &Answered::Records, &address);
        let target = [Verdict::at_most("us", took.median, 1.0)];
        table.put("A of a service", services, &took, if services == 10_000 { &target } else { &[] });
        let absent = many(services, &|index| format!("example-{index}.com.default.svc"), RecordType::A);
        let took = time_of(&zone, Transport::Udp, &Answered::NxDomain, &absent);
        table.put("A of an external name with a search domain", services, &took, &[]);
        let members = many(services, &|index| format!("db-{index}.default.svc"), RecordType::A);
        let took = time_of(&zone, Transport::Udp, &Answered::Records, &members);
        table.put("A of a headless service with 5 endpoints", services, &took, &[]);
        let host = many(services, &|index| format!("db-{index}-3.db-{index}.default.svc"), RecordType::A);
        let took = time_of(&zone, Transport::Udp, &Answered::Records, &host);
        table.put("A of the hostname of an endpoint", services, &took, &[]);
        let port = many(services, &|index| format!("_sql._tcp.db-{index}.default.svc"), RecordType::SRV);
        let took = time_of(&zone, Transport::Udp, &Answered::Records, &port);
        table.put("SRV of a port with 5 endpoints", services, &took, &[]);
    }
    let large: Snapshot = [svc("db").tcp("sql", 1).into(), cluster_slice(0, 1_000, 0).into()]
        .map(|change| match change {
            Change::Slice(mut slice) => {
                slice.service = svc("db").key;
                Change::Slice(slice)
            }
            other => other,
        })
        .into_iter()
        .collect();
    let asked = [query("db.default.svc.cluster.local", RecordType::A)];
    let took = time_of(&zone_of(&large), Transport::Tcp, &Answered::Records, &asked);
    let table = sheet.rows("large", "a headless service with 1,000 endpoints", "us");
    table.put("A over TCP", &took, &[]);
    let took = time_of(&zone_of(&large), Transport::Udp, &Answered::Records, &asked);
    table.put("A over UDP, truncated", &took, &[]);
}

fn refreshes(sheet: &Sheet) {
    let services = if is_quick() { 1_000 } else { 10_000 };
    let snapshot: Snapshot = cluster(services, 5).collect();
    let title = format!("a zone with {services} services and {} endpoints", services * 5);
    let table = sheet.rows("refresh", &title, "ms");
    table.put("a new zone", &Spread::timed(10, MS, || (), |()| zone_of(&snapshot)), &[]);
    let zone = zone_of(&snapshot);
    let mut index = 0;
    let input = || {
        index = (index + 7_919) % services;
        let mut next = snapshot.clone();
        let changed = next.apply(Change::Slice(cluster_slice(index, 5, 1)));
        (zone.clone(), next, changed)
    };
    let took = Spread::timed(2_000, MS, input, |(mut zone, snapshot, changed)| {
        zone.refresh(&snapshot, Some(&changed));
        zone
    });
    table.put("one changed endpoint", &took, &[Verdict::at_most("ms", took.median, 0.1)]);
}

/// Returns the resident memory of this process, in KB.
fn resident_kb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the status of this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Measures the memory of a zone next to its snapshot.
fn memory(sheet: &Sheet) {
    let services = if is_quick() { 1_000 } else { 10_000 };
    let snapshot: Snapshot = objects(0, services).into_iter().collect();
    let before = resident_kb();
    let zone = zone_of(&snapshot);
    let took = Spread::one((resident_kb() - before) / 1e3);
    assert!(zone.is_synced());
    let title = format!("{services} headless services with {} endpoints", services * 5);
    let table = sheet.rows("memory", &title, "MB");
    table.put("the zone, without the snapshot", &took, &[Verdict::at_most("MB", took.median, 8.0)]);
}
