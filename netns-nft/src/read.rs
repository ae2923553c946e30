//! What a network namespace holds, read back as a `Table`.
//!
//! Nothing is guessed: an element that no ruleset writes is an error, so that an audit sees it. Entries of
//! sticky clients are the kernel's own and are not read.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_core::address::Family;
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::{Pick, Settings};
use proxy_core::service::Protocol;
use proxy_core::table::Table;

use crate::attribute::{Attributes, Bytes};
use crate::encode::{TABLE, behind, protocol_number};
use crate::error::Error;
use crate::kernel::{INET, LIST_ELEMENT, SUBSYSTEM, chain, element, flag, message, table};
use crate::layout::{comment, named};
use crate::socket::Socket;

/// How often a set is read again because it changed meanwhile.
const READS_MAX: usize = 10;
/// The length of nf_tables' own header.
const OWN_HEADER_BYTES: usize = 4;

/// An element as the kernel gives it.
#[derive(Debug, Clone, Default)]
struct Raw {
    key: Vec<u8>,
    key_end: Vec<u8>,
    data: Vec<u8>,
    is_end: bool,
}

impl Socket {
    /// Reads back what the table holds; an empty one where there is none.
    ///
    /// # Errors
    /// Where the kernel does not tell, or holds what no ruleset writes.
    pub fn read(&self) -> Result<Table, Error> {
        let Some(settings) = self.settings()? else { return Ok(Table::default()) };
        let mut table = Table { settings: Some(settings), ..Table::default() };
        for raw in self.elements("picks")? {
            table.picks.insert(pick(&raw.key).ok_or_else(|| strange("picks"))?);
        }
        for family in Family::BOTH {
            self.read_family(&mut table, family)?;
        }
        Ok(table)
    }

    fn read_family(&self, table: &mut Table, family: Family) -> Result<(), Error> {
        let set = named("portals", family);
        for raw in self.elements(&set)? {
            let pick = pick(&raw.data);
            let (key, pick) = portal(&raw.key, family).zip(pick).ok_or_else(|| strange(&set))?;
            table.portals.insert(key.0, pick);
        }
        let set = named("backends", family);
        for raw in self.elements(&set)? {
            let read = || {
                let (key, rest) = portal(&raw.key, family)?;
                let slot = u16::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
                let (address, port) = address(&raw.data, family)?;
                let port = u16::from_be_bytes(*port.first_chunk()?);
                Some(((key, slot), SocketAddr::new(address, port)))
            };
            let (key, backend) = read().ok_or_else(|| strange(&set))?;
            table.backends.insert(key, backend);
        }
        let set = named("addresses", family);
        for raw in self.elements(&set)? {
            table.addresses.insert(address(&raw.key, family).ok_or_else(|| strange(&set))?.0);
        }
        let set = named("sources", family);
        for raw in self.elements(&set)? {
            let read = || {
                let ((key, from), (_, to)) = portal(&raw.key, family).zip(portal(&raw.key_end, family))?;
                Some((key, net(address(from, family)?.0, address(to, family)?.0)?))
            };
            table.sources.insert(read().ok_or_else(|| strange(&set))?);
        }
        let set = named("ranges", family);
        table.ranges.extend(intervals(&self.elements(&set)?, family).ok_or_else(|| strange(&set))?);
        Ok(())
    }

    /// The settings, from the table's comment and the priority of its chain; none without a table.
    fn settings(&self) -> Result<Option<Settings>, Error> {
        let mut text = String::new();
        let asked = self.get(
            message::GETTABLE,
            |bytes| bytes.put_text(table::NAME, TABLE),
            |attributes| {
                let data = attributes.find(table::USERDATA).unwrap_or_default();
                let data = data.get(2..).unwrap_or_default();
                text = String::from_utf8_lossy(data).trim_end_matches('\0').to_owned();
            },
        );
        match asked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| Error::Read { what: "the table".to_owned(), source })?,
        }
        let mut priority = None;
        let name = |bytes: &mut Bytes| {
            bytes.put_text(chain::TABLE, TABLE);
            bytes.put_text(chain::NAME, "output");
        };
        self.get(message::GETCHAIN, name, |attributes| {
            priority = attributes.within(chain::HOOK).u32(chain::HOOK_PRIORITY).map(u32::cast_signed);
        })
        .map_err(|source| Error::Read { what: "the chain output".to_owned(), source })?;
        let relay_port = text.rsplit_once(' ').and_then(|(_, port)| port.parse().ok());
        let settings = priority.zip(relay_port);
        let settings = settings.map(|(nat_priority, relay_port)| Settings { nat_priority, relay_port });
        // The comment carries the layout's version; another one is another table.
        match settings.filter(|settings| comment(*settings) == text) {
            Some(settings) => Ok(Some(settings)),
            None => Err(strange("the table's comment")),
        }
    }

    fn get(
        &self,
        kind: u16,
        fill: impl FnOnce(&mut Bytes),
        mut take: impl FnMut(Attributes<'_>),
    ) -> io::Result<()> {
        let request = request(kind, flag::ACK, fill);
        self.ask(&request, |answer| take(Attributes(answer.body.get(OWN_HEADER_BYTES..).unwrap_or_default())))
            .map(|_| ())
    }

    /// All elements of a set, read in one piece.
    fn elements(&self, name: &str) -> Result<Vec<Raw>, Error> {
        let request = request(message::GETSETELEM, flag::DUMP, |bytes| {
            bytes.put_text(element::TABLE, TABLE);
            bytes.put_text(element::SET, name);
        });
        for _ in 0..READS_MAX {
            let mut elements = Vec::new();
            let interrupted = self.ask(&request, |answer| {
                let body = Attributes(answer.body.get(OWN_HEADER_BYTES..).unwrap_or_default());
                let list = body.within(element::ELEMENTS);
                elements
                    .extend(list.filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, raw)| raw_element(raw)));
            });
            if !interrupted.map_err(|source| Error::Read { what: name.to_owned(), source })? {
                return Ok(elements);
            }
        }
        Err(Error::Read { what: name.to_owned(), source: io::ErrorKind::ResourceBusy.into() })
    }
}

fn request(kind: u16, flags: u16, fill: impl FnOnce(&mut Bytes)) -> Vec<u8> {
    let mut bytes = Bytes::default();
    let open = bytes.open_message(SUBSYSTEM << 8 | kind, flag::REQUEST | flags, 0, INET, 0);
    fill(&mut bytes);
    bytes.close_message(&open);
    bytes.0
}

fn raw_element(bytes: &[u8]) -> Raw {
    let attributes = Attributes(bytes);
    let value = |kind| attributes.within(kind).find(element::VALUE).unwrap_or_default().to_vec();
    Raw {
        key: value(element::KEY),
        key_end: value(element::KEY_END),
        data: value(element::DATA),
        is_end: attributes.u32(element::FLAGS).is_some_and(|flags| flags & element::INTERVAL_END != 0),
    }
}

fn strange(what: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, "it holds what no ruleset writes");
    Error::Read { what: what.to_owned(), source }
}

fn pick(bytes: &[u8]) -> Option<Pick> {
    Pick::from_code(u32::from_be_bytes(*bytes.first_chunk()?))
}

/// An address, and what is behind it.
fn address(bytes: &[u8], family: Family) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => bytes.split_first_chunk::<4>().map(|(octets, rest)| (IpAddr::from(*octets), rest)),
        Family::V6 => bytes.split_first_chunk::<16>().map(|(octets, rest)| (IpAddr::from(*octets), rest)),
    }
}

/// Address, protocol and port, and what is behind them.
fn portal(bytes: &[u8], family: Family) -> Option<(PortalKey, &[u8])> {
    let (address, rest) = address(bytes, family)?;
    let (words, rest) = rest.split_first_chunk::<8>()?;
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol_number(*protocol) == words[0])?;
    let port = u16::from_be_bytes([words[4], words[5]]);
    Some((PortalKey { address, protocol, port }, rest))
}

/// The network that goes from one address to another.
fn net(from: IpAddr, to: IpAddr) -> Option<IpNet> {
    let longest = if from.is_ipv4() { 32 } else { 128 };
    let mut nets = (0..=longest).filter_map(|length| IpNet::new(from, length).ok());
    nets.find(|net| net.network() == from && net.broadcast() == to)
}

/// The networks of an interval set: where one begins and where the next address behind it stands.
fn intervals(elements: &[Raw], family: Family) -> Option<Vec<IpNet>> {
    let mut starts: Vec<IpAddr> = Vec::new();
    let mut ends: BTreeSet<IpAddr> = BTreeSet::new();
    for raw in elements {
        let (address, _) = address(&raw.key, family)?;
        if raw.is_end {
            ends.insert(address);
        } else {
            starts.push(address);
        }
    }
    let longest = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let net_from = |start: &IpAddr| {
        let end = ends.range(start..).copied().find(|end| end > start);
        let mut nets = (0..=longest).filter_map(|length| IpNet::new(*start, length).ok());
        nets.find(|net| net.network() == *start && behind(net) == end)
    };
    starts.iter().map(net_from).collect()
}
