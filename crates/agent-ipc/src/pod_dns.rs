//! `PodDns`: the DNS configuration of a pod, as the runtime passes it with the CNI capability `dns`.
//!
//! It is the content of the pod's /etc/resolv.conf, from the kubelet. The plugin and the runtime's CNI cache contain it
//! in the same form, which is bounded here: the agent keeps it for the lifetime of the pod.

use std::net::IpAddr;

use proxy_core::address::parse_ip_sloppy;
use serde::{Deserialize, Serialize};

/// The maximum number of DNS servers. The kubelet passes at most 3.
const SERVERS_MAX: usize = 8;
/// The maximum number of search domains, that of the kubelet.
const SEARCHES_MAX: usize = 32;
/// The maximum length of all search domains, that of the kubelet.
const SEARCHES_BYTES_MAX: usize = 2_048;
/// The maximum number and length of options. The kubelet has no limit.
const OPTIONS_MAX: usize = 32;
const OPTIONS_BYTES_MAX: usize = 1_024;

/// The DNS configuration of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDns {
    /// The addresses of the DNS servers.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// The search domains.
    #[serde(default)]
    pub searches: Vec<String>,
    /// The options, such as `ndots:5`.
    #[serde(default)]
    pub options: Vec<String>,
}

/// The value of the capability `dns`. containerd writes the keys with a capital letter (`DNS` in types.go of go-cni).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RuntimeDns {
    #[serde(alias = "Servers")]
    servers: Option<Vec<String>>,
    #[serde(alias = "Searches")]
    searches: Option<Vec<String>>,
    #[serde(alias = "Options")]
    options: Option<Vec<String>>,
}

impl RuntimeDns {
    /// Returns the configuration without invalid servers and without the content that exceeds the limits, and a note
    /// for each of these.
    #[must_use]
    pub fn into_pod_dns(self) -> (PodDns, Vec<String>) {
        let mut notes = Vec::new();
        let mut servers = Vec::new();
        for text in self.servers.unwrap_or_default().iter().take(SERVERS_MAX + 1) {
            match parse_ip_sloppy(text) {
                Some(address) => servers.push(address),
                None => notes.push(format!("dns: ignored server {:?}: not an IP address", short(text))),
            }
        }
        limit(&mut servers, "servers", SERVERS_MAX, &mut notes);
        let searches = texts(self.searches, "searches", (SEARCHES_MAX, SEARCHES_BYTES_MAX), &mut notes);
        let options = texts(self.options, "options", (OPTIONS_MAX, OPTIONS_BYTES_MAX), &mut notes);
        (PodDns { servers, searches, options }, notes)
    }
}

/// Returns the texts up to the limits of number and bytes.
fn texts(
    list: Option<Vec<String>>,
    name: &str,
    (len_max, bytes_max): (usize, usize),
    notes: &mut Vec<String>,
) -> Vec<String> {
    let mut texts = list.unwrap_or_default();
    limit(&mut texts, name, len_max, notes);
    let mut bytes = 0;
    let within = texts.iter().take_while(|text| {
        bytes += text.len() + 1;
        bytes <= bytes_max + 1
    });
    let within = within.count();
    if within < texts.len() {
        notes.push(format!("dns: {name} exceed {bytes_max} characters; ignored the rest"));
        texts.truncate(within);
    }
    texts
}

fn limit<T>(list: &mut Vec<T>, name: &str, len_max: usize, notes: &mut Vec<String>) {
    if list.len() > len_max {
        notes.push(format!("dns: more than {len_max} {name}; ignored the rest"));
        list.truncate(len_max);
    }
}

/// Returns the start of a text, for messages.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (PodDns, Vec<String>) {
        serde_json::from_str::<RuntimeDns>(text).expect("the form of the capability").into_pod_dns()
    }

    #[test]
    fn both_spellings_of_the_keys_are_read() {
        let conventional =
            r#"{"servers": ["10.96.0.10", "fd00::a"], "searches": ["a.svc.z", "z"], "options": ["ndots:5"]}"#;
        let (dns, notes) = parse(conventional);
        assert_eq!(
            dns.servers,
            ["10.96.0.10", "fd00::a"].map(|text| text.parse::<IpAddr>().expect("an address"))
        );
        assert_eq!(
            (dns.searches.join(" "), dns.options.join(" ")),
            ("a.svc.z z".to_owned(), "ndots:5".to_owned())
        );
        assert!(notes.is_empty(), "{notes:?}");
        let of_containerd = conventional.replace("\"se", "\"Se").replace("\"op", "\"Op");
        assert_eq!(parse(&of_containerd).0, dns);
        assert_eq!(parse(r#"{"Servers": null}"#), (PodDns::default(), Vec::new()));
    }

    #[test]
    fn invalid_servers_are_ignored_with_a_note() {
        let (dns, notes) = parse(r#"{"servers": ["x", "010.96.0.10", "::ffff:10.0.0.1"]}"#);
        assert_eq!(
            dns.servers,
            ["10.96.0.10", "10.0.0.1"].map(|text| text.parse::<IpAddr>().expect("an address"))
        );
        assert_eq!(notes, ["dns: ignored server \"x\": not an IP address"]);
    }

    #[test]
    fn content_over_the_limits_is_ignored_with_a_note() {
        let runtime = |servers: usize, searches: Vec<String>, options: usize| RuntimeDns {
            servers: Some(vec!["10.0.0.1".to_owned(); servers]),
            searches: Some(searches),
            options: Some(vec!["o".to_owned(); options]),
        };
        let (dns, notes) = runtime(SERVERS_MAX, vec!["s".repeat(2_048)], OPTIONS_MAX).into_pod_dns();
        assert_eq!((dns.servers.len(), dns.searches.len(), dns.options.len(), notes.len()), (8, 1, 32, 0));
        let (dns, notes) = runtime(1_000_000, vec!["s".to_owned(); 33], 33).into_pod_dns();
        assert_eq!(
            (dns.servers.len(), dns.searches.len(), dns.options.len(), notes.len()),
            (8, 32, 32, 3),
            "{notes:?}"
        );
        let (dns, notes) =
            runtime(1, vec!["a".to_owned(), "s".repeat(2_047), "b".to_owned()], 0).into_pod_dns();
        assert_eq!((dns.searches.as_slice(), notes.len()), (&["a".to_owned()][..], 1), "{notes:?}");
    }
}
