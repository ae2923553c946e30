//! `Body`: what is sent back, in pieces.
//!
//! What many answers have in common is not copied into each of them. How long all of it is, is known before, so it is sent
//! with its length and in as few writes as go. What must not go in here: what is said.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec::IntoIter;

use hyper::body::{Bytes, Frame, SizeHint};
use proxy_core::review::{Answer, Piece};

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

impl From<Answer> for Body {
    fn from(answer: Answer) -> Self {
        let bytes = |piece| match piece {
            Piece::Own(bytes) => bytes.into(),
            Piece::Shared(run) => Bytes::from_owner(run),
        };
        Self::new(answer.into_pieces().into_iter().map(bytes).collect())
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
