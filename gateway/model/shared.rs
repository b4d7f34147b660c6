//! What many resources have in common is kept once: five thousand contracts may have the same rules for replies, and ten
//! thousand campaigns the same fields.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that equal resources can share. It behaves like the value itself; changing it makes it one's own.
pub struct Shared<T>(Arc<Inner<T>>);

struct Inner<T> {
    value: T,
    /// Of the value: it is asked for once by each that shares it, and for ten thousand that is long.
    hash: OnceLock<u64>,
}

impl<T> Shared<T> {
    /// Whether both are one.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> Default for Shared<T> {
    fn default() -> Self {
        T::default().into()
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.value.fmt(f)
    }
}

impl<T: Eq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.0.value == other.0.value
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: Hash> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let hash = self.0.hash.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.0.value.hash(&mut hasher);
            hasher.finish()
        });
        state.write_u64(*hash);
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(Inner { value, hash: OnceLock::new() }))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Clone> Clone for Inner<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), hash: OnceLock::new() }
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        let inner = Arc::make_mut(&mut self.0);
        // It is about to be another value.
        inner.hash = OnceLock::new();
        &mut inner.value
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.value.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

/// The first of each of several equal values.
#[derive(Debug)]
pub struct Pool<T> {
    firsts: HashSet<Shared<T>>,
    /// What was shared last: the next is the same more often than not.
    last: Option<Shared<T>>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { firsts: HashSet::new(), last: None }
    }
}

impl<T: Eq + Hash> Pool<T> {
    /// Puts the first that was equal to `value` in its place.
    pub fn share(&mut self, value: &mut Shared<T>) {
        if let Some(last) = self.last.as_ref().filter(|last| *last == value) {
            *value = last.clone();
            return;
        }
        match self.firsts.get(value) {
            Some(first) => *value = first.clone(),
            None => drop(self.firsts.insert(value.clone())),
        }
        self.last = Some(value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(value: &Shared<String>) -> u64 {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn equal_values_are_shared_and_others_are_not() {
        let mut pool = Pool::default();
        let mut values: Vec<Shared<String>> = ["a", "b", "a", "a", "b"].map(|text| text.to_owned().into()).into();
        values.iter_mut().for_each(|value| pool.share(value));
        let same: Vec<bool> = values.iter().map(|value| value.is(&values[0])).collect();
        assert_eq!(same, [true, false, true, true, false]);
        assert!(values[4].is(&values[1]));
    }

    #[test]
    fn what_is_changed_is_ones_own_and_has_another_hash() {
        let one = Shared::from("a".to_owned());
        let (mut other, before) = (one.clone(), hash(&one));
        other.push('b');
        assert_eq!((one.as_str(), other.as_str()), ("a", "ab"));
        assert_ne!(hash(&other), before);
        // Also where nobody shares it, so that it is changed in place.
        let of_two = hash(&other);
        other.pop();
        assert_eq!(other, one);
        assert_eq!(hash(&other), before);
        assert_ne!(of_two, before);
    }
}
