//! The zone: every answer to a query, read by `hickory-proto`, which shares no code with the zone.
//!
//! The tables restate the specification (kubernetes/dns, docs/specification.md, 1.1.0) and the conventions of CoreDNS
//! on which clients rely.

mod agreement;
mod explanations;
mod external_names;
mod headless;
mod oracle;
mod protocol;
mod reference;
mod refresh;
mod services;
mod transports;
mod views;
