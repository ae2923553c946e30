//! `Attachment`: one interface of one pod, as the plugin reports it; and `Record`: its form on disk.
//!
//! Records survive the agent: they list the network namespaces that it must program. They do not contain the rules,
//! which the agent reads from the network namespace itself.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use netns_nft::NetnsId;
use proxy_core::annotation::{DNS, GUEST_INTERFACES, PORTALS};
use proxy_core::dns::parse_dns;
use proxy_core::guest::GuestInterfaces;
use proxy_core::portals_request::PortalsRequest;
use serde::{Deserialize, Serialize};

use crate::pod_dns::PodDns;

/// The identity of an attachment, as the CNI specification defines it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentKey {
    /// The name of the CNI network.
    pub network: String,
    /// The container id.
    pub container_id: String,
    /// The interface in the pod.
    pub interface: String,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.interface)
    }
}

/// The identity of a pod, if the runtime reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The uid; empty if the runtime does not report it.
    #[serde(default)]
    pub uid: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One interface of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The identity of the attachment.
    pub key: AttachmentKey,
    /// The path of the pod's network namespace.
    pub netns: PathBuf,
    /// The pod, if known.
    #[serde(default)]
    pub pod: Option<PodName>,
    /// The addresses of the interface.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The pod's annotations with the prefix `portico.dev/`, without the prefix.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The pod's DNS configuration, if the runtime passes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<PodDns>,
    /// Warnings about the plugin's configuration, such as unknown keys.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Attachment {
    /// The portals that the pod requests.
    ///
    /// # Errors
    /// If the annotation is invalid.
    pub fn portals(&self) -> Result<PortalsRequest, String> {
        let namespace = self.pod.as_ref().map(|pod| pod.namespace.as_str());
        let text = self.annotations.get(PORTALS.name());
        text.map_or(Ok(PortalsRequest::default()), |text| PortalsRequest::parse(text, namespace))
    }

    /// Whether in-pod DNS is on for the pod; none if the pod has no annotation, so that the one of its namespace counts.
    ///
    /// # Errors
    /// If the annotation is invalid.
    pub fn dns_annotation(&self) -> Result<Option<bool>, String> {
        self.annotations.get(DNS.name()).map(|text| parse_dns(text)).transpose()
    }

    /// Whether Portico does not serve the pod, and leaves it to other service proxies.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.portals() == Ok(PortalsRequest::Off)
    }

    /// The interfaces of the pod that lead to guests, such as virtual machines.
    ///
    /// # Errors
    /// If the annotation is invalid, or contains the interface of this attachment.
    pub fn guests(&self) -> Result<GuestInterfaces, String> {
        let Some(text) = self.annotations.get(GUEST_INTERFACES.name()) else {
            return Ok(GuestInterfaces::default());
        };
        let guests = GuestInterfaces::parse(text)?;
        let interface = &self.key.interface;
        if guests.matches(interface) {
            let key = GUEST_INTERFACES.key;
            return Err(format!("annotation {key}: {interface} leads to the pod's network, not to a guest"));
        }
        Ok(guests)
    }
}

/// The program that programmed a network namespace first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgrammedBy {
    /// The agent.
    Agent,
    /// The plugin, from the agent's last snapshot.
    Plugin,
    /// Not programmed yet: the pod was started without portals.
    #[serde(rename = "nobody")]
    NotYet,
}

/// The record of an attachment on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The attachment.
    pub attachment: Attachment,
    /// The identity of the network namespace: paths and inodes are reused, cookies are not.
    pub netns_id: NetnsId,
    /// The program that programmed it first.
    #[serde(rename = "programmer")]
    pub programmed_by: ProgrammedBy,
}
