//! `Request`: a client's query as the forwarder needs it.
//!
//! The question and the OPT record stay in the bytes of the client, so that the query to an upstream and the response
//! to the client keep the client's spelling and options. Nothing else of the client's message is forwarded: a record in
//! another section of a query has no meaning for a resolver.

use crate::message::{
    CD, HEADER_LEN, Name, QR, Query, RA, RD, Rcode, RecordType, Records, Transport, UDP_BYTES_ACCEPTED,
    read_u16,
};

/// The bit AD (authentic data) of the fourth byte of a header.
pub(crate) const AD: u8 = 0x20;
/// The bit DO of the third byte of an OPT record's TTL.
const DO: u8 = 0x80;
/// The size of an OPT record without options: root name, type, class, TTL and length of the data.
pub(crate) const OPT_LEN: usize = 11;
/// The options that a responder may ignore and that do not change the answer: NSID, DAU, DHU, N3U, EXPIRE, COOKIE,
/// KEEPALIVE, PADDING.
const NEUTRAL_OPTIONS: [u16; 8] = [3, 5, 6, 7, 9, 10, 11, 12];

/// How the EDNS options of a query affect the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OptionsKind {
    /// The query has no options.
    None,
    /// The options do not change the answer, but the response to them belongs to this query.
    Neutral,
    /// An option can change the answer, for example the client's subnet.
    Significant,
}

/// A query with one question.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u16,
    /// The third and the fourth byte of the header.
    pub(crate) flags: [u8; 2],
    /// The question section: the name in the client's spelling, type and class.
    pub(crate) question: Box<[u8]>,
    /// The OPT record in the client's bytes.
    opt: Option<Box<[u8]>>,
    pub(crate) is_dnssec_ok: bool,
    /// The largest response that the client accepts.
    pub(crate) bytes_max: usize,
}

impl Request {
    pub(crate) fn new(query: &Query<'_>, transport: Transport) -> Self {
        let message = query.message();
        Self {
            id: query.id(),
            flags: [message[2], message[3]],
            question: query.header_and_question()[HEADER_LEN..].into(),
            opt: query.edns.and_then(|_| find_opt(message)),
            is_dnssec_ok: query.edns.is_some_and(|edns| edns.is_dnssec_ok),
            bytes_max: query.response_bytes_max(transport),
        }
    }

    /// Returns a query of Portico itself for another name, with the type, class and flags of this query. It has an
    /// OPT record without options.
    pub(crate) fn for_name(&self, name: &Name) -> Self {
        let (_, rest) = self.question.split_at(self.question.len() - 4);
        Self {
            id: 0,
            flags: [self.flags[0] & RD, 0],
            question: [name.as_bytes(), rest].concat().into(),
            opt: Some(own_opt(false).into()),
            is_dnssec_ok: false,
            bytes_max: usize::from(u16::MAX),
        }
    }

    /// Returns the same query for another type.
    pub(crate) fn with_type(&self, record_type: RecordType) -> Self {
        let mut other = self.clone();
        let at = other.question.len() - 4;
        other.question[at..at + 2].copy_from_slice(&record_type.0.to_be_bytes());
        other
    }

    /// Returns the name of the question in wire format.
    pub(crate) fn name(&self) -> &[u8] {
        &self.question[..self.question.len() - 4]
    }

    pub(crate) fn record_type(&self) -> RecordType {
        let at = self.question.len() - 4;
        RecordType(u16::from_be_bytes([self.question[at], self.question[at + 1]]))
    }

    pub(crate) fn is_recursion_desired(&self) -> bool {
        self.flags[0] & RD != 0
    }

    pub(crate) fn has_opt(&self) -> bool {
        self.opt.is_some()
    }

    /// Returns how the EDNS options affect the answer.
    pub(crate) fn options(&self) -> OptionsKind {
        let mut options = self.opt.as_ref().map_or(&[][..], |opt| &opt[OPT_LEN..]);
        let mut kind = OptionsKind::None;
        while let (Some(code), Some(len)) = (read_u16(options, 0), read_u16(options, 2)) {
            let is_neutral = NEUTRAL_OPTIONS.contains(&code);
            kind = kind.max(if is_neutral { OptionsKind::Neutral } else { OptionsKind::Significant });
            options = options.get(4 + usize::from(len)..).unwrap_or(&[]);
        }
        kind
    }

    /// Appends the identity of the question: the bits RD, AD, CD and DO, type, class, and the name in lower case. Two
    /// queries with the same identity have the same answer.
    pub(crate) fn append_identity(&self, key: &mut Vec<u8>) {
        let dnssec_ok = u8::from(self.is_dnssec_ok);
        key.push(self.flags[0] & RD | self.flags[1] & (AD | CD) | dnssec_ok << 1);
        key.extend_from_slice(&self.question[self.question.len() - 4..]);
        key.extend(self.name().iter().map(u8::to_ascii_lowercase));
    }

    /// Returns the query to an upstream, with this id: the flags, question and OPT record of the client.
    pub(crate) fn to_upstream(&self, id: u16) -> Vec<u8> {
        let opt = self.opt.as_deref().unwrap_or(&[]);
        let mut message = Vec::with_capacity(HEADER_LEN + self.question.len() + opt.len());
        message.extend_from_slice(&id.to_be_bytes());
        message.extend_from_slice(&[self.flags[0] & RD, self.flags[1] & (AD | CD)]);
        message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.has_opt())]);
        message.extend_from_slice(&self.question);
        message.extend_from_slice(opt);
        message
    }

    /// Whether the question section of a response repeats the question. Letters compare case-insensitively, type and
    /// class exactly.
    pub(crate) fn is_question_of(&self, response: &[u8]) -> bool {
        let Some(repeated) = response.get(HEADER_LEN..HEADER_LEN + self.question.len()) else {
            return false;
        };
        let (name, rest) = repeated.split_at(self.question.len() - 4);
        response[4..6] == [0, 1] && name.eq_ignore_ascii_case(self.name()) && self.question.ends_with(rest)
    }

    /// Appends an OPT record without options, as a response to the OPT record of this query.
    pub(crate) fn append_own_opt(&self, message: &mut Vec<u8>) {
        message.extend_from_slice(&own_opt(self.is_dnssec_ok));
    }

    /// Writes a response without records.
    pub(crate) fn write_empty(&self, rcode: Rcode, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&[QR | self.flags[0] & RD, RA | self.flags[1] & CD | rcode as u8 & 0x0f]);
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.has_opt())]);
        out.extend_from_slice(&self.question);
        if self.has_opt() {
            self.append_own_opt(out);
        }
    }
}

fn own_opt(is_dnssec_ok: bool) -> [u8; OPT_LEN] {
    let [high, low] = UDP_BYTES_ACCEPTED.to_be_bytes();
    [0, 0, 41, high, low, 0, 0, if is_dnssec_ok { DO } else { 0 }, 0, 0, 0]
}

/// Returns the bytes of the OPT record of a query.
fn find_opt(message: &[u8]) -> Option<Box<[u8]>> {
    let opt = Records::new(message)?.flatten().find(|record| record.record_type == RecordType::OPT)?;
    Some(message[opt.start..opt.end].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\x01\x03wWw\x02de\0\0\x41\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\x0c\0\x0a\0\x08cookie!!";

    fn parse(message: &[u8]) -> Request {
        Request::new(&Query::parse(message).unwrap(), Transport::Udp)
    }

    #[test]
    fn upstream_query_keeps_question_and_options() {
        let request = parse(QUERY);
        assert_eq!(request.to_upstream(0x1234), QUERY);
        assert_eq!((request.record_type(), request.name()), (RecordType(65), &b"\x03wWw\x02de\0"[..]));
        assert_eq!((request.bytes_max, request.options()), (1_232, OptionsKind::Neutral));
    }

    #[test]
    fn records_other_than_opt_are_not_forwarded() {
        let mut query = QUERY.to_vec();
        query[7] = 1;
        let answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x7f\0\0\x01";
        query.splice(HEADER_LEN + 12..HEADER_LEN + 12, answer.iter().copied());
        assert_eq!(parse(&query).to_upstream(0x1234), QUERY);
    }

    #[test]
    fn question_is_compared_without_case_but_type_exactly() {
        let request = parse(QUERY);
        let mut response = QUERY.to_ascii_uppercase();
        assert!(request.is_question_of(&response));
        // Type 0x61 instead of 0x41: the same letter in another case.
        response[HEADER_LEN + 9] = 0x61;
        assert!(!request.is_question_of(&response));
        assert!(!request.is_question_of(&QUERY[..HEADER_LEN + 11]));
    }

    #[test]
    fn options_are_neutral_unless_they_change_the_answer() {
        let mut query = QUERY.to_vec();
        // The client's subnet instead of a cookie.
        query[HEADER_LEN + 12 + OPT_LEN + 1] = 8;
        assert_eq!(parse(&query).options(), OptionsKind::Significant);
        query.truncate(HEADER_LEN + 12 + OPT_LEN);
        query[HEADER_LEN + 12 + OPT_LEN - 1] = 0;
        assert_eq!(parse(&query).options(), OptionsKind::None);
    }
}
