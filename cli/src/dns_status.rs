//! The part of `portico status` about DNS in pods.

use std::collections::BTreeMap;
use std::io::Write;

use node_agent::{DnsStatus, DnsUnservedReason};

use crate::table::{HEALTHY, UNHEALTHY};

/// The maximum number of pods that are named in one line, or have a line.
const PODS_MAX: usize = 20;

/// Writes how many pods the DNS server answers, the pods that it does not answer, and the totals of queries.
/// `pods` has the names of pods by the inodes of their network namespaces.
pub(crate) fn write_dns(
    status: &DnsStatus,
    pods: &BTreeMap<u64, String>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let DnsStatus { server, unserved, failed } = status;
    let armed = server.pods.iter().filter(|pod| pod.armed).count();
    let all = server.pods.len() + failed.len();
    let style = if armed == all { HEALTHY } else { UNHEALTHY };
    let totals = &server.totals;
    writeln!(
        out,
        "dns: {style}{armed} of {all} pods answered{style:#}; {} queries, {} NXDOMAIN, {} SERVFAIL, {} from the \
         cache, {} lookups at upstreams",
        totals.queries, totals.nxdomain, totals.servfail, totals.cache_hits, totals.upstream_lookups
    )?;
    let name = |inode: u64| pods.get(&inode).map_or_else(|| format!("netns {inode}"), Clone::clone);
    let armed_with_error =
        server.pods.iter().filter_map(|pod| Some((pod.netns_inode, pod.error.as_deref()?)));
    let errors = armed_with_error.chain(failed.iter().map(|pod| (pod.netns_inode, pod.error.as_str())));
    let errors: Vec<(u64, &str)> = errors.collect();
    for (inode, error) in errors.iter().take(PODS_MAX) {
        writeln!(out, "{UNHEALTHY}dns: {}: {error}{UNHEALTHY:#}", name(*inode))?;
    }
    if errors.len() > PODS_MAX {
        writeln!(out, "{UNHEALTHY}dns: and {} more{UNHEALTHY:#}", errors.len() - PODS_MAX)?;
    }
    for reason in DnsUnservedReason::ALL {
        let of_reason: Vec<u64> =
            unserved.iter().filter(|pod| pod.reason == reason).map(|pod| pod.netns_inode).collect();
        if !of_reason.is_empty() {
            let names: Vec<String> = of_reason.iter().take(PODS_MAX).map(|inode| name(*inode)).collect();
            let more = if of_reason.len() > names.len() { ", ..." } else { "" };
            let (count, names) = (of_reason.len(), names.join(", "));
            writeln!(out, "dns: not answered ({}): {count} pods, {names}{more}", reason.description())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use node_agent::{DnsFailedPod, DnsPodReport, DnsReport, DnsUnservedPod};

    use super::*;

    fn pod(netns_inode: u64, armed: bool, error: Option<&str>) -> DnsPodReport {
        let error = error.map(str::to_owned);
        DnsPodReport { netns_inode, servers: Vec::new(), armed, error, counters: Default::default() }
    }

    fn status(pods: Vec<DnsPodReport>) -> DnsStatus {
        DnsStatus { server: DnsReport { pods, ..DnsReport::default() }, ..DnsStatus::default() }
    }

    fn written(status: &DnsStatus) -> String {
        let pods = BTreeMap::from([(1, "a/b".to_owned()), (2, "a/c".to_owned())]);
        let mut out = anstream::StripStream::new(Vec::new());
        write_dns(status, &pods, &mut out).expect("a buffer");
        String::from_utf8(out.into_inner()).expect("text")
    }

    #[test]
    fn pods_are_named_with_their_errors_and_reasons() {
        let unserved =
            [2, 3].map(|netns_inode| DnsUnservedPod { netns_inode, reason: DnsUnservedReason::Mesh });
        let status = DnsStatus {
            unserved: unserved.to_vec(),
            failed: vec![DnsFailedPod { netns_inode: 4, error: "no table".to_owned() }],
            ..status(vec![pod(1, false, Some("probe failed")), pod(5, true, None)])
        };
        let expected = "dns: 1 of 3 pods answered; 0 queries, 0 NXDOMAIN, 0 SERVFAIL, 0 from the cache, 0 lookups at \
                        upstreams\n\
                        dns: a/b: probe failed\n\
                        dns: netns 4: no table\n\
                        dns: not answered (a service mesh redirects DNS in the pod): 2 pods, a/c, netns 3\n";
        assert_eq!(written(&status), expected);
    }

    #[test]
    fn pods_are_named_up_to_a_limit() {
        let many: Vec<DnsPodReport> = (10..40).map(|inode| pod(inode, false, Some("full"))).collect();
        let text = written(&status(many));
        assert!(text.ends_with("dns: netns 29: full\ndns: and 10 more\n"), "{text}");
        let reason = DnsUnservedReason::Annotation;
        let unserved = (10..40).map(|netns_inode| DnsUnservedPod { netns_inode, reason }).collect();
        let text = written(&DnsStatus { unserved, ..DnsStatus::default() });
        assert!(text.contains("30 pods") && text.ends_with("netns 29, ...\n"), "{text}");
    }

    #[test]
    fn unserved_pod_is_up_to_date_and_pod_with_an_error_is_not() {
        let reason = DnsUnservedReason::Annotation;
        let unserved = vec![DnsUnservedPod { netns_inode: 1, reason }];
        assert!(DnsStatus { unserved, ..status(vec![pod(2, false, None)]) }.is_up_to_date());
        assert!(!status(vec![pod(2, true, Some("full"))]).is_up_to_date());
        let failed = vec![DnsFailedPod { netns_inode: 4, error: String::new() }];
        assert!(!DnsStatus { failed, ..DnsStatus::default() }.is_up_to_date());
    }
}
