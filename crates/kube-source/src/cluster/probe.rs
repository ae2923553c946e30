//! A look at an API server: whether it answers, and lets us read what a service proxy reads.
//!
//! For a preflight; whoever watches finds out by watching. What must not go in here: waiting, trying again.

use kube::Client;

use crate::cluster::resource::Kind;

/// Why an API server is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It does not tell its version.
    #[error("ask the API server for its version")]
    Version(#[source] Box<kube::Error>),
    /// It does not let us read something.
    #[error("list {resource} of all namespaces")]
    List {
        /// The resource.
        resource: &'static str,
        /// What it says.
        #[source]
        source: Box<kube::Error>,
    },
}

/// The version of an API server that lets us list services and endpoint slices.
///
/// # Errors
/// Where it cannot be reached, or refuses.
pub async fn probe(client: &Client) -> Result<String, ProbeError> {
    let version = client.apiserver_version().await.map_err(|error| ProbeError::Version(Box::new(error)))?;
    for kind in [Kind::Service, Kind::Slice] {
        let refused = |error| ProbeError::List { resource: kind.resource(), source: Box::new(error) };
        for path in kind.paths() {
            let request = http::Request::get(format!("{path}?limit=1")).body(Vec::new());
            let request = request.map_err(|error| refused(kube::Error::HttpError(error)))?;
            client.request_text(request).await.map_err(refused)?;
        }
    }
    Ok(version.git_version)
}
