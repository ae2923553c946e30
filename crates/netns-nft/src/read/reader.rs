//! `Reader`: asks for what stands in a network namespace, and puts the answers together.
//!
//! The answers come from a `Source`: the kernel, or bytes that were recorded or made up. What must not go in here: how a
//! source gets its answers.

use std::io;
use std::ops::ControlFlow;

use proxy_core::address::Family;
use proxy_core::guest::GUESTS_SET;
use proxy_core::kernel_model::Table;
use proxy_core::ruleset::Settings;

use super::decode::{
    Raw, address, backend, guests, intervals, is_current, net, numbered, pick, portal, raw_element,
};
use super::limits::{ANSWERS_MAX, Limits};
use super::{End, TableState};
use crate::attribute::Bytes;
use crate::encode::TABLE;
use crate::error::Error;
use crate::kernel::{INET, LIST_ELEMENT, SUBSYSTEM, chain, element, flag, message, rule, set, table};
use crate::layout::{CURRENT, LAYOUT, named, settings};
use crate::shape::{Shape, attributes};
use crate::socket::Answer;

/// Takes one answer, and says whether the next one is wanted.
pub(super) type Take<'a> = &'a mut dyn FnMut(&Answer<'_>) -> ControlFlow<()>;

/// Where answers come from.
pub(super) trait Source {
    /// Hands each answer to `take`, until there are no more or `take` wants none; then nothing else may be asked.
    fn ask(&self, request: &[u8], take: Take<'_>) -> io::Result<()>;
}

/// Reads one network namespace.
#[derive(Debug)]
pub(super) struct Reader<'a, S> {
    pub(super) source: &'a S,
    pub(super) limits: &'a Limits,
}

impl<S: Source> Reader<'_, S> {
    /// Everything that stands there.
    pub(super) fn look(&self) -> Result<TableState, End> {
        let Some(settings) = self.settings()? else { return Ok(TableState::Missing) };
        let shape = self.shape()?;
        let mut table = Table { settings: Some(settings), ..Table::default() };
        for raw in self.elements("picks")? {
            let pick = pick(&raw.key).filter(|pick| pick.to_string() == raw.chain);
            table.dispatch_keys.insert(pick.ok_or_else(|| strange("picks"))?);
        }
        if let Some(flaw) = shape.flaw(&Shape::new(settings, table.dispatch_keys.iter().copied())) {
            return Err(End::Other(flaw));
        }
        if !is_current(&self.elements(CURRENT)?) {
            return Err(strange(CURRENT));
        }
        for family in Family::BOTH {
            self.read_family(&mut table, family)?;
        }
        table.guests = guests(&self.elements(GUESTS_SET)?).ok_or_else(|| strange(GUESTS_SET))?;
        Ok(TableState::Intact(table))
    }

    fn shape(&self) -> Result<Shape, End> {
        let mut shape = Shape::default();
        for (kind, table) in [
            (message::GETSET, set::TABLE),
            (message::GETCHAIN, chain::TABLE),
            (message::GETRULE, rule::TABLE),
        ] {
            let request = request(kind, flag::DUMP, |bytes| bytes.put_text(table, TABLE));
            let (mut answers, mut is_over) = (0, false);
            let asked = self.source.ask(&request, &mut |answer| {
                shape.take(answer);
                answers += 1;
                is_over = shape.counts().iter().zip(self.limits.parts).any(|(count, most)| *count > most);
                if is_over || answers > ANSWERS_MAX {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            asked.map_err(|source| unread("the sets, chains and rules", source))?;
            if is_over {
                let [sets, chains, rules] = self.limits.parts;
                let written = format!("{sets} sets, {chains} chains and {rules} rules");
                return Err(End::TooMany(format!(
                    "the table holds more than the {written} that were written"
                )));
            }
            if answers > ANSWERS_MAX {
                let too_many =
                    io::Error::new(io::ErrorKind::ResourceBusy, format!("more than {ANSWERS_MAX} answers"));
                return Err(unread("the sets, chains and rules", too_many).into());
            }
        }
        Ok(shape)
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
    pub(super) fn settings(&self) -> Result<Option<Settings>, End> {
        let (mut comment, mut flags) = (String::new(), None);
        let request = request(message::GETTABLE, flag::ACK, |bytes| bytes.put_text(table::NAME, TABLE));
        let asked = self.source.ask(&request, &mut |answer| {
            let about = attributes(answer);
            // nft's form of a comment: type, length, text.
            let data = about.find(table::USERDATA).and_then(|data| data.get(2..)).unwrap_or_default();
            comment = String::from_utf8_lossy(data).trim_end_matches('\0').to_owned();
            flags = about.u32(table::FLAGS);
            ControlFlow::Continue(())
        });
        match asked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| unread("the table", source))?,
        }
        if flags.is_some_and(|flags| flags != 0) {
            return Err(End::Other("the table has flags, and may be asleep".to_owned()));
        }
        let found = settings(&comment);
        found.map(Some).ok_or_else(|| {
            End::Other(format!("the table's comment is {comment:?}, not that of layout {LAYOUT}"))
        })
    }

    /// All elements of a set, which are no more than the limit.
    pub(super) fn elements(&self, name: &str) -> Result<Vec<Raw>, End> {
        let request = request(message::GETSETELEM, flag::DUMP, |bytes| {
            bytes.put_text(element::TABLE, TABLE);
            bytes.put_text(element::SET, name);
        });
        let (most, mut elements) = (self.limits.of_set(name), Vec::new());
        let asked = self.source.ask(&request, &mut |answer| {
            let list = attributes(answer).within(element::ELEMENTS).filter(|(kind, _)| *kind == LIST_ELEMENT);
            // One more than the limit is enough to know that there are too many.
            let room = (most + 1).saturating_sub(elements.len());
            elements.extend(list.take(room).map(|(_, raw)| raw_element(raw)));
            if elements.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match asked {
            Ok(()) if elements.len() > most => Err(End::TooMany(format!(
                "set {name:?} holds more than the {most} elements that were written"
            ))),
            Ok(()) => Ok(elements),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(End::Other(format!("set {name:?} is missing")))
            }
            Err(source) => Err(unread(name, source).into()),
        }
    }
}

pub(super) fn request(kind: u16, flags: u16, fill: impl FnOnce(&mut Bytes)) -> Vec<u8> {
    let mut bytes = Bytes::default();
    let open = bytes.open_message(SUBSYSTEM << 8 | kind, flag::REQUEST | flags, 0, INET, 0);
    fill(&mut bytes);
    bytes.close_message(&open);
    bytes.0
}

pub(super) fn unread(what: &str, source: io::Error) -> Error {
    Error::Read { what: what.to_owned(), source }
}

fn strange(set: &str) -> End {
    End::Other(format!("set {set:?} holds what no ruleset writes"))
}
