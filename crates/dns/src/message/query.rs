//! `Query`: a message of a client, parsed without copies.
//!
//! A query has one question with an uncompressed name. The other sections may hold an OPT record (EDNS), and one record
//! of a kind that Portico ignores, such as the SOA record of an IXFR query. The limits on records bound the time of
//! `parse`, whatever a pod sends.

use crate::message::name::Name;
use crate::message::record_type::{RecordType, class};

/// The length of a message header.
pub const HEADER_LEN: usize = 12;
/// The largest UDP response to a client without EDNS (RFC 1035, 4.2.1).
const PLAIN_BYTES_MAX: usize = 512;
/// The largest UDP response. Responses do not leave the pod's network namespace, so they are never fragmented; the
/// limit bounds the buffers.
pub const UDP_BYTES_MAX: usize = 4_096;
/// The largest response over TCP, whose length field has 16 bits.
pub const TCP_BYTES_MAX: usize = 65_535;
/// The maximum numbers of records in the answer, authority and additional section of a query.
const RECORDS_MAX: [usize; 3] = [1, 1, 3];

/// Header bits in byte 2.
pub(crate) const QR: u8 = 0x80;
pub(crate) const OPCODE: u8 = 0x78;
pub(crate) const AA: u8 = 0x04;
pub(crate) const TC: u8 = 0x02;
pub(crate) const RD: u8 = 0x01;
/// Header bits in byte 3.
pub(crate) const RA: u8 = 0x80;
pub(crate) const CD: u8 = 0x10;

/// The transport protocol of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// A response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// No error, also if the name has no record of the type.
    NoError = 0,
    /// The query is malformed.
    FormErr = 1,
    /// The server failed.
    ServFail = 2,
    /// The name does not exist.
    NxDomain = 3,
    /// The operation is not implemented.
    NotImp = 4,
    /// The server refuses the query.
    Refused = 5,
    /// The EDNS version is not supported.
    BadVers = 16,
}

/// Why a message is not a query that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The message is a response, or too short for a header: the server must not respond.
    Unanswerable,
    /// The server responds with this code, without a question: see `write_rejection`.
    Rejected(Rcode),
}

/// The OPT record of a query (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// The largest UDP response that the client accepts.
    pub udp_bytes_max: u16,
    /// The version; only 0 is defined.
    pub version: u8,
    /// The bit DO.
    pub is_dnssec_ok: bool,
}

/// A parsed query.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    message: &'a [u8],
    question_end: usize,
    /// The name of the question.
    pub name: Name,
    /// The type of the question.
    pub record_type: RecordType,
    /// The class of the question.
    pub class: u16,
    /// The OPT record.
    pub edns: Option<Edns>,
}

impl<'a> Query<'a> {
    /// Parses a message of a client.
    ///
    /// # Errors
    /// If the message is not a query with one question, or malformed.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let header = message.get(..HEADER_LEN).ok_or(Malformed::Unanswerable)?;
        if header[2] & QR != 0 {
            return Err(Malformed::Unanswerable);
        }
        if header[2] & OPCODE != 0 {
            return Err(Malformed::Rejected(Rcode::NotImp));
        }
        Self::parse_body(message).ok_or(Malformed::Rejected(Rcode::FormErr))
    }

    fn parse_body(message: &'a [u8]) -> Option<Self> {
        let count = |at: usize| read_u16(message, at).map(usize::from);
        let counts = [count(6)?, count(8)?, count(10)?];
        if count(4)? != 1 || counts.iter().zip(RECORDS_MAX).any(|(count, max)| *count > max) {
            return None;
        }
        let (name, name_len) = Name::read(&message[HEADER_LEN..])?;
        let type_at = HEADER_LEN + name_len;
        let record_type = RecordType(read_u16(message, type_at)?);
        let class = read_u16(message, type_at + 2)?;
        let question_end = type_at + 4;
        let edns = if counts == [0; 3] { None } else { find_opt(message, question_end, counts)? };
        Some(Self { message, question_end, name, record_type, class, edns })
    }

    /// Returns the id.
    #[must_use]
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.message[0], self.message[1]])
    }

    /// Returns the complete message.
    #[must_use]
    pub fn message(&self) -> &'a [u8] {
        self.message
    }

    /// Returns the header and the question, in the client's spelling.
    #[must_use]
    pub fn header_and_question(&self) -> &'a [u8] {
        &self.message[..self.question_end]
    }

    /// Whether the client requests recursion.
    #[must_use]
    pub fn is_recursion_desired(&self) -> bool {
        self.message[2] & RD != 0
    }

    /// Returns the largest response that the client accepts.
    #[must_use]
    pub fn response_bytes_max(&self, transport: Transport) -> usize {
        match transport {
            Transport::Tcp => TCP_BYTES_MAX,
            Transport::Udp => {
                let accepted = self.edns.map_or(0, |edns| usize::from(edns.udp_bytes_max));
                accepted.clamp(PLAIN_BYTES_MAX, UDP_BYTES_MAX)
            }
        }
    }

    /// Returns the error with which the server responds to the question, whatever its name. `None`: it is a question
    /// for records of class IN.
    #[must_use]
    pub fn refusal(&self) -> Option<Rcode> {
        if self.edns.is_some_and(|edns| edns.version != 0) {
            return Some(Rcode::BadVers);
        }
        let is_transfer = matches!(self.record_type, RecordType::AXFR | RecordType::IXFR);
        (self.class != class::IN || is_transfer || self.record_type.is_meta()).then_some(Rcode::Refused)
    }
}

/// Returns a query for records of class IN, with recursion desired and without an OPT record.
#[must_use]
pub fn encode_query(id: u16, name: &Name, record_type: RecordType) -> Vec<u8> {
    let [id_high, id_low] = id.to_be_bytes();
    let mut message = vec![id_high, id_low, RD, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(&record_type.0.to_be_bytes());
    message.extend_from_slice(&class::IN.to_be_bytes());
    message
}

/// Finds the OPT record. The outer `None`: a record is malformed, or there are two OPT records.
fn find_opt(message: &[u8], start: usize, counts: [usize; 3]) -> Option<Option<Edns>> {
    let mut at = start;
    let mut found = None;
    for number in 0..counts.iter().sum() {
        let is_additional = number >= counts[0] + counts[1];
        let owner_len = owner_len(message.get(at..)?)?;
        let fixed = message.get(at + owner_len..at + owner_len + 10)?;
        let data_start = at + owner_len + 10;
        let data = message.get(data_start..data_start + usize::from(read_u16(fixed, 8)?))?;
        if RecordType(read_u16(fixed, 0)?) == RecordType::OPT && is_additional {
            if found.is_some() || owner_len != 1 || !has_valid_options(data) {
                return None;
            }
            let [_, _, size_high, size_low, _, version, flags, ..] = *fixed else { return None };
            let udp_bytes_max = u16::from_be_bytes([size_high, size_low]);
            found = Some(Edns { udp_bytes_max, version, is_dnssec_ok: flags & 0x80 != 0 });
        }
        at = data_start + data.len();
    }
    Some(found)
}

/// Returns the length of the name at the start of `bytes`, which may end with a compression pointer.
fn owner_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            len if len >= 0xc0 => return Some(at + 2),
            len if len <= 63 && at < 255 => at += 1 + usize::from(len),
            _ => return None,
        }
    }
}

fn has_valid_options(mut options: &[u8]) -> bool {
    while !options.is_empty() {
        let rest = read_u16(options, 2).and_then(|len| options.get(4 + usize::from(len)..));
        match rest {
            Some(rest) => options = rest,
            None => return false,
        }
    }
    true
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests;
