//! Capture: what of an exchange may be stored and shown. Secrets are masked first and the rest is cut to its limit
//! second, so that no cut leaves half a secret behind.

mod redact;
mod spelling;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use self::redact::{Redactor, is_findable, redact};
use crate::model::secret::{MASK, is_secret_header};

/// A body as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its bytes, byte-exact but for masks.
    pub body: Vec<u8>,
    /// The body was longer.
    pub truncated: bool,
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Captured({} bytes, truncated: {})", self.body.len(), self.truncated)
    }
}

impl Captured {
    /// Masks the secrets in `body` and keeps at most `limit` bytes of the result.
    #[must_use]
    pub fn of(body: &[u8], redactor: &Redactor<'_>, limit: usize) -> Self {
        cut(&redactor.redact(body), limit)
    }
}

/// The first `limit` bytes; up to three fewer where text would otherwise be cut inside a character.
#[must_use]
pub fn cut(bytes: &[u8], limit: usize) -> Captured {
    let Some(kept) = bytes.get(..limit).filter(|_| bytes.len() > limit) else {
        return Captured { body: bytes.to_vec(), truncated: false };
    };
    let kept = match std::str::from_utf8(kept) {
        // No error length: the text is valid up to a character that the cut broke.
        Err(error) if error.error_len().is_none() => kept.get(..error.valid_up_to()).unwrap_or(kept),
        _ => kept,
    };
    Captured { body: kept.to_vec(), truncated: true }
}

/// A captured body for people and the API: its text and `utf-8`, or base64 and `base64` where it is not UTF-8.
#[must_use]
pub fn presentable(bytes: &[u8]) -> (String, &'static str) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (STANDARD.encode(bytes), "base64"),
    }
}

/// Headers with their secrets masked: whole values of headers that carry credentials, the values of cookies, and
/// known secrets anywhere.
#[must_use]
pub fn redact_headers(headers: &[(String, String)], redactor: &Redactor<'_>) -> Vec<(String, String)> {
    redacted_headers(headers, redactor).map(|(name, value)| (name.to_owned(), value.into_owned())).collect()
}

/// The same one by one, without a copy of what holds no secret.
pub fn redacted_headers<'h>(
    headers: &'h [(String, String)],
    redactor: &Redactor<'_>,
) -> impl Iterator<Item = (&'h str, Cow<'h, str>)> + Clone {
    headers.iter().map(move |(name, value)| {
        let shown = if name.eq_ignore_ascii_case("set-cookie") {
            redactor.redact_text(&mask_cookie(value)).into_owned().into()
        } else if is_secret_header(name) {
            MASK.into()
        } else {
            redactor.redact_text(value)
        };
        (name.as_str(), shown)
    })
}

/// `sid=***; Path=/; HttpOnly`: which cookie and how it is set is no secret (RFC 6265, section 4.1).
fn mask_cookie(value: &str) -> String {
    let (pair, attributes) = value.find(';').map_or((value, ""), |at| value.split_at(at));
    match pair.split_once('=') {
        Some((name, _)) => format!("{name}={MASK}{attributes}"),
        None => MASK.to_owned(),
    }
}
