//! Attachments and network namespaces for unit tests.

use std::collections::BTreeMap;

use agent_ipc::{Attachment, AttachmentKey, PodName};
use netns_nft::NetnsId;

/// An attachment of a pod of this name.
pub(crate) fn attachment(name: &str) -> Attachment {
    Attachment {
        key: key(name),
        netns: format!("/run/netns/{name}").into(),
        pod: Some(PodName { namespace: "default".to_owned(), name: name.to_owned(), uid: String::new() }),
        addresses: vec!["10.1.0.9".parse().expect("an address")],
        annotations: BTreeMap::new(),
        dns: None,
        notes: Vec::new(),
    }
}

/// The key of the attachment of this name.
pub(crate) fn key(name: &str) -> AttachmentKey {
    AttachmentKey { network: "net".to_owned(), container_id: name.to_owned(), interface: "eth0".to_owned() }
}

/// The identity of a network namespace.
pub(crate) fn netns(number: u64) -> NetnsId {
    NetnsId { dev: 4, inode: number, cookie: number }
}
