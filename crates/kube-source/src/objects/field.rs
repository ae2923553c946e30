//! `Field`: a value within an object, with its path.
//!
//! Parsers walk the JSON value instead of deriving `Deserialize`. A derived parser stops at the first error; users want
//! *all* errors of an object, each with the path of its field. A value of the wrong type is recorded and then treated as
//! absent. `null` is absent, as it is to the API server. The meaning of a field does not belong here.

use std::fmt::{self, Write as _};

use serde_json::Value;

use crate::objects::finding::{Findings, Severity, excerpt};

/// Unquoted, `true`, `5` or `1.10` is not a string in YAML.
const STRING: &str = "a string (quote it in YAML)";

static ABSENT: Value = Value::Null;

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Element(&'p str, usize),
}

/// A value within an object, and the path to it.
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

    /// Returns the field `key`, of any type. The field is absent if this value is not a map.
    pub(crate) fn at<'c>(&'c self, key: &'c str) -> Field<'c, 'v> {
        let value = self.value.get(key).unwrap_or(&ABSENT);
        Field { value, parent: Some(self), step: Step::Key(key), findings: self.findings }
    }

    /// Returns the field `key`, which must be a map unless it is absent.
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

    /// Absent or an empty string. Go does not distinguish them.
    pub(crate) fn is_missing(&self) -> bool {
        self.is_absent() || self.is_empty_text()
    }

    pub(crate) fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(Vec::is_empty)
    }

    pub(crate) fn is_text(&self) -> bool {
        self.value.is_string()
    }

    /// Returns the string. An empty string is absent: Go does not distinguish them.
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

    /// Returns the integer. An integer above `i64::MAX` becomes `i64::MAX`, which every range check rejects.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self.value {
            Value::Null => None,
            Value::Number(number) => number.as_i64().or_else(|| {
                if number.is_u64() {
                    return Some(i64::MAX);
                }
                self.wrong_type("an integer");
                None
            }),
            _ => {
                self.wrong_type("an integer");
                None
            }
        }
    }

    /// Returns the boolean.
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

    /// Returns the elements of the list `key`, of any type.
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

    /// Returns the elements of the list `key`, which must be maps.
    pub(crate) fn maps<'c>(&'c self, key: &'c str) -> impl Iterator<Item = Field<'c, 'v>> {
        self.list(key).filter(|element| {
            let is_map = element.value.is_object();
            if !is_map {
                element.wrong_type("an object");
            }
            is_map
        })
    }

    /// Returns the entries of this map, whose values must be strings: labels, selectors, annotations.
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

    /// Rejects the object because of this field.
    pub(crate) fn error(&self, message: impl fmt::Display) {
        if self.findings.is_full() {
            return;
        }
        self.findings.add(Severity::Error, format!("{self}: {message}"));
    }

    /// Rejects the object because this value is malformed: it is not what the field expects.
    pub(crate) fn reject(&self, expected: impl fmt::Display) {
        self.malformed(format_args!("{} is not {expected}", self.shown()));
    }

    /// Rejects the object even if an API server stored it. `error` is for rules that may differ between API servers.
    pub(crate) fn malformed(&self, message: impl fmt::Display) {
        self.findings.set_malformed(|| format!("{self}: {message}"));
        self.error(message);
    }

    /// Warns that a part of the object is skipped because of this field.
    pub(crate) fn warn(&self, message: impl fmt::Display) {
        self.findings.add(Severity::Warning, format!("{self}: {message}"));
    }

    /// Returns the value as quoted in messages.
    pub(crate) fn shown(&self) -> String {
        match self.value {
            Value::String(text) => format!("\"{}\"", excerpt(text)),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
            other => excerpt(&other.to_string()),
        }
    }

    fn wrong_type(&self, expected: &str) {
        self.reject(expected);
    }
}

/// Formats the path, such as `spec.ports[1].name`.
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
