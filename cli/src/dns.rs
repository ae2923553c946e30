//! `portico dns`: explains the answer to a DNS query, from manifests or with the running agent, and follows the queries
//! of a pod.
//!
//! The agent is the only source of the data about a pod. Both ways use the same explanation.

use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use agent_ipc::Request;
use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{Args as ClapArgs, CommandFactory};
use dns::{Client, Name, RecordType, Zone, ZoneConfig};
use ipnet::IpNet;
use kube_source::Objects;
use node_agent::{DnsAnswerReport, DnsLogReport, DnsQueryReport, DnsResponseReport};
use proxy_core::annotation::PORTALS;
use proxy_core::portal::ServiceFilter;

use crate::args::{Args, ExplainOutput, InputArgs};
use crate::live_view::LiveView;
use crate::manifests;
use crate::pod_manifest::PodManifest;
use crate::status::fetch_text;

/// A lookup at upstreams takes at most 4.5 s.
const AGENT_TIMEOUT: Duration = Duration::from_secs(8);
/// The interval at which the query log is read, in seconds.
const FOLLOW_INTERVAL_S: f64 = 0.3;
/// The type of a question without one.
const TYPE_DEFAULT: &str = "A";

/// Arguments of `portico dns`.
#[derive(Debug, ClapArgs)]
#[command(
    override_usage = "portico dns [OPTIONS] [POD] <NAME> [TYPE]\n       portico dns [OPTIONS] --follow <POD>\n       portico dns [OPTIONS] -f <FILE> <NAME> [TYPE]"
)]
pub(crate) struct DnsArgs {
    /// Pod (namespace/name, or a prefix of its container ID), name or address, and type of the records (default: A; PTR
    /// for an address). With a pod, its resolver on this node answers, which can ask an upstream.
    #[arg(value_name = "[POD] NAME [TYPE]", required = true, num_args = 1..=3)]
    words: Vec<String>,
    /// Print the queries of the pod as they are answered. One command at a time can follow a pod.
    #[arg(long)]
    follow: bool,
    /// Number of reads of the query log, 0.3 s apart (0: until interrupted).
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "follow")]
    count: u64,
    /// Path of the agent's Unix socket.
    #[arg(long, value_name = "PATH", default_value = agent_ipc::SOCKET_DEFAULT)]
    socket: PathBuf,
    #[command(flatten)]
    offline: OfflineArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = ExplainOutput::Text)]
    output: ExplainOutput,
}

/// The manifests that the command reads instead of asking an agent, and the pod that asks.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Without an agent")]
struct OfflineArgs {
    /// Manifest file or directory (YAML or JSON); `-` reads standard input. Repeatable.
    #[arg(short = 'f', long = "filename", value_name = "FILE", conflicts_with_all = ["follow", "socket"])]
    files: Vec<String>,
    /// CIDR from which to assign cluster IPs to manifest services that lack one (one per IP family).
    #[arg(long = "portal-net", value_name = "CIDR", default_value = "10.11.0.0/16", requires = "files")]
    portal_nets: Vec<IpNet>,
    /// List ignored objects.
    #[arg(short, long, requires = "files")]
    verbose: bool,
    /// Namespace of the Pod in --pod, if its manifest has none.
    #[arg(short, long, default_value = "default", requires = "files")]
    namespace: String,
    /// The client is the Pod (or workload such as a Deployment) in this file, with the portals that portico.dev/portals
    /// on it or on its namespace selects.
    #[arg(long, value_name = "FILE", requires = "files")]
    pod: Option<PathBuf>,
    /// Node the pod runs on.
    #[arg(long, value_name = "NAME", requires = "files")]
    node: Option<String>,
    /// Zone of that node (default: from the Node object's label).
    #[arg(long, value_name = "ZONE", requires = "files")]
    zone: Option<String>,
    /// Domain of the cluster.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", requires = "files")]
    cluster_domain: String,
}

/// Runs `portico dns`. Returns whether all of the input was valid.
pub(crate) fn run(args: &DnsArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    if args.follow {
        return follow(args, out);
    }
    let is_offline = !args.offline.files.is_empty();
    let Some(Question { pod, name, kind }) = Question::parse(&args.words, !is_offline) else {
        wrong_usage("with --filename, expected NAME [TYPE]; the pod is in the file of --pod");
    };
    let (answer, is_valid) = if !is_offline {
        let request = Request::Dns { pod, name, kind };
        let text = fetch_text(&args.socket, &request, AGENT_TIMEOUT)?;
        let answer = serde_json::from_str(&text).context("failed to parse the agent's reply")?;
        (answer, true)
    } else {
        explain_offline(&args.offline, &name, &kind)?
    };
    match args.output {
        ExplainOutput::Json => {
            serde_json::to_writer_pretty(&mut *out, &answer)?;
            writeln!(out)?;
        }
        ExplainOutput::Text => write!(out, "{}", answer_text(&answer))?,
    }
    Ok(is_valid)
}

fn wrong_usage(message: &str) -> ! {
    Args::command().error(ErrorKind::ValueValidation, message).exit()
}

/// The positional arguments.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    pod: Option<String>,
    name: String,
    kind: String,
}

impl Question {
    /// Parses the arguments, of which the first can be a pod if `can_have_pod`. None: there are too many.
    fn parse(words: &[String], can_have_pod: bool) -> Option<Self> {
        // The name of a host has no slash.
        let is_pod = |pod: &str, name: &str| pod.contains('/') || RecordType::parse(name).is_none();
        let (pod, name, kind) = match words {
            [name] => (None, name, None),
            [pod, name] if can_have_pod && is_pod(pod, name) => (Some(pod), name, None),
            [name, kind] => (None, name, Some(kind)),
            [pod, name, kind] if can_have_pod => (Some(pod), name, Some(kind)),
            _ => return None,
        };
        let address = name.parse::<IpAddr>().ok();
        let kind = kind
            .cloned()
            .unwrap_or_else(|| if address.is_some() { "PTR".to_owned() } else { TYPE_DEFAULT.to_owned() });
        let name = address.map_or_else(|| name.clone(), reverse_name);
        Some(Self { pod: pod.cloned(), name, kind })
    }
}

/// Returns the name whose PTR records are those of an address.
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let nibbles = octets.iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
            let mut name = String::new();
            for nibble in nibbles {
                // Writing to a string cannot fail.
                let _ = write!(name, "{nibble:x}.");
            }
            name + "ip6.arpa"
        }
    }
}

/// Explains an answer from manifests.
fn explain_offline(args: &OfflineArgs, name: &str, kind: &str) -> anyhow::Result<(DnsAnswerReport, bool)> {
    let OfflineArgs { files, portal_nets, verbose, namespace, pod, node, zone, cluster_domain } = args;
    let input = InputArgs { files: files.clone(), portal_nets: portal_nets.clone(), verbose: *verbose };
    let (objects, is_valid) = manifests::read_objects(&input);
    let node = manifests::node(node.as_deref(), zone.as_deref(), &objects);
    let view = match pod {
        Some(file) => view_of(&PodManifest::read(file, namespace)?, &objects)?,
        None => ServiceFilter::All,
    };
    let domain = |text: &str| Name::parse(text).with_context(|| format!("{text:?} is not a domain name"));
    let name = domain(name)?;
    let kind = RecordType::parse(kind).with_context(|| format!("{kind:?} is not a type of record"))?;
    let mut zone = Zone::new(ZoneConfig {
        domain: domain(cluster_domain)?,
        node: node.name,
        node_zone: node.zone,
        ..ZoneConfig::default()
    });
    zone.refresh(&objects.into_snapshot(), None);
    let explanation = zone.explain(&Client { view, ..Client::default() }, &name, kind);
    Ok((DnsAnswerReport::new(&name, kind, explanation), is_valid))
}

/// Returns the services that a pod sees.
///
/// # Errors
/// If the agent does not answer the queries of the pod.
fn view_of(pod: &PodManifest, objects: &Objects) -> anyhow::Result<ServiceFilter> {
    if pod.is_on_host_network() {
        bail!("the agent does not answer the pod: it is on the host network");
    }
    let filter = ServiceFilter::of(pod.portals(objects)?);
    filter.with_context(|| format!("the agent does not answer the pod: {} is off", PORTALS.key))
}

/// Formats an explanation.
fn answer_text(answer: &DnsAnswerReport) -> String {
    let DnsAnswerReport { name, record_type, pod, outcome, object, rule, target, records, response } = answer;
    let mut lines = vec![match (response, outcome.as_str()) {
        (Some(response), _) => {
            let (seconds, source) = (Duration::from_micros(response.duration_us), source_text(response));
            let outcome = outcome_text(&response.outcome);
            format!("{name} {record_type}: {outcome} {source}, in {seconds:?}")
        }
        (None, "upstream") => format!("{name} {record_type}: forwarded to an upstream"),
        (None, "alias") => format!("{name} {record_type}: alias of {}", target.as_deref().unwrap_or("-")),
        (None, outcome) => format!("{name} {record_type}: {}", outcome_text(outcome)),
    }];
    lines.extend(pod.as_ref().map(|pod| format!("pod: {pod}")));
    lines.extend(object.as_ref().map(|object| format!("object: {object}")));
    lines.push(format!("rule: {rule}"));
    let records = response.as_ref().map_or(records, |response| &response.records);
    lines.extend(records.iter().cloned());
    if response.as_ref().is_some_and(|response| response.is_truncated) {
        lines.push("truncated: the pod repeats the query over TCP".to_owned());
    }
    lines.join("\n  ") + "\n"
}

fn outcome_text(outcome: &str) -> String {
    match outcome {
        "nodata" => "NODATA (the name exists, without records of this type)".to_owned(),
        "nxdomain" => "NXDOMAIN (the name does not exist)".to_owned(),
        outcome => outcome.to_ascii_uppercase(),
    }
}

fn source_text(response: &DnsResponseReport) -> String {
    let upstream = response.upstream.map(|upstream| upstream.to_string());
    let upstream = upstream.as_deref().unwrap_or("an upstream");
    let age = response.age_ms.map_or_else(String::new, |ms| format!(" {:.1} s ago", ms as f64 / 1_000.0));
    match response.source.as_str() {
        "zone" => "from the services".to_owned(),
        "search" => "from a walk of the search list in one step".to_owned(),
        "upstream" => format!("from upstream {upstream}"),
        "cache" => format!("from the cache ({upstream} answered{age})"),
        "stale" => format!("from the cache, expired, because all upstreams fail ({upstream} answered{age})"),
        _ => {
            "from the agent: the query was rejected, a limit was exceeded, or no upstream answered".to_owned()
        }
    }
}

/// Prints the queries of a pod until interrupted.
fn follow(args: &DnsArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let [pod] = args.words.as_slice() else { wrong_usage("--follow needs one argument: the pod") };
    let request = Request::DnsLog { pod: pod.clone() };
    let read = || {
        let text = fetch_text(&args.socket, &request, AGENT_TIMEOUT)?;
        serde_json::from_str::<DnsLogReport>(&text).context("failed to parse the agent's reply")
    };
    LiveView::new(FOLLOW_INTERVAL_S, args.count)?.appending().run(out, |frame| {
        let log = read()?;
        if log.lost > 0 {
            manifests::print_warning(&format!("{} queries were lost: the pod sent too many", log.lost));
        }
        for query in &log.queries {
            match args.output {
                ExplainOutput::Json => writeln!(frame, "{}", serde_json::to_string(query)?)?,
                ExplainOutput::Text => writeln!(frame, "{}", query_text(query))?,
            }
        }
        Ok(true)
    })
}

/// Formats a query, with its time of day in UTC.
fn query_text(query: &DnsQueryReport) -> String {
    let DnsQueryReport { time_ms, name, record_type, outcome, source, upstream, duration_us } = query;
    let seconds = time_ms / 1_000 % 86_400;
    let (hour, minute, second, ms) = (seconds / 3_600, seconds / 60 % 60, seconds % 60, time_ms % 1_000);
    let time = format!("{hour:02}:{minute:02}:{second:02}.{ms:03}");
    let source = upstream.map_or_else(|| source.clone(), |upstream| format!("{source} {upstream}"));
    let outcome = outcome.to_ascii_uppercase();
    format!("{time} {name} {record_type}: {outcome}, {source}, {:?}", Duration::from_micros(*duration_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(words: &[&str]) -> Option<(Option<String>, String, String)> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Question::parse(&words, true).map(|Question { pod, name, kind }| (pod, name, kind))
    }

    fn expected(pod: Option<&str>, name: &str, kind: &str) -> Option<(Option<String>, String, String)> {
        Some((pod.map(str::to_owned), name.to_owned(), kind.to_owned()))
    }

    #[test]
    fn pod_and_type_are_optional() {
        assert_eq!(question(&["web"]), expected(None, "web", "A"));
        assert_eq!(question(&["web", "srv"]), expected(None, "web", "srv"));
        assert_eq!(question(&["web", "TYPE64"]), expected(None, "web", "TYPE64"));
        assert_eq!(question(&["a/b", "mx"]), expected(Some("a/b"), "mx", "A"));
        assert_eq!(question(&["0f3a", "web.svc"]), expected(Some("0f3a"), "web.svc", "A"));
        assert_eq!(question(&["a/b", "web", "AAAA"]), expected(Some("a/b"), "web", "AAAA"));
    }

    #[test]
    fn address_is_asked_by_its_reverse_name() {
        assert_eq!(question(&["10.96.0.1"]), expected(None, "1.0.96.10.in-addr.arpa", "PTR"));
        let nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(question(&["a/b", "fd00:96::1"]), expected(Some("a/b"), nibbles, "PTR"));
    }

    #[test]
    fn logged_query_has_its_time_of_day_and_source() {
        let query = DnsQueryReport {
            time_ms: 86_400_000 + 3_723_004,
            name: "example.com.".to_owned(),
            record_type: "A".to_owned(),
            outcome: "noerror".to_owned(),
            source: "upstream".to_owned(),
            upstream: Some(([10, 1, 0, 53], 53).into()),
            duration_us: 1_200,
        };
        assert_eq!(query_text(&query), "01:02:03.004 example.com. A: NOERROR, upstream 10.1.0.53:53, 1.2ms");
    }
}
