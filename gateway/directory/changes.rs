//! From what the store holds to what files say: the differences, and the changes that would remove them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::ResourceSet;
use crate::model::secret::{MASK, mask_document};
use crate::store::{Kind, ResourceChange, StoredResource};

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
    /// Its version in the store.
    from: Option<u64>,
    /// As the files have it; `None` where they do not.
    document: Option<String>,
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

/// What the store has, held against files while it is read: of what is the same, nothing is kept.
#[derive(Debug)]
pub struct Comparison {
    files: Arc<ResourceSet>,
    same: HashSet<(Kind, String)>,
    others: BTreeMap<(Kind, String), Stored>,
}

/// A stored resource that the files do not have as it is.
#[derive(Debug)]
struct Stored {
    version: u64,
    changed_elsewhere: bool,
    /// `None` where the files have no such resource.
    document: Option<String>,
}

impl Comparison {
    /// Nothing is stored yet.
    #[must_use]
    pub fn with(files: Arc<ResourceSet>) -> Self {
        Self { files, same: HashSet::new(), others: BTreeMap::new() }
    }

    /// Looks at what is stored of a resource; whether the files have it too, the same or another.
    pub fn see(&mut self, stored: StoredResource<'_>) -> bool {
        let StoredResource { kind, id, version, document, changed_elsewhere } = stored;
        let named = self.files.contains(kind, id);
        if self.files.has(kind, id, document) {
            self.same.insert((kind, id.to_owned()));
        } else {
            let stored = Stored { version, changed_elsewhere, document: named.then(|| document.to_owned()) };
            self.others.insert((kind, id.to_owned()), stored);
        }
        named
    }

    /// Every difference between the store and the files, in the order in which they would be applied.
    #[must_use]
    pub fn differences(self) -> Vec<Difference> {
        let Self { files, same, mut others } = self;
        let mut differences = Vec::new();
        for (kind, id) in files.names() {
            let resource = (kind, id.to_owned());
            if same.contains(&resource) {
                continue;
            }
            let Some(document) = files.document(kind, id) else { continue };
            // What is left of them in the end, only the store has.
            let old = others.remove(&resource);
            let what = match old.as_ref().and_then(|old| old.document.as_deref()) {
                None => What::Added,
                Some(old) => What::Changed(changed_keys(old, &document)),
            };
            differences.push(Difference {
                kind,
                id: resource.1,
                what,
                changed_elsewhere: old.as_ref().is_some_and(|old| old.changed_elsewhere),
                from: old.map(|old| old.version),
                document: Some(document),
            });
        }
        differences.extend(others.into_iter().map(|((kind, id), old)| Difference {
            kind,
            id,
            what: What::Removed,
            changed_elsewhere: old.changed_elsewhere,
            from: Some(old.version),
            document: None,
        }));
        differences
    }
}

impl Difference {
    /// The change that removes the difference.
    #[must_use]
    pub fn into_change(self) -> ResourceChange {
        let Self { kind, id, from, document, .. } = self;
        ResourceChange { kind, id, from, document }
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
