//! Has the request been handed to a socket, or can it still be withdrawn? (promise 4)
//!
//! hyper writes a request head exactly once, right after it has asked the request's body whether it is empty
//! (`is_end_stream`, in `poll_write` of its HTTP/1 dispatcher); reqwest and hyper-util never ask that. Until then the
//! request may wait for a connection, sit in a queue, or be moved to a new connection because a pooled one was found
//! dead, and no byte of it exists anywhere. So the question is the moment of handing over, and it is decided here, in
//! one atomic step against our own wish to withdraw:
//!
//! ```text
//! waiting ──hyper asks──▶ handed over     the outcome is the partner's to tell
//!    └─────we withdraw──▶ withdrawn       surely not sent
//! ```
//!
//! Where a request must not be sent any more from some instant on, that is decided in the same step: hyper's question is
//! then answered by withdrawing it.
//!
//! A withdrawn body that is asked after all claims to have content and fails when it is read. hyper reads it before it
//! flushes what it has buffered, and on failure drops the connection unflushed; so nothing leaves even then, provided
//! that the head fits into hyper's buffer (`client::HEAD_LIMIT` sees to it).

use std::convert::identity;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::Method;

use crate::failpoint;
use crate::model::exchange::SendBefore;

const WAITING: u8 = 0;
const HANDED_OVER: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Our end: withdraws a request.
#[derive(Debug, Clone)]
pub(super) struct Handover {
    stands: Arc<AtomicU8>,
    /// After that it can only be withdrawn.
    before: Option<Arc<SendBefore>>,
}

/// hyper's end: the body of the request.
#[derive(Debug)]
pub(super) struct RequestBody {
    content: Bytes,
    /// Nothing to send, and to be said so: a POST without `Content-Length: 0` is refused by some servers (411).
    says_empty: bool,
    handover: Handover,
}

/// The request was withdrawn before it was written.
#[derive(Debug, thiserror::Error)]
#[error("the request was withdrawn before it was sent")]
pub(super) struct Withdrawn;

impl Handover {
    /// A body for the request, and the handle to withdraw it; where there is a `before`, it is handed over before then or
    /// not at all.
    pub(super) fn of(method: &Method, content: Bytes, before: Option<SendBefore>) -> (Self, RequestBody) {
        let handover = Self { stands: Arc::new(AtomicU8::new(WAITING)), before: before.map(Arc::new) };
        let says_empty = content.is_empty() && *method != Method::GET;
        (handover.clone(), RequestBody { content, says_empty, handover })
    }

    /// True: no byte of the request was or will be handed to a socket. False: it may have been.
    pub(super) fn withdraw(&self) -> bool {
        self.move_to(WITHDRAWN) == WITHDRAWN
    }

    /// Moves on from waiting; where it has moved on already it stays. Returns where it stands.
    fn move_to(&self, wanted: u8) -> u8 {
        self.stands
            .compare_exchange(WAITING, wanted, Ordering::AcqRel, Ordering::Acquire)
            .map_or_else(identity, |_| wanted)
    }

    /// hyper is about to write it.
    fn hand_over(&self) -> bool {
        let wanted = if self.too_late().is_some() { WITHDRAWN } else { HANDED_OVER };
        self.move_to(wanted) == HANDED_OVER
    }

    /// Why it was withdrawn, where that was because its time was over.
    pub(super) fn withdrawn_too_late(&self) -> Option<&'static str> {
        self.too_late().filter(|_| self.is_withdrawn())
    }

    fn too_late(&self) -> Option<&'static str> {
        self.before.as_ref().and_then(|before| before.is_over())
    }

    fn is_withdrawn(&self) -> bool {
        self.stands.load(Ordering::Acquire) == WITHDRAWN
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Withdrawn;

    fn is_end_stream(&self) -> bool {
        let handed_over = self.handover.hand_over();
        failpoint::pass("dispatch.handed_over");
        handed_over && self.content.is_empty() && !self.says_empty
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.content.len() as u64;
        // Something to read, so that hyper comes to read it and fails.
        SizeHint::with_exact(if self.handover.is_withdrawn() { length.max(1) } else { length })
    }

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withdrawn>>> {
        let this = self.get_mut();
        if this.handover.is_withdrawn() {
            return Poll::Ready(Some(Err(Withdrawn)));
        }
        let content = std::mem::take(&mut this.content);
        Poll::Ready((!content.is_empty()).then(|| Ok(Frame::data(content))))
    }
}

#[cfg(test)]
mod tests {
    use reqwest::{Client, Request};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use jiff::Timestamp;

    use super::*;
    use crate::clock::{self, Clock};

    /// What a server gets to see of a request that is withdrawn in the last moment: after hyper took it, before it
    /// asked the body. The same as withdrawing it before all, for hyper.
    async fn seen_of_withdrawn(method: Method, content: Bytes, before: Option<SendBefore>) -> (Vec<u8>, bool) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/leads?name=Ada", listener.local_addr().unwrap());
        let client = Client::builder().no_proxy().http1_only().build().unwrap();
        let in_time = before.is_none();
        let (handover, body) = Handover::of(&method, content, before);
        if in_time {
            assert!(handover.withdraw(), "nothing has asked yet");
        }
        let mut request = Request::new(method, url.parse().unwrap());
        *request.body_mut() = Some(reqwest::Body::wrap(body));
        // The server closes the connection after its first look, so that a request which does get out is not waited for.
        let (answer, seen) = tokio::join!(client.execute(request), async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut seen = vec![0; 1024];
            let read = connection.read(&mut seen).await.unwrap_or_default();
            seen.truncate(read);
            seen
        });
        (seen, answer.is_err() && handover.withdraw())
    }

    #[tokio::test]
    async fn no_byte_of_a_withdrawn_request_is_written_whatever_it_is() {
        let large = Bytes::from(vec![b'x'; 2 * 1024 * 1024]);
        for (method, content) in [
            (Method::GET, Bytes::new()),
            (Method::POST, Bytes::new()),
            (Method::POST, Bytes::from_static(b"{}")),
            (Method::POST, large),
        ] {
            let clock = Clock::manual(Timestamp::UNIX_EPOCH);
            let end = |lease, hours| Some(SendBefore { lease, hours, clock: clock.clone() });
            let lease_over = end(Some(clock::uptime()), Timestamp::MAX);
            for before in [None, lease_over, end(None, Timestamp::UNIX_EPOCH)] {
                let (seen, withdrawn) = seen_of_withdrawn(method.clone(), content.clone(), before).await;
                assert!(withdrawn, "{method}");
                assert_eq!(seen, b"", "{method}");
            }
        }
    }

    #[test]
    fn a_request_that_was_asked_for_its_body_cannot_be_withdrawn() {
        let (handover, body) = Handover::of(&Method::POST, Bytes::from_static(b"{}"), None);
        assert!(!body.is_end_stream());
        assert!(!handover.withdraw());
        assert_eq!(body.size_hint().exact(), Some(2));
    }
}
