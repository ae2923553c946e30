//! `Way`: the two ways into the kernel, text by the real nft and our own netlink transaction.
//!
//! What is true of one must be true of the other, so tests of behaviour run both.

use netns_nft::{Batch, Socket, TableState, encode};
use proxy_core::guest::GuestInterfaces;
use proxy_core::kernel_model::Table;
use proxy_core::plan::plan;
use proxy_core::portal::{Portals, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{node_context, snapshot};
use proxy_core::snapshot::Change;

use crate::namespace::{load, run, within};

pub fn portals_of(changes: impl IntoIterator<Item = Change>) -> Portals {
    portals(&snapshot(changes), &node_context())
}

pub fn ruleset_of(changes: impl IntoIterator<Item = Change>) -> Ruleset {
    Ruleset::new(&portals_of(changes), Settings::default())
}

/// A way into the kernel.
#[derive(Clone, Copy)]
pub enum Way {
    /// Text, by the real nft.
    Text,
    /// Our own netlink transaction.
    Netlink,
}

impl Way {
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
        assert_eq!(standing_guests(), guests);
    }

    /// Turns what is there into what is to be there.
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

/// The table that stands in this thread's namespace; an empty one where there is none.
pub fn standing() -> Table {
    table_of(Socket::open().and_then(|socket| socket.read_table()).expect("find out what stands here"))
}

/// The guests of this thread's namespace, as nft lists them.
fn standing_guests() -> GuestInterfaces {
    let listed = run("nft", &["list", "set", "inet", "portico", "guests"], "");
    let elements = listed.split_once("elements = {").expect("elements").1.split_once('}').expect("an end").0;
    GuestInterfaces::parse(&elements.replace(['"', ' ', '\n', '\t'], "")).expect("interfaces")
}

/// The table that was found; an empty one where there is none.
pub fn table_of(found: TableState) -> Table {
    match found {
        TableState::Missing => Table::default(),
        TableState::Intact(table) => table,
        TableState::Drifted(why) => panic!("what stands here is no table of this layout: {why}"),
    }
}

/// Runs `body` in a namespace of its own for each way.
pub fn each_way(body: impl Fn(Way) + Sync) {
    for way in [Way::Text, Way::Netlink] {
        within(|| body(way));
    }
}
