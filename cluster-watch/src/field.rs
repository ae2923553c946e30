//! `Field`: a place in an object, with its path.
//!
//! Objects are read by walking their JSON value rather than by deriving a struct, because a user wants to
//! see *all* mistakes of an object, each with the path of its field, and a derived reader stops at the
//! first. A value of the wrong type is recorded here and then treated as absent. `null` is absent, as it is
//! for the API server. What must not go in here: what a field means.

use std::cell::RefCell;
use std::fmt::{self, Write as _};

use serde_json::Value;

use crate::report::{MAX_PROBLEMS, Severity, excerpt};

/// Unquoted, YAML takes `yes`, `on`, `y`, `1.10` and the like for something else.
const STRING: &str = "a string; in YAML, quotes make it one";

static ABSENT: Value = Value::Null;

/// What is wrong with one object.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: RefCell<Vec<Finding>>,
    /// The first value that cannot be what its field takes, whoever has let it in.
    malformed: RefCell<Option<String>>,
}

/// One thing that is wrong: the message begins with the path of the field.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) message: String,
}

impl Findings {
    pub(crate) fn add(&self, severity: Severity, message: String) {
        let mut list = self.list.borrow_mut();
        let kept = list.len();
        // An error must not be lost to a flood of warnings: it decides whether the object counts.
        if kept < MAX_PROBLEMS || (severity == Severity::Error && kept < 2 * MAX_PROBLEMS) {
            list.push(Finding { severity, message });
        }
    }

    fn is_full(&self) -> bool {
        self.list.borrow().len() >= 2 * MAX_PROBLEMS
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.list.borrow().iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Why the object cannot be used, even if an API server has stored it.
    pub(crate) fn malformed(&self) -> Option<String> {
        self.malformed.borrow().clone()
    }

    pub(crate) fn into_list(self) -> Vec<Finding> {
        self.list.into_inner()
    }
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Element(&'p str, usize),
}

/// A place in an object: its value, and the way to it.
#[derive(Clone, Copy)]
pub(crate) struct Field<'p, 'v> {
    value: &'v Value,
    parent: Option<&'p Field<'p, 'v>>,
    step: Step<'p>,
    findings: &'p Findings,
}

impl<'p, 'v> Field<'p, 'v> {
    /// The whole object.
    pub(crate) fn root(value: &'v Value, findings: &'p Findings) -> Self {
        Self { value, parent: None, step: Step::Root, findings }
    }

    /// The field `key` of this map, whatever it holds; absent where this is no map.
    pub(crate) fn at<'c>(&'c self, key: &'c str) -> Field<'c, 'v> {
        let value = self.value.get(key).unwrap_or(&ABSENT);
        Field { value, parent: Some(self), step: Step::Key(key), findings: self.findings }
    }

    /// The field `key`, which must be a map if it is there.
    pub(crate) fn map<'c>(&'c self, key: &'c str) -> Field<'c, 'v> {
        let mut child = self.at(key);
        if !child.value.is_null() && !child.value.is_object() {
            child.wrong_type("an object");
            child.value = &ABSENT;
        }
        child
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.value.is_null()
    }

    pub(crate) fn is_empty_text(&self) -> bool {
        self.value.as_str() == Some("")
    }

    /// Absent, or an empty text, which Go does not tell apart.
    pub(crate) fn is_missing(&self) -> bool {
        self.is_absent() || self.is_empty_text()
    }

    pub(crate) fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(Vec::is_empty)
    }

    pub(crate) fn is_text(&self) -> bool {
        self.value.is_string()
    }

    /// The text here; an empty one counts as absent, as Go does not tell them apart.
    pub(crate) fn text(&self) -> Option<&'v str> {
        match self.value {
            Value::Null => None,
            Value::String(text) => Some(text.as_str()).filter(|text| !text.is_empty()),
            _ => {
                self.wrong_type(STRING);
                None
            }
        }
    }

    /// The whole number here; one that does not even fit 64 bits becomes the nearest that does.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self.value {
            Value::Null => None,
            Value::Number(number) => number.as_i64().or_else(|| {
                if number.is_u64() {
                    return Some(i64::MAX);
                }
                self.wrong_type("a whole number");
                None
            }),
            _ => {
                self.wrong_type("a whole number");
                None
            }
        }
    }

    /// The truth value here.
    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Null => None,
            Value::Bool(boolean) => Some(*boolean),
            _ => {
                self.wrong_type("true or false");
                None
            }
        }
    }

    /// The elements of the list `key`, whatever they hold.
    pub(crate) fn list<'c>(&'c self, key: &'c str) -> impl Iterator<Item = Field<'c, 'v>> {
        let list: &'v [Value] = match self.value.get(key) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.at(key).wrong_type("a list");
                &[]
            }
        };
        list.iter().enumerate().map(move |(index, value)| Field {
            value,
            parent: Some(self),
            step: Step::Element(key, index),
            findings: self.findings,
        })
    }

    /// The elements of the list `key`, each of which must be a map.
    pub(crate) fn maps<'c>(&'c self, key: &'c str) -> impl Iterator<Item = Field<'c, 'v>> {
        self.list(key).filter(|element| {
            let is_map = element.value.is_object();
            if !is_map {
                element.wrong_type("an object");
            }
            is_map
        })
    }

    /// The entries of this map, whose values must be texts: labels, selectors, annotations.
    pub(crate) fn texts(&self) -> Vec<(&'v str, &'v str)> {
        let Some(entries) = self.value.as_object() else { return Vec::new() };
        let mut texts = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            match value {
                Value::String(text) => texts.push((name.as_str(), text.as_str())),
                Value::Null => texts.push((name.as_str(), "")),
                _ => self.at(name).wrong_type(STRING),
            }
        }
        texts
    }

    /// Refuses the object because of this field.
    pub(crate) fn error(&self, message: impl fmt::Display) {
        if self.findings.is_full() {
            return;
        }
        self.findings.add(Severity::Error, format!("{self}: {message}"));
    }

    /// Refuses the object because this value is not what the field takes.
    pub(crate) fn refuse(&self, wanted: impl fmt::Display) {
        self.malformed(format_args!("{} is not {wanted}", self.shown()));
    }

    /// Refuses the object, wherever it comes from: `error` is for rules, which an API server may see otherwise.
    pub(crate) fn malformed(&self, message: impl fmt::Display) {
        let mut first = self.findings.malformed.borrow_mut();
        first.get_or_insert_with(|| format!("{self}: {message}"));
        self.error(message);
    }

    /// Says that a part of the object was left out because of this field.
    pub(crate) fn warn(&self, message: impl fmt::Display) {
        self.findings.add(Severity::Warning, format!("{self}: {message}"));
    }

    /// The value as a message quotes it.
    pub(crate) fn shown(&self) -> String {
        match self.value {
            Value::String(text) => format!("\"{}\"", excerpt(text)),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
            other => excerpt(&other.to_string()),
        }
    }

    fn wrong_type(&self, wanted: &str) {
        self.refuse(wanted);
    }
}

/// The path, as `spec.ports[1].name`.
impl fmt::Display for Field<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if !matches!(parent.step, Step::Root) {
                f.write_char('.')?;
            }
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) => f.write_str(&excerpt(key)),
            Step::Element(key, index) => write!(f, "{}[{index}]", excerpt(key)),
        }
    }
}
