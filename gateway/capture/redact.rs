//! Finding secrets in whatever form a format gives them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
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
///
/// Made for each exchange, most of which echo no secret: it knows how each form begins, looks through a text once for
/// these beginnings, and writes a secret's forms out only when one of them is there.
pub struct Redactor<'s> {
    secrets: Vec<Secret<'s>>,
    /// How the forms begin, with the number of their secret.
    heads: Vec<(Head, usize)>,
    /// The first bytes of all heads.
    first: ByteSet,
}

/// The first bytes of a form: enough to find it whole, and as much as a cut must leave of it to be masked.
type Head = [u8; SHORTEST];

struct Secret<'s> {
    text: &'s str,
    /// None shorter than [`SHORTEST`].
    forms: OnceLock<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for Redactor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} beginnings)", self.heads.len())
    }
}

/// Masks every occurrence of the secrets (4 bytes or longer) in `bytes`; see [`Redactor`], which is the better choice
/// where a body and its headers are masked alike.
pub fn redact<'a>(bytes: &'a [u8], secrets: &[String]) -> Cow<'a, [u8]> {
    Redactor::new(secrets).redact(bytes)
}

impl<'s> Redactor<'s> {
    /// Prepares to look for these secrets.
    #[must_use]
    pub fn new(secrets: &'s [String]) -> Self {
        let mut all = Self { secrets: Vec::with_capacity(secrets.len()), heads: Vec::new(), first: ByteSet::default() };
        for text in secrets.iter().filter(|secret| is_findable(secret)) {
            let number = all.secrets.len();
            all.secrets.push(Secret { text, forms: OnceLock::new() });
            heads_of(text, |head| {
                if !all.heads.contains(&(head, number)) {
                    all.first.add(head[0]);
                    all.heads.push((head, number));
                }
            });
        }
        all
    }

    /// `bytes` with every secret replaced by the mask. A beginning of a secret at the very end is masked too: what was
    /// read may have been cut there.
    pub fn redact<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let found = self.find(bytes);
        if found.is_empty() {
            return bytes.into();
        }
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
    pub fn redact_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.redact(text.as_bytes()) {
            Cow::Borrowed(_) => text.into(),
            Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
        }
    }

    /// Where forms stand, and at the end their beginnings; by where they start.
    fn find(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if self.heads.is_empty() {
            return found;
        }
        // Up to where each form was found last: its next find begins behind it.
        let mut ends: HashMap<(usize, usize), usize> = HashMap::new();
        for (at, window) in bytes.array_windows::<SHORTEST>().enumerate() {
            if !self.first.has(window[0]) {
                continue;
            }
            for (_, number) in self.heads.iter().filter(|(head, _)| head == window) {
                let rest = bytes.get(at..).unwrap_or_default();
                let forms = self.secrets.get(*number).map(Secret::forms).unwrap_or_default();
                for (form, text) in forms.iter().enumerate() {
                    let end = at + text.len();
                    if rest.starts_with(text) {
                        let last = ends.entry((*number, form)).or_default();
                        if at >= *last {
                            *last = end;
                            found.push(at..end);
                        }
                    } else if text.starts_with(rest) {
                        found.push(at..bytes.len());
                    }
                }
            }
        }
        found
    }
}

impl Secret<'_> {
    fn forms(&self) -> &[Vec<u8>] {
        self.forms.get_or_init(|| {
            let mut forms: Vec<Vec<u8>> = Vec::new();
            for form in forms_of(self.text) {
                if form.len() >= SHORTEST && !forms.contains(&form) {
                    forms.push(form);
                }
            }
            forms
        })
    }
}

/// A set of bytes.
#[derive(Default)]
struct ByteSet([u64; 4]);

impl ByteSet {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }
}

/// How the forms of a secret begin, doubles included. All but base64 are written character by character, so that the
/// first characters alone say how they begin; most secrets begin with such as every format leaves alone.
fn heads_of(secret: &str, mut add: impl FnMut(Head)) {
    let beginning: &str = secret.char_indices().nth(SHORTEST).and_then(|(at, _)| secret.get(..at)).unwrap_or(secret);
    let Some(first) = beginning.as_bytes().first_chunk::<SHORTEST>() else { return };
    if first.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')) {
        add(*first);
    } else {
        let heads = text_forms(beginning).into_iter().filter_map(|form| form.as_bytes().first_chunk().copied());
        heads.for_each(&mut add);
    }
    // At each alignment the first character that is the secret's alone begins at this bit of it.
    let bits = u32::from_be_bytes(*first);
    for skipped in [0, 4, 2] {
        let digit = |at: u32| (bits << skipped << (6 * at)) >> 26;
        let digits = [0, 1, 2, 3].map(digit);
        for last in [*b"+/", *b"-_"] {
            add(digits.map(|digit| base64_digit(digit, last)));
        }
    }
}

/// The base64 digit of this value (RFC 4648, sections 4 and 5); `last` are those of 62 and 63.
fn base64_digit(value: u32, last: [u8; 2]) -> u8 {
    match u8::try_from(value).unwrap_or_default() {
        value @ 0..=25 => b'A' + value,
        value @ 26..=51 => b'a' + value - 26,
        value @ 52..=61 => b'0' + value - 52,
        62 => last[0],
        _ => last[1],
    }
}

/// RFC 3986: all but unreserved characters.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What JavaScript's `encodeURIComponent` leaves.
const LENIENT: &AsciiSet = &STRICT.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');

fn forms_of(secret: &str) -> Vec<Vec<u8>> {
    text_forms(secret).into_iter().map(String::into_bytes).chain(base64_forms(secret)).collect()
}

/// All forms but base64; each writes the secret's characters one by one.
fn text_forms(secret: &str) -> Vec<String> {
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
    texts
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
