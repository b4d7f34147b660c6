//! The formats that a value can be written into, and how each is escaped. A template never chooses: the place where it
//! stands does.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::model::contract::Charset;

/// What a piece of text becomes part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// XML text or an attribute's value, in either kind of quotes.
    Xml,
    /// The inside of a JSON string.
    Json,
    /// HTML text or a quoted attribute's value.
    Html,
    /// A name or value of `application/x-www-form-urlencoded` text.
    Form,
    /// Plain text: nothing has a meaning that could be taken by mistake.
    Text,
    /// A header's value.
    Header,
    /// One component of a URL: a path segment, or a query name or value.
    Url,
}

impl Format {
    pub(super) const ALL: [Self; 7] =
        [Self::Xml, Self::Json, Self::Html, Self::Form, Self::Text, Self::Header, Self::Url];

    /// The formats that `{{#nested "…"}}` may name.
    pub(super) fn nested(word: &str) -> Option<Self> {
        Some(match word {
            "xml" => Self::Xml,
            "json" => Self::Json,
            "html" => Self::Html,
            "form" => Self::Form,
            "text" => Self::Text,
            _ => return None,
        })
    }

    /// `text` written so that a reader of this format reads `text` again. Characters that the format cannot carry are
    /// dropped.
    pub(super) fn escape(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + text.len() / 4 + 8);
        self.write(text, Charset::Utf8, &mut out);
        out
    }

    /// The same, written behind what `out` holds, for a text that is sent in this charset, where its bytes are written
    /// out.
    pub(super) fn write(self, text: &str, charset: Charset, out: &mut String) {
        match self {
            Self::Xml | Self::Html => markup(text, out),
            Self::Json => json(text, out),
            Self::Form => out.extend(form_urlencoded::byte_serialize(&charset.encode(text))),
            Self::Header if text.contains(char::is_control) => out.extend(text.chars().filter(|c| !c.is_control())),
            Self::Text | Self::Header => out.push_str(text),
            Self::Url => out.extend(utf8_percent_encode(text, URL_COMPONENT)),
        }
    }
}

/// How a nested text is written where the outer format's own escapes are not what the partner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encode {
    Base64,
    Base64Url,
    Hex,
    /// As CDATA sections, in XML text.
    CData,
}

impl Encode {
    pub(super) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "base64" => Self::Base64,
            "base64url" => Self::Base64Url,
            "hex" => Self::Hex,
            "cdata" => Self::CData,
            _ => return None,
        })
    }
}

/// `text` in CDATA sections, so that a parser reads it again. The end mark is divided between two sections, and a CR,
/// which a parser would take for a line break (XML 1.0, section 2.11), stands between them as a reference.
pub(super) fn cdata(text: &str) -> String {
    let carried: String = text.chars().filter(|c| is_xml_char(*c)).collect();
    let inside = carried.replace("]]>", "]]]]><![CDATA[>").replace('\r', "]]>&#13;<![CDATA[");
    format!("<![CDATA[{inside}]]>")
}

/// Everything but RFC 3986's unreserved characters.
const URL_COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `Char` of XML 1.0, section 2.2.
pub(super) fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// One escaper for text and for attributes: line breaks and tabs are references, because a parser turns bare ones in an
/// attribute into spaces (XML 1.0, section 3.3.3) and a bare CR anywhere into LF (2.11).
fn markup(text: &str, out: &mut String) {
    const STOPS: Stops = Stops::controls_and(b"&<>\"'\xEF");
    STOPS.replace(text, out, |c, out| match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&#39;"),
        '\t' => out.push_str("&#9;"),
        '\n' => out.push_str("&#10;"),
        '\r' => out.push_str("&#13;"),
        c if is_xml_char(c) => out.push(c),
        _ => {}
    });
}

/// RFC 8259, section 7. U+2028 and U+2029 are escaped too: legal JSON, but line ends to older JavaScript.
fn json(text: &str, out: &mut String) {
    const STOPS: Stops = Stops::controls_and(b"\"\\\xE2");
    STOPS.replace(text, out, |c, out| match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        // Writing to a String cannot fail.
        '\0'..' ' | '\u{2028}' | '\u{2029}' => drop(write!(out, "\\u{:04x}", u32::from(c))),
        c => out.push(c),
    });
}

/// The bytes at which an escaper looks twice: ASCII characters, and first bytes of others.
struct Stops([bool; 256]);

impl Stops {
    const fn controls_and(others: &[u8]) -> Self {
        let mut stops = [false; 256];
        let mut at = 0;
        while at < 0x20 {
            stops[at] = true;
            at += 1;
        }
        at = 0;
        while at < others.len() {
            stops[others[at] as usize] = true;
            at += 1;
        }
        Self(stops)
    }

    /// Writes `text` with what `replacement` makes of the characters that begin with a stop.
    fn replace(&self, text: &str, out: &mut String, replacement: impl Fn(char, &mut String)) {
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| self.0[usize::from(byte)]) {
            // A stop is the first byte of a character.
            let (clean, from) = rest.split_at(at);
            out.push_str(clean);
            let mut chars = from.chars();
            if let Some(c) = chars.next() {
                replacement(c, out);
            }
            rest = chars.as_str();
        }
        out.push_str(rest);
    }
}
