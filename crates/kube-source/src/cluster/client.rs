//! The client of an API server: where it is and who we are.
//!
//! A kubeconfig that is named is used, or else the service account of the pod; nothing is guessed from the
//! environment of a user. What must not go in here: what is asked of the server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("use kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KubeconfigError,
    },
    /// No kubeconfig was named, and there is no service account.
    #[error("find an API server: no kubeconfig was given, and this is no pod with a service account")]
    InCluster(#[source] InClusterError),
    /// Certificates or credentials cannot be used.
    #[error("make a client for {server}")]
    Client {
        /// The address of the server.
        server: String,
        /// What is wrong.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client of the API server that a kubeconfig names, or of the one whose pod this is.
///
/// # Errors
/// The kubeconfig or what it names cannot be read or used, or none was given and this is no pod.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let refused = |source| ClientError::Kubeconfig { path: path.to_owned(), source };
            let kubeconfig = Kubeconfig::read_from(path).map_err(refused)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(refused)?
        }
        None => Config::incluster().map_err(ClientError::InCluster)?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Whoever asks decides when to ask again.
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ClientError::Client { server, source: Box::new(source) })
}
