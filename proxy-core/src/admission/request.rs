//! `InjectionRequest`: the settings that a pod requests by annotations; annotations of its namespace are the defaults.
//!
//! `annotation` lists the annotations and their values. A value that cannot be parsed is ignored and reported.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

use crate::admission::pod::PodView;
use crate::admission::selection::{Chosen, Selection};
use crate::admission::warning::excerpt;
use crate::admission::{Admission, InjectMode, InjectOptions};
use crate::model::annotation::{
    Annotation, FORMS, INJECT, MAX_BYTES, ON_MISSING, REQUIRE, SERVICES, VARIABLE_PREFIX,
};
use crate::model::service::{ServiceKey, is_service_name};

/// The limit of services in a list.
pub(super) const SERVICES_MAX: usize = 1_000;
const NAME_CHARS_MAX: usize = 63;
/// The limit of reported problems: there can be as many as the annotations have commas.
const PROBLEMS_MAX: usize = 256;

/// The annotations of a pod that request variables. The others only limit what is injected, or say what happens if it
/// is not possible.
const OWN_REQUESTS: [Annotation; 5] = [INJECT, SERVICES, VARIABLE_PREFIX, FORMS, REQUIRE];

/// The result for a pod whose required services do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnMissing {
    /// The pod starts, with a warning.
    #[default]
    Warn,
    /// Its containers wait until the services exist.
    Wait,
    /// The pod is denied.
    Deny,
}

/// The settings of a pod.
#[derive(Debug)]
pub(super) struct InjectionRequest {
    pub(super) is_enabled: bool,
    pub(super) mode: InjectMode,
    pub(super) selection: Selection,
    /// Whether it lists services, instead of those that the kubelet would give.
    pub(super) names_services: bool,
    /// Whether the pod itself, and not only its namespace, requests variables.
    pub(super) is_own: bool,
    pub(super) required: Vec<ServiceKey>,
    pub(super) on_missing: OnMissing,
    /// Values that could not be parsed.
    pub(super) problems: Vec<String>,
}

/// Reads the annotations.
pub(super) fn injection_request(
    options: &InjectOptions,
    admission: &Admission<'_>,
    pod: &PodView<'_>,
) -> InjectionRequest {
    let mut reader = AnnotationReader { admission, pod, problems: Vec::new() };
    let inject = reader.read(&INJECT, parse_inject).unwrap_or(Inject::Yes);
    let services = reader.services();
    let prefix = reader.read(&VARIABLE_PREFIX, parse_prefix).unwrap_or_default();
    let forms = reader.read(&FORMS, |text| word(text)).unwrap_or_default();
    let required = reader.required(services.as_deref().unwrap_or_default());
    let on_missing = reader.read(&ON_MISSING, |text| word(text));
    let bytes_max = reader.read(&MAX_BYTES, parse_bytes);
    // Debugging a pod must neither be denied nor wait because of a service that the pod itself lacks.
    let on_missing = on_missing.filter(|_| admission.old_pod.is_none()).unwrap_or_default();
    let wait_for = if on_missing == OnMissing::Wait { required.clone() } else { Vec::new() };
    let names_services = services.is_some();
    let bytes_max = bytes_max.or(options.bytes_max);
    InjectionRequest {
        is_enabled: inject != Inject::No,
        mode: if let Inject::Mode(mode) = inject { mode } else { options.mode },
        selection: Selection { services, prefix, forms, bytes_max, wait_for },
        names_services,
        is_own: OWN_REQUESTS.iter().any(|annotation| pod.annotation(annotation.key).is_some()),
        required,
        on_missing,
        problems: reader.problems,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inject {
    Yes,
    No,
    Mode(InjectMode),
}

struct AnnotationReader<'a> {
    admission: &'a Admission<'a>,
    pod: &'a PodView<'a>,
    problems: Vec<String>,
}

impl<'a> AnnotationReader<'a> {
    fn text(&self, annotation: &Annotation) -> Option<&'a str> {
        let of_namespace = || self.admission.namespace_annotations.get(annotation.key).map(String::as_str);
        self.pod.annotation(annotation.key).or_else(of_namespace).map(str::trim)
    }

    fn problem(&mut self, annotation: &Annotation, text: &str) {
        if self.problems.len() == PROBLEMS_MAX {
            return;
        }
        let Annotation { key, values, .. } = annotation;
        self.problems.push(format!("{key}: \"{}\" is not {values}; ignored", excerpt(text)));
    }

    fn read<T>(&mut self, annotation: &Annotation, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(annotation)?;
        let value = parse(text);
        if value.is_none() {
            self.problem(annotation, text);
        }
        value
    }

    /// Returns the items of a list, except those that cannot be parsed.
    fn items<T>(&mut self, annotation: &Annotation, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let text = self.text(annotation)?;
        let mut items = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if items.len() == SERVICES_MAX {
                let key = annotation.key;
                self.problems.push(format!("{key}: more than {SERVICES_MAX} services; the rest is ignored"));
                break;
            }
            match parse(item) {
                Some(item) => items.push(item),
                None => self.problem(annotation, item),
            }
        }
        Some(items)
    }

    fn services(&mut self) -> Option<Vec<Chosen>> {
        let own = self.admission.namespace;
        self.items(&SERVICES, |item| parse_chosen(item, own))
    }

    fn required(&mut self, chosen: &[Chosen]) -> Vec<ServiceKey> {
        let own = self.admission.namespace;
        let by_alias = |item: &str| chosen.iter().find(|chosen| chosen.alias.as_deref() == Some(item));
        let parse = |item: &str| match by_alias(item) {
            Some(chosen) => Some(chosen.service.clone()),
            None => parse_service(item, own),
        };
        self.items(&REQUIRE, parse).unwrap_or_default()
    }
}

/// Parses a word as serde does.
fn word<'de, T: Deserialize<'de>>(text: &'de str) -> Option<T> {
    let word: StrDeserializer<'de, Error> = text.into_deserializer();
    T::deserialize(word).ok()
}

fn parse_inject(text: &str) -> Option<Inject> {
    match text {
        "true" => Some(Inject::Yes),
        "false" => Some(Inject::No),
        _ => word(text).map(Inject::Mode),
    }
}

fn parse_prefix(text: &str) -> Option<String> {
    is_identifier(text, "_").then(|| text.to_owned())
}

fn parse_bytes(text: &str) -> Option<usize> {
    let (number, unit) = match text.strip_suffix("Ki") {
        Some(number) => (number, 1 << 10),
        None => text.strip_suffix("Mi").map_or((text, 1), |number| (number, 1 << 20)),
    };
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse::<usize>().ok().filter(|number| is_number && *number > 0)?.checked_mul(unit)
}

fn parse_chosen(item: &str, own: &str) -> Option<Chosen> {
    let (alias, name) = match item.split_once('=') {
        Some((alias, name)) => (Some(alias.trim()), name.trim()),
        None => (None, item),
    };
    let service = parse_service(name, own)?;
    let is_valid = match alias {
        Some(alias) => is_identifier(alias, "_-"),
        // Services of two namespaces can have the same name.
        None => *service.namespace == *own,
    };
    is_valid.then(|| Chosen { alias: alias.map(str::to_owned), service })
}

fn parse_service(text: &str, own: &str) -> Option<ServiceKey> {
    let (namespace, name) = text.split_once('/').unwrap_or((own, text));
    ((is_service_name(namespace) || namespace == own) && is_service_name(name))
        .then(|| ServiceKey::new(namespace, name))
}

/// Whether a shell can name this variable; `further` lists further allowed characters.
pub(super) fn is_identifier(text: &str, further: &str) -> bool {
    let is_valid = |character: char| character.is_ascii_alphanumeric() || further.contains(character);
    (1..=NAME_CHARS_MAX).contains(&text.len())
        && text.chars().all(is_valid)
        && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}
