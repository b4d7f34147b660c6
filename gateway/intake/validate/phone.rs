//! Telephone numbers, normalised to E.164 with the metadata of Google's libphonenumber.

use crate::model::phone::{Number, Region};

/// The number as E.164, without an extension; `None` when it is not a valid number. Without a country code (`+44`, or
/// the region's way to dial abroad, such as `00`) it is read as a number of `region`.
pub(in crate::intake) fn normalise(text: &str, region: Option<Region>) -> Option<String> {
    let (is_international, digits) = dialled(without_extension(without_scheme(text)))?;
    // An international number is never read with the region's own metadata: the crate would strip the region's trunk
    // prefix from it, and so make another number of "+44 1…" in the US, or of "00 39 06…" in Britain.
    let international = if is_international { Some(digits.as_str()) } else { abroad(&digits, region) };
    let number = match international {
        Some(digits) => Number::dialled(true, digits, None),
        None => Number::dialled(false, &digits, Some(region?)),
    };
    let number = number?;
    let e164 = number.e164();
    (number.is_valid() || is_for_fiction(&e164)).then_some(e164)
}

/// RFC 3966 numbers are URIs: `tel:+44-20-7946-0000;ext=12`.
fn without_scheme(text: &str) -> &str {
    text.split_at_checked(4).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("tel:")).map_or(text, |(_, rest)| rest)
}

/// Whether it begins with a plus sign, and its digits. `None` where there is anything but the usual punctuation.
fn dialled(text: &str) -> Option<(bool, String)> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || is_invisible(c));
    let (plus, text) = text.strip_prefix(['+', '\u{FF0B}']).map_or((false, text), |rest| (true, rest));
    let mut digits = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' => digits.push(c),
            '-' | '.' | '/' | '(' | ')' | '\u{2010}'..='\u{2015}' | '\u{2212}' => {}
            space if space.is_whitespace() || is_invisible(space) => {}
            _ => return None,
        }
    }
    // E.164 has 15 digits; prefixes for dialling abroad come on top.
    (4..=22).contains(&digits.len()).then_some((plus, digits))
}

/// What copying out of a page or an address book brings along: zero-width and direction marks.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}')
}

/// What follows the prefix for calls abroad, if the number begins with it: the region's own, or `00` without region.
fn abroad(digits: &str, region: Option<Region>) -> Option<&str> {
    match region {
        Some(region) => region.abroad(digits),
        None => digits.strip_prefix("00"),
    }
}

/// Cuts off "ext. 12", "x12", "#12", ";ext=12": E.164 has no room for it, and partners dial the number itself.
fn without_extension(text: &str) -> &str {
    let Some((at, _)) = text.char_indices().find(|(_, c)| matches!(c, 'e' | 'E' | 'x' | 'X' | '#' | ';')) else {
        return text;
    };
    let (number, rest) = text.split_at(at);
    let rest = rest.trim_start_matches(';').to_ascii_lowercase();
    let label = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    let extension_digits = rest.len() - label.len();
    let known = ["ext", "extn", "extension", "x", "#"];
    let is_extension =
        known.contains(&label.trim_end_matches([' ', '.', ':', '='])) && (1..=7).contains(&extension_digits);
    if is_extension { number } else { text }
}

/// Ofcom's numbers for drama ("Telephone numbers for use in TV and radio drama programmes") that the metadata calls
/// invalid: they are what everybody posts as a test.
fn is_for_fiction(e164: &str) -> bool {
    e164.len() == 13 && (e164.starts_with("+447700900") || e164.starts_with("+441632960"))
}
