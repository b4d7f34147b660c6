//! List fields: every entry is held against the rule of an entry, and what is wrong names the entry: `vehicles[1].year`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{Code, FieldError, FieldRule, Wrong, read_unknown};
use crate::intake::lists::Holds;
use crate::intake::posted::PostedValue;
use crate::model::campaign::UnknownFields;
use crate::model::lead::FieldValue;

#[derive(Debug)]
pub(in crate::intake) struct ListRule {
    pub(in crate::intake) name: String,
    pub(super) required: bool,
    /// How many entries it may have.
    pub(super) entries: RangeInclusive<usize>,
    pub(in crate::intake) of: Items,
}

/// What an entry is.
#[derive(Debug)]
pub(in crate::intake) enum Items {
    Values(Box<FieldRule>),
    /// The members, by name, in order.
    Groups(Vec<FieldRule>),
}

impl ListRule {
    pub(super) fn holds(&self) -> Holds {
        match self.of {
            Items::Values(_) => Holds::Values,
            Items::Groups(_) => Holds::Groups,
        }
    }

    /// The value a lead has in this field; what is wrong with it goes to `errors`. Entries without any value are none.
    pub(super) fn take(
        &self,
        value: Option<PostedValue<'_>>,
        unknown: UnknownFields,
        errors: &mut Vec<FieldError>,
    ) -> Option<FieldValue> {
        let entries = match value {
            None => Vec::new(),
            Some(PostedValue::List(entries)) => entries,
            // One value is a list of one.
            Some(value) => vec![(0, value)],
        };
        let before = errors.len();
        let mut taken = Vec::with_capacity(entries.len());
        for (at, entry) in entries {
            let name = format!("{}[{at}]", self.name);
            match &self.of {
                Items::Values(rule) => {
                    let read = entry.into_text().and_then(|text| text.map(|text| rule.read(text)).transpose());
                    match read {
                        Ok(value) => taken.extend(value),
                        Err(wrong) => errors.push(error(name, wrong)),
                    }
                }
                Items::Groups(members) => taken.extend(group(members, &name, entry, unknown, errors)),
            }
        }
        if errors.len() > before {
            return None;
        }
        let count = taken.len();
        if count == 0 {
            if self.required {
                errors.push(error(self.name.clone(), (Code::Required, "is required".to_owned())));
            }
            return None;
        }
        if !self.entries.contains(&count) {
            let (few, bound) = if count < *self.entries.start() {
                ("fewer", self.entries.start())
            } else {
                ("more", self.entries.end())
            };
            errors.push(error(self.name.clone(), (Code::Length, format!("has {few} than {bound} entries"))));
            return None;
        }
        Some(FieldValue::List(taken))
    }
}

/// An entry of a list of groups; `None` where it has no value, or a wrong one.
fn group(
    rules: &[FieldRule],
    name: &str,
    entry: PostedValue<'_>,
    unknown: UnknownFields,
    errors: &mut Vec<FieldError>,
) -> Option<FieldValue> {
    let members = match entry {
        PostedValue::Group(members) => members,
        other => {
            match other.into_text() {
                Ok(None) => {}
                Ok(Some(_)) => errors.push(error(
                    name.to_owned(),
                    (Code::Type, "must be a group of values, each with its name".to_owned()),
                )),
                Err(wrong) => errors.push(error(name.to_owned(), wrong)),
            }
            return None;
        }
    };
    let mut declared = vec![None; rules.len()];
    let mut taken = BTreeMap::new();
    let mut wrong = Vec::new();
    for (member, value) in members {
        if let Ok(at) = rules.binary_search_by(|rule| rule.name.as_str().cmp(&*member)) {
            // `at` is a position in `rules`, and `declared` is as long.
            declared[at] = Some(value);
            continue;
        }
        match read_unknown(unknown, value) {
            Ok(value) => taken.extend(value.map(|value| (member.into_owned(), value))),
            Err(fault) => wrong.push((member, fault)),
        }
    }
    // A row of a form that was left empty is no entry.
    let empty = |value: &Option<PostedValue<'_>>| {
        value.as_ref().is_none_or(|value| matches!(value, PostedValue::Text(text) if text.trim().is_empty()))
    };
    if taken.is_empty() && wrong.is_empty() && declared.iter().all(empty) {
        return None;
    }
    let before = errors.len();
    for (rule, value) in rules.iter().zip(declared) {
        match rule.take(value) {
            Ok(value) => taken.extend(value.map(|value| (rule.name.clone(), value))),
            Err(fault) => errors.push(error(format!("{name}.{}", rule.name), fault)),
        }
    }
    errors.extend(wrong.into_iter().map(|(member, fault)| error(format!("{name}.{member}"), fault)));
    (errors.len() == before).then_some(FieldValue::Group(taken))
}

fn error(field: String, (code, message): Wrong) -> FieldError {
    FieldError { field, code, message }
}
