//! Responses of upstreams on the way to a client.

use super::*;
use crate::message::{Query, Transport};
use crate::simulation::{mutate, parse, query, reply};

const A: u16 = 1;

fn request(message: &[u8]) -> Request {
    Request::new(&Query::parse(message).unwrap(), Transport::Udp)
}

fn accept(asked: &[u8], response: Vec<u8>) -> Relay {
    Relay::new(&request(asked), response).unwrap()
}

fn relayed(relay: &Relay, asked: &[u8]) -> Vec<u8> {
    let mut out = b"leftover".to_vec();
    relay.relay(&request(asked), &mut out);
    parse(&out);
    out
}

#[test]
fn message_is_relayed_byte_for_byte() {
    let asked = query("a.example", A, Some(1_232));
    // An unknown type and an option of the upstream.
    let mut response = reply(&asked, 0, &[(A, 60, &[192, 0, 2, 1]), (65_280, 5, b"unknown")], None);
    let len = response.len();
    response[len - 1] = 6;
    response.extend_from_slice(&[0, 15, 0, 2, 0, 3]);
    response[3] |= 0x20;
    let mut authenticated = asked.clone();
    authenticated[3] |= 0x20;
    assert_eq!(relayed(&accept(&asked, response.clone()), &authenticated), response);
}

#[test]
fn id_spelling_and_bits_of_the_client_are_restored() {
    let (asked, mut other) = (query("a.example", A, None), query("A.exAMple", A, None));
    other[..3].copy_from_slice(&[0xab, 0xcd, 0]);
    let mut response = reply(&asked, 0, &[(A, 60, &[192, 0, 2, 1])], None);
    response[3] |= 0x20;
    let out = relayed(&accept(&asked, response), &other);
    assert_eq!(out[..4], [0xab, 0xcd, 0x80, 0x80]);
    assert!(out[12..].starts_with(&other[12..]));
}

#[test]
fn stored_response_has_reduced_ttls_and_is_not_authoritative() {
    let asked = query("a.example", A, None);
    let mut response = reply(&asked, 0, &[(A, 60, &[192, 0, 2, 1]), (A, 3, &[192, 0, 2, 2])], Some(30));
    response[2] |= 4;
    for (freshness, ttls) in [
        (Freshness::Cached(Duration::from_millis(9_900)), [51, 0, 3_591]),
        (Freshness::Stale(30), [30, 30, 30]),
    ] {
        let mut out = Vec::new();
        relay_stored(&request(&asked), &response, freshness, &mut out);
        let parsed = parse(&out);
        let all: Vec<u32> =
            parsed.answers.iter().chain(&parsed.authorities).map(|record| record.ttl).collect();
        assert_eq!((all, out[2] & 4), (ttls.to_vec(), 0));
    }
}

#[test]
fn lifetime_follows_the_records_and_the_soa_minimum() {
    let asked = query("a.example", A, Some(1_232));
    let address: &[u8] = &[192, 0, 2, 1];
    let lifetime = |response: Vec<u8>| {
        let relay = accept(&asked, response);
        (relay.kind, relay.lifetime)
    };
    let positive = reply(&asked, 0, &[(A, 60, address), (A, 7, address)], None);
    assert_eq!(lifetime(positive.clone()), (AnswerKind::Positive, Some(7)));
    let mut truncated = positive;
    truncated[2] |= 2;
    assert_eq!(lifetime(truncated), (AnswerKind::Positive, None));
    assert_eq!(lifetime(reply(&asked, 3, &[], Some(30))), (AnswerKind::NxDomain, Some(30)));
    // The TTL of the SOA record is 3,600 s.
    assert_eq!(lifetime(reply(&asked, 3, &[], Some(90_000))), (AnswerKind::NxDomain, Some(3_600)));
    assert_eq!(lifetime(reply(&asked, 3, &[], None)), (AnswerKind::NxDomain, None));
    // An alias without an address.
    let alias = reply(&asked, 0, &[(5, 20, b"\x01b\x07example\0")], Some(30));
    assert_eq!(lifetime(alias), (AnswerKind::NoData, Some(20)));
    assert_eq!(lifetime(reply(&asked, 2, &[], None)), (AnswerKind::Failure, Some(1)));
    assert_eq!(lifetime(reply(&asked, 5, &[], None)), (AnswerKind::Failure, None));
    let mut bad_version = reply(&asked, 0, &[], None);
    let opt_ttl = bad_version.len() - 6;
    bad_version[opt_ttl] = 1;
    assert_eq!(lifetime(bad_version), (AnswerKind::Failure, None));
}

#[test]
fn response_is_cut_after_the_last_record_that_fits_at_each_size() {
    let large = query("a.example", A, Some(4_096));
    let records = vec![(A, 60, &[192, 0, 2, 1][..]); 100];
    let response = reply(&large, 0, &records, Some(30));
    let relay = accept(&large, response.clone());
    for size in 0..2_000_u16 {
        let out = relayed(&relay, &query("a.example", A, Some(size)));
        let accepted = usize::from(size.max(512));
        assert!(out.len() <= accepted, "{size}");
        let parsed = parse(&out);
        assert!(parsed.edns.is_some());
        let is_complete = out.len() == response.len();
        assert_eq!(out[2] & TC == 0, is_complete, "{size}");
        // One more record of 16 bytes would not fit.
        assert!(is_complete || out.len() + 16 > accepted || parsed.answers.len() == 100, "{size}");
    }
    assert!(relayed(&relay, &query("a.example", A, None)).len() <= 512);
}

#[test]
fn additional_records_are_omitted_without_truncation() {
    let asked = query("a.example", A, None);
    let mut response = reply(&asked, 0, &[(A, 60, &[192, 0, 2, 1])], None);
    for _ in 0..40 {
        response.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x02");
    }
    response[11] = 40;
    let out = relayed(&accept(&asked, response), &asked);
    assert_eq!((out[2] & TC, parse(&out).answers.len()), (0, 1));
    assert!(out.len() <= 512 && out.len() > 490);
}

#[test]
fn each_prefix_of_a_response_is_malformed() {
    let asked = query("a.example", A, Some(1_232));
    let response = reply(&asked, 0, &[(5, 60, b"\x01b\xc0\x0e"), (A, 60, &[192, 0, 2, 1])], Some(30));
    for len in asked.len() - 11..response.len() {
        assert!(Relay::new(&request(&asked), response[..len].to_vec()).is_none(), "{len} bytes");
    }
    assert!(Relay::new(&request(&asked), [response, vec![0]].concat()).is_none());
}

#[test]
fn changed_messages_are_accepted_only_with_the_id_and_question_and_relayed_within_the_size() {
    let (asked, mut rng, mut accepted) = (query("a.example", A, Some(600)), fastrand::Rng::with_seed(5), 0);
    let records: Vec<(u16, u32, &[u8])> =
        vec![(5, 60, b"\x01b\xc0\x0e"), (A, 60, &[192, 0, 2, 1]), (A, 60, &[192, 0, 2, 2])];
    let (right, request) = (reply(&asked, 0, &records, Some(30)), request(&asked));
    let mut out = Vec::new();
    for _ in 0..100_000 {
        let message = mutate(&mut rng, &right);
        if !is_response_to(&request, 0x1234, &message) {
            continue;
        }
        assert!(message.starts_with(b"\x12\x34") && message[2] & 0xf8 == 0x80);
        assert!(message[12..].to_ascii_lowercase().starts_with(&asked[12..asked.len() - 11]));
        let Some(relay) = Relay::new(&request, message) else { continue };
        accepted += 1;
        relay.relay(&request, &mut out);
        assert!(out.len() <= 600 && out.starts_with(b"\x12\x34"));
        if let Some(stored) = relay.without_opt() {
            relay_stored(&request, &stored, Freshness::Stale(30), &mut out);
            assert!(out.len() <= 600 && out[12..].starts_with(&asked[12..asked.len() - 11]));
        }
    }
    assert!((10_000..90_000).contains(&accepted), "{accepted} accepted");
}
