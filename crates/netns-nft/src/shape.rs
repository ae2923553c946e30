//! `Shape`: what a table consists of besides elements: its sets, its chains, and how many rules each has.
//!
//! The messages that make a table and the kernel's answers about it have the same attributes, so one reader
//! takes both, and what a table should look like is said by `layout` alone. The expressions of rules are not
//! compared: kernels tell them in words of their own.

use std::collections::BTreeMap;

use proxy_core::dispatch::DispatchKey;
use proxy_core::ruleset::Settings;

use crate::attribute::Attributes;
use crate::encode::{TABLE, Writer};
use crate::kernel::{SUBSYSTEM, chain, message, rule, set};
use crate::layout;
use crate::socket::{Answer, split};

/// The length of nf_tables' own header.
const OWN_HEADER_BYTES: usize = 4;

/// What a table consists of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    sets: BTreeMap<String, Set>,
    chains: BTreeMap<String, Chain>,
    rules: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Set {
    flags: u32,
    key: Option<u32>,
    data: Option<u32>,
    /// The expression at each element.
    expression: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Chain {
    hook: Option<u32>,
    priority: Option<u32>,
    policy: Option<u32>,
    rules: usize,
}

impl Shape {
    /// What the layout makes of these.
    pub(crate) fn new(settings: Settings, picks: impl Iterator<Item = DispatchKey>) -> Self {
        let mut writer = Writer::default();
        layout::add_table(&mut writer, settings);
        picks.for_each(|pick| layout::add_pick(&mut writer, pick));
        let (mut shape, mut rest) = (Self::default(), &writer.bytes.0[..]);
        while let Some((made, behind)) = split(rest) {
            shape.take(&made);
            rest = behind;
        }
        shape
    }

    /// Takes what a message tells of a set, a chain or a rule of the table.
    pub(crate) fn take(&mut self, answer: &Answer<'_>) {
        const NEWSET: u16 = SUBSYSTEM << 8 | message::NEWSET;
        const NEWCHAIN: u16 = SUBSYSTEM << 8 | message::NEWCHAIN;
        const NEWRULE: u16 = SUBSYSTEM << 8 | message::NEWRULE;
        let about = attributes(answer);
        match answer.kind {
            NEWSET if is_ours(about, set::TABLE) => {
                let (flags, key) = (about.u32(set::FLAGS).unwrap_or(0), about.u32(set::KEY_TYPE));
                let data = about.u32(set::DATA_TYPE);
                let expression = text(about.within(set::EXPRESSION), rule::EXPRESSION_NAME);
                self.sets.insert(text(about, set::NAME), Set { flags, key, data, expression });
            }
            NEWCHAIN if is_ours(about, chain::TABLE) => {
                let hook = about.within(chain::HOOK);
                let made = self.chains.entry(text(about, chain::NAME)).or_default();
                made.hook = hook.u32(chain::HOOK_NUMBER);
                made.priority = hook.u32(chain::HOOK_PRIORITY);
                made.policy = about.u32(chain::POLICY);
            }
            NEWRULE if is_ours(about, rule::TABLE) => {
                self.chains.entry(text(about, rule::CHAIN)).or_default().rules += 1;
                self.rules += 1;
            }
            _ => {}
        }
    }

    /// How many sets, chains and rules there are.
    pub(crate) fn counts(&self) -> [usize; 3] {
        [self.sets.len(), self.chains.len(), self.rules]
    }

    /// The first thing that is not as it should be.
    pub(crate) fn flaw(&self, wanted: &Self) -> Option<String> {
        let flaw = |what: &str, name: &String, has: bool, wants: bool| match (has, wants) {
            (true, true) => format!("{what} {name:?} is not what the layout makes it"),
            (true, false) => format!("{what} {name:?} is none of the layout's"),
            _ => format!("{what} {name:?} is missing"),
        };
        let set = first_difference(&self.sets, &wanted.sets);
        let chain = || first_difference(&self.chains, &wanted.chains);
        set.map(|(name, has, wants)| flaw("set", name, has, wants))
            .or_else(|| chain().map(|(name, has, wants)| flaw("chain", name, has, wants)))
    }
}

/// The first name under which two maps differ, and which of the two have it.
fn first_difference<'a, T: PartialEq>(
    one: &'a BTreeMap<String, T>,
    other: &'a BTreeMap<String, T>,
) -> Option<(&'a String, bool, bool)> {
    let name = one.keys().chain(other.keys()).find(|name| one.get(*name) != other.get(*name))?;
    Some((name, one.contains_key(name), other.contains_key(name)))
}

/// The attributes of a message of nf_tables.
pub(crate) fn attributes<'a>(answer: &Answer<'a>) -> Attributes<'a> {
    Attributes(answer.body.get(OWN_HEADER_BYTES..).unwrap_or_default())
}

/// The text of an attribute, without the zero byte at its end; empty where it is missing.
pub(crate) fn text(attributes: Attributes<'_>, kind: u16) -> String {
    let bytes = attributes.find(kind).unwrap_or_default();
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

fn is_ours(attributes: Attributes<'_>, table: u16) -> bool {
    text(attributes, table) == TABLE
}
