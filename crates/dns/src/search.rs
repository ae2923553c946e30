//! `SearchWalk`: answers the walk of a client along its search list with one response.
//!
//! A client with `ndots:5` asks `github.com.NS.svc.ZONE` first, and the name itself only after each search domain has
//! failed. The walk finds the name for it and answers the first query with a CNAME, as CoreDNS' autopath does, but only
//! if each name before it is known not to exist: names of the cluster from the zone, others from the upstream, all asked
//! at the same time. If one of them exists without addresses, or fails, the client gets the plain NXDOMAIN and walks by
//! itself. The first name with an address of either family ends the walk, for both families.

use crate::message::{Name, RecordType};
use crate::relay::AnswerKind;

/// The number of search domains after the first that a walk considers; glibc has no limit, Kubernetes allows 32.
const DOMAINS_MAX: usize = 32;
/// The number of lookups at upstreams that a walk may cause, the name itself included.
const LOOKUPS_MAX: usize = 6;
/// The default and the maximum of resolv.conf(5).
const NDOTS_DEFAULT: usize = 1;
const NDOTS_MAX: usize = 15;

/// The search list of a pod, as in its resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchList {
    domains: Vec<Name>,
    ndots: usize,
}

/// What is known about a name on the walk.
#[derive(Debug)]
pub(crate) enum Candidate {
    /// The upstream was asked.
    Waiting,
    /// The name does not exist.
    Absent,
    /// The name exists, with this response: the walk ends here.
    Found(Vec<u8>),
    /// The name exists without the type, with this response; whether it has addresses of the other family was asked.
    NoData(Vec<u8>),
    /// The name exists without addresses, or the upstream failed.
    Unclear,
}

/// The result of a walk; for a name that exists, with a response.
#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    Wait,
    /// No name exists, or it is not certain which is the first.
    NotFound,
    Found(&'a Name, &'a [u8]),
}

/// The names that a client would ask after the first one, in order.
#[derive(Debug)]
pub(crate) struct SearchWalk {
    names: Vec<Name>,
    candidates: Vec<Candidate>,
}

impl SearchList {
    /// Creates the list from the fields `searches` and `options` of a DNS configuration. None: a domain is invalid, or
    /// there are too many.
    #[must_use]
    pub fn new(searches: &[String], options: &[String]) -> Option<Self> {
        let domains: Option<Vec<Name>> = searches.iter().map(|domain| Name::parse(domain)).collect();
        let domains = domains.filter(|domains| domains.len() <= DOMAINS_MAX)?;
        let ndots = options.iter().rev().find_map(|option| option.strip_prefix("ndots:")?.parse().ok());
        Some(Self { domains, ndots: ndots.unwrap_or(NDOTS_DEFAULT).min(NDOTS_MAX) })
    }

    /// Returns the names that a client asks after `asked` does not exist. None: the list is not that of a pod in this
    /// namespace (`NS.svc.ZONE`, `svc.ZONE`, `ZONE`, and others), or `asked` is not the start of a walk.
    pub(crate) fn walk(&self, asked: &Name, namespace: &str, zone: &Name) -> Option<SearchWalk> {
        let mut services = Name::parse("svc")?;
        push_name(&mut services, zone)?;
        let mut own = Name::parse(namespace)?;
        push_name(&mut own, &services)?;
        let [first, second, third, ..] = self.domains.as_slice() else { return None };
        if (first, second, third) != (&own, &services, zone) {
            return None;
        }
        let base = strip(asked, first)?;
        // A name with more dots is asked before the search list.
        if base.labels().count() > self.ndots {
            return None;
        }
        let names = self.domains[1..].iter().map(|domain| {
            let mut name = base.clone();
            push_name(&mut name, domain)?;
            Some(name)
        });
        let names: Option<Vec<Name>> = names.chain([Some(base.clone())]).collect();
        let names = names?;
        let lookups = names.iter().filter(|name| !name.is_within(zone)).count();
        let candidates = names.iter().map(|_| Candidate::Waiting).collect();
        (lookups <= LOOKUPS_MAX).then_some(SearchWalk { names, candidates })
    }
}

impl SearchWalk {
    pub(crate) fn names(&self) -> &[Name] {
        &self.names
    }

    /// Returns the slot for the other family of a name.
    pub(crate) fn other_family(&self, number: usize) -> usize {
        number + self.names.len()
    }

    /// Records what is known about a name, or about its other family. The last name ends the walk also if it exists
    /// without the type.
    pub(crate) fn set(&mut self, slot: usize, kind: Option<AnswerKind>, message: impl FnOnce() -> Vec<u8>) {
        let (number, is_last) = (slot % self.names.len(), slot + 1 == self.names.len());
        let Some(candidate) = self.candidates.get_mut(number) else { return };
        *candidate = match (kind, std::mem::replace(candidate, Candidate::Unclear)) {
            (Some(AnswerKind::Positive), Candidate::NoData(message)) => Candidate::Found(message),
            (_, Candidate::NoData(_)) => Candidate::Unclear,
            (Some(AnswerKind::Positive), _) => Candidate::Found(message()),
            (Some(AnswerKind::NoData), _) if is_last => Candidate::Found(message()),
            (Some(AnswerKind::NoData), _) => Candidate::NoData(message()),
            (Some(AnswerKind::NxDomain), _) => Candidate::Absent,
            (Some(AnswerKind::Failure) | None, _) => Candidate::Unclear,
        };
    }

    /// Whether a name exists without the type, so that the other family decides whether the walk ends there.
    pub(crate) fn needs_other_family(&self, number: usize) -> bool {
        matches!(self.candidates.get(number), Some(Candidate::NoData(_)))
    }

    /// Whether the walk ends at a name at the latest.
    pub(crate) fn has_end(&self, number: usize) -> bool {
        matches!(self.candidates.get(number), Some(Candidate::Found(..) | Candidate::Unclear))
    }

    pub(crate) fn verdict(&self) -> Verdict<'_> {
        for (name, candidate) in self.names.iter().zip(&self.candidates) {
            match candidate {
                Candidate::Absent => {}
                Candidate::Waiting | Candidate::NoData(_) => return Verdict::Wait,
                Candidate::Unclear => return Verdict::NotFound,
                Candidate::Found(message) => return Verdict::Found(name, message),
            }
        }
        Verdict::NotFound
    }
}

/// Whether the search list is walked for a type in practice: by getaddrinfo.
pub(crate) fn is_searched(record_type: RecordType) -> bool {
    [RecordType::A, RecordType::AAAA].contains(&record_type)
}

/// Appends the labels of another name. None: the name would be too long.
fn push_name(name: &mut Name, suffix: &Name) -> Option<()> {
    suffix.labels().try_for_each(|label| name.push_label(label))
}

/// Returns a name without a suffix. None: it does not end with it, or nothing remains.
fn strip(name: &Name, suffix: &Name) -> Option<Name> {
    let count = name.labels().count().checked_sub(suffix.labels().count()).filter(|count| *count > 0)?;
    name.is_within(suffix).then_some(())?;
    let mut base = Name::ROOT;
    name.labels().take(count).try_for_each(|label| base.push_label(label))?;
    Some(base)
}
