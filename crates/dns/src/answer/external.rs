//! `External`: an alias of a name outside of the zone, and its response.
//!
//! The response consists of the aliases of the zone and the records that an upstream returned for the target. The
//! upstream's compression pointers are positions in its own message, so its records are written again, with names in
//! full; types whose data can contain compressed names are those of RFC 1035 (RFC 3597, 4).

use super::compose::Composer;
use crate::message::{
    Name, Owner, Query, Rcode, Record, RecordType, Records, Section, TC, Transport, response_code,
    write_error,
};
use crate::zone::Zone;

/// The maximum number of owner names that a response refers to by a pointer.
const OWNERS_MAX: usize = 16;

/// The aliases from a name of the zone to a name outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The targets of the aliases; the last one is outside of the zone.
    pub(super) chain: Vec<Name>,
}

impl External {
    /// Returns the alias of one name.
    pub(crate) fn to(target: Name) -> Self {
        Self { chain: vec![target] }
    }

    /// Returns the name for which an upstream must be asked.
    #[must_use]
    pub fn target(&self) -> &Name {
        // A chain is never empty.
        self.chain.last().unwrap_or(&Name::ROOT)
    }
}

impl Zone {
    /// Writes the response to a query for an alias. `upstream` is the response of an upstream to a query for the target
    /// with the type of the question. A malformed one, or an error other than NXDOMAIN, results in SERVFAIL.
    pub fn write_external(
        &self,
        query: &Query<'_>,
        external: &External,
        upstream: &[u8],
        transport: Transport,
        out: &mut Vec<u8>,
    ) {
        let rcode = match response_code(upstream) {
            Some(0) => Rcode::NoError,
            Some(3) => Rcode::NxDomain,
            _ => return write_error(query, Rcode::ServFail, out),
        };
        let mut composer = Composer::new(self, query, transport, 0, out);
        composer.write_aliases(&external.chain);
        let is_copied = composer.copy_records(external.target(), rcode, upstream);
        composer.finish();
        if is_copied.is_none() {
            write_error(query, Rcode::ServFail, out);
        }
    }
}

impl Composer<'_> {
    /// Writes the records of an upstream's response for `target`, whose name is at `origin`. None: it is malformed.
    fn copy_records(&mut self, target: &Name, rcode: Rcode, upstream: &[u8]) -> Option<()> {
        self.response.set_rcode(rcode);
        let mut owners = vec![(target.clone(), self.origin)];
        for record in Records::new(upstream)? {
            let record = record?;
            let is_relevant = match record.section {
                Section::Answer => true,
                Section::Authority => record.record_type == RecordType::SOA,
                Section::Additional => false,
            };
            if is_relevant && record.is_internet() {
                self.copy_record(&record, &mut owners)?;
            }
        }
        if upstream.get(2)? & TC != 0 {
            self.response.set_truncated();
        }
        Some(())
    }

    fn copy_record(&mut self, record: &Record<'_>, owners: &mut Vec<(Name, usize)>) -> Option<()> {
        let data = record.data_in_full()?;
        let known = owners.iter().find(|(name, _)| *name == record.owner).map(|(_, position)| *position);
        let position = self.response.position();
        let owner = known.map_or(Owner::Name(&record.owner), Owner::At);
        let is_written =
            self.response.push_bytes(record.section, owner, record.record_type, record.ttl_s, &data);
        if is_written && owners.len() < OWNERS_MAX {
            if known.is_none() && Owner::is_position(position) {
                owners.push((record.owner.clone(), position));
            }
            let data_at = self.response.position() - data.len();
            if record.record_type == RecordType::CNAME && Owner::is_position(data_at) {
                owners.push((Name::read(&data)?.0, data_at));
            }
        }
        Some(())
    }
}
