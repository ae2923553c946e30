//! `RulesetLoader`: the two loaders of rules into the kernel, text through nft and Portico's netlink transaction.
//!
//! Both must have the same effect, so tests of behaviour run with both.

use netns_nft::{Batch, Socket, TableState, encode};
use proxy_core::guest::GuestInterfaces;
use proxy_core::kernel_model::Table;
use proxy_core::plan::plan;
use proxy_core::portal::{Portals, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{node_context, snapshot};
use proxy_core::snapshot::Change;

use crate::namespace::{in_routed_netns, load, run};

pub fn portals_of(changes: impl IntoIterator<Item = Change>) -> Portals {
    portals(&snapshot(changes), &node_context())
}

pub fn ruleset_of(changes: impl IntoIterator<Item = Change>) -> Ruleset {
    Ruleset::new(&portals_of(changes), Settings::default())
}

/// A loader of rules.
#[derive(Clone, Copy)]
pub enum RulesetLoader {
    /// Text through nft.
    Text,
    /// Portico's netlink transaction.
    Netlink,
}

impl RulesetLoader {
    /// Programs a new namespace.
    pub fn program(self, ruleset: &Ruleset) {
        self.change(&Ruleset::empty(), ruleset);
    }

    /// Programs a new namespace with guests behind these interfaces.
    pub fn program_with_guests(self, ruleset: &Ruleset, interfaces: &str) {
        let guests = GuestInterfaces::parse(interfaces).expect("interfaces");
        match self {
            Self::Text => {
                self.program(ruleset);
                let names: Vec<String> = guests.iter().map(|guest| format!("\"{guest}\"")).collect();
                load(&format!("add element inet portico guests {{ {} }}", names.join(", ")));
            }
            Self::Netlink => apply(&encode(&plan(&Ruleset::empty(), ruleset)).with_guests(&guests)),
        }
        assert_eq!(current_guests(), guests);
    }

    /// Replaces the ruleset `before` with `after`.
    pub fn change(self, before: &Ruleset, after: &Ruleset) {
        let plan = plan(before, after);
        match self {
            Self::Text => load(&plan.to_string()),
            Self::Netlink => apply(&encode(&plan)),
        }
    }
}

/// Applies a transaction in this thread's namespace.
pub fn apply(batch: &Batch) {
    let socket = Socket::open().expect("open a netfilter socket");
    socket.apply(batch).unwrap_or_else(|error| panic!("{error}: {error:?}"));
}

/// The table in this thread's network namespace, or an empty one if there is no table.
pub fn current_table() -> Table {
    table_of(Socket::open().and_then(|socket| socket.read_table()).expect("read the table"))
}

/// The guests of this thread's namespace, as nft lists them.
fn current_guests() -> GuestInterfaces {
    let listed = run("nft", &["list", "set", "inet", "portico", "guests"], "");
    let elements = listed.split_once("elements = {").expect("elements").1.split_once('}').expect("an end").0;
    GuestInterfaces::parse(&elements.replace(['"', ' ', '\n', '\t'], "")).expect("interfaces")
}

/// Returns the table that was read, or an empty one if there is no table.
pub fn table_of(found: TableState) -> Table {
    match found {
        TableState::Missing => Table::default(),
        TableState::Intact(table) => table,
        TableState::Drifted(why) => panic!("the table has drifted: {why}"),
    }
}

/// Runs `body` with each loader, in a new network namespace each.
pub fn with_each_loader(body: impl Fn(RulesetLoader) + Sync) {
    for loader in [RulesetLoader::Text, RulesetLoader::Netlink] {
        in_routed_netns(|| body(loader));
    }
}
