//! `Attachment`: what the plugin knows of one interface of one pod, and `Record`: what stands on disk.
//!
//! Records outlive the agent: they say which network namespaces are to be kept right. What must not go in
//! here: what is in such a namespace; the namespace itself is the truth about that.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use netns_nft::NetnsId;
use proxy_core::annotation::{GUEST_INTERFACES, PORTALS};
use proxy_core::guest::GuestInterfaces;
use serde::{Deserialize, Serialize};

/// The identity of an attachment, as CNI defines it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentKey {
    /// The name of the CNI network.
    pub network: String,
    /// The container id.
    pub container_id: String,
    /// The interface within the pod.
    pub interface: String,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.interface)
    }
}

/// The choice of all services, as where the pod has no annotation `PORTALS`.
pub const PORTALS_ALL: &str = "all";

/// Which pod it is, where the runtime says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id; empty where the runtime does not tell.
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
    /// Its identity.
    pub key: AttachmentKey,
    /// Where the runtime keeps the pod's network namespace.
    pub netns: PathBuf,
    /// The pod, where it is known.
    #[serde(default)]
    pub pod: Option<PodName>,
    /// The interface's own addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The pod's annotations that begin with `portico.dev/`, without that.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// What the operator should know of the plugin's configuration: keys that mean nothing to it.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Attachment {
    /// The services that the pod chooses; none: all.
    #[must_use]
    pub fn selection(&self) -> Option<&str> {
        self.annotations.get(PORTALS.name()).map(|text| text.trim()).filter(|text| *text != PORTALS_ALL)
    }

    /// The interfaces of the pod behind which guests are.
    ///
    /// # Errors
    /// Where the annotation cannot be read, or names the interface of this attachment.
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

/// Who programmed a network namespace first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgrammedBy {
    /// The agent.
    Agent,
    /// The plugin, from the agent's last snapshot.
    Plugin,
    /// Nobody yet: the pod was let go on without portals.
    #[serde(rename = "nobody")]
    NotYet,
}

/// What is written down about an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The attachment.
    pub attachment: Attachment,
    /// Which network namespace was behind the path: paths and inodes come again, this does not.
    pub netns_id: NetnsId,
    /// Who programmed it.
    #[serde(rename = "programmer")]
    pub programmed_by: ProgrammedBy,
}
