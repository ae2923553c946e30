//! `KubeProxyRules`: the rules of kube-proxy in a network namespace.
//!
//! Its nftables mode has a table in each family. Its iptables mode has chains in the tables of iptables, which are seen
//! here if iptables uses nf_tables. The names are those of `kube-proxy --cleanup` (pkg/proxy/iptables/cleanup.go,
//! pkg/proxy/nftables/cleanup.go): other chains with the prefix `KUBE-` are the kubelet's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::nft::chain_list::ChainSummary;

pub(crate) mod removal;

/// The table of the nftables mode, in the families ip and ip6.
const TABLE: &str = "kube-proxy";
const FAMILIES: [&str; 2] = ["ip", "ip6"];
/// The chains of the iptables mode, by table.
const CHAINS: [(&str, &[&str]); 3] = [
    ("nat", &["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-PROXY-CANARY"]),
    (
        "filter",
        &[
            "KUBE-SERVICES",
            "KUBE-EXTERNAL-SERVICES",
            "KUBE-FORWARD",
            "KUBE-NODEPORTS",
            "KUBE-PROXY-FIREWALL",
            "KUBE-PROXY-CANARY",
        ],
    ),
    ("mangle", &["KUBE-PROXY-CANARY"]),
];
/// The prefixes of the chains of services and endpoints, in the table nat.
const SERVICE_CHAINS: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-"];
/// Chains that only the ipvs mode has.
const IPVS_CHAINS: [&str; 5] = [
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];

/// The rules of kube-proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeProxyRules {
    /// The families in which it has a table (nftables mode).
    pub tables: BTreeSet<&'static str>,
    /// Its chains by family and table (iptables mode).
    pub chains: BTreeMap<(&'static str, &'static str), BTreeSet<String>>,
    /// Whether there are chains of the ipvs mode, which are not in `chains`.
    pub has_ipvs: bool,
    /// The families in which it translates destinations.
    pub serving: BTreeSet<&'static str>,
}

impl KubeProxyRules {
    /// Returns the rules among the chains of a network namespace.
    #[must_use]
    pub fn of(chains: &[ChainSummary]) -> Self {
        let mut rules = Self::default();
        for chain in chains.iter().filter(|chain| FAMILIES.contains(&chain.family)) {
            if chain.table == TABLE {
                rules.tables.insert(chain.family);
                if chain.destination_nat.is_some() {
                    rules.serving.insert(chain.family);
                }
                continue;
            }
            let Some((table, names)) = CHAINS.iter().find(|(table, _)| *table == chain.table) else {
                continue;
            };
            let name = &*chain.name;
            let is_service = *table == "nat" && SERVICE_CHAINS.iter().any(|prefix| name.starts_with(prefix));
            if is_service || names.contains(&name) {
                rules.chains.entry((chain.family, table)).or_default().insert(chain.name.clone());
            }
            // kube-proxy creates its other chains before it writes the first rules.
            if is_service {
                rules.serving.insert(chain.family);
            }
            rules.has_ipvs |= IPVS_CHAINS.contains(&name);
        }
        rules
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { tables, chains, has_ipvs, serving: _ } = self;
        tables.is_empty() && chains.is_empty() && !has_ipvs
    }
}

/// For example `table ip kube-proxy, 12 chains in table ip nat`.
impl fmt::Display for KubeProxyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.tables.iter().map(|family| format!("table {family} {TABLE}"));
        let chains = self
            .chains
            .iter()
            .map(|((family, table), chains)| format!("{} chains in table {family} {table}", chains.len()));
        let ipvs = self.has_ipvs.then(|| "chains of the ipvs mode".to_owned());
        f.write_str(&tables.chain(chains).chain(ipvs).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: &'static str, table: &str, name: &str) -> ChainSummary {
        ChainSummary {
            family,
            table: table.to_owned(),
            name: name.to_owned(),
            drops_forwarded: false,
            destination_nat: None,
            is_nat: false,
        }
    }

    #[test]
    fn chains_of_the_kubelet_are_not_those_of_kube_proxy() {
        let kubelet = ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-MARK-DROP"];
        let chains = kubelet.map(|name| chain("ip", "nat", name));
        assert!(KubeProxyRules::of(&chains).is_empty());
        assert!(KubeProxyRules::of(&[chain("inet", "kube-proxy", "x")]).is_empty(), "another family");
        assert!(KubeProxyRules::of(&[chain("ip", "filter", "KUBE-SVC-A")]).is_empty(), "another table");
    }

    #[test]
    fn rules_of_each_mode_are_named() {
        let rules = KubeProxyRules::of(&[
            chain("ip", "kube-proxy", "services"),
            chain("ip6", "nat", "KUBE-SERVICES"),
            chain("ip6", "nat", "KUBE-SVC-ERIFXISQEP7F7OF4"),
        ]);
        assert_eq!(rules.to_string(), "table ip kube-proxy, 2 chains in table ip6 nat");
        assert_eq!(rules.serving, BTreeSet::from(["ip6"]), "its table has no chain that translates");
        let unsynced = KubeProxyRules::of(&[chain("ip", "nat", "KUBE-SERVICES")]);
        assert_eq!((unsynced.is_empty(), unsynced.serving.len()), (false, 0));
        let ipvs = KubeProxyRules::of(&[chain("ip", "nat", "KUBE-LOAD-BALANCER")]);
        assert_eq!((ipvs.is_empty(), &*ipvs.to_string()), (false, "chains of the ipvs mode"));
    }
}
