//! XML bodies: the root element's children are the fields, nested ones dotted. Attributes and namespaces say nothing.
//!
//! quick-xml finds the markup and matches the tags. What it leaves to its caller is done here: names, characters,
//! references, what stands outside the root, and attributes that are never used must still be well-formed
//! (XML 1.0, fifth edition). No DTD is accepted, so no entity beyond the five predefined ones exists.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::errors::{Error, IllFormedError};
use quick_xml::escape::{resolve_xml_entity, unescape};
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};

use super::lists::{Holds, Lists};
use super::posted::{Collector, MAX_NAME, Posted, PostedValue};
use super::{MAX_DEPTH, Malformed};

/// Attributes of one element. They are compared with each other, so their number must be small.
const MAX_ATTRIBUTES: usize = 64;

pub(super) fn parse<'b>(body: &'b str, lists: &Lists) -> Result<Posted<'b>, Malformed> {
    if let Some((offset, _)) = body.char_indices().find(|(_, c)| !is_char(*c)) {
        return Err(Malformed::at(body.as_bytes(), offset, "a character that XML does not allow"));
    }
    let mut reader = Reader::from_str(body);
    reader.config_mut().check_comments = true;
    reader.config_mut().expand_empty_elements = true;

    let mut walk = Walk::new(lists);
    loop {
        let offset = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let event = reader.read_event().map_err(|error| {
            let offset = usize::try_from(reader.error_position()).unwrap_or(usize::MAX);
            Malformed::at(body.as_bytes(), offset, syntax(&error))
        })?;
        if matches!(event, Event::Eof) {
            walk.end().map_err(|message| Malformed::at(body.as_bytes(), body.len(), message))?;
            return Ok(walk.collector.finish());
        }
        walk.event(&event, offset).map_err(|message| Malformed::at(body.as_bytes(), offset, message))?;
    }
}

struct Walk<'a, 'b> {
    /// The open elements, the root first.
    open: Vec<Element>,
    /// The dotted name of where we are, without the root. Within a list it stays that of the list.
    path: String,
    /// The list we are in.
    list: Option<List>,
    /// Whether the root was seen.
    rooted: bool,
    collector: Collector<'a, 'b>,
}

/// A list field's element. It is an entry itself, and stands once for each; or it is a wrapper of entries, whatever
/// their elements are called.
struct List {
    holds: Holds,
    /// How many elements are open where it stands, itself included.
    level: usize,
    /// The entry that holds the members that stand in the element itself.
    own: Option<usize>,
    /// The entry that holds the members of the element within it.
    inner: Option<usize>,
    /// Whether it wraps entries.
    wraps: bool,
}

struct Element {
    /// Its name as written, for messages.
    tag: String,
    /// How long the path was before it.
    parent: usize,
    /// Whether it holds elements.
    nested: bool,
    text: String,
}

impl<'a> Walk<'a, '_> {
    fn new(lists: &'a Lists) -> Self {
        let collector = Collector::new(lists);
        Self { open: Vec::new(), path: String::new(), list: None, rooted: false, collector }
    }

    fn event(&mut self, event: &Event<'_>, offset: usize) -> Result<(), String> {
        match event {
            Event::Start(start) => self.open(start),
            Event::End(_) => self.close(),
            Event::Text(text) if text.contains("]]>") => Err("`]]>` must be written `]]&gt;`".to_owned()),
            Event::Text(text) => self.text(&text.xml10_content()),
            Event::CData(_) | Event::GeneralRef(_) if self.open.is_empty() => {
                Err("text outside the root element".to_owned())
            }
            Event::CData(text) => self.text(&text.xml10_content()),
            Event::GeneralRef(reference) => {
                let mut utf8 = [0; 4];
                self.text(resolve(reference)?.encode_utf8(&mut utf8))
            }
            Event::Decl(_) if offset > 0 => Err("the XML declaration must be the very first thing".to_owned()),
            Event::Decl(declaration) => declared(declaration),
            Event::PI(pi) if !is_name(pi.target()) || pi.target().eq_ignore_ascii_case("xml") => {
                Err("a processing instruction without a proper name".to_owned())
            }
            Event::DocType(_) => Err("a DTD is not allowed; remove the DOCTYPE".to_owned()),
            // An `Empty` never comes, for empty elements are expanded; the end of the document is seen to by `parse`.
            Event::PI(_) | Event::Comment(_) | Event::Empty(_) | Event::Eof => Ok(()),
        }
    }

    fn open(&mut self, start: &BytesStart<'_>) -> Result<(), String> {
        let name = start.name();
        let tag = name.as_ref();
        if tag.chars().nth(MAX_NAME).is_some() {
            return Err(format!("an element's name is longer than {MAX_NAME} characters"));
        }
        if !is_name(tag) {
            return Err("an element without a proper name".to_owned());
        }
        attributes(start)?;
        let parent = self.path.len();
        if let Some(holder) = self.open.last_mut() {
            holder.nested = true;
            if self.open.len() >= MAX_DEPTH {
                return Err(format!("elements within each other more than {MAX_DEPTH} deep"));
            }
            self.enter(name.local_name().as_ref())?;
        } else if std::mem::replace(&mut self.rooted, true) {
            return Err("a second root element; send one lead in one document".to_owned());
        }
        self.open.push(Element { tag: tag.to_owned(), parent, nested: false, text: String::new() });
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        // quick-xml has refused an end tag without its start tag already.
        let Some(element) = self.open.pop() else { return Ok(()) };
        let is_root = self.open.is_empty();
        if (is_root || element.nested) && !element.text.chars().all(is_space) {
            return Err(format!("text beside elements in `<{}>`; put it into an element of its own", element.tag));
        }
        let leaf = (!element.nested).then_some(element.text);
        if self.list.is_some() {
            self.close_in_list(&element.tag, leaf)?;
        } else if let (false, Some(text)) = (is_root, leaf) {
            self.collector.value(Cow::Owned(self.path.clone()), PostedValue::Text(Cow::Owned(text)));
        }
        self.path.truncate(element.parent);
        Ok(())
    }

    /// Goes into an element below the root.
    fn enter(&mut self, name: &str) -> Result<(), String> {
        let level = self.open.len() + 1;
        if let Some(list) = &mut self.list {
            let deepest = if list.holds == Holds::Groups { 2 } else { 1 };
            if level - list.level > deepest {
                return Err(format!("elements stand too deep in the list `{}`: its entries hold values", self.path));
            }
            list.wraps |= list.holds == Holds::Values || level - list.level == 2;
            return Ok(());
        }
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
        let Some(holds) = self.collector.lists.holds(&self.path) else {
            return self.collector.name(Cow::Owned(self.path.clone()));
        };
        self.list = Some(List { holds, level, own: None, inner: None, wraps: false });
        self.collector.list_name(&self.path)
    }

    /// Leaves an element of a list, or the list; a leaf has its text.
    fn close_in_list(&mut self, tag: &str, leaf: Option<String>) -> Result<(), String> {
        let Some(list) = &mut self.list else { return Ok(()) };
        let local = tag.rsplit(':').next().unwrap_or(tag);
        // The element was taken off already.
        let below = self.open.len() + 1 - list.level;
        let value = leaf.map(|text| PostedValue::Text(Cow::Owned(text)));
        match (below, list.holds) {
            (0, _) => {
                if let Some(value) = value {
                    self.collector.entry(&self.path, None, None, value)?;
                }
                self.list = None;
            }
            (1, Holds::Values) => {
                if let Some(value) = value {
                    self.collector.entry(&self.path, None, None, value)?;
                }
            }
            (1, Holds::Groups) => {
                if let Some(value) = value {
                    list.own = Some(self.collector.entry(&self.path, list.own, Some(local), value)?);
                }
                list.inner = None;
                if list.wraps && list.own.is_some() {
                    return Err(format!("the list `{}` has members beside its entries", self.path));
                }
            }
            _ => {
                if let Some(value) = value {
                    list.inner = Some(self.collector.entry(&self.path, list.inner, Some(local), value)?);
                }
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.chars().all(is_space) => {}
            None => return Err("text outside the root element".to_owned()),
        }
        Ok(())
    }

    fn end(&self) -> Result<(), String> {
        match self.open.last() {
            Some(element) => Err(format!("the body ends before `</{}>`", element.tag)),
            None if !self.rooted => Err("no root element; send one with a field in each child".to_owned()),
            None => Ok(()),
        }
    }
}

fn resolve(reference: &BytesRef<'_>) -> Result<char, String> {
    let refused = "a reference to a character that XML does not allow";
    if reference.is_char_ref() {
        return match reference.resolve_char_ref() {
            Ok(Some(c)) if is_char(c) => Ok(c),
            _ => Err(refused.to_owned()),
        };
    }
    resolve_xml_entity(reference)
        .and_then(|text| text.chars().next())
        .ok_or_else(|| "an entity that is not predefined; use &amp; &lt; &gt; &quot; &apos; or &#…;".to_owned())
}

fn declared(declaration: &BytesDecl<'_>) -> Result<(), String> {
    declaration.xml_version().map_err(|_| "the XML declaration needs version=\"1.0\"".to_owned())?;
    match declaration.encoding() {
        None => Ok(()),
        Some(Ok(name)) if ["utf-8", "utf8", "us-ascii"].iter().any(|known| name.eq_ignore_ascii_case(known)) => Ok(()),
        Some(_) => Err("the XML declaration names another encoding; send UTF-8".to_owned()),
    }
}

fn attributes(start: &BytesStart<'_>) -> Result<(), String> {
    for (count, attribute) in start.attributes().enumerate() {
        if count == MAX_ATTRIBUTES {
            return Err(format!("more than {MAX_ATTRIBUTES} attributes on one element"));
        }
        let fine = attribute.is_ok_and(|attribute| {
            is_name(attribute.key.as_ref())
                && !attribute.value.contains('<')
                && unescape(&attribute.value).is_ok_and(|value| value.chars().all(is_char))
        });
        if !fine {
            return Err("an attribute that is not well-formed, or given twice".to_owned());
        }
    }
    Ok(())
}

/// What quick-xml says, without what it quotes.
fn syntax(error: &Error) -> String {
    let what = match error {
        // The expected name belongs to an element that was opened, so its length is bounded.
        Error::IllFormed(IllFormedError::MismatchedEndTag { expected, .. }) => {
            return format!("not well-formed XML: expected the end tag `</{expected}>`");
        }
        Error::IllFormed(IllFormedError::UnmatchedEndTag(_)) => "an end tag without its start tag",
        Error::IllFormed(IllFormedError::DoubleHyphenInComment) => "`--` in a comment",
        Error::IllFormed(IllFormedError::UnclosedReference) => {
            "`&` must be written `&amp;`, or begin a reference that ends with `;`"
        }
        // Fixed texts, every one.
        Error::Syntax(error) => return format!("not well-formed XML: {error}"),
        _ => "unreadable markup",
    };
    format!("not well-formed XML: {what}")
}

/// White space: production 3.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Char: production 2.
fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// A qualified name: productions 4 to 7 of "Namespaces in XML 1.0".
fn is_name(text: &str) -> bool {
    let part = |part: &str| part.starts_with(is_name_start) && part.chars().all(is_name_char);
    text.split_once(':').map_or_else(|| part(text), |(prefix, local)| part(prefix) && part(local))
}

/// NameStartChar without the colon: production 4.
fn is_name_start(c: char) -> bool {
    matches!(c,
        'A'..='Z' | '_' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}'
        | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}'
        | '\u{10000}'..='\u{EFFFF}')
}

/// NameChar without the colon: production 4a.
fn is_name_char(c: char) -> bool {
    is_name_start(c) || matches!(c, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}
