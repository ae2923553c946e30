//! `Api`: requests to an API server, with objects as JSON.
//!
//! A reconciler reads an object, writes it with the resource version as a precondition, and waits for the next change
//! (`ObjectWatch`). If another client was faster, the write is a conflict, and the reconciler starts again.

use std::future::Future;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use support::percent_encode_query;
use tokio::time::timeout;

/// The timeout of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests only the metadata of an object.
pub(crate) const METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
/// Requests only the metadata of the objects of a list.
pub(crate) const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// The maximum size of a page.
const PAGE_BYTES_MAX: usize = 32 << 20;

/// The response to a write.
#[derive(Deserialize)]
struct Written {
    metadata: WrittenMeta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenMeta {
    resource_version: Box<str>,
}

/// The metadata of a page.
#[derive(Deserialize)]
struct Listed {
    metadata: ListedMeta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListedMeta {
    r#continue: Option<String>,
}

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The object exists already, or has another resource version.
    #[error("{verb} {path}: conflict")]
    Conflict { verb: &'static str, path: String },
    /// No response in time.
    #[error("{verb} {path}: timed out after {REQUEST_TIMEOUT:?}")]
    Timeout { verb: &'static str, path: String },
    /// The response has an error status.
    #[error("{verb} {path}: status {code}")]
    Status { verb: &'static str, path: String, code: u16 },
    /// The response is malformed.
    #[error("failed to read the list {path}: {why}")]
    Content { path: String, why: String },
    /// The API server rejected the request, or is unreachable.
    #[error("{verb} {path}")]
    Rejected {
        verb: &'static str,
        path: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl ApiError {
    /// Whether to read the object again and retry.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the object does not exist.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Rejected { source, .. } if status(source) == Some(404))
    }
}

/// A client of an API server.
#[derive(Clone)]
pub(crate) struct Api(pub(crate) Client);

impl Api {
    /// Returns the object of this name in a collection.
    pub(crate) async fn find(&self, path: &str, name: &str) -> Result<Option<Value>, ApiError> {
        let mut page =
            self.send(Method::GET, "list", &format!("{path}?limit=1{}", named(name)), None).await?;
        Ok(page["items"].as_array_mut().and_then(Vec::pop))
    }

    /// Creates an object in a collection.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.send(Method::POST, "create", path, Some(object)).await
    }

    /// Creates (`POST` to a collection) or replaces (`PUT`) an object, and returns its resource version only.
    pub(crate) async fn write(
        &self,
        method: Method,
        path: &str,
        object: &Value,
    ) -> Result<Box<str>, ApiError> {
        let verb = if method == Method::POST { "create" } else { "update" };
        let written: Written =
            self.send_as(METADATA, method, verb, path, object.to_string().into_bytes()).await?;
        Ok(written.metadata.resource_version)
    }

    /// Replaces an object, with its resource version as the precondition.
    pub(crate) async fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.send(Method::PUT, "update", path, Some(object)).await
    }

    /// Deletes an object, with a resource version as the precondition; succeeds if it does not exist.
    pub(crate) async fn delete(&self, path: &str, version: &str) -> Result<(), ApiError> {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"resourceVersion": version}});
        match self.send(Method::DELETE, "delete", path, Some(&options)).await {
            Err(error) if error.is_absent() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Lists a collection page by page, and passes the text of each to `page`, so that at most one is in memory.
    pub(crate) async fn pages(
        &self,
        path: &str,
        selectors: &str,
        accept: &str,
        limit: usize,
        mut page: impl FnMut(&[u8]),
    ) -> Result<(), ApiError> {
        let mut token = String::new();
        loop {
            let query = format!("{path}?limit={limit}{selectors}{token}");
            let rejected = |source| rejected("list", path, source);
            let request = Request::get(&query).header("Accept", accept).body(Body::empty());
            let request = request.map_err(|error| rejected(kube::Error::HttpError(error)))?;
            let response = with_timeout("list", path, self.0.send(request)).await?.map_err(rejected)?;
            if response.status() != http::StatusCode::OK {
                return Err(ApiError::Status {
                    verb: "list",
                    path: path.to_owned(),
                    code: response.status().as_u16(),
                });
            }
            let body = Limited::new(response.into_body(), PAGE_BYTES_MAX).collect();
            let body = with_timeout("list", path, body).await?;
            let body =
                body.map_err(|error| ApiError::Content { path: path.to_owned(), why: error.to_string() })?;
            let text = body.to_bytes();
            let content = |error: serde_json::Error| ApiError::Content {
                path: path.to_owned(),
                why: error.to_string(),
            };
            let listed: Listed = serde_json::from_slice(&text).map_err(content)?;
            page(&text);
            match listed.metadata.r#continue.filter(|more| !more.is_empty()) {
                Some(more) => token = format!("&continue={}", percent_encode_query(&more)),
                None => return Ok(()),
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        verb: &'static str,
        path: &str,
        object: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let body = object.map(|object| object.to_string().into_bytes()).unwrap_or_default();
        self.send_as("application/json", method, verb, path, body).await
    }

    async fn send_as<T: DeserializeOwned>(
        &self,
        accept: &str,
        method: Method,
        verb: &'static str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ApiError> {
        let request = Request::builder().method(method).uri(path).header("Accept", accept);
        let request = request.header("Content-Type", "application/json").body(body);
        let request = request.map_err(|error| rejected(verb, path, kube::Error::HttpError(error)))?;
        let response = with_timeout(verb, path, self.0.request::<T>(request)).await?;
        response.map_err(|error| match status(&error) {
            Some(409) => ApiError::Conflict { verb, path: path.to_owned() },
            _ => rejected(verb, path, error),
        })
    }
}

fn rejected(verb: &'static str, path: &str, source: kube::Error) -> ApiError {
    ApiError::Rejected { verb, path: path.to_owned(), source: Box::new(source) }
}

async fn with_timeout<T>(
    verb: &'static str,
    path: &str,
    step: impl Future<Output = T>,
) -> Result<T, ApiError> {
    timeout(REQUEST_TIMEOUT, step).await.map_err(|_| ApiError::Timeout { verb, path: path.to_owned() })
}

pub(crate) fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Returns the field selector for an object of this name.
pub(crate) fn named(name: &str) -> String {
    format!("&fieldSelector=metadata.name%3D{}", percent_encode_query(name))
}
