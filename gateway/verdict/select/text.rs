//! A body as text, in the encoding it really has.

use std::borrow::Cow;
use std::sync::LazyLock;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Decodes a body: by its byte order mark, its XML declaration, or its Content-Type's charset, in this order; else as
/// UTF-8, or where it is not, as Windows-1252, of which ISO-8859-1 is a part. What cannot be decoded is replaced.
pub(super) fn decode<'b>(body: &'b [u8], content_type: Option<&str>) -> Cow<'b, str> {
    if let Some((encoding, mark)) = Encoding::for_bom(body) {
        return encoding.decode_without_bom_handling(body.get(mark..).unwrap_or_default()).0;
    }
    let declared = utf16_by_shape(body).or_else(|| by_declaration(body)).or_else(|| by_charset(content_type?));
    let encoding = declared.unwrap_or_else(|| if std::str::from_utf8(body).is_ok() { UTF_8 } else { WINDOWS_1252 });
    encoding.decode_without_bom_handling(body).0
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
    static DECLARATION: LazyLock<Option<regex::bytes::Regex>> = LazyLock::new(|| {
        regex::bytes::Regex::new(r#"^\s*<\?xml\s[^>]{0,100}?encoding\s*=\s*["']([A-Za-z0-9._:-]+)["']"#).ok()
    });
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

/// A label that says UTF-16 where the bytes are not shaped so is wrong: .NET writes such declarations over UTF-8.
fn by_label(label: &[u8]) -> Option<&'static Encoding> {
    Encoding::for_label(label).filter(|encoding| *encoding != UTF_16LE && *encoding != UTF_16BE)
}
