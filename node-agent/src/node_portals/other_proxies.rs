//! What other programs on the node do with services, as far as /proc and the rules of nf_tables show it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use netns_nft::ChainSummary;

/// The files of the network namespace of this thread.
const NET_DIR: &str = "/proc/thread-self/net";
/// The maximum that is read of a file, which is larger only with many connections of IPVS.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// What other programs do with services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OtherProxies {
    /// Names of programs.
    pub(crate) names: Vec<String>,
    /// The tables of iptables-legacy.
    pub(crate) legacy_tables: Vec<String>,
    /// Whether IPVS has services.
    pub(crate) has_ipvs: bool,
    /// The number of established connections of IPVS.
    pub(crate) ipvs_connections: usize,
}

impl OtherProxies {
    /// Reads the state of this network namespace.
    pub(crate) fn of_this_node(chains: &[ChainSummary]) -> Self {
        let read = |name: &str| read_start(&Path::new(NET_DIR).join(name)).unwrap_or_default();
        let is_established = |line: &&str| line.contains(" ESTABLISHED ");
        Self {
            names: names(&read("dev"), chains),
            legacy_tables: read("ip_tables_names").lines().map(str::to_owned).collect(),
            has_ipvs: has_ipvs_services(),
            ipvs_connections: read("ip_vs_conn").lines().filter(is_established).count(),
        }
    }
}

/// The families in which iptables-legacy translates connections.
pub(crate) fn legacy_nat_families() -> impl Iterator<Item = &'static str> {
    let has_nat = |file: &str| {
        let text = read_start(&Path::new(NET_DIR).join(file)).unwrap_or_default();
        text.lines().any(|line| line == "nat")
    };
    [("ip_tables_names", "ip"), ("ip6_tables_names", "ip6")]
        .into_iter()
        .filter(move |(file, _)| has_nat(file))
        .map(|(_, family)| family)
}

/// Whether IPVS has services.
pub(crate) fn has_ipvs_services() -> bool {
    let text = read_start(&Path::new(NET_DIR).join("ip_vs")).unwrap_or_default();
    text.lines().any(is_ipvs_service)
}

fn read_start(path: &Path) -> std::io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether a line of /proc/net/ip_vs is a service; its servers and the header start differently.
fn is_ipvs_service(line: &str) -> bool {
    ["TCP ", "UDP ", "SCTP"].iter().any(|protocol| line.starts_with(protocol))
}

/// The programs that have these interfaces or chains.
fn names(interfaces: &str, chains: &[ChainSummary]) -> Vec<String> {
    let has_interface = |prefix: &str| interfaces.lines().any(|line| line.trim_start().starts_with(prefix));
    let has_table = |name: &str| chains.iter().any(|chain| chain.table == name);
    let found = [
        ("Cilium", has_interface("cilium_host:")),
        ("kube-router", has_interface("kube-dummy-if:")),
        ("Calico eBPF", has_interface("bpfin.cali:")),
        ("firewalld", has_table("firewalld")),
    ];
    found.into_iter().filter(|(_, is_found)| *is_found).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_programs_are_named_by_their_interfaces_and_tables() {
        let interfaces = "Inter-|   Receive\n    lo: 1 1\ncilium_host: 0 0\n  eth0: 1 1\n";
        let firewall = ChainSummary {
            family: "inet",
            table: "firewalld".to_owned(),
            name: "filter_FORWARD".to_owned(),
            drops_forwarded: false,
            destination_nat: None,
            is_nat: false,
        };
        assert_eq!(names(interfaces, &[firewall]), ["Cilium", "firewalld"]);
        assert_eq!(names("    lo: 1 1\n", &[]), [""; 0]);
    }

    #[test]
    fn services_of_ipvs_are_distinguished_from_servers() {
        let lines = ["IP Virtual Server version 1.2.1 (size=4096)", "Prot LocalAddress:Port Scheduler Flags"];
        assert!(lines.iter().all(|line| !is_ipvs_service(line)));
        assert!(!is_ipvs_service("  -> C0000202:1F90      Masq    1      0          0"));
        assert!(is_ipvs_service("TCP  0A600001:01BB rr"));
    }
}
