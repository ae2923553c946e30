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
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent_ipc::{OutgoingAgent, Reply, SocketOwnership, request_handover};
use anyhow::{Context, bail};
use daemon::Shutdown;
use relay::Relay;
use tokio::sync::oneshot;

use crate::message::HandoverRequest;

/// The time in which the previous agent must finish its running jobs.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests a handover from the running agent, if there is one.
pub(crate) fn request(socket: &Path) -> anyhow::Result<Option<OutgoingAgent>> {
    let predecessor = request_handover(socket, HANDOVER_TIMEOUT).context("failed to take over")?;
    match predecessor {
        Some(_) => tracing::info!("previous agent handed over"),
        None => tracing::info!("no previous agent found"),
    }
    Ok(predecessor)
}

/// Hands over to another agent, and stands by until a shutdown is requested.
pub(crate) async fn hand_over(
    HandoverRequest { reply, is_served }: HandoverRequest,
    ownership: SocketOwnership,
    relay: &Arc<Relay>,
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
    relay.shut_down(drain).await;
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
