//! `Record`: what a pod says of the variables that it needs, as a label and annotations.
//!
//! Admission writes it, and a controller that sees nothing of a pod but its metadata makes ConfigMaps by it. Whoever may
//! create a pod may also write it by hand, so it is read as hostile: the worst it gets is a ConfigMap of variables that
//! the pod's namespace may have anyway. What must not go in here: making a ConfigMap.

use crate::admission::config_map::base_name;
use crate::admission::selection::{SELECTION_BYTES_MAX, Selection};
use crate::annotation::{PARTS, SELECTION, VARIABLES, WARNINGS};

/// The value of the label where the pod refers to managed ConfigMaps.
pub const LABEL_CONFIG_MAP: &str = "configmap";
/// The value of the label where the pod has warnings and no ConfigMap.
pub const LABEL_WARNINGS: &str = "warnings";
/// A pod refers to no more ConfigMaps than this: 16 MiB of variables.
pub const PARTS_MAX: usize = 16;
/// How long the annotation with the warnings may be, in bytes.
pub const WARNINGS_BYTES_MAX: usize = 2_048;
/// The API server takes 256 KiB of annotations; some of it is kept for the short ones and for other webhooks.
pub(super) const ANNOTATIONS_BYTES_MAX: usize = 240 << 10;

/// The ConfigMaps that a pod says it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The text of their selection.
    pub text: String,
    /// The name of the first.
    pub base: String,
    /// How many the pod cannot start without.
    pub parts: usize,
}

/// Why what a pod records is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There is no selection.
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
    /// Reads a pod's label and annotations; none: the pod refers to no managed ConfigMap.
    ///
    /// # Errors
    /// What the pod says was not written by admission.
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

/// What is written on a pod, each with its key.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) label: Option<&'static str>,
    pub(super) annotations: Vec<(&'static str, String)>,
}

impl Marks {
    /// The ConfigMaps that the pod refers to.
    pub(super) fn record(&mut self, text: &str, parts: usize) {
        self.label = Some(LABEL_CONFIG_MAP);
        self.annotations.push((SELECTION.key, text.to_owned()));
        if parts > 1 {
            self.annotations.push((PARTS.key, parts.to_string()));
        }
    }

    /// The warnings that its owner is to see.
    pub(super) fn warn(&mut self, warnings: &[String]) {
        self.label = self.label.or(Some(LABEL_WARNINGS));
        self.annotations.push((WARNINGS.key, joined(warnings)));
    }

    /// The key of the label.
    pub(super) const LABEL: &'static str = VARIABLES.key;
}

/// One line for each warning, as many as fit.
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

/// Whether a selection's text may be written on a pod that has so many bytes of annotations otherwise; if not, why.
pub(super) fn refuses(text: &str, other_bytes: usize) -> Option<&'static str> {
    if text.len() > SELECTION_BYTES_MAX {
        Some("the selection is too long to be recorded on the pod")
    } else if text.len() + other_bytes > ANNOTATIONS_BYTES_MAX {
        Some("the pod's annotations leave no room to record the selection")
    } else {
        None
    }
}
