//! The protocol: headers, EDNS, errors, and the spelling of names.

use dns::{Answered, Query, Rcode, Transport, Zone, ZoneConfig, write_rejection};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::DNSClass;
use proxy_core::sample::svc;

use crate::oracle::{question, zone};

const NAME: &str = "web.default.svc.cluster.local.";

fn web() -> Zone {
    zone([svc("web").ip("10.96.0.1").tcp("http", 80).into()])
}

#[test]
fn letters_of_any_case_are_answered_in_the_clients_spelling() {
    // `check` compares the spelling of the question.
    let reply = question("wEB.dEFault.SVC.cLUSTER.loCAL.", "A").ask(&web());
    assert_eq!(reply.answer(), ["NOERROR", "A 10.96.0.1"]);
    let owner = reply.message().answers[0].name.to_ascii();
    assert_eq!(owner, "wEB.dEFault.SVC.cLUSTER.loCAL.");
}

#[test]
fn recursion_desired_and_checking_disabled_are_copied() {
    for (recursion_desired, checking_disabled) in [(false, false), (true, true), (false, true)] {
        let mut ask = question(NAME, "A");
        ask.message.metadata.recursion_desired = recursion_desired;
        ask.message.metadata.checking_disabled = checking_disabled;
        ask.message.metadata.authentic_data = true;
        // `check` compares the other bits.
        let metadata = ask.ask(&web()).message().metadata;
        assert_eq!(metadata.checking_disabled, checking_disabled);
    }
}

#[test]
fn edns_is_answered_with_the_accepted_size_and_the_dnssec_bit() {
    let mut ask = question(NAME, "A").with_edns(4_096);
    ask.message.edns.as_mut().unwrap().set_dnssec_ok(true);
    let reply = ask.ask(&web());
    let edns = reply.message().edns.as_ref().unwrap();
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1_232, 0, true));
    assert!(edns.options().as_ref().is_empty());
}

#[test]
fn unknown_edns_version_is_bad_version() {
    let mut ask = question(NAME, "A").with_edns(1_232);
    ask.message.edns.as_mut().unwrap().set_version(1);
    let reply = ask.ask(&web());
    assert_eq!(reply.answered, Answered::Refused);
    assert_eq!(u16::from(reply.message().metadata.response_code), 16);
    assert_eq!(reply.message().edns.as_ref().unwrap().version(), 0);
}

#[test]
fn other_classes_and_transfers_are_refused() {
    for class in [DNSClass::CH, DNSClass::ANY, DNSClass::NONE] {
        let mut ask = question(NAME, "A");
        ask.message.queries[0].set_query_class(class);
        assert_eq!(ask.ask(&web()).answer(), ["Refused"]);
    }
    for record_type in ["AXFR", "IXFR"] {
        assert_eq!(question("cluster.local.", record_type).ask(&web()).answer(), ["Refused"]);
        // Also for names outside of the zone.
        assert_eq!(question("example.com.", record_type).ask(&web()).answer(), ["Refused"]);
    }
}

#[test]
fn any_has_a_minimal_answer() {
    let answer = |name: &str| question(name, "ANY").ask(&web()).answer();
    for name in
        [NAME, "cluster.local.", "default.svc.cluster.local.", "_http._tcp.web.default.svc.cluster.local."]
    {
        assert_eq!(answer(name), ["NOERROR", "HINFO RFC8482 "], "{name}");
    }
    assert_eq!(answer("no.default.svc.cluster.local."), ["NXDOMAIN"]);
}

#[test]
fn zone_before_its_initial_sync_fails_for_its_own_names_only() {
    let zone = Zone::new(ZoneConfig::default());
    for name in [NAME, "cluster.local.", "1.0.96.10.in-addr.arpa."] {
        let reply = question(name, "A").ask(&zone);
        assert_eq!((reply.answer(), reply.answered), (vec!["ServFail".to_owned()], Answered::NotSynced));
    }
    assert_eq!(question("example.com.", "A").ask(&zone).answered, Answered::Upstream);
}

#[test]
fn names_outside_of_the_zone_are_forwarded() {
    for name in
        ["example.com.", "local.", ".", "xcluster.local.", "web.default.svc.", "4.3.2.1.in-addr.arpa."]
    {
        assert_eq!(question(name, "A").ask(&web()).answered, Answered::Upstream, "{name}");
    }
}

#[test]
fn rejection_has_the_id_and_operation_of_the_message_and_no_question() {
    let mut asked = question(NAME, "A").message;
    asked.metadata.op_code = OpCode::Status;
    let bytes = asked.to_vec().unwrap();
    let mut out = vec![1];
    write_rejection(&bytes, Rcode::NotImp, &mut out);
    let message = Message::from_vec(&out).unwrap();
    assert_eq!((message.metadata.id, message.metadata.op_code), (0xbeef, OpCode::Status));
    assert_eq!(message.metadata.response_code, ResponseCode::NotImp);
    assert!(message.metadata.recursion_desired && message.queries.is_empty());
    write_rejection(&bytes[..11], Rcode::FormErr, &mut out);
    assert_eq!(out, b"");
}

#[test]
fn mutated_messages_cause_no_panic_and_only_valid_responses() {
    let zone = web();
    let mut rng = fastrand::Rng::with_seed(17);
    let seeds = [
        question(NAME, "A").with_edns(1_232).message.to_vec().unwrap(),
        question("_http._tcp.web.default.svc.cluster.local.", "SRV").message.to_vec().unwrap(),
        question("1.0.96.10.in-addr.arpa.", "PTR").with_edns(512).message.to_vec().unwrap(),
    ];
    let (mut parsed, mut out) = (0, Vec::new());
    for _ in 0..100_000 {
        let mut bytes = seeds[rng.usize(..seeds.len())].clone();
        for _ in 0..rng.usize(1..4) {
            match rng.u8(..4) {
                0 => bytes.truncate(rng.usize(..=bytes.len())),
                1 => bytes.insert(rng.usize(..=bytes.len()), rng.u8(..)),
                _ if !bytes.is_empty() => {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = if rng.bool() { rng.u8(..) } else { bytes[at] ^ 1 << rng.u8(..8) };
                }
                _ => {}
            }
        }
        let Ok(query) = Query::parse(&bytes) else { continue };
        parsed += 1;
        let transport = if rng.bool() { Transport::Udp } else { Transport::Tcp };
        let answered = zone.answer(&dns::Client::default(), &query, transport, rng.u32(..), &mut out);
        if answered != Answered::Upstream {
            assert!(out.len() <= query.response_bytes_max(transport) && out.len() < 400, "{bytes:?}");
            Message::from_vec(&out).unwrap_or_else(|error| panic!("{error}: {bytes:?} {out:?}"));
        }
    }
    assert!(parsed > 15_000, "only {parsed} messages were queries");
}
