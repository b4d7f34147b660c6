//! Finding secrets in whatever form a format gives them.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::model::secret::MASK;

/// Shorter texts stand everywhere by chance, and masking them would make captures unreadable.
const SHORTEST: usize = 4;

/// Whether a [`Redactor`] looks for this secret: shorter ones must be kept out another way.
#[must_use]
pub fn is_findable(secret: &str) -> bool {
    secret.len() >= SHORTEST
}

/// Masks a set of secrets in their plain, JSON, XML, percent-encoded and base64 forms.
pub struct Redactor {
    /// Without doubles, none shorter than [`SHORTEST`].
    forms: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} forms)", self.forms.len())
    }
}

/// Masks every occurrence of the secrets (4 bytes or longer) in `bytes`; see [`Redactor`], which is the better choice
/// where a body and its headers are masked alike.
pub fn redact<'a>(bytes: &'a [u8], secrets: &[String]) -> Cow<'a, [u8]> {
    Redactor::new(secrets).redact(bytes)
}

impl Redactor {
    /// Prepares to look for these secrets.
    #[must_use]
    pub fn new(secrets: &[String]) -> Self {
        let mut forms: Vec<Vec<u8>> = Vec::new();
        for secret in secrets.iter().filter(|secret| is_findable(secret)) {
            for form in forms_of(secret) {
                if form.len() >= SHORTEST && !forms.contains(&form) {
                    forms.push(form);
                }
            }
        }
        Self { forms }
    }

    /// `bytes` with every secret replaced by the mask. A beginning of a secret at the very end is masked too: what was
    /// read may have been cut there.
    pub fn redact<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let mut found: Vec<Range<usize>> = Vec::new();
        for form in &self.forms {
            found.extend(memmem::find_iter(bytes, form).map(|at| at..at + form.len()));
            found.extend(cut_off(bytes, form));
        }
        if found.is_empty() {
            return bytes.into();
        }
        found.sort_unstable_by_key(|range| range.start);
        let mut out = Vec::with_capacity(bytes.len());
        let mut done = 0;
        for range in found {
            // Overlapping finds become one mask.
            if range.start >= done {
                out.extend_from_slice(bytes.get(done..range.start).unwrap_or_default());
                out.extend_from_slice(MASK.as_bytes());
            }
            done = done.max(range.end);
        }
        out.extend_from_slice(bytes.get(done..).unwrap_or_default());
        out.into()
    }

    /// The same for text. Forms are whole characters, so the result is text again.
    #[must_use]
    pub fn redact_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.redact(text.as_bytes())).into_owned()
    }
}

/// The longest beginning of `form`, at least [`SHORTEST`] bytes and not all of it, that ends `bytes`.
fn cut_off(bytes: &[u8], form: &[u8]) -> Option<Range<usize>> {
    let most = form.len().saturating_sub(1).min(bytes.len());
    let length =
        (SHORTEST..=most).rev().find(|length| form.get(..*length).is_some_and(|part| bytes.ends_with(part)))?;
    Some(bytes.len() - length..bytes.len())
}

/// RFC 3986: all but unreserved characters.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What JavaScript's `encodeURIComponent` leaves.
const LENIENT: &AsciiSet = &STRICT.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');

fn forms_of(secret: &str) -> Vec<Vec<u8>> {
    let json = serde_json::Value::from(secret).to_string();
    let json = json.get(1..json.len() - 1).unwrap_or_default();
    let mut texts = vec![
        secret.to_owned(),
        json.to_owned(),
        json.replace('/', "\\/"),
        ascii_json(json),
        xml(secret, "&quot;", "&apos;", "&gt;"),
        xml(secret, "&quot;", "&#39;", "&gt;"),
        xml(secret, "&#34;", "&#39;", "&gt;"),
        xml(secret, "\"", "'", "&gt;"),
        xml(secret, "\"", "'", ">"),
    ];
    for encoded in [
        utf8_percent_encode(secret, STRICT).to_string(),
        utf8_percent_encode(secret, LENIENT).to_string(),
        utf8_percent_encode(secret, STRICT).to_string().replace("%20", "+"),
        form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
    ] {
        texts.push(lower_hex(&encoded));
        texts.push(encoded);
    }
    texts.into_iter().map(String::into_bytes).chain(base64_forms(secret)).collect()
}

/// Markup with these spellings of the characters that writers spell differently.
fn xml(secret: &str, quote: &str, apostrophe: &str, greater: &str) -> String {
    let plain = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', greater);
    plain.replace('"', quote).replace('\'', apostrophe)
}

/// JSON as writers put it that escape everything beyond ASCII (and UTF-16 as JSON wants).
fn ascii_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

/// `%2F` as `%2f`.
fn lower_hex(encoded: &str) -> String {
    let mut out = String::with_capacity(encoded.len());
    let mut hex = 0;
    for c in encoded.chars() {
        out.push(if hex > 0 { c.to_ascii_lowercase() } else { c });
        hex = if c == '%' { 2_u8 } else { hex.saturating_sub(1) };
    }
    out
}

/// The secret's base64, standard and URL-safe, also where it stands inside a longer text (`user:secret`): at each of
/// the three alignments, without the characters that its neighbours share.
fn base64_forms(secret: &str) -> impl Iterator<Item = Vec<u8>> {
    let aligned = |before: usize| {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret.as_bytes());
        // Six bits to a character: those that hold a neighbour's bits are left out.
        let first = (before * 8).div_ceil(6);
        let end = bytes.len() * 8 / 6;
        [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)]
            .map(|text| text.as_bytes().get(first..end).unwrap_or_default().to_vec())
    };
    (0..3).flat_map(aligned).collect::<Vec<_>>().into_iter()
}
