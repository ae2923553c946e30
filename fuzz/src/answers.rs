//! The kernel's answers about a table, as a pod that may change that table can make them.
//!
//! An input is a list of changes to the answers of a kernel that holds a ruleset, so that few bytes lead deep into the
//! reader, or it is the answers themselves. What must not go in here: how answers are read.

use std::sync::LazyLock;

use kube_source::{ReadOptions, read_str};
use netns_nft::{Limits, TableState, read_recorded, recorded_replies};
use proxy_core::kernel_model::Table;
use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::{Ruleset, Settings};

/// Services of every kind.
const SERVICES: &str = include_str!("../seeds/every-field.json");

/// What the agent wrote, and what the kernel says of it while nobody else changes it.
struct Written {
    table: Table,
    answers: Vec<u8>,
}

static WRITTEN: LazyLock<[Written; 2]> = LazyLock::new(|| {
    let (objects, _) = read_str("every-field.json", SERVICES, &ReadOptions::default());
    let all = portals(&objects.snapshot(), &NodeContext::default());
    [false, true].map(|on_demand| {
        let ruleset = Ruleset::new(&all, Settings { on_demand, ..Settings::default() });
        let written = Written { table: Table::from(&ruleset), answers: recorded_replies(&ruleset) };
        let found = read_recorded(&written.answers, &Limits::of(&written.table));
        assert_eq!(
            found.ok(),
            Some(TableState::Intact(written.table.clone())),
            "what is written is what is read"
        );
        written
    })
});

/// Reads the answers that these bytes stand for, and holds what is found to every claim.
pub fn check(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let Written { table, answers } = &WRITTEN[usize::from(kind & 1)];
    let answers = if kind & 2 == 0 { changed(answers, rest) } else { rest.to_vec() };
    let limits = Limits::of(table);
    let found = read_recorded(&answers, &limits);
    match &found {
        Ok(TableState::Intact(found)) => {
            assert!(
                found.dispatch_keys.len() <= table.dispatch_keys.len(),
                "no more picks than were written"
            );
            assert!(found.portals.len() <= table.portals.len(), "no more portals than were written");
            assert!(found.backends.len() <= table.backends.len(), "no more backends than were written");
            assert!(found.ids.len() <= table.ids.len(), "no more ids than were written");
            assert!(found.addresses.len() <= table.addresses.len(), "no more addresses than were written");
            assert!(found.sources.len() <= table.sources.len(), "no more sources than were written");
        }
        Ok(TableState::Missing | TableState::Drifted(_)) | Err(_) => {}
    }
    let again = read_recorded(&answers, &limits);
    assert_eq!(found.ok(), again.ok(), "the same answers read the same");
}

/// The answers with changes: each is four bytes, which say where, what, and with which byte.
fn changed(answers: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut answers = answers.to_vec();
    for change in changes.chunks_exact(4) {
        let &[low, high, what, with] = change else { continue };
        let at = usize::from(u16::from_le_bytes([low, high])) % (answers.len() + 1);
        let end = (at + usize::from(with)).min(answers.len());
        match what % 5 {
            0 => answers.get_mut(at).into_iter().for_each(|byte| *byte = with),
            1 => answers.get_mut(at).into_iter().for_each(|byte| *byte ^= with),
            2 => drop(answers.drain(at..end)),
            3 => {
                let copy = answers[at..end].to_vec();
                drop(answers.splice(at..at, copy));
            }
            _ => answers.insert(at, with),
        }
    }
    answers
}
