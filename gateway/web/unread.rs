//! Requests that are answered before their body has been read: whoever sent it is told that the connection ends with that.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

/// What of a request's body has not been read when it is answered.
#[derive(Debug, Clone)]
pub(super) struct Unread(Arc<AtomicU64>);

impl Unread {
    pub(super) fn of(body: &Incoming) -> Self {
        // Of a body that comes in chunks, nobody knows.
        let announced = body.size_hint().exact();
        Self(Arc::new(AtomicU64::new(if body.is_end_stream() { 0 } else { announced.unwrap_or(u64::MAX) })))
    }

    pub(super) fn watch(&self, body: Incoming) -> Watched {
        Watched { body, unread: self.clone() }
    }

    /// Whether there is any. (It may have come with the head: then hyper reads it off, and the connection could go on. Nobody
    /// can say.)
    pub(super) fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// A body that tells how much of it is unread.
pub(super) struct Watched {
    body: Incoming,
    unread: Unread,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.unread.0.store(0, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
