//! `Reader`: requests the parts of the table and assembles the replies.
//!
//! The replies come from a `ReplySource`: the kernel, or recorded bytes.

use std::io;
use std::ops::ControlFlow;

use proxy_core::address::Family;
use proxy_core::kernel_model::Table;
use proxy_core::ruleset::Settings;

use crate::error::Error;
use crate::netlink::attributes::{Attributes, MessageBuffer, nfgenmsg};
use crate::netlink::socket::Message;
use crate::netlink::uapi::*;
use crate::nft::names::{per_family, set};
use crate::nft::read::decode::{self, RawElement};
use crate::nft::read::limits::{Limits, MESSAGES_MAX};
use crate::nft::schema::{LAYOUT, settings};
use crate::nft::schema_check::TableSchema;

/// Handles a message; `Break` ends the request.
pub(crate) type Handler<'a> = &'a mut dyn FnMut(&Message<'_>) -> ControlFlow<()>;

/// The state of Portico's table in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableState {
    /// There is no table.
    Missing,
    /// A complete table of this layout.
    Intact(Table),
    /// Another layout, or a table that another process changed; with the first difference.
    Drifted(String),
}

/// Why the table, or a part of it, cannot be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Failed(Error),
    /// The table has another layout or was changed; with the first difference.
    Drifted(String),
    /// The table exceeds a limit, and the rest was not read.
    LimitExceeded(String),
}

impl ReadError {
    /// A table that has drifted, or exceeds a limit, is a result of reading, not an error.
    pub(crate) fn into_state(self) -> Result<TableState, Error> {
        match self {
            Self::Drifted(why) | Self::LimitExceeded(why) => Ok(TableState::Drifted(why)),
            Self::Failed(error) => Err(error),
        }
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The source of replies.
pub(crate) trait ReplySource {
    /// Passes each reply to `handle`, until the last one or until `handle` returns `Break`. After `Break` the source
    /// cannot be used again.
    fn request(&self, request: &[u8], handle: Handler<'_>) -> io::Result<()>;
}

/// Reads a table of one network namespace.
#[derive(Debug)]
pub(crate) struct Reader<'a, S> {
    pub(crate) source: &'a S,
    /// The name of the table.
    pub(crate) table: &'static str,
    pub(crate) limits: &'a Limits,
}

impl<S: ReplySource> Reader<'_, S> {
    /// Reads the whole table.
    pub(crate) fn read_state(&self) -> Result<TableState, ReadError> {
        let Some(settings) = self.settings()? else { return Ok(TableState::Missing) };
        let schema = self.schema()?;
        let mut table = Table { settings: Some(settings), ..Table::default() };
        self.read_set(set::DISPATCH, &mut table.dispatch_keys, |raw| {
            decode::dispatch_key(&raw.key).filter(|dispatch| dispatch.to_string() == raw.chain)
        })?;
        let desired = TableSchema::new(settings, table.dispatch_keys.iter().copied());
        if let Some(mismatch) = schema.first_mismatch(&desired) {
            return Err(ReadError::Drifted(mismatch));
        }
        if !decode::is_current(&self.elements(set::CURRENT)?) {
            return Err(unexpected_element(set::CURRENT));
        }
        for family in Family::BOTH {
            self.read_family(&mut table, family)?;
        }
        let guests = decode::guests(&self.elements(set::GUESTS)?);
        table.guests = guests.ok_or_else(|| unexpected_element(set::GUESTS))?;
        Ok(TableState::Intact(table))
    }

    /// Lists the sets, chains and rules.
    pub(crate) fn schema(&self) -> Result<TableSchema, ReadError> {
        const WHAT: &str = "sets, chains and rules";
        let mut schema = TableSchema::default();
        for (kind, table) in [
            (NFT_MSG_GETSET, NFTA_SET_TABLE),
            (NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE),
            (NFT_MSG_GETRULE, NFTA_RULE_TABLE),
        ] {
            let request = request(kind, NLM_F_DUMP, |buffer| buffer.put_string(table, self.table));
            let (mut messages, mut is_exceeded) = (0, false);
            let result = self.source.request(&request, &mut |message| {
                schema.insert(self.table, message);
                messages += 1;
                is_exceeded = schema.counts().iter().zip(self.limits.parts).any(|(count, max)| *count > max);
                if is_exceeded || messages > MESSAGES_MAX {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            result.map_err(|source| failed_to_read(WHAT, source))?;
            if is_exceeded {
                let [sets, chains, rules] = self.limits.parts;
                return Err(ReadError::LimitExceeded(format!(
                    "the table contains more than the {sets} sets, {chains} chains and {rules} rules of the ruleset"
                )));
            }
            if messages > MESSAGES_MAX {
                let why = format!("more than {MESSAGES_MAX} messages");
                return Err(failed_to_read(WHAT, io::Error::new(io::ErrorKind::ResourceBusy, why)).into());
            }
        }
        Ok(schema)
    }

    fn read_family(&self, table: &mut Table, family: Family) -> Result<(), ReadError> {
        let named = |set| per_family(set, family);
        self.read_set(&named(set::PORTALS), &mut table.portals, |raw| decode::portal_entry(raw, family))?;
        self.read_set(&named(set::BACKENDS), &mut table.backends, |raw| decode::backend_entry(raw, family))?;
        self.read_set(&named(set::IDS), &mut table.ids, |raw| decode::id_entry(raw, family))?;
        self.read_set(&named(set::ADDRESSES), &mut table.addresses, |raw| {
            decode::address(&raw.key, family).map(|(address, _)| address)
        })?;
        self.read_set(&named(set::SOURCES), &mut table.sources, |raw| decode::source_entry(raw, family))?;
        let ranges = named(set::RANGES);
        let intervals = decode::intervals(&self.elements(&ranges)?, family);
        table.ranges.extend(intervals.ok_or_else(|| unexpected_element(&ranges))?);
        Ok(())
    }

    /// Reads the elements of a set into a collection. An element that `decode` rejects is drift.
    pub(crate) fn read_set<T>(
        &self,
        set: &str,
        target: &mut impl Extend<T>,
        decode: impl Fn(&RawElement) -> Option<T>,
    ) -> Result<(), ReadError> {
        for raw in self.elements(set)? {
            target.extend([decode(&raw).ok_or_else(|| unexpected_element(set))?]);
        }
        Ok(())
    }

    /// The settings, from the table's comment; none if there is no table.
    pub(crate) fn settings(&self) -> Result<Option<Settings>, ReadError> {
        self.settings_from(LAYOUT, settings)
    }

    /// The settings that `parse` returns for the table's comment; none if there is no table.
    pub(crate) fn settings_from<T>(
        &self,
        layout: u32,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ReadError> {
        let (mut comment, mut flags) = (String::new(), None);
        let request =
            request(NFT_MSG_GETTABLE, NLM_F_ACK, |buffer| buffer.put_string(NFTA_TABLE_NAME, self.table));
        let result = self.source.request(&request, &mut |message| {
            let attributes = Attributes::of_netfilter(message.body);
            // nft's form of a comment: type, length, text.
            let data =
                attributes.find(NFTA_TABLE_USERDATA).and_then(|data| data.get(2..)).unwrap_or_default();
            comment = String::from_utf8_lossy(data).trim_end_matches('\0').to_owned();
            flags = attributes.u32(NFTA_TABLE_FLAGS);
            ControlFlow::Continue(())
        });
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| failed_to_read("the table", source))?,
        }
        if flags.is_some_and(|flags| flags != 0) {
            return Err(ReadError::Drifted("the table has flags, such as dormant".to_owned()));
        }
        parse(&comment).map(Some).ok_or_else(|| {
            ReadError::Drifted(format!("the table's comment is {comment:?}, not that of layout {layout}"))
        })
    }

    /// Lists the elements of a set, up to the limit.
    pub(crate) fn elements(&self, set: &str) -> Result<Vec<RawElement>, ReadError> {
        let request = request(NFT_MSG_GETSETELEM, NLM_F_DUMP, |buffer| {
            buffer.put_string(NFTA_SET_ELEM_LIST_TABLE, self.table);
            buffer.put_string(NFTA_SET_ELEM_LIST_SET, set);
        });
        let (max, mut elements) = (self.limits.of_set(set), Vec::new());
        let result = self.source.request(&request, &mut |message| {
            let list = Attributes::of_netfilter(message.body).nested(NFTA_SET_ELEM_LIST_ELEMENTS);
            let list = list.filter(|(kind, _)| *kind == NFTA_LIST_ELEM);
            // One more than the limit suffices to detect that it is exceeded.
            let room = (max + 1).saturating_sub(elements.len());
            elements.extend(list.take(room).map(|(_, element)| decode::raw_element(element)));
            if elements.len() > max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match result {
            Ok(()) if elements.len() > max => Err(ReadError::LimitExceeded(format!(
                "set {set:?} contains more than the {max} elements of the ruleset"
            ))),
            Ok(()) => Ok(elements),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ReadError::Drifted(format!("set {set:?} is missing")))
            }
            Err(source) => Err(failed_to_read(set, source).into()),
        }
    }
}

/// Encodes a request to nf_tables.
pub(crate) fn request(kind: u16, flags: u16, fill: impl FnOnce(&mut MessageBuffer)) -> Vec<u8> {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
    MessageBuffer::message(kind, NLM_F_REQUEST | flags, &nfgenmsg(NFPROTO_INET, 0), fill)
}

pub(crate) fn failed_to_read(what: &str, source: io::Error) -> Error {
    Error::Read { what: what.to_owned(), source }
}

pub(crate) fn unexpected_element(set: &str) -> ReadError {
    ReadError::Drifted(format!("set {set:?} contains an unexpected element"))
}
