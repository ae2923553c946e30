//! `probe`: checks that an API server responds, and lets Portico read what a service proxy needs.
//!
//! For `portico check`, so it makes one attempt without retries.

use kube::Client;

use crate::cluster::resource::Kind;

/// An error of the check.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The version cannot be read.
    #[error("failed to read the version of the API server")]
    Version(#[source] Box<kube::Error>),
    /// A resource cannot be listed.
    #[error("failed to list {resource} of all namespaces")]
    List {
        /// The resource.
        resource: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Returns the version of an API server that lets this process list services and EndpointSlices.
///
/// # Errors
/// The API server cannot be reached, or denies access.
pub async fn probe(client: &Client) -> Result<String, ProbeError> {
    let version = client.apiserver_version().await.map_err(|error| ProbeError::Version(Box::new(error)))?;
    for kind in [Kind::Service, Kind::Slice] {
        let failed = |error| ProbeError::List { resource: kind.resource(), source: Box::new(error) };
        for path in kind.paths() {
            let request = http::Request::get(format!("{path}?limit=1")).body(Vec::new());
            let request = request.map_err(|error| failed(kube::Error::HttpError(error)))?;
            client.request_text(request).await.map_err(failed)?;
        }
    }
    Ok(version.git_version)
}
