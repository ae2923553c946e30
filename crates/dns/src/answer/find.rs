//! Finds what a name stands for in the zone.
//!
//! The labels are read from the right: `svc` or `pod`, the namespace, the service, and then one label of an endpoint, or
//! two of a port and its protocol. The same function serves responses, the search list and explanations, so they agree.

use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::service::Protocol;

use super::reverse::{self, Pointer};
use crate::client::Client;
use crate::message::Name;
use crate::zone::{HostQuery, ServiceEntry, ServiceKind, Zone, parse_dashed};

/// The largest number of labels below the domain: port, protocol, service, namespace and `svc`.
const LABELS_MAX: usize = 5;

/// What a name stands for.
pub(crate) enum Finding<'a> {
    /// The name is not in the zone.
    Outside,
    /// The initial sync is not complete.
    Unsynced,
    /// The name is in the zone and does not exist.
    Absent(Absence),
    /// The name exists.
    Present(Node<'a>),
}

/// A name that exists.
pub(crate) enum Node<'a> {
    /// A name without records, with others below it.
    Empty(EmptyNode),
    /// The domain itself.
    Apex,
    /// `ns.dns`: the name server of the domain.
    NameServer,
    /// `dns-version`.
    Version,
    /// A service that is not an alias.
    Service(&'a Arc<ServiceEntry>),
    /// A named port of a service.
    Port(&'a Arc<ServiceEntry>, PortQuery<'a>),
    /// An endpoint of a service.
    Endpoint(&'a Arc<ServiceEntry>, HostQuery<'a>),
    /// A service with an external name.
    Alias(&'a Arc<ServiceEntry>, &'a Name),
    /// The record of a pod, from its name only.
    Pod(IpAddr),
    /// An address, with its names.
    Address(Vec<Pointer<'a>>),
}

/// A name without records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EmptyNode {
    /// `svc`, `pod` or `dns`.
    Root,
    /// A namespace.
    Namespace,
    /// A protocol of a service.
    Protocol,
}

/// Why a name does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// No rule of the specification has names of this form.
    Form,
    /// The namespace does not exist.
    Namespace,
    /// The service does not exist.
    Service,
    /// The pod must not see the service.
    Hidden,
    /// The external name of the service is not a domain name.
    ExternalName,
    /// The headless service has no ready endpoint.
    NoReadyEndpoint,
    /// The service has no port with this name and protocol.
    Port,
    /// The service has no ready endpoint with this label.
    Endpoint,
    /// The label is not an address, or pod records are off.
    Pod,
    /// The address is in a service range, and no service has it.
    UnusedAddress,
}

/// The port and protocol of a name such as `_http._tcp.web`. CoreDNS accepts the labels without underscores.
#[derive(Clone, Copy)]
pub(crate) struct PortQuery<'a> {
    name: &'a [u8],
    protocol: &'a [u8],
}

impl PortQuery<'_> {
    /// Whether these are the name and the protocol of a port.
    pub(crate) fn matches(&self, name: &str, protocol: Protocol) -> bool {
        !self.name.is_empty()
            && name.as_bytes().eq_ignore_ascii_case(self.name)
            && protocol.lower().as_bytes() == self.protocol
    }
}

impl Zone {
    /// Finds what a name stands for, as this client sees it.
    pub(crate) fn find<'a>(&'a self, client: &Client, name: &'a Name) -> Finding<'a> {
        let Some(domain_at) = name.suffix_at(&self.config.domain) else {
            return reverse::find(self, client, name);
        };
        if self.snapshot.is_none() {
            return Finding::Unsynced;
        }
        match self.find_below(client, name, domain_at) {
            Ok(node) => Finding::Present(node),
            Err(absence) => Finding::Absent(absence),
        }
    }

    fn find_below<'a>(&'a self, client: &Client, name: &'a Name, end: usize) -> Result<Node<'a>, Absence> {
        let bytes = name.as_bytes();
        // The positions of the labels below the domain.
        let (mut starts, mut count, mut at) = ([0; LABELS_MAX], 0, 0);
        while at < end {
            *starts.get_mut(count).ok_or(Absence::Form)? = at;
            count += 1;
            at += 1 + usize::from(bytes[at]);
        }
        let label = |number: usize| {
            let start = starts[number] + 1;
            &bytes[start..start + usize::from(bytes[start - 1])]
        };
        match count {
            0 => return Ok(Node::Apex),
            1 if label(0) == b"dns-version" => return Ok(Node::Version),
            2 if (label(0), label(1)) == (b"ns", b"dns") => return Ok(Node::NameServer),
            _ => {}
        }
        let is_pod = match label(count - 1) {
            b"svc" => false,
            b"pod" => true,
            b"dns" if count == 1 => return Ok(Node::Empty(EmptyNode::Root)),
            _ => return Err(Absence::Form),
        };
        if count == 1 {
            return Ok(Node::Empty(EmptyNode::Root));
        }
        if is_pod {
            return self.find_pod(label(count - 2), (count == 3).then(|| label(0)), count);
        }
        if count == 2 {
            self.require_namespace(label(0))?;
            return Ok(Node::Empty(EmptyNode::Namespace));
        }
        let entry = self.find_service(client, &bytes[starts[count - 3]..starts[count - 1]])?;
        let entry = entry.ok_or_else(|| match self.require_namespace(label(count - 2)) {
            Ok(()) => Absence::Service,
            Err(absence) => absence,
        })?;
        match count {
            3 => service_node(entry),
            4 => self.endpoint_node(entry, label(0)),
            _ => self.port_node(entry, label(0), label(1)),
        }
    }

    fn find_service(&self, client: &Client, labels: &[u8]) -> Result<Option<&Arc<ServiceEntry>>, Absence> {
        match self.index.service(labels) {
            Some(entry) if !client.view.includes(&entry.service.key) => Err(Absence::Hidden),
            found => Ok(found),
        }
    }

    fn require_namespace(&self, label: &[u8]) -> Result<(), Absence> {
        let has = |name| self.snapshot.as_ref().is_some_and(|snapshot| snapshot.has_namespace(name));
        std::str::from_utf8(label).is_ok_and(has).then_some(()).ok_or(Absence::Namespace)
    }

    fn find_pod<'a>(
        &self,
        namespace: &[u8],
        label: Option<&[u8]>,
        count: usize,
    ) -> Result<Node<'a>, Absence> {
        if !self.config.has_pod_records {
            return Err(Absence::Pod);
        }
        self.require_namespace(namespace)?;
        match label {
            _ if count == 2 => Ok(Node::Empty(EmptyNode::Namespace)),
            Some(label) => {
                parse_dashed(label).map(|address| Node::Pod(address.to_canonical())).ok_or(Absence::Pod)
            }
            None => Err(Absence::Form),
        }
    }

    /// CoreDNS also has names for the endpoints of services with a cluster address.
    fn endpoint_node<'a>(&self, entry: &'a Arc<ServiceEntry>, label: &'a [u8]) -> Result<Node<'a>, Absence> {
        if matches!(entry.kind, ServiceKind::External(_)) {
            return Err(Absence::Endpoint);
        }
        // A protocol that has ports below it is an empty name (RFC 8020), which resolvers that minimise names ask for.
        if let Some(protocol) = label.strip_prefix(b"_") {
            let is_named = |name: &str, own: Protocol| !name.is_empty() && own.lower().as_bytes() == protocol;
            let has_port = entry.any_port(&self.config, is_named);
            return has_port.then_some(Node::Empty(EmptyNode::Protocol)).ok_or(Absence::Endpoint);
        }
        let host = HostQuery::new(label);
        let exists = entry.ready().any(|(_, endpoint)| host.matches(endpoint));
        exists.then_some(Node::Endpoint(entry, host)).ok_or(Absence::Endpoint)
    }

    fn port_node<'a>(
        &self,
        entry: &'a Arc<ServiceEntry>,
        port: &'a [u8],
        protocol: &'a [u8],
    ) -> Result<Node<'a>, Absence> {
        let strip = |label: &'a [u8]| label.strip_prefix(b"_").unwrap_or(label);
        let port = PortQuery { name: strip(port), protocol: strip(protocol) };
        let exists = entry.any_port(&self.config, |name, protocol| port.matches(name, protocol));
        exists.then_some(Node::Port(entry, port)).ok_or(Absence::Port)
    }
}

fn service_node(entry: &Arc<ServiceEntry>) -> Result<Node<'_>, Absence> {
    match &entry.kind {
        ServiceKind::ClusterIp(_) => Ok(Node::Service(entry)),
        ServiceKind::Headless { v4, v6 } if v4.is_empty() && v6.is_empty() => Err(Absence::NoReadyEndpoint),
        ServiceKind::Headless { .. } => Ok(Node::Service(entry)),
        ServiceKind::External(Some(target)) => Ok(Node::Alias(entry, target)),
        ServiceKind::External(None) => Err(Absence::ExternalName),
    }
}
