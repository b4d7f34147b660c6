//! Reads an XML message into a tree, as a careful receiver would: namespaces resolved, nothing forgiven.

use quick_xml::NsReader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{PrefixDeclaration, ResolveResult};

/// Elements may not stand deeper than this.
const DEEPEST: usize = 32;

/// An element with what is in it.
#[derive(Debug, Default)]
pub(super) struct Element {
    /// Its namespace; empty where it has none.
    pub(super) namespace: String,
    /// Its name without a prefix.
    pub(super) name: String,
    /// Namespace, name and value of each attribute.
    pub(super) attributes: Vec<(String, String, String)>,
    /// The elements in it.
    pub(super) children: Vec<Element>,
    /// The text in it, its children's left out.
    pub(super) text: String,
}

impl Element {
    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    pub(super) fn child(&self, namespace: &str, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.is(namespace, name))
    }

    pub(super) fn attribute(&self, namespace: &str, name: &str) -> Option<&str> {
        let mut all = self.attributes.iter();
        all.find(|(space, local, _)| space == namespace && local == name).map(|(_, _, value)| value.as_str())
    }

    /// The children as names and texts; a child of another namespace, or with children or attributes of its own, is a
    /// fault.
    pub(super) fn leaves(&self) -> Result<Vec<(&str, &str)>, String> {
        if !self.text.trim().is_empty() {
            return Err(format!("{} holds text between its elements", self.name));
        }
        let leaf = |child: &Self| {
            child.namespace == self.namespace && child.children.is_empty() && child.attributes.is_empty()
        };
        match self.children.iter().find(|child| !leaf(child)) {
            Some(odd) => Err(format!("{} is not a plain element of {}'s namespace", odd.name, self.name)),
            None => Ok(self.children.iter().map(|child| (child.name.as_str(), child.text.as_str())).collect()),
        }
    }
}

/// The root element of a document in UTF-8.
pub(super) fn parse(bytes: &[u8]) -> Result<Element, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the document is not UTF-8".to_owned())?;
    if !text.chars().all(is_xml_char) {
        return Err("the document holds a character that XML cannot carry".to_owned());
    }
    let mut reader = NsReader::from_str(text);
    reader.config_mut().check_comments = true;
    let mut tree = Tree::default();
    loop {
        let position = reader.buffer_position();
        match reader.read_event().map_err(|error| format!("not well-formed: {error}"))? {
            Event::Start(tag) => tree.open(element(&reader, &tag)?)?,
            Event::Empty(tag) => {
                tree.open(element(&reader, &tag)?)?;
                tree.close();
            }
            Event::End(_) => tree.close(),
            Event::Text(text) if text.contains("]]>") => return Err("not well-formed: ]]> in text".to_owned()),
            Event::Text(text) => tree.text(&text.xml10_content())?,
            Event::CData(text) => tree.text(&text.xml10_content())?,
            Event::GeneralRef(reference) => {
                let named = || resolve_xml_entity(&reference).map(str::to_owned);
                let numbered = reference.resolve_char_ref().map_err(|error| format!("not well-formed: {error}"))?;
                let meaning = numbered.filter(|c| is_xml_char(*c)).map(String::from).or_else(named);
                tree.text(&meaning.ok_or("not well-formed: an entity that XML does not define")?)?;
            }
            Event::Decl(_) if position != 0 => return Err("not well-formed: a late XML declaration".to_owned()),
            Event::DocType(_) => return Err("a document type is not accepted".to_owned()),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return tree.end(),
        }
    }
}

/// Production 2 of XML 1.0.
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

fn element(reader: &NsReader<&[u8]>, tag: &BytesStart<'_>) -> Result<Element, String> {
    let (space, local) = reader.resolver().resolve_element(tag.name());
    let mut element = Element { namespace: namespace(&space)?, name: local.as_ref().to_owned(), ..Element::default() };
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| format!("not well-formed: {error}"))?;
        let declares: Option<PrefixDeclaration<'_>> = attribute.key.as_namespace_binding();
        if declares.is_some() {
            continue;
        }
        let (space, local) = reader.resolver().resolve_attribute(attribute.key);
        if attribute.value.contains('<') {
            return Err("not well-formed: < in an attribute".to_owned());
        }
        let value =
            attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| format!("not well-formed: {error}"))?;
        element.attributes.push((namespace(&space)?, local.as_ref().to_owned(), value.into_owned()));
    }
    Ok(element)
}

fn namespace(space: &ResolveResult<'_>) -> Result<String, String> {
    match space {
        ResolveResult::Unbound => Ok(String::new()),
        ResolveResult::Bound(space) => Ok(space.0.to_owned()),
        ResolveResult::Unknown(_) => Err("not well-formed: a prefix without a namespace".to_owned()),
    }
}

/// The document as far as it is read.
#[derive(Default)]
struct Tree {
    /// The open elements, the root first.
    open: Vec<Element>,
    root: Option<Element>,
}

impl Tree {
    fn open(&mut self, element: Element) -> Result<(), String> {
        if self.open.is_empty() && self.root.is_some() {
            return Err("not well-formed: a second root element".to_owned());
        }
        if self.open.len() == DEEPEST {
            return Err("the document is nested too deeply".to_owned());
        }
        self.open.push(element);
        Ok(())
    }

    /// Closes the innermost element; the reader has checked that its name is right.
    fn close(&mut self) {
        if let Some(done) = self.open.pop() {
            match self.open.last_mut() {
                Some(parent) => parent.children.push(done),
                None => self.root = Some(done),
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim_start_matches('\u{FEFF}').trim().is_empty() => {}
            None => return Err("not well-formed: text outside the root element".to_owned()),
        }
        Ok(())
    }

    fn end(self) -> Result<Element, String> {
        match self.root {
            Some(root) if self.open.is_empty() => Ok(root),
            _ => Err("not well-formed: the document ends too early".to_owned()),
        }
    }
}
