//! XML that is not quite XML: several roots, text around them, prefixes that nobody declared, a bare `&`, HTML's
//! entities.
//!
//! Only what leaves no doubt is repaired. Every element must have its end where it belongs: a document that was cut off,
//! or whose tags cross, stays unreadable, for nobody knows what else it would have said.

use std::collections::HashMap;
use std::fmt::Write as _;

use html5ever::data::NAMED_ENTITIES;

use super::MAX_DOCUMENT_BYTES;
use super::xml::{MAX_DEPTH, MAX_NODES, is_name_char, push_escaped};

/// The namespace that stands in for one that was never declared.
pub(in crate::verdict) const UNDECLARED: &str = "urn:undeclared-prefix";
/// The most roots in one body.
const MAX_ROOTS: usize = 20;

/// The documents in a broken one, each well-formed as far as this can tell, or none if there is doubt.
pub(super) fn documents(text: &str) -> Option<Vec<String>> {
    // JSON and forms hold markup only in texts.
    if text.starts_with(['{', '[', '"']) {
        return None;
    }
    let mut repair = Repair {
        rest: text,
        open: Vec::new(),
        in_force: HashMap::new(),
        out: String::new(),
        nodes: 0,
        done: Vec::new(),
    };
    while !repair.rest.is_empty() {
        repair.step()?;
        if repair.nodes > MAX_NODES || repair.open.len() > MAX_DEPTH || repair.done.len() > MAX_ROOTS {
            return None;
        }
        if repair.out.len() > MAX_DOCUMENT_BYTES {
            return None;
        }
    }
    (repair.open.is_empty() && !repair.done.is_empty()).then_some(repair.done)
}

struct Repair<'t> {
    rest: &'t str,
    /// The elements that are open, outermost first, with the prefixes that each declares.
    open: Vec<(&'t str, Vec<&'t str>)>,
    /// How many of the open elements declare a prefix.
    in_force: HashMap<&'t str, usize>,
    /// The document being written.
    out: String,
    nodes: usize,
    done: Vec<String>,
}

impl<'t> Repair<'t> {
    /// One piece of markup, or the text up to the next. Nothing where it cannot be repaired.
    fn step(&mut self) -> Option<()> {
        self.nodes += 1;
        let Some(markup) = self.rest.strip_prefix('<') else {
            let end = self.rest.find('<').unwrap_or(self.rest.len());
            let text = self.cut(end);
            self.text(text);
            return Some(());
        };
        if let Some(comment) = markup.strip_prefix("!--") {
            self.rest = comment.split_once("-->")?.1;
        } else if let Some(data) = markup.strip_prefix("![CDATA[") {
            let (data, behind) = data.split_once("]]>")?;
            self.rest = behind;
            if !self.open.is_empty() {
                push_escaped(&mut self.out, data);
            }
        } else if let Some(instruction) = markup.strip_prefix('?') {
            // A declaration wherever it stands: its version and its encoding no longer matter.
            self.rest = instruction.split_once("?>")?.1;
        } else if let Some(declaration) = markup.strip_prefix('!') {
            let (inside, behind) = declaration.split_once('>')?;
            let is_doctype = inside.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("doctype"));
            // What declares its own entities is not looked into.
            if !is_doctype || inside.contains('[') || !self.open.is_empty() {
                return None;
            }
            self.rest = behind;
        } else if let Some(end_tag) = markup.strip_prefix('/') {
            let (name, behind) = end_tag.split_once('>')?;
            let (open, declared) = self.open.pop()?;
            if open != name.trim_end() {
                return None;
            }
            self.rest = behind;
            for prefix in declared {
                self.in_force.entry(prefix).and_modify(|count| *count -= 1);
            }
            self.close(open)?;
        } else if markup.starts_with(is_name_begin) {
            self.rest = markup;
            self.start_tag()?;
        } else {
            // `a < b`
            self.rest = markup;
            self.text("<");
        }
        Some(())
    }

    fn cut(&mut self, at: usize) -> &'t str {
        let (head, behind) = self.rest.split_at(at);
        self.rest = behind;
        head
    }

    fn close(&mut self, name: &str) -> Option<()> {
        write!(self.out, "</{name}>").ok()?;
        if self.open.is_empty() {
            self.done.push(std::mem::take(&mut self.out));
        }
        Some(())
    }

    /// Text outside of every root is a warning of somebody's server, or the rest of a byte order mark.
    fn text(&mut self, text: &str) {
        if !self.open.is_empty() {
            push_repaired(&mut self.out, text);
        }
    }

    fn start_tag(&mut self) -> Option<()> {
        let name = self.name()?;
        let mut attributes: Vec<(&str, &str)> = Vec::new();
        let is_empty = loop {
            let before = self.rest.len();
            self.rest = self.rest.trim_start();
            if let Some(behind) = self.rest.strip_prefix("/>") {
                self.rest = behind;
                break true;
            }
            if let Some(behind) = self.rest.strip_prefix('>') {
                self.rest = behind;
                break false;
            }
            if before == self.rest.len() || attributes.len() >= 256 {
                return None;
            }
            let (name, value) = self.attribute()?;
            if attributes.iter().all(|(known, _)| *known != name) {
                attributes.push((name, value));
            }
        };
        let declared: Vec<&str> = attributes.iter().filter_map(|(name, _)| name.strip_prefix("xmlns:")).collect();
        let mut used: Vec<&str> = Vec::new();
        for name in std::iter::once(name).chain(attributes.iter().map(|(name, _)| *name)) {
            let Some((prefix, _)) = name.split_once(':') else { continue };
            let known = matches!(prefix, "xml" | "xmlns") || declared.contains(&prefix) || used.contains(&prefix);
            if !known && self.in_force.get(prefix).is_none_or(|count| *count == 0) {
                used.push(prefix);
            }
        }
        write!(self.out, "<{name}").ok()?;
        for prefix in &used {
            write!(self.out, " xmlns:{prefix}=\"{UNDECLARED}\"").ok()?;
        }
        for (name, value) in attributes {
            write!(self.out, " {name}=\"").ok()?;
            push_repaired(&mut self.out, value);
            self.out.push('"');
        }
        self.out.push('>');
        if is_empty {
            return self.close(name);
        }
        let declared = [declared, used].concat();
        for prefix in &declared {
            *self.in_force.entry(prefix).or_default() += 1;
        }
        self.open.push((name, declared));
        Some(())
    }

    /// A name with at most one prefix.
    fn name(&mut self) -> Option<&'t str> {
        let end = self.rest.find(|c| !is_name_char(c) && c != ':').unwrap_or(self.rest.len());
        let name = self.cut(end);
        let mut parts = name.split(':');
        let well = parts.all(|part| part.starts_with(is_name_begin)) && name.matches(':').count() <= 1;
        well.then_some(name)
    }

    fn attribute(&mut self) -> Option<(&'t str, &'t str)> {
        let name = self.name()?;
        self.rest = self.rest.trim_start().strip_prefix('=')?.trim_start();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '"' | '\''));
        let value = if let Some(quote) = quote {
            let (value, behind) = self.rest.get(1..)?.split_once(quote)?;
            self.rest = behind;
            value
        } else {
            let end = self.rest.find(|c: char| c.is_whitespace() || matches!(c, '>' | '<' | '"' | '\'' | '/'))?;
            self.cut(end)
        };
        Some((name, value))
    }
}

fn is_name_begin(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

/// Text whose references are resolved, and whose every other `&` stands for itself.
fn push_repaired(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some((plain, behind)) = rest.split_once('&') {
        push_escaped(out, plain);
        let reference = behind.get(..behind.len().min(40)).or_else(|| behind.get(..behind.floor_char_boundary(40)));
        let named = reference.and_then(|near| near.split_once(';')).map(|(name, _)| name);
        if let Some((name, character)) = named.and_then(|name| Some((name, character(name)?))) {
            push_escaped(out, character.encode_utf8(&mut [0; 4]));
            rest = behind.get(name.len() + 1..).unwrap_or_default();
        } else {
            out.push_str("&amp;");
            rest = behind;
        }
    }
    push_escaped(out, rest);
}

/// `nbsp`, `#160` or `#xA0`.
fn character(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => number.parse(),
        };
        return char::from_u32(code.ok()?);
    }
    let (code, second) = NAMED_ENTITIES.get(format!("{name};").as_str())?;
    if *second == 0 { char::from_u32(*code) } else { None }
}
