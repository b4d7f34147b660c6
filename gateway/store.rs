//! What is durable: leads, deliveries, attempts, places, exchanges, the network's resources.
//!
//! Three commits carry a lead (DESIGN "How a lead flows"): [`Store::accept`], [`Store::start_attempt`] and
//! [`Store::step`]. Each returns only after its group commit has been synced. The store alone grants places: the
//! attempt's commit takes them in the same transaction, or refuses.
//!
//! The files by noun say what the store does; how, in SQL, is said by the engines under the same names. SQLite in a data
//! directory (`store/sqlite.rs`): one writer thread that commits whatever has queued up (`store/sqlite/writer.rs`), readers
//! that never block it, checkpoints off the hot path.

/// Asks whichever engine there is; each has every method, in a file of the noun's name.
macro_rules! on_engine {
    ($store:expr, $db:ident => $ask:expr) => {
        match &*$store.0 {
            $crate::store::Engine::Sqlite($db) => $ask,
            $crate::store::Engine::Postgres($db) => $ask,
        }
    };
}

mod accept;
mod attempt;
mod audit;
mod days;
mod deliveries;
mod fleet;
mod hashes;
mod health;
mod leads;
mod places;
mod postgres;
mod recovery;
mod refusals;
mod resources;
mod retention;
mod search;
mod sqlite;
mod step;

pub use accept::{Accept, Accepted, DedupeKey, IdempotencyKey, NewDelivery};
pub use attempt::{Granted, StartAttempt};
pub use audit::Audit;
pub use deliveries::{AttemptRecord, DeliveryRecord, ExchangeRecord, Head, Message};
pub use fleet::{HEARTBEAT_EVERY, Heartbeat, Joined, Newcomer};
pub use health::Trouble;
pub use leads::{LeadRecord, Remembered, Standings};
pub use recovery::{Loaded, QueueKey, Queued};
pub use refusals::RefusalRecord;
pub use resources::{Changes, Kind, PausedKind, ResourceChange, ResourceRecord, StoredResource, TokenRecord};
pub use retention::Forgotten;
pub use search::{DeliverySearch, LeadSearch, Page, RefusalSearch};
pub use step::{AttemptEnd, Change, LeadStep, Step, Stepped};

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use postgres::Postgres;
use sqlite::Sqlite;

/// The durable side of the gateway. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Engine>);

/// How a gateway works with a database server.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// What the server shows of this gateway among its sessions.
    pub name: String,
    /// Sessions for reading, beside those of the writer.
    pub readers: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { name: "gateway".to_owned(), readers: 8 }
    }
}

/// What keeps it all.
enum Engine {
    /// A data directory, for a single gateway.
    Sqlite(Sqlite),
    /// A database server, for several.
    Postgres(Box<Postgres>),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.0 {
            Engine::Sqlite(db) => write!(f, "Store({})", db.directory().display()),
            Engine::Postgres(db) => write!(f, "Store({})", db.address()),
        }
    }
}

impl Store {
    /// Opens (or makes) the embedded store in `directory`, for this process alone.
    ///
    /// # Errors
    /// When the directory cannot be used, belongs to a newer gateway, or is in use by another process.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Engine::Sqlite(Sqlite::open(directory)?))))
    }

    /// Connects to a PostgreSQL database, which any number of gateways may share, and brings its schema up to date.
    ///
    /// # Errors
    /// When the URL cannot be read, the server cannot be reached or may lose what it commits, or the schema belongs to a
    /// newer gateway.
    pub async fn connect(url: &str, options: &ConnectOptions) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Engine::Postgres(Box::new(Postgres::connect(url, options).await?)))))
    }

    /// Whether another process has the embedded store in `directory` open.
    #[must_use]
    pub fn is_in_use(directory: &Path) -> bool {
        Sqlite::is_in_use(directory)
    }

    fn fleet(&self) -> Option<&fleet::Fleet> {
        match &*self.0 {
            Engine::Sqlite(_) => None,
            Engine::Postgres(db) => Some(&db.fleet),
        }
    }

    /// What the writer has done so far.
    #[must_use]
    pub fn commit_stats(&self) -> &CommitStats {
        on_engine!(self, db => db.commit_stats())
    }

    /// Bytes on disk, the log included.
    #[must_use]
    pub fn size_on_disk(&self) -> u64 {
        on_engine!(self, db => db.size_on_disk())
    }
}

/// What the writer has done so far, for metrics.
#[derive(Debug, Default)]
pub struct CommitStats {
    /// Transactions committed.
    pub commits: AtomicU64,
    /// Jobs in them.
    pub jobs: AtomicU64,
    /// Time spent in them, microseconds, syncs included.
    pub micros: AtomicU64,
    /// Commits that failed.
    pub failures: AtomicU64,
}

/// Why the store could not do what was asked. Nothing of it was done, unless it says so.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error("the store in {directory} cannot be opened: {why}")]
    Open {
        /// The data directory, or the database's address.
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
    /// This gateway's lease has ended: what waits here may be another's by now, so nothing is sent.
    #[error("this gateway's lease on its deliveries has ended; it waits until the store renews it")]
    NoLease,
    /// A read or write failed.
    #[error("the store failed: {0}")]
    Failed(String),
}
