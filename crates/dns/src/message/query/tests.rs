//! Parsing of queries, against `hickory-proto` and by hand.

use hickory_proto::op::{Edns as OracleEdns, Message, Query as Question};
use hickory_proto::rr::RecordType as OracleType;

use super::*;

fn sample() -> Message {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.add_query(Question::query("Web.Default.svc.cluster.local.".parse().unwrap(), OracleType::AAAA));
    message
}

fn sample_bytes() -> Vec<u8> {
    sample().to_vec().unwrap()
}

fn with_edns(udp_bytes_max: u16, version: u8) -> Vec<u8> {
    let mut message = sample();
    let mut edns = OracleEdns::new();
    edns.set_max_payload(udp_bytes_max).set_version(version).set_dnssec_ok(true);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

/// A record with the root as its owner and these data.
fn record(record_type: u16, data: &[u8]) -> Vec<u8> {
    let head = [0, 0, u8::try_from(record_type).unwrap(), 4, 208, 0, 0, 0, 0, 0];
    [&head, [u8::try_from(data.len()).unwrap()].as_slice(), data].concat()
}

fn with_records(counts: [u8; 3], records: &[Vec<u8>]) -> Vec<u8> {
    let mut message = sample_bytes();
    (message[7], message[9], message[11]) = (counts[0], counts[1], counts[2]);
    message.extend(records.concat());
    message
}

#[test]
fn question_is_parsed_in_lower_case_and_kept_as_it_is() {
    let bytes = sample_bytes();
    let query = Query::parse(&bytes).unwrap();
    assert_eq!(query.name, Name::parse("web.default.svc.cluster.local").unwrap());
    assert_eq!((query.record_type, query.class, query.id()), (RecordType::AAAA, 1, 0x1234));
    assert_eq!(query.header_and_question(), bytes);
    assert!(query.is_recursion_desired());
    assert_eq!(query.edns, None);
}

#[test]
fn edns_limits_the_size_of_responses_over_udp_only() {
    let size = |bytes: &[u8]| {
        let query = Query::parse(bytes).unwrap();
        [Transport::Udp, Transport::Tcp].map(|transport| query.response_bytes_max(transport))
    };
    assert_eq!(size(&sample_bytes()), [512, 65_535]);
    for (advertised, udp) in [(0, 512), (511, 512), (1_232, 1_232), (65_535, 4_096)] {
        assert_eq!(size(&with_edns(advertised, 0)), [udp, 65_535]);
    }
    let bytes = with_edns(1_400, 0);
    let edns = Edns { udp_bytes_max: 1_400, version: 0, is_dnssec_ok: true };
    assert_eq!(Query::parse(&bytes).unwrap().edns, Some(edns));
}

#[test]
fn responses_and_messages_without_a_header_are_unanswerable() {
    let mut response = sample_bytes();
    response[2] |= QR;
    for bytes in [&response, &sample_bytes()[..11], b"".as_slice()] {
        assert_eq!(Query::parse(bytes).unwrap_err(), Malformed::Unanswerable);
    }
}

#[test]
fn other_operations_are_not_implemented() {
    for opcode in 1..16 {
        let mut bytes = sample_bytes();
        bytes[2] |= opcode << 3;
        assert_eq!(Query::parse(&bytes).unwrap_err(), Malformed::Rejected(Rcode::NotImp));
    }
}

#[test]
fn malformed_queries_are_format_errors() {
    let opt = || record(41, &[]);
    let mut two_questions = sample_bytes();
    two_questions[5] = 2;
    let mut no_question = sample_bytes();
    no_question[5] = 0;
    let mut compressed = sample_bytes();
    compressed[12] = 0xc0;
    let cases = [
        two_questions,
        no_question,
        compressed,
        with_records([0, 0, 1], &[]),
        with_records([0, 0, 2], &[opt(), opt()]),
        with_records([2, 0, 0], &[record(1, &[1; 4]), record(1, &[1; 4])]),
        with_records([0, 0, 4], &[record(1, &[]), record(1, &[]), record(1, &[]), opt()]),
        with_records([0, 0, 1], &[record(41, &[0, 10, 0])]),
        with_records([0, 0, 1], &[record(41, &[0, 10, 0, 2, 1])]),
        with_records([0, 0, 1], &[[&[1, b'a'], opt().as_slice()].concat()]),
    ];
    for bytes in cases {
        assert_eq!(Query::parse(&bytes).unwrap_err(), Malformed::Rejected(Rcode::FormErr), "{bytes:?}");
    }
}

#[test]
fn every_prefix_of_a_query_is_malformed() {
    let bytes =
        with_records([0, 1, 2], &[record(6, &[1; 4]), record(1, &[2; 4]), record(41, &[0, 10, 0, 1, 9])]);
    assert!(Query::parse(&bytes).unwrap().edns.is_some());
    for len in 12..bytes.len() {
        assert_eq!(Query::parse(&bytes[..len]).unwrap_err(), Malformed::Rejected(Rcode::FormErr), "{len}");
    }
}

#[test]
fn opt_record_counts_in_the_additional_section_only() {
    let bytes = with_records([1, 0, 0], &[record(41, &[])]);
    assert_eq!(Query::parse(&bytes).unwrap().edns, None);
}

#[test]
fn transfers_meta_types_other_classes_and_versions_are_refused() {
    let refusal = |record_type: u16, class: u16| {
        let mut bytes = sample_bytes();
        let end = bytes.len();
        bytes[end - 4..end - 2].copy_from_slice(&record_type.to_be_bytes());
        bytes[end - 2..].copy_from_slice(&class.to_be_bytes());
        Query::parse(&bytes).unwrap().refusal()
    };
    for record_type in [1, 28, 33, 64, 65, 255, 257] {
        assert_eq!(refusal(record_type, 1), None, "{record_type}");
    }
    for (record_type, class) in
        [(252, 1), (251, 1), (250, 1), (41, 1), (0, 1), (1, 3), (1, 255), (255, 255), (1, 0)]
    {
        assert_eq!(refusal(record_type, class), Some(Rcode::Refused), "{record_type} {class}");
    }
    let bytes = with_edns(1_232, 1);
    assert_eq!(Query::parse(&bytes).unwrap().refusal(), Some(Rcode::BadVers));
}
