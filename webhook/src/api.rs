//! `Api`: objects of an API server as JSON: found, listed, made, replaced, deleted, and waited for.
//!
//! Whoever keeps objects here lists them, does what is to be done, and waits until something has changed; a change that
//! meets another one is a conflict, and is looked at anew. What must not go in here: what an object means.

use std::future::Future;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

/// How long an API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a change is waited for; then whoever waits looks again all the same.
const WATCH_S: u64 = 60;
/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(50);
/// How many objects are listed at once.
const PAGE_LEN: usize = 100;

/// Of an object the metadata alone.
pub(crate) const METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
/// The same of the objects of a list.
pub(crate) const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// No page of a list is longer.
const PAGE_BYTES_MAX: usize = 32 << 20;

/// What is read of an object that was written.
#[derive(Deserialize)]
struct Written {
    metadata: WrittenMeta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenMeta {
    resource_version: Box<str>,
}

/// What is read of a page.
#[derive(Deserialize)]
struct Listed {
    metadata: ListedMeta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListedMeta {
    r#continue: Option<String>,
}

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Somebody else was faster: it is there already, or not as it was.
    #[error("{verb} {path}: somebody else was faster")]
    Conflict { verb: &'static str, path: String },
    /// It has not answered.
    #[error("{verb} {path}: no answer within {PATIENCE:?}")]
    Silent { verb: &'static str, path: String },
    /// It refuses.
    #[error("{verb} {path}: the API server answers {code}")]
    Answer { verb: &'static str, path: String, code: u16 },
    /// What it answers cannot be read.
    #[error("failed to read the list {path}: {why}")]
    Content { path: String, why: String },
    /// It refuses, or cannot be reached.
    #[error("{verb} {path}")]
    Refused {
        verb: &'static str,
        path: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl ApiError {
    /// Whether to look again and decide anew.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether there is no such object.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if status(source) == Some(404))
    }
}

/// An API server.
#[derive(Clone)]
pub(crate) struct Api(pub(crate) Client);

impl Api {
    /// The object of this name among those of a path, and as of when.
    pub(crate) async fn find(&self, path: &str, name: &str) -> Result<(Option<Value>, String), ApiError> {
        let (mut found, version) = self.list(path, &named(name), |object| Some(object.clone())).await?;
        Ok((found.pop(), version))
    }

    /// Makes an object among those of a path.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.ask(Method::POST, "create", path, Some(object)).await
    }

    /// Writes an object and reads nothing of it back but its version: by `POST` among those of a path, by `PUT` at it.
    pub(crate) async fn write(
        &self,
        method: Method,
        path: &str,
        object: &Value,
    ) -> Result<Box<str>, ApiError> {
        let verb = if method == Method::POST { "create" } else { "update" };
        let written: Written =
            self.ask_as(METADATA, method, verb, path, object.to_string().into_bytes()).await?;
        Ok(written.metadata.resource_version)
    }

    /// Replaces the object at a path, if it still has the version that this one has.
    pub(crate) async fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.ask(Method::PUT, "update", path, Some(object)).await
    }

    /// Deletes the object at a path, if it still has this version; gone is as good.
    pub(crate) async fn delete(&self, path: &str, version: &str) -> Result<(), ApiError> {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"resourceVersion": version}});
        match self.ask(Method::DELETE, "delete", path, Some(&options)).await {
            Err(error) if error.is_absent() => Ok(()),
            other => other.map(drop),
        }
    }

    /// The objects of a path that match, what is kept of each decided as it comes.
    pub(crate) async fn list<T>(
        &self,
        path: &str,
        selectors: &str,
        mut keep: impl FnMut(&Value) -> Option<T>,
    ) -> Result<(Vec<T>, String), ApiError> {
        let (mut kept, mut token) = (Vec::new(), String::new());
        loop {
            let query = format!("{path}?limit={PAGE_LEN}{selectors}{token}");
            let page = self.ask(Method::GET, "list", &query, None).await?;
            let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            kept.extend(items.iter().filter_map(&mut keep));
            match page["metadata"]["continue"].as_str().filter(|more| !more.is_empty()) {
                Some(more) => token = format!("&continue={}", encoded(more)),
                None => {
                    let version = page["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                    return Ok((kept, version.to_owned()));
                }
            }
        }
    }

    /// The pages of a list as text, each handed on and forgotten, so that no more than one is held.
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
            let refused = |source| refused("list", path, source);
            let request = Request::get(&query).header("Accept", accept).body(Body::empty());
            let request = request.map_err(|error| refused(kube::Error::HttpError(error)))?;
            let response = within("list", path, self.0.send(request)).await?.map_err(refused)?;
            if response.status() != http::StatusCode::OK {
                return Err(ApiError::Answer {
                    verb: "list",
                    path: path.to_owned(),
                    code: response.status().as_u16(),
                });
            }
            let body = Limited::new(response.into_body(), PAGE_BYTES_MAX).collect();
            let body = within("list", path, body).await?;
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
                Some(more) => token = format!("&continue={}", encoded(&more)),
                None => return Ok(()),
            }
        }
    }

    /// Waits until something that matches has changed since a version, or for a while.
    pub(crate) async fn changed(&self, path: &str, selectors: &str, version: &str) -> Result<(), ApiError> {
        let query = format!(
            "{path}?watch=true&timeoutSeconds={WATCH_S}&resourceVersion={}{selectors}",
            encoded(version)
        );
        let refused = |source| refused("watch", path, source);
        let request = Request::get(&query).body(Body::empty());
        let request = request.map_err(|error| refused(kube::Error::HttpError(error)))?;
        let response = within("watch", path, self.0.send(request)).await?.map_err(refused)?;
        // The first word is enough: what it says will be listed. Or the time is over, or the connection broke.
        let _ = timeout(Duration::from_secs(WATCH_S), response.into_body().frame()).await;
        sleep(SETTLE).await;
        Ok(())
    }

    async fn ask(
        &self,
        method: Method,
        verb: &'static str,
        path: &str,
        object: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let body = object.map(|object| object.to_string().into_bytes()).unwrap_or_default();
        self.ask_as("application/json", method, verb, path, body).await
    }

    async fn ask_as<T: DeserializeOwned>(
        &self,
        accept: &str,
        method: Method,
        verb: &'static str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ApiError> {
        let request = Request::builder().method(method).uri(path).header("Accept", accept);
        let request = request.header("Content-Type", "application/json").body(body);
        let request = request.map_err(|error| refused(verb, path, kube::Error::HttpError(error)))?;
        let answer = within(verb, path, self.0.request::<T>(request)).await?;
        answer.map_err(|error| match status(&error) {
            Some(409) => ApiError::Conflict { verb, path: path.to_owned() },
            _ => refused(verb, path, error),
        })
    }
}

fn refused(verb: &'static str, path: &str, source: kube::Error) -> ApiError {
    ApiError::Refused { verb, path: path.to_owned(), source: Box::new(source) }
}

async fn within<T>(verb: &'static str, path: &str, step: impl Future<Output = T>) -> Result<T, ApiError> {
    timeout(PATIENCE, step).await.map_err(|_| ApiError::Silent { verb, path: path.to_owned() })
}

pub(crate) fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The selector of the object with this name.
pub(crate) fn named(name: &str) -> String {
    format!("&fieldSelector=metadata.name%3D{}", encoded(name))
}

/// A text as a value in a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}
