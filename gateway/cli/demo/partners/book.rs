//! Whom a partner has already: by e-mail address, as most of the field does.

use std::collections::HashMap;

/// How many people fit into a book; a full one is begun anew.
const PAGES: usize = 10_000;

/// The people that a partner has, each with its reference.
#[derive(Debug)]
pub(super) struct Book {
    prefix: &'static str,
    last: u32,
    people: HashMap<String, String>,
}

impl Book {
    /// A book whose references read `PREFIX-1001` and up.
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { prefix, last: 1_000, people: HashMap::new() }
    }

    /// Enters a person; `Err` with the old reference where it is in already.
    pub(super) fn enter(&mut self, email: &str) -> Result<String, String> {
        let person = email.to_lowercase();
        if let Some(reference) = self.people.get(&person) {
            return Err(reference.clone());
        }
        if self.people.len() >= PAGES {
            self.people.clear();
        }
        self.last = self.last.wrapping_add(1);
        let reference = format!("{}-{}", self.prefix, self.last);
        self.people.insert(person, reference.clone());
        Ok(reference)
    }

    /// How many people are in.
    pub(super) fn len(&self) -> usize {
        self.people.len()
    }
}
