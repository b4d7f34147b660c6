//! What a body gave, before anybody looked at what the campaign wants: names with values, metadata sorted out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::model::lead::Meta;

use super::lists::Lists;
use super::names::NameSet;
use super::validate::{self, Code, FieldError};

/// Names in one body, those of nested objects included.
pub const MAX_FIELDS: usize = 500;

/// Entries of one list, whatever its declaration says.
pub const MAX_ENTRIES: usize = 1_000;

/// Values in all lists of one body.
pub const MAX_LIST_VALUES: usize = 5_000;

/// Characters of one dotted name.
pub const MAX_NAME: usize = 200;

/// Characters of one metadata value.
pub const MAX_META: usize = 255;

/// A value as it was written, in the body where it can be taken from there. JSON's `null` is no value.
#[derive(Clone, PartialEq, Eq)]
pub enum PostedValue<'b> {
    /// A JSON string, a form value, the text of an XML element.
    Text(Cow<'b, str>),
    /// A JSON number, digit for digit.
    Number(Cow<'b, str>),
    /// A JSON `true` or `false`.
    Boolean(bool),
    /// The entries of a list with their numbers, in order: values and groups. An array for which the campaign has no
    /// list is not read, and has none.
    List(Vec<(usize, PostedValue<'b>)>),
    /// An entry of a list with named values.
    Group(Vec<(Cow<'b, str>, PostedValue<'b>)>),
}

impl fmt::Debug for PostedValue<'_> {
    // Personal data: Debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text(***)",
            Self::Number(_) => "Number(***)",
            Self::Boolean(_) => "Boolean(***)",
            Self::List(_) => "List(***)",
            Self::Group(_) => "Group(***)",
        })
    }
}

impl<'b> PostedValue<'b> {
    /// The value's text, trimmed; `None` where it is empty, which is the same as not given.
    pub(super) fn into_text(self) -> Result<Option<Cow<'b, str>>, (Code, String)> {
        let text = match self {
            Self::Text(text) | Self::Number(text) => text,
            Self::Boolean(value) => Cow::Borrowed(if value { "true" } else { "false" }),
            Self::List(_) => return Err((Code::Type, "takes one value, not a list".to_owned())),
            Self::Group(_) => return Err((Code::Type, "takes one value, not a group of them".to_owned())),
        };
        let text = match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(mut text) => {
                text.truncate(text.trim_end().len());
                text.drain(..text.len() - text.trim_start().len());
                Cow::Owned(text)
            }
        };
        // Tab and line breaks belong to text; the other controls are always a fault of the sender's.
        if any_byte(&text, |b| b.is_ascii_control() && !matches!(b, b'\t' | b'\n' | b'\r')) {
            return Err((
                Code::Characters,
                "contains a control character; only tabs and line breaks may stand in a value".to_owned(),
            ));
        }
        Ok((!text.is_empty()).then_some(text))
    }
}

/// Whether a text has such a byte. Looks at several at once: nearly every text has none.
fn any_byte(text: &str, such: impl Fn(u8) -> bool) -> bool {
    text.as_bytes().chunks(32).any(|chunk| chunk.iter().fold(false, |found, b| found | such(*b)))
}

/// What a body gave. Every name stands once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Posted<'b> {
    /// By dotted name, in the order of the body, metadata left out.
    pub fields: Vec<(Cow<'b, str>, PostedValue<'b>)>,
    /// The reserved names that were given; `ip` and `user_agent` are the server's to fill in.
    pub meta: Meta,
    /// Whether this is only a rehearsal.
    pub test: bool,
    /// What is wrong with the reserved names; [`Rules::validate`](super::Rules::validate) reports it with the rest.
    pub faults: Vec<FieldError>,
}

impl fmt::Debug for Posted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Posted({} fields, test: {})", self.fields.len(), self.test)
    }
}

impl Posted<'_> {
    /// Takes a field out that is none of the campaign's, such as a batch line's `idempotency_key`; `None` where it is not
    /// given or empty.
    ///
    /// # Errors
    /// When it is not one value.
    pub fn take(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(at) = self.fields.iter().position(|(known, _)| known == name) else { return Ok(None) };
        let text = self.fields.remove(at).1.into_text().map_err(|(_, message)| message)?;
        Ok(text.map(Cow::into_owned))
    }

    /// Takes the field `key` out: the source's key, for sources that may send it in the body
    /// ([`key_in_body`](crate::model::source::Source::key_in_body)). For the others it is a field like any other.
    pub fn take_key(&mut self) -> Option<String> {
        let at = self.fields.iter().position(|(name, _)| name == "key")?;
        self.fields.remove(at).1.into_text().ok().flatten().map(Cow::into_owned)
    }
}

/// Puts a [`Posted`] together, name by name, and keeps its bounds. Errors say what is wrong; the parser knows where.
pub(super) struct Collector<'a, 'b> {
    /// Which fields are lists.
    pub(super) lists: &'a Lists,
    posted: Posted<'b>,
    seen: NameSet<Cow<'b, str>>,
    /// The lists given so far, their entries by number.
    entries: BTreeMap<String, BTreeMap<usize, PostedValue<'b>>>,
    /// Values in `entries`.
    values: usize,
}

impl<'a, 'b> Collector<'a, 'b> {
    pub(super) fn new(lists: &'a Lists) -> Self {
        Self { lists, posted: Posted::default(), seen: NameSet::default(), entries: BTreeMap::new(), values: 0 }
    }

    /// So many names are to come.
    pub(super) fn expect(&mut self, names: usize) {
        self.seen.reserve(names);
        self.posted.fields.reserve(names);
    }

    /// A field of a form: a value by its name, or one of a list's entries.
    pub(super) fn form_field(&mut self, name: Cow<'b, str>, value: Cow<'b, str>) -> Result<(), String> {
        let value = PostedValue::Text(value);
        let Some(spot) = self.lists.spot(&name)? else {
            self.name(name.clone())?;
            self.value(name, value);
            return Ok(());
        };
        self.list_name(spot.list)?;
        self.entry(spot.list, spot.at, spot.member, value).map(drop)
    }

    /// Notes the name of a list, which may come again with each entry.
    pub(super) fn list_name(&mut self, list: &str) -> Result<(), String> {
        if self.seen.contains(list) { Ok(()) } else { self.name(Cow::Owned(list.to_owned())) }
    }

    /// Puts a value into a list: the entry `at`, or the next one; with a name, as a member of it. Gives the entry's
    /// number.
    pub(super) fn entry(
        &mut self,
        list: &str,
        at: Option<usize>,
        member: Option<&str>,
        value: PostedValue<'b>,
    ) -> Result<usize, String> {
        self.values += 1;
        if self.values > MAX_LIST_VALUES {
            return Err(format!("more than {MAX_LIST_VALUES} values in lists"));
        }
        if !self.entries.contains_key(list) {
            self.entries.insert(list.to_owned(), BTreeMap::new());
        }
        let Some(entries) = self.entries.get_mut(list) else { return Ok(0) };
        let at = at.unwrap_or_else(|| entries.last_key_value().map_or(0, |(last, _)| last + 1));
        if at >= MAX_ENTRIES {
            return Err(format!("more than {MAX_ENTRIES} entries in the list `{list}`"));
        }
        match (entries.get_mut(&at), member) {
            (None, None) => drop(entries.insert(at, value)),
            (None, Some(member)) => {
                check_name(member)?;
                entries.insert(at, PostedValue::Group(vec![(Cow::Owned(member.to_owned()), value)]));
            }
            (Some(PostedValue::Group(members)), Some(member)) => {
                check_name(member)?;
                if members.len() >= MAX_FIELDS {
                    return Err(format!("more than {MAX_FIELDS} members in an entry of `{list}`"));
                }
                if members.iter().any(|(name, _)| name == member) {
                    return Err(format!("`{member}` is given twice in one entry of `{list}`; give it once"));
                }
                members.push((Cow::Owned(member.to_owned()), value));
            }
            (Some(_), _) => return Err(format!("an entry of the list `{list}` is given twice; give it once")),
        }
        Ok(at)
    }

    /// Notes a name, of a value or of what holds further values.
    pub(super) fn name(&mut self, name: Cow<'b, str>) -> Result<(), String> {
        check_name(&name)?;
        if self.seen.len() >= MAX_FIELDS {
            return Err(format!("more than {MAX_FIELDS} fields"));
        }
        match self.seen.replace(name) {
            Some(name) => Err(format!("the field `{name}` is given twice; give it once")),
            None => Ok(()),
        }
    }

    /// Keeps the value of a noted name.
    pub(super) fn value(&mut self, name: Cow<'b, str>, value: PostedValue<'b>) {
        if name == "test" {
            match value.into_text() {
                Ok(None) => {}
                Ok(Some(text)) => match validate::flag(&text) {
                    Some(test) => self.posted.test = test,
                    None => self.posted.faults.push(bad_test()),
                },
                Err(fault) => self.fault(&name, fault),
            }
        } else if self.posted.meta.posted(&name).is_some() {
            match value.into_text() {
                Ok(Some(text)) if text.len() > MAX_META && text.chars().nth(MAX_META).is_some() => {
                    self.fault(&name, (Code::Length, format!("is longer than {MAX_META} characters")));
                }
                Ok(text) => {
                    if let Some(slot) = self.posted.meta.posted(&name) {
                        *slot = text.map(Cow::into_owned);
                    }
                }
                Err(fault) => self.fault(&name, fault),
            }
        } else {
            self.posted.fields.push((name, value));
        }
    }

    fn fault(&mut self, name: &str, (code, message): (Code, String)) {
        self.posted.faults.push(FieldError { field: name.to_owned(), code, message });
    }

    pub(super) fn finish(mut self) -> Posted<'b> {
        let lists = self.entries.into_iter();
        self.posted
            .fields
            .extend(lists.map(|(name, entries)| (Cow::Owned(name), PostedValue::List(entries.into_iter().collect()))));
        self.posted
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a field has no name; give it one".to_owned());
    }
    // No name has more characters than bytes.
    if name.len() > MAX_NAME && name.chars().nth(MAX_NAME).is_some() {
        return Err(format!("a field's name is longer than {MAX_NAME} characters"));
    }
    if name.chars().any(char::is_control) {
        return Err("a field's name contains a control character".to_owned());
    }
    Ok(())
}

pub(super) fn bad_test() -> FieldError {
    FieldError { field: "test".to_owned(), code: Code::Type, message: "must be true or false".to_owned() }
}
