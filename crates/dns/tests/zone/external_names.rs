//! External names: section 2.5 of the specification, with the response of an upstream.

use dns::{Answered, Query, Transport, Zone, encode_query};
use hickory_proto::op::{Message, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use proxy_core::sample::svc;
use proxy_core::service::Service;

use crate::oracle::{Reply, assert_answers, question, zone};

fn external(name: &str, target: &str) -> Service {
    Service { external_name: Some(target.into()), has_portals: false, ..svc(name) }
}

fn aliases() -> Zone {
    zone([
        external("out", "www.example.com").into(),
        external("in", "web.default.svc.cluster.local").into(),
        external("chain", "in.default.svc.cluster.local").into(),
        external("chain-out", "out.default.svc.cluster.local").into(),
        external("gone", "no.default.svc.cluster.local").into(),
        external("loop", "loop.default.svc.cluster.local").into(),
        external("a", "b.default.svc.cluster.local").into(),
        external("b", "a.default.svc.cluster.local").into(),
        external("address", "10.1.2.3").into(),
        svc("web").ip("10.96.0.1").tcp("http", 80).into(),
    ])
}

fn target_of(name: &str, record_type: &str) -> Option<String> {
    let reply = question(&format!("{name}.default.svc.cluster.local."), record_type).ask(&aliases());
    match reply.answered {
        Answered::External(external) => Some(external.target().to_string()),
        _ => None,
    }
}

#[test]
fn alias_of_a_name_outside_must_be_resolved_for_every_type_but_cname() {
    for record_type in ["A", "AAAA", "HTTPS", "TXT", "SRV", "MX"] {
        assert_eq!(target_of("out", record_type).as_deref(), Some("www.example.com."), "{record_type}");
    }
    assert_eq!(target_of("chain-out", "A").as_deref(), Some("www.example.com."));
    assert_answers(
        &aliases(),
        &[
            ("out.default.svc CNAME", &["NOERROR", "CNAME www.example.com."]),
            ("out.default.svc ANY", &["NOERROR", "CNAME www.example.com."]),
        ],
    );
}

#[test]
fn alias_of_a_name_in_the_zone_is_answered_completely() {
    let web = "web.default.svc.cluster.local.";
    let cname = format!("CNAME {web}");
    let address = format!("{web} A 10.96.0.1");
    let srv = format!("{web} SRV 0 100 80 {web}");
    assert_answers(&aliases(), &[("in.default.svc A", &["NOERROR", &cname, &address])]);
    assert_answers(&aliases(), &[("in.default.svc SRV", &["NOERROR", &cname, &srv])]);
    let chained = question("chain.default.svc.cluster.local.", "A").ask(&aliases()).answer();
    let second = format!("in.default.svc.cluster.local. {cname}");
    assert_eq!(chained, ["NOERROR", "CNAME in.default.svc.cluster.local.", &second, &address]);
}

#[test]
fn alias_of_an_absent_name_has_its_response_code_and_soa() {
    let reply = question("gone.default.svc.cluster.local.", "A").ask(&aliases());
    assert_eq!(reply.answer(), ["NXDOMAIN", "CNAME no.default.svc.cluster.local."]);
    assert_eq!((reply.authority().len(), reply.answered), (1, Answered::Records));
    let reply = question("in.default.svc.cluster.local.", "AAAA").ask(&aliases());
    assert_eq!(reply.answer(), ["NOERROR", "CNAME web.default.svc.cluster.local."]);
    assert_eq!(reply.authority().len(), 1);
}

#[test]
fn loop_of_aliases_ends() {
    let [alone, pair] = ["loop", "a"]
        .map(|name| question(&format!("{name}.default.svc.cluster.local."), "A").ask(&aliases()).answer());
    assert_eq!(alone, ["NOERROR", "CNAME loop.default.svc.cluster.local."]);
    assert_eq!(pair, ["NOERROR", "CNAME b.default.svc.cluster.local."]);
}

#[test]
fn long_chain_of_aliases_is_followed_to_a_limit() {
    let chain =
        (0..20).map(|n| external(&format!("a{n}"), &format!("a{}.default.svc.cluster.local", n + 1)).into());
    let reply = question("a0.default.svc.cluster.local.", "A").ask(&zone(chain));
    assert_eq!(reply.answer().len(), 1 + 8, "{:?}", reply.answer());
}

#[test]
fn alias_has_no_names_below_it_and_an_address_is_no_alias() {
    assert_answers(
        &aliases(),
        &[
            ("a.out.default.svc A", &["NXDOMAIN"]),
            ("_http._tcp.out.default.svc SRV", &["NXDOMAIN"]),
            ("address.default.svc A", &["NXDOMAIN"]),
        ],
    );
}

fn record(name: &str, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).expect("a name"), 60, data)
}

/// The response of an upstream, which compresses names.
fn upstream(code: ResponseCode, answers: &[Record], authorities: &[Record]) -> Vec<u8> {
    let mut message = Message::query().into_response();
    message.metadata.response_code = code;
    message.add_query(Question::query(Name::from_ascii("www.example.com.").expect("a name"), RecordType::A));
    message.add_answers(answers.iter().cloned());
    message.add_authorities(authorities.iter().cloned());
    message.to_vec().expect("a message")
}

fn write(asked: &str, record_type: &str, transport: Transport, upstream: &[u8]) -> Reply {
    let ask = question(&format!("{asked}.default.svc.cluster.local."), record_type).over(transport);
    let bytes = ask.message.to_vec().expect("a message");
    let query = Query::parse(&bytes).expect("a query");
    let zone = aliases();
    let mut out = Vec::new();
    let answered = zone.answer(&ask.client, &query, transport, 0, &mut out);
    let Answered::External(external) = &answered else { panic!("{answered:?}") };
    zone.write_external(&query, external, upstream, transport, &mut out);
    Reply { message: Some(ask.check(&query, &out)), len: out.len(), answered }
}

fn cdn() -> Vec<Record> {
    let target = Name::from_ascii("Edge.cdn.example.com.").expect("a name");
    vec![
        record("www.example.com.", RData::CNAME(rdata::CNAME(target))),
        record("edge.cdn.example.com.", RData::A(rdata::A::new(192, 0, 2, 1))),
        record("edge.cdn.example.com.", RData::A(rdata::A::new(192, 0, 2, 2))),
    ]
}

#[test]
fn response_has_the_aliases_and_the_records_of_the_upstream() {
    let reply = write("chain-out", "A", Transport::Udp, &upstream(ResponseCode::NoError, &cdn(), &[]));
    assert_eq!(
        reply.answer(),
        [
            "NOERROR",
            "CNAME out.default.svc.cluster.local.",
            "out.default.svc.cluster.local. CNAME www.example.com.",
            "www.example.com. CNAME edge.cdn.example.com.",
            "edge.cdn.example.com. A 192.0.2.1",
            "edge.cdn.example.com. A 192.0.2.2",
        ]
    );
    assert_eq!(reply.message().answers.last().unwrap().ttl, 60);
}

#[test]
fn names_in_the_data_of_the_upstream_are_written_in_full() {
    let host = || Name::from_ascii("mail.example.com.").unwrap();
    let soa = rdata::SOA::new(host(), host(), 1, 2, 3, 4, 5);
    let answers = [
        record("www.example.com.", RData::MX(rdata::MX::new(10, host()))),
        record("www.example.com.", RData::SRV(rdata::SRV::new(1, 2, 3, host()))),
        record("www.example.com.", RData::TXT(rdata::TXT::new(vec!["a b".to_owned()]))),
    ];
    let message = upstream(ResponseCode::NXDomain, &answers, &[record("example.com.", RData::SOA(soa))]);
    let reply = write("out", "MX", Transport::Udp, &message);
    assert_eq!(
        reply.answer(),
        [
            "NXDOMAIN",
            "CNAME www.example.com.",
            "www.example.com. MX 10 mail.example.com.",
            "www.example.com. SRV 1 2 3 mail.example.com.",
            "www.example.com. TXT a b",
        ]
    );
    assert_eq!(reply.authority(), ["example.com. 60 SOA mail.example.com. mail.example.com. 1 2 3 4 5"]);
}

#[test]
fn failed_or_malformed_upstream_response_is_a_server_failure() {
    let good = upstream(ResponseCode::NoError, &cdn(), &[]);
    let query = encode_query(1, &dns::Name::parse("www.example.com").unwrap(), dns::RecordType::A);
    for message in [upstream(ResponseCode::Refused, &[], &[]), query, vec![], good[..good.len() - 1].to_vec()]
    {
        assert_eq!(write("out", "A", Transport::Udp, &message).answer(), ["ServFail"]);
    }
}

#[test]
fn large_response_of_the_upstream_is_truncated_over_udp_only() {
    let addresses = (0..200).map(|n| record("www.example.com.", RData::A(rdata::A::new(192, 0, 2, n))));
    let message = upstream(ResponseCode::NoError, &addresses.collect::<Vec<_>>(), &[]);
    let udp = write("out", "A", Transport::Udp, &message);
    assert!(udp.message().metadata.truncation && udp.answer().len() > 25, "{:?}", udp.answer());
    let tcp = write("out", "A", Transport::Tcp, &message);
    assert!(!tcp.message().metadata.truncation);
    assert_eq!(tcp.answer().len(), 202);
}
