//! `Shutdown`: the signal that asks this process to stop.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Completes once SIGTERM or SIGINT arrives. All clones observe the same signal.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Installs the signal handlers. Must be called in a tokio runtime.
    pub fn listen() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).context("failed to handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to handle SIGINT")?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let _ = sender.send(true);
        });
        Ok(Self(receiver))
    }

    /// Waits for the signal.
    pub async fn requested(&self) {
        // A closed channel also means that the runtime is shutting down.
        let _ = self.0.clone().wait_for(|is_requested| *is_requested).await;
    }
}
