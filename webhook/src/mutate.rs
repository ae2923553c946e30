//! `Mutate`: one request for /mutate, from its head to its answer, within its limits.
//!
//! What a client does wrong has an answer with a reason and a 4xx at most; a 5xx leaves the decision to the failure
//! policy, and so does silence. What must not go in here: what is done to a pod.

use std::time::{Duration, Instant};

use admission_review::EXCERPT_BYTES_MAX;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admission::{Admitter, Answered};
use crate::body::Body;
use crate::load::{ConnectionLoad, RequestLoad};
use crate::registration::TIMEOUT_S;
use crate::tally::Tallied;

/// No review is longer: an object of 3 MiB, the old one, and what is around them.
const BODY_BYTES_MAX: usize = 7 << 20;
/// Reviews up to this length are answered side by side, longer ones one at a time.
const SMALL_BYTES_MAX: usize = 256 << 10;
/// What the small ones that are being answered may take together, in KiB.
const SMALL_KIB_MAX: usize = 24 << 10;
/// What answering takes for each byte of a review, while its excerpt is small.
const KIB_PER_KIB: usize = 64;
/// How long a review may take to come.
const BODY_MAX: Duration = Duration::from_secs(5);
/// How long the text of a fault may wait for room.
const FAULT_MAX: Duration = Duration::from_millis(100);
/// Whoever waits is told a little before he gives up.
const SHARE_OF_TIMEOUT: f64 = 0.9;

/// Answers requests.
pub(crate) struct Mutate {
    admitter: Admitter,
    tallied: Tallied,
    /// KiB that answering small reviews may still take.
    small: Semaphore,
    /// The turn to answer a large one.
    large: Semaphore,
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

fn overloaded() -> Fault {
    Fault::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "there are too many requests, or too large ones",
    )
}

fn too_long() -> Fault {
    let why = format!("a review is at most {BODY_BYTES_MAX} bytes long");
    Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", why)
}

impl Mutate {
    pub(crate) fn new(admitter: Admitter, tallied: Tallied) -> Self {
        Self { admitter, tallied, small: Semaphore::new(SMALL_KIB_MAX), large: Semaphore::new(1) }
    }

    /// The answer, whatever comes.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &ConnectionLoad,
    ) -> Response<Body> {
        let began = Instant::now();
        let patience = patience(request.uri().query().unwrap_or_default());
        let Some(load) = connection.request() else {
            let Fault { status, outcome, why } = overloaded();
            self.tallied.request(outcome, began.elapsed());
            return response(status, Body::from(why), "text/plain; charset=utf-8");
        };
        let answered = timeout(patience, self.answered(request, patience, &load)).await;
        let answered = answered.unwrap_or_else(|_| {
            Err(Fault::new(StatusCode::GATEWAY_TIMEOUT, "late", "the time that was given is over"))
        });
        match answered {
            Ok(Answered { outcome, answer }) => {
                self.tallied.request(outcome, began.elapsed());
                response(StatusCode::OK, Body::held(answer, load), "application/json")
            }
            Err(Fault { status, outcome, why }) => {
                tracing::debug!(%status, why, "a request was not answered");
                self.tallied.request(outcome, began.elapsed());
                let text = why + "\n";
                // One that finds no room for so little is sent all the same.
                let _ = timeout(FAULT_MAX, load.answered(text.len())).await;
                response(status, Body::held_text(text, load), "text/plain; charset=utf-8")
            }
        }
    }

    async fn answered(
        &self,
        request: Request<Incoming>,
        patience: Duration,
        load: &RequestLoad,
    ) -> Result<Answered, Fault> {
        if request.uri().path() != "/mutate" {
            return Err(Fault::new(StatusCode::NOT_FOUND, "bad_request", "there is /mutate"));
        }
        if request.method() != Method::POST {
            return Err(Fault::new(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "only POST"));
        }
        let reading = async {
            tokio::select! {
                review = read(request.into_body(), load) => review,
                () = load.evicted() => Err(overloaded()),
            }
        };
        // Where the answer is due before that, its own timer is enough.
        let read = if patience <= BODY_MAX { Ok(reading.await) } else { timeout(BODY_MAX, reading).await };
        let review = read.map_err(|_| {
            Fault::new(StatusCode::REQUEST_TIMEOUT, "bad_request", "the review did not come")
        })??;
        if !load.arrived() {
            return Err(overloaded());
        }
        let turn = if review.len() <= SMALL_BYTES_MAX {
            self.small.acquire_many(weight_kib(review.len())).await
        } else {
            self.large.acquire().await
        };
        let _turn = turn.map_err(|_| overloaded())?;
        let failed = |why| Fault::new(StatusCode::SERVICE_UNAVAILABLE, "failed", why);
        let answered = self.admitter.answer(&review).await.map_err(failed)?;
        drop(review);
        load.answered(answered.answer.size()).await;
        Ok(answered)
    }
}

/// Reads a review; the load is charged with what has come, never with what is announced.
async fn read(mut body: Incoming, load: &RequestLoad) -> Result<Vec<u8>, Fault> {
    let expected = body.size_hint();
    if expected.lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    let announced = expected.exact().and_then(|len| usize::try_from(len).ok()).unwrap_or(BODY_BYTES_MAX);
    let mut review = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Fault::new(StatusCode::BAD_REQUEST, "bad_request", format!("read the review: {error}"))
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

/// What answering a small review takes at most, in KiB.
fn weight_kib(len: usize) -> u32 {
    let kib = len / 1_024 + 1;
    let excerpt = (kib * KIB_PER_KIB).min(EXCERPT_BYTES_MAX / 1_024);
    u32::try_from(excerpt + 5 * kib).unwrap_or(u32::MAX)
}

fn response(status: StatusCode, body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
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
