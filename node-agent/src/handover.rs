//! The handover from one agent to the next, without refused connections.
//!
//! ```text
//! new agent: requests a handover              old agent: finishes its jobs, releases the socket, keeps relaying
//! new agent: takes the socket, recovers, programs, listens
//! new agent: is ready; closes the connection  old agent: accepts no new connections, drains, waits on standby
//! ```
//! The agent on standby restarts when the socket is released again, so that a failed upgrade leaves no node without an
//! agent.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent_ipc::{OutgoingAgent, Reply, SocketOwnership, request_handover};
use anyhow::{Context, bail};
use daemon::Shutdown;
use dns_server::DnsServer;
use relay::Relay;
use support::with_causes;
use tokio::sync::oneshot;

use crate::message::HandoverRequest;
use crate::pod_dns::DRAIN_TIMEOUT;

/// The time in which the previous agent must finish its running jobs.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time in which the previous agent must send its DNS sockets.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests a handover from the running agent, if there is one.
pub(crate) fn request(socket: &Path) -> anyhow::Result<Option<OutgoingAgent>> {
    let predecessor = request_handover(socket, HANDOVER_TIMEOUT).context("failed to take over")?;
    match predecessor {
        Some(_) => tracing::info!("previous agent handed over"),
        None => tracing::info!("no previous agent found"),
    }
    Ok(predecessor)
}

/// Receives the DNS sockets of the previous agent, if it serves pods.
pub(crate) fn inherit_dns(predecessor: &OutgoingAgent, server: &DnsServer) {
    let inherited = predecessor
        .request_dns(DNS_TIMEOUT)
        .map(|socket| socket.map_or(Ok(()), |socket| server.inherit(socket.as_fd())));
    match inherited {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "failed to receive DNS sockets of the previous agent"),
        Err(error) => {
            tracing::warn!(
                error = with_causes(&error),
                "failed to request DNS sockets of the previous agent"
            );
        }
    }
}

/// The parts of an agent that serve clients until the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutgoingServers<'a> {
    pub(crate) relay: &'a Arc<Relay>,
    pub(crate) dns: Option<&'a Arc<DnsServer>>,
}

impl OutgoingServers<'_> {
    /// Serves what was accepted, and ends. With `is_last`, no other agent serves the pods.
    pub(crate) async fn shut_down(self, is_last: bool, drain: Duration) {
        let dns = self.dns.cloned();
        let drain_dns = tokio::task::spawn_blocking(move || {
            dns.inspect(|dns| dns.drain(is_last, DRAIN_TIMEOUT.min(drain)));
        });
        self.relay.shut_down(drain).await;
        let _ = drain_dns.await;
    }
}

/// Hands over to another agent, and stands by until a shutdown is requested.
pub(crate) async fn hand_over(
    HandoverRequest { reply, is_served }: HandoverRequest,
    ownership: SocketOwnership,
    servers: OutgoingServers<'_>,
    drain: Duration,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    ownership.release().context("failed to release the agent's socket")?;
    // If the other agent has exited, a third one takes the socket, or this one does.
    let _ = reply.send(Reply::Done);
    tracing::info!("handing over to a new agent; relaying until it is ready");
    tokio::select! {
        _ = is_served => {}
        () = shutdown.requested() => {}
    }
    servers.shut_down(false, drain).await;
    tracing::info!("handover complete; standing by until the new agent exits");
    tokio::select! {
        () = shutdown.requested() => Ok(()),
        acquired = wait_for_socket(ownership) => {
            acquired?;
            match restart()? {}
        }
    }
}

/// Waits until the socket is released. The wait cannot be cancelled, so it runs on a detached thread.
async fn wait_for_socket(ownership: SocketOwnership) -> anyhow::Result<()> {
    let (sender, acquired) = oneshot::channel();
    let wait = move || {
        // The receiver is dropped if a shutdown is requested.
        let _ = sender.send(ownership.acquire());
    };
    thread::Builder::new()
        .name("standby".to_owned())
        .spawn(wait)
        .context("failed to start standby thread")?;
    match acquired.await {
        Ok(acquired) => acquired.context("failed to acquire the agent's socket"),
        Err(_) => bail!("failed to acquire the agent's socket: the standby thread has ended"),
    }
}

/// Replaces this process by the same program with the same arguments.
fn restart() -> anyhow::Result<Infallible> {
    tracing::info!("new agent exited; restarting");
    let error = Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
    Err(error).context("failed to restart")
}
