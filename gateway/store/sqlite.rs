//! SQLite in a data directory: opening, migrating, reading, and moving the write-ahead log into the database off the
//! hot path.

mod accept;
mod attempt;
mod audit;
mod checkpoint;
mod days;
mod deliveries;
mod fleet;
mod leads;
mod lookups;
mod places;
mod recovery;
mod refusals;
mod resources;
mod retention;
mod rows;
mod search;
mod statements;
mod step;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::health::Health;
use super::{CommitStats, StoreError};
use crate::clock;
use writer::{Tx, Writer};

/// Schema changes in order; `user_version` says how many of them a database has.
const MIGRATIONS: &[&str] =
    &[include_str!("sqlite/migrations/0001_start.sql"), include_str!("sqlite/migrations/0002_append.sql")];
/// Connections that read at the same time; a page of a search or a refill of a queue each.
const READERS: usize = 4;
/// How many of them searches may have: one that finds little reads much, and deliveries must not wait for it.
const SEARCHERS: usize = READERS / 2;
/// Bytes that the log keeps when it begins anew.
const LOG_STAYS: i64 = 256 << 20;
/// How long somebody else may keep the database locked: a backup, a person with a shell.
const BUSY_WITHIN: Duration = Duration::from_secs(10);

/// The open database.
pub(super) struct Sqlite {
    directory: PathBuf,
    writer: Writer,
    readers: Arc<Readers>,
    /// Keys the look-up hashes, so that the tables do not hold guessable hashes of personal data.
    lookup_key: [u8; 32],
    /// Resources, pauses and tokens that were changed since it was opened: nobody else changes them meanwhile.
    changed: [AtomicU64; 3],
    checkpointer: Option<(mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
    /// Held while we live: two gateways on one embedded store would each believe they alone grant places.
    _lock: File,
}

struct Readers {
    idle: Mutex<Vec<Connection>>,
    /// Outlives the connections: see [`checkpoint::start`].
    _database: Arc<File>,
    permits: Arc<Semaphore>,
    searches: Arc<Semaphore>,
}

/// A reading connection on loan. It goes back, and only then its permit, whatever becomes of who reads: its future may
/// be dropped while the read goes on, and the read may panic.
struct Loan {
    conn: Option<Connection>,
    readers: Arc<Readers>,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.conn.take());
    }
}

impl Sqlite {
    /// Opens (or makes) the store in `directory`, for this process alone.
    ///
    /// # Errors
    /// When the directory cannot be used, belongs to a newer gateway, or is in use by another process.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let fail = |why: String| StoreError::Open { directory: directory.display().to_string(), why };
        make_private_directory(directory)
            .map_err(|error| fail(format!("{error}; check the path and its permissions")))?;
        let lock = lock(directory).map_err(&fail)?;
        let path = directory.join("gateway.db");
        let sql = |error: rusqlite::Error| fail(error.to_string());

        let database = File::options().write(true).open(&path).map_err(|error| fail(error.to_string()))?;
        let database = Arc::new(database);
        let mut conn = connect(&path).map_err(sql)?;
        migrate(&mut conn).map_err(&fail)?;
        let lookup_key = lookup_key(&conn).map_err(sql)?;
        let writer = Writer::start(conn).map_err(|error| fail(error.to_string()))?;

        let idle = (0..READERS).map(|_| read_only(&path)).collect::<Result<Vec<_>, _>>().map_err(sql)?;
        let readers = Arc::new(Readers {
            idle: Mutex::new(idle),
            _database: Arc::clone(&database),
            permits: Arc::new(Semaphore::new(READERS)),
            searches: Arc::new(Semaphore::new(SEARCHERS)),
        });
        let checkpointer = checkpoint::start(&path, database, Arc::clone(&writer.log_is_done)).map_err(fail)?;
        Ok(Self {
            directory: directory.to_owned(),
            writer,
            readers,
            lookup_key,
            changed: Default::default(),
            checkpointer: Some(checkpointer),
            _lock: lock,
        })
    }

    /// Whether another process has the store in `directory` open.
    pub(super) fn is_in_use(directory: &Path) -> bool {
        directory.join("gateway.db").exists() && lock(directory).is_err()
    }

    /// What the writer has done so far.
    pub(super) fn commit_stats(&self) -> &CommitStats {
        &self.writer.stats
    }

    /// What is known of its commits.
    pub(super) fn health(&self) -> &Health {
        &self.writer.health
    }

    /// Writes so many bytes over what it wrote the last time.
    pub(super) async fn probe(&self, bytes: u32) -> Result<(), StoreError> {
        self.commit(move |tx| {
            tx.statement(
                "INSERT INTO meta (key, value) VALUES ('probe', zeroblob(?1))
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?
            .execute([bytes])
            .map(drop)
        })
        .await
    }

    /// Bytes on disk, the log included.
    pub(super) fn size_on_disk(&self) -> u64 {
        let size = |name| std::fs::metadata(self.directory.join(name)).map_or(0, |file| file.len());
        size("gateway.db") + size("gateway.db-wal")
    }

    async fn commit<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_, '_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.commit(work).await
    }

    async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.read_with(None, work).await
    }

    /// As [`Store::read`], for what may have to look at many rows.
    async fn search<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let turn = Arc::clone(&self.readers.searches).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        self.read_with(Some(turn), work).await
    }

    async fn read_with<T, F>(&self, turn: Option<OwnedSemaphorePermit>, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        let permit = Arc::clone(&readers.permits).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        // As many connections as permits, so one is idle.
        let conn = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let loan = Loan { conn, readers, _permits: [Some(permit), turn] };
        tokio::task::spawn_blocking(move || work(loan.conn.as_ref().ok_or(StoreError::Closed)?))
            .await
            .map_err(|_| StoreError::Failed("a read broke off".to_owned()))?
    }
}

impl Sqlite {
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.checkpointer.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn make_private_directory(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    // Personal data lives here: for the owner only, also where the directory was made by somebody else. (SQLite gives
    // its log the permissions of the database.)
    let new = !directory.exists();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    File::options().create(true).truncate(false).write(true).mode(0o600).open(directory.join("gateway.db"))?;
    if new && let Some(parent) = directory.canonicalize()?.parent() {
        // SQLite syncs what is inside the directory; that the directory is there must outlive a power loss too.
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<File, String> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join("gateway.lock"))
        .map_err(|error| error.to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err("another gateway uses it; stop that one, or give this one a store of its own".to_owned())
        }
        Err(TryLockError::Error(error)) => Err(format!("it cannot be locked ({error})")),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY_WITHIN)?;
    conn.pragma_update(None, "page_size", 8192)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: the log is synced at every commit, before anybody is told.
    conn.pragma_update(None, "synchronous", "FULL")?;
    // The checkpointer does it, so that no commit has to.
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "cache_size", -64_000)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    // What a migration, or a search that went on for long, has made of it does not stay.
    conn.pragma_update(None, "journal_size_limit", LOG_STAYS)?;
    conn.set_prepared_statement_cache_capacity(256);
    Ok(conn)
}

fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_WITHIN)?;
    conn.pragma_update(None, "cache_size", -16_000)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

fn migrate(conn: &mut Connection) -> Result<(), String> {
    let sql = |error: rusqlite::Error| error.to_string();
    let have: u32 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sql)?;
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if have > known {
        return Err(format!(
            "it was written by a newer gateway (schema {have}, this one knows {known}); run that version"
        ));
    }
    if have == known {
        return Ok(());
    }
    // A day may have millions of rows to be sorted.
    conn.pragma_update(None, "temp_store", "FILE").map_err(sql)?;
    for (version, migration) in (1..=known).zip(MIGRATIONS).skip(have as usize) {
        let tx = conn.transaction().map_err(sql)?;
        tx.execute_batch(migration).map_err(sql)?;
        if version == 2 {
            lookups::migrate(&tx).map_err(sql)?;
        }
        tx.pragma_update(None, "user_version", version).map_err(sql)?;
        tx.commit().map_err(sql)?;
    }
    conn.pragma_update(None, "temp_store", "MEMORY").map_err(sql)
}

fn lookup_key(conn: &Connection) -> rusqlite::Result<[u8; 32]> {
    // A start needs no write where nothing is new: it succeeds on a full disk, too.
    let known = conn.query_row("SELECT value FROM meta WHERE key = 'lookup_key'", [], |row| row.get(0)).optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    conn.execute(
        "INSERT INTO meta (key, value) VALUES ('lookup_key', ?1) ON CONFLICT (key) DO NOTHING",
        [clock::random_bytes::<32>()],
    )?;
    conn.query_row("SELECT value FROM meta WHERE key = 'lookup_key'", [], |row| row.get(0))
}
