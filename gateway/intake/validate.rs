//! What a campaign wants of a lead, compiled once, and every value of a post held against it.

mod compile;
mod kind;
mod list;

pub(super) mod email;
pub(super) mod phone;
mod postcode;

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::model::campaign::UnknownFields;
use crate::model::lead::{FieldValue, Fields, Meta};
use crate::model::words;

use super::lists::Lists;
use super::names::NameMap;
use super::posted::{Posted, PostedValue};

pub use compile::RuleFault;
pub(super) use kind::{Kind, flag};
pub(super) use list::{Items, ListRule};

/// Characters of a text, unless its field says otherwise.
pub const MAX_TEXT: usize = 1_000;

/// One thing wrong with one field. Never quotes what was posted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The (dotted) name.
    pub field: String,
    /// The kind of fault, for programs.
    pub code: Code,
    /// For people: continues a sentence that begins with the field's name.
    pub message: String,
}

words! {
    /// Kinds of field faults.
    Code {
        /// Not given, or empty.
        Required = "required",
        /// Not a value of the field's type.
        Type = "type",
        /// Less than the least number or date.
        Min = "min",
        /// More than the greatest number or date.
        Max = "max",
        /// A text with too few or too many characters, a list with too few or too many entries.
        Length = "length",
        /// Not of the field's pattern.
        Pattern = "pattern",
        /// None of the allowed values.
        OneOf = "one_of",
        /// Not a field of the campaign, which refuses others.
        Unknown = "unknown",
        /// Contains control characters.
        Characters = "characters",
    }
}

/// A post that the campaign can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valid {
    /// Normalised, with defaults.
    pub fields: Fields,
    /// The posted metadata.
    pub meta: Meta,
    /// Whether this is only a rehearsal.
    pub test: bool,
}

/// A campaign's field declarations and dedupe rules, ready for use.
#[derive(Debug)]
pub struct Rules {
    /// Those of one value, by name, in order.
    pub(super) fields: Vec<FieldRule>,
    /// Lists, by name, in order.
    pub(super) lists: Vec<ListRule>,
    /// Where each field stands in `fields`, or behind those in `lists`.
    positions: NameMap<String, usize>,
    /// The names of lists, for parsers.
    list_names: Lists,
    unknown: UnknownFields,
    /// Each rule's field names in order, and its window.
    pub(super) dedupe: Vec<(Vec<String>, Duration)>,
}

#[derive(Debug)]
pub(super) struct FieldRule {
    pub(super) name: String,
    pub(super) kind: Kind,
    required: bool,
    default: Option<FieldValue>,
    /// Characters that a text may have; everything for the other types.
    length: RangeInclusive<usize>,
    /// Anchored at both ends.
    pattern: Option<Regex>,
}

/// What is wrong with a value; its field is known further up.
type Wrong = (Code, String);

impl Rules {
    /// Holds a post against the rules.
    ///
    /// # Errors
    /// Everything that is wrong with it at once: metadata first, then declared fields by name (lists after the others),
    /// then unknown ones.
    pub fn validate(&self, posted: Posted<'_>) -> Result<Valid, Vec<FieldError>> {
        let mut errors = posted.faults;
        let mut taken = Vec::with_capacity(self.fields.len() + self.lists.len());
        let mut declared = vec![None; self.fields.len() + self.lists.len()];
        let mut unknown = Vec::new();
        for (name, value) in posted.fields {
            match self.positions.get(&*name).and_then(|at| declared.get_mut(*at)) {
                Some(place) => *place = Some(value),
                None => unknown.push((name, value)),
            }
        }
        let lists = declared.split_off(self.fields.len());
        for (rule, value) in self.fields.iter().zip(declared) {
            match rule.take(value) {
                Ok(Some(value)) => taken.push((rule.name.clone(), value)),
                Ok(None) => {}
                Err((code, message)) => errors.push(FieldError { field: rule.name.clone(), code, message }),
            }
        }
        for (rule, value) in self.lists.iter().zip(lists) {
            if let Some(value) = rule.take(value, self.unknown, &mut errors) {
                taken.push((rule.name.clone(), value));
            }
        }
        for (name, value) in unknown {
            match read_unknown(self.unknown, value) {
                Ok(Some(value)) => taken.push((name.into_owned(), value)),
                Ok(None) => {}
                Err((code, message)) => errors.push(FieldError { field: name.into_owned(), code, message }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        // Nearly in order, and so put together at once.
        Ok(Valid { fields: taken.into_iter().collect(), meta: posted.meta, test: posted.test })
    }

    pub(super) fn list_names(&self) -> &Lists {
        &self.list_names
    }

    /// Whether a field is declared with such a type.
    pub(super) fn is(&self, name: &str, such: impl FnOnce(&Kind) -> bool) -> bool {
        self.positions.get(name).and_then(|at| self.fields.get(*at)).is_some_and(|rule| such(&rule.kind))
    }
}

/// The text of a field that is not declared.
fn read_unknown(unknown: UnknownFields, value: PostedValue<'_>) -> Result<Option<FieldValue>, Wrong> {
    if unknown == UnknownFields::Refuse {
        return Err((Code::Unknown, "is not a field of this campaign, which takes no others".to_owned()));
    }
    let Some(text) = value.into_text()? else { return Ok(None) };
    check_length(&text, &(0..=MAX_TEXT))?;
    Ok(Some(FieldValue::Text(text.into_owned())))
}

impl FieldRule {
    /// The value a lead has in this field: as posted, or the default.
    fn take(&self, value: Option<PostedValue<'_>>) -> Result<Option<FieldValue>, Wrong> {
        let text = value.map_or(Ok(None), PostedValue::into_text)?;
        match text {
            Some(text) => self.read(text).map(Some),
            None if self.default.is_some() => Ok(self.default.clone()),
            None if self.required => Err((Code::Required, "is required".to_owned())),
            None => Ok(None),
        }
    }

    /// A trimmed text that is not empty → the normalised value.
    fn read(&self, text: Cow<'_, str>) -> Result<FieldValue, Wrong> {
        let value = self.kind.read(text)?;
        if let FieldValue::Text(text) = &value {
            check_length(text, &self.length)?;
        }
        if let Some(pattern) = &self.pattern {
            let matches = match &value {
                FieldValue::Text(text) => pattern.is_match(text),
                other => pattern.is_match(&other.to_string()),
            };
            if !matches {
                return Err((Code::Pattern, "does not have the form that this campaign asks for".to_owned()));
            }
        }
        Ok(value)
    }
}

fn check_length(text: &str, allowed: &RangeInclusive<usize>) -> Result<(), Wrong> {
    // No text has more characters than bytes, nor fewer than a quarter of them.
    let length = if allowed.contains(&text.len()) && text.len() / 4 >= *allowed.start() {
        return Ok(());
    } else {
        text.chars().count()
    };
    if length > *allowed.end() {
        Err((Code::Length, format!("is longer than {} characters", allowed.end())))
    } else if length < *allowed.start() {
        Err((Code::Length, format!("is shorter than {} characters", allowed.start())))
    } else {
        Ok(())
    }
}
