//! Answers queries for names of the cluster.
//!
//! ```text
//! Query ── find ──► what the name stands for ── compose ──► the records of the type, or an SOA record
//!           └─► outside of the zone, or an alias of a name outside: the caller asks an upstream
//! ```

mod compose;
mod external;
mod find;
mod reverse;

use compose::Composer;
pub use external::External;
pub(crate) use find::{Absence, EmptyNode, Finding, Node};

use crate::client::Client;
use crate::message::{Name, Query, Rcode, RecordType, Transport, write_error};
use crate::zone::Zone;

/// The maximum number of aliases that a response follows.
const ALIASES_MAX: usize = 8;

/// The outcome of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// The response has records.
    Records,
    /// The name exists, without records of the type: the response has an SOA record.
    NoData,
    /// The name does not exist: the response is a denial. The name can be the product of a search list.
    NxDomain,
    /// The zone does not answer such questions: the response is an error.
    Refused,
    /// The initial sync is not complete: the response is an error.
    NotSynced,
    /// The name is not in the zone, and there is no response: an upstream must be asked.
    Upstream,
    /// The name is an alias of a name that is not in the zone, and there is no response: an upstream must be asked for
    /// the target, and `Zone::write_external` writes the response.
    External(Box<External>),
}

impl Answered {
    /// Returns the name in JSON.
    #[must_use]
    pub const fn keyword(&self) -> &'static str {
        match self {
            Self::Records => "noerror",
            Self::NoData => "nodata",
            Self::NxDomain => "nxdomain",
            Self::Refused => "refused",
            Self::NotSynced => "servfail",
            Self::Upstream => "upstream",
            Self::External(_) => "alias",
        }
    }
}

/// Whether the zone has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existence {
    /// The name exists.
    Present,
    /// The name is in the zone and does not exist.
    Absent,
    /// The name is not in the zone, or the zone does not know all names: an upstream must be asked.
    Outside,
}

impl Zone {
    /// Answers a query of a client. `rotation` is a random number, which selects the first record of several. If the
    /// outcome has a response, it is in `out`; otherwise the content of `out` is undefined.
    pub fn answer(
        &self,
        client: &Client,
        query: &Query<'_>,
        transport: Transport,
        rotation: u32,
        out: &mut Vec<u8>,
    ) -> Answered {
        if let Some(rcode) = query.refusal() {
            write_error(query, rcode, out);
            return Answered::Refused;
        }
        let finding = self.find(client, &query.name);
        match &finding {
            Finding::Outside => return Answered::Upstream,
            Finding::Unsynced => {
                write_error(query, Rcode::ServFail, out);
                return Answered::NotSynced;
            }
            Finding::Absent(absence) if self.falls_through(*absence) => return Answered::Upstream,
            Finding::Present(Node::Alias(_, target)) if has_aliases(query.record_type) => {
                return self.answer_alias(client, query, transport, rotation, target, out);
            }
            Finding::Absent(_) | Finding::Present(_) => {}
        }
        let mut composer = Composer::new(self, query, transport, rotation, out);
        let answered = composer.write(&query.name, &finding);
        composer.finish();
        answered
    }

    /// Answers a query for an alias: with its chain of aliases, and the records of the last name.
    fn answer_alias(
        &self,
        client: &Client,
        query: &Query<'_>,
        transport: Transport,
        rotation: u32,
        target: &Name,
        out: &mut Vec<u8>,
    ) -> Answered {
        let mut chain = vec![target.clone()];
        loop {
            let last = chain[chain.len() - 1].clone();
            let finding = self.find(client, &last);
            match &finding {
                Finding::Present(Node::Alias(_, next))
                    if chain.len() < ALIASES_MAX && **next != query.name && !chain.contains(next) =>
                {
                    chain.push((*next).clone());
                    continue;
                }
                Finding::Outside | Finding::Unsynced => {
                    return Answered::External(Box::new(External { chain }));
                }
                Finding::Absent(absence) if self.falls_through(*absence) => {
                    return Answered::External(Box::new(External { chain }));
                }
                Finding::Absent(_) | Finding::Present(_) => {}
            }
            let mut composer = Composer::new(self, query, transport, rotation, out);
            composer.write_aliases(&chain);
            // The last name of a chain that is too long, or a loop, is an alias too, and stays unresolved.
            if !matches!(finding, Finding::Present(Node::Alias(..))) {
                composer.write(&last, &finding);
            }
            composer.finish();
            return Answered::Records;
        }
    }

    /// Whether the zone has a name, as this client sees it.
    #[must_use]
    pub fn existence(&self, client: &Client, name: &Name) -> Existence {
        match self.find(client, name) {
            Finding::Present(_) => Existence::Present,
            Finding::Absent(absence) if !self.falls_through(absence) => Existence::Absent,
            Finding::Absent(_) | Finding::Outside | Finding::Unsynced => Existence::Outside,
        }
    }

    /// Whether a name that does not exist is forwarded. A hidden name is not: an upstream would reveal it.
    fn falls_through(&self, absence: Absence) -> bool {
        self.config.has_fallthrough && absence != Absence::Hidden
    }
}

/// Whether the answer to a question of this type contains the target of an alias.
fn has_aliases(record_type: RecordType) -> bool {
    !matches!(record_type, RecordType::CNAME | RecordType::ANY)
}
