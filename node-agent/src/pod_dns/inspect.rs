//! The requests of `portico dns`: explains answers, asks the resolver of a pod, and reads its query log.

use std::time::{Instant, SystemTime};

use anyhow::{Context, bail};
use dns::{Name, RecordType};
use dns_server::DnsServer;
use netns_nft::NetnsId;

use crate::pod_dns::answer_report::{DnsAnswerReport, DnsLogReport, DnsQueryReport, DnsResponseReport};
use crate::report::Report;

/// Explains the answer to a question. With a pod, it also asks the resolver of the pod.
pub(crate) fn explain_answer(
    server: &DnsServer,
    report: &Report,
    pod: Option<&str>,
    name: &str,
    kind: &str,
) -> anyhow::Result<DnsAnswerReport> {
    let name = Name::parse(name).with_context(|| format!("{name:?} is not a domain name"))?;
    let kind = RecordType::parse(kind).with_context(|| format!("{kind:?} is not a type of record"))?;
    let netns = pod.map(|pod| served_netns(server, report, pod)).transpose()?;
    let explanation = server.explain(netns, &name, kind).context("the initial sync is not complete")?;
    let mut answer = DnsAnswerReport::new(&name, kind, explanation);
    if let Some(netns) = netns {
        let asked = server.ask(netns, &name, kind).context("the DNS server did not answer")?;
        answer.response = Some(DnsResponseReport::from(asked));
        answer.pod = report.pods().remove(&netns.inode);
    }
    Ok(answer)
}

/// Returns the queries of a pod since the last call. The first call starts the log.
pub(crate) fn read_log(server: &DnsServer, report: &Report, pod: &str) -> anyhow::Result<DnsLogReport> {
    let batch =
        server.take_queries(served_netns(server, report, pod)?).context("the DNS server did not reply")?;
    let now = (Instant::now(), SystemTime::now());
    let queries = batch.entries.iter().map(|entry| DnsQueryReport::new(entry, now));
    Ok(DnsLogReport { queries: queries.collect(), lost: batch.lost })
}

/// Returns the network namespace of a pod that the server answers.
fn served_netns(server: &DnsServer, report: &Report, pod: &str) -> anyhow::Result<NetnsId> {
    let attachment = report.attachments_of(Some(pod)).next();
    let inode = attachment.with_context(|| format!("no pod {pod} on this node"))?.netns_inode;
    let Some(netns) = server.netns_of(inode) else {
        let status = report.dns.as_ref();
        let unserved = status.and_then(|dns| dns.unserved.iter().find(|pod| pod.netns_inode == inode));
        let failed = status.and_then(|dns| dns.failed.iter().find(|pod| pod.netns_inode == inode));
        match (unserved, failed) {
            (Some(unserved), _) => bail!("{pod} uses the cluster's DNS: {}", unserved.reason.description()),
            (None, Some(failed)) => bail!("{pod} uses the cluster's DNS: {}", failed.error),
            (None, None) => bail!("{pod} uses the cluster's DNS: the agent does not answer it yet"),
        }
    };
    Ok(netns)
}
