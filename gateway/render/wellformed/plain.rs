//! The short way to check what was rendered: one look at each byte, for texts of the usual kind. It only ever says that a
//! text is well-formed; what it cannot vouch for is left to the full check, whose words and places count.

use super::Xml;

/// The most levels that are looked at here.
const DEEPEST: usize = 64;

/// Whether this is surely JSON text (RFC 8259).
pub(super) fn json(text: &str) -> bool {
    let mut scan = Scan { bytes: text.as_bytes(), at: 0 };
    scan.document().is_some()
}

/// Whether this is surely an XML text of this kind.
pub(super) fn xml(text: &str, what: Xml) -> bool {
    let mut scan = Scan { bytes: text.as_bytes(), at: 0 };
    scan.xml(what).is_some()
}

/// A text and how far it has been read. `None` is "not vouched for".
struct Scan<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl<'t> Scan<'t> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn take_all(&mut self, text: &[u8]) -> Option<()> {
        self.bytes.get(self.at..)?.starts_with(text).then(|| self.at += text.len())
    }

    /// What is of this kind from here on.
    fn while_in(&mut self, kind: &[bool; 256]) -> &'t [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| !kind[usize::from(*byte)]).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn space(&mut self) -> bool {
        !self.while_in(&SPACE).is_empty()
    }
}

/// The bytes of these kinds.
const fn table(bytes: &[u8], controls: bool, beyond_ascii: bool, others: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 256 {
        table[at] = match at {
            0..0x20 => controls,
            0x20..0x80 => others,
            _ => beyond_ascii,
        };
        at += 1;
    }
    at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] = !table[bytes[at] as usize];
        at += 1;
    }
    table
}

const SPACE: [bool; 256] = table(b" \t\n\r", false, false, false);
const DIGIT: [bool; 256] = table(b"0123456789", false, false, false);
/// What stands in a JSON string as it is.
const IN_STRING: [bool; 256] = table(b"\"\\", false, true, true);
/// What stands in XML text as it is. 0xEF begins the two characters beyond ASCII that XML cannot carry.
const IN_TEXT: [bool; 256] = table(b"<&]\xEF\t\n\r", false, true, true);
/// In an attribute's value in double quotes.
const IN_VALUE: [bool; 256] = table(b"<&\"\xEF\t\n\r", false, true, true);
/// In a name, but for its first character; colons are looked at.
const IN_NAME: [bool; 256] =
    table(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.", false, false, false);

// ---- JSON ----

impl Scan<'_> {
    /// One value, with nothing but white space around it.
    fn document(&mut self) -> Option<()> {
        // Whether each open bracket is one of an object.
        let mut open = [false; DEEPEST];
        let mut depth = 0;
        loop {
            self.space();
            match self.peek()? {
                opening @ (b'{' | b'[') => {
                    self.at += 1;
                    *open.get_mut(depth)? = opening == b'{';
                    depth += 1;
                    self.space();
                    let empty = if opening == b'{' { b'}' } else { b']' };
                    if self.take(empty).is_some() {
                        depth -= 1;
                    } else {
                        if opening == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.take_all(b"true")?,
                b'f' => self.take_all(b"false")?,
                b'n' => self.take_all(b"null")?,
                _ => self.number()?,
            }
            // Behind a value: the next one, or the ends of what it stands in.
            loop {
                self.space();
                let Some(innermost) = depth.checked_sub(1) else {
                    return (self.at == self.bytes.len()).then_some(());
                };
                let is_object = *open.get(innermost)?;
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if is_object {
                            self.space();
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if is_object => self.at += 1,
                    b']' if !is_object => self.at += 1,
                    _ => return None,
                }
                depth = innermost;
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.space();
        self.take(b':')
    }

    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            self.while_in(&IN_STRING);
            match self.peek()? {
                b'"' => return self.take(b'"'),
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
                        b'u' => {
                            let digits = self.bytes.get(self.at + 1..self.at + 5)?;
                            digits.iter().all(u8::is_ascii_hexdigit).then(|| self.at += 5)?;
                        }
                        _ => return None,
                    }
                }
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        (!self.while_in(&DIGIT).is_empty()).then_some(())
    }
}

// ---- XML ----

/// An element that is open: its name, and how many prefixes were declared outside of it.
struct Open<'t> {
    name: &'t [u8],
    prefixes: usize,
}

/// The name of an element or attribute; without a prefix, that is empty.
#[derive(Clone, Copy)]
struct Name<'t> {
    prefix: &'t [u8],
    local: &'t [u8],
    whole: &'t [u8],
}

impl<'t> Scan<'t> {
    fn xml(&mut self, what: Xml) -> Option<()> {
        if self.bytes.starts_with(b"<?") {
            self.declaration(what)?;
        }
        let mut open: Vec<Open<'t>> = Vec::with_capacity(16);
        let mut prefixes: Vec<&'t [u8]> = Vec::with_capacity(4);
        let (mut roots, mut children) = (0, 0);
        loop {
            if open.is_empty() && what != Xml::Nested {
                self.space();
            } else {
                self.text()?;
            }
            if self.at == self.bytes.len() {
                break;
            }
            self.take(b'<')?;
            if self.take(b'/').is_some() {
                let Open { name, prefixes: outside } = open.pop()?;
                self.take_all(name)?;
                self.take(b'>')?;
                prefixes.truncate(outside);
                continue;
            }
            match open.len() {
                0 => roots += 1,
                1 => children += 1,
                DEEPEST => return None,
                _ => {}
            }
            let outside = prefixes.len();
            let name = self.tag(&mut prefixes)?;
            if self.take(b'/').is_some() {
                prefixes.truncate(outside);
            } else {
                open.push(Open { name, prefixes: outside });
            }
            self.take(b'>')?;
        }
        let fits = match what {
            Xml::Nested => true,
            Xml::Document { .. } => roots == 1,
            Xml::Envelope { children: wanted } => roots == 1 && children == wanted,
        };
        (open.is_empty() && fits).then_some(())
    }

    /// `<?xml version="1.0" encoding="…"?>`, as most write it, with the encoding that is sent.
    fn declaration(&mut self, what: Xml) -> Option<()> {
        if what == Xml::Nested {
            // With one it is a document, whose root is one.
            return None;
        }
        self.take_all(br#"<?xml version="1.0""#)?;
        if self.take_all(br#" encoding=""#).is_some() {
            let name = self.while_in(&IN_NAME);
            match what {
                Xml::Document { encoding } if name.eq_ignore_ascii_case(encoding.as_bytes()) => {}
                Xml::Envelope { .. } if !name.is_empty() => {}
                _ => return None,
            }
            self.take(b'"')?;
        }
        self.take_all(b"?>")
    }

    /// What stands between two tags.
    fn text(&mut self) -> Option<()> {
        loop {
            self.while_in(&IN_TEXT);
            match self.peek() {
                None | Some(b'<') => return Some(()),
                Some(b']') if self.bytes.get(self.at..)?.starts_with(b"]]>") => return None,
                Some(b']') => self.at += 1,
                Some(_) => self.special()?,
            }
        }
    }

    /// A reference, or a character that may be one that XML cannot carry.
    fn special(&mut self) -> Option<()> {
        match self.bytes.get(self.at..)? {
            [0xEF, 0xBF, 0xBE | 0xBF, ..] => None,
            [0xEF, ..] => {
                self.at += 3;
                Some(())
            }
            [b'&', b'#', rest @ ..] => {
                let length = rest.iter().position(|byte| *byte == b';').filter(|length| (1..=7).contains(length))?;
                let digits = std::str::from_utf8(rest.get(..length)?).ok()?;
                let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
                let carried =
                    matches!(number, 9 | 10 | 13 | 0x20..=0xD7FF | 0xE000..=0xFFFD | 0x1_0000..=0x10_FFFF_u32);
                self.at += length + 3;
                carried.then_some(())
            }
            [b'&', rest @ ..] => {
                let names: [&[u8]; 5] = [b"amp;", b"lt;", b"gt;", b"quot;", b"apos;"];
                let name = names.into_iter().find(|name| rest.starts_with(name))?;
                self.at += 1 + name.len();
                Some(())
            }
            _ => None,
        }
    }

    /// A tag up to its `>` or `/>`: its name. The prefixes that it declares are added.
    fn tag(&mut self, prefixes: &mut Vec<&'t [u8]>) -> Option<&'t [u8]> {
        let name = self.name()?;
        let mut used: [&[u8]; 4] = [name.prefix, b"", b"", b""];
        let mut seen: [&[u8]; 16] = [b""; 16];
        let mut count = 0;
        loop {
            let spaced = self.space();
            if matches!(self.peek()?, b'>' | b'/') {
                break;
            }
            if !spaced {
                return None;
            }
            let attribute = self.name()?;
            self.take_all(b"=\"")?;
            let value = self.value()?;
            // A prefix that is declared, or used; and what no other attribute here may be called.
            let key = match attribute {
                Name { prefix: b"", local: b"xmlns", .. } => {
                    is_plain_namespace(b"", value).then_some(attribute.whole)?
                }
                Name { prefix: b"xmlns", local, .. } => {
                    prefixes.push(is_plain_namespace(local, value).then_some(local)?);
                    attribute.whole
                }
                Name { prefix: b"", .. } => attribute.whole,
                // Whether two of one name are in one namespace is for the full check.
                Name { prefix, local, .. } => {
                    *used.iter_mut().skip(1).find(|place| place.is_empty())? = prefix;
                    local
                }
            };
            if seen.get(..count)?.contains(&key) {
                return None;
            }
            *seen.get_mut(count)? = key;
            count += 1;
        }
        let declared = |prefix: &&[u8]| prefix.is_empty() || prefixes.contains(prefix);
        used.iter().all(declared).then_some(name.whole)
    }

    fn name(&mut self) -> Option<Name<'t>> {
        let start = self.at;
        let first = self.part()?;
        let (prefix, local): (&[u8], _) = if self.take(b':').is_some() { (first, self.part()?) } else { (b"", first) };
        Some(Name { prefix, local, whole: self.bytes.get(start..self.at)? })
    }

    fn part(&mut self) -> Option<&'t [u8]> {
        let part = self.while_in(&IN_NAME);
        part.first().filter(|byte| byte.is_ascii_alphabetic() || **byte == b'_').map(|_| part)
    }

    /// An attribute's value and the quotes behind it.
    fn value(&mut self) -> Option<&'t [u8]> {
        let start = self.at;
        loop {
            self.while_in(&IN_VALUE);
            match self.peek()? {
                b'"' => break,
                _ => self.special()?,
            }
        }
        let value = self.bytes.get(start..self.at)?;
        self.take(b'"')?;
        Some(value)
    }
}

/// A declaration that says nothing special: of a prefix, or of the namespace of names without one.
fn is_plain_namespace(prefix: &[u8], value: &[u8]) -> bool {
    let reserved = prefix.get(..3).is_some_and(|begin| begin.eq_ignore_ascii_case(b"xml"));
    // The two that only `xml` and `xmlns` may have stand at www.w3.org, with other years than SOAP.
    !reserved
        && !value.is_empty()
        && !value.contains(&b'&')
        && memchr::memmem::find(value, b"XML/1998").is_none()
        && memchr::memmem::find(value, b"2000/xmlns").is_none()
}
