//! `Reply`: a response in a form that can be compared.

use std::collections::BTreeSet;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The response code, and the records of the answer and the additional section, as `OWNER TYPE DATA` in lower case.
    Answered { code: &'static str, records: BTreeSet<String>, additional: BTreeSet<String> },
    /// An upstream would be asked. CoreDNS has none, and fails.
    Forwarded,
}

impl Reply {
    /// Reads a response.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let message = Message::from_vec(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
        assert!(!message.metadata.truncation, "the response was truncated");
        let code = match message.metadata.response_code {
            ResponseCode::NoError => "NOERROR",
            ResponseCode::NXDomain => "NXDOMAIN",
            ResponseCode::ServFail => return Self::Forwarded,
            code => panic!("unexpected response code {code}"),
        };
        let texts = |records: &[Record]| records.iter().map(text).collect();
        Self::Answered { code, records: texts(&message.answers), additional: texts(&message.additionals) }
    }

    pub(crate) fn has_records(&self) -> bool {
        matches!(self, Self::Answered { records, .. } if !records.is_empty())
    }

    /// Whether the name exists.
    pub(crate) fn exists(&self) -> bool {
        matches!(self, Self::Answered { code: "NOERROR", .. })
    }

    pub(crate) fn is_no_data(&self) -> bool {
        self.exists() && !self.has_records()
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Answered { code: "NXDOMAIN", .. })
    }

    /// Whether the answers contain an alias.
    pub(crate) fn has_alias(&self) -> bool {
        matches!(self, Self::Answered { records, .. } if records.iter().any(|record| record.contains(" cname ")))
    }
}

/// The weights of SRV records are free in the specification, so they are omitted. CoreDNS divides 100 by their number.
fn text(record: &Record) -> String {
    let data = match &record.data {
        RData::SRV(srv) => format!("{} {} {}", srv.priority, srv.port, srv.target),
        RData::SOA(soa) => format!("{} {} {} {}", soa.mname, soa.rname, soa.refresh, soa.minimum),
        data => data.to_string(),
    };
    format!("{} {} {data}", record.name, record.record_type()).to_lowercase()
}
