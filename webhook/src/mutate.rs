//! `Mutate`: one request for /mutate, from its head to its answer, within its limits.
//!
//! What a client does wrong has an answer with a reason and a 4xx at most; a 5xx leaves the decision to the failure
//! policy, and so does silence. What must not go in here: what is done to a pod.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admission::{Admitter, Answered};
use crate::body::Body;
use crate::registration::TIMEOUT_S;
use crate::tally::Tallied;

/// No review is longer: an object of 3 MiB, the old one, and what is around them.
const BODY_BYTES_MAX: usize = 7 << 20;
/// How much all reviews that are being read may hold together, in KiB.
const BODIES_KIB_MAX: usize = 64 << 10;
/// How long a review may take to come.
const BODY_MAX: Duration = Duration::from_secs(5);
/// Whoever waits is told a little before he gives up.
const SHARE_OF_TIMEOUT: f64 = 0.9;

/// Answers requests.
pub(crate) struct Mutate {
    admitter: Admitter,
    tallied: Tallied,
    /// KiB that reviews may still take.
    room: Semaphore,
}

/// What a request did wrong, or what went wrong with it.
struct Fault {
    status: StatusCode,
    outcome: &'static str,
    why: String,
}

impl Fault {
    fn new(status: StatusCode, outcome: &'static str, why: impl Into<String>) -> Self {
        Self { status, outcome, why: why.into() }
    }
}

impl Mutate {
    pub(crate) fn new(admitter: Admitter, tallied: Tallied) -> Self {
        Self { admitter, tallied, room: Semaphore::new(BODIES_KIB_MAX) }
    }

    /// The answer, whatever comes.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let began = Instant::now();
        let patience = patience(request.uri().query().unwrap_or_default());
        let answered = timeout(patience, self.answered(request, patience)).await.unwrap_or_else(|_| {
            Err(Fault::new(StatusCode::GATEWAY_TIMEOUT, "late", "the time that was given is over"))
        });
        let (status, outcome, body, content_type) = match answered {
            Ok(Answered { outcome, answer }) => {
                (StatusCode::OK, outcome, Body::from(answer), "application/json")
            }
            Err(Fault { status, outcome, why }) => {
                tracing::debug!(%status, why, "a request was not answered");
                (status, outcome, Body::from(format!("{why}\n")), "text/plain; charset=utf-8")
            }
        };
        self.tallied.request(outcome, began.elapsed());
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    async fn answered(&self, request: Request<Incoming>, patience: Duration) -> Result<Answered, Fault> {
        if request.uri().path() != "/mutate" {
            return Err(Fault::new(StatusCode::NOT_FOUND, "bad_request", "there is /mutate"));
        }
        if request.method() != Method::POST {
            return Err(Fault::new(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "only POST"));
        }
        let body = request.into_body();
        let too_long = || {
            let why = format!("a review is at most {BODY_BYTES_MAX} bytes long");
            Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", why)
        };
        let expected = body.size_hint();
        if expected.lower() > BODY_BYTES_MAX as u64 {
            return Err(too_long());
        }
        let expected = expected.upper().unwrap_or(BODY_BYTES_MAX as u64).min(BODY_BYTES_MAX as u64);
        let kib = u32::try_from(expected / 1_024 + 1).unwrap_or(u32::MAX);
        let overloaded = |_| Fault::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "no room");
        let _room = self.room.acquire_many(kib).await.map_err(overloaded)?;
        let reading = Limited::new(body, BODY_BYTES_MAX).collect();
        // Where the answer is due before that, its own timer is enough.
        let read = if patience <= BODY_MAX { Ok(reading.await) } else { timeout(BODY_MAX, reading).await };
        let read = read
            .map_err(|_| Fault::new(StatusCode::REQUEST_TIMEOUT, "bad_request", "the review did not come"))?;
        let review = read.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return too_long();
            }
            Fault::new(StatusCode::BAD_REQUEST, "bad_request", format!("read the review: {error}"))
        })?;
        let failed = |why| Fault::new(StatusCode::SERVICE_UNAVAILABLE, "failed", why);
        self.admitter.answer(&review.to_bytes()).await.map_err(failed)
    }
}

/// How long the answer may take, as the query says: `timeout=3s`.
fn patience(query: &str) -> Duration {
    let found = query.split('&').find_map(|pair| pair.strip_prefix("timeout="));
    let asked = found.and_then(seconds).unwrap_or(TIMEOUT_S as f64);
    Duration::from_secs_f64(asked.clamp(0.1, 30.0) * SHARE_OF_TIMEOUT)
}

/// A duration as Go writes whole seconds and fractions of one.
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
    fn the_time_that_the_api_server_gives_is_honoured() {
        assert_eq!(patience("timeout=10s"), Duration::from_secs(9));
        assert_eq!(patience("a=b&timeout=500ms"), Duration::from_millis(450));
        for none in ["", "timeout=", "timeout=x", "timeout=NaNs", "timeout=s"] {
            assert_eq!(patience(none), Duration::from_millis(2_700), "{none}");
        }
        assert_eq!(patience("timeout=-5s"), Duration::from_millis(90));
        assert_eq!(patience("timeout=99999s"), Duration::from_secs(27));
    }
}
