//! `Client`: one pod as a client of DNS.
//!
//! The server knows the pod of each query from the socket on which the query arrives.

use std::sync::Arc;

use proxy_core::portal::ServiceFilter;

use crate::search::SearchList;

/// A pod whose queries the agent answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// The identity of the pod in the agent.
    pub id: u64,
    /// The namespace of the pod.
    pub namespace: Arc<str>,
    /// The services that are visible to the pod: others have no names.
    pub view: ServiceFilter,
    /// The search list of the pod. None: its walk is not collapsed.
    pub search: Option<SearchList>,
}
