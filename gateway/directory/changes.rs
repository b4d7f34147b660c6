//! From what the store holds to what files say: the differences, and the changes that would remove them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::ResourceSet;
use crate::model::secret::{MASK, mask_document};
use crate::store::{Kind, ResourceChange, ResourceRecord};

/// One resource that differs.
#[derive(Debug, Clone)]
pub struct Difference {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// How it differs.
    pub what: What,
    /// It was changed in the store by something else than files since files last set it.
    pub changed_elsewhere: bool,
    change: ResourceChange,
}

/// How a resource differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Only the files have it.
    Added,
    /// Only the store has it.
    Removed,
    /// Both have it; these keys differ, with the old and the new value.
    Changed(Vec<(String, String, String)>),
}

/// Every difference between the store and `files`, in the order in which they would be applied.
#[must_use]
pub fn differences(stored: &[ResourceRecord], files: &ResourceSet) -> Vec<Difference> {
    let mut stored: BTreeMap<(Kind, String), &ResourceRecord> =
        stored.iter().map(|record| ((record.kind, record.id.clone()), record)).collect();
    let mut differences = Vec::new();
    for (resource, document) in files.documents() {
        // What is left of them in the end, only the store has.
        let old = stored.remove(&resource);
        let what = match old {
            None => What::Added,
            Some(old) if old.document == document => continue,
            Some(old) => What::Changed(changed_keys(&old.document, &document)),
        };
        let (kind, id) = resource;
        let from = old.map(|old| old.version);
        let changed_elsewhere = old.is_some_and(|old| old.changed_elsewhere);
        let change = ResourceChange { kind, id: id.clone(), from, document: Some(document) };
        differences.push(Difference { kind, id, what, changed_elsewhere, change });
    }
    for ((kind, id), old) in stored {
        let changed_elsewhere = old.changed_elsewhere;
        let change = ResourceChange { kind, id: id.clone(), from: Some(old.version), document: None };
        differences.push(Difference { kind, id, what: What::Removed, changed_elsewhere, change });
    }
    differences
}

impl Difference {
    /// The change that removes the difference.
    #[must_use]
    pub fn into_change(self) -> ResourceChange {
        self.change
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.changed_elsewhere { "   (changed elsewhere since the last apply)" } else { "" };
        match &self.what {
            What::Added => write!(f, "+ {} {}{note}", self.kind, self.id),
            What::Removed => write!(f, "- {} {}{note}", self.kind, self.id),
            What::Changed(keys) => {
                write!(f, "~ {} {}{note}", self.kind, self.id)?;
                for (key, old, new) in keys {
                    write!(f, "\n    {key}: {old} → {new}")?;
                }
                Ok(())
            }
        }
    }
}

fn changed_keys(old: &str, new: &str) -> Vec<(String, String, String)> {
    match (serde_json::from_str(old), serde_json::from_str(new)) {
        (Ok(old), Ok(new)) => {
            let mut keys = Vec::new();
            compare("", Some(&Side::of(&old)), Some(&Side::of(&new)), &mut keys);
            keys
        }
        // Templates are text.
        _ => vec![(
            "text".to_owned(),
            format!("{} lines", old.lines().count()),
            format!("{} lines", new.lines().count()),
        )],
    }
}

/// A value of a document, and how it may be shown: with what may be a secret masked.
struct Side<'a> {
    value: &'a Value,
    shown: Cow<'a, Value>,
}

impl<'a> Side<'a> {
    fn of(document: &'a Value) -> Self {
        let mut shown = document.clone();
        mask_document(&mut shown);
        Self { value: document, shown: Cow::Owned(shown) }
    }

    fn member(&self, name: &str) -> Option<Side<'_>> {
        let value = self.value.get(name)?;
        Some(Side { value, shown: self.shown.get(name).map_or(Cow::Owned(MASK.into()), Cow::Borrowed) })
    }
}

fn compare(path: &str, old: Option<&Side<'_>>, new: Option<&Side<'_>>, keys: &mut Vec<(String, String, String)>) {
    let values = (old.map(|side| side.value), new.map(|side| side.value));
    if values.0 == values.1 {
        return;
    }
    if let ((Some(Value::Object(olds)), Some(Value::Object(news))), Some(old), Some(new)) = (values, old, new) {
        let names: std::collections::BTreeSet<&String> = olds.keys().chain(news.keys()).collect();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            compare(&path, old.member(name).as_ref(), new.member(name).as_ref(), keys);
        }
        return;
    }
    let show = |side: Option<&Side<'_>>| side.map_or("(none)".to_owned(), |side| side.shown.to_string());
    keys.push((path.to_owned(), show(old), show(new)));
}
