//! `NftListing`: a table of kube-proxy, parsed from the JSON of `nft -j list table`.
//!
//! It knows the expressions that kube-proxy's nftables mode uses. Any other one fails the test, since its meaning would
//! be ignored.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_core::service::Protocol;
use serde_json::Value;

/// A part of a key of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Atom {
    Address(IpAddr),
    Protocol(Protocol),
    Port(u16),
}

/// A part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operand {
    Source,
    Destination,
    Protocol,
    Port,
    Interface,
}

/// What a rule compares a part with.
#[derive(Debug, Clone)]
pub(crate) enum Comparand {
    Set(String),
    Nets(Vec<IpNet>),
    Protocol(Protocol),
    /// The name of an interface, or its beginning and a star.
    Interface(String),
}

#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Goto(String),
    Jump(String),
    Drop,
    Reject,
}

#[derive(Debug, Clone)]
pub(crate) enum Statement {
    Match {
        left: Vec<Operand>,
        right: Comparand,
        is_negated: bool,
    },
    /// Whether the address is one of the node.
    IsLocal(Operand),
    IsNew,
    IsDnat,
    HasMark,
    SetMark,
    ClearMark,
    Lookup {
        key: Vec<Operand>,
        map: String,
    },
    RandomVerdict(Vec<Verdict>),
    Dnat(Vec<SocketAddr>),
    Masquerade,
    /// Adds the client to a set, with its timeout.
    Update(String),
    Verdict(Verdict),
}

pub(crate) type Rule = Vec<Statement>;

/// The type of a base chain, its hook, and its priority.
pub(crate) type Base = (String, String, i64);

/// A table.
#[derive(Default)]
pub(crate) struct NftListing {
    pub(crate) chains: HashMap<String, Vec<Rule>>,
    /// The names of the base chains.
    pub(crate) bases: BTreeMap<Base, String>,
    pub(crate) sets: HashMap<String, HashSet<Vec<Atom>>>,
    pub(crate) maps: HashMap<String, HashMap<Vec<Atom>, Verdict>>,
    /// The timeouts of sets, in seconds.
    pub(crate) timeouts: HashMap<String, u32>,
}

impl NftListing {
    /// Parses the output of `nft -j list table`.
    pub(crate) fn parse(json: &str) -> Self {
        let value: Value = serde_json::from_str(json).expect("JSON");
        let mut listing = Self::default();
        for object in value["nftables"].as_array().expect("a list").iter().filter_map(Value::as_object) {
            let (kind, object) = object.iter().next().expect("a kind");
            match kind.as_str() {
                "chain" => listing.add_chain(object),
                "set" => listing.add_set(object),
                "map" => {
                    let verdicts = elements(object).map(|pair| (key(element(&pair[0])), verdict(&pair[1])));
                    listing.maps.insert(text(&object["name"]), verdicts.collect());
                }
                "rule" => {
                    let rule =
                        object["expr"].as_array().expect("expressions").iter().map(statement).collect();
                    listing.chains.entry(text(&object["chain"])).or_default().push(rule);
                }
                _ => {}
            }
        }
        listing
    }

    fn add_chain(&mut self, chain: &Value) {
        let name = text(&chain["name"]);
        if let Some(priority) = chain["prio"].as_i64() {
            self.bases.insert((text(&chain["type"]), text(&chain["hook"]), priority), name.clone());
        }
        self.chains.entry(name).or_default();
    }

    fn add_set(&mut self, set: &Value) {
        let name = text(&set["name"]);
        if let Some(seconds) = set["timeout"].as_u64() {
            self.timeouts.insert(name.clone(), seconds.try_into().expect("a timeout"));
        }
        self.sets.insert(name, elements(set).map(|value| key(element(value))).collect());
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

fn elements(object: &Value) -> impl Iterator<Item = &Value> {
    object["elem"].as_array().into_iter().flatten()
}

/// Returns the value of an element, which can have a comment.
fn element(value: &Value) -> &Value {
    value.get("elem").map_or(value, |element| &element["val"])
}

fn key(value: &Value) -> Vec<Atom> {
    let parts =
        value.get("concat").and_then(Value::as_array).map_or(std::slice::from_ref(value), Vec::as_slice);
    parts.iter().map(atom).collect()
}

fn atom(value: &Value) -> Atom {
    match value {
        Value::Number(_) => Atom::Port(port(value)),
        Value::String(text) => match text.parse() {
            Ok(address) => Atom::Address(address),
            Err(_) => Atom::Protocol(protocol(text)),
        },
        other => panic!("an unknown part of a key: {other}"),
    }
}

fn port(value: &Value) -> u16 {
    value.as_u64().and_then(|port| port.try_into().ok()).unwrap_or_else(|| panic!("not a port: {value}"))
}

fn protocol(text: &str) -> Protocol {
    Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.lower() == text)
        .unwrap_or_else(|| panic!("no protocol: {text}"))
}

fn verdict(value: &Value) -> Verdict {
    let (kind, details) = value.as_object().and_then(|object| object.iter().next()).expect("a verdict");
    match kind.as_str() {
        "goto" => Verdict::Goto(text(&details["target"])),
        "jump" => Verdict::Jump(text(&details["target"])),
        "drop" => Verdict::Drop,
        "reject" => Verdict::Reject,
        _ => panic!("an unknown verdict: {value}"),
    }
}

fn statement(value: &Value) -> Statement {
    let (kind, details) = value.as_object().and_then(|object| object.iter().next()).expect("a statement");
    match kind.as_str() {
        "match" => comparison(details),
        "vmap" => lookup(details),
        "dnat" => Statement::Dnat(backends(details)),
        "masquerade" => Statement::Masquerade,
        "set" => Statement::Update(text(&details["set"]).trim_start_matches('@').to_owned()),
        "mangle" if details["value"].get("|").is_some() => Statement::SetMark,
        "mangle" if details["value"].get("^").is_some() => Statement::ClearMark,
        _ => Statement::Verdict(verdict(value)),
    }
}

fn comparison(details: &Value) -> Statement {
    let (left, right) = (&details["left"], &details["right"]);
    let is_negated = details["op"] == "!=";
    if left["ct"]["key"] == "state" && right == "new" {
        return Statement::IsNew;
    }
    if left["ct"]["key"] == "status" && right == "dnat" {
        return Statement::IsDnat;
    }
    if left["&"][0]["meta"]["key"] == "mark" && is_negated && right == 0 {
        return Statement::HasMark;
    }
    if left["fib"]["result"] == "type" && right == "local" {
        let is_source = left["fib"]["flags"][0] == "saddr";
        return Statement::IsLocal(if is_source { Operand::Source } else { Operand::Destination });
    }
    Statement::Match { left: operands(left), right: comparand(right), is_negated }
}

fn operands(value: &Value) -> Vec<Operand> {
    let parts =
        value.get("concat").and_then(Value::as_array).map_or(std::slice::from_ref(value), Vec::as_slice);
    let operand = |part: &Value| match (part["meta"]["key"].as_str(), part["payload"]["field"].as_str()) {
        (Some("l4proto"), _) => Operand::Protocol,
        (Some("iifname"), _) => Operand::Interface,
        (_, Some("saddr")) => Operand::Source,
        (_, Some("daddr")) => Operand::Destination,
        (_, Some("dport")) => Operand::Port,
        _ => panic!("an unknown part of a packet: {part}"),
    };
    parts.iter().map(operand).collect()
}

fn comparand(value: &Value) -> Comparand {
    let values = match value {
        Value::String(text) if text.starts_with('@') => return Comparand::Set(text[1..].to_owned()),
        Value::String(text) if Protocol::ALL.iter().any(|protocol| protocol.lower() == text) => {
            return Comparand::Protocol(protocol(text));
        }
        Value::String(text) if text.parse::<IpAddr>().is_err() => return Comparand::Interface(text.clone()),
        Value::Object(object) if object.contains_key("set") => {
            object["set"].as_array().expect("a set").as_slice()
        }
        other => std::slice::from_ref(other),
    };
    Comparand::Nets(values.iter().flat_map(nets).collect())
}

fn nets(value: &Value) -> Vec<IpNet> {
    let address = |value: &Value| text(value).parse::<IpAddr>().expect("an address");
    if let Some(prefix) = value.get("prefix") {
        let length = prefix["len"].as_u64().and_then(|length| length.try_into().ok()).expect("a length");
        return vec![IpNet::new(address(&prefix["addr"]), length).expect("a CIDR")];
    }
    match value.get("range") {
        Some(range) => match (address(&range[0]), address(&range[1])) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                ipnet::Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                ipnet::Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
            }
            other => panic!("a range of two families: {other:?}"),
        },
        None => vec![IpNet::from(address(value))],
    }
}

fn lookup(details: &Value) -> Statement {
    if details["key"].get("numgen").is_some() {
        let choices = details["data"]["set"].as_array().expect("verdicts");
        return Statement::RandomVerdict(choices.iter().map(|choice| verdict(&choice[1])).collect());
    }
    let map = text(&details["data"]).trim_start_matches('@').to_owned();
    Statement::Lookup { key: operands(&details["key"]), map }
}

/// Returns the backends of a translation, of which a random number selects one.
fn backends(details: &Value) -> Vec<SocketAddr> {
    let address = |value: &Value| text(value).parse::<IpAddr>().expect("an address");
    if details["port"].is_number() {
        return vec![SocketAddr::new(address(&details["addr"]), port(&details["port"]))];
    }
    let choices = details["addr"]["map"]["data"]["set"].as_array().expect("backends");
    let backend = |choice: &Value| {
        let parts = &choice[1]["concat"];
        SocketAddr::new(address(&parts[0]), port(&parts[1]))
    };
    choices.iter().map(backend).collect()
}
