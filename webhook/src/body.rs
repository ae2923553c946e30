//! Response bodies, whose bytes stay charged to their request until the last one is sent.

use http_body_util::Full;
use hyper::body::Bytes;

use crate::load::RequestLoad;

/// The body of a response.
pub(crate) type Body = Full<Bytes>;

/// Bytes that count as in use until they are dropped.
struct Charged {
    bytes: Vec<u8>,
    _load: RequestLoad,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns a body that stays charged to its request until all of it is sent.
pub(crate) fn charged(bytes: impl Into<Vec<u8>>, load: RequestLoad) -> Body {
    Full::new(Bytes::from_owner(Charged { bytes: bytes.into(), _load: load }))
}
