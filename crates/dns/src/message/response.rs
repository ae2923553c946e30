//! `Response`: writes the response to a query into a buffer, within the size that the client accepts.
//!
//! Records are written completely or not at all. If an answer or authority record does not fit, the bit TC is set, and
//! later records are omitted too; additional records are optional. Owner names are compressed: most owners are the
//! name of the question, which is always at the same position. The response has an OPT record if the query has one.

use super::name::Name;
use super::query::{AA, CD, HEADER_LEN, OPCODE, QR, Query, RA, RD, Rcode, TC};
use super::record_type::{RecordType, class};

/// The UDP size that Portico accepts from clients and upstreams (DNS flag day 2020).
pub(crate) const UDP_BYTES_ACCEPTED: u16 = 1_232;
/// The length of an OPT record without options.
const OPT_LEN: usize = 11;
/// The first position that a compression pointer cannot express.
const POINTER_END: usize = 0x4000;

/// A section of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// The records that the question asks for.
    Answer,
    /// The SOA record of a negative response.
    Authority,
    /// Records that the client is likely to need.
    Additional,
}

/// The owner name of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// The name that is already in the message at this position.
    At(usize),
    /// A label below the name at a position.
    Below {
        /// The label.
        label: &'a [u8],
        /// The position of the name.
        position: usize,
    },
    /// A name that is written in full.
    Name(&'a Name),
}

impl Owner<'_> {
    /// Whether a compression pointer can refer to this position.
    pub(crate) fn is_position(position: usize) -> bool {
        position < POINTER_END
    }
}

/// A response that is being written.
pub(crate) struct Response<'a> {
    out: &'a mut Vec<u8>,
    bytes_max: usize,
    counts: [u16; 3],
    is_truncated: bool,
    opt: Option<OptRecord>,
}

#[derive(Clone, Copy)]
struct OptRecord {
    extended_rcode: u8,
    is_dnssec_ok: bool,
}

impl<'a> Response<'a> {
    /// Starts a response of at most `bytes_max` bytes: clears `out`, and writes the header and the question.
    pub(crate) fn new(query: &Query<'_>, rcode: Rcode, bytes_max: usize, out: &'a mut Vec<u8>) -> Self {
        let opt = query
            .edns
            .map(|edns| OptRecord { extended_rcode: rcode as u8 >> 4, is_dnssec_ok: edns.is_dnssec_ok });
        out.clear();
        out.extend_from_slice(query.header_and_question());
        out[2] = QR | (out[2] & RD);
        out[3] = RA | (out[3] & CD) | (rcode as u8 & 0x0f);
        let bytes_max = bytes_max - if opt.is_some() { OPT_LEN } else { 0 };
        Self { out, bytes_max, counts: [0; 3], is_truncated: false, opt }
    }

    /// Sets the bit AA: the response is from the zone.
    pub(crate) fn authoritative(mut self) -> Self {
        self.set_flag(AA);
        self
    }

    fn set_flag(&mut self, flag: u8) {
        self.out[2] |= flag;
    }

    /// States that records are missing, which the client must ask for over TCP.
    pub(crate) fn set_truncated(&mut self) {
        self.is_truncated = true;
    }

    /// Replaces the response code by one without extended bits.
    pub(crate) fn set_rcode(&mut self, rcode: Rcode) {
        self.out[3] = self.out[3] & 0xf0 | rcode as u8 & 0x0f;
    }

    /// Returns the position of the next record.
    pub(crate) fn position(&self) -> usize {
        self.out.len()
    }

    /// Whether a record was omitted that the client must ask for over TCP.
    pub(crate) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Appends a record whose data `write_data` appends. Returns false if the record does not fit.
    pub(crate) fn push(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        record_type: RecordType,
        ttl: u32,
        write_data: impl FnOnce(&mut RecordData<'_>),
    ) -> bool {
        if self.is_truncated {
            return false;
        }
        let start = self.out.len();
        self.write_owner(owner);
        self.out.extend_from_slice(&record_type.0.to_be_bytes());
        self.out.extend_from_slice(&class::IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&[0, 0]);
        let data_start = self.out.len();
        write_data(&mut RecordData { out: self.out });
        let data_len = u16::try_from(self.out.len() - data_start);
        let count = self.counts[section as usize].checked_add(1);
        let (Ok(data_len), Some(count), true) = (data_len, count, self.out.len() <= self.bytes_max) else {
            self.out.truncate(start);
            self.is_truncated = section != Section::Additional;
            return false;
        };
        self.out[data_start - 2..data_start].copy_from_slice(&data_len.to_be_bytes());
        self.counts[section as usize] = count;
        true
    }

    /// Appends a record whose data are these bytes.
    pub(crate) fn push_bytes(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        record_type: RecordType,
        ttl: u32,
        data: &[u8],
    ) -> bool {
        self.push(section, owner, record_type, ttl, |out| out.bytes(data))
    }

    fn write_owner(&mut self, owner: Owner<'_>) {
        let mut out = RecordData { out: self.out };
        match owner {
            Owner::At(position) => out.pointer(position),
            Owner::Below { label, position } => {
                out.label(label);
                out.pointer(position);
            }
            Owner::Name(name) => out.bytes(name.as_bytes()),
        }
    }

    /// Completes the response: writes the counts, the bit TC and the OPT record.
    pub(crate) fn finish(mut self) {
        if self.is_truncated {
            self.set_flag(TC);
        }
        if let Some(opt) = self.opt {
            let [size_high, size_low] = UDP_BYTES_ACCEPTED.to_be_bytes();
            let flags = if opt.is_dnssec_ok { 0x80 } else { 0 };
            self.out.extend_from_slice(&[
                0,
                0,
                41,
                size_high,
                size_low,
                opt.extended_rcode,
                0,
                flags,
                0,
                0,
                0,
            ]);
            self.counts[2] = self.counts[2].saturating_add(1);
        }
        for (index, count) in self.counts.iter().enumerate() {
            self.out[6 + 2 * index..8 + 2 * index].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// The data of a record that is being written.
pub(crate) struct RecordData<'a> {
    out: &'a mut Vec<u8>,
}

impl RecordData<'_> {
    /// Appends bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends a number of 16 bits.
    pub(crate) fn u16(&mut self, number: u16) {
        self.bytes(&number.to_be_bytes());
    }

    /// Appends a number of 32 bits.
    pub(crate) fn u32(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    /// Appends a label of at most 63 bytes.
    pub(crate) fn label(&mut self, label: &[u8]) {
        self.out.push(u8::try_from(label.len()).unwrap_or(0) & 0x3f);
        self.bytes(label);
    }

    /// Appends a compression pointer to a position below `POINTER_END`.
    pub(crate) fn pointer(&mut self, position: usize) {
        debug_assert!(Owner::is_position(position), "a pointer cannot express {position}");
        self.u16(0xc000 | u16::try_from(position & (POINTER_END - 1)).unwrap_or(0));
    }
}

/// Writes a response without records.
pub fn write_error(query: &Query<'_>, rcode: Rcode, out: &mut Vec<u8>) {
    Response::new(query, rcode, usize::MAX, out).finish();
}

/// Writes the response to a message that is not a query: a header without a question. The message must be at least
/// as long as a header; `Query::parse` reports shorter ones as `Malformed::Unanswerable`.
pub fn write_rejection(message: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    out.clear();
    if let Some(&[id_high, id_low, flags, checking, ..]) = message.get(..HEADER_LEN) {
        let rcode = rcode as u8 & 0x0f;
        out.extend_from_slice(&[id_high, id_low, QR | flags & (OPCODE | RD), RA | checking & CD | rcode]);
        out.extend_from_slice(&[0; HEADER_LEN - 4]);
    }
}

/// Returns the response code in the header of a message. None: the message is not a response.
pub(crate) fn response_code(message: &[u8]) -> Option<u8> {
    message.get(..HEADER_LEN).filter(|header| header[2] & QR != 0).map(|header| header[3] & 0x0f)
}
