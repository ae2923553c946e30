//! The replies of the agent to `portico dns`: the explanation of an answer, and the queries of a pod.
//!
//! The JSON forms are an interface, as that of `Report`.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use dns::{
    AnswerSource, Answered, Explanation, Name, Outcome, QueryLogEntry, RecordType, is_truncated, record_texts,
};
use dns_server::Asked;
use serde::{Deserialize, Serialize};

/// The explanation of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsAnswerReport {
    /// The name in the question.
    pub name: String,
    /// The type in the question.
    #[serde(rename = "type")]
    pub record_type: String,
    /// The pod that asks, if it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The result for the names of the cluster: `noerror`, `nodata`, `nxdomain`, `refused` or `servfail`; for other
    /// names `upstream`; for a service of type ExternalName `alias`.
    pub outcome: String,
    /// The object from which the answer comes.
    pub object: Option<String>,
    /// The rule.
    pub rule: String,
    /// The target of an alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The records for the names of the cluster.
    pub records: Vec<String>,
    /// The response that the pod gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<DnsResponseReport>,
}

impl DnsAnswerReport {
    /// Describes the answer to a question.
    pub fn new(name: &Name, record_type: RecordType, explanation: Explanation) -> Self {
        let Explanation { answered, object, rule, records } = explanation;
        let target = match &answered {
            Answered::External(external) => Some(external.target().to_string()),
            _ => None,
        };
        let outcome = answered.keyword().to_owned();
        let (name, record_type) = (name.to_string(), record_type.to_string());
        Self { name, record_type, pod: None, outcome, object, rule, target, records, response: None }
    }
}

/// The response that a pod gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsResponseReport {
    /// The DNS address of the pod that was asked.
    pub server: IpAddr,
    /// The result: `noerror`, `nodata`, `nxdomain`, `refused`, `servfail` or `other`.
    pub outcome: String,
    /// What answered: `zone`, `cache`, `stale`, `upstream`, `search` or `resolver`.
    pub source: String,
    /// The upstream that answered, now or when the response was stored.
    pub upstream: Option<SocketAddr>,
    /// The age of a stored response, in milliseconds.
    pub age_ms: Option<u64>,
    /// The time from the query to the response, in microseconds.
    pub duration_us: u64,
    /// Whether the response is too long for UDP, so that the pod repeats the query over TCP.
    pub is_truncated: bool,
    /// The records.
    pub records: Vec<String>,
}

impl From<Asked> for DnsResponseReport {
    fn from(asked: Asked) -> Self {
        let Asked { server, message, source, cached, duration } = asked;
        let stored = cached.filter(|_| matches!(source, AnswerSource::Cache | AnswerSource::Stale));
        Self {
            server,
            outcome: Outcome::of(&message).keyword().to_owned(),
            source: source.keyword().to_owned(),
            upstream: source.upstream().or(stored.map(|stored| stored.upstream)),
            age_ms: stored.map(|stored| milliseconds(stored.age)),
            duration_us: microseconds(duration),
            is_truncated: is_truncated(&message),
            records: record_texts(&message),
        }
    }
}

/// The queries of a pod since the last request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsLogReport {
    /// The queries, in the order of their responses.
    pub queries: Vec<DnsQueryReport>,
    /// The number of earlier queries that were lost, because there were too many.
    pub lost: u64,
}

/// A query of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsQueryReport {
    /// The time of the response, in milliseconds since 1970.
    pub time_ms: u64,
    /// The name in the question.
    pub name: String,
    /// The type in the question.
    #[serde(rename = "type")]
    pub record_type: String,
    /// The result, as in `DnsResponseReport`.
    pub outcome: String,
    /// What answered, as in `DnsResponseReport`.
    pub source: String,
    /// The upstream that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SocketAddr>,
    /// The time from the query to the response, in microseconds.
    pub duration_us: u64,
}

impl DnsQueryReport {
    /// Describes a recorded query. `now` is the current time of both clocks.
    pub(crate) fn new(entry: &QueryLogEntry, now: (Instant, SystemTime)) -> Self {
        let age = now.0.saturating_duration_since(entry.at);
        let time = now.1.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(age);
        Self {
            time_ms: milliseconds(time),
            name: entry.name.to_string(),
            record_type: entry.record_type.to_string(),
            outcome: entry.outcome.keyword().to_owned(),
            source: entry.source.keyword().to_owned(),
            upstream: entry.source.upstream(),
            duration_us: microseconds(entry.duration),
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
