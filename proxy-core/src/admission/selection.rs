//! `Selection`: whose variables a container gets, and in which form; with a snapshot, the variables themselves.
//!
//! Equal selections of a namespace give equal variables, so pods share a ConfigMap by it. Its text is kept at the
//! ConfigMap, so that whoever keeps that up to date needs nothing else. Other namespaces' services give theirs only
//! where they offer it, and that is looked at each time. What must not go in here: how variables come into a
//! container.

use serde::{Deserialize, Serialize};

use crate::admission::ENVIRONMENT_BYTES_WARN;
use crate::admission::request::{SERVICES_MAX, is_identifier, is_label};
use crate::admission::warning::some_of;
use crate::env::{Definitions, Forms, Stemmed, Variable, definitions, mangle};
use crate::service::ServiceKey;
use crate::snapshot::Snapshot;

/// The text of a selection is no longer than this: it is an annotation of pods, and kept for as long as these live.
pub const SELECTION_BYTES_MAX: usize = 48 << 10;
/// No container starts with as much as this, so what is beyond is not even made: about so many bytes of variables.
const VARIABLES_BYTES_MAX: usize = 6 << 20;
/// What a pod's namespace must never lose: client libraries find the API server by it.
const API_SERVER: &str = "kubernetes";

/// A service that is asked for by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chosen {
    /// What its variables begin with instead of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The service.
    pub service: ServiceKey,
}

/// Whose variables, and which.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selection {
    /// None: all services of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<Chosen>>,
    /// What each name begins with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Which variables a service gives.
    #[serde(default)]
    pub forms: Forms,
    /// The most bytes of variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<usize>,
    /// Services without which there is no ConfigMap, so that containers wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wait_for: Vec<ServiceKey>,
}

impl Selection {
    /// The text that stands for it; equal selections have equal texts.
    #[must_use]
    pub fn text(&self) -> String {
        // Texts and numbers are always JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The selection that this text stands for; none: no annotation of a pod or a namespace asks for such a one.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        if text.len() > SELECTION_BYTES_MAX || !text.starts_with('{') {
            return None;
        }
        serde_json::from_str(text).ok().filter(Self::is_sound)
    }

    /// Whether it holds nothing but names, as wishes do.
    fn is_sound(&self) -> bool {
        let Self { services, prefix, forms: _, bytes_max: _, wait_for } = self;
        let is_service = |key: &ServiceKey| is_label(&key.namespace) && is_label(&key.name);
        let is_alias =
            |alias: &Option<String>| alias.as_deref().is_none_or(|alias| is_identifier(alias, "_-"));
        let services = services.as_deref().unwrap_or_default();
        (prefix.is_empty() || is_identifier(prefix, "_"))
            && services.len() <= SERVICES_MAX
            && wait_for.len() <= SERVICES_MAX
            && services.iter().all(|one| is_alias(&one.alias) && is_service(&one.service))
            && wait_for.iter().all(is_service)
    }

    /// Whether it is what the kubelet gives.
    pub(super) fn is_plain(&self) -> bool {
        self.services.is_none()
            && self.prefix.is_empty()
            && self.forms == Forms::All
            && self.bytes_max.is_none()
    }
}

/// The variables of a selection.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pub(super) variables: Vec<Variable>,
    /// The services that give them, as they were asked for, in a few words.
    pub(super) services: String,
    /// Links must stay on: without them the kubelet adds the variables of `default/kubernetes`, with them those of
    /// the namespace's own service of that name instead (kubelet_pods.go:713-718).
    pub(super) needs_links: bool,
    pub(super) warnings: Vec<String>,
}

/// The variables that a selection comes to now.
pub(super) fn rendered(snapshot: &Snapshot, namespace: &str, selection: &Selection) -> Rendered {
    let mut warnings = Vec::new();
    let (mut labels, mut services) = asked(snapshot, namespace, selection, &mut warnings);
    let beyond = services.len() - bounded(&services);
    if beyond > 0 {
        let what = "no container starts with so many variables";
        warnings.push(format!(
            "{what}: those of {beyond} services are left out, such as {}",
            labels[labels.len() - beyond]
        ));
        labels.truncate(labels.len() - beyond);
        services.truncate(services.len() - beyond);
    }
    let own = snapshot.service(&ServiceKey::new(namespace, API_SERVER));
    let own = own.filter(|service| namespace != "default" && service.cluster_ip_text.is_some());
    let needs_links = own.is_some() && selection.is_plain();
    // The kubelet gives these itself; what else would define them must not hide them (kubelet_pods.go:740-747).
    let api_server = snapshot.service(&ServiceKey::new("default", API_SERVER));
    let is_own = |named: &Stemmed<'_>| {
        own.is_some_and(|own| own.key == named.service.key && named.stem == "KUBERNETES")
    };
    let given = if needs_links { own } else { api_server };
    let reserved = given.filter(|_| !services.iter().any(is_own));
    if let Some(service) = reserved {
        labels.insert(0, String::new());
        services.insert(0, Stemmed { service, stem: mangle(API_SERVER), forms: Forms::All });
    }
    let Definitions { mut standing, clashes, unaddressable } = definitions(&services);
    if reserved.is_some() {
        standing.retain(|(place, _)| *place > 0);
    }
    for pair in clashes.chunk_by(|one, other| (&one.kept, &one.lost) == (&other.kept, &other.lost)) {
        let [first, rest @ ..] = pair else { continue };
        let (name, kept, lost) = (&first.name, &first.kept, &first.lost);
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        warnings.push(format!("{name}{more} of service {kept} stands, not that of {lost}"));
    }
    for key in unaddressable {
        warnings.push(format!("the variables of service {key} begin with a digit: a shell cannot name them"));
    }
    let given = fitting(&standing, &labels, selection.bytes_max, &mut warnings);
    let variables = standing.into_iter().filter(|(place, _)| given[*place]);
    let variables: Vec<Variable> = variables.map(|(_, variable)| variable).collect();
    let services = labels.into_iter().zip(given).filter(|(_, given)| *given).map(|(label, _)| label);
    let services = some_of(&services.collect::<Vec<_>>());
    Rendered { variables, services, needs_links, warnings }
}

/// The services that are asked for, and as what.
fn asked<'a>(
    snapshot: &'a Snapshot,
    namespace: &'a str,
    selection: &Selection,
    warnings: &mut Vec<String>,
) -> (Vec<String>, Vec<Stemmed<'a>>) {
    let stemmed = |service, name: &str| {
        let stem = [&selection.prefix, mangle(name).as_str()].concat();
        Stemmed { service, stem, forms: selection.forms }
    };
    let Some(chosen) = &selection.services else {
        let own = snapshot.services_in(namespace).filter(|service| service.cluster_ip_text.is_some());
        let but_api_server =
            own.filter(|service| *service.key.name != *API_SERVER || !selection.prefix.is_empty());
        let pairs =
            but_api_server.map(|service| (service.key.name.to_string(), stemmed(service, &service.key.name)));
        return pairs.unzip();
    };
    let mut labels = Vec::new();
    let mut services = Vec::new();
    for one in chosen {
        let label = label(one, namespace);
        match snapshot.service(&one.service).filter(|service| service.is_offered_to(namespace)) {
            None => warnings.push(format!(
                "portico.dev/services: {label} is not there, or not offered to namespace {namespace}"
            )),
            Some(service) if service.cluster_ip_text.is_none() => {
                warnings
                    .push(format!("portico.dev/services: {label} has no cluster address, so no variables"));
            }
            Some(service) => {
                services.push(stemmed(service, one.alias.as_deref().unwrap_or(&one.service.name)));
                labels.push(label);
            }
        }
    }
    (labels, services)
}

/// How many of these services, the first ones, give no more variables than may be made.
fn bounded(services: &[Stemmed<'_>]) -> usize {
    let mut left = VARIABLES_BYTES_MAX;
    let fits = |Stemmed { service, stem, forms }: &&Stemmed<'_>| {
        let variables = match forms {
            Forms::HostPort => 2,
            Forms::Named => 2 + service.ports.len(),
            Forms::All => 3 + 5 * service.ports.len(),
        };
        // The stem, what follows it, and a value.
        let fits = left.checked_sub(variables * (stem.len() + 48));
        left = fits.unwrap_or(left);
        fits.is_some()
    };
    services.iter().take_while(fits).count()
}

fn label(chosen: &Chosen, namespace: &str) -> String {
    let ServiceKey { namespace: there, name } = &chosen.service;
    let place = if **there == *namespace { name.to_string() } else { chosen.service.to_string() };
    chosen.alias.as_ref().map_or_else(|| place.clone(), |alias| format!("{alias}={place}"))
}

/// Which services give their variables: each that still fits, the first first. None gives a part of them.
fn fitting(
    standing: &[(usize, Variable)],
    labels: &[String],
    bytes_max: Option<usize>,
    warnings: &mut Vec<String>,
) -> Vec<bool> {
    let mut bytes = vec![0_usize; labels.len()];
    for (place, variable) in standing {
        // As a program gets it: NAME=value and a zero.
        bytes[*place] += variable.name.len() + variable.value.len() + 2;
    }
    let mut total = 0;
    let mut given = Vec::with_capacity(bytes.len());
    for bytes in &bytes {
        let fits = *bytes > 0 && bytes_max.is_none_or(|max| total + bytes <= max);
        total += if fits { *bytes } else { 0 };
        given.push(fits);
    }
    let left_out = (0..bytes.len()).filter(|place| bytes[*place] > 0 && !given[*place]);
    let left_out: Vec<String> = left_out.map(|place| labels[place].clone()).collect();
    if let (Some(max), false) = (bytes_max, left_out.is_empty()) {
        warnings.push(format!("portico.dev/max-bytes {max}: left out: {}", some_of(&left_out)));
    }
    if bytes_max.is_none() && total > ENVIRONMENT_BYTES_WARN {
        let cure = "portico.dev/services or portico.dev/max-bytes makes them fewer";
        warnings.push(format!(
            "the variables take {total} bytes in each container, which slows programs; {cure}"
        ));
    }
    given
}
