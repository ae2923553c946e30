//! The attachment of a call, and the pod's network namespace.
//!
//! Both combine the environment (`cni_args`) and the configuration (`conf`), which do not depend on each other.

use std::path::Path;

use agent_ipc::{Attachment, AttachmentKey};
use netns_nft::Netns;
use support::with_causes;

use crate::cni_args::CniArgs;
use crate::conf::Conf;
use crate::error::{CniError, Code};

pub(crate) fn attachment_key(args: &CniArgs, conf: &Conf<'_>) -> Result<AttachmentKey, CniError> {
    Ok(AttachmentKey {
        network: conf.network()?,
        container_id: args.container_id.clone(),
        interface: args.interface.clone(),
    })
}

pub(crate) fn attachment(args: &CniArgs, conf: &Conf<'_>) -> Result<Attachment, CniError> {
    let (addresses, mut notes) = conf.prev_result()?.addresses(&args.interface)?;
    notes.extend(conf.unknown_keys());
    let (dns, dns_notes) = conf.dns()?;
    notes.extend(dns_notes);
    Ok(Attachment {
        key: attachment_key(args, conf)?,
        netns: args.netns.clone(),
        pod: args.pod(),
        addresses,
        annotations: conf.annotations()?,
        dns,
        notes,
    })
}

/// Opens the pod's network namespace. The plugin's own one is rejected before anything is done in it.
pub(crate) fn open_netns(path: &Path) -> Result<Netns, CniError> {
    Netns::open(path).map_err(|error| {
        let code = if error.is_transient() { Code::TryAgainLater } else { Code::InvalidNetns };
        CniError::new(code, format!("CNI_NETNS {}: {}", path.display(), with_causes(&error)))
    })
}
