//! Makes inputs out of others: flipped bits, pieces cut, doubled, swapped and spliced, tokens of the formats. From a seed,
//! so that a run can be repeated.

/// A small generator (xorshift64*): what it draws depends on its seed alone.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Less than `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap() % end.max(1)
    }
}

/// Inputs are no longer than this.
const LONGEST: usize = 4_096;

/// What the formats are made of, and numbers at the edges of their types.
const TOKENS: &[&str] = &[
    "\"",
    "'",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "=",
    "&",
    "%",
    "%00",
    "+",
    ";",
    "<",
    ">",
    "</",
    "/>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<!DOCTYPE",
    "&amp;",
    "&#0;",
    "&#x10FFFF;",
    "&#xD800;",
    "<?xml version=\"1.0\"?>",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "null",
    "true",
    "-0",
    "1e999",
    "9223372036854775808",
    "-1",
    "0.1",
    "NaN",
    "\r\n",
    "\n",
    "\0",
    "\u{feff}",
    "\u{202e}",
    "é",
    "😀",
    "\u{fffe}",
    "--fixture\r\n",
    "--fixture--",
    "Content-Disposition: form-data; name=\"",
    "filename=",
    "{{",
    "}}",
    "{{{",
    "{{lead.value}}",
    "{{#if lead.value}}",
    "{{/if}}",
    "{{else}}",
    "{{#nested \"json\"}}",
    "{{/nested}}",
    "{{json lead.age}}",
    "{{date lead.born \"%Y\"}}",
    "{{!--",
    "--}}",
    "{{~",
    "{{> t}}",
    "{{&",
    "[0]",
    ".0",
    "[]",
    "vehicles",
    "make",
    "interests",
    "email",
    "accepted",
    "duplicate",
    "xpath",
    "json",
    "css",
    "regex",
    "inside",
    "as",
    "every",
    "equals",
    "one_of",
    "min",
    "\"$..*\"",
    "//*",
    "(",
    ")",
    "*",
    "?",
    "(?s)",
    "^",
    "$",
    "|",
    "[[",
    "]]",
    "\"\"\"",
    "'''",
    "1970-01-01",
    "2026-11-21",
    "24:00",
    "22:00-02:00",
    "50/10s",
    "env:",
    "file:",
    "sha256:",
    "KiB",
    "d",
    "::",
    "0",
];

/// Another input, made of `input` and pieces of `other`.
pub fn mutate(draw: &mut Draw, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=draw.below(6) {
        let at = draw.below(bytes.len() + 1);
        let end = (at + 1 + draw.below(24)).min(bytes.len());
        match draw.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << draw.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(draw.below(256)).unwrap(),
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => {
                let piece = bytes[at.min(end)..end].to_vec();
                let times = 1 + draw.below(8);
                bytes.splice(at..at, piece.repeat(times));
            }
            4 => bytes.truncate(at),
            5 if !other.is_empty() => {
                let from = draw.below(other.len());
                let piece = &other[from..(from + 1 + draw.below(64)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            6 if !other.is_empty() => {
                let from = draw.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            7 => {
                let to = draw.below(bytes.len() + 1);
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(to..to, piece);
            }
            _ => {
                let token = TOKENS[draw.below(TOKENS.len())];
                // In the place of something as often as before it.
                let end = if draw.below(2) == 0 { at } else { end.max(at) };
                bytes.splice(at..end, token.bytes());
            }
        }
        bytes.truncate(LONGEST);
    }
    bytes
}
