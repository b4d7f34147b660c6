//! PostgreSQL, for any number of gateways on any number of machines: connecting, reading, and the few rare writes that go
//! around the writer.
//!
//! Leads, attempts and steps go through the writer (`store/postgres/writer.rs`), which commits what has queued up with two
//! round trips. Everybody takes locks in the same order, so that gateways never wait for each other in a circle:
//! pauses, ownership, idempotency keys, dedupe hashes, deliveries by id, leads by id, places by key, turns.

mod accept;
mod address;
mod attempt;
mod days;
mod deliveries;
mod fleet;
mod found;
mod leads;
mod lookups;
mod mark;
mod migrate;
mod places;
mod recovery;
mod refusals;
mod resources;
mod retention;
mod rows;
mod search;
mod session;
mod statements;
mod step;
mod write;
mod writer;
mod writes;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{Object, Pool, PoolError, TimeoutType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::fleet::Fleet;
use super::health::Health;
use super::{CommitStats, ConnectOptions, StoreError};
use crate::clock;
use address::Address;
use writer::Writer;

/// How many of the reading connections searches may have: one that finds little reads much, and deliveries must not wait
/// for it.
const SEARCHERS_PART: usize = 2;
const PROBE: &str = "INSERT INTO meta (key, value) VALUES ('probe', convert_to(repeat('0', $1), 'UTF8'))
     ON CONFLICT (key) DO UPDATE SET value = excluded.value";
/// A probe that takes longer has failed.
const PROBE_WITHIN: Duration = Duration::from_secs(4);
/// Sessions that are kept for the lease, the probe, and looks for changes.
const VITAL: usize = 2;
/// How often the database is asked for its size.
const SIZE_EVERY: Duration = Duration::from_mins(1);

/// The way to the database.
pub(super) struct Postgres {
    pub(super) fleet: Arc<Fleet>,
    address: Address,
    sessions: Pool,
    /// For the lease, and for what is asked to know how the database is: never behind those who use it.
    vital: Pool,
    searches: Arc<Semaphore>,
    writer: Writer,
    /// Keys the look-up hashes, so that the tables do not hold guessable hashes of personal data.
    lookup_key: [u8; 32],
    size: Arc<AtomicU64>,
    sizing: AbortHandle,
}

/// A session on loan for a search, with its turn among the searches.
pub(super) struct SearchSession {
    session: Object,
    _turn: OwnedSemaphorePermit,
}

impl Deref for SearchSession {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.session
    }
}

impl DerefMut for SearchSession {
    fn deref_mut(&mut self) -> &mut Object {
        &mut self.session
    }
}

impl Postgres {
    /// Connects, checks that the server keeps what it commits, and brings the schema up to date.
    ///
    /// # Errors
    /// When the server cannot be reached or used, or the schema belongs to a newer gateway.
    pub(super) async fn connect(url: &str, options: &ConnectOptions) -> Result<Self, StoreError> {
        let address = Address::parse(url, &options.name)?;
        let (setup, promise) = session::check(&address).await?;
        migrate::migrate(&setup).await.map_err(|why| address.refused(why))?;
        let lookup_key = migrate::lookup_key(&setup).await.map_err(|error| address.refused(describe(&error)))?;
        drop(setup);

        let readers = options.readers.max(SEARCHERS_PART);
        let sessions = session::pool(&address, &promise, readers).map_err(|why| address.refused(why))?;
        let vital = session::pool(&address, &promise, VITAL).map_err(|why| address.refused(why))?;
        let size = Arc::new(AtomicU64::new(0));
        let sizing = tokio::spawn(keep_size(sessions.clone(), Arc::clone(&size))).abort_handle();
        let fleet = Arc::new(Fleet::new(clock::random_uuid()));
        let writer = Writer::start(address.clone(), promise, Arc::clone(&fleet));
        Ok(Self {
            fleet,
            address,
            sessions,
            vital,
            searches: Arc::new(Semaphore::new(readers / SEARCHERS_PART)),
            writer,
            lookup_key,
            size,
            sizing,
        })
    }

    /// A session for a read or a rare write.
    pub(in crate::store) async fn session(&self) -> Result<Object, StoreError> {
        self.sessions.get().await.map_err(StoreError::from)
    }

    /// A session for the lease and the like.
    pub(in crate::store) async fn vital_session(&self) -> Result<Object, StoreError> {
        self.vital.get().await.map_err(StoreError::from)
    }

    /// As [`Postgres::session`], for what may have to look at many rows.
    pub(in crate::store) async fn search_session(&self) -> Result<SearchSession, StoreError> {
        let turn = Arc::clone(&self.searches).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        Ok(SearchSession { session: self.session().await?, _turn: turn })
    }

    /// What is known of its commits.
    pub(super) fn health(&self) -> &Health {
        &self.writer.health
    }

    /// Commits something that nobody reads, so as to see whether a commit succeeds.
    pub(super) async fn probe(&self, bytes: u32) -> Result<(), StoreError> {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        let written = async {
            let session = self.vital_session().await?;
            session.execute(PROBE, &[&bytes]).await?;
            Ok::<(), StoreError>(())
        };
        let written = match tokio::time::timeout(PROBE_WITHIN, written).await {
            Ok(written) => written,
            Err(_) => Err(StoreError::Failed("the database did not answer in time".to_owned())),
        };
        self.health().probed(written.as_ref().err().map(ToString::to_string).as_deref());
        written
    }

    pub(super) fn commit_stats(&self) -> &CommitStats {
        &self.writer.stats
    }

    /// As of a minute ago: asking takes a while.
    pub(super) fn size_on_disk(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Without its password.
    pub(super) fn address(&self) -> &str {
        self.address.as_str()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.sizing.abort();
        self.sessions.close();
        self.vital.close();
    }
}

async fn keep_size(sessions: Pool, size: Arc<AtomicU64>) {
    loop {
        let asked = async {
            let session = sessions.get().await.map_err(StoreError::from)?;
            let row = session.query_one("SELECT pg_database_size(current_database())", &[]).await?;
            Ok::<i64, StoreError>(row.get(0))
        };
        match asked.await {
            Ok(bytes) => size.store(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed),
            Err(error) => tracing::debug!(store.error = %error, "the database's size is not known"),
        }
        tokio::time::sleep(SIZE_EVERY).await;
    }
}

/// An error of the server or the connection in words that hold nothing of a lead: the server's own messages about data may
/// quote it.
fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        // Of the connection, the protocol, or a type: no values in any of them.
        return match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
    };
    let code = db.code().code();
    // Classes 21 to 23 and 2B to 44: about values and constraints.
    let about_data = matches!(code.get(..2), Some("21" | "22" | "23" | "2F" | "44" | "P0"));
    let mut words = if about_data { "a value was refused".to_owned() } else { db.message().to_owned() };
    for (what, name) in [("table", db.table()), ("column", db.column()), ("constraint", db.constraint())] {
        if let Some(name) = name {
            words.extend([", ", what, " ", name]);
        }
    }
    format!("{words} (PostgreSQL {code})")
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(describe(&error))
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(TimeoutType::Wait) => Self::Busy,
            PoolError::Timeout(_) => Self::Failed("the database did not answer in time".to_owned()),
            PoolError::Closed => Self::Closed,
            PoolError::PostCreateHook(error) => Self::Failed(error.to_string()),
            PoolError::NoRuntimeSpecified => Self::Failed("the pool of sessions has no runtime".to_owned()),
        }
    }
}
