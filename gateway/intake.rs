//! Intake: what a source posted becomes a checked lead, or a clear answer that names everything wrong with it.
//!
//! Pure: bytes, headers and compiled rules in, values out; no server, no store, no clock. A face takes these steps:
//!
//! 1. [`auth::credential`] and [`auth::KeyRing::find`]: whose post is this?
//! 2. [`Format::from_content_type`] and [`Rules::parse`]: bytes to named values, or [`Malformed`] with line and column
//!    ([`Posted::take_key`] for sources that may put their key into the body).
//! 3. [`idempotency::key`] and [`idempotency::fingerprint`]; [`wait::wait`]; [`query_test`].
//! 4. [`Rules::validate`]: named values to typed, normalised fields, or every [`FieldError`] at once.
//! 5. [`Rules::dedupe_keys`] and [`Rules::lookup_keys`]: by what the lead is recognised and found again.

pub mod auth;
pub mod idempotency;
pub mod identity;
pub mod validate;
pub mod wait;

mod form;
mod json;
mod lists;
mod multipart;
mod names;
mod posted;
mod xml;

pub use multipart::Boundary;
pub use posted::{MAX_ENTRIES, MAX_FIELDS, MAX_LIST_VALUES, MAX_META, MAX_NAME, Posted, PostedValue};
pub use validate::{Code, FieldError, RuleFault, Rules, Valid};

use lists::Lists;

/// Objects or elements within each other, the root included. Real leads have two or three.
pub const MAX_DEPTH: usize = 32;

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`, or any `…+json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `multipart/form-data`, without files.
    Multipart(Boundary),
    /// `application/xml`, `text/xml`, or any `…+xml`.
    Xml,
}

impl Format {
    /// The format of a `Content-Type` (RFC 9110, section 8.3; suffixes RFC 6839). `None` where we do not read the
    /// type, its charset is anything but UTF-8 or its subset US-ASCII, or a multipart names no boundary.
    #[must_use]
    pub fn from_content_type(value: &str) -> Option<Self> {
        let mut parts = value.split(';').map(str::trim);
        let media = parts.next()?.to_ascii_lowercase();
        let mut readable = true;
        let mut boundary = None;
        for parameter in parts {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim_matches('"');
            if name.eq_ignore_ascii_case("charset") {
                readable &= is_utf8_charset(value);
            } else if name.eq_ignore_ascii_case("boundary") {
                // A quoted one that was cut at a `;` is none: RFC 2046 does not allow it there.
                boundary = Boundary::new(value).filter(|_| parameter.ends_with('"') == parameter.contains("=\""));
            }
        }
        let format = match media.as_str() {
            "application/json" => Self::Json,
            "application/x-www-form-urlencoded" => Self::Form,
            "multipart/form-data" => Self::Multipart(boundary?),
            "application/xml" | "text/xml" => Self::Xml,
            other => {
                let (family, subtype) = other.split_once('/')?;
                let (name, suffix) = subtype.rsplit_once('+')?;
                match suffix {
                    "json" if !family.is_empty() && !name.is_empty() => Self::Json,
                    "xml" if !family.is_empty() && !name.is_empty() => Self::Xml,
                    _ => return None,
                }
            }
        };
        readable.then_some(format)
    }
}

/// Whether a charset's name means UTF-8, or its subset US-ASCII.
fn is_utf8_charset(name: &str) -> bool {
    ["utf-8", "utf8", "us-ascii"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Why a body cannot be read, and where. Names fields, never their values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct Malformed {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Malformed {
    /// At `offset` bytes into `body`.
    fn at(body: &[u8], offset: usize, message: impl Into<String>) -> Self {
        let before = body.get(..offset).unwrap_or(body);
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
        let is_char_start = |b: &&u8| **b & 0b1100_0000 != 0b1000_0000;
        Self {
            line: before.split(|b| *b == b'\n').count(),
            column: before.iter().skip(line_start).filter(is_char_start).count() + 1,
            message: message.into(),
        }
    }
}

/// Reads a body for a campaign without list fields; see [`Rules::parse`].
///
/// # Errors
/// As there.
pub fn parse(format: Format, body: &[u8]) -> Result<Posted<'_>, Malformed> {
    parse_with(format, body, &Lists::default())
}

impl Rules {
    /// Reads a body: every value it gives, by (dotted) name. A UTF-8 byte order mark is tolerated.
    ///
    /// Bounded whatever comes: at most [`MAX_FIELDS`] names of [`MAX_NAME`] characters, [`MAX_ENTRIES`] entries of a
    /// list and [`MAX_LIST_VALUES`] values in all of them, [`MAX_DEPTH`] levels; the size of the body is the server's
    /// to limit.
    ///
    /// # Errors
    /// When the body is not well-formed, passes a bound, or gives a name twice that is not a list's.
    pub fn parse<'b>(&self, format: Format, body: &'b [u8]) -> Result<Posted<'b>, Malformed> {
        parse_with(format, body, self.list_names())
    }
}

fn parse_with<'b>(format: Format, body: &'b [u8], lists: &Lists) -> Result<Posted<'b>, Malformed> {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    match format {
        Format::Json => json::parse(utf8(body)?, lists),
        Format::Form => form::parse(body, lists),
        Format::Multipart(boundary) => multipart::parse(body, boundary, lists),
        Format::Xml => xml::parse(utf8(body)?, lists),
    }
}

fn utf8(body: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(body)
        .map_err(|error| Malformed::at(body, error.valid_up_to(), "the body is not UTF-8; encode it as UTF-8"))
}

/// The `test` of a query: whether the post is only a rehearsal. A body may say so too; either is enough.
///
/// # Errors
/// When it is neither yes nor no.
pub fn query_test(query: Option<&str>) -> Result<bool, FieldError> {
    match query_value(query, "test") {
        Some(text) if !text.trim().is_empty() => validate::flag(text.trim()).ok_or_else(posted::bad_test),
        _ => Ok(false),
    }
}

/// The first value of this name in a URL's query.
fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    form_urlencoded::parse(query?.as_bytes()).find(|(n, _)| n == name).map(|(_, value)| value.into_owned())
}
