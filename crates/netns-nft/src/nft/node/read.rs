//! Reads the node's table back from the kernel.
//!
//! An element that no ruleset contains makes the whole table a drifted one. The clients of session affinity are the
//! kernel's state and are not read.

use proxy_core::address::Family;
use proxy_core::ruleset::node::{NodeChain, NodeElement, NodeTable};

use crate::error::Error;
use crate::netlink::socket::Socket;
use crate::nft::names::per_family;
use crate::nft::node::decode;
use crate::nft::node::names::{NODE_TABLE, parse_clients, set};
use crate::nft::node::schema;
use crate::nft::node::sets::add_clients;
use crate::nft::read::decode::{RawElement, guests, intervals, is_current};
use crate::nft::read::reader::{ReadError, Reader, ReplySource, unexpected_element};
use crate::nft::read::{Limits, SocketSource};
use crate::nft::schema_check::TableSchema;

/// The state of the node's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeTableState {
    /// There is no table.
    Missing,
    /// A complete table of this layout.
    Intact(NodeTable),
    /// Another layout, or a table that another process changed; with the first difference.
    Drifted(String),
}

impl Socket {
    /// Reads the node's table with all of its elements. This consumes the socket, because replies may be left in it.
    ///
    /// # Errors
    /// If the kernel does not report it, or other processes change it faster than it can be read.
    pub fn read_node_table(self) -> Result<NodeTableState, Error> {
        let source = SocketSource { socket: &self, deadline: None };
        let limits = Limits::default();
        let reader = Reader { source: &source, table: NODE_TABLE, limits: &limits };
        match self.read_consistent(None, || read_state(&reader))? {
            Ok(None) => Ok(NodeTableState::Missing),
            Ok(Some(table)) => Ok(NodeTableState::Intact(table)),
            Err(ReadError::Drifted(why) | ReadError::LimitExceeded(why)) => Ok(NodeTableState::Drifted(why)),
            Err(ReadError::Failed(error)) => Err(error),
        }
    }
}

fn read_state<S: ReplySource>(reader: &Reader<'_, S>) -> Result<Option<NodeTable>, ReadError> {
    let Some(settings) = reader.settings_from(schema::NODE_LAYOUT, schema::settings)? else {
        return Ok(None);
    };
    let found = reader.schema()?;
    let chains = found.chains().filter_map(NodeChain::parse).collect();
    let clients = found.sets().filter_map(parse_clients).collect();
    let mut table = NodeTable { settings: Some(settings), chains, clients, ..NodeTable::default() };
    let desired = TableSchema::written(NODE_TABLE, |desired| {
        schema::add_table(desired, settings);
        table.clients.iter().for_each(|(family, number)| add_clients(desired, *family, *number));
        table.chains.iter().for_each(|chain| schema::add_target_chain(desired, *chain));
    });
    if let Some(mismatch) = found.first_mismatch(&desired) {
        return Err(ReadError::Drifted(mismatch));
    }
    if !is_current(&reader.elements(crate::nft::names::set::CURRENT)?) {
        return Err(unexpected_element(crate::nft::names::set::CURRENT));
    }
    let mut codes = Vec::new();
    reader.read_set(set::PICKS, &mut codes, decode::pick)?;
    reader.read_set(set::CODES, &mut codes, decode::code)?;
    table.elements.extend(codes.into_iter().flatten());
    reader.read_set(set::OWN, &mut table.elements, decode::own)?;
    let interfaces = guests(&reader.elements(set::POD_INTERFACES)?);
    let interfaces = interfaces.ok_or_else(|| unexpected_element(set::POD_INTERFACES))?;
    table.elements.extend(interfaces.iter().copied().map(NodeElement::PodInterface));
    for family in Family::BOTH {
        read_family(reader, &mut table, family)?;
    }
    Ok(Some(table))
}

fn read_family<S: ReplySource>(
    reader: &Reader<'_, S>,
    table: &mut NodeTable,
    family: Family,
) -> Result<(), ReadError> {
    let mut read = |name: &str, decode: &dyn Fn(&RawElement) -> Option<NodeElement>| {
        reader.read_set(&per_family(name, family), &mut table.elements, decode)
    };
    let frontend = |raw: &RawElement| decode::frontend(raw, family);
    let node_port = |raw: &RawElement| decode::node_port(raw, family);
    read(set::SERVICES, &|raw| decode::with_value(frontend(raw)?))?;
    read(set::NODE_PORTS, &|raw| decode::with_value(node_port(raw)?))?;
    read(set::SHORT, &|raw| decode::with_action(frontend(raw)?))?;
    read(set::SHORT_PORTS, &|raw| decode::with_action(node_port(raw)?))?;
    read(set::BACKENDS, &|raw| decode::backend(raw, family))?;
    read(set::IDS, &|raw| decode::id(raw, family))?;
    read(set::SOURCES, &|raw| decode::source(raw, family))?;
    read(set::HAIRPIN, &|raw| decode::hairpin(raw, family))?;
    let address = |raw: &RawElement| decode::plain_address(raw, family);
    read(set::ADDRESSES, &|raw| address(raw).map(NodeElement::Address))?;
    read(set::NODE_ADDRESSES, &|raw| address(raw).map(NodeElement::NodeAddress))?;
    read(set::LOCAL_ENDPOINTS, &|raw| address(raw).map(NodeElement::LocalEndpoint))?;
    for (name, element) in
        [(set::RANGES, NodeElement::Range as fn(_) -> _), (set::PODS, NodeElement::PodRange as fn(_) -> _)]
    {
        let name = per_family(name, family);
        let ranges = intervals(&reader.elements(&name)?, family).ok_or_else(|| unexpected_element(&name))?;
        table.elements.extend(ranges.into_iter().map(element));
    }
    Ok(())
}
