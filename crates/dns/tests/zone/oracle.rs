//! Asks a zone, and reads its response with `hickory-proto`.
//!
//! Each response must be a valid message within the size that the client accepts, and repeat the question.

use dns::{Answered, Client, Query, Transport, Zone, ZoneConfig};
use hickory_proto::op::{Edns, Message, MessageType, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use proxy_core::snapshot::{Change, Snapshot};

/// The rotation of the records of most tests.
const ROTATION: u32 = 0;

/// A response, or the outcome without one.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) answered: Answered,
    /// None: the zone wrote no response.
    pub(crate) message: Option<Message>,
    pub(crate) len: usize,
}

impl Reply {
    pub(crate) fn message(&self) -> &Message {
        self.message.as_ref().expect("the zone responded")
    }

    /// The response code, and the records of the answer section as `TYPE DATA` in order; with their owner if it is not
    /// the name of the question.
    pub(crate) fn answer(&self) -> Vec<String> {
        let message = self.message();
        let code = match message.metadata.response_code {
            ResponseCode::NoError if message.answers.is_empty() => "NODATA".to_owned(),
            ResponseCode::NoError => "NOERROR".to_owned(),
            ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
            code => format!("{code:?}"),
        };
        let question = message.queries[0].name();
        let text = |record: &Record| match record.name == *question {
            true => data_text(record),
            false => format!("{} {}", record.name, data_text(record)),
        };
        [code].into_iter().chain(message.answers.iter().map(text)).collect()
    }

    /// The answer in the order of its texts.
    pub(crate) fn sorted_answer(&self) -> Vec<String> {
        let mut answer = self.answer();
        answer[1..].sort();
        answer
    }

    /// The records of the additional section as `OWNER TYPE DATA`, sorted.
    pub(crate) fn additional(&self) -> Vec<String> {
        let records = self.message().additionals.iter();
        let mut texts: Vec<String> =
            records.map(|record| format!("{} {}", record.name, data_text(record))).collect();
        texts.sort();
        texts
    }

    /// The records of the authority section as `OWNER TTL TYPE DATA`.
    pub(crate) fn authority(&self) -> Vec<String> {
        let records = self.message().authorities.iter();
        records.map(|record| format!("{} {} {}", record.name, record.ttl, data_text(record))).collect()
    }
}

fn data_text(record: &Record) -> String {
    format!("{} {}", record.record_type(), record.data)
}

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) message: Message,
    pub(crate) transport: Transport,
    pub(crate) client: Client,
    pub(crate) rotation: u32,
}

/// Returns a question over UDP without EDNS, of a client that sees all services.
pub(crate) fn question(name: &str, record_type: &str) -> Ask {
    let mut message = Message::query();
    message.metadata.id = 0xbeef;
    message.metadata.recursion_desired = true;
    let record_type = RecordType::from(dns::RecordType::parse(record_type).expect("a type").0);
    // `Name::from_ascii` rejects labels that begin with a dash.
    let labels = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    let mut name = Name::from_labels(labels).expect("a name");
    name.set_fqdn(true);
    message.add_query(Question::query(name, record_type));
    Ask { message, transport: Transport::Udp, client: Client::default(), rotation: ROTATION }
}

impl Ask {
    pub(crate) fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    pub(crate) fn of(mut self, client: &Client) -> Self {
        self.client = client.clone();
        self
    }

    pub(crate) fn rotated(mut self, rotation: u32) -> Self {
        self.rotation = rotation;
        self
    }

    pub(crate) fn with_edns(mut self, udp_bytes_max: u16) -> Self {
        let mut edns = Edns::new();
        edns.set_max_payload(udp_bytes_max);
        self.message.set_edns(edns);
        self
    }

    /// Asks a zone, and checks the response.
    pub(crate) fn ask(self, zone: &Zone) -> Reply {
        let bytes = self.message.to_vec().expect("a valid question");
        let query = Query::parse(&bytes).expect("a valid query");
        let mut out = b"the zone clears the buffer".to_vec();
        let answered = zone.answer(&self.client, &query, self.transport, self.rotation, &mut out);
        if matches!(answered, Answered::Upstream | Answered::External(_)) {
            return Reply { answered, message: None, len: 0 };
        }
        let message = self.check(&query, &out);
        Reply { answered, message: Some(message), len: out.len() }
    }

    /// Reads a response, and checks what all responses have in common.
    pub(crate) fn check(&self, query: &Query<'_>, out: &[u8]) -> Message {
        let message = Message::from_vec(out).unwrap_or_else(|error| panic!("{error}: {out:?}"));
        assert!(out.len() <= query.response_bytes_max(self.transport), "{} bytes", out.len());
        let (asked, metadata) = (&self.message, &message.metadata);
        assert_eq!((metadata.id, metadata.message_type), (asked.metadata.id, MessageType::Response));
        assert_eq!(metadata.op_code, asked.metadata.op_code);
        assert_eq!(metadata.recursion_desired, asked.metadata.recursion_desired);
        assert!(metadata.recursion_available && !metadata.authentic_data);
        assert_eq!(message.queries, asked.queries);
        assert_eq!(message.queries[0].name().to_ascii(), asked.queries[0].name().to_ascii(), "the spelling");
        assert_eq!(message.edns.is_some(), asked.edns.is_some());
        let mut texts: Vec<String> = message.answers.iter().map(|record| record.to_string()).collect();
        texts.sort();
        assert!(texts.windows(2).all(|pair| pair[0] != pair[1]), "duplicate records: {texts:?}");
        message
    }
}

/// Returns a zone with these objects.
pub(crate) fn zone(changes: impl IntoIterator<Item = Change>) -> Zone {
    zone_with(ZoneConfig::default(), changes)
}

/// Returns a zone with these settings and objects.
pub(crate) fn zone_with(config: ZoneConfig, changes: impl IntoIterator<Item = Change>) -> Zone {
    let snapshot: Snapshot = changes.into_iter().collect();
    let mut zone = Zone::new(config);
    zone.refresh(&snapshot, None);
    zone
}

/// Asserts the answers to questions `NAME TYPE` below `cluster.local`, or of complete names that end with a dot.
pub(crate) fn assert_answers(zone: &Zone, cases: &[(&str, &[&str])]) {
    for (asked, expected) in cases {
        let (name, record_type) = asked.split_once(' ').expect("a name and a type");
        let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.cluster.local.") };
        let reply = question(&name, record_type).ask(zone);
        assert!(reply.message.is_some(), "{asked} was not answered: {:?}", reply.answered);
        assert_eq!(reply.sorted_answer(), *expected, "{asked}");
        let is_negative = expected.len() == 1 && ["NODATA", "NXDOMAIN"].contains(&expected[0]);
        assert_eq!(reply.authority().len(), usize::from(is_negative), "{asked}: {:?}", reply.authority());
        let ttls = reply.message().answers.iter().map(|record| record.ttl);
        assert!(ttls.into_iter().all(|ttl| ttl == 5), "{asked}");
        assert!(reply.message().metadata.authoritative, "{asked}");
    }
}
