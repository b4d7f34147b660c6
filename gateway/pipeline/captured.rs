//! What is kept of an exchange.

use crate::capture::{self, Captured, Redactor};
use crate::model::exchange::{Outgoing, Reply};
use crate::store::{ExchangeRecord, Head, Message};

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
    let head = Head {
        method: Some(outgoing.http_method.to_owned()),
        url: Some(url.clone()),
        status: None,
        // In lower case, as those of replies: header names have none of their own (RFC 9110, section 5.1).
        headers: headers.iter().chain(added).map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect(),
    };
    let request = message(&head, capture::cut(body, limit));
    let response = reply.map(|reply| {
        let headers = capture::redact_headers(&reply.headers, redactor);
        let head = Head { method: None, url: None, status: Some(reply.status), headers };
        message(&head, Captured::of(&reply.body, redactor, limit))
    });
    ExchangeRecord { request, response }
}

fn message(head: &Head, body: Captured) -> Message {
    // Texts and numbers: this cannot fail.
    Message { head: serde_json::to_string(head).unwrap_or_default(), body: body.body, truncated: body.truncated }
}
