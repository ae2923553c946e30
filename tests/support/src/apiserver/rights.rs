//! Compares the calls to a server with the rights that roles grant, in both directions.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::double::query;
use super::kind::Target;

/// A call of a client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiCall {
    verb: &'static str,
    group: String,
    resource: &'static str,
    /// `None` for all namespaces and for a cluster-scoped resource.
    namespace: Option<String>,
    /// `None` for all objects.
    name: Option<String>,
}

impl ApiCall {
    /// Returns the call of a request, or `None` if it needs no rights.
    pub fn of(method: &str, uri: &str) -> Option<Self> {
        let (path, query_text) = uri.split_once('?').unwrap_or((uri, ""));
        let query = query(query_text);
        let Target { kind, namespace, name } = Target::at(path)?;
        let group = kind.api_version().split_once('/').map_or("", |(group, _)| group).to_owned();
        let verb = match method {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            "GET" if query("watch") == "true" => "watch",
            "GET" if name.is_some() => "get",
            "GET" => "list",
            other => panic!("unsupported request {other} {uri}"),
        };
        // A list that selects one object by its name is covered by a grant of that name.
        let selected = query("fieldSelector").strip_prefix("metadata.name=").map(str::to_owned);
        Some(Self { verb, group, resource: kind.resource, namespace, name: name.or(selected) })
    }
}

impl fmt::Display for ApiCall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, namespace, name } = self;
        write!(out, "{verb} {resource}.{group} in {namespace:?} named {name:?}")
    }
}

/// One verb on one resource that is granted to an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    pub verb: String,
    group: String,
    pub resource: String,
    /// `None` for all namespaces.
    namespace: Option<String>,
    /// Empty for all objects.
    names: Vec<String>,
}

impl Grant {
    /// Returns the grants of a service account by the roles among these objects.
    pub fn all(objects: &[Value], account: &str) -> BTreeSet<Self> {
        let texts = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
        };
        let is_bound = |binding: &&Value| {
            let subjects = binding["subjects"].as_array().into_iter().flatten();
            subjects
                .into_iter()
                .any(|subject| subject["kind"] == "ServiceAccount" && subject["name"] == account)
        };
        let mut granted = BTreeSet::new();
        for binding in objects.iter().filter(is_bound) {
            let (kind, name) = (&binding["roleRef"]["kind"], &binding["roleRef"]["name"]);
            let namespace = binding["metadata"]["namespace"].as_str().map(str::to_owned);
            let is_role = |object: &&Value| object["kind"] == *kind && object["metadata"]["name"] == *name;
            let role = objects.iter().find(is_role).unwrap_or_else(|| panic!("no {kind} {name}"));
            for rule in role["rules"].as_array().expect("rules") {
                for (group, resource, verb) in texts(&rule["apiGroups"]).iter().flat_map(|group| {
                    let pairs = texts(&rule["resources"]).into_iter().flat_map(|resource| {
                        texts(&rule["verbs"]).into_iter().map(move |verb| (resource.clone(), verb))
                    });
                    pairs.map(move |(resource, verb)| (group.clone(), resource, verb)).collect::<Vec<_>>()
                }) {
                    let names = texts(&rule["resourceNames"]);
                    granted.insert(Self { verb, group, resource, namespace: namespace.clone(), names });
                }
            }
        }
        granted
    }

    /// Whether the grant allows a call.
    fn allows(&self, call: &ApiCall) -> bool {
        let Self { verb, group, resource, namespace, names } = self;
        let is_named = |name: &String| names.contains(name);
        *verb == call.verb
            && *group == call.group
            && *resource == call.resource
            && (namespace.is_none() || *namespace == call.namespace)
            && (names.is_empty() || call.name.as_ref().is_some_and(is_named))
    }
}

/// Returns the calls that are not granted.
pub fn not_granted<'a>(calls: &'a BTreeSet<ApiCall>, grants: &BTreeSet<Grant>) -> Vec<&'a ApiCall> {
    calls.iter().filter(|call| !grants.iter().any(|grant| grant.allows(call))).collect()
}

/// Returns the grants without a call.
pub fn not_called<'a>(calls: &BTreeSet<ApiCall>, grants: &'a BTreeSet<Grant>) -> Vec<&'a Grant> {
    grants.iter().filter(|grant| !calls.iter().any(|call| grant.allows(call))).collect()
}

#[test]
fn grant_by_name_or_namespace_allows_nothing_else() {
    let rule = |names: &[&str], namespace: Option<&str>| Grant {
        verb: "list".to_owned(),
        group: String::new(),
        resource: "secrets".to_owned(),
        namespace: namespace.map(str::to_owned),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let call = |uri: &str| ApiCall::of("GET", uri).expect("a resource");
    let one = call("/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Dx");
    let all = call("/api/v1/secrets");
    assert!(rule(&["x"], Some("a")).allows(&one) && rule(&[], None).allows(&one));
    assert!(!rule(&["y"], None).allows(&one) && !rule(&[], Some("b")).allows(&one));
    assert!(
        rule(&[], None).allows(&all)
            && !rule(&["x"], None).allows(&all)
            && !rule(&[], Some("a")).allows(&all)
    );
    assert!(!rule(&[], None).allows(&call("/api/v1/secrets?watch=true")));
    assert_eq!(ApiCall::of("GET", "/version"), None);
}
