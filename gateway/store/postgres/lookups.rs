//! What leads and deliveries are looked up by: keyed hashes, whose order is that of chance. A row has all of one lead or
//! delivery. Their index keeps new ones as they come, in a list that every search reads, and is sorted in one go when there
//! are many: that costs a small part of finding the place of each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::{Postgres, rows};
use crate::store::StoreError;

/// Rows from which on they are sorted: a search reads so many in some milliseconds. Should nobody come to it, PostgreSQL does
/// it when there are four times as many, or when it vacuums.
const MANY: usize = 15_000;

/// A day's partition has one index.
const SORT: &str = "SELECT gin_clean_pending_list(indexrelid::regclass) FROM pg_index WHERE indrelid = to_regclass($1)";

/// Rows that this gateway has written and not sorted yet, by their days.
#[derive(Default)]
pub(super) struct Unsorted(Mutex<BTreeMap<i32, usize>>);

impl Unsorted {
    /// Counts a row of each of these days.
    pub(super) fn add(&self, days: impl Iterator<Item = i32>) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for day in days {
            *rows.entry(day).or_insert(0) += 1;
        }
    }

    /// The days that are worth sorting, if there are enough rows; they count as sorted from now on.
    fn take(&self) -> Vec<i32> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.values().sum::<usize>() < MANY {
            return Vec::new();
        }
        std::mem::take(&mut *rows).into_keys().collect()
    }
}

/// A hash as it is stored.
pub(super) fn stored(hash: [u8; 16]) -> Uuid {
    Uuid::from_bytes(hash)
}

/// All the hashes of one row, as PostgreSQL reads a list.
pub(super) fn list(hashes: impl IntoIterator<Item = [u8; 16]>) -> String {
    let mut text = String::from("{");
    for hash in hashes {
        let comma = if text.len() > 1 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{}", stored(hash).simple());
    }
    text.push('}');
    text
}

impl Postgres {
    /// Sorts what this gateway has written, if it is enough.
    pub(in crate::store) async fn sort_lookups(&self) -> Result<bool, StoreError> {
        for day in self.writer.unsorted.take() {
            let session = self.session().await?;
            rows::query(&session, SORT, &[&format!("found_by_{day}")]).await?;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::{MANY, Unsorted, list};

    #[test]
    fn hashes_are_listed_as_postgresql_reads_them() {
        assert_eq!(list([]), "{}");
        let [one, two] = ["01".repeat(16), "ff".repeat(16)];
        assert_eq!(list([[1; 16], [255; 16]]), format!("{{{one},{two}}}"));
    }

    #[test]
    fn what_is_enough_is_sorted_once() {
        let unsorted = Unsorted::default();
        unsorted.add(std::iter::repeat_n(20_261_121, MANY - 1));
        assert_eq!(unsorted.take(), Vec::<i32>::new());
        unsorted.add([20_261_122].into_iter());
        assert_eq!(unsorted.take(), [20_261_121, 20_261_122]);
        assert_eq!(unsorted.take(), Vec::<i32>::new());
    }
}
