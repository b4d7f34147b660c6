//! The one writer: a thread that takes whatever has queued up, runs it in one transaction, and answers after the
//! commit has been synced (`synchronous=FULL`). So a hundred leads that arrive together share one sync.
//!
//! A job that fails spoils its transaction; the batch is then rolled back and its jobs are run again one by one, so
//! that only the culprit fails. Where it was the disk that failed, or the lock of the database, all fail at once. Jobs are
//! therefore run at least once but commit at most once, unless they are withdrawn before: by a caller who has gone, or
//! because the writer had no time for them within [`BEGUN_WITHIN`].

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::days::Days;
use super::statements::{Lent, Statements};
use crate::clock;
use crate::failpoint;
use crate::model::limit::PlaceKey;
use crate::store::health::Health;
use crate::store::{CommitStats, StoreError};

/// Jobs that may wait for the writer; beyond it callers wait for room, at most [`ROOM_WITHIN`].
const QUEUE: usize = 8_192;
/// Jobs in one transaction: bounds the latency of the first of them.
const BATCH: usize = 512;
/// While many wait, commits begin no more often than this: each has costs of its own, which then are shared by more of them.
/// With one at a time none waits.
const PACE: Duration = Duration::from_micros(700);
/// Nor, however many there are, less often than this.
const SLOWEST_PACE: Duration = Duration::from_micros(1_400);
/// Jobs in a commit from which on many wait.
const MANY: usize = 8;
/// Jobs in a commit that [`PACE`] is right for: of more, commits begin less often.
const PACED: usize = 96;
/// How long a caller waits for room in the queue before it is told [`StoreError::Busy`].
const ROOM_WITHIN: Duration = Duration::from_secs(2);
/// How long a job waits for the writer to begin with it; then it is withdrawn, and its caller told [`StoreError::Busy`].
const BEGUN_WITHIN: Duration = Duration::from_secs(2);
/// Counters kept in the writer's memory between commits.
const COUNTERS: usize = 200_000;

/// What a job works with: the open transaction and the counters it shares with the jobs beside it.
pub(super) struct Tx<'a, 'c> {
    conn: &'c Connection,
    statements: &'a Statements<'c>,
    known: &'a mut Known,
}

impl<'a, 'c> Tx<'a, 'c> {
    /// A prepared statement, kept for the next time.
    pub(super) fn statement(&self, sql: &'static str) -> rusqlite::Result<Lent<'a, 'c>> {
        self.statements.get(sql)
    }

    /// As [`Tx::statement`], about the tables of `day`: their names are written with `{day}`.
    pub(super) fn statement_of_day(&self, sql: &'static str, day: u32) -> rusqlite::Result<Lent<'a, 'c>> {
        self.statements.of_day(sql, day)
    }

    /// The connection itself, for statements that are not worth keeping.
    pub(super) fn connection(&self) -> &Connection {
        self.conn
    }

    /// Makes the tables of `day` if they are not there yet.
    pub(super) fn ensure_day(&mut self, day: u32) -> rusqlite::Result<()> {
        self.known.days.ensure(self.conn, day)
    }

    /// After tables were dropped.
    pub(super) fn forget_days(&mut self) {
        self.known.days.forget();
    }

    /// Deletes a count.
    pub(super) fn forget(&mut self, key: &PlaceKey) -> rusqlite::Result<()> {
        self.known.counters.by_key.remove(key);
        self.statement("DELETE FROM place WHERE key = ?1")?.execute([key.as_str()]).map(drop)
    }

    /// Places taken so far under `key`.
    pub(super) fn used(&mut self, key: &PlaceKey) -> rusqlite::Result<i64> {
        self.known.counters.load(self.conn, key)
    }

    /// Takes (`1`) or gives back (`-1`) a place; written once per commit, however many jobs touch it.
    pub(super) fn count(&mut self, key: &PlaceKey, by: i64) -> rusqlite::Result<()> {
        self.known.counters.count(self.conn, key, by)
    }

    /// Whether any partner or contract is paused.
    pub(super) fn is_any_paused(&mut self) -> rusqlite::Result<bool> {
        Ok(!self.known.paused(self.conn)?.is_empty())
    }

    /// Whether this partner or this contract is paused.
    pub(super) fn is_paused(&mut self, partner: &str, contract: &str) -> rusqlite::Result<bool> {
        let paused = self.known.paused(self.conn)?;
        let is = |kind: &str, id: &str| paused.contains(&(kind.to_owned(), id.to_owned()));
        Ok(is("partner", partner) || is("contract", contract))
    }

    /// After a pause or a resume.
    pub(super) fn forget_paused(&mut self) {
        self.known.paused = None;
    }
}

/// What the writer remembers between transactions. Nobody else writes, so it stays true; after a rollback it is read anew.
#[derive(Default)]
struct Known {
    counters: Counters,
    days: Days,
    /// Who is paused: kind and id.
    paused: Option<HashSet<(String, String)>>,
}

impl Known {
    fn paused(&mut self, conn: &Connection) -> rusqlite::Result<&HashSet<(String, String)>> {
        if self.paused.is_none() {
            let mut select = conn.prepare("SELECT kind, id FROM paused WHERE kind <> 'source'")?;
            let found = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            self.paused = Some(found.collect::<Result<_, _>>()?);
        }
        Ok(self.paused.get_or_insert_default())
    }

    fn forget(&mut self) {
        self.counters = Counters::default();
        self.days.forget();
        self.paused = None;
    }
}

/// Place counts as of the open transaction.
#[derive(Default)]
struct Counters {
    by_key: HashMap<PlaceKey, Counter>,
    /// Those that differ from what is stored.
    dirty: Vec<PlaceKey>,
}

struct Counter {
    used: i64,
    dirty: bool,
}

impl Counters {
    fn load(&mut self, conn: &Connection, key: &PlaceKey) -> rusqlite::Result<i64> {
        if let Some(counter) = self.by_key.get(key) {
            return Ok(counter.used);
        }
        let used = super::places::used(conn, key)?;
        self.by_key.insert(key.clone(), Counter { used, dirty: false });
        Ok(used)
    }

    fn count(&mut self, conn: &Connection, key: &PlaceKey, by: i64) -> rusqlite::Result<()> {
        let counter = if let Some(counter) = self.by_key.get_mut(key) {
            counter
        } else {
            let used = super::places::used(conn, key)?;
            self.by_key.entry(key.clone()).or_insert(Counter { used, dirty: false })
        };
        counter.used += by;
        if !counter.dirty {
            counter.dirty = true;
            self.dirty.push(key.clone());
        }
        Ok(())
    }

    fn write(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        for key in self.dirty.drain(..) {
            // One that was deleted meanwhile is not there any more.
            if let Some(counter) = self.by_key.get_mut(&key) {
                super::places::set(conn, &key, counter.used)?;
                counter.dirty = false;
            }
        }
        // Clean counters can be read again: forgetting them bounds the memory.
        if self.by_key.len() > COUNTERS {
            self.by_key.clear();
        }
        Ok(())
    }
}

type Outcome = Result<(), StoreError>;

/// A write waiting for its commit.
trait Job: Send {
    fn run(&mut self, tx: &mut Tx<'_, '_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Outcome);
}

/// A job's work, until the writer takes it or its caller withdraws it.
type Slot<F> = Arc<Mutex<Option<F>>>;

fn take<F>(slot: &Slot<F>) -> Option<F> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Withdraws what has not begun when its caller goes.
struct Withdraw<F>(Slot<F>);

impl<F> Drop for Withdraw<F> {
    fn drop(&mut self) {
        drop(take(&self.0));
    }
}

struct Call<F, T> {
    offered: Slot<F>,
    /// Once the writer has begun; it may run again.
    work: Option<F>,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Call<F, T>
where
    F: FnMut(&mut Tx<'_, '_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_, '_>) -> rusqlite::Result<()> {
        if self.work.is_none() {
            self.work = take(&self.offered);
        }
        if let Some(work) = &mut self.work {
            self.result = Some(work(tx)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Outcome) {
        let Self { result, reply, .. } = *self;
        let result = outcome.and_then(|()| result.ok_or(StoreError::Closed));
        // The caller may have gone (a source that hung up): what was committed stands all the same.
        let _ = reply.send(result);
    }
}

/// The way to the writer thread. The thread ends when the last handle is gone.
pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    pub(super) stats: Arc<CommitStats>,
    pub(super) health: Arc<Health>,
    /// Set by the checkpointer when nearly all of the log is in the database: the writer begins it anew.
    pub(super) log_is_done: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread on its own connection.
    pub(super) fn start(conn: Connection) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let stats = Arc::new(CommitStats::default());
        let health = Arc::new(Health::of(1));
        let log_is_done = Arc::new(AtomicBool::new(false));
        let (counted, told, done) = (Arc::clone(&stats), Arc::clone(&health), Arc::clone(&log_is_done));
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            let write = AssertUnwindSafe(|| write_until_closed(&conn, waiting, &counted, &told, &done));
            if std::panic::catch_unwind(write).is_err() {
                // Without it nothing is ever stored again; the next start recovers all that was.
                tracing::error!("the store's writer broke off, by a fault of the gateway's own: the process ends");
                std::process::abort();
            }
        })?;
        Ok(Self { jobs, thread: Some(thread), stats, health, log_is_done })
    }

    /// Runs `work` in the next transaction and returns its result once that is synced.
    pub(super) async fn commit<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_, '_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, mut answer) = oneshot::channel();
        let offered = Withdraw(Arc::new(Mutex::new(Some(work))));
        let job: Box<dyn Job> = Box::new(Call { offered: Arc::clone(&offered.0), work: None, result: None, reply });
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(StoreError::Closed),
            Err(TrySendError::Full(job)) => match tokio::time::timeout(ROOM_WITHIN, self.jobs.send(job)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(StoreError::Closed),
                Err(_) => return Err(StoreError::Busy),
            },
        }
        if let Ok(answer) = tokio::time::timeout(BEGUN_WITHIN, &mut answer).await {
            return answer.map_err(|_| StoreError::Closed)?;
        }
        if take(&offered.0).is_some() {
            return Err(StoreError::Busy);
        }
        // It has begun: whether it is committed, only the writer can say.
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing the channel lets the thread finish what it has taken; wait, so that the files are whole after us.
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.jobs, closed));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_until_closed(
    conn: &Connection,
    mut waiting: mpsc::Receiver<Box<dyn Job>>,
    stats: &CommitStats,
    health: &Health,
    log_is_done: &AtomicBool,
) {
    let statements = Statements::new(conn);
    let mut known = Known::default();
    let mut batch: Vec<Box<dyn Job>> = Vec::with_capacity(BATCH);
    let (mut began, mut pace) = (clock::instant(), Duration::ZERO);
    while let Some(first) = waiting.blocking_recv() {
        std::thread::sleep(pace.saturating_sub(began.elapsed()));
        began = clock::instant();
        if log_is_done.swap(false, Ordering::AcqRel) {
            // A disk may hang here as well as in a commit.
            health.began(0);
            super::checkpoint::begin_anew(conn);
            health.ended(0);
        }
        batch.push(first);
        while batch.len() < BATCH
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        pace = pace_after(batch.len());
        let mut outcome = transact(conn, &statements, &mut known, &mut batch, health);
        let culprit = |outcome: &Result<(), Fault>| matches!(outcome, Err(Fault::Job(_)));
        if culprit(&outcome) && batch.len() > 1 {
            let mut jobs = batch.drain(..);
            for job in jobs.by_ref() {
                let mut alone = vec![job];
                outcome = transact(conn, &statements, &mut known, &mut alone, health);
                finish(alone, &outcome, stats);
                if matches!(outcome, Err(Fault::Engine(_))) {
                    break;
                }
            }
            let rest: Vec<_> = jobs.collect();
            if !rest.is_empty() {
                finish(rest, &outcome, stats);
            }
        } else {
            finish(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)), &outcome, stats);
        }
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        stats.micros.fetch_add(micros, Ordering::Relaxed);
    }
    statements.clear();
    // Leaves no log behind for the next start to replay.
    if let Err(error) = conn.pragma_update(None, "wal_checkpoint", "TRUNCATE") {
        tracing::debug!(%error, "final checkpoint skipped");
    }
}

/// How long after the beginning of a commit of so many jobs the next may begin.
fn pace_after(jobs: usize) -> Duration {
    match u32::try_from(jobs.div_ceil(PACED)).unwrap_or(u32::MAX) {
        _ if jobs < MANY => Duration::ZERO,
        times => PACE.saturating_mul(times).min(SLOWEST_PACE),
    }
}

fn finish(jobs: Vec<Box<dyn Job>>, outcome: &Result<(), Fault>, stats: &CommitStats) {
    match outcome {
        Ok(()) => {
            stats.commits.fetch_add(1, Ordering::Relaxed);
            stats.jobs.fetch_add(jobs.len() as u64, Ordering::Relaxed);
        }
        Err(Fault::Job(error)) => {
            stats.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(store.error = %error, store.jobs = jobs.len(), "a commit failed");
        }
        // Its health has told, once.
        Err(Fault::Engine(error)) => {
            stats.failures.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(store.error = %error, store.jobs = jobs.len(), "a commit failed");
        }
    }
    let outcome = outcome.as_ref().copied().map_err(Fault::told);
    for job in jobs {
        job.answer(outcome.clone());
    }
}

/// Why a transaction failed.
enum Fault {
    /// Through one of its jobs.
    Job(String),
    /// Whatever was in it: the disk is full or failing, or somebody else has the lock.
    Engine(String),
}

impl Fault {
    fn of(error: &rusqlite::Error) -> Self {
        let engine = error.sqlite_error_code().is_some_and(|code| {
            matches!(
                code,
                ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::ReadOnly
                    | ErrorCode::CannotOpen
                    | ErrorCode::PermissionDenied
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::OutOfMemory
            )
        });
        if engine { Self::Engine(error.to_string()) } else { Self::Job(error.to_string()) }
    }

    fn told(&self) -> StoreError {
        let (Self::Job(why) | Self::Engine(why)) = self;
        StoreError::Failed(why.clone())
    }
}

/// One transaction; leaves neither it nor counters behind when it fails.
fn transact<'c>(
    conn: &'c Connection,
    statements: &Statements<'c>,
    known: &mut Known,
    batch: &mut [Box<dyn Job>],
    health: &Health,
) -> Result<(), Fault> {
    health.began(0);
    let result = (|| {
        statements.get("BEGIN IMMEDIATE")?.execute([])?;
        for job in batch.iter_mut() {
            // A job that panics fails like any other: the writer must outlive it, or nothing is ever stored again.
            let mut tx = Tx { conn, statements, known };
            std::panic::catch_unwind(AssertUnwindSafe(|| job.run(&mut tx)))
                .unwrap_or(Err(rusqlite::Error::UnwindingPanic))?;
        }
        known.counters.write(conn)?;
        failpoint::pass("writer.before_commit");
        statements.get("COMMIT")?.execute([])?;
        failpoint::pass("writer.committed");
        Ok(())
    })();
    let outcome = result.map_err(|error: rusqlite::Error| {
        known.forget();
        if !conn.is_autocommit()
            && let Err(rollback) = conn.execute_batch("ROLLBACK")
        {
            tracing::error!(store.error = %rollback, "a rollback failed");
        }
        Fault::of(&error)
    });
    match &outcome {
        Ok(()) => health.works(0),
        Err(Fault::Job(_)) => health.ended(0),
        Err(Fault::Engine(why)) => health.fails(0, why),
    }
    outcome
}
