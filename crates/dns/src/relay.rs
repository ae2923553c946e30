//! `Relay`: an upstream's message that was accepted, and its way to the client.
//!
//! Nothing is rebuilt: the client receives the upstream's bytes, with its own id, its own spelling of the question,
//! reduced TTLs, and an OPT record only if its query had one. A response that exceeds the client's UDP size is cut
//! after the last record that fits, with TC set; compression pointers point backwards, so a cut leaves valid names.

use std::ops::Range;
use std::time::Duration;

use crate::message::{AA, HEADER_LEN, OPCODE, QR, RD, Record, RecordType, Records, Section, TC};
use crate::request::{AD, OPT_LEN, Request};

/// The bits of the response code in the fourth byte of a header.
const RCODE: u8 = 0x0f;
const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// What a response states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    /// The name has records of the type.
    Positive,
    /// The name exists, without records of the type.
    NoData,
    NxDomain,
    /// The server returned an error.
    Failure,
}

/// A well-formed message, and what the forwarder needs to know about it.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    pub(crate) message: Vec<u8>,
    pub(crate) kind: AnswerKind,
    /// The time for which it may be cached. None: not at all.
    pub(crate) lifetime: Option<u32>,
    /// The OPT record, if it is the last record.
    opt: Option<Range<usize>>,
}

/// How the TTLs of a response change on the way to the client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Freshness {
    /// The response has just arrived.
    Fresh,
    /// The response was stored for this time.
    Cached(Duration),
    /// The response has expired; all its TTLs are this one.
    Stale(u32),
}

impl Freshness {
    /// Returns the TTL that the client receives for a TTL of the response.
    pub(crate) fn apply(self, ttl: u32) -> u32 {
        match self {
            Self::Fresh => ttl,
            Self::Cached(age) => ttl.saturating_sub(u32::try_from(age.as_secs()).unwrap_or(u32::MAX)),
            Self::Stale(ttl) => ttl,
        }
    }
}

impl Relay {
    /// Checks the structure of a message whose header and question were accepted. None: it is malformed.
    pub(crate) fn new(request: &Request, message: Vec<u8>) -> Option<Self> {
        let (mut opt, mut has_answer, mut ttl_min, mut negative_ttl) = (None, false, u32::MAX, None);
        let mut records = Records::new(&message)?;
        for record in records.by_ref() {
            let record = record?;
            if record.record_type == RecordType::OPT {
                opt = (record.section == Section::Additional).then_some(record.start..record.end);
                continue;
            }
            let data = expand_data(&record)?;
            ttl_min = ttl_min.min(record.ttl_s);
            if record.section == Section::Answer {
                has_answer |= [record.record_type, RecordType::ANY].contains(&request.record_type());
            }
            if record.section == Section::Authority && record.record_type == RecordType::SOA {
                negative_ttl = soa_minimum(&data).map(|minimum| minimum.min(record.ttl_s));
            }
        }
        let end = records.position();
        if end != message.len() {
            return None;
        }
        let opt = opt.filter(|opt: &Range<usize>| opt.end == end);
        let extended_rcode = opt.as_ref().map_or(0, |opt| message[opt.start + 5]);
        let kind = match (message[3] & RCODE, has_answer) {
            _ if extended_rcode != 0 => AnswerKind::Failure,
            (NOERROR, true) => AnswerKind::Positive,
            (NOERROR, false) => AnswerKind::NoData,
            (NXDOMAIN, _) => AnswerKind::NxDomain,
            _ => AnswerKind::Failure,
        };
        let lifetime = match kind {
            _ if message[2] & TC != 0 => None,
            AnswerKind::Positive => Some(ttl_min),
            AnswerKind::NoData | AnswerKind::NxDomain => negative_ttl.map(|ttl: u32| ttl.min(ttl_min)),
            AnswerKind::Failure => (message[3] & RCODE == SERVFAIL && extended_rcode == 0).then_some(1),
        };
        Some(Self { message, kind, lifetime, opt })
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.message[2] & TC != 0
    }

    /// Whether the server could not resolve the question.
    pub(crate) fn is_server_failure(&self) -> bool {
        self.message[3] & RCODE == SERVFAIL
    }

    /// Returns the message without its OPT record. None: that is not possible without a change of other records.
    pub(crate) fn without_opt(&self) -> Option<Vec<u8>> {
        let mut message = self.message.clone();
        match &self.opt {
            Some(opt) => remove_last_record(&mut message, opt),
            None if contains_opt(&message) => return None,
            None => {}
        }
        Some(message)
    }

    /// Writes the response for a client.
    pub(crate) fn relay(&self, request: &Request, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.message);
        let mut own_opt = None;
        if let Some(opt) = &self.opt {
            own_opt = request.has_opt().then(|| &self.message[opt.clone()]);
            remove_last_record(out, opt);
        }
        finish(request, Freshness::Fresh, own_opt, out);
    }
}

/// Writes a stored response, which has no OPT record, for a client.
pub(crate) fn relay_stored(request: &Request, message: &[u8], freshness: Freshness, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(message);
    finish(request, freshness, None, out);
}

/// Patches a response that has no OPT record, cuts it, and appends the OPT record.
fn finish(request: &Request, freshness: Freshness, opt: Option<&[u8]>, out: &mut Vec<u8>) {
    out[..2].copy_from_slice(&request.id.to_be_bytes());
    out[2] = out[2] & !RD | request.flags[0] & RD;
    let question_end = HEADER_LEN + request.question.len();
    out[HEADER_LEN..question_end].copy_from_slice(&request.question);
    if request.flags[1] & AD == 0 && !request.is_dnssec_ok {
        out[3] &= !AD;
    }
    if !matches!(freshness, Freshness::Fresh) {
        out[2] &= !AA;
        age(out, freshness);
    }
    // An OPT record that was not the last one remains in the message.
    let has_opt = request.has_opt() && (opt.is_some() || !contains_opt(out));
    let opt_len = if has_opt { opt.map_or(OPT_LEN, <[u8]>::len) } else { 0 };
    cut(out, question_end, request.bytes_max.saturating_sub(opt_len));
    if has_opt {
        match opt {
            Some(opt) => out.extend_from_slice(opt),
            None => request.append_own_opt(out),
        }
        let count = u16::from_be_bytes([out[10], out[11]]).saturating_add(1);
        out[10..12].copy_from_slice(&count.to_be_bytes());
    }
}

/// Returns the data of a record with names in full. None: they are malformed.
fn expand_data(record: &Record<'_>) -> Option<Vec<u8>> {
    let data = record.data_in_full()?;
    let is_valid = match record.record_type {
        RecordType::A => data.len() == 4,
        RecordType::AAAA => data.len() == 16,
        _ => true,
    };
    is_valid.then_some(data)
}

/// Returns the last field of an SOA record, from its data (RFC 2308, 4).
fn soa_minimum(data: &[u8]) -> Option<u32> {
    data.last_chunk().copied().map(u32::from_be_bytes)
}

fn remove_last_record(message: &mut Vec<u8>, record: &Range<usize>) {
    message.truncate(record.start);
    let count = u16::from_be_bytes([message[10], message[11]]).saturating_sub(1);
    message[10..12].copy_from_slice(&count.to_be_bytes());
}

fn contains_opt(message: &[u8]) -> bool {
    let mut all = Records::new(message).into_iter().flatten().flatten();
    all.any(|record| record.record_type == RecordType::OPT)
}

/// Changes the TTLs of a message.
fn age(message: &mut [u8], freshness: Freshness) {
    let all = Records::new(message).into_iter().flatten().flatten();
    let all = all.filter(|record| record.record_type != RecordType::OPT);
    let ttls: Vec<(usize, u32)> = all.map(|record| (record.ttl_at, record.ttl_s)).collect();
    for (at, ttl) in ttls {
        message[at..at + 4].copy_from_slice(&freshness.apply(ttl).to_be_bytes());
    }
}

/// Removes the records that do not fit. TC is set unless only additional records are removed (RFC 2181, 9).
fn cut(message: &mut Vec<u8>, question_end: usize, bytes_max: usize) {
    if message.len() <= bytes_max {
        return;
    }
    let (mut counts, mut end, mut is_truncated) = ([0_u16; 3], question_end, false);
    for record in Records::new(message).into_iter().flatten().flatten() {
        if record.end > bytes_max {
            is_truncated = record.section != Section::Additional;
            break;
        }
        counts[record.section as usize] += 1;
        end = record.end;
    }
    message.truncate(end);
    for (index, count) in counts.into_iter().enumerate() {
        message[6 + 2 * index..8 + 2 * index].copy_from_slice(&count.to_be_bytes());
    }
    if is_truncated {
        message[2] |= TC;
    }
}

/// Whether a message is a response to a query with this id and question.
pub(crate) fn is_response_to(request: &Request, id: u16, message: &[u8]) -> bool {
    message.len() >= HEADER_LEN
        && message[..2] == id.to_be_bytes()
        && message[2] & (QR | OPCODE) == QR
        && request.is_question_of(message)
}

#[cfg(test)]
mod tests;
