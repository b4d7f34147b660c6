//! JSON bodies (RFC 8259). Objects are read one level at a time into raw members, so that a number keeps its digits
//! (`12.10` stays `12.10`) and a name given twice is seen.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::lists::Lists;
use super::posted::{Collector, MAX_ENTRIES, MAX_FIELDS, MAX_NAME, Posted, PostedValue};
use super::{MAX_DEPTH, Malformed};

pub(super) fn parse<'b>(body: &'b str, lists: &Lists) -> Result<Posted<'b>, Malformed> {
    let text = body.trim_start_matches([' ', '\t', '\r', '\n']);
    if !text.starts_with('{') {
        let message = if text.is_empty() { "the body is empty" } else { "the body must be a JSON object: {…}" };
        return Err(Malformed::at(body.as_bytes(), body.len() - text.len(), message));
    }
    let mut walk = Walk { body, collector: Collector::new(lists) };
    walk.object(text, "", 1)?;
    Ok(walk.collector.finish())
}

struct Walk<'a, 'b> {
    body: &'b str,
    collector: Collector<'a, 'b>,
}

impl<'b> Walk<'_, 'b> {
    /// Reads the members of the object that `text`, a part of the body, is; `parent` is its dotted name.
    fn object(&mut self, text: &'b str, parent: &str, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(self.fault(text, format!("objects within each other more than {MAX_DEPTH} deep")));
        }
        let Members(members) = serde_json::from_str(text).map_err(|error| self.syntax(text, &error))?;
        self.collector.expect(members.len());
        for (Name(name), value) in members {
            let value = value.get();
            if name.is_empty() {
                return Err(self.fault(value, "a field has no name; give it one"));
            }
            let name = if parent.is_empty() { name } else { Cow::Owned(format!("{parent}.{name}")) };
            self.collector.name(name.clone()).map_err(|message| self.fault(value, message))?;
            self.member(value, name, depth)?;
        }
        Ok(())
    }

    fn member(&mut self, text: &'b str, name: Cow<'b, str>, depth: usize) -> Result<(), Malformed> {
        if self.collector.lists.holds(&name).is_some() {
            return self.list(text, &name, depth);
        }
        if text.starts_with('{') {
            return self.object(text, &name, depth + 1);
        }
        if let Some(value) = self.scalar(text)? {
            self.collector.value(name, value);
        }
        Ok(())
    }

    /// A value that is no object; `None` for null.
    fn scalar(&self, text: &'b str) -> Result<Option<PostedValue<'b>>, Malformed> {
        Ok(Some(match text.as_bytes().first() {
            Some(b'n') => return Ok(None),
            Some(b'[') => PostedValue::List(Vec::new()),
            Some(b't') => PostedValue::Boolean(true),
            Some(b'f') => PostedValue::Boolean(false),
            Some(b'"') => PostedValue::Text(self.string(text)?),
            _ => PostedValue::Number(Cow::Borrowed(text)),
        }))
    }

    /// The text that a string, which was found well-formed, stands for.
    fn string(&self, text: &'b str) -> Result<Cow<'b, str>, Malformed> {
        let within = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        match within {
            Some(plain) if memchr::memchr(b'\\', plain.as_bytes()).is_none() => Ok(Cow::Borrowed(plain)),
            _ => serde_json::from_str(text).map(Cow::Owned).map_err(|error| self.syntax(text, &error)),
        }
    }

    /// The value of a list field: an array, or its only entry.
    fn list(&mut self, text: &'b str, list: &str, depth: usize) -> Result<(), Malformed> {
        if !text.starts_with('[') {
            return self.entry(list, 0, text, depth);
        }
        let Entries(entries) = serde_json::from_str(text).map_err(|error| self.syntax(text, &error))?;
        for (at, entry) in entries.into_iter().enumerate() {
            self.entry(list, at, entry.get(), depth + 1)?;
        }
        Ok(())
    }

    fn entry(&mut self, list: &str, at: usize, text: &'b str, depth: usize) -> Result<(), Malformed> {
        if text.starts_with('{') {
            return self.group((list, at), "", text, depth + 1);
        }
        let Some(value) = self.scalar(text)? else { return Ok(()) };
        self.keep((list, at), None, value, text)
    }

    /// The members of an entry; objects within it make dotted names.
    fn group(&mut self, at: (&str, usize), within: &str, text: &'b str, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(self.fault(text, format!("objects within each other more than {MAX_DEPTH} deep")));
        }
        let Members(members) = serde_json::from_str(text).map_err(|error| self.syntax(text, &error))?;
        for (Name(name), value) in members {
            let text = value.get();
            let name = if within.is_empty() { name } else { Cow::Owned(format!("{within}.{name}")) };
            if name.len() > 4 * MAX_NAME {
                return Err(self.fault(text, format!("a field's name is longer than {MAX_NAME} characters")));
            }
            if text.starts_with('{') {
                self.group(at, &name, text, depth + 1)?;
            } else if let Some(value) = self.scalar(text)? {
                self.keep(at, Some(&name), value, text)?;
            }
        }
        Ok(())
    }

    fn keep(
        &mut self,
        (list, at): (&str, usize),
        member: Option<&str>,
        value: PostedValue<'b>,
        text: &str,
    ) -> Result<(), Malformed> {
        let kept = self.collector.entry(list, Some(at), member, value);
        kept.map(drop).map_err(|message| self.fault(text, message))
    }

    /// A fault at the start of `part`.
    fn fault(&self, part: &str, message: impl Into<String>) -> Malformed {
        Malformed::at(self.body.as_bytes(), self.offset(part), message)
    }

    /// Where `part` begins, for it is borrowed from the body.
    fn offset(&self, part: &str) -> usize {
        part.as_ptr().addr().saturating_sub(self.body.as_ptr().addr())
    }

    /// What serde_json says about `part`. Its messages about syntax are fixed texts, and the others
    /// are made in [`Members`] and [`Entries`], so no value can be in them.
    fn syntax(&self, part: &str, error: &serde_json::Error) -> Malformed {
        let lines_before: usize =
            part.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
        let offset = self.offset(part) + lines_before + error.column().saturating_sub(1);
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        Malformed::at(self.body.as_bytes(), offset, format!("not well-formed JSON: {message}"))
    }
}

/// The entries of one array, each one's text as it stands in the body.
struct Entries<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    if entries.len() == MAX_ENTRIES {
                        return Err(de::Error::custom(format_args!("more than {MAX_ENTRIES} entries in a list")));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

/// The members of one object, in their order, with each value's text as it stands in the body.
struct Members<'a>(Vec<(Name<'a>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                // As many as leads have.
                let mut members = Vec::with_capacity(32);
                while let Some(member) = map.next_entry()? {
                    if members.len() == MAX_FIELDS {
                        return Err(de::Error::custom(format_args!("more than {MAX_FIELDS} fields")));
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A member's name: a part of the body, unless it is written with escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}
