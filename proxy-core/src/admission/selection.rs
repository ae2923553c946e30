//! `Selection`: the services whose variables a container gets, and the form of the variables.
//!
//! Equal selections in a namespace give equal variables, so that pods with equal selections share a ConfigMap. Its text is
//! stored with the ConfigMap, from which the controller updates the data. A service of another namespace gives variables
//! only while that namespace offers it, which `render` checks each time.

use serde::{Deserialize, Serialize};

use crate::admission::ENVIRONMENT_BYTES_WARN;
use crate::admission::rendered::RenderedVariables;
use crate::admission::request::{SERVICES_MAX, is_identifier};
use crate::admission::warning::some_of;
use crate::env::{Definitions, Forms, Variable, VariableSource, definitions, variable_name};
use crate::model::service::{ServiceKey, is_service_name};
use crate::model::snapshot::Snapshot;

/// The limit of the text of a selection, which is stored as an annotation of pods.
pub const SELECTION_BYTES_MAX: usize = 48 << 10;
/// The approximate limit of rendered variables; no container could start with more.
const VARIABLES_BYTES_MAX: usize = 6 << 20;
/// The service by which client libraries find the API server; its variables are never hidden.
const API_SERVER: &str = "kubernetes";

/// A service that an annotation names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chosen {
    /// The prefix of its variables, instead of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The service.
    pub service: ServiceKey,
}

/// The services and the form of their variables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selection {
    /// The services; none: all services of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<Chosen>>,
    /// A prefix of all names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The variables of each service.
    #[serde(default)]
    pub forms: Forms,
    /// The limit of all variables, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<usize>,
    /// Services without which the ConfigMap does not exist, so that containers wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wait_for: Vec<ServiceKey>,
}

impl Selection {
    /// Returns its text; equal selections have equal texts.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists are valid JSON")
    }

    /// Parses the text of a selection. Returns none for selections that annotations cannot request.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        if text.len() > SELECTION_BYTES_MAX || !text.starts_with('{') {
            return None;
        }
        serde_json::from_str(text).ok().filter(Self::is_valid)
    }

    /// Whether all names are valid, as in requests.
    fn is_valid(&self) -> bool {
        let Self { services, prefix, forms: _, bytes_max: _, wait_for } = self;
        let is_service = |key: &ServiceKey| is_service_name(&key.namespace) && is_service_name(&key.name);
        let is_alias =
            |alias: &Option<String>| alias.as_deref().is_none_or(|alias| is_identifier(alias, "_-"));
        let services = services.as_deref().unwrap_or_default();
        (prefix.is_empty() || is_identifier(prefix, "_"))
            && services.len() <= SERVICES_MAX
            && wait_for.len() <= SERVICES_MAX
            && services.iter().all(|chosen| is_alias(&chosen.alias) && is_service(&chosen.service))
            && wait_for.iter().all(is_service)
    }

    /// Whether it selects what the kubelet gives.
    pub(super) fn is_plain(&self) -> bool {
        self.services.is_none()
            && self.prefix.is_empty()
            && self.forms == Forms::All
            && self.bytes_max.is_none()
    }
}

/// Renders the variables of a selection at this snapshot.
#[must_use]
pub fn render(snapshot: &Snapshot, namespace: &str, selection: &Selection) -> RenderedVariables {
    let mut warnings = Vec::new();
    let (mut labels, mut services) = selected(snapshot, namespace, selection, &mut warnings);
    let within = count_within_limit(&services);
    if let Some(first) = labels.get(within) {
        let beyond = services.len() - within;
        warnings.push(format!(
            "too many variables for a container: those of {beyond} services are left out, such as {first}"
        ));
        labels.truncate(within);
        services.truncate(within);
    }
    let own = snapshot.service(&ServiceKey::new(namespace, API_SERVER));
    let own = own.filter(|service| namespace != "default" && service.cluster_ip_text.is_some());
    let needs_links = own.is_some() && selection.is_plain();
    // The kubelet gives these itself; other definitions must not hide them (kubelet_pods.go:740-747).
    let api_server = snapshot.service(&ServiceKey::new("default", API_SERVER));
    let is_own = |source: &VariableSource<'_>| {
        own.is_some_and(|own| own.key == source.service.key && source.prefix == "KUBERNETES")
    };
    let given = if needs_links { own } else { api_server };
    let reserved = given.filter(|_| !services.iter().any(is_own));
    if let Some(service) = reserved {
        labels.insert(0, String::new());
        services.insert(0, VariableSource { service, prefix: variable_name(API_SERVER), forms: Forms::All });
    }
    let Definitions { mut variables, conflicts, unaddressable } = definitions(&services);
    if reserved.is_some() {
        variables.retain(|(index, _)| *index > 0);
    }
    for pair in conflicts.chunk_by(|a, b| (&a.kept, &a.lost) == (&b.kept, &b.lost)) {
        let [first, rest @ ..] = pair else { continue };
        let (name, kept, lost) = (&first.name, &first.kept, &first.lost);
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        warnings.push(format!("{name}{more} of service {kept} takes precedence over that of {lost}"));
    }
    for key in unaddressable {
        warnings.push(format!("the variables of service {key} begin with a digit: a shell cannot name them"));
    }
    let fits = fitting(&variables, &labels, selection.bytes_max, &mut warnings);
    let variables = variables.into_iter().filter(|(index, _)| fits[*index]);
    let variables: Vec<Variable> = variables.map(|(_, variable)| variable).collect();
    let services = labels.into_iter().zip(fits).filter(|(_, fits)| *fits).map(|(label, _)| label);
    let services = some_of(&services.collect::<Vec<_>>());
    RenderedVariables::new(variables, services, needs_links, warnings)
}

/// Returns the labels of the selected services, and the services with the prefixes of their variables.
fn selected<'a>(
    snapshot: &'a Snapshot,
    namespace: &'a str,
    selection: &Selection,
    warnings: &mut Vec<String>,
) -> (Vec<String>, Vec<VariableSource<'a>>) {
    let source_of = |service, name: &str| {
        let prefix = [&selection.prefix, variable_name(name).as_str()].concat();
        VariableSource { service, prefix, forms: selection.forms }
    };
    let Some(chosen) = &selection.services else {
        let own = snapshot.services_in(namespace).filter(|service| service.cluster_ip_text.is_some());
        let without_api_server =
            own.filter(|service| *service.key.name != *API_SERVER || !selection.prefix.is_empty());
        let pairs = without_api_server
            .map(|service| (service.key.name.to_string(), source_of(service, &service.key.name)));
        return pairs.unzip();
    };
    let mut labels = Vec::new();
    let mut services = Vec::new();
    for chosen in chosen {
        let label = label(chosen, namespace);
        match snapshot.service(&chosen.service).filter(|service| service.is_offered_to(namespace)) {
            None => warnings.push(format!(
                "portico.dev/services: {label} does not exist, or is not offered to namespace {namespace}"
            )),
            Some(service) if service.cluster_ip_text.is_none() => {
                warnings
                    .push(format!("portico.dev/services: {label} has no cluster address, so no variables"));
            }
            Some(service) => {
                services.push(source_of(service, chosen.alias.as_deref().unwrap_or(&chosen.service.name)));
                labels.push(label);
            }
        }
    }
    (labels, services)
}

/// Returns how many of these services, in order, stay within the limit of rendered variables.
fn count_within_limit(services: &[VariableSource<'_>]) -> usize {
    let mut left = VARIABLES_BYTES_MAX;
    let fits = |VariableSource { service, prefix, forms }: &&VariableSource<'_>| {
        let variables = match forms {
            Forms::HostPort => 2,
            Forms::Named => 2 + service.ports.len(),
            Forms::All => 3 + 5 * service.ports.len(),
        };
        // The prefix, the rest of the name, and a value.
        let fits = left.checked_sub(variables * (prefix.len() + 48));
        left = fits.unwrap_or(left);
        fits.is_some()
    };
    services.iter().take_while(fits).count()
}

fn label(chosen: &Chosen, namespace: &str) -> String {
    let ServiceKey { namespace: other, name } = &chosen.service;
    let service = if **other == *namespace { name.to_string() } else { chosen.service.to_string() };
    chosen.alias.as_ref().map_or_else(|| service.clone(), |alias| format!("{alias}={service}"))
}

/// Returns for each service whether all its variables still fit, in order.
fn fitting(
    variables: &[(usize, Variable)],
    labels: &[String],
    bytes_max: Option<usize>,
    warnings: &mut Vec<String>,
) -> Vec<bool> {
    let mut bytes = vec![0_usize; labels.len()];
    for (index, variable) in variables {
        // As a program gets it: NAME=value and a zero.
        bytes[*index] += variable.name.len() + variable.value.len() + 2;
    }
    let mut total = 0;
    let mut given = Vec::with_capacity(bytes.len());
    for bytes in &bytes {
        let fits = *bytes > 0 && bytes_max.is_none_or(|max| total + bytes <= max);
        total += if fits { *bytes } else { 0 };
        given.push(fits);
    }
    let left_out = (0..bytes.len()).filter(|index| bytes[*index] > 0 && !given[*index]);
    let left_out: Vec<String> = left_out.map(|index| labels[index].clone()).collect();
    if let (Some(max), false) = (bytes_max, left_out.is_empty()) {
        warnings.push(format!("portico.dev/max-bytes {max}: left out: {}", some_of(&left_out)));
    }
    if bytes_max.is_none() && total > ENVIRONMENT_BYTES_WARN {
        let remedy = "portico.dev/services or portico.dev/max-bytes reduces them";
        warnings.push(format!(
            "the variables take {total} bytes in each container, which slows programs; {remedy}"
        ));
    }
    given
}
