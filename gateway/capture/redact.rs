//! Finding secrets in whatever form a format gives them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::spelling;
use crate::model::secret::MASK;

/// Shorter texts stand everywhere by chance, and masking them would make captures unreadable.
const SHORTEST: usize = 4;
/// Characters that are looked for in one piece: a longer secret is looked for piece by piece, so that no text takes long to be
/// looked through.
const PIECE: usize = 34;
/// Characters that a piece shares with the next, so that both become one mask.
const SHARED: usize = 2;

/// Whether a [`Redactor`] looks for this secret: shorter ones must be kept out another way.
#[must_use]
pub fn is_findable(secret: &str) -> bool {
    secret.len() >= SHORTEST
}

/// Masks a set of secrets as they are, in the escapes of JSON and XML, percent-encoded, in Latin-1 and in base64.
///
/// Made for each exchange, most of which echo no secret: it looks through a text once, for what secrets begin with.
pub struct Redactor<'s> {
    /// The secrets' pieces, sorted: those that begin alike stand together.
    pieces: Vec<&'s str>,
    /// What a spelling of a piece may begin with.
    first: ByteSet,
    /// How their base64 may begin, sorted.
    heads: Vec<Head>,
    /// The first bytes of the heads.
    first_of_heads: ByteSet,
    /// Their base64, sorted; written out where one of the heads is found.
    base64: OnceLock<Vec<Vec<u8>>>,
}

/// The first bytes of a piece's base64: as much as a cut must leave of it to be masked.
type Head = [u8; SHORTEST];

impl std::fmt::Debug for Redactor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} pieces)", self.pieces.len())
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
        let mut pieces = Vec::with_capacity(secrets.len());
        for secret in secrets.iter().filter(|secret| is_findable(secret)) {
            split(secret, &mut pieces);
        }
        pieces.sort_unstable();
        pieces.dedup();
        let mut first = ByteSet::default();
        let mut heads = Vec::with_capacity(pieces.len() * 6);
        for piece in &pieces {
            first.add_first_of(piece);
            add_heads(piece, &mut heads);
        }
        heads.sort_unstable();
        heads.dedup();
        let mut first_of_heads = ByteSet::default();
        heads.iter().for_each(|head| first_of_heads.add(head[0]));
        Self { pieces, first, heads, first_of_heads, base64: OnceLock::new() }
    }

    /// `bytes` with every secret replaced by the mask. A beginning of a secret at the very end is masked too: what was
    /// read may have been cut there.
    pub fn redact<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.pieces.is_empty() {
            return bytes.into();
        }
        let mut out = Vec::new();
        let mut masked: Option<Range<usize>> = None;
        let mut done = 0;
        let mut states = States::default();
        for (at, window) in bytes.array_windows::<SHORTEST>().enumerate() {
            let rest = bytes.get(at..).unwrap_or_default();
            let spelled = self.first.has(window[0]).then(|| self.spelled(rest, &mut states)).flatten();
            let encoded = self.first_of_heads.has(window[0]).then(|| self.encoded(*window, rest)).flatten();
            let Some(long) = spelled.max(encoded) else { continue };
            match &mut masked {
                // Overlapping finds become one mask.
                Some(range) if at < range.end => range.end = range.end.max(at + long),
                _ => {
                    if let Some(range) = masked.replace(at..at + long) {
                        mask(&mut out, bytes, &mut done, &range);
                    }
                }
            }
        }
        let Some(range) = masked else { return bytes.into() };
        mask(&mut out, bytes, &mut done, &range);
        out.extend_from_slice(bytes.get(done..).unwrap_or_default());
        out.into()
    }

    /// The same for text. What is found is whole characters, so the result is text again.
    #[must_use]
    pub fn redact_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.redact(text.as_bytes()) {
            Cow::Borrowed(_) => text.into(),
            Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
        }
    }

    /// How long the longest piece is that `text` begins with, however it is spelled; or `text` as a whole, where it is a
    /// piece's beginning.
    fn spelled(&self, text: &[u8], states: &mut States) -> Option<usize> {
        let mut longest = None;
        states.now.clear();
        states.now.push(State { read: 0, matched: 0, pieces: 0..self.pieces.len() });
        while !states.now.is_empty() {
            states.next.clear();
            for State { read, matched, pieces } in states.now.drain(..) {
                let rest = text.get(read..).unwrap_or_default();
                let is_cut = |piece: &&str| {
                    let next = piece.get(matched..).and_then(|left| left.chars().next());
                    next.is_some_and(|c| spelling::may_begin(rest, c))
                };
                if rest.len() < spelling::LONGEST
                    && self.pieces.get(pieces.clone()).unwrap_or_default().iter().any(is_cut)
                {
                    longest = Some(text.len());
                }
                spelling::read(rest, |c, long| {
                    let pieces = self.narrowed(&pieces, matched, c);
                    let (read, matched) = (read + long, matched + c.len_utf8());
                    // Of those that begin alike the shortest is the first.
                    if self.pieces.get(pieces.start).is_some_and(|piece| !pieces.is_empty() && piece.len() == matched) {
                        longest = longest.max(Some(read));
                    }
                    let state = State { read, matched, pieces };
                    if !state.pieces.is_empty() && !states.next.contains(&state) {
                        states.next.push(state);
                    }
                });
            }
            std::mem::swap(&mut states.now, &mut states.next);
        }
        longest.filter(|long| *long >= SHORTEST)
    }

    /// Those of the pieces, all of which begin with the same so many bytes, that go on with `c`.
    fn narrowed(&self, pieces: &Range<usize>, matched: usize, c: char) -> Range<usize> {
        let mut bytes = [0; 4];
        let c = c.encode_utf8(&mut bytes).as_bytes();
        let these = self.pieces.get(pieces.clone()).unwrap_or_default();
        let before = these.partition_point(|piece| left(piece, matched) < c);
        let with = these.get(before..).unwrap_or_default().partition_point(|piece| left(piece, matched).starts_with(c));
        pieces.start + before..pieces.start + before + with
    }

    /// As [`Redactor::spelled`], for base64; `window` is what `text` begins with.
    fn encoded(&self, window: Head, text: &[u8]) -> Option<usize> {
        self.heads.binary_search(&window).ok()?;
        let all = self.base64.get_or_init(|| {
            let mut all: Vec<Vec<u8>> = self.pieces.iter().flat_map(|piece| base64_forms(piece)).collect();
            all.retain(|form| form.len() >= SHORTEST);
            all.sort_unstable();
            all.dedup();
            all
        });
        let (mut from, mut to, mut longest) = (0, all.len(), None);
        for (matched, byte) in text.iter().enumerate() {
            let these = all.get(from..to).unwrap_or_default();
            let next = |form: &Vec<u8>| form.get(matched).copied();
            // Of those that begin alike the shortest is the first, and has no next byte.
            let before = these.partition_point(|form| next(form) < Some(*byte));
            let with = these.get(before..).unwrap_or_default().partition_point(|form| next(form) == Some(*byte));
            (from, to) = (from + before, from + before + with);
            match all.get(from..to) {
                None | Some([]) => return longest,
                Some([first, ..]) if first.len() == matched + 1 => longest = Some(matched + 1),
                Some(_) => {}
            }
        }
        Some(text.len())
    }
}

/// How far a search has come: so many bytes of the text are so many bytes of these pieces.
#[derive(Debug, PartialEq, Eq)]
struct State {
    read: usize,
    matched: usize,
    pieces: Range<usize>,
}

/// What a text may be read as at the same time, kept to be used again.
#[derive(Default)]
struct States {
    now: Vec<State>,
    next: Vec<State>,
}

/// What of a piece comes after so many bytes.
fn left(piece: &str, matched: usize) -> &[u8] {
    piece.as_bytes().get(matched..).unwrap_or_default()
}

fn mask(out: &mut Vec<u8>, bytes: &[u8], done: &mut usize, range: &Range<usize>) {
    out.extend_from_slice(bytes.get(*done..range.start).unwrap_or_default());
    out.extend_from_slice(MASK.as_bytes());
    *done = range.end;
}

/// Adds what a secret is looked for by: itself, or pieces of it if it is long.
fn split<'s>(secret: &'s str, pieces: &mut Vec<&'s str>) {
    let mut rest = secret;
    loop {
        let at = |characters| rest.char_indices().nth(characters).map(|(at, _)| at);
        // The last piece is not too short to be told from chance.
        let (Some(shared), Some(end), Some(_)) = (at(PIECE - SHARED), at(PIECE), at(PIECE + SHORTEST)) else { break };
        pieces.extend(rest.get(..end));
        rest = rest.get(shared..).unwrap_or_default();
    }
    pieces.push(rest);
}

/// A set of bytes.
#[derive(Default)]
struct ByteSet([u64; 4]);

impl ByteSet {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    /// What a spelling of its first character may begin with.
    fn add_first_of(&mut self, piece: &str) {
        piece.as_bytes().first().into_iter().chain(b"%\\&").for_each(|byte| self.add(*byte));
        match piece.chars().next() {
            Some(' ') => self.add(b'+'),
            Some(c) if !c.is_ascii() => (0x80..=u8::MAX).for_each(|byte| self.add(byte)),
            _ => {}
        }
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }
}

/// How a piece's base64 may begin, doubles included.
fn add_heads(piece: &str, heads: &mut Vec<Head>) {
    let Some(first) = piece.as_bytes().first_chunk::<SHORTEST>() else { return };
    // At each alignment the first character that is the piece's alone begins at this bit of it.
    let bits = u32::from_be_bytes(*first);
    for skipped in [0, 4, 2] {
        let digit = |at: u32| (bits << skipped << (6 * at)) >> 26;
        let digits = [0, 1, 2, 3].map(digit);
        heads.extend([*b"+/", *b"-_"].map(|last| digits.map(|digit| base64_digit(digit, last))));
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

/// The secret's base64, standard and URL-safe, also where it stands inside a longer text (`user:secret`): at each of
/// the three alignments, without the characters that its neighbours share.
fn base64_forms(secret: &str) -> Vec<Vec<u8>> {
    let aligned = |before: usize| {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret.as_bytes());
        // Six bits to a character: those that hold a neighbour's bits are left out.
        let first = (before * 8).div_ceil(6);
        let end = bytes.len() * 8 / 6;
        [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)]
            .map(|text| text.as_bytes().get(first..end).unwrap_or_default().to_vec())
    };
    (0..3).flat_map(aligned).collect()
}
