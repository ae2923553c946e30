//! Checks for an agent with `--dns`: the kernel, other programs that must see queries, and what the cluster's DNS does
//! that Portico does not.

use std::path::Path;

use ::dns::Name;
use kube_source::ObjectClient;
use netns_nft::{DnsRedirect, DnsTable, DnsTableSettings};
use tokio::runtime::Builder;

use crate::check::CheckArgs;
use crate::check::Finding::{self, Fail, Pass, Skip, Warn};
use crate::check::corefile::{Bypassed, bypassed};
use crate::temporary_netns::temporary_netns;

/// The ConfigMap of the cluster's DNS, and its key.
const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
const CONFIG_MAP: &str = "coredns";
const KEY: &str = "Corefile";

/// The results, with their names.
pub(super) fn findings(args: &CheckArgs) -> Vec<(&'static str, Finding)> {
    vec![("DNS table", table()), ("Cilium", cilium()), ("cluster DNS", cluster_dns(args))]
}

/// Checks that the kernel has tables that end with their owner, in a temporary network namespace.
fn table() -> Finding {
    let create = || {
        let redirect = DnsRedirect { address: [10, 0, 0, 10].into(), udp_port: 1, tcp_port: 1 };
        DnsTable::create(temporary_netns()?.socket()?, &[redirect], DnsTableSettings::default())?;
        Ok::<_, anyhow::Error>(())
    };
    match create() {
        Ok(()) => Pass("the kernel removes the redirect of a pod if the agent ends".to_owned()),
        Err(error) => Fail(format!("{error:#}"), "Linux 5.12 or newer, or no --dns".to_owned()),
    }
}

/// Checks whether Cilium's DNS proxy must see the queries of pods.
fn cilium() -> Finding {
    match node_agent::has_cilium() {
        Ok(false) => Pass("no Cilium on this node, whose DNS proxy must see queries".to_owned()),
        Ok(true) => Warn(
            "Cilium runs on this node: its DNS proxy would no longer see the queries of pods".to_owned(),
            "no --dns, or if no policy has toFQDNs, --dns-with-cilium".to_owned(),
        ),
        Err(error) => Skip(format!("failed to look for Cilium: {error}")),
    }
}

/// Checks what the cluster's DNS does for names of the cluster, and Portico does not.
fn cluster_dns(args: &CheckArgs) -> Finding {
    if args.kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        return Skip("no --kubeconfig and no service account: its configuration cannot be read".to_owned());
    }
    match read_corefile(args.kubeconfig.as_deref()) {
        Ok(Some(corefile)) => judge(&corefile, &args.cluster_domain),
        Ok(None) => Skip(format!("no ConfigMap kube-system/{CONFIG_MAP} with a {KEY}")),
        Err(error) => Skip(format!("its configuration cannot be read: {error:#}")),
    }
}

fn read_corefile(kubeconfig: Option<&Path>) -> anyhow::Result<Option<String>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(async {
        let client = ObjectClient::new(kubeconfig).await?;
        Ok::<_, anyhow::Error>(client.list(CONFIG_MAPS, "", &format!("metadata.name={CONFIG_MAP}")).await?)
    })?;
    Ok(found.first().and_then(|object| object["data"][KEY].as_str()).map(str::to_owned))
}

fn judge(corefile: &str, domain: &Name) -> Finding {
    let Some(Bypassed { plugins, zones, has_pod_records }) = bypassed(corefile, domain) else {
        return Warn(
            format!("CoreDNS does not serve {domain} with its plugin kubernetes"),
            "the domain of the cluster as --cluster-domain, here and for the agent".to_owned(),
        );
    };
    let mut differences = Vec::new();
    if !plugins.is_empty() {
        differences.push(format!("CoreDNS changes answers for {domain} with {}", plugins.join(", ")));
    }
    if !zones.is_empty() {
        differences.push(format!("CoreDNS serves {} inside {domain}", zones.join(", ")));
    }
    if !differences.is_empty() {
        let remedy = "--dns-fallthrough for names that only CoreDNS has, or portico.dev/dns: off for the pods that need \
                      other answers";
        return Warn(format!("{}; Portico does not", differences.join("; ")), remedy.to_owned());
    }
    let pods = if has_pod_records { "; for names of pods, pass --dns-pod-records" } else { "" };
    Pass(format!("CoreDNS answers names of services as Portico does{pods}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(plugins: &str) -> Finding {
        let corefile = format!(".:53 {{\n{plugins}\nkubernetes cluster.local {{\n pods insecure\n}}\n}}\n");
        judge(&corefile, &Name::parse("cluster.local").expect("a name"))
    }

    #[test]
    fn plugins_that_change_answers_are_a_warning() {
        let Warn(problem, _) = judged("rewrite name a b\nhosts") else { panic!("a warning") };
        let expected = "CoreDNS changes answers for cluster.local. with hosts, rewrite; Portico does not";
        assert_eq!(problem, expected);
        let Pass(text) = judged("cache 30") else { panic!("passed") };
        assert!(text.ends_with("for names of pods, pass --dns-pod-records"), "{text}");
    }

    #[test]
    fn domain_that_coredns_does_not_serve_is_a_warning() {
        let other = Name::parse("other.example").expect("a name");
        assert!(matches!(judge(".:53 {\n}\n", &other), Warn(..)));
    }
}
