//! The agent's last snapshot: a pod is programmed from it while the agent is not there.
//!
//! It is the agent's own encoding, so the pod gets what the agent would have given it at that time; the
//! agent adopts it by its record. What must not go in here: services, or a choice among them.

use std::path::Path;

use agent_ipc::{Attachment, VIEW_DEFAULT, ruleset_path, with_causes};
use netns_nft::{Error, Netns, RulesetSnapshot, SnapshotError, add_service_routes};
use proxy_core::annotation::PORTALS;

use crate::conf::invalid;
use crate::failure::{Code, Failure};

/// The snapshot for a pod with this selection of services, or why there is none: only the agent knows what
/// a selection comes to.
pub(crate) fn usable(state_dir: &Path, selection: Option<&str>) -> Result<RulesetSnapshot, String> {
    if selection.is_some() {
        return Err(format!("the pod chooses its services (annotation {})", PORTALS.key));
    }
    let path = ruleset_path(state_dir, VIEW_DEFAULT);
    RulesetSnapshot::read(&path).map_err(|error| match error {
        SnapshotError::Read { .. } => with_causes(&error),
        bad => format!("{}: {bad}", path.display()),
    })
}

/// Programs a pod: its rules in one transaction, and the routes that lead to them.
pub(crate) fn program(
    netns: &Netns,
    attachment: &Attachment,
    stored: &RulesetSnapshot,
) -> Result<(), Failure> {
    let guests = attachment.guests().map_err(invalid)?;
    let programmed = || {
        netns.socket()?.apply(&stored.batch.with_guests(&guests))?;
        add_service_routes(netns, &attachment.key.interface, &attachment.addresses, &stored.ranges)
    };
    programmed().map(drop).map_err(|error: Error| {
        let code = if error.is_transient() { Code::TryAgainLater } else { Code::NotProgrammed };
        let what = attachment.netns.display();
        Failure::new(code, format!("program {what} from the snapshot: {}", with_causes(&error)))
    })
}
