//! `Reporter`: collects the agent's report from the event loop and from the DNS server.
//!
//! A DNS thread that hangs delays only the thread that wants the report, not the event loop.

use std::sync::Arc;

use anyhow::Context;
use dns_server::DnsServer;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::message::Message;
use crate::report::Report;

/// Collects reports.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    sender: UnboundedSender<Message>,
    dns: Option<Arc<DnsServer>>,
}

impl Reporter {
    pub(crate) fn new(sender: UnboundedSender<Message>, dns: Option<Arc<DnsServer>>) -> Self {
        Self { sender, dns }
    }

    /// Returns the report.
    pub(crate) async fn report(&self) -> anyhow::Result<Report> {
        let report = self.request()?.await.context("the agent is stopping")?;
        let reporter = self.clone();
        spawn_blocking(move || reporter.with_dns(report)).await.context("the agent is stopping")
    }

    /// Returns the report, on a thread for blocking work.
    pub(crate) fn report_blocking(&self) -> anyhow::Result<Report> {
        let report = self.request()?.blocking_recv().context("the agent is stopping")?;
        Ok(self.with_dns(report))
    }

    fn request(&self) -> anyhow::Result<oneshot::Receiver<Report>> {
        let (receiver, report) = oneshot::channel();
        self.sender.send(Message::Report(receiver)).context("the agent is stopping")?;
        Ok(report)
    }

    fn with_dns(&self, mut report: Report) -> Report {
        if let (Some(status), Some(server)) = (&mut report.dns, &self.dns) {
            status.server = server.report();
        }
        report
    }
}
