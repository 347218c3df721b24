//! Copies of the flash: each is held in memory until its reader has it, however slow that one is.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is handed over at a time: so much more is held for a moment.
const PIECE_BYTES: usize = 1 << 16;

/// How many more of them there may be.
#[derive(Clone)]
pub(super) struct Copies(Arc<Semaphore>);

impl Copies {
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Semaphore::new(max)))
    }

    /// A place for one, if there is any.
    pub(super) fn place(&self) -> Option<Place> {
        self.0.clone().try_acquire_owned().ok().map(|held| Place { _held: held })
    }
}

/// A place for a copy.
pub(super) struct Place {
    _held: OwnedSemaphorePermit,
}

impl Place {
    /// The copy, piece by piece; its place is free when the last one is handed over, or nobody wants it any more.
    pub(super) fn body(self, image: Vec<u8>) -> Body {
        Body::new(Copy { left: image.into(), _place: self })
    }
}

struct Copy {
    left: Bytes,
    _place: Place,
}

impl HttpBody for Copy {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let len = self.left.len().min(PIECE_BYTES);
        let piece = self.left.split_to(len);
        Poll::Ready((len > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
