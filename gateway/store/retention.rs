//! Forgetting: days of exchanges, refusals and look-ups are dropped whole; leads go in small bites, the unfinished ones
//! never; expired idempotency keys, dedupe hashes and counts of past periods likewise.

use super::{Store, StoreError};
use jiff::Timestamp;
use std::time::Duration;

/// What was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Tables dropped.
    pub days: usize,
    /// Leads deleted, with their deliveries.
    pub leads: usize,
    /// Counts of past periods deleted.
    pub places: usize,
}

impl Store {
    /// Makes tomorrow's tables, and drops what is older than the retentions, or counts a period that is past.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn tidy(&self, now: Timestamp, capture: Duration, leads: Duration) -> Result<Forgotten, StoreError> {
        on_engine!(self, db => db.tidy(now, capture, leads).await)
    }
}
