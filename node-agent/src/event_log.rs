//! The log: one line for each thing that an operator would want to know afterwards, with fields.
//!
//! What must not go in here: what is worth a line; the agent says so by its notes.

use crate::event::Note;
use tracing::{error, info, warn};

/// Writes one line.
pub(crate) fn note(note: &Note) {
    match note {
        Note::Synced { services, portals } => info!(services, portals, "services and endpoints are known"),
        Note::Applied { revision, view, namespaces, failed, operations, took } => {
            let took_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
            info!(revision, %view, namespaces, failed, operations, took_ms, "applied");
        }
        Note::Attached { attachment, pod, how } => {
            info!(%attachment, pod = pod.as_deref().unwrap_or("-"), how, "attached");
        }
        Note::Detached { attachment, why } => info!(%attachment, why, "detached"),
        Note::Odd { attachment, what } => warn!(%attachment, what, "odd configuration"),
        Note::Damaged { netns, why, backoff: None } => {
            warn!(netns = netns.inode, why, "found damaged, programmed anew");
        }
        Note::Damaged { netns, why, backoff: Some(backoff) } => {
            let next_audit_in_s = backoff.as_secs();
            warn!(
                netns = netns.inode,
                why, next_audit_in_s, "found damaged again and again, programmed anew"
            );
        }
        Note::NotOnDemand(why) => {
            warn!(why, "portals cannot be programmed on demand, so all of them are");
        }
        Note::PortalsRefused { service, reasons } => {
            for (reason, portals) in reasons {
                warn!(%service, portals, reason = reason.name(), "portals refused: {reason}");
            }
        }
        Note::MovedOnDemand { pods, used, most } => {
            warn!(pods, used, most, "too little memory for full tables, so pods get portals on demand");
        }
        Note::NotRelayed { netns, message } => {
            error!(
                netns = netns.inode,
                error = message,
                "relayed portals refuse connections there, tried again later"
            );
        }
        Note::DialIgnored(service) => {
            let annotation = proxy_core::annotation::DIAL.key;
            warn!(%service, annotation, "ignored: --dial-from-node does not list the namespace; dialled from the pod");
        }
        Note::Failed { netns, message, retry_in } => {
            let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
            error!(netns = netns.inode, error = message, retry_in_ms, "failed, tried again later");
        }
        Note::Trouble(why) => {
            error!(why, "the source of services cannot be read; what was known stays in force");
        }
        Note::Refused { reason, count } => {
            warn!(
                reason,
                objects_refused = count,
                "an object cannot be used; what was known of it stays in force"
            );
        }
        Note::Recovered => info!("the source of services can be read again"),
    }
}
