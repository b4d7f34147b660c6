//! What is kept of an exchange.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use crate::capture::{self, Captured, Redactor};
use crate::model::exchange::{Outgoing, Reply};
use crate::store::{ExchangeRecord, Message};

/// What is kept of an exchange, with the headers that sending `added`: masked, and cut at the cap.
pub(super) fn captured(
    outgoing: &Outgoing,
    added: &[(String, String)],
    reply: Option<&Reply>,
    redactor: &Redactor<'_>,
    limit: usize,
) -> ExchangeRecord {
    let (url, headers, body) = match &outgoing.masked {
        Some(masked) => (&masked.url, &masked.headers, &masked.body),
        None => (&outgoing.url, &outgoing.headers, &outgoing.body),
    };
    // In lower case, as those of replies: header names have none of their own (RFC 9110, section 5.1).
    let headers = headers.iter().chain(added).map(|(name, value)| (lower(name), value));
    let head = Head { method: Some(outgoing.http_method), url: Some(url), status: None, headers };
    let request = message(&head, capture::cut(body, limit));
    let response = reply.map(|reply| {
        let headers = capture::redacted_headers(&reply.headers, redactor);
        let head = Head { method: None, url: None, status: Some(reply.status), headers };
        message(&head, Captured::of(&reply.body, redactor, limit))
    });
    ExchangeRecord { request, response }
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// A message's head as it is written; [`crate::store::Head`] is how it is read.
#[derive(Serialize)]
struct Head<'a, H: Iterator<Item: Serialize> + Clone> {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(serialize_with = "list")]
    headers: H,
}

fn list<S: Serializer>(headers: &(impl Iterator<Item: Serialize> + Clone), serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.clone())
}

fn message(head: &impl Serialize, body: Captured) -> Message {
    // Texts and numbers: this cannot fail.
    Message { head: serde_json::to_string(head).unwrap_or_default(), body: body.body, truncated: body.truncated }
}
