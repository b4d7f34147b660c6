//! What is durable: leads, deliveries, attempts, places, exchanges, the network's resources.
//!
//! Three commits carry a lead (DESIGN "How a lead flows"): [`Store::accept`], [`Store::start_attempt`] and
//! [`Store::step`]. Each returns only after its group commit has been synced. The store alone grants places: the
//! attempt's commit takes them in the same transaction, or refuses.
//!
//! The engine is SQLite in a data directory (`store/sqlite.rs`): one writer thread that commits whatever has queued up
//! (`store/writer.rs`), readers that never block it, checkpoints off the hot path. SQL stands in the files by noun.

mod accept;
mod attempt;
mod audit;
mod days;
mod deliveries;
mod leads;
mod places;
mod recovery;
mod refusals;
mod resources;
mod retention;
mod rows;
mod search;
mod sqlite;
mod step;
#[cfg(test)]
mod tests;
mod writer;

pub use accept::{Accept, Accepted, DedupeKey, IdempotencyKey, NewDelivery};
pub use attempt::{Granted, StartAttempt};
pub use audit::Audit;
pub use deliveries::{AttemptRecord, DeliveryRecord, ExchangeRecord, Head, Message};
pub use leads::{LeadRecord, Remembered, Standings};
pub use recovery::{QueueKey, Queued};
pub use refusals::RefusalRecord;
pub use resources::{Kind, PausedKind, ResourceChange, ResourceRecord, TokenRecord};
pub use retention::Forgotten;
pub use search::{DeliverySearch, LeadSearch, Page, RefusalSearch};
pub use step::{AttemptEnd, Change, LeadStep, Step, Stepped};
pub use writer::CommitStats;

use std::sync::Arc;

use sqlite::Sqlite;

/// The durable side of the gateway. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Sqlite>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.0.directory().display())
    }
}

/// Why the store could not do what was asked. Nothing of it was done, unless it says so.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error("the store in {directory} cannot be opened: {why}")]
    Open {
        /// The data directory.
        directory: String,
        /// What went wrong, and what to do.
        why: String,
    },
    /// More work is waiting for the writer than it may keep.
    #[error("the store has more writes waiting than it can take now")]
    Busy,
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// A read or write failed.
    #[error("the store failed: {0}")]
    Failed(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
