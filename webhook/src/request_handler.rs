//! `RequestHandler`: serves a request for /mutate within limits of time and memory.
//!
//! A client error is answered with a reason and a status of at most 4xx. After a 5xx or a timeout, the failure policy of
//! the API server decides.

use std::time::{Duration, Instant};

use admission_review::EXTRACT_BYTES_MAX;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admission_handler::{AdmissionHandler, ReviewResponse};
use crate::body::{Body, charged};
use crate::counters::Counters;
use crate::load::{ConnectionLoad, RequestLoad};
use crate::registration::TIMEOUT_S;

/// The limit of a review: an object of 3 MiB, its previous state, and the fields around them.
const BODY_BYTES_MAX: usize = 7 << 20;
/// Reviews up to this length are processed concurrently, longer ones one at a time.
const SMALL_BYTES_MAX: usize = 256 << 10;
/// The memory that concurrent small reviews can use together, in KiB.
const SMALL_KIB_MAX: usize = 24 << 10;
/// The memory for each byte of a review, while its extract is small.
const KIB_PER_KIB: usize = 64;
/// The time limit for receiving a review.
const BODY_MAX: Duration = Duration::from_secs(5);
/// The time limit for reserving memory for the text of an error.
const ERROR_MAX: Duration = Duration::from_millis(100);
/// The part of the client's timeout after which the webhook responds with an error, so that the client receives it.
const SHARE_OF_TIMEOUT: f64 = 0.9;

/// Serves requests.
pub(crate) struct RequestHandler {
    admission: AdmissionHandler,
    counters: Counters,
    /// The available memory for small reviews, in KiB.
    small: Semaphore,
    /// The permit to process a large review.
    large: Semaphore,
}

/// A response without a review.
struct RequestError {
    status: StatusCode,
    outcome: &'static str,
    reason: String,
}

impl RequestError {
    fn new(status: StatusCode, outcome: &'static str, reason: impl Into<String>) -> Self {
        Self { status, outcome, reason: reason.into() }
    }
}

fn overloaded() -> RequestError {
    RequestError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too many requests, or too large ones")
}

fn too_long() -> RequestError {
    let reason = format!("the review is longer than {BODY_BYTES_MAX} bytes");
    RequestError::new(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", reason)
}

impl RequestHandler {
    pub(crate) fn new(admission: AdmissionHandler, counters: Counters) -> Self {
        Self { admission, counters, small: Semaphore::new(SMALL_KIB_MAX), large: Semaphore::new(1) }
    }

    /// Returns the response to any request.
    pub(crate) async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &ConnectionLoad,
    ) -> Response<Body> {
        let start = Instant::now();
        let deadline = response_timeout(request.uri().query().unwrap_or_default());
        let Some(load) = connection.request() else {
            let RequestError { status, outcome, reason } = overloaded();
            self.counters.request(outcome, start.elapsed());
            return response(status, Body::from(reason + "\n"), "text/plain; charset=utf-8");
        };
        let result = timeout(deadline, self.process(request, deadline, &load)).await;
        let result = result
            .unwrap_or_else(|_| Err(RequestError::new(StatusCode::GATEWAY_TIMEOUT, "late", "timed out")));
        match result {
            Ok(ReviewResponse { outcome, body }) => {
                self.counters.request(outcome, start.elapsed());
                response(StatusCode::OK, charged(body, load), "application/json")
            }
            Err(RequestError { status, outcome, reason }) => {
                tracing::debug!(%status, reason, "request failed");
                self.counters.request(outcome, start.elapsed());
                let text = reason + "\n";
                // After the timeout, this short text is sent without a reservation.
                let _ = timeout(ERROR_MAX, load.answered(text.len())).await;
                response(status, charged(text, load), "text/plain; charset=utf-8")
            }
        }
    }

    async fn process(
        &self,
        request: Request<Incoming>,
        deadline: Duration,
        load: &RequestLoad,
    ) -> Result<ReviewResponse, RequestError> {
        if request.uri().path() != "/mutate" {
            return Err(RequestError::new(
                StatusCode::NOT_FOUND,
                "bad_request",
                "not found; this server only serves /mutate",
            ));
        }
        if request.method() != Method::POST {
            return Err(RequestError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "bad_request",
                "the method must be POST",
            ));
        }
        let reading = async {
            tokio::select! {
                review = read(request.into_body(), load) => review,
                () = load.evicted() => Err(overloaded()),
            }
        };
        // If the response is due earlier, its own timer is enough.
        let read = if deadline <= BODY_MAX { Ok(reading.await) } else { timeout(BODY_MAX, reading).await };
        let review = read.map_err(|_| {
            RequestError::new(StatusCode::REQUEST_TIMEOUT, "bad_request", "timed out receiving the review")
        })??;
        if !load.arrived() {
            return Err(overloaded());
        }
        let permit = if review.len() <= SMALL_BYTES_MAX {
            self.small.acquire_many(weight_kib(review.len())).await
        } else {
            self.large.acquire().await
        };
        let _permit = permit.map_err(|_| overloaded())?;
        let failed = |reason| RequestError::new(StatusCode::SERVICE_UNAVAILABLE, "failed", reason);
        self.admission.handle(review, load).await.map_err(failed)
    }
}

/// Reads a review. Received bytes are charged to the load, announced ones are not.
async fn read(mut body: Incoming, load: &RequestLoad) -> Result<Vec<u8>, RequestError> {
    let expected = body.size_hint();
    if expected.lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    let announced = expected.exact().and_then(|len| usize::try_from(len).ok()).unwrap_or(BODY_BYTES_MAX);
    let mut review = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            RequestError::new(
                StatusCode::BAD_REQUEST,
                "bad_request",
                format!("failed to read the review: {error}"),
            )
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let len = review.len() + data.len();
        if len > BODY_BYTES_MAX {
            return Err(too_long());
        }
        if len > review.capacity() {
            let capacity = len.max(review.capacity() + review.capacity() / 2).min(announced.max(len));
            load.grow(capacity - review.capacity()).await;
            review.reserve_exact(capacity - review.len());
        }
        review.extend_from_slice(&data);
    }
    Ok(review)
}

/// Returns the limit of the memory for processing a small review, in KiB.
fn weight_kib(len: usize) -> u32 {
    let kib = len / 1_024 + 1;
    let extract = (kib * KIB_PER_KIB).min(EXTRACT_BYTES_MAX / 1_024);
    u32::try_from(extract + 5 * kib).unwrap_or(u32::MAX)
}

fn response(status: StatusCode, body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Returns the time limit of the response from the query, for example `timeout=3s`.
fn response_timeout(query: &str) -> Duration {
    let found = query.split('&').find_map(|pair| pair.strip_prefix("timeout="));
    let requested = found.and_then(seconds).unwrap_or(TIMEOUT_S as f64);
    Duration::from_secs_f64(requested.clamp(0.1, 30.0) * SHARE_OF_TIMEOUT)
}

/// Parses a duration of seconds or milliseconds as Go formats it.
fn seconds(text: &str) -> Option<f64> {
    if let Some(number) = text.strip_suffix("ms") {
        return number.parse().ok().map(|ms: f64| ms / 1_000.0).filter(|s| s.is_finite());
    }
    text.strip_suffix('s')?.parse().ok().filter(|s: &f64| s.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_timeout_is_nine_tenths_of_the_query_within_limits() {
        assert_eq!(response_timeout("timeout=10s"), Duration::from_secs(9));
        assert_eq!(response_timeout("a=b&timeout=500ms"), Duration::from_millis(450));
        for none in ["", "timeout=", "timeout=x", "timeout=NaNs", "timeout=s"] {
            assert_eq!(response_timeout(none), Duration::from_millis(2_700), "{none}");
        }
        assert_eq!(response_timeout("timeout=-5s"), Duration::from_millis(90));
        assert_eq!(response_timeout("timeout=99999s"), Duration::from_secs(27));
    }
}
