//! How formats write a character: as it is, in the escapes of JSON and XML, percent-encoded, as a form has it, or as the one
//! byte of an older charset.

use encoding_rs::WINDOWS_1252;

/// No spelling of a character is longer: four percent-encoded bytes, or two escaped halves of a pair.
pub(super) const LONGEST: usize = 12;

/// Characters that XML has names for.
const NAMED: [(&str, char); 5] = [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>'), ("&quot;", '"'), ("&apos;", '\'')];
/// Characters that JSON escapes by one letter; others may be written with a backslash before them.
const ESCAPED: [(u8, char); 5] = [(b'n', '\n'), (b't', '\t'), (b'r', '\r'), (b'b', '\u{8}'), (b'f', '\u{c}')];

/// Calls `found` with every character that the beginning of `text` may stand for, and how many bytes it takes up.
pub(super) fn read(text: &[u8], mut found: impl FnMut(char, usize)) {
    let Some(&first) = text.first() else { return };
    if first.is_ascii() {
        found(char::from(first), 1);
        match first {
            b'+' => found(' ', 1),
            b'%' => percent(text, found),
            b'\\' => backslash(text, found),
            b'&' => reference(text, found),
            _ => {}
        }
    } else {
        if let Some(c) = utf8(text) {
            found(c, c.len_utf8());
        }
        found(of_byte(first), 1);
    }
}

/// Whether `cut`, with which a text ends, may be the beginning of a spelling of `c` that the end has cut off.
pub(super) fn may_begin(cut: &[u8], c: char) -> bool {
    let begins = |spelling: &[u8]| spelling.get(..cut.len()).is_some_and(|start| start.eq_ignore_ascii_case(cut));
    let (mut units, mut bytes) = ([0; 2], [0; 4]);
    let utf8 = c.encode_utf8(&mut bytes).as_bytes();
    let units = c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}"));
    let percent = utf8.iter().map(|byte| format!("%{byte:02x}"));
    let number = u32::from(c);
    begins(utf8)
        || begins(units.collect::<Vec<_>>().concat().as_bytes())
        || begins(percent.collect::<Vec<_>>().concat().as_bytes())
        || begins(format!("&#{number};").as_bytes())
        || begins(format!("&#x{number:x};").as_bytes())
        || NAMED.iter().any(|(name, named)| *named == c && begins(name.as_bytes()))
}

/// The character that `text` begins with.
fn utf8(text: &[u8]) -> Option<char> {
    let long = match text.first()? {
        ..0x80 => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    std::str::from_utf8(text.get(..long)?).ok()?.chars().next()
}

/// A byte in the charset that forms and older receivers mean by Latin-1.
fn of_byte(byte: u8) -> char {
    let byte = [byte];
    let (text, _) = WINDOWS_1252.decode_without_bom_handling(&byte);
    text.chars().next().unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn hex(text: &[u8], digits: usize) -> Option<u32> {
    let text = text.get(..digits)?;
    text.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
}

fn percent(text: &[u8], mut found: impl FnMut(char, usize)) {
    let mut bytes = [0; 4];
    let mut many = 0;
    for (byte, encoded) in bytes.iter_mut().zip(text.chunks(3)) {
        let Some(value) = encoded.strip_prefix(b"%").and_then(|digits| hex(digits, 2)) else { break };
        (*byte, many) = (u8::try_from(value).unwrap_or_default(), many + 1);
    }
    let bytes = bytes.get(..many).unwrap_or_default();
    if let Some(c) = utf8(bytes) {
        found(c, 3 * c.len_utf8());
    }
    if let Some(byte) = bytes.first().filter(|byte| !byte.is_ascii()) {
        found(of_byte(*byte), 3);
    }
}

fn backslash(text: &[u8], mut found: impl FnMut(char, usize)) {
    let unit = |at: usize| text.get(at..)?.strip_prefix(b"\\u").and_then(|digits| hex(digits, 4));
    match text.get(1) {
        Some(b'u') => {
            let Some(first) = unit(0) else { return };
            if let Some(c) = char::from_u32(first) {
                found(c, 6);
            } else if let Some(second) = unit(6)
                && let (Ok(first), Ok(second)) = (u16::try_from(first), u16::try_from(second))
                && let Some(Ok(c)) = char::decode_utf16([first, second]).next()
            {
                found(c, 12);
            }
        }
        Some(letter) => match ESCAPED.iter().find(|(escaped, _)| escaped == letter) {
            Some((_, c)) => found(*c, 2),
            None if letter.is_ascii_punctuation() => found(char::from(*letter), 2),
            None => {}
        },
        None => {}
    }
}

fn reference(text: &[u8], mut found: impl FnMut(char, usize)) {
    for (name, c) in NAMED {
        if text.starts_with(name.as_bytes()) {
            found(c, name.len());
        }
    }
    let Some(end) = text.iter().take(LONGEST).position(|byte| *byte == b';') else { return };
    let Some(number) = text.get(..end).and_then(|text| text.strip_prefix(b"&#")) else { return };
    let Ok(number) = std::str::from_utf8(number) else { return };
    let number = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => number.parse(),
    };
    if let Some(c) = number.ok().and_then(char::from_u32) {
        found(c, end + 1);
    }
}
