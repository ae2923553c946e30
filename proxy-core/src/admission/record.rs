//! `Record`: the variables that a pod needs, as a label and annotations.
//!
//! Admission writes it, and a controller that sees only the metadata of pods creates ConfigMaps from it. A user who can
//! create pods can also write it, so it is untrusted input: at worst it yields a ConfigMap of variables that the pod's
//! namespace may have anyway.

use crate::admission::config_map::base_name;
use crate::admission::selection::{SELECTION_BYTES_MAX, Selection};
use crate::model::annotation::{PARTS, SELECTION, VARIABLES, WARNINGS};

/// The value of the label of a pod that refers to managed ConfigMaps.
pub const LABEL_CONFIG_MAP: &str = "configmap";
/// The value of the label of a pod that has warnings and no managed ConfigMap.
pub const LABEL_WARNINGS: &str = "warnings";
/// The limit of managed ConfigMaps per pod: 16 MiB of variables.
pub const PARTS_MAX: usize = 16;
/// The limit of the annotation with the warnings, in bytes.
pub const WARNINGS_BYTES_MAX: usize = 2_048;
/// The API server accepts 256 KiB of annotations; the difference is left for short ones and for other webhooks.
pub(super) const ANNOTATIONS_BYTES_MAX: usize = 240 << 10;

/// The managed ConfigMaps that a pod refers to, as it records them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The text of their selection.
    pub text: String,
    /// The name of the first.
    pub base: String,
    /// The number of ConfigMaps without which the pod cannot start.
    pub parts: usize,
}

/// An invalid record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The selection is missing.
    #[error("the pod has no annotation portico.dev/selection")]
    Missing,
    /// The selection is not one that admission writes.
    #[error("the pod's annotation portico.dev/selection is not a selection")]
    Selection,
    /// The number of ConfigMaps is not one that admission writes.
    #[error("the pod's annotation portico.dev/parts is not a number from 1 to {PARTS_MAX}")]
    Parts,
}

impl Record {
    /// Reads a pod's label and annotations. Returns none if the pod refers to no managed ConfigMap.
    ///
    /// # Errors
    /// The record was not written by admission.
    pub fn read<'a>(
        label: Option<&str>,
        annotation: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Option<Self>, RecordError> {
        if label != Some(LABEL_CONFIG_MAP) {
            return Ok(None);
        }
        let text = annotation(SELECTION.key).ok_or(RecordError::Missing)?;
        Selection::from_text(text).ok_or(RecordError::Selection)?;
        let parts = match annotation(PARTS.key) {
            None => 1,
            Some(text) => {
                text.parse().ok().filter(|parts| (1..=PARTS_MAX).contains(parts)).ok_or(RecordError::Parts)?
            }
        };
        Ok(Some(Self { text: text.to_owned(), base: base_name(text), parts }))
    }
}

/// The label and the annotations that admission writes on a pod.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) label: Option<&'static str>,
    pub(super) annotations: Vec<(&'static str, String)>,
}

impl Marks {
    /// Records the ConfigMaps that the pod refers to.
    pub(super) fn record(&mut self, text: &str, parts: usize) {
        self.label = Some(LABEL_CONFIG_MAP);
        self.annotations.push((SELECTION.key, text.to_owned()));
        if parts > 1 {
            self.annotations.push((PARTS.key, parts.to_string()));
        }
    }

    /// Records warnings for the pod's owner.
    pub(super) fn warn(&mut self, warnings: &[String]) {
        self.label = self.label.or(Some(LABEL_WARNINGS));
        self.annotations.push((WARNINGS.key, joined(warnings)));
    }

    /// The key of the label.
    pub(super) const LABEL: &'static str = VARIABLES.key;
}

/// Joins as many warnings as fit, one per line.
fn joined(warnings: &[String]) -> String {
    let mut text = String::new();
    for warning in warnings {
        let line = warning.strip_prefix("portico: ").unwrap_or(warning);
        if text.len() + line.len() + 1 > WARNINGS_BYTES_MAX {
            break;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }
    text
}

/// Returns the reason if a selection's text cannot be recorded on a pod whose other annotations have `other_bytes`.
pub(super) fn refuses(text: &str, other_bytes: usize) -> Option<&'static str> {
    if text.len() > SELECTION_BYTES_MAX {
        Some("the selection is too long to be recorded on the pod")
    } else if text.len() + other_bytes > ANNOTATIONS_BYTES_MAX {
        Some("the pod's annotations leave no room to record the selection")
    } else {
        None
    }
}
