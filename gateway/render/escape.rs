//! The formats that a value can be written into, and how each is escaped. A template never chooses: the place where it
//! stands does.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::form;
use crate::model::contract::Charset;

/// What a piece of text becomes part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    pub(super) fn escape(self, text: &str) -> Cow<'_, str> {
        self.escape_in(text, Charset::Utf8)
    }

    /// The same for a text that is sent in this charset, where its bytes are written out.
    pub(super) fn escape_in(self, text: &str, charset: Charset) -> Cow<'_, str> {
        match self {
            Self::Xml | Self::Html => markup(text),
            Self::Json => json(text),
            Self::Form => form::encode(text, charset).into(),
            Self::Header if text.contains(char::is_control) => {
                text.chars().filter(|c| !c.is_control()).collect::<String>().into()
            }
            Self::Text | Self::Header => text.into(),
            Self::Url => utf8_percent_encode(text, URL_COMPONENT).into(),
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
fn markup(text: &str) -> Cow<'_, str> {
    let plain = |c: char| !matches!(c, '&' | '<' | '>' | '"' | '\'' | '\t' | '\n' | '\r') && is_xml_char(c);
    replace_special(text, plain, |c, out| match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&#39;"),
        '\t' => out.push_str("&#9;"),
        '\n' => out.push_str("&#10;"),
        '\r' => out.push_str("&#13;"),
        _ => {}
    })
}

/// RFC 8259, section 7. U+2028 and U+2029 are escaped too: legal JSON, but line ends to older JavaScript.
fn json(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c >= ' ' && !matches!(c, '"' | '\\' | '\u{2028}' | '\u{2029}');
    replace_special(text, plain, |c, out| match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        // Writing to a String cannot fail.
        _ => drop(write!(out, "\\u{:04x}", u32::from(c))),
    })
}

fn replace_special(text: &str, plain: impl Fn(char) -> bool, special: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let Some(first) = text.find(|c| !plain(c)) else { return text.into() };
    let (clean, rest) = text.split_at(first);
    let mut out = String::with_capacity(text.len() + text.len() / 4 + 8);
    out.push_str(clean);
    for c in rest.chars() {
        if plain(c) {
            out.push(c);
        } else {
            special(c, &mut out);
        }
    }
    out.into()
}
