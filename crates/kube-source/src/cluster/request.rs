//! `ApiRequest`: a list or watch request about one resource, with a timeout for each part of the response.
//!
//! The response is bounded in time here, and in size by its readers (`list_reader`, `json_lines`).

use std::future::Future;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio::time::timeout;

use crate::cluster::resource::Resource;
use crate::cluster::watch_error::{ErrorKind, WatchError};

/// The maximum length of an error response that is read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A request about one resource.
pub(super) struct ApiRequest<'a> {
    pub(super) client: &'a kube::Client,
    pub(super) resource: &'a Resource,
    /// `list` or `watch`, for messages.
    pub(super) verb: &'static str,
    /// The value of the header `Accept`.
    pub(super) accept: &'static str,
    /// The timeout for the start of the response, and for each further part.
    pub(super) timeout: Duration,
}

impl ApiRequest<'_> {
    /// Sends the request, and returns the body of a successful response.
    pub(super) async fn send(&self, path_and_query: &str) -> Result<Body, WatchError> {
        let request = Request::get(path_and_query).header("Accept", self.accept).body(Body::empty());
        let request = request.map_err(|error| self.error(ErrorKind::InvalidResponse, &error.to_string()))?;
        let response = self.with_timeout(self.client.send(request)).await?;
        let response = response.map_err(|error| WatchError::connection(self.verb, self.resource, &error))?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        Err(self.status_error(response).await)
    }

    /// Returns the next part of a body, or `None` at its end.
    pub(super) async fn next_data(
        &self,
        body: &mut Body,
    ) -> Result<Option<impl AsRef<[u8]> + use<>>, WatchError> {
        while let Some(frame) = self.with_timeout(body.frame()).await? {
            let frame = frame.map_err(|error| WatchError::connection(self.verb, self.resource, &error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    pub(super) fn error(&self, kind: ErrorKind, cause: &str) -> WatchError {
        WatchError::new(kind, self.verb, self.resource, cause)
    }

    /// Reads an error response.
    async fn status_error(&self, response: Response<Body>) -> WatchError {
        let code = response.status().as_u16();
        let retry_after =
            response.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.parse().ok());
        // The message is optional: an error or the end of the body is ignored.
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Ok(Some(data)) = self.next_data(&mut body).await {
            text.extend_from_slice(data.as_ref());
            if text.len() > ERROR_BYTES_MAX {
                break;
            }
        }
        let status: Value = serde_json::from_slice(&text).unwrap_or_default();
        let message = status.get("message").and_then(Value::as_str).unwrap_or_default();
        let mut error = WatchError::status(self.verb, self.resource, code, message);
        error.retry_after = retry_after.map(Duration::from_secs);
        error
    }

    async fn with_timeout<T>(&self, step: impl Future<Output = T>) -> Result<T, WatchError> {
        let timed_out = |_| self.error(ErrorKind::Timeout, &format!("timed out after {:?}", self.timeout));
        timeout(self.timeout, step).await.map_err(timed_out)
    }
}
