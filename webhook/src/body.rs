//! `Body`: what is sent back, in pieces.
//!
//! What many answers have in common is not copied into each of them. How long all of it is, is known before, so it is sent
//! with its length and in few writes. What of it a client does not take is charged to its request. What must not go in here: what is said.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec::IntoIter;

use admission_review::Answer;
use hyper::body::{Bytes, Frame, SizeHint};

use crate::load::RequestLoad;

/// A piece is at most so long: of a longer one no more than this waits for its client outside of the load.
const PIECE_BYTES_MAX: usize = 32 << 10;

/// Bytes that count as held until the last of their pieces is sent.
struct Held<T> {
    bytes: T,
    _load: Arc<RequestLoad>,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// The pieces that are not sent yet.
#[derive(Debug)]
pub(crate) struct Body {
    pieces: IntoIter<Bytes>,
    left: u64,
}

impl Body {
    fn new(pieces: Vec<Bytes>) -> Self {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        Self { pieces: pieces.into_iter(), left: u64::try_from(len).unwrap_or(u64::MAX) }
    }
}

impl Body {
    /// An answer that stays charged to its request until it is sent.
    pub(crate) fn held(answer: Answer, load: RequestLoad) -> Self {
        let load = Arc::new(load);
        let bytes = |piece| Bytes::from_owner(Held { bytes: piece, _load: Arc::clone(&load) });
        let split = |mut bytes: Bytes| {
            let mut pieces = Vec::with_capacity(bytes.len() / PIECE_BYTES_MAX + 1);
            while bytes.len() > PIECE_BYTES_MAX {
                pieces.push(bytes.split_to(PIECE_BYTES_MAX));
            }
            pieces.push(bytes);
            pieces
        };
        Self::new(answer.into_pieces().into_iter().map(bytes).flat_map(split).collect())
    }

    /// The same for a text.
    pub(crate) fn held_text(text: String, load: RequestLoad) -> Self {
        Self::new(vec![Bytes::from_owner(Held { bytes: text, _load: Arc::new(load) })])
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::new(vec![text.into()])
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(piece) = self.pieces.next() else { return Poll::Ready(None) };
        self.left = self.left.saturating_sub(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
