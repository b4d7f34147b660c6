//! A campaign's declarations become rules, or every fault in them with the key where it stands.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use regex::Regex;

use crate::model::campaign::{Campaign, Field, FieldType, Scalar};
use crate::model::lead::Meta;

use super::kind::{self, Bounds, Kind};
use super::{FieldRule, Items, ListRule, MAX_TEXT, Rules};
use crate::intake::lists::Lists;
use crate::intake::posted::{MAX_ENTRIES, MAX_NAME};
use crate::model::phone::{Region, is_country};

/// Entries of a list that says nothing else.
const USUAL_ENTRIES: usize = 100;

/// What is wrong with a campaign's declarations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct RuleFault {
    /// The key's path below the campaign, such as `fields.phone.region`.
    pub key: String,
    /// What is wrong there, and what to do.
    pub message: String,
}

impl Rules {
    /// Compiles a campaign's fields and dedupe rules.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn compile(campaign: &Campaign) -> Result<Self, Vec<RuleFault>> {
        let mut faults = Faults::default();
        let mut fields = Vec::with_capacity(campaign.fields.len());
        let mut lists = Vec::new();
        for (name, field) in campaign.fields.iter() {
            check_name(campaign, name, &mut faults);
            let path = format!("fields.{name}");
            if field.kind == FieldType::List {
                lists.extend(ListRule::compile(name, &path, field, &mut faults));
            } else {
                fields.extend(FieldRule::compile(name, &path, field, &mut faults));
            }
        }
        let mut dedupe = Vec::with_capacity(campaign.dedupe.len());
        for (at, rule) in campaign.dedupe.iter().enumerate() {
            let key = |part: &str| format!("dedupe[{at}].{part}");
            if rule.fields.is_empty() {
                faults.add(key("fields"), "name at least one field");
            }
            for name in rule.fields.iter().filter(|name| !campaign.fields.contains_key(*name)) {
                faults.add(key("fields"), format!("`{name}` is not declared; declare it below `fields`"));
            }
            let is_list =
                |name: &&String| campaign.fields.get(*name).is_some_and(|field| field.kind == FieldType::List);
            for name in rule.fields.iter().filter(is_list) {
                faults.add(
                    key("fields"),
                    format!("`{name}` is a list, which does not tell who somebody is; leave it out"),
                );
            }
            if rule.window.0.is_zero() {
                faults.add(key("window"), "must be longer than nothing; leave the rule out to allow duplicates");
            }
            // In order, so that the order in which a rule names its fields does not matter.
            let mut names = rule.fields.clone();
            names.sort_unstable();
            names.dedup();
            dedupe.push((names, rule.window.0));
        }
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        let list_names = Lists::new(lists.iter().map(|list| (list.name.clone(), list.holds())));
        let names = fields.iter().map(|field: &FieldRule| &field.name).chain(lists.iter().map(|list| &list.name));
        let positions = names.enumerate().map(|(at, name)| (name.clone(), at)).collect();
        // `campaign.fields` is sorted by name, and so are `fields` and `lists`.
        Ok(Self { fields, lists, positions, list_names, unknown: campaign.unknown_fields, dedupe })
    }
}

#[derive(Default)]
struct Faults(Vec<RuleFault>);

impl Faults {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(RuleFault { key: key.into(), message: message.into() });
    }
}

fn check_name(campaign: &Campaign, name: &str, faults: &mut Faults) {
    let key = format!("fields.{name}");
    if name.chars().nth(MAX_NAME).is_some() || !name.split('.').all(is_plain_name) {
        faults.add(&key, "a field's name is letters, digits, `_` and `-`, with dots between its parts");
    }
    if name == "test" || Meta::default().posted(name).is_some() {
        faults.add(&key, "this name is reserved for metadata; choose another");
    }
    let mut parent = name;
    while let Some((shorter, _)) = parent.rsplit_once('.') {
        parent = shorter;
        if campaign.fields.contains_key(parent) {
            faults.add(&key, format!("`{parent}` is a value itself and cannot hold other fields; rename one of them"));
        }
    }
}

/// Letters, digits, `_` and `-`.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

impl ListRule {
    /// As [`FieldRule::compile`].
    fn compile(name: &str, path: &str, field: &Field, faults: &mut Faults) -> Option<Self> {
        let before = faults.0.len();
        let key = |part: &str| format!("{path}.{part}");
        for (part, given) in [
            ("default", field.default.is_some()),
            ("pattern", field.pattern.is_some()),
            ("values", !field.values.is_empty()),
            ("region", field.region.is_some()),
            ("country", field.country.is_some()),
        ] {
            if given {
                faults.add(key(part), "does not apply to a list; write it into `items`, or remove it");
            }
        }
        let entries = bounds(field, |text| usize::from_str(text).ok(), "a number of entries", key, faults);
        if entries.max.is_some_and(|max| !(1..=MAX_ENTRIES).contains(&max)) {
            faults.add(key("max"), format!("must be from 1 to {MAX_ENTRIES}"));
        }
        let most = entries.max.unwrap_or(USUAL_ENTRIES);
        let least = entries.min.unwrap_or(0);
        if entries.max.is_none() && least > most {
            faults.add(key("min"), format!("is more than the {most} entries allowed without `max`; set `max` too"));
        }
        let of = match (field.items.as_deref(), field.fields.is_empty()) {
            (Some(items), true) => {
                entry_part(items, &key("items"), faults);
                let meaningless = [("required", items.required), ("default", items.default.is_some())];
                for (part, _) in meaningless.into_iter().filter(|(_, given)| *given) {
                    faults.add(
                        key(&format!("items.{part}")),
                        "means nothing for a list's entries; set `min` of the list",
                    );
                }
                FieldRule::compile(name, &key("items"), items, faults).map(|rule| Items::Values(Box::new(rule)))
            }
            (None, false) => {
                let mut members = Vec::with_capacity(field.fields.len());
                for (name, member) in &field.fields {
                    let path = key(&format!("fields.{name}"));
                    if !is_plain_name(name) {
                        faults.add(&path, "a member's name is letters, digits, `_` and `-`");
                    }
                    entry_part(member, &path, faults);
                    members.extend(FieldRule::compile(name, &path, member, faults));
                }
                Some(Items::Groups(members))
            }
            _ => {
                faults.add(
                    path,
                    "a list needs either `items`, what each entry is, such as { type = \"text\" }, or `fields`, what each \
                     entry has",
                );
                None
            }
        };
        let of = of.filter(|_| faults.0.len() == before)?;
        Some(Self { name: name.to_owned(), required: field.required, entries: least..=most, of })
    }
}

/// What cannot be said of a part of an entry.
fn entry_part(field: &Field, path: &str, faults: &mut Faults) {
    if field.kind == FieldType::List {
        faults.add(format!("{path}.type"), "a list cannot stand in a list; make it a field of its own");
    }
    if field.sensitive {
        faults.add(format!("{path}.sensitive"), "a list is sensitive as a whole; write it beside the list's `type`");
    }
}

impl FieldRule {
    /// `None` when a fault was added that leaves nothing to go on with.
    fn compile(name: &str, path: &str, field: &Field, faults: &mut Faults) -> Option<Self> {
        let before = faults.0.len();
        let key = |part: &str| format!("{path}.{part}");
        check_applicable(field, key, faults);
        let kind = compile_kind(field, key, faults)?;
        let length = compile_length(field, key, faults);
        let pattern = field.pattern.as_deref().and_then(|pattern| {
            // Alone first, so that the message shows the pattern as configured.
            let whole = Regex::new(pattern).and_then(|_| Regex::new(&format!(r"\A(?:{pattern})\z")));
            whole.map_err(|error| faults.add(key("pattern"), error.to_string())).ok()
        });
        if faults.0.len() > before {
            return None;
        }
        let mut rule = Self { name: name.to_owned(), kind, required: field.required, default: None, length, pattern };
        if let Some(Scalar(default)) = &field.default {
            let value = super::PostedValue::Text(default.as_str().into()).into_text();
            match value.and_then(|text| text.map(|text| rule.read(text)).transpose()) {
                Ok(Some(value)) => rule.default = Some(value),
                Ok(None) => faults.add(key("default"), "is empty; leave it out"),
                Err((_, message)) => faults.add(key("default"), message),
            }
        }
        Some(rule)
    }
}

/// Keys that say nothing about this type are mistakes.
fn check_applicable(field: &Field, key: impl Fn(&str) -> String, faults: &mut Faults) {
    let kind = field.kind;
    let bounded = matches!(
        kind,
        FieldType::Text | FieldType::Email | FieldType::Url | FieldType::Integer | FieldType::Decimal | FieldType::Date
    );
    for (part, given, applies) in [
        ("min", field.min.is_some(), bounded),
        ("max", field.max.is_some(), bounded),
        ("values", !field.values.is_empty(), kind == FieldType::OneOf),
        ("region", field.region.is_some(), kind == FieldType::Phone),
        ("country", field.country.is_some(), kind == FieldType::Postcode),
        ("items", field.items.is_some(), kind == FieldType::List),
        ("fields", !field.fields.is_empty(), kind == FieldType::List),
    ] {
        if given && !applies {
            faults.add(key(part), "does not apply to a field of this type; remove it");
        }
    }
    if kind == FieldType::OneOf {
        if field.values.is_empty() {
            faults.add(key("values"), "list at least one allowed value");
        }
        if field.values.iter().any(|value| value.is_empty() || value.trim() != value) {
            faults.add(key("values"), "a value is empty or has white space around it, so no lead could match it");
        }
    }
}

fn compile_kind(field: &Field, key: impl Fn(&str) -> String, faults: &mut Faults) -> Option<Kind> {
    const NO_COUNTRY: &str = "is not a country; use its two capital letters (ISO 3166), such as \"GB\"";
    Some(match field.kind {
        FieldType::Text => Kind::Text,
        FieldType::Email => Kind::Email,
        FieldType::Phone => {
            let region = field.region.as_deref().and_then(Region::new);
            if field.region.is_some() && region.is_none() {
                faults.add(key("region"), NO_COUNTRY);
            }
            Kind::Phone(region)
        }
        FieldType::Integer => Kind::Integer(bounds(field, kind::integer, "a whole number", key, faults)),
        FieldType::Decimal => {
            let read = |text: &str| kind::decimal(text).map(|(_, value)| value);
            Kind::Decimal(bounds(field, read, "a decimal number", key, faults))
        }
        FieldType::Date => Kind::Date(bounds(field, kind::date, "a date written YYYY-MM-DD", key, faults)),
        FieldType::Boolean => Kind::Boolean,
        FieldType::OneOf => Kind::OneOf(field.values.clone()),
        FieldType::Postcode => {
            if field.country.as_deref().is_some_and(|code| !is_country(code)) {
                faults.add(key("country"), NO_COUNTRY);
            }
            Kind::Postcode(field.country.clone())
        }
        FieldType::Url => Kind::Url,
        FieldType::Ip => Kind::Ip,
        // In a list, which was said already.
        FieldType::List => return None,
    })
}

/// How many characters the field's text may have. Everything for types whose `min` and `max` are values.
fn compile_length(field: &Field, key: impl Fn(&str) -> String, faults: &mut Faults) -> RangeInclusive<usize> {
    let usual = match field.kind {
        FieldType::Text => MAX_TEXT,
        // RFC 5321, section 4.5.3.1.3, less the angle brackets.
        FieldType::Email => 254,
        // Landing pages carry their whole campaign tracking.
        FieldType::Url => 2_000,
        _ => return 0..=usize::MAX,
    };
    let bounds = bounds(field, |text| usize::from_str(text).ok(), "a number of characters", &key, faults);
    let max = bounds.max.unwrap_or(usual);
    if max == 0 {
        faults.add(key("max"), "must be at least 1");
    }
    let min = bounds.min.unwrap_or(0);
    if bounds.max.is_none() && min > max {
        faults.add(key("min"), format!("is more than the {max} characters allowed without `max`; set `max` too"));
    }
    min..=max
}

fn bounds<T: PartialOrd + Display>(
    field: &Field,
    read: impl Fn(&str) -> Option<T>,
    what: &str,
    key: impl Fn(&str) -> String,
    faults: &mut Faults,
) -> Bounds<T> {
    let mut bound = |part: &str, scalar: &Option<Scalar>| {
        let Scalar(text) = scalar.as_ref()?;
        let value = read(text.trim());
        if value.is_none() {
            faults.add(key(part), format!("must be {what}"));
        }
        value
    };
    let bounds = Bounds { min: bound("min", &field.min), max: bound("max", &field.max) };
    if let (Some(min), Some(max)) = (&bounds.min, &bounds.max)
        && min > max
    {
        faults.add(key("min"), format!("{min} is more than the greatest value, {max}"));
    }
    bounds
}
