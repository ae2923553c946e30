//! Reads the configuration of CoreDNS, and names what it does for the cluster's domain that Portico does not.
//!
//! ```text
//! Corefile ── blocks ──► the block of the domain ──► its plugins and the options of `kubernetes` ──► names
//! ```
//! Only the form is parsed: server blocks, plugins and their options. A Corefile is input, so nothing of it is executed.

use dns::Name;

/// Plugins that answer names, or change answers or questions, before or after the plugin `kubernetes`.
const ANSWER_PLUGINS: [&str; 21] = [
    "acl",
    "alternate",
    "auto",
    "autopath",
    "azure",
    "clouddns",
    "dns64",
    "dnssec",
    "etcd",
    "file",
    "firewall",
    "hosts",
    "k8s_crd",
    "k8s_gateway",
    "meshname",
    "records",
    "rewrite",
    "route53",
    "secondary",
    "template",
    "view",
];
/// Options of the plugin `kubernetes` that select or change names.
const KUBERNETES_OPTIONS: [&str; 5] =
    ["endpoint_pod_names", "labels", "namespace_labels", "namespaces", "noendpoints"];
/// The largest Corefile that is read; a ConfigMap has at most 1 MiB.
const BYTES_MAX: usize = 1 << 20;

/// A plugin of a server block.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plugin {
    /// Its name and its arguments.
    words: Vec<String>,
    /// The lines of its block.
    options: Vec<Vec<String>>,
}

impl Plugin {
    fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

/// A server block, or a snippet.
#[derive(Debug, Default, PartialEq, Eq)]
struct Block {
    /// The zones, or the name of a snippet in parentheses.
    labels: Vec<String>,
    plugins: Vec<Plugin>,
}

/// What CoreDNS does for the domain of a cluster, and Portico does not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bypassed {
    /// Plugins, such as `rewrite`, and options, such as `kubernetes: namespaces`.
    pub(super) plugins: Vec<String>,
    /// Other server blocks for names in the domain.
    pub(super) zones: Vec<String>,
    /// Whether names of pods are answered.
    pub(super) has_pod_records: bool,
}

/// Returns what the Corefile does for a domain. None: no server block has the plugin `kubernetes` for the domain.
pub(super) fn bypassed(corefile: &str, domain: &Name) -> Option<Bypassed> {
    let blocks = parse(corefile.get(..BYTES_MAX).unwrap_or(corefile));
    let zone_of = |label: &String| Name::parse(zone(label));
    let (_, block) = blocks
        .iter()
        .flat_map(|block| block.labels.iter().filter_map(zone_of).map(move |zone| (zone, block)))
        .filter(|(zone, _)| domain.is_within(zone))
        .max_by_key(|(zone, _)| zone.labels().count())?;
    let plugins = with_imports(block, &blocks);
    let serves_domain = |plugin: &Plugin| {
        let zones: Vec<Name> = plugin.words.iter().skip(1).filter_map(zone_of).collect();
        // Without zones the plugin has those of its block.
        plugin.name() == "kubernetes" && (zones.is_empty() || zones.iter().any(|zone| domain.is_within(zone)))
    };
    let kubernetes = *plugins.iter().find(|plugin| serves_domain(plugin))?;
    let has_option = |wanted: &str| {
        kubernetes.options.iter().find(|option| option.first().is_some_and(|name| name == wanted))
    };
    let names = plugins.iter().map(|plugin| plugin.name());
    let mut found: Vec<String> =
        names.filter(|name| ANSWER_PLUGINS.contains(name)).map(str::to_owned).collect();
    found.extend(
        KUBERNETES_OPTIONS
            .into_iter()
            .filter(|option| has_option(option).is_some())
            .map(|option| format!("kubernetes: {option}")),
    );
    found.sort();
    found.dedup();
    let is_inside =
        |label: &&String| zone_of(label).is_some_and(|zone| zone != *domain && zone.is_within(domain));
    let pods = has_option("pods").and_then(|option| option.get(1));
    Some(Bypassed {
        plugins: found,
        zones: blocks.iter().flat_map(|block| &block.labels).filter(is_inside).cloned().collect(),
        has_pod_records: pods.is_some_and(|mode| mode != "disabled"),
    })
}

/// Returns the plugins of a block, with those of the snippets that it imports.
fn with_imports<'a>(block: &'a Block, blocks: &'a [Block]) -> Vec<&'a Plugin> {
    let imported = |plugin: &'a Plugin| {
        let snippet =
            plugin.words.get(1).filter(|_| plugin.name() == "import").map(|name| format!("({name})"));
        let snippet = snippet.and_then(|name| blocks.iter().find(|block| block.labels.contains(&name)));
        snippet.into_iter().flat_map(|block| &block.plugins)
    };
    block.plugins.iter().flat_map(|plugin| std::iter::once(plugin).chain(imported(plugin))).collect()
}

/// Returns the zone of a label such as `dns://cluster.local:53`.
fn zone(label: &str) -> &str {
    let label = label.split_once("://").map_or(label, |(_, rest)| rest);
    match label.rsplit_once(':') {
        Some((zone, port)) if port.parse::<u16>().is_ok() => {
            if zone.is_empty() {
                "."
            } else {
                zone
            }
        }
        _ => label,
    }
}

/// Parses the blocks of a Corefile.
fn parse(corefile: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut depth, mut labels) = (0_usize, Vec::new());
    for line in corefile.lines() {
        let mut words = words(line);
        let is_open = words.last().is_some_and(|word| word == "{");
        let is_close = words.first().is_some_and(|word| word == "}");
        words.retain(|word| word != "{" && word != "}");
        let last_plugin = blocks.last_mut().and_then(|block| block.plugins.last_mut());
        match (depth, last_plugin) {
            (_, _) if words.is_empty() => {}
            (0, _) => labels.extend(words.iter().map(|word| word.trim_end_matches(',').to_owned())),
            (1, _) => {
                if let Some(block) = blocks.last_mut() {
                    block.plugins.push(Plugin { words, options: Vec::new() });
                }
            }
            (_, Some(plugin)) => plugin.options.push(words),
            (_, None) => {}
        }
        if is_open {
            if depth == 0 {
                blocks.push(Block { labels: std::mem::take(&mut labels), plugins: Vec::new() });
            }
            depth += 1;
        }
        if is_close {
            depth = depth.saturating_sub(1);
        }
    }
    blocks
}

/// Returns the words of a line, without a comment. Words in quotes that contain spaces are split.
fn words(line: &str) -> Vec<String> {
    let is_comment = |word: &&str| word.starts_with('#');
    line.split_whitespace().take_while(|word| !is_comment(word)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBEADM: &str = "
.:53 {
    errors
    health {
       lameduck 5s
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
    }
    loop
    loadbalance
}
";

    fn found(corefile: &str) -> Option<Bypassed> {
        bypassed(corefile, &Name::parse("cluster.local").expect("a name"))
    }

    fn plugins(corefile: &str) -> Vec<String> {
        found(corefile).expect("the domain is served").plugins
    }

    #[test]
    fn usual_configuration_bypasses_nothing_but_names_of_pods() {
        assert_eq!(found(KUBEADM), Some(Bypassed { has_pod_records: true, ..Bypassed::default() }));
    }

    #[test]
    fn plugins_and_options_that_change_answers_are_named() {
        let corefile = KUBEADM
            .replace("loop\n", "rewrite name a b # hosts\n hosts {\n template\n }\n autopath @kubernetes\n");
        assert_eq!(plugins(&corefile), ["autopath", "hosts", "rewrite"]);
        let corefile = KUBEADM.replace("ttl 30", "namespaces a b\n noendpoints");
        assert_eq!(plugins(&corefile), ["kubernetes: namespaces", "kubernetes: noendpoints"]);
    }

    #[test]
    fn most_specific_block_counts_and_blocks_inside_the_domain_are_named() {
        let other = "example.org {\n rewrite name a b\n}\nstub.cluster.local:53 {\n forward . 10.0.0.1\n}\n";
        let found = found(&format!("{KUBEADM}{other}")).expect("the domain is served");
        assert_eq!((found.plugins.len(), found.zones), (0, vec!["stub.cluster.local:53".to_owned()]));
        let own = "dns://cluster.local. {\n hosts\n kubernetes\n}\n";
        assert_eq!(plugins(&format!("{KUBEADM}{own}")), ["hosts"]);
    }

    #[test]
    fn imported_snippet_belongs_to_the_block() {
        let corefile = KUBEADM.replace("loop\n", "import common\n");
        assert_eq!(plugins(&format!("(common) {{\n template IN A\n}}\n{corefile}")), ["template"]);
    }

    #[test]
    fn domain_without_the_plugin_kubernetes_is_not_served() {
        assert_eq!(found(&KUBEADM.replace("kubernetes cluster.local", "kubernetes other.local")), None);
        for malformed in ["", "}", "{", "{\n{\n}", ". {\n kubernetes", "}}}\n. {\n\n}\n"] {
            let _ = found(malformed);
        }
        assert_eq!(found(". {\n forward . 10.0.0.1\n}"), None);
    }
}
