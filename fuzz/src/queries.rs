//! Queries of pods to in-pod DNS: any bytes, with a zone that has one name of each kind.
//!
//! The last byte of the input selects the transport and whether the zone forwards unknown names.

use dns::{Answered, Client, Malformed, Name, Query, Transport, Zone, ZoneConfig, write_rejection};
use proxy_core::sample::{slice, svc};
use proxy_core::service::{Service, ServiceKey};
use proxy_core::snapshot::Snapshot;

/// No response to these questions is larger: an SRV record and an address for each of three endpoints.
const RESPONSE_BYTES_MAX: usize = 1_200;

fn zone(has_fallthrough: bool) -> Zone {
    let endpoints = slice("db").tcp("sql", 5432).at("10.1.0.1").hostname("db-0").at("10.1.0.2").at("fd00::");
    let alias = |name: &str, target: &str| Service { external_name: Some(target.into()), ..svc(name) };
    let snapshot: Snapshot = [
        svc("a").ip("10.96.0.1").ip("fd10::1").tcp("h", 80).into(),
        svc("db").tcp("sql", 5432).into(),
        endpoints.into(),
        alias("x", "a.default.svc.c").into(),
        alias("y", "e.org").into(),
    ]
    .into_iter()
    .collect();
    let domain = Name::parse("c").unwrap_or(Name::ROOT);
    let dns_service = ServiceKey::new("default", "a");
    let config =
        ZoneConfig { domain, dns_service, has_fallthrough, has_pod_records: true, ..ZoneConfig::default() };
    let mut zone = Zone::new(config);
    zone.refresh(&snapshot, None);
    zone
}

/// Answers a message, and checks the size and the form of the response.
///
/// # Panics
/// If the response is larger than the client accepts or than the zone has records, or does not repeat the question.
pub fn check(bytes: &[u8]) {
    let Some((selector, message)) = bytes.split_last() else { return };
    let transport = if selector & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let mut out = Vec::new();
    match Query::parse(message) {
        Ok(query) => answer(&query, transport, selector & 2 != 0, &mut out),
        Err(Malformed::Unanswerable) => {}
        Err(Malformed::Rejected(rcode)) => {
            write_rejection(message, rcode, &mut out);
            assert_eq!((out.len(), &out[..2]), (12, &message[..2]), "a rejection is a header with the id");
        }
    }
}

fn answer(query: &Query<'_>, transport: Transport, has_fallthrough: bool, out: &mut Vec<u8>) {
    let zone = zone(has_fallthrough);
    let answered = zone.answer(&Client::default(), query, transport, u32::from(query.id()), out);
    match answered {
        Answered::Upstream => return,
        // The message of the client stands for a malformed or hostile response of an upstream.
        Answered::External(external) => {
            let mut upstream = query.message().to_vec();
            upstream[2] |= 0x80;
            zone.write_external(query, &external, &upstream, transport, out);
            assert!(out.len() <= query.response_bytes_max(transport), "the response is too large");
        }
        _ => assert!(out.len() <= RESPONSE_BYTES_MAX, "the response has more than the records of the zone"),
    }
    assert!(out.len() <= query.response_bytes_max(transport), "the response is too large");
    let question = &query.header_and_question()[12..];
    assert_eq!(&out[12..12 + question.len()], question, "the response repeats the question");
    assert_eq!(out[..2], query.id().to_be_bytes(), "the response has the id");
}
