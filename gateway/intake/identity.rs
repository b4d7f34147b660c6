//! By what a lead is recognised: the texts that dedupe rules compare, and those by which staff find it again.

use std::borrow::Cow;
use std::time::Duration;

use crate::model::lead::{FieldValue, Fields, Meta};
use crate::model::phone::Region;

use super::validate::{self, FieldRule, Items, Kind, Rules};

/// Kind of a look-up by e-mail address.
pub const EMAIL: &str = "email";
/// Kind of a look-up by telephone number.
pub const PHONE: &str = "phone";
/// Kind of a look-up by the source's own id.
pub const EXTERNAL_ID: &str = "external_id";
/// Kind of a look-up by click.
pub const CLICK_ID: &str = "click_id";

/// What a dedupe rule compares of one lead.
#[derive(Clone, PartialEq, Eq)]
pub struct DedupeKey {
    /// Which rule of the campaign, from 0.
    pub rule: usize,
    /// How far back the rule looks.
    pub window: Duration,
    /// The rule's field names (in alphabetical order) with their normalised values. Equal texts are the same person;
    /// two rules over the same fields make the same text. Personal data: hash it, with a key, before it is stored.
    pub text: String,
}

/// A lead is found by so many addresses and numbers at most, however many stand in its lists.
const MAX_LOOKUPS: usize = 50;

impl std::fmt::Debug for DedupeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DedupeKey(rule: {}, window: {:?})", self.rule, self.window)
    }
}

impl Rules {
    /// What each dedupe rule compares, for those whose fields all have a value.
    #[must_use]
    pub fn dedupe_keys(&self, fields: &Fields) -> Vec<DedupeKey> {
        let key = |(rule, (names, window)): (usize, &(Vec<String>, Duration))| {
            let mut text = String::new();
            for name in names {
                let value = match fields.get(name)? {
                    FieldValue::Text(value) if self.is(name, |kind| matches!(kind, Kind::Email)) => {
                        Cow::Owned(value.to_lowercase())
                    }
                    FieldValue::Text(value) => Cow::Borrowed(value.as_str()),
                    value => Cow::Owned(value.to_string()),
                };
                // Neither names nor values can hold these two controls, so different parts never join to one text.
                text.extend([name.as_str(), "\u{1f}", &value, "\u{1e}"]);
            }
            Some(DedupeKey { rule, window: *window, text })
        };
        self.dedupe.iter().enumerate().filter_map(key).collect()
    }

    /// By what staff can search for this lead: every field of type email and phone, those in lists
    /// too, and its two ids. Each pair is
    /// (kind, normalised value), named once.
    #[must_use]
    pub fn lookup_keys(&self, fields: &Fields, meta: &Meta) -> Vec<(&'static str, String)> {
        let mut keys = Vec::new();
        // Each value was normalised when it was taken; to do it again would take longer than all else here.
        let mut find = |rule: &FieldRule, value: &FieldValue| match (&rule.kind, value) {
            _ if keys.len() >= MAX_LOOKUPS => {}
            (Kind::Email, FieldValue::Text(address)) => keys.push((EMAIL, address.to_lowercase())),
            (Kind::Phone(_), FieldValue::Text(number)) => keys.push((PHONE, number.clone())),
            _ => {}
        };
        for rule in self.fields.iter().filter(|rule| matches!(rule.kind, Kind::Email | Kind::Phone(_))) {
            if let Some(value) = fields.get(&rule.name) {
                find(rule, value);
            }
        }
        for list in &self.lists {
            let Some(FieldValue::List(entries)) = fields.get(&list.name) else { continue };
            for entry in entries {
                match (&list.of, entry) {
                    (Items::Groups(rules), FieldValue::Group(members)) => {
                        for rule in rules {
                            if let Some(value) = members.get(&rule.name) {
                                find(rule, value);
                            }
                        }
                    }
                    (Items::Values(rule), value) => find(rule, value),
                    (Items::Groups(_), _) => {}
                }
            }
        }
        for (kind, value) in [(EXTERNAL_ID, &meta.external_id), (CLICK_ID, &meta.click_id)] {
            keys.extend(
                value.as_deref().and_then(|value| normalise_lookup(kind, value, None)).map(|value| (kind, value)),
            );
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// A staff search text in the form of [`Rules::lookup_keys`]: e-mail addresses in lower case, telephone numbers as
/// E.164 (those without a country code are read as numbers of `region`, ISO 3166), ids as they stand. `None` when it
/// cannot be the value of any lead: not an address, not a number, empty.
#[must_use]
pub fn normalise_lookup(kind: &str, text: &str, region: Option<&str>) -> Option<String> {
    let text = text.trim();
    match kind {
        EMAIL => validate::email::normalise(text).map(|address| address.to_lowercase()),
        PHONE => validate::phone::normalise(text, region.and_then(Region::new)),
        _ => (!text.is_empty()).then(|| text.to_owned()),
    }
}
