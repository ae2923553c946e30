//! What a network namespace holds, found out and read back.
//!
//! Nothing is guessed: what no ruleset writes makes the table another one, so that an audit sees it and puts
//! the right one in its place. Entries of sticky clients are the kernel's own and are not read.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_core::address::Family;
use proxy_core::pick::Pick;
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::Settings;
use proxy_core::service::Protocol;
use proxy_core::table::Table;

use crate::attribute::{Attributes, Bytes};
use crate::encode::{TABLE, behind, protocol_number};
use crate::error::Error;
use crate::kernel::{
    INET, LIST_ELEMENT, SUBSYSTEM, chain, counter, element, flag, generation, message, rule, set, table,
};
use crate::layout::{LAYOUT, named, settings};
use crate::shape::{Shape, attributes, text};
use crate::socket::Socket;

/// How often all is read again because something changed meanwhile.
const READS_MAX: usize = 10;

/// What stands in a network namespace under the table's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No table.
    Nothing,
    /// A table of this layout, whole.
    Table(Table),
    /// Something else, and what is wrong with it: another layout, or damaged by whoever may write here.
    Other(String),
}

/// Why reading ends early.
enum End {
    Failed(Error),
    Other(String),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// An element as the kernel gives it.
#[derive(Debug, Clone, Default)]
struct Raw {
    key: Vec<u8>,
    key_end: Vec<u8>,
    data: Vec<u8>,
    /// Where a verdict leads.
    chain: String,
    is_end: bool,
    /// How often it was found.
    hits: Option<u64>,
}

impl Socket {
    /// A number that is another one after each transaction in this network namespace, whoever's and whatever
    /// it was about: while it stays the same, nobody has changed a table, a rule or an element.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn generation(&self) -> Result<u32, Error> {
        let mut number = None;
        let asked = self.get(message::GETGEN, |_| {}, |about| number = about.u32(generation::ID));
        let failed = |source| Error::Read { what: "the generation".to_owned(), source };
        asked.map_err(failed)?;
        number.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }

    /// Finds out what stands here, elements and all.
    ///
    /// # Errors
    /// Where the kernel does not tell, or it changes faster than it can be read.
    pub fn find(&self) -> Result<Found, Error> {
        match self.steadily(|| self.look())? {
            Ok(found) => Ok(found),
            Err(End::Other(why)) => Ok(Found::Other(why)),
            Err(End::Failed(error)) => Err(error),
        }
    }

    /// What is read while nobody changes anything.
    fn steadily<T>(&self, read: impl Fn() -> T) -> Result<T, Error> {
        for _ in 0..READS_MAX {
            let generation = self.generation()?;
            let found = read();
            if self.generation()? == generation {
                return Ok(found);
            }
        }
        Err(Error::Read { what: "the table".to_owned(), source: io::ErrorKind::ResourceBusy.into() })
    }

    fn look(&self) -> Result<Found, End> {
        let Some(settings) = self.settings()? else { return Ok(Found::Nothing) };
        let mut shape = Shape::default();
        for (kind, table) in [
            (message::GETSET, set::TABLE),
            (message::GETCHAIN, chain::TABLE),
            (message::GETRULE, rule::TABLE),
        ] {
            let request = request(kind, flag::DUMP, |bytes| bytes.put_text(table, TABLE));
            let asked = self.ask(&request, |answer| shape.take(answer));
            asked.map_err(|source| Error::Read { what: "the sets, chains and rules".to_owned(), source })?;
        }
        let mut table = Table { settings: Some(settings), ..Table::default() };
        for raw in self.elements("picks")? {
            let pick = pick(&raw.key).filter(|pick| pick.to_string() == raw.chain);
            table.picks.insert(pick.ok_or_else(|| strange("picks"))?);
        }
        if let Some(flaw) = shape.flaw(&Shape::new(settings, table.picks.iter().copied())) {
            return Err(End::Other(flaw));
        }
        for family in Family::BOTH {
            self.read_family(&mut table, family)?;
        }
        Ok(Found::Table(table))
    }

    fn read_family(&self, table: &mut Table, family: Family) -> Result<(), End> {
        let set = named("portals", family);
        for raw in self.elements(&set)? {
            let pick = pick(&raw.data);
            let (key, pick) = portal(&raw.key, family).zip(pick).ok_or_else(|| strange(&set))?;
            table.portals.insert(key.0, pick);
        }
        let set = named("backends", family);
        for raw in self.elements(&set)? {
            let key = numbered(&raw.key, family).zip(backend(&raw.data, family));
            let (key, backend) = key.ok_or_else(|| strange(&set))?;
            table.backends.insert(key, backend);
        }
        let set = named("ids", family);
        for raw in self.elements(&set)? {
            let read = || {
                let (key, slot) = numbered(&raw.key, family)?;
                Some(((key, u16::try_from(slot).ok()?), u32::from_ne_bytes(*raw.data.first_chunk()?)))
            };
            let (key, id) = read().ok_or_else(|| strange(&set))?;
            table.ids.insert(key, id);
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

    /// The settings, from the table's comment; none without a table.
    fn settings(&self) -> Result<Option<Settings>, End> {
        let (mut comment, mut flags) = (String::new(), None);
        let asked = self.get(
            message::GETTABLE,
            |bytes| bytes.put_text(table::NAME, TABLE),
            |about| {
                // nft's form of a comment: type, length, text.
                let data = about.find(table::USERDATA).and_then(|data| data.get(2..)).unwrap_or_default();
                comment = String::from_utf8_lossy(data).trim_end_matches('\0').to_owned();
                flags = about.u32(table::FLAGS);
            },
        );
        match asked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| Error::Read { what: "the table".to_owned(), source })?,
        }
        if flags.is_some_and(|flags| flags != 0) {
            return Err(End::Other("the table has flags, and may be asleep".to_owned()));
        }
        let found = settings(&comment);
        found.map(Some).ok_or_else(|| {
            End::Other(format!("the table's comment is {comment:?}, not that of layout {LAYOUT}"))
        })
    }

    fn get(
        &self,
        kind: u16,
        fill: impl FnOnce(&mut Bytes),
        mut take: impl FnMut(Attributes<'_>),
    ) -> io::Result<()> {
        self.ask(&request(kind, flag::ACK, fill), |answer| take(attributes(answer)))
    }

    /// All elements of a set.
    fn elements(&self, name: &str) -> Result<Vec<Raw>, End> {
        let request = request(message::GETSETELEM, flag::DUMP, |bytes| {
            bytes.put_text(element::TABLE, TABLE);
            bytes.put_text(element::SET, name);
        });
        let mut elements = Vec::new();
        let asked = self.ask(&request, |answer| {
            let list = attributes(answer).within(element::ELEMENTS);
            elements.extend(list.filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, raw)| raw_element(raw)));
        });
        match asked {
            Ok(()) => Ok(elements),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(End::Other(format!("set {name:?} is missing")))
            }
            Err(source) => Err(Error::Read { what: name.to_owned(), source }.into()),
        }
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
        chain: text(attributes.within(element::DATA).within(element::VERDICT), element::VERDICT_CHAIN),
        is_end: attributes.u32(element::FLAGS).is_some_and(|flags| flags & element::INTERVAL_END != 0),
        hits: attributes.within(element::EXPRESSION).within(rule::EXPRESSION_DATA).u64(counter::PACKETS),
    }
}

fn strange(set: &str) -> End {
    End::Other(format!("set {set:?} holds what no ruleset writes"))
}

fn pick(bytes: &[u8]) -> Option<Pick> {
    Pick::from_code(u32::from_be_bytes(*bytes.first_chunk()?))
}

/// An address, and what is behind it.
pub(crate) fn address(bytes: &[u8], family: Family) -> Option<(IpAddr, &[u8])> {
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

/// Address, protocol and port, and the number behind them.
fn numbered(bytes: &[u8], family: Family) -> Option<(PortalKey, u32)> {
    let (key, number) = portal(bytes, family)?;
    Some((key, u32::from_ne_bytes(*number.first_chunk()?)))
}

/// The address and port of a backend.
fn backend(bytes: &[u8], family: Family) -> Option<SocketAddr> {
    let (address, port) = address(bytes, family)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(*port.first_chunk()?)))
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

mod count;

pub use count::Counted;
