//! Charsets other than UTF-8, for receivers that read nothing else. What a charset lacks is written by the means of the
//! format it stands in (references in XML and HTML, `\u` escapes in JSON), so that nothing is lost; where a format has no
//! such means (forms, plain text) it is transliterated.

use std::borrow::Cow;
use std::fmt::Write as _;

use deunicode::deunicode_with_tofu;

use super::escape::Format;
use super::position::Place;
use super::wellformed::Broken;
use crate::model::contract::Charset;

/// The characters that windows-1252 has where ISO-8859-1 has control characters.
const WINDOWS: &str = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ";

impl Charset {
    /// Its name as XML declarations and people write it.
    pub(super) fn xml_name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Latin1 => "ISO-8859-1",
            Self::Windows1252 => "windows-1252",
            Self::Ascii => "US-ASCII",
        }
    }

    fn lacks(self, c: char) -> bool {
        let latin = c.is_ascii() || ('\u{A0}'..='\u{FF}').contains(&c);
        match self {
            Self::Utf8 => false,
            Self::Latin1 => !latin,
            Self::Windows1252 => !latin && !WINDOWS.contains(c),
            Self::Ascii => !c.is_ascii(),
        }
    }

    /// The text's bytes; what it lacks is transliterated.
    pub(super) fn encode(self, text: &str) -> Cow<'_, [u8]> {
        if self == Self::Utf8 || text.is_ascii() {
            return text.as_bytes().into();
        }
        let text = self.transliterated(text);
        match self {
            Self::Utf8 | Self::Ascii => text.into_owned().into_bytes().into(),
            // Every character that is left has the number of its byte.
            Self::Latin1 => text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect(),
            Self::Windows1252 => encoding_rs::WINDOWS_1252.encode(&text).0.into_owned().into(),
        }
    }

    /// The text of what [`Charset::encode`] gave.
    pub(super) fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        match self {
            Self::Utf8 | Self::Ascii => String::from_utf8_lossy(bytes),
            Self::Latin1 => bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into(),
            Self::Windows1252 => encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0,
        }
    }

    /// The text with what this charset lacks in the letters that it has, or `?`.
    fn transliterated(self, text: &str) -> Cow<'_, str> {
        if !text.contains(|c| self.lacks(c)) {
            return text.into();
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(|c| self.lacks(c)) {
            let (before, after) = rest.split_at(at);
            let (run, next) = after.split_at(after.find(|c| !self.lacks(c)).unwrap_or(after.len()));
            out.push_str(before);
            out.push_str(&deunicode_with_tofu(run, "?"));
            rest = next;
        }
        out.push_str(rest);
        out.into()
    }

    /// A whole text of this format with what the charset lacks written by the format's own means, where it has any.
    pub(super) fn fit(self, text: &str, format: Format) -> Result<Cow<'_, str>, Broken> {
        if self == Self::Utf8 || text.is_ascii() {
            return Ok(text.into());
        }
        match format {
            Format::Json => Ok(self.fit_json(text)),
            Format::Xml | Format::Html => self.fit_markup(text, format).map(Into::into),
            Format::Form | Format::Text | Format::Header | Format::Url => Ok(self.transliterated(text)),
        }
    }

    /// In well-formed JSON, whatever is not ASCII stands inside of a string.
    fn fit_json(self, text: &str) -> Cow<'_, str> {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if self.lacks(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            } else {
                out.push(c);
            }
        }
        out.into()
    }

    fn fit_markup(self, text: &str, format: Format) -> Result<String, Broken> {
        let mut out = String::with_capacity(text.len());
        let mut place = Place::start(format);
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (next, length) = place.step(c, rest);
            let (token, after) = rest.split_at(length);
            if self.lacks(c) {
                let reference = format!("&#x{:X};", u32::from(c));
                match place {
                    Place::Content | Place::Double | Place::Single => out.push_str(&reference),
                    Place::CData => out.extend(["]]>", reference.as_str(), "<![CDATA["]),
                    _ => {
                        let message = format!(
                            "a character that {} lacks stands in a tag, comment or declaration, where no reference can",
                            self.xml_name()
                        );
                        return Err(Broken { offset: text.len() - rest.len(), message });
                    }
                }
            } else {
                out.push_str(token);
            }
            place = next;
            rest = after;
        }
        Ok(out)
    }
}

/// The encoding that an XML text declares: `None` without a declaration, an empty one where it names none.
pub(super) fn declared(text: &str) -> Option<&str> {
    let declaration = text.trim_start().strip_prefix("<?xml")?.split("?>").next()?;
    let Some((_, value)) = declaration.split_once("encoding") else { return Some("") };
    let value = value.trim_start().strip_prefix('=').unwrap_or_default().trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    Some(quote.and_then(|quote| value.get(1..)?.split(quote).next()).unwrap_or_default())
}
