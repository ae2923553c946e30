//! `ObjectClient`: reads and patches single objects as JSON, for commands of an operator.
//!
//! Each request has a timeout and is made once. Watching objects is the task of `list_watch`.

use std::path::Path;
use std::time::Duration;

use http::Request;
use kube::Client;
use serde_json::Value;
use support::percent_encode_query;
use tokio::time::timeout;

use crate::cluster::client::{ClientError, client};

const TIMEOUT: Duration = Duration::from_secs(30);
/// The number of objects in a response.
const PAGE_SIZE: usize = 500;
/// The maximum number of pages of a list.
const PAGES_MAX: usize = 100;

/// An error of a request.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The request failed, or the API server denied it.
    #[error("failed to {verb} {path}")]
    Request {
        /// What the request does.
        verb: &'static str,
        /// The path of the objects.
        path: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// There was no response.
    #[error("failed to {verb} {path}: timed out after {TIMEOUT:?}")]
    Timeout {
        /// What the request does.
        verb: &'static str,
        /// The path of the objects.
        path: String,
    },
    /// The list has more objects than an operator's command can use.
    #[error("failed to list {path}: more than {} objects", PAGE_SIZE * PAGES_MAX)]
    TooMany {
        /// The path of the objects.
        path: String,
    },
}

/// Reads and patches objects.
#[derive(Clone)]
pub struct ObjectClient(Client);

impl ObjectClient {
    /// Returns a client of the API server in a kubeconfig, or of the one whose pod this process runs in.
    ///
    /// # Errors
    /// The kubeconfig or the credentials cannot be used.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Self, ClientError> {
        client(kubeconfig).await.map(Self)
    }

    /// Lists the objects at a path with these label and field selectors.
    ///
    /// # Errors
    /// The request fails, or there are too many objects.
    pub async fn list(&self, path: &str, labels: &str, fields: &str) -> Result<Vec<Value>, ObjectError> {
        let (mut objects, mut token) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let mut query = format!("{path}?limit={PAGE_SIZE}");
            for (name, value) in [("labelSelector", labels), ("fieldSelector", fields), ("continue", &token)]
            {
                if !value.is_empty() {
                    query = format!("{query}&{name}={}", percent_encode_query(value));
                }
            }
            let mut page = self.send("list", path, Request::get(query), Vec::new()).await?;
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                objects.extend(items);
            }
            let next = page.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or_default();
            if next.is_empty() {
                return Ok(objects);
            }
            next.clone_into(&mut token);
        }
        Err(ObjectError::TooMany { path: path.to_owned() })
    }

    /// Applies a JSON merge patch to the object at a path, and returns the object.
    ///
    /// # Errors
    /// The request fails, for example because the patch has another resource version than the object.
    pub async fn merge_patch(&self, path: &str, patch: &Value) -> Result<Value, ObjectError> {
        let request = Request::patch(path).header("Content-Type", "application/merge-patch+json");
        self.send("patch", path, request, patch.to_string().into_bytes()).await
    }

    async fn send(
        &self,
        verb: &'static str,
        path: &str,
        request: http::request::Builder,
        body: Vec<u8>,
    ) -> Result<Value, ObjectError> {
        let failed = |source| ObjectError::Request { verb, path: path.to_owned(), source: Box::new(source) };
        let request = request.body(body).map_err(|error| failed(kube::Error::HttpError(error)))?;
        let response = timeout(TIMEOUT, self.0.request::<Value>(request)).await;
        response.map_err(|_| ObjectError::Timeout { verb, path: path.to_owned() })?.map_err(failed)
    }
}

impl std::fmt::Debug for ObjectClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectClient").finish_non_exhaustive()
    }
}
