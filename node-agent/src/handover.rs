//! How one agent takes over from another, so that no connection is refused meanwhile.
//!
//! ```text
//! new: asks the old one to retire                 old: ends its work, gives up its place, goes on relaying
//! new: takes the place, adopts, programs, listens beside the old one
//! new: everything is served; ends the conversation      old: takes no new connections, drains, waits in reserve
//! ```
//! The one in reserve begins anew where the place becomes free again: an upgrade that fails leaves no node without an
//! agent. What must not go in here: what an agent does.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent_ipc::{OutgoingAgent, Reply, SocketOwnership, request_handover};
use anyhow::{Context, bail};
use relay::Relay;
use tokio::sync::oneshot;

use crate::event_loop::HandoverRequest;
use daemon::Shutdown;

/// The old agent ends the work that it has begun, and no more.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the agent that is there retire, if there is one.
pub(crate) fn succeed(socket: &Path) -> anyhow::Result<Option<OutgoingAgent>> {
    let predecessor =
        request_handover(socket, HANDOVER_TIMEOUT).context("take over from the agent that is there")?;
    match predecessor {
        Some(_) => tracing::info!("the agent that was here has retired"),
        None => tracing::info!("no agent was here to take over from"),
    }
    Ok(predecessor)
}

/// Leaves the place to another agent, and waits in reserve until it is to stop.
pub(crate) async fn leave(
    HandoverRequest { reply, is_served }: HandoverRequest,
    claim: SocketOwnership,
    relay: &Arc<Relay>,
    drain: Duration,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    claim.release().context("give up the place of the agent")?;
    // Where the other one is gone, somebody else takes the place, or we do.
    let _ = reply.send(Reply::Done);
    tracing::info!("another agent takes over; relaying until it serves everything");
    tokio::select! {
        _ = is_served => {}
        () = shutdown.requested() => {}
    }
    relay.shut_down(drain).await;
    tracing::info!("retired; in reserve until the other agent ends");
    tokio::select! {
        () = shutdown.requested() => Ok(()),
        free = place(claim) => {
            free?;
            match begin_anew()? {}
        }
    }
}

/// Waits until the place is free. Nothing ends this wait but that, so it is on a thread that nobody waits for.
async fn place(claim: SocketOwnership) -> anyhow::Result<()> {
    let (tell, told) = oneshot::channel();
    let wait = move || {
        // Whoever waited may be gone.
        let _ = tell.send(claim.acquire());
    };
    thread::Builder::new().name("reserve".to_owned()).spawn(wait).context("start a thread to wait")?;
    match told.await {
        Ok(free) => free.context("wait for the place of the agent"),
        Err(_) => bail!("wait for the place of the agent: the thread that waits has ended"),
    }
}

/// The same program with the same arguments, from the start.
fn begin_anew() -> anyhow::Result<Infallible> {
    tracing::info!("the other agent has ended: beginning anew");
    let error = Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
    Err(error).context("begin anew")
}
