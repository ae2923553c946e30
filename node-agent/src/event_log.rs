//! The log messages of the reconciler: one line per event, with its data in fields.

use tracing::{error, info, warn};

use crate::event::LogEvent;

/// Writes one log message.
pub(crate) fn log(event: &LogEvent) {
    match event {
        LogEvent::Synced { services, portals } => info!(services, portals, "initial sync complete"),
        LogEvent::Applied { revision, view, namespaces, failed, operations, took } => {
            let took_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
            info!(revision, %view, namespaces, failed, operations, took_ms, "applied");
        }
        LogEvent::Attached { attachment, pod, how } => {
            info!(%attachment, pod = pod.as_deref().unwrap_or("-"), how, "attached");
        }
        LogEvent::Detached { attachment, why } => info!(%attachment, why, "detached"),
        LogEvent::SuspiciousConfig { attachment, what } => {
            warn!(%attachment, what, "suspicious configuration");
        }
        LogEvent::Drift { netns, why, backoff: None } => {
            warn!(netns = netns.inode, why, "ruleset drift detected; reprogramming");
        }
        LogEvent::Drift { netns, why, backoff: Some(backoff) } => {
            let next_audit_in_s = backoff.as_secs();
            warn!(
                netns = netns.inode,
                why, next_audit_in_s, "repeated ruleset drift detected; reprogramming"
            );
        }
        LogEvent::OnDemandUnavailable(why) => {
            warn!(why, "on-demand mode unavailable; programming all portals");
        }
        LogEvent::PortalsRefused { service, reasons } => {
            for (reason, portals) in reasons {
                warn!(%service, portals, reason = reason.name(), "portals refused: {reason}");
            }
        }
        LogEvent::MovedOnDemand { pods, used_bytes, max_bytes } => {
            warn!(pods, used_bytes, max_bytes, "tables exceed the memory budget; pods get portals on demand");
        }
        LogEvent::DnsFailed { netns, error } => {
            tracing::warn!(
                netns = netns.inode,
                error,
                "failed to serve DNS in pod; it uses the cluster's DNS servers"
            );
        }
        LogEvent::RelayUnavailable { netns, message } => {
            error!(
                netns = netns.inode,
                error = message,
                "relay cannot listen; relayed portals refuse connections; will retry"
            );
        }
        LogEvent::DialIgnored(service) => {
            let annotation = proxy_core::annotation::DIAL.key;
            warn!(
                %service,
                annotation,
                "annotation ignored: --dial-from-node does not list the namespace; dialling from the pod"
            );
        }
        LogEvent::JobFailed { netns, message, retry_in } => {
            let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
            error!(netns = netns.inode, error = message, retry_in_ms, "update failed; will retry");
        }
        LogEvent::SourceOutage(why) => error!(why, "service source unavailable; keeping last known state"),
        LogEvent::ObjectRejected { reason, count } => {
            warn!(reason, objects_rejected = count, "object rejected; keeping its last valid state");
        }
        LogEvent::SourceRecovered => info!("service source recovered"),
    }
}
