//! The last look at what was rendered: is it XML, is it JSON? Static parts of a template can be wrong even though
//! values cannot break out of their places.

mod plain;

use std::borrow::Cow;

use quick_xml::NsReader;
use quick_xml::escape::{EscapeError, unescape};
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;

use super::escape::is_xml_char;

/// Where and why a text is not well-formed. The message never quotes the text: it may hold personal data.
#[derive(Debug)]
pub(super) struct Broken {
    /// Byte offset in the text.
    pub(super) offset: usize,
    pub(super) message: String,
}

/// What an XML text has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Xml {
    /// One document: a single root, perhaps after a declaration and a DOCTYPE.
    Document { encoding: &'static str },
    /// A document whose root has exactly this many children (the header and body of an envelope).
    Envelope { children: usize },
    /// A document of its own inside another text, or part of one: any number of elements, or a declaration and a root. The
    /// encoding that it declares is its reader's business: it is text here.
    Nested,
}

/// Checks JSON text (RFC 8259); by a short way first, if that may be.
pub(super) fn json(text: &str, shortcut: bool) -> Result<(), Broken> {
    if shortcut && plain::json(text) {
        return Ok(());
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(drop).map_err(|error| {
        let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let message = error.to_string();
        let reason = message.split(" at line ").next().unwrap_or_default();
        Broken {
            offset: before + error.column().saturating_sub(1),
            message: format!("the result is not JSON: {reason}"),
        }
    })
}

/// JSON text without the commas that stand before a closing bracket, and where they stood: members that are left out
/// take their commas with them, but for the last one's.
pub(super) fn without_trailing_commas(text: &str) -> (Cow<'_, str>, Vec<usize>) {
    let mut commas = Vec::new();
    if !may_have_trailing_commas(text.as_bytes()) {
        return (text.into(), commas);
    }
    let (mut pending, mut in_string, mut escaped) = (None, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => {
                in_string = !in_string;
                pending = None;
            }
            _ if in_string => {}
            b',' => pending = Some(at),
            b'}' | b']' => commas.extend(pending.take()),
            b' ' | b'\t' | b'\n' | b'\r' => {}
            _ => pending = None,
        }
    }
    if commas.is_empty() {
        return (text.into(), commas);
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for comma in &commas {
        out.push_str(text.get(from..*comma).unwrap_or_default());
        from = comma + 1;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    (out.into(), commas)
}

/// Whether there is a comma before a closing bracket, if only inside of a string.
fn may_have_trailing_commas(text: &[u8]) -> bool {
    memchr::memchr_iter(b',', text).any(|comma| {
        let mut behind = text.iter().skip(comma + 1);
        behind
            .find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
            .is_some_and(|byte| matches!(byte, b'}' | b']'))
    })
}

/// Checks XML text: XML 1.0 (well-formedness, without the inside of a DOCTYPE) and Namespaces in XML 1.0 (declared
/// prefixes, no attribute twice); by a short way first, if that may be.
pub(super) fn xml(text: &str, what: Xml, shortcut: bool) -> Result<(), Broken> {
    if shortcut && plain::xml(text, what) {
        return Ok(());
    }
    let nested = what == Xml::Nested;
    let what = if nested && text.starts_with("<?xml") { Xml::Document { encoding: "" } } else { what };
    let broken = |offset: usize, message: &str| Broken { offset, message: format!("the result is not XML: {message}") };
    if let Some((at, _)) = text.char_indices().find(|(_, c)| !is_xml_char(*c)) {
        return Err(broken(at, "a character that XML cannot carry"));
    }
    let mut reader = NsReader::from_str(text);
    reader.config_mut().check_comments = true;
    let mut walk = Walk { depth: 0, roots: 0, children: 0, nested };
    loop {
        let start = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let event = match reader.read_event() {
            Ok(Event::Eof) => break,
            Ok(event) => event,
            Err(error) => {
                let at = usize::try_from(reader.error_position()).unwrap_or(start);
                return Err(broken(at, &describe(&error)));
            }
        };
        if let Event::Start(tag) | Event::Empty(tag) = &event {
            check_tag(&reader, tag).map_err(|message| broken(start, &message))?;
        }
        walk.take(&event, start, what).map_err(|message| broken(start, &message))?;
    }
    walk.end(what).map_err(|message| broken(text.len(), &message))
}

/// Where in the document the check stands.
struct Walk {
    depth: usize,
    roots: usize,
    children: usize,
    nested: bool,
}

impl Walk {
    fn take(&mut self, event: &Event<'_>, start: usize, what: Xml) -> Result<(), String> {
        let outside = self.depth == 0 && what != Xml::Nested;
        match event {
            Event::Start(_) => {
                self.count();
                self.depth += 1;
            }
            Event::Empty(_) => self.count(),
            // quick-xml has checked that an element of this name is open.
            Event::End(_) => self.depth = self.depth.saturating_sub(1),
            Event::Text(text) => {
                if outside && !text.trim().is_empty() {
                    return Err("text outside of the root element".to_owned());
                }
                if text.contains("]]>") {
                    return Err("]]> in text".to_owned());
                }
            }
            Event::CData(_) | Event::GeneralRef(_) if outside => {
                return Err("text outside of the root element".to_owned());
            }
            Event::GeneralRef(reference) => {
                let raw: &str = reference;
                check_references(&format!("&{raw};"))?;
            }
            Event::Decl(_) if start != 0 || what == Xml::Nested => {
                return Err("an XML declaration that does not open the document".to_owned());
            }
            Event::Decl(declaration) => {
                let Xml::Document { encoding } = what else { return Ok(()) };
                let fits =
                    declaration.encoding().is_none_or(|name| name.is_ok_and(|n| n.eq_ignore_ascii_case(encoding)));
                if !fits && !self.nested {
                    return Err(format!(
                        "the declaration names another encoding than {encoding}, which is what is sent"
                    ));
                }
            }
            Event::DocType(_) if self.depth + self.roots > 0 || !matches!(what, Xml::Document { .. }) => {
                return Err("a DOCTYPE that does not open the document".to_owned());
            }
            Event::DocType(_) | Event::CData(_) | Event::Comment(_) | Event::PI(_) | Event::Eof => {}
        }
        Ok(())
    }

    fn count(&mut self) {
        match self.depth {
            0 => self.roots += 1,
            1 => self.children += 1,
            _ => {}
        }
    }

    fn end(&self, what: Xml) -> Result<(), String> {
        match what {
            _ if self.depth > 0 => Err("an element is not closed".to_owned()),
            Xml::Nested => Ok(()),
            _ if self.roots == 0 => Err("there is no element".to_owned()),
            _ if self.roots > 1 => Err("more than one root element".to_owned()),
            Xml::Envelope { children } if self.children != children => {
                Err("the content closes the envelope that it stands in".to_owned())
            }
            Xml::Document { .. } | Xml::Envelope { .. } => Ok(()),
        }
    }
}

fn check_tag(reader: &NsReader<&[u8]>, tag: &BytesStart<'_>) -> Result<(), String> {
    let name = tag.name();
    check_name(name.as_ref())?;
    if let ResolveResult::Unknown(prefix) = reader.resolver().resolve_element(name).0 {
        return Err(format!("the prefix {prefix}: is not declared"));
    }
    let mut seen: Vec<(ResolveResult<'_>, String)> = Vec::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|_| {
            format!("an attribute of <{}> is given twice, without quotes or without a value", name.as_ref())
        })?;
        check_name(attribute.key.as_ref())?;
        let (namespace, local) = reader.resolver().resolve_attribute(attribute.key);
        if let ResolveResult::Unknown(prefix) = namespace {
            return Err(format!("the prefix {prefix}: is not declared"));
        }
        if attribute.key.prefix().is_some() {
            let local: &str = local.as_ref();
            if seen.iter().any(|(other, name)| *other == namespace && name == local) {
                return Err(format!("the attribute {local} is given twice in the same namespace"));
            }
            seen.push((namespace, local.to_owned()));
        }
        let value: &str = attribute.value.as_ref();
        if value.contains('<') {
            return Err("a < in an attribute".to_owned());
        }
        check_references(value)?;
    }
    Ok(())
}

/// References are to the five predefined entities or to characters that XML can carry.
fn check_references(text: &str) -> Result<(), String> {
    if !text.contains('&') {
        return Ok(());
    }
    match unescape(text) {
        Ok(plain) if plain.chars().all(is_xml_char) => Ok(()),
        Ok(_) | Err(EscapeError::InvalidCharRef(_)) => {
            Err("a reference to a character that XML cannot carry".to_owned())
        }
        Err(EscapeError::UnrecognizedEntity(..)) => {
            Err("an entity that is not one of &amp; &lt; &gt; &quot; &apos;".to_owned())
        }
        Err(_) => Err("an & that begins no reference".to_owned()),
    }
}

/// `Name` of XML 1.0, section 2.3, with at most one colon inside (Namespaces in XML, section 4).
fn check_name(name: &str) -> Result<(), String> {
    let start = |c: char| {
        c.is_ascii_alphabetic()
            || c == '_'
            || matches!(c, '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}' | '\u{370}'..='\u{37D}'
                | '\u{37F}'..='\u{1FFF}' | '\u{200C}' | '\u{200D}' | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}'
                | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}' | '\u{10000}'..='\u{EFFFF}')
    };
    let inside = |c: char| {
        start(c)
            || c.is_ascii_digit()
            || matches!(c, '-' | '.' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}' | '\u{2040}')
    };
    let part = |text: &str| {
        let mut chars = text.chars();
        chars.next().is_some_and(start) && chars.all(inside)
    };
    let fine = match name.split_once(':') {
        Some((prefix, local)) => part(prefix) && part(local),
        None => part(name),
    };
    if fine { Ok(()) } else { Err("a name that XML does not allow".to_owned()) }
}

/// quick-xml's own words, where they quote nothing but names that stand in the template.
fn describe(error: &quick_xml::Error) -> String {
    match error {
        quick_xml::Error::IllFormed(error) => error.to_string(),
        quick_xml::Error::Syntax(error) => error.to_string(),
        quick_xml::Error::Namespace(_) => "a namespace declaration that is not allowed".to_owned(),
        _ => "it cannot be read".to_owned(),
    }
}
