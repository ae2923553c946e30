//! `RenderedVariables`: the variables of a selection, as they are put into any number of containers.
//!
//! Pods with equal selections get equal variables until a service changes, so that the webhook caches them, with their
//! JSON. What depends on a container is `AddedVariables`: all rendered variables except those that the container defines
//! itself.

use std::iter::once;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::env::Variable;

/// The variables of a selection in a namespace, at one revision of the services.
#[derive(Debug, Default)]
pub struct RenderedVariables {
    pub(super) variables: Vec<Variable>,
    /// Indexes of the variables, sorted by name.
    by_name: Vec<usize>,
    /// The variables as JSON, each followed by a comma.
    json: String,
    /// The end of each variable in `json`.
    ends: Vec<usize>,
    /// Labels of the services that give the variables, abbreviated.
    pub(super) services: String,
    /// Links must stay on: without them the kubelet adds the variables of `default/kubernetes`, with them those of
    /// the namespace's own service of that name instead (kubelet_pods.go:713-718).
    pub(super) needs_links: bool,
    pub(super) warnings: Vec<String>,
}

impl RenderedVariables {
    pub(super) fn new(
        variables: Vec<Variable>,
        services: String,
        needs_links: bool,
        warnings: Vec<String>,
    ) -> Self {
        let mut by_name: Vec<usize> = (0..variables.len()).collect();
        by_name.sort_unstable_by_key(|index| &variables[*index].name);
        let (mut json, mut ends) = (String::new(), Vec::with_capacity(variables.len()));
        for variable in &variables {
            json += &serde_json::to_string(variable).expect("a struct of strings is valid JSON");
            json.push(',');
            ends.push(json.len());
        }
        json.shrink_to_fit();
        Self { variables, by_name, json, ends, services, needs_links, warnings }
    }

    /// Returns the memory that it takes, approximately.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let variable_bytes = |variable: &Variable| {
            size_of::<Variable>() + 2 * size_of::<usize>() + variable.name.len() + variable.value.len()
        };
        let variables: usize = self.variables.iter().map(variable_bytes).sum();
        let warnings: usize = self.warnings.iter().map(|warning| size_of::<String>() + warning.len()).sum();
        size_of::<Self>() + variables + self.json.len() + warnings + self.services.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// Returns the index of the variable with this name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        let found = self.by_name.binary_search_by(|index| self.variables[*index].name.as_str().cmp(name));
        found.ok().map(|at| self.by_name[at])
    }
}

/// The variables that a container gets: all rendered ones except those that it defines itself.
#[derive(Debug, Clone, Default)]
pub struct AddedVariables {
    rendered: Arc<RenderedVariables>,
    /// Indexes of variables that the container defines, ascending.
    defined: Vec<usize>,
}

impl AddedVariables {
    pub(super) fn new(rendered: Arc<RenderedVariables>, defined: Vec<usize>) -> Self {
        Self { rendered, defined }
    }

    /// Returns the number of variables.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rendered.variables.len() - self.defined.len()
    }

    /// Whether there are no variables.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the variables in order.
    pub fn iter(&self) -> impl Iterator<Item = &Variable> {
        let mut defined = self.defined.iter().peekable();
        let variables = self.rendered.variables.iter().enumerate();
        variables.filter(move |(index, _)| defined.next_if_eq(&index).is_none()).map(|(_, variable)| variable)
    }

    /// Returns the variables as JSON: texts of consecutive variables, separated by commas within a text.
    pub fn json(&self) -> impl Iterator<Item = &str> {
        let RenderedVariables { json, ends, .. } = &*self.rendered;
        let offset = |index: usize| index.checked_sub(1).map_or(0, |before| ends[before]);
        let gaps = self.defined.iter().map(|index| *index..index + 1).chain(once(ends.len()..ends.len()));
        let mut start = 0;
        let runs = gaps.map(move |gap| std::mem::replace(&mut start, gap.end)..gap.start);
        let runs = runs.filter(|run| !run.is_empty());
        runs.map(move |run| &json[offset(run.start)..offset(run.end) - 1])
    }

    /// Returns the bytes that the variables take as JSON.
    pub(super) fn json_bytes(&self) -> usize {
        self.json().map(|text| text.len() + 1).sum()
    }
}

impl PartialEq for AddedVariables {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Serialize for AddedVariables {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
