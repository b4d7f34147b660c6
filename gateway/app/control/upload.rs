//! Files to be applied, on their way to the running gateway: a line that says how, then one for each document. Neither side has
//! more than a few of them in hand, so that a large network is in memory once, as what it means.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::BODY_AT_MOST;
use crate::app::apply::Flags;
use crate::directory::{Network, Reader, ResourceSet};
use crate::store::Kind;
use crate::tasks;
use crate::web::problem::Problem;

/// What is sent at a time, at least.
const PIECE: usize = 128 << 10;
/// Pieces that may wait for the reader.
const WAITING: usize = 8;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Opening {
    #[serde(flatten)]
    flags: Flags,
    /// How many documents follow: an upload that broke off is none.
    documents: usize,
}

/// A line of a document: kind, id, and the document; a template's is its text.
type Line<'a> = (Kind, String, &'a RawValue);

/// A request's body that is written down piece by piece as it is sent.
pub(super) struct Upload {
    opening: Vec<u8>,
    rest: Box<dyn Iterator<Item = (Kind, String, String)> + Send>,
}

impl Upload {
    pub(super) fn of(files: ResourceSet, flags: Flags) -> serde_json::Result<Self> {
        let mut opening = serde_json::to_vec(&Opening { flags, documents: files.len() })?;
        opening.push(b'\n');
        Ok(Self { opening, rest: Box::new(files.into_documents()) })
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut piece = BytesMut::with_capacity(PIECE + PIECE / 8);
        piece.extend_from_slice(&std::mem::take(&mut self.opening));
        while piece.len() < PIECE {
            let Some((kind, id, document)) = self.rest.next() else { break };
            write(&mut piece, kind, &id, &document);
        }
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece.freeze()))))
    }
}

/// Writes a line. What is JSON already is not written as a text once more.
fn write(piece: &mut BytesMut, kind: Kind, id: &str, document: &str) {
    let text;
    let document = if kind == Kind::Template {
        text = serde_json::Value::from(document).to_string();
        &text
    } else {
        document
    };
    for part in ["[\"", kind.as_str(), "\",", &serde_json::Value::from(id).to_string(), ",", document, "]\n"] {
        piece.extend_from_slice(part.as_bytes());
    }
}

/// Reads an upload; what `known` has already is taken over from it.
pub(super) async fn read(body: Body, known: Arc<Network>) -> Result<(Flags, ResourceSet), Problem> {
    let (pieces, waiting) = mpsc::channel(WAITING);
    let (received, read) = tokio::join!(receive(body, pieces), tasks::aside(move || read_pieces(waiting, known)));
    received.and(read)
}

/// Hands a body on, piece by piece, to its end.
async fn receive(mut body: Body, pieces: mpsc::Sender<Bytes>) -> Result<(), Problem> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::malformed(format!("the request broke off: {error}")))?;
        let Ok(piece) = frame.into_data() else { continue };
        length += piece.len();
        if length > BODY_AT_MOST {
            return Err(Problem::too_large("the network is larger than this call takes"));
        }
        // Whoever reads them may have found a fault; the client reads an answer when it has sent all.
        let _ = pieces.send(piece).await;
    }
    Ok(())
}

fn read_pieces(mut pieces: mpsc::Receiver<Bytes>, known: Arc<Network>) -> Result<(Flags, ResourceSet), Problem> {
    let unreadable = |error: serde_json::Error| Problem::validation(format!("the request: {error}"));
    let mut reader = Reader::beside(Some(known));
    let mut opening: Option<Opening> = None;
    let mut documents = 0;
    let mut read = |line: &[u8]| -> Result<(), Problem> {
        if opening.is_none() {
            opening = Some(serde_json::from_slice(line).map_err(unreadable)?);
            return Ok(());
        }
        let (kind, id, document): Line<'_> = serde_json::from_slice(line).map_err(unreadable)?;
        documents += 1;
        match kind {
            Kind::Template => {
                let text: String = serde_json::from_str(document.get()).map_err(unreadable)?;
                reader.take(kind, &id, &text);
            }
            _ => reader.take(kind, &id, document.get()),
        }
        Ok(())
    };
    // A line of which the end has not come yet.
    let mut begun: Vec<u8> = Vec::new();
    while let Some(piece) = pieces.blocking_recv() {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(line) if begun.is_empty() => read(line)?,
                Some(rest) => {
                    begun.extend_from_slice(rest);
                    read(&begun)?;
                    begun.clear();
                }
                None => begun.extend_from_slice(part),
            }
        }
    }
    let opening = opening.filter(|opening| opening.documents == documents && begun.is_empty());
    let Some(Opening { flags, .. }) = opening else {
        return Err(Problem::validation("the request: it is not whole"));
    };
    let set = reader
        .finish()
        .map_err(|faults| Problem::validation(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    Ok((flags, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a network of two templates and a partner is sent as, in one piece.
    fn sent() -> Vec<u8> {
        let mut files = ResourceSet::default();
        for (name, text) in [("a \"b\".hbs", "one\n\"two\"\u{0}\n"), ("c.hbs", "")] {
            files.templates.insert(name.to_owned(), text.to_owned());
        }
        let mut reader = Reader::default();
        reader.take(Kind::Partner, "acme", r#"{"id":"acme","kind":"buyer","timezone":"Europe/London"}"#);
        files.partners = reader.finish().unwrap().partners;
        let mut upload = Upload::of(files, Flags { dry_run: false, force: true, prune: false }).unwrap();
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut sent = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = http_body::Body::poll_frame(Pin::new(&mut upload), &mut context) {
            sent.extend_from_slice(&frame.into_data().unwrap());
        }
        sent
    }

    async fn received(pieces: impl Iterator<Item = &[u8]>) -> Result<(Flags, ResourceSet), Problem> {
        let (send, waiting) = mpsc::channel(1_000);
        for piece in pieces {
            send.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        drop(send);
        tasks::aside(|| read_pieces(waiting, Arc::default())).await
    }

    #[tokio::test]
    async fn what_is_sent_arrives_however_it_is_cut() {
        let sent = sent();
        for length in [1, 2, 7, 64, sent.len()] {
            let (flags, files) = received(sent.chunks(length)).await.unwrap();
            assert!(flags.force && !flags.prune && !flags.dry_run);
            assert_eq!(files.templates["a \"b\".hbs"], "one\n\"two\"\u{0}\n");
            assert_eq!((files.templates.len(), files.partners.len()), (2, 1));
        }
    }

    #[tokio::test]
    async fn an_upload_that_broke_off_is_none() {
        let sent = sent();
        for length in 0..sent.len() {
            assert!(received([&sent[..length]].into_iter()).await.is_err(), "{length}");
        }
    }
}
