//! The writer: takes whatever has queued up and commits it in one transaction of two round trips.
//!
//! ```text
//!  first    BEGIN ─ locks and reads in the agreed order (store/postgres/found.rs)
//!           decisions in memory, job by job (accept.rs, attempt.rs, step.rs)
//!  second   bulk writes (store/postgres/writes.rs), its mark ─ COMMIT
//! ```
//!
//! The counts of places are what several gateways meet at, and nobody can commit while another one holds them. So far from a
//! limit they are read without being locked, and locked only in the second round trip, when they are changed: there it is
//! checked that the limits still hold, and where they do not, or a place would have to be refused, all of it is done again with
//! locked counts ([`Patience`]).
//!
//! Nobody is told anything before the commit is answered. When that answer is lost, the transaction's mark tells on another
//! connection what became of it (`mark`, `settle`); until the database says so, those who wait for these jobs go on waiting.
//!
//! There are two lanes, each with a queue and a connection of its own: what comes in, and what goes out. They lock no common
//! rows, so neither waits for the other; while one is being synced, the other reads and decides.
//!
//! A job that fails spoils its transaction: the batch is then halved until the culprit fails alone. While the database is
//! away, jobs are refused after [`ROOM_WITHIN`] at the latest, and connecting is tried for ever.

mod settle;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::accept::AcceptWork;
use super::address::Address;
use super::found::{Found, Patience, Reads};
use super::lookups::Unsorted;
use super::mark::Mark;
use super::session::{self, Promise};
use super::statements::Statements;
use super::step::{RedeliverWork, StepWork};
use super::writes::Writes;
use super::{days, describe};
use crate::clock;
use crate::failpoint;
use crate::model::limit::PlaceKey;
use crate::store::fleet::Fleet;
use crate::store::health::Health;
use crate::store::{Accepted, CommitStats, Granted, RefusalRecord, StartAttempt, Stepped, StoreError};

/// Jobs that may wait in a lane; beyond it callers wait for room, at most [`ROOM_WITHIN`].
const QUEUE: usize = 8_192;
/// Jobs in one transaction: bounds the latency of the first of them.
const BATCH: usize = 512;
/// While many wait, the commits of a lane begin no more often than this: each has costs of its own, at either end of the
/// connection, which then are shared by more of them. With a few at a time none waits.
const PACE: Duration = Duration::from_millis(8);
/// Jobs in a commit from which on many wait.
const MANY: usize = 8;
/// Bytes of leads and exchanges in one transaction.
const BATCH_BYTES: usize = 16 << 20;
/// How long a caller waits until its job is taken up before it is told [`StoreError::Busy`]; and how long a job that was
/// taken up is carried through broken connections before it fails.
const ROOM_WITHIN: Duration = Duration::from_secs(2);
/// How long counts are locked before decisions, once a limit was met.
const STRICT_FOR: Duration = Duration::from_secs(1);
/// Places whose rows are remembered to exist.
const PLACES: usize = 200_000;
/// Unclear commits that may be looked into at the same time; with more of them no further commit is tried.
const UNSETTLED: usize = 8;
/// How often a transaction that met another one is tried before its jobs are tried apart.
const TRIES: u32 = 4;
/// A round trip that takes longer has lost its connection. More than the session's own time-outs.
const ROUND_TRIP: Duration = Duration::from_secs(8);
/// Pauses between two tries to connect: the first and the longest.
const CONNECT_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Once the database is known to be away: so long jobs are refused before connecting is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// What is to be committed.
#[derive(Clone)]
pub(super) enum Work {
    Accept(Arc<AcceptWork>),
    Attempt(Arc<StartAttempt>),
    Step(Arc<StepWork>),
    Redeliver(Arc<RedeliverWork>),
    Refuse(Arc<RefusalRecord>),
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Done {
    Accepted(Accepted),
    Granted(Granted),
    Stepped(Stepped),
    Redelivered(bool),
    Refused,
}

/// What a job is told.
type Answer = Result<Done, StoreError>;

/// What only one job of a transaction may touch: the others come with the next.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Held {
    Delivery(uuid::Uuid),
    Lead(uuid::Uuid),
    Key(String, String),
    Person([u8; 32]),
}

impl Work {
    fn holds(&self) -> Vec<Held> {
        match self {
            Self::Accept(work) => work.holds(),
            Self::Attempt(work) => vec![Held::Delivery(work.delivery.0)],
            Self::Step(work) => vec![Held::Delivery(work.step.delivery.0), Held::Lead(work.step.lead.0)],
            Self::Redeliver(work) => work.holds(),
            Self::Refuse(_) => Vec::new(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Accept(work) => work.bytes(),
            Self::Step(work) => work.bytes(),
            Self::Attempt(_) | Self::Redeliver(_) => 0,
            Self::Refuse(refusal) => refusal.request.body.len() + refusal.request.head.len(),
        }
    }

    /// The day whose partitions it writes to, if any.
    fn day(&self) -> Option<u32> {
        match self {
            Self::Accept(work) => Some(work.day),
            Self::Step(work) => work.needs_day.then_some(work.day),
            Self::Attempt(_) | Self::Redeliver(_) => None,
            Self::Refuse(refusal) => Some(crate::store::days::day_of(refusal.at)),
        }
    }
}

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// A write waiting for its commit.
struct Job {
    work: Work,
    reply: oneshot::Sender<Answer>,
    /// Either the writer takes it or its caller withdraws it, never both.
    stands: Arc<AtomicU8>,
}

impl Job {
    fn take(&self) -> bool {
        self.stands.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn answer(self, outcome: Answer) {
        // The caller may have gone (a source that hung up): what was committed stands all the same.
        let _ = self.reply.send(outcome);
    }
}

/// The way to the committers. They end when this is gone and what they took is done.
pub(super) struct Writer {
    incoming: mpsc::Sender<Job>,
    outgoing: mpsc::Sender<Job>,
    pub(super) stats: Arc<CommitStats>,
    pub(super) health: Arc<Health>,
    /// What was written to be looked up, and is not sorted yet.
    pub(super) unsorted: Arc<Unsorted>,
}

/// What the committers share.
struct Shared {
    address: Address,
    promise: Promise,
    fleet: Arc<Fleet>,
    stats: Arc<CommitStats>,
    health: Arc<Health>,
    /// Days whose partitions are known to exist.
    days: StdMutex<HashSet<u32>>,
    /// Places whose rows are known to exist.
    places: StdMutex<HashSet<PlaceKey>>,
    unsettled: Arc<Semaphore>,
    unsorted: Arc<Unsorted>,
}

impl Writer {
    /// Starts the committers on connections of their own.
    pub(super) fn start(address: Address, promise: Promise, fleet: Arc<Fleet>) -> Self {
        let (stats, health) = (Arc::new(CommitStats::default()), Arc::new(Health::of(2)));
        let unsorted = Arc::new(Unsorted::default());
        let shared = Arc::new(Shared {
            address,
            promise,
            fleet,
            stats: Arc::clone(&stats),
            health: Arc::clone(&health),
            days: StdMutex::default(),
            places: StdMutex::default(),
            unsettled: Arc::new(Semaphore::new(UNSETTLED)),
            unsorted: Arc::clone(&unsorted),
        });
        let start = |lane| {
            let (jobs, waiting) = mpsc::channel(QUEUE);
            let shared = Arc::clone(&shared);
            let committer =
                Committer { lane, shared, waiting, link: None, away: None, strict: None, put_off: VecDeque::new() };
            tokio::spawn(async move {
                // Without it nothing is stored any more: whoever started the process starts it again.
                if tokio::spawn(committer.run()).await.is_err_and(|error| error.is_panic()) {
                    tracing::error!("the store's writer broke off, by a fault of the gateway's own: the process ends");
                    std::process::exit(1);
                }
            });
            jobs
        };
        Self { incoming: start(INCOMING), outgoing: start(OUTGOING), stats, health, unsorted }
    }

    /// Has `work` committed, and says what became of it once that is certain.
    pub(super) async fn commit(&self, work: Work) -> Answer {
        let lane = match work {
            Work::Accept(_) | Work::Refuse(_) => &self.incoming,
            Work::Attempt(_) | Work::Step(_) | Work::Redeliver(_) => &self.outgoing,
        };
        let (reply, mut answer) = oneshot::channel();
        let stands = Arc::new(AtomicU8::new(WAITING));
        let job = Job { work, reply, stands: Arc::clone(&stands) };
        let until = clock::instant() + ROOM_WITHIN;
        match tokio::time::timeout_at(until.into(), lane.send(job)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(StoreError::Closed),
            Err(_) => return Err(StoreError::Busy),
        }
        if let Ok(answered) = tokio::time::timeout_at(until.into(), &mut answer).await {
            return answered.map_err(|_| StoreError::Closed)?;
        }
        if stands.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return Err(StoreError::Busy);
        }
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

/// A connection with what was prepared on it.
struct Link {
    client: Client,
    statements: Statements,
    /// Its own, for the marks of its commits.
    id: Uuid,
}

/// How a transaction ended.
enum End {
    /// Its commit was answered.
    Committed(Vec<Answer>),
    /// Nothing of it was done, and the connection can be used again.
    RolledBack(tokio_postgres::Error),
    /// Nothing of it was done: what was trusted says that a place cannot be had.
    Doubtful,
    /// Nothing of it was done: a place that was known to be there is not.
    NoPlace,
    /// Nothing of it was done: the connection broke before the commit was sent.
    Broken(String),
    /// The commit was sent, and its answer lost.
    Unclear { mark: Mark, answers: Vec<Answer> },
}

/// The lane of what comes in.
const INCOMING: usize = 0;
/// The lane of what goes out.
const OUTGOING: usize = 1;

/// The one that commits what is in a lane.
struct Committer {
    lane: usize,
    shared: Arc<Shared>,
    waiting: mpsc::Receiver<Job>,
    link: Option<Link>,
    /// The database is away; when to try again.
    away: Option<Instant>,
    /// Counts are locked before they are decided upon, until then.
    strict: Option<Instant>,
    /// Jobs that touch what another job of the last batch touched.
    put_off: VecDeque<Job>,
}

impl Committer {
    async fn run(mut self) {
        while let Some(batch) = self.next_batch().await {
            let (began, many) = (clock::instant(), batch.len() >= MANY);
            let mut batches = vec![batch];
            while let Some(batch) = batches.pop() {
                let started = clock::instant();
                self.shared.health.began(self.lane);
                batches.extend(self.commit(batch, started).await);
                let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.shared.stats.micros.fetch_add(micros, Ordering::Relaxed);
            }
            if many {
                tokio::time::sleep_until((began + PACE).into()).await;
            }
        }
    }

    /// Whatever has queued up, as far as it can go together; `None`: there will be no more.
    async fn next_batch(&mut self) -> Option<Vec<Job>> {
        let (mut batch, mut held, mut bytes) = (Vec::new(), HashSet::new(), 0);
        let mut put_off = VecDeque::new();
        let mut add = |job: Job, bytes: &mut usize, put_off: &mut VecDeque<Job>| {
            let holds = job.work.holds();
            if holds.iter().any(|one| held.contains(one)) {
                put_off.push_back(job);
            } else {
                held.extend(holds);
                *bytes += job.work.bytes();
                batch.push(job);
            }
            batch.len()
        };
        let mut taken = 0;
        for job in std::mem::take(&mut self.put_off) {
            taken = add(job, &mut bytes, &mut put_off);
        }
        while taken < BATCH && put_off.len() < BATCH && bytes < BATCH_BYTES {
            let next = if taken == 0 { self.waiting.recv().await } else { self.waiting.try_recv().ok() };
            let Some(job) = next else { break };
            if job.take() {
                taken = add(job, &mut bytes, &mut put_off);
            }
        }
        self.put_off = put_off;
        (!batch.is_empty()).then_some(batch)
    }

    /// Commits a batch and answers its jobs; what comes back is to be tried apart.
    async fn commit(&mut self, batch: Vec<Job>, taken: Instant) -> Vec<Vec<Job>> {
        let trusts = self.strict.is_none_or(|until| clock::instant() >= until);
        let (mut tries, mut patience) = (0, if trusts { Patience::Trusts } else { Patience::Waits });
        loop {
            let Some(mut link) = self.linked(taken).await else {
                self.away(batch, &StoreError::Failed("the database cannot be reached".to_owned()));
                return Vec::new();
            };
            tries += 1;
            let end = self.transact(&mut link, &batch, patience).await;
            match end {
                End::Committed(answers) => {
                    self.link = Some(link);
                    self.shared.finish(self.lane, batch, answers);
                    return Vec::new();
                }
                End::Unclear { mark, answers } => {
                    self.shared.health.ended(self.lane);
                    self.shared.settle(self.lane, batch, answers, mark).await;
                    return Vec::new();
                }
                End::Broken(why) => {
                    tracing::warn!(store.error = why, "the connection to the database broke; it is made anew");
                    // Another try, unless the jobs have waited long enough.
                    if taken.elapsed() > ROOM_WITHIN {
                        self.away(batch, &StoreError::Failed(why));
                        return Vec::new();
                    }
                }
                End::Doubtful => {
                    self.link = Some(link);
                    patience = self.be_strict();
                }
                // Retention forgot it meanwhile.
                End::NoPlace => {
                    self.link = Some(link);
                    if tries >= TRIES {
                        patience = Patience::StepsOver;
                    }
                }
                End::RolledBack(error) => {
                    self.link = (!link.client.is_closed()).then_some(link);
                    match Trouble::of(&error) {
                        // What was read of a count does not hold any more.
                        _ if patience == Patience::Trusts && error.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                            patience = self.be_strict();
                        }
                        Trouble::Held if patience != Patience::StepsOver => {
                            tracing::warn!(
                                "somebody holds what a commit needs; it goes on without what depends on that"
                            );
                            patience = Patience::StepsOver;
                        }
                        Trouble::Met if tries < TRIES => {
                            tracing::debug!(store.error = describe(&error), "a commit met another; it is tried again");
                            tokio::time::sleep(Duration::from_millis(10).mul_f64(f64::from(tries) * clock::draw()))
                                .await;
                        }
                        Trouble::NoDay if tries < TRIES => self.shared.forget_days(),
                        Trouble::Server => {
                            self.away(batch, &error.into());
                            return Vec::new();
                        }
                        _ if batch.len() > 1 => return halves(batch),
                        _ => {
                            self.fail(batch, &error.into());
                            return Vec::new();
                        }
                    }
                }
            }
        }
    }

    /// The connection, made anew where there is none. `None`: it could not be made in time for a batch that was taken up
    /// at `taken`.
    async fn linked(&mut self, taken: Instant) -> Option<Link> {
        if let Some(link) = self.link.take().filter(|link| !link.client.is_closed()) {
            return Some(link);
        }
        // It was away a moment ago: whoever comes is told at once.
        if self.away.is_some_and(|next| clock::instant() < next) {
            return None;
        }
        let (mut pause, longest) = CONNECT_PAUSES;
        loop {
            match tokio::time::timeout(ROOM_WITHIN, self.shared.connect()).await {
                Ok(Ok(link)) => {
                    self.away = None;
                    return Some(link);
                }
                Ok(Err(error)) => tracing::warn!(store.error = describe(&error), "no connection to the database"),
                Err(_) => tracing::warn!("no connection to the database in time"),
            }
            if self.away.is_some() || taken.elapsed() + pause > ROOM_WITHIN {
                self.away = Some(clock::instant() + TRY_AGAIN);
                return None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Locks counts before it decides, from now on and for a while: a limit is near.
    fn be_strict(&mut self) -> Patience {
        self.strict = Some(clock::instant() + STRICT_FOR);
        Patience::Waits
    }

    fn fail(&self, batch: Vec<Job>, error: &StoreError) {
        self.shared.health.ended(self.lane);
        self.shared.fail(batch, error);
    }

    /// Fails a batch through no fault of its own.
    fn away(&self, batch: Vec<Job>, error: &StoreError) {
        self.shared.health.fails(self.lane, &error.to_string());
        self.shared.fail(batch, error);
    }

    /// One transaction.
    async fn transact(&self, link: &mut Link, batch: &[Job], patience: Patience) -> End {
        let shared = &self.shared;
        let Link { client, statements, id } = link;
        let wanted: HashSet<u32> = batch.iter().filter_map(|job| job.work.day()).collect();
        for day in shared.unknown_days(wanted) {
            match tokio::time::timeout(ROUND_TRIP, days::ensure(client, day)).await {
                Ok(Ok(())) => shared.know_day(day),
                Ok(Err(error)) if error.as_db_error().is_none() => return End::Broken(describe(&error)),
                Ok(Err(error)) => return End::RolledBack(error),
                Err(_) => return End::Broken("a partition was not made in time".to_owned()),
            }
        }

        let reads = Reads::of(batch.iter().map(|job| &job.work));
        let unknown = shared.unknown_places(reads.places());
        if !unknown.is_empty() {
            let keys: Vec<&str> = unknown.iter().map(PlaceKey::as_str).collect();
            match tokio::time::timeout(ROUND_TRIP, client.execute(&statements.make_places, &[&keys])).await {
                Ok(Ok(_)) => shared.know_places(unknown),
                Ok(Err(error)) if error.as_db_error().is_none() => return End::Broken(describe(&error)),
                Ok(Err(error)) => return End::RolledBack(error),
                Err(_) => return End::Broken("a place was not made in time".to_owned()),
            }
        }
        let read = tokio::time::timeout(ROUND_TRIP, Found::read(client, statements, &reads, patience)).await;
        let mut found = match read {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return roll_back(client, error).await,
            Err(_) => return End::Broken("the database did not answer in time".to_owned()),
        };
        if !found.has_places(reads.places()) {
            shared.forget_places();
            if patience != Patience::StepsOver {
                return give_up(client, End::NoPlace).await;
            }
        }

        let member = shared.fleet.member();
        let mut writes = Writes::of(&member);
        let mut answers = Vec::with_capacity(batch.len());
        for job in batch {
            answers.push(decide(&job.work, &mut found, &mut writes));
        }
        if writes.is_full && patience == Patience::Trusts {
            return give_up(client, End::Doubtful).await;
        }
        failpoint::pass("writer.before_commit");
        let mark = Mark { link: *id, mark: clock::random_uuid() };
        match tokio::time::timeout(ROUND_TRIP, writes.commit(client, statements, patience, mark)).await {
            Ok(Ok(())) => {
                failpoint::pass("writer.committed");
                shared.unsorted.add(writes.looked_up());
                End::Committed(answers)
            }
            // A statement failed, so the COMMIT behind it rolled back, and was answered.
            Ok(Err(Some(error))) => End::RolledBack(error),
            Ok(Err(None)) | Err(_) => End::Unclear { mark, answers },
        }
    }
}

/// Decides a job; one that fails writes nothing, and spoils nothing for the others.
fn decide<'a>(work: &'a Work, found: &mut Found, writes: &mut Writes<'a>) -> Answer {
    Ok(match work {
        Work::Accept(work) => Done::Accepted(super::accept::decide(work, found, writes)?),
        Work::Attempt(attempt) => Done::Granted(super::attempt::decide(attempt, found, writes)?),
        Work::Step(work) => Done::Stepped(super::step::decide(work, found, writes)?),
        Work::Redeliver(work) => Done::Redelivered(super::step::redeliver(work, found, writes)?),
        Work::Refuse(refusal) => {
            writes.refusals.push(refusal);
            Done::Refused
        }
    })
}

async fn roll_back(client: &Client, error: tokio_postgres::Error) -> End {
    if error.as_db_error().is_none() || client.is_closed() {
        return End::Broken(describe(&error));
    }
    match tokio::time::timeout(ROUND_TRIP, client.batch_execute("ROLLBACK")).await {
        Ok(Ok(())) => End::RolledBack(error),
        _ => End::Broken(describe(&error)),
    }
}

/// Rolls back what is to be tried in another way.
async fn give_up(client: &Client, end: End) -> End {
    match tokio::time::timeout(ROUND_TRIP, client.batch_execute("ROLLBACK")).await {
        Ok(Ok(())) => end,
        _ => End::Broken("a transaction could not be rolled back".to_owned()),
    }
}

fn halves(mut batch: Vec<Job>) -> Vec<Vec<Job>> {
    let second = batch.split_off(batch.len() / 2);
    // The last is tried first.
    vec![second, batch]
}

/// What a failed transaction calls for.
enum Trouble {
    /// Another transaction was in the way, and is over.
    Met,
    /// Another transaction is in the way, for longer than any of ours.
    Held,
    /// The partitions of a day are not there.
    NoDay,
    /// The server cannot write now, whatever the jobs are.
    Server,
    /// One of the jobs.
    Job,
}

impl Trouble {
    fn of(error: &tokio_postgres::Error) -> Self {
        let Some(code) = error.code() else { return Self::Server };
        if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code) {
            return Self::Met;
        }
        if *code == SqlState::LOCK_NOT_AVAILABLE {
            return Self::Held;
        }
        if days::is_missing(error) {
            return Self::NoDay;
        }
        match code.code() {
            // No disk, no memory, too many connections, shutting down, cancelled, I/O errors, only for reading.
            code if matches!(code.get(..2), Some("53" | "57" | "58" | "XX" | "08")) || code == "25006" => Self::Server,
            _ => Self::Job,
        }
    }
}

impl Shared {
    async fn connect(&self) -> Result<Link, tokio_postgres::Error> {
        let client = session::for_writer(&self.address, &self.promise).await?;
        let statements = Box::pin(Statements::prepare(&client)).await?;
        Ok(Link { client, statements, id: clock::random_uuid() })
    }

    fn finish(&self, lane: usize, batch: Vec<Job>, answers: Vec<Answer>) {
        self.health.works(lane);
        self.stats.commits.fetch_add(1, Ordering::Relaxed);
        self.stats.jobs.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for (job, answer) in batch.into_iter().zip(answers) {
            job.answer(answer);
        }
    }

    fn fail(&self, batch: Vec<Job>, error: &StoreError) {
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        tracing::error!(store.error = %error, store.jobs = batch.len(), "a commit failed");
        for job in batch {
            job.answer(Err(error.clone()));
        }
    }

    fn unknown_days(&self, mut wanted: HashSet<u32>) -> HashSet<u32> {
        let known = self.days.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.retain(|day| !known.contains(day));
        wanted
    }

    fn know_day(&self, day: u32) {
        self.days.lock().unwrap_or_else(PoisonError::into_inner).insert(day);
    }

    fn unknown_places(&self, wanted: &BTreeSet<PlaceKey>) -> Vec<PlaceKey> {
        let known = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().filter(|key| !known.contains(*key)).cloned().collect()
    }

    fn know_places(&self, made: Vec<PlaceKey>) {
        let mut known = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // They can be made again: forgetting them bounds the memory.
        if known.len() > PLACES {
            known.clear();
        }
        known.extend(made);
    }

    /// Retention forgot one, here or at another gateway.
    fn forget_places(&self) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Retention dropped one, here or at another gateway.
    fn forget_days(&self) {
        self.days.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
