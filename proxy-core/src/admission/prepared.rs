//! `Prepared`: the variables of a selection, ready to be put into any number of containers.
//!
//! Pods of one wish get the same variables until a service changes, so what does not depend on the pod is done once:
//! which variables there are, where a name stands among them, and how each is written. Each is written as JSON with its
//! comma, filled up with spaces to whole groups of base64; so what a container gets is pasted in runs, as it is sent.
//! What must not go in here: a pod, and how long anything is remembered.

use std::ops::Range;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::admission::selection::{Rendered, Selection, rendered};
use crate::base64;
use crate::env::Variable;
use crate::snapshot::Snapshot;

/// The variables of a selection of a namespace, at one revision of the services.
#[derive(Debug, Default)]
pub struct Prepared {
    pub(super) rendered: Rendered,
    /// Places of variables, by name.
    by_name: Vec<usize>,
    /// Each variable as JSON with a comma behind it, base64.
    text: String,
    /// Where the text of each variable ends.
    ends: Vec<usize>,
}

/// Prepares the variables that a selection comes to now.
#[must_use]
pub fn prepared(snapshot: &Snapshot, namespace: &str, selection: &Selection) -> Prepared {
    let rendered = rendered(snapshot, namespace, selection);
    let variables = &rendered.variables;
    let mut by_name: Vec<usize> = (0..variables.len()).collect();
    by_name.sort_unstable_by_key(|place| &variables[*place].name);
    let (mut text, mut ends) = (Vec::new(), Vec::with_capacity(variables.len()));
    let mut json = Vec::new();
    for variable in variables {
        json.clear();
        write_json(variable, &mut json);
        json.push(b',');
        base64::fill_up(&mut json);
        base64::encode(&json, &mut text);
        ends.push(text.len());
    }
    text.shrink_to_fit();
    // The alphabet is ASCII.
    let text = String::from_utf8(text).unwrap_or_default();
    Prepared { rendered, by_name, text, ends }
}

/// Texts are always JSON.
fn write_json(value: &impl Serialize, json: &mut Vec<u8>) {
    serde_json::to_writer(json, value).unwrap_or_default();
}

impl Prepared {
    /// How much memory it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_variable = |one: &Variable| size_of::<Variable>() + one.name.len() + one.value.len();
        let variables: usize = self.rendered.variables.iter().map(of_variable).sum();
        let places = (self.by_name.len() + self.ends.len()) * size_of::<usize>();
        size_of::<Self>() + variables + places + self.text.len() + self.rendered.services.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rendered.variables.is_empty()
    }

    /// Where the variable of this name stands.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        let variables = &self.rendered.variables;
        let found = self.by_name.binary_search_by(|place| variables[*place].name.as_str().cmp(name));
        found.ok().map(|at| self.by_name[at])
    }

    /// The base64 text of some variables in a row.
    fn text(&self, places: &Range<usize>) -> &str {
        let start = |place: usize| place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start(places.start)..start(places.end)]
    }
}

/// Some variables in a row, as base64 of JSON with a comma behind each.
#[derive(Debug, Clone)]
pub struct Run {
    prepared: Arc<Prepared>,
    places: Range<usize>,
}

impl AsRef<[u8]> for Run {
    fn as_ref(&self) -> &[u8] {
        self.prepared.text(&self.places).as_bytes()
    }
}

/// The variables that a container gets: all that are prepared, but for those that it defines itself.
#[derive(Debug, Clone, Default)]
pub struct Added {
    prepared: Arc<Prepared>,
    /// Places, in order, each once.
    without: Vec<usize>,
}

impl Added {
    /// All but those at these places, which are in order.
    pub(super) fn new(prepared: Arc<Prepared>, without: Vec<usize>) -> Self {
        Self { prepared, without }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prepared.rendered.variables.len() - self.without.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The variables, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Variable> {
        self.runs().flat_map(|places| &self.prepared.rendered.variables[places])
    }

    /// The texts of all but the last, and the last: whether a comma follows that, is not known here.
    #[must_use]
    pub fn texts(&self) -> (impl Iterator<Item = Run>, Option<&Variable>) {
        let end = self.runs().last().map_or(0, |run| run.end);
        let last = end.saturating_sub(1);
        let but_last = self.runs().map(move |run| run.start..run.end.min(last));
        let run = |places| Run { prepared: Arc::clone(&self.prepared), places };
        (but_last.map(run), self.prepared.rendered.variables[..end].last())
    }

    /// How long their base64 text is, about.
    pub(crate) fn text_len(&self) -> usize {
        self.runs().map(|run| self.prepared.text(&run).len()).sum()
    }

    /// Places that follow one another.
    fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let gaps = self.without.iter().map(|place| *place..*place + 1);
        let all = self.prepared.rendered.variables.len();
        let mut from = 0;
        let runs = gaps
            .chain(std::iter::once(all..all))
            .map(move |gap| std::mem::replace(&mut from, gap.end)..gap.start);
        runs.filter(|run| !run.is_empty())
    }
}

impl PartialEq for Added {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Serialize for Added {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
