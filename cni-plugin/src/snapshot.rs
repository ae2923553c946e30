//! Programs a pod from the agent's last ruleset snapshot if no agent is running.
//!
//! The agent has encoded the snapshot, so the pod gets what the agent would have programmed at that time. The agent
//! recovers the attachment from its record when it starts.

use std::path::Path;

use agent_ipc::{Attachment, VIEW_DEFAULT, ruleset_path};
use netns_nft::{Error, Netns, RulesetSnapshot, SnapshotError, add_service_routes};
use proxy_core::annotation::PORTALS;
use proxy_core::portals_request::PortalsRequest;
use support::with_causes;

use crate::error::{CniError, Code};
use crate::json::invalid;

/// Reads the snapshot for a pod. It fails with the reason if there is no usable one: only the agent can compute a
/// selection of services.
pub(crate) fn read_for(state_dir: &Path, attachment: &Attachment) -> Result<RulesetSnapshot, String> {
    if attachment.portals() != Ok(PortalsRequest::All) {
        return Err(format!("the pod selects services (annotation {})", PORTALS.key));
    }
    read(state_dir)
}

/// Reads the snapshot. It fails with the reason if there is no usable one.
pub(crate) fn read(state_dir: &Path) -> Result<RulesetSnapshot, String> {
    let path = ruleset_path(state_dir, VIEW_DEFAULT);
    RulesetSnapshot::read(&path).map_err(|error| match error {
        SnapshotError::Read { .. } => with_causes(&error),
        invalid => format!("{}: {invalid}", path.display()),
    })
}

/// Programs a pod: applies the ruleset in one transaction, and adds the routes to the service ranges.
pub(crate) fn program(
    netns: &Netns,
    attachment: &Attachment,
    snapshot: &RulesetSnapshot,
) -> Result<(), CniError> {
    let guests = attachment.guests().map_err(invalid)?;
    let program = || {
        netns.socket()?.apply(&snapshot.batch.with_guests(&guests))?;
        add_service_routes(netns, &attachment.key.interface, &attachment.addresses, &snapshot.ranges)
    };
    program().map(drop).map_err(|error: Error| {
        let code = if error.is_transient() { Code::TryAgainLater } else { Code::NotProgrammed };
        let path = attachment.netns.display();
        CniError::new(code, format!("failed to program {path} from the snapshot: {}", with_causes(&error)))
    })
}
