//! Tests without root and network namespaces: the rules of the repository, its pages, and API servers.

mod cluster_live;
mod coredns;
mod differential;
mod reference;
mod release;
mod tidy;
