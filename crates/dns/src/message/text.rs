//! The text form of records, as in zone files: `web.default.svc.cluster.local. 5 IN A 10.96.0.1`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::name::Name;
use super::query::read_u16;
use super::record::Record;
use super::record_type::RecordType;

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} IN {} ", self.owner, self.ttl_s, self.record_type)?;
        let data = self.data_in_full().unwrap_or_default();
        match known_form(self.record_type, &data) {
            Some(text) => f.write_str(&text),
            None => write_unknown(f, &data),
        }
    }
}

/// Returns the data of a known type as text. None: the type is unknown, or the data are malformed.
fn known_form(record_type: RecordType, data: &[u8]) -> Option<String> {
    let name_at = |at: usize| Name::read(data.get(at..)?);
    let number_at = |at: usize| Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?));
    Some(match record_type {
        RecordType::A => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
        RecordType::AAAA => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
        RecordType::CNAME | RecordType::NS | RecordType::PTR | RecordType::DNAME => name_at(0)?.0.to_string(),
        RecordType::MX => format!("{} {}", read_u16(data, 0)?, name_at(2)?.0),
        RecordType::SRV => {
            let [priority, weight, port] = [read_u16(data, 0)?, read_u16(data, 2)?, read_u16(data, 4)?];
            format!("{priority} {weight} {port} {}", name_at(6)?.0)
        }
        RecordType::SOA => {
            let (server, server_len) = name_at(0)?;
            let (mailbox, mailbox_len) = name_at(server_len)?;
            let at = server_len + mailbox_len;
            let numbers: Option<Vec<u32>> = (0..5).map(|number| number_at(at + 4 * number)).collect();
            let numbers: Vec<String> = numbers?.iter().map(u32::to_string).collect();
            format!("{server} {mailbox} {}", numbers.join(" "))
        }
        RecordType::TXT | RecordType::HINFO => texts(data)?,
        _ => return None,
    })
}

/// Returns character strings in quotes.
fn texts(mut data: &[u8]) -> Option<String> {
    let mut quoted = Vec::new();
    while let Some((len, rest)) = data.split_first() {
        let (text, tail) = rest.split_at_checked(usize::from(*len))?;
        quoted.push(format!("\"{}\"", text.escape_ascii()));
        data = tail;
    }
    Some(quoted.join(" "))
}

/// Writes data of an unknown type (RFC 3597, 5).
fn write_unknown(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    write!(f, "\\# {}", data.len())?;
    if !data.is_empty() {
        f.write_str(" ")?;
    }
    data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
