//! What a body gave, before anybody looked at what the campaign wants: names with values, metadata sorted out.

use std::collections::HashSet;
use std::fmt;

use crate::model::lead::Meta;

use super::validate::{self, Code, FieldError};

/// Names in one body, those of nested objects included.
pub const MAX_FIELDS: usize = 500;

/// Characters of one dotted name.
pub const MAX_NAME: usize = 200;

/// Characters of one metadata value.
pub const MAX_META: usize = 255;

/// A value as it was written. JSON's `null` is no value.
#[derive(Clone, PartialEq, Eq)]
pub enum PostedValue {
    /// A JSON string, a form value, the text of an XML element.
    Text(String),
    /// A JSON number, digit for digit.
    Number(String),
    /// A JSON `true` or `false`.
    Boolean(bool),
    /// A JSON array, which no field takes.
    List,
}

impl fmt::Debug for PostedValue {
    // Personal data: Debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text(***)",
            Self::Number(_) => "Number(***)",
            Self::Boolean(_) => "Boolean(***)",
            Self::List => "List",
        })
    }
}

impl PostedValue {
    /// The value's text, trimmed; `None` where it is empty, which is the same as not given.
    pub(super) fn into_text(self) -> Result<Option<String>, (Code, String)> {
        let mut text = match self {
            Self::Text(text) | Self::Number(text) => text,
            Self::Boolean(value) => value.to_string(),
            Self::List => return Err((Code::Type, "lists are not supported: give one value".to_owned())),
        };
        text.truncate(text.trim_end().len());
        text.drain(..text.len() - text.trim_start().len());
        // Tab and line breaks belong to text; the other controls are always a fault of the sender's.
        if text.chars().any(|c| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r')) {
            return Err((
                Code::Characters,
                "contains a control character; only tabs and line breaks may stand in a value".to_owned(),
            ));
        }
        Ok((!text.is_empty()).then_some(text))
    }
}

/// What a body gave. Every name stands once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Posted {
    /// By dotted name, in the order of the body, metadata left out.
    pub fields: Vec<(String, PostedValue)>,
    /// The reserved names that were given; `ip` and `user_agent` are the server's to fill in.
    pub meta: Meta,
    /// Whether this is only a rehearsal.
    pub test: bool,
    /// What is wrong with the reserved names; [`Rules::validate`](super::Rules::validate) reports it with the rest.
    pub faults: Vec<FieldError>,
}

impl fmt::Debug for Posted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Posted({} fields, test: {})", self.fields.len(), self.test)
    }
}

impl Posted {
    /// Takes the field `key` out: the source's key, for sources that may send it in the body
    /// ([`key_in_body`](crate::model::source::Source::key_in_body)). For the others it is a field like any other.
    pub fn take_key(&mut self) -> Option<String> {
        let at = self.fields.iter().position(|(name, _)| name == "key")?;
        self.fields.remove(at).1.into_text().ok().flatten()
    }
}

/// Puts a [`Posted`] together, name by name, and keeps its bounds. Errors say what is wrong; the parser knows where.
#[derive(Default)]
pub(super) struct Collector {
    posted: Posted,
    seen: HashSet<String>,
}

impl Collector {
    /// Notes a name, of a value or of what holds further values.
    pub(super) fn name(&mut self, name: &str) -> Result<(), String> {
        if name.is_empty() {
            return Err("a field has no name; give it one".to_owned());
        }
        if name.chars().nth(MAX_NAME).is_some() {
            return Err(format!("a field's name is longer than {MAX_NAME} characters"));
        }
        if name.chars().any(char::is_control) {
            return Err("a field's name contains a control character".to_owned());
        }
        if self.seen.len() >= MAX_FIELDS {
            return Err(format!("more than {MAX_FIELDS} fields"));
        }
        if !self.seen.insert(name.to_owned()) {
            return Err(format!("the field `{name}` is given twice; give it once"));
        }
        Ok(())
    }

    /// Keeps the value of a noted name.
    pub(super) fn value(&mut self, name: &str, value: PostedValue) {
        if name == "test" {
            match value.into_text() {
                Ok(None) => {}
                Ok(Some(text)) => match validate::flag(&text) {
                    Some(test) => self.posted.test = test,
                    None => self.posted.faults.push(bad_test()),
                },
                Err(fault) => self.fault(name, fault),
            }
        } else if self.posted.meta.posted(name).is_some() {
            match value.into_text() {
                Ok(Some(text)) if text.chars().nth(MAX_META).is_some() => {
                    self.fault(name, (Code::Length, format!("is longer than {MAX_META} characters")));
                }
                Ok(text) => {
                    if let Some(slot) = self.posted.meta.posted(name) {
                        *slot = text;
                    }
                }
                Err(fault) => self.fault(name, fault),
            }
        } else {
            self.posted.fields.push((name.to_owned(), value));
        }
    }

    fn fault(&mut self, name: &str, (code, message): (Code, String)) {
        self.posted.faults.push(FieldError { field: name.to_owned(), code, message });
    }

    pub(super) fn finish(self) -> Posted {
        self.posted
    }
}

pub(super) fn bad_test() -> FieldError {
    FieldError { field: "test".to_owned(), code: Code::Type, message: "must be true or false".to_owned() }
}
