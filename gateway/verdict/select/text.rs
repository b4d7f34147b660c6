//! A body as text, in the encoding it really has.

use std::borrow::Cow;
use std::sync::LazyLock;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use regex::bytes::Regex;

/// How far into a page browsers look for its `<meta charset>`.
const META_WITHIN: usize = 1024;

/// Decodes a body: by its byte order mark, its XML declaration, its Content-Type's charset or its HTML page's, in this
/// order; else as UTF-8, or where it is not, as Windows-1252, of which ISO-8859-1 is a part. What cannot be decoded is
/// replaced.
pub(super) fn decode<'b>(body: &'b [u8], content_type: Option<&str>) -> Cow<'b, str> {
    // Before the marks of UTF-16, with which UTF-32's little-endian one begins.
    if let Some(text) = utf32(body) {
        return Cow::Owned(text);
    }
    if let Some((encoding, mark)) = Encoding::for_bom(body) {
        return encoding.decode_without_bom_handling(body.get(mark..).unwrap_or_default()).0;
    }
    let declared = utf16_by_shape(body)
        .or_else(|| by_declaration(body))
        .or_else(|| by_charset(content_type?))
        .or_else(|| by_meta(body));
    match declared {
        // Declared out of habit, often over UTF-8, which other text never resembles.
        Some(encoding) if encoding != UTF_8 && encoding != WINDOWS_1252 => encoding.decode_without_bom_handling(body).0,
        _ => utf8_or_western(body),
    }
}

/// UTF-8; with replacements where it was cut or damaged; Windows-1252 where nothing in it is UTF-8 beyond ASCII.
fn utf8_or_western(body: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(body);
    if matches!(text, Cow::Borrowed(_)) || text.chars().any(|c| !c.is_ascii() && c != char::REPLACEMENT_CHARACTER) {
        return text;
    }
    WINDOWS_1252.decode_without_bom_handling(body).0
}

/// UTF-32 with its byte order mark, which browsers no longer read; some reporting tools still write it.
fn utf32(body: &[u8]) -> Option<String> {
    let number: fn([u8; 4]) -> u32 = match body {
        [0, 0, 0xfe, 0xff, ..] => u32::from_be_bytes,
        [0xff, 0xfe, 0, 0, ..] => u32::from_le_bytes,
        _ => return None,
    };
    let (characters, _) = body.get(4..)?.as_chunks::<4>();
    Some(characters.iter().map(|it| char::from_u32(number(*it)).unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

/// XML, JSON and forms begin with an ASCII character, which UTF-16 writes with a zero beside it.
fn utf16_by_shape(body: &[u8]) -> Option<&'static Encoding> {
    match body {
        [0, low, ..] if *low != 0 => Some(UTF_16BE),
        [low, 0, ..] if *low != 0 => Some(UTF_16LE),
        _ => None,
    }
}

fn by_declaration(body: &[u8]) -> Option<&'static Encoding> {
    static DECLARATION: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"^\s*<\?xml\s[^>]{0,100}?encoding\s*=\s*["']([A-Za-z0-9._:-]+)["']"#).ok());
    let found = DECLARATION.as_ref()?.captures(body.get(..200).unwrap_or(body))?;
    by_label(found.get(1)?.as_bytes())
}

fn by_charset(content_type: &str) -> Option<&'static Encoding> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let charset = name.trim().eq_ignore_ascii_case("charset");
        charset.then(|| by_label(value.trim().trim_matches('"').as_bytes())).flatten()
    })
}

/// `<meta charset="…">`, or `<meta http-equiv="Content-Type" content="text/html; charset=…">`.
fn by_meta(body: &[u8]) -> Option<&'static Encoding> {
    static META: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"(?i)<meta\s[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9._:-]+)"#).ok());
    let found = META.as_ref()?.captures(body.get(..META_WITHIN).unwrap_or(body))?;
    by_label(found.get(1)?.as_bytes())
}

/// A label that says UTF-16 where the bytes are not shaped so is wrong: .NET writes such declarations over UTF-8.
fn by_label(label: &[u8]) -> Option<&'static Encoding> {
    Encoding::for_label(label).filter(|encoding| *encoding != UTF_16LE && *encoding != UTF_16BE)
}
