//! Explains an answer: the object from which it comes, and the rule.
//!
//! The rule is a section of the specification of DNS-based service discovery (kubernetes/dns, docs/specification.md), or
//! a convention of CoreDNS. An explanation uses the functions that answer queries, so it agrees with the response.

use std::fmt;

use proxy_core::dns::DnsEndpoints;

use crate::answer::{Absence, Answered, EmptyNode, Finding, Node};
use crate::client::Client;
use crate::message::{Name, Query, RecordType, Records, TC, Transport, encode_query};
use crate::zone::{ServiceEntry, ServiceKind, Zone};

/// Why a question has its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The outcome, without a response.
    pub answered: Answered,
    /// The object from which the answer comes, such as `service default/web`.
    pub object: Option<String>,
    /// The rule.
    pub rule: String,
    /// The records of the response, as in zone files.
    pub records: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match &self.answered {
            Answered::Records => "NOERROR".to_owned(),
            Answered::NoData => "NODATA: the name exists, without records of this type".to_owned(),
            Answered::NxDomain => "NXDOMAIN: the name does not exist".to_owned(),
            Answered::Refused => "REFUSED".to_owned(),
            Answered::NotSynced => "SERVFAIL: the initial sync is not complete".to_owned(),
            Answered::Upstream => "forwarded to an upstream".to_owned(),
            Answered::External(external) => {
                format!("alias; {} is forwarded to an upstream", external.target())
            }
        };
        writeln!(f, "{outcome}")?;
        if let Some(object) = &self.object {
            writeln!(f, "object: {object}")?;
        }
        writeln!(f, "rule: {}", self.rule)?;
        self.records.iter().try_for_each(|record| writeln!(f, "{record}"))
    }
}

/// Returns the records of a message, other than OPT, as in zone files. Those after a malformed record are omitted.
#[must_use]
pub fn record_texts(message: &[u8]) -> Vec<String> {
    let records = Records::new(message).into_iter().flatten().flatten();
    records.filter(|record| record.record_type != RecordType::OPT).map(|record| record.to_string()).collect()
}

/// Whether a message lacks records, because it would be too long.
#[must_use]
pub fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & TC != 0)
}

impl Zone {
    /// Explains the answer to a question of a client.
    #[must_use]
    pub fn explain(&self, client: &Client, name: &Name, record_type: RecordType) -> Explanation {
        let bytes = encode_query(0, name, record_type);
        let mut response = Vec::new();
        let answered = match Query::parse(&bytes) {
            Ok(query) => self.answer(client, &query, Transport::Tcp, 0, &mut response),
            Err(_) => Answered::Refused,
        };
        let records = match answered {
            Answered::Upstream | Answered::External(_) => Vec::new(),
            _ => record_texts(&response),
        };
        let finding = self.find(client, name);
        let (object, rule) = match &answered {
            Answered::Refused => (None, "class IN and types of records only".to_owned()),
            _ => (self.object_of(&finding), self.rule_of(&finding)),
        };
        Explanation { answered, object, rule, records }
    }

    fn object_of(&self, finding: &Finding<'_>) -> Option<String> {
        let Finding::Present(node) = finding else { return None };
        let service = |entry: &ServiceEntry| format!("service {}", entry.service.key);
        match node {
            Node::Service(entry) | Node::Port(entry, _) | Node::Alias(entry, _) => Some(service(entry)),
            Node::Endpoint(entry, host) => {
                let mut endpoints = entry.ready().filter(|(_, endpoint)| host.matches(endpoint));
                let address = endpoints.next().map(|(_, endpoint)| endpoint.address)?;
                Some(format!("{}, endpoint {address}", service(entry)))
            }
            Node::Address(pointers) => pointers.first().map(|pointer| service(pointer.entry)),
            Node::NameServer => Some(format!("service {}", self.config().dns_service)),
            Node::Empty(_) | Node::Apex | Node::Version | Node::Pod(_) => None,
        }
    }

    fn rule_of(&self, finding: &Finding<'_>) -> String {
        match finding {
            Finding::Outside => "the name is not in the zone".to_owned(),
            Finding::Unsynced => "the initial sync is not complete".to_owned(),
            Finding::Absent(absence) => self.absence_rule(*absence).to_owned(),
            Finding::Present(node) => presence_rule(node),
        }
    }

    fn absence_rule(&self, absence: Absence) -> &'static str {
        match absence {
            Absence::Form => "the specification has no name of this form",
            Absence::Namespace => "the namespace does not exist",
            Absence::Service => "the service does not exist",
            Absence::Hidden => "the annotation portico.dev/portals of the pod hides the service",
            Absence::ExternalName => "the external name of the service is not a domain name",
            Absence::NoReadyEndpoint => "specification 2.4.1: the headless service has no ready endpoint",
            Absence::Port => {
                "specification 2.3.2 and 2.4.2: the service has no port with this name and protocol"
            }
            Absence::Endpoint => "specification 2.4.1: the service has no ready endpoint with this hostname",
            Absence::Pod if self.config().has_pod_records => "the label is not an address with dashes",
            Absence::Pod => "names of pods are off",
            Absence::UnusedAddress => "the address is in a service range, and no service has it",
        }
    }
}

fn presence_rule(node: &Node<'_>) -> String {
    let rule = match node {
        Node::Empty(EmptyNode::Root) => "CoreDNS: names of the schema exist, without records",
        Node::Empty(EmptyNode::Namespace) => "CoreDNS: namespaces exist, without records",
        Node::Empty(EmptyNode::Protocol) => "RFC 8020: a name with names below it exists",
        Node::Apex => "the domain of the cluster",
        Node::NameServer => "CoreDNS: the name server of the domain has the addresses of the DNS service",
        Node::Version => "specification 2.2: the version of the schema",
        Node::Service(entry) => return service_rule(entry),
        Node::Port(entry, _) if is_headless(entry) => "specification 2.4.2: a named port of ready endpoints",
        Node::Port(..) => "specification 2.3.2: a named port of a service",
        Node::Endpoint(entry, _) if is_headless(entry) => {
            "specification 2.4.1: the hostname of a ready endpoint"
        }
        Node::Endpoint(..) => "CoreDNS: an endpoint of a service with a cluster address",
        Node::Alias(..) => "specification 2.5: the external name of a service",
        Node::Pod(_) => "CoreDNS: the name of a pod is its address, whether or not it exists",
        Node::Address(pointers) if pointers.iter().all(|pointer| pointer.host.is_none()) => {
            "specification 2.3.3: the cluster address of a service"
        }
        Node::Address(_) => "specification 2.4.3: the address of ready endpoints",
    };
    rule.to_owned()
}

fn is_headless(entry: &ServiceEntry) -> bool {
    matches!(entry.kind, ServiceKind::Headless { .. })
}

fn service_rule(entry: &ServiceEntry) -> String {
    if !is_headless(entry) {
        return "specification 2.3.1: the cluster addresses of a service".to_owned();
    }
    let selection = match (entry.selection, entry.service.dns_endpoints) {
        (DnsEndpoints::Node, _) => "ready endpoints on this node",
        (DnsEndpoints::Zone, _) => "ready endpoints in the zone of this node",
        (DnsEndpoints::All, DnsEndpoints::All) => "ready endpoints",
        (DnsEndpoints::All, DnsEndpoints::Node) => "all ready endpoints, because none is on this node",
        (DnsEndpoints::All, DnsEndpoints::Zone) => {
            "all ready endpoints, because none is in the zone of this node"
        }
    };
    format!("specification 2.4.1: a headless service has the addresses of its {selection}")
}
