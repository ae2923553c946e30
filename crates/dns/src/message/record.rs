//! `Records`: reads the records of a response, with compressed names.
//!
//! A compression pointer must refer to an earlier position than the name that contains it, so a name of a hostile
//! message is read in a bounded number of steps.

use super::name::Name;
use super::query::{HEADER_LEN, read_u16};
use super::record_type::{RecordType, class};
use super::response::Section;

/// A record of a message.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) section: Section,
    pub(crate) owner: Name,
    pub(crate) record_type: RecordType,
    pub(crate) ttl_s: u32,
    /// The position of the TTL.
    pub(crate) ttl_at: usize,
    /// The position of the record.
    pub(crate) start: usize,
    /// The position after the record.
    pub(crate) end: usize,
    class: u16,
    message: &'a [u8],
    data_start: usize,
}

impl Record<'_> {
    /// Whether the class is IN.
    pub(crate) fn is_internet(&self) -> bool {
        self.class == class::IN
    }

    /// Returns the data with all names in full. None: the data are malformed.
    pub(crate) fn data_in_full(&self) -> Option<Vec<u8>> {
        let (head_len, names, tail_len) = match self.record_type {
            RecordType::CNAME | RecordType::NS | RecordType::PTR | RecordType::DNAME => (0, 1, 0),
            RecordType::MX => (2, 1, 0),
            RecordType::SRV => (6, 1, 0),
            RecordType::SOA => (0, 2, 20),
            _ => return self.message.get(self.data_start..self.end).map(<[u8]>::to_vec),
        };
        let mut at = self.data_start + head_len;
        let mut data = self.message.get(self.data_start..at)?.to_vec();
        for _ in 0..names {
            let (name, end) = read_name(self.message, at)?;
            data.extend_from_slice(name.as_bytes());
            at = end;
        }
        data.extend_from_slice(self.message.get(at..at + tail_len)?);
        (at + tail_len == self.end).then_some(data)
    }
}

/// The records of a message with one question. The iterator ends after `None`, which stands for a malformed record.
pub(crate) struct Records<'a> {
    message: &'a [u8],
    at: usize,
    counts: [u16; 3],
    section: Section,
}

impl<'a> Records<'a> {
    /// Returns the records of a message. None: the header or the question is malformed.
    pub(crate) fn new(message: &'a [u8]) -> Option<Self> {
        let count = |at| read_u16(message, at);
        let counts = [count(6)?, count(8)?, count(10)?];
        let (_, name_len) = Name::read(message.get(HEADER_LEN..)?)?;
        let at = HEADER_LEN + name_len + 4;
        (count(4)? == 1 && at <= message.len()).then_some(Self {
            message,
            at,
            counts,
            section: Section::Answer,
        })
    }

    /// Returns the position after the last record that was read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn read(&mut self) -> Option<Record<'a>> {
        let start = self.at;
        let (owner, fixed_at) = read_name(self.message, start)?;
        let field = |at: usize| read_u16(self.message, fixed_at + at);
        let ttl_s = u32::from(field(4)?) << 16 | u32::from(field(6)?);
        let data_start = fixed_at + 10;
        let end = data_start + usize::from(field(8)?);
        if end > self.message.len() {
            return None;
        }
        self.at = end;
        Some(Record {
            section: self.section,
            owner,
            record_type: RecordType(field(0)?),
            // RFC 2181, 8: a TTL with the highest bit set is 0.
            ttl_s: if ttl_s > u32::MAX / 2 { 0 } else { ttl_s },
            ttl_at: fixed_at + 4,
            start,
            end,
            class: field(2)?,
            message: self.message,
            data_start,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.counts[self.section as usize] == 0 {
            self.section = match self.section {
                Section::Answer => Section::Authority,
                Section::Authority => Section::Additional,
                Section::Additional => return None,
            };
        }
        self.counts[self.section as usize] -= 1;
        let record = self.read();
        if record.is_none() {
            self.counts = [0; 3];
        }
        Some(record)
    }
}

/// Reads the name at a position, and returns it and the position after it.
pub(crate) fn read_name(message: &[u8], start: usize) -> Option<(Name, usize)> {
    let mut name = Name::ROOT;
    let (mut at, mut name_start, mut end) = (start, start, None);
    loop {
        match *message.get(at)? {
            0 => return Some((name, end.unwrap_or(at + 1))),
            len if len >= 0xc0 => {
                end.get_or_insert(at + 2);
                at = usize::from(read_u16(message, at)? & 0x3fff);
                if at >= name_start {
                    return None;
                }
                name_start = at;
            }
            len => {
                let label = message.get(at + 1..at + 1 + usize::from(len))?;
                name.push_label(label)?;
                at += 1 + label.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(counts: [u8; 3], records: &[u8]) -> Vec<u8> {
        let [answers, authority, additional] = counts;
        let header = [0, 0, 0x80, 0, 0, 1, 0, answers, 0, authority, 0, additional];
        [&header, b"\x01a\x02Io\0\0\x01\0\x01".as_slice(), records].concat()
    }

    #[test]
    fn compressed_names_are_read_in_full() {
        let bytes = message(
            [1, 0, 1],
            b"\xc0\x0c\0\x05\0\x01\0\0\0\x09\0\x04\x01b\xc0\x0e\xc0\x0e\0\x01\0\x01\xff\0\0\0\0\0",
        );
        let records: Vec<Record<'_>> = Records::new(&bytes).unwrap().map(Option::unwrap).collect();
        assert_eq!((&records[0].owner, records[0].ttl_s), (&Name::parse("a.io").unwrap(), 9));
        assert_eq!(records[0].data_in_full().unwrap(), b"\x01b\x02io\0");
        assert_eq!((&records[1].owner, records[1].ttl_s), (&Name::parse("io").unwrap(), 0));
        assert_eq!((records[0].section, records[1].section), (Section::Answer, Section::Additional));
    }

    #[test]
    fn pointers_that_do_not_point_backwards_are_malformed() {
        for pointer in [b"\xc0\x16", b"\xc0\x17", b"\xff\xff"] {
            let bytes = message([1, 0, 0], &[pointer.as_slice(), b"\0\x01\0\x01\0\0\0\0\0\0"].concat());
            assert!(Records::new(&bytes).unwrap().next().unwrap().is_none());
        }
    }

    #[test]
    fn malformed_record_is_the_last_one() {
        let bytes = message([9, 9, 9], b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x05\x01");
        assert_eq!(Records::new(&bytes).unwrap().count(), 1);
    }
}
