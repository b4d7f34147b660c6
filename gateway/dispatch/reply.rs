//! Reading a reply, never more of it than the limit, and undoing its content coding, never to more than the limit.
//!
//! What has arrived is kept at every moment, so that an exchange that ends badly still shows how far it came.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

use crate::model::exchange::Reply;

/// How far a reply has come.
pub(super) struct Reading {
    status: u16,
    headers: Vec<(String, String)>,
    coding: Coding,
    body: BytesMut,
    limit: usize,
}

/// Why a reply is none that could be judged.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// The body did not end where it should.
    #[error("the reply broke off ({0})")]
    BrokeOff(String),
    /// More than we read.
    #[error("the reply is larger than the {0} bytes that are read of one")]
    TooLarge(usize),
    /// More than we decompress.
    #[error("the reply decompresses to more than the {0} bytes that are read of one")]
    Bomb(usize),
    /// Not what its `Content-Encoding` says.
    #[error("the reply says it is {0}-compressed and cannot be decompressed ({1})")]
    BadCompression(&'static str, String),
    /// We never asked for one.
    #[error("the reply has a Content-Encoding that the gateway does not read; gzip and deflate it does")]
    UnknownCoding,
    /// 101 and its like leave no reply.
    #[error("the partner answered {0}, which is no final reply")]
    NotFinal(u16),
}

impl Reading {
    /// Begins with the head; keeps and decompresses at most `limit` bytes.
    pub(super) fn begin(response: &Response, limit: usize) -> Self {
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        Self {
            status: response.status().as_u16(),
            headers,
            coding: Coding::of(response.headers()),
            body: BytesMut::new(),
            limit,
        }
    }

    /// Reads the body to its end.
    pub(super) async fn read_on(&mut self, response: &mut Response) -> Result<(), Unreadable> {
        if self.status < 200 {
            return Err(Unreadable::NotFinal(self.status));
        }
        while let Some(chunk) =
            response.chunk().await.map_err(|error| Unreadable::BrokeOff(super::client::root_cause(&error)))?
        {
            let room = self.limit.saturating_sub(self.body.len());
            if chunk.len() > room {
                self.body.extend_from_slice(chunk.get(..room).unwrap_or_default());
                return Err(Unreadable::TooLarge(self.limit));
            }
            self.body.extend_from_slice(&chunk);
        }
        Ok(())
    }

    /// The whole reply; or why it cannot be read, with what can be shown of it.
    pub(super) fn finish(self) -> Result<Reply, (Unreadable, Reply)> {
        let (body, trouble) = self.coding.undo(self.body.freeze(), self.limit);
        let reply = Reply { status: self.status, headers: self.headers, body };
        match trouble {
            None => Ok(reply),
            Some(trouble) => Err((trouble, reply)),
        }
    }

    /// What can be shown of a reply that broke off.
    pub(super) fn partial(self) -> Reply {
        self.finish().unwrap_or_else(|(_, reply)| reply)
    }
}

/// A content coding (RFC 9110, section 8.4.1). None is asked for; some partners compress all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Deflate,
    Unknown,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Self {
        let mut named = headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
        match (named.next(), named.next()) {
            (None, _) => Self::Identity,
            (Some(one), None) if one.eq_ignore_ascii_case(b"gzip") || one.eq_ignore_ascii_case(b"x-gzip") => Self::Gzip,
            (Some(one), None) if one.eq_ignore_ascii_case(b"deflate") => Self::Deflate,
            _ => Self::Unknown,
        }
    }

    /// The content, as far as it can be read, and what was in the way.
    fn undo(self, raw: Bytes, limit: usize) -> (Bytes, Option<Unreadable>) {
        // A 204, or a reply to nothing, may name a coding and have no content.
        if raw.is_empty() {
            return (raw, None);
        }
        let (content, trouble) = match self {
            Self::Identity => return (raw, None),
            Self::Unknown => return (raw, Some(Unreadable::UnknownCoding)),
            Self::Gzip => gunzip(&raw, limit),
            Self::Deflate => inflate(&raw, limit),
        };
        (content.into(), trouble)
    }
}

fn gunzip(raw: &[u8], limit: usize) -> (Vec<u8>, Option<Unreadable>) {
    let mut content = Vec::new();
    let read = MultiGzDecoder::new(raw).take(limit as u64 + 1).read_to_end(&mut content);
    let trouble = match read {
        _ if content.len() > limit => {
            content.truncate(limit);
            Some(Unreadable::Bomb(limit))
        }
        Ok(_) => None,
        Err(error) => Some(Unreadable::BadCompression("gzip", error.to_string())),
    };
    (content, trouble)
}

/// `deflate` is the zlib format (RFC 9110, section 8.4.1.2), but some send the bare deflate stream.
///
/// flate2's readers take a stream that was cut for a whole one, so this drives the decompressor itself.
fn inflate(raw: &[u8], limit: usize) -> (Vec<u8>, Option<Unreadable>) {
    let zlib = matches!(raw, [first, second, ..]
        if first & 0x0f == 8 && u16::from_be_bytes([*first, *second]).is_multiple_of(31));
    let mut machine = Decompress::new(zlib);
    let mut content = Vec::new();
    let bad = |why: String| Some(Unreadable::BadCompression("deflate", why));
    let trouble = loop {
        let (before, used) = (content.len(), machine.total_in());
        if before > limit {
            content.truncate(limit);
            break Some(Unreadable::Bomb(limit));
        }
        content.reserve(8 * 1024);
        let rest = usize::try_from(used).ok().and_then(|used| raw.get(used..)).unwrap_or_default();
        match machine.decompress_vec(rest, &mut content, FlushDecompress::None) {
            Ok(Status::StreamEnd) if content.len() <= limit => break None,
            Ok(_) if content.len() > before || machine.total_in() > used => {}
            Ok(_) => break bad("it was cut".to_owned()),
            Err(error) => break bad(error.to_string()),
        }
    };
    (content, trouble)
}
