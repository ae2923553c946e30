//! Sizes: a headless service with 1,000 endpoints over UDP and TCP.

use dns::{Transport, Zone};
use proxy_core::sample::{slice, svc};

use crate::oracle::{Reply, question, zone};

const NAME: &str = "db.default.svc.cluster.local.";
const PORT: &str = "_sql._tcp.db.default.svc.cluster.local.";

fn thousand() -> Zone {
    let mut endpoints = slice("db").tcp("sql", 5432);
    for number in 0..1_000 {
        let address = format!("10.1.{}.{}", number / 250, number % 250);
        endpoints = endpoints.at(&address).hostname(&format!("db-{number}"));
    }
    zone([svc("db").tcp("sql", 5432).into(), endpoints.into()])
}

fn is_truncated(reply: &Reply) -> bool {
    reply.message().metadata.truncation
}

#[test]
fn udp_response_has_as_many_addresses_as_fit() {
    let zone = thousand();
    for (udp_bytes_max, addresses) in [(None, 29), (Some(1_232), 73), (Some(4_096), 252), (Some(65_535), 252)]
    {
        let ask = question(NAME, "A").rotated(990);
        let ask = udp_bytes_max.map_or(ask.clone(), |size| ask.with_edns(size));
        let reply = ask.ask(&zone);
        assert!(is_truncated(&reply));
        assert_eq!(reply.message().answers.len(), addresses, "{udp_bytes_max:?}: {} bytes", reply.len);
        assert_eq!(reply.answer()[1], "A 10.1.3.240");
    }
}

#[test]
fn tcp_response_is_complete() {
    let reply = question(NAME, "A").over(Transport::Tcp).ask(&thousand());
    assert!(!is_truncated(&reply));
    assert_eq!(reply.message().answers.len(), 1_000);
    assert!(reply.len < 16_100, "{} bytes: the owner names are compressed", reply.len);
}

#[test]
fn srv_records_with_1_000_targets_fit_into_a_tcp_response() {
    let reply = question(PORT, "SRV").over(Transport::Tcp).ask(&thousand());
    assert!(!is_truncated(&reply), "additional records are optional");
    assert_eq!(reply.message().answers.len(), 1_000);
    assert!(reply.message().additionals.len() > 100);
    let reply = question(PORT, "SRV").ask(&thousand());
    assert!(is_truncated(&reply) && reply.message().additionals.is_empty());
}

#[test]
fn missing_additional_records_are_no_truncation() {
    let endpoints = (0..8).fold(slice("db").tcp("sql", 1), |slice, n| {
        slice.at(&format!("10.1.0.{n}")).hostname(&format!("a-{n}"))
    });
    let zone = zone([svc("db").tcp("sql", 1).into(), endpoints.into()]);
    let reply = question(PORT, "SRV").ask(&zone);
    assert_eq!((is_truncated(&reply), reply.message().answers.len()), (false, 8));
    assert!(reply.message().additionals.len() < 8);
}

#[test]
fn response_is_not_much_larger_than_its_query_unless_records_are_asked_for() {
    let zone = thousand();
    for name in ["no.default.svc.cluster.local.", "cluster.local."] {
        let ask = question(name, "A");
        let query_len = ask.message.to_vec().unwrap().len();
        let reply = ask.ask(&zone);
        assert!(reply.len < query_len + 80, "{} bytes for {query_len}", reply.len);
    }
}
