//! The client of an API server: its address and credentials.
//!
//! A kubeconfig is used only if it is named explicitly; otherwise the service account of the pod is used. Environment
//! variables such as `KUBECONFIG` are ignored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// The timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An error while creating a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be read or used.
    #[error("invalid kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: KubeconfigError,
    },
    /// No kubeconfig was named, and there is no service account.
    #[error("no API server configured: pass --kubeconfig, or run in a pod with a service account")]
    InCluster(#[source] InClusterError),
    /// The certificates or credentials cannot be used.
    #[error("failed to create a client for {server}")]
    Client {
        /// The address of the API server.
        server: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Returns a client of the API server in a kubeconfig, or of the one whose pod this process runs in.
///
/// # Errors
/// The kubeconfig or the credentials cannot be used, or there is neither a kubeconfig nor a service account.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let invalid = |source| ClientError::Kubeconfig { path: path.to_owned(), source };
            let kubeconfig = Kubeconfig::read_from(path).map_err(invalid)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(invalid)?
        }
        None => Config::incluster().map_err(ClientError::InCluster)?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Callers retry by themselves.
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ClientError::Client { server, source: Box::new(source) })
}
