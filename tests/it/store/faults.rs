//! PostgreSQL fails while leads and attempts are committed: whoever was told yes finds it stored, whoever was told no does
//! not, and every count is what its owners make it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lead_gateway::clock::{self, Clock};
use lead_gateway::model::delivery::{Class, DeliveryState, Verdict};
use lead_gateway::model::id::{DeliveryId, LeadId};
use lead_gateway::model::lead::LeadStatus;
use lead_gateway::model::limit::{OwnerKind, Place};
use lead_gateway::store::{
    Accept, Accepted, Change, ConnectOptions, Granted, IdempotencyKey, LeadStep, Store, StoreError,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::suite::{Case, attempt, place};
use crate::servers::postgres::Postgres;

/// The longest that anybody may wait for a database that does not answer, with room for a slow machine.
const AT_ONCE: Duration = Duration::from_secs(8);
/// Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_mins(1);

async fn connect(url: &str) -> Store {
    Store::connect(url, &ConnectOptions::default()).await.unwrap()
}

/// A case on the store at `url`; it is never reopened.
async fn case(url: &str) -> Case {
    let store = connect(url).await;
    Case::new(Box::new(move || store.clone()))
}

fn campaign(limit: u64) -> Place {
    place(OwnerKind::Campaign, "solar", "t", Some(limit))
}

fn contract(limit: u64) -> Place {
    place(OwnerKind::Contract, "bright", "t", Some(limit))
}

/// What came of leads that were posted and sent.
#[derive(Default)]
struct Told {
    stored: Vec<LeadId>,
    failed: Vec<LeadId>,
    granted: Vec<DeliveryId>,
    not_granted: Vec<DeliveryId>,
    slowest: Duration,
}

/// Posts leads and starts their attempts, many at a time, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    posters: Vec<tokio::task::JoinHandle<Told>>,
}

impl Load {
    fn start(case: &Arc<Case>) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let posters = (0..12)
            .map(|poster| tokio::spawn(post(Arc::clone(case), poster, Arc::clone(&stop), Arc::clone(&done))))
            .collect();
        Self { stop, done, posters }
    }

    /// Waits until so many more attempts were granted.
    async fn more(&self, attempts: u64) {
        let wanted = self.done.load(Ordering::Relaxed) + attempts;
        let began = clock::instant();
        while self.done.load(Ordering::Relaxed) < wanted {
            assert!(!self.posters.iter().any(tokio::task::JoinHandle::is_finished), "a poster gave up");
            assert!(began.elapsed() < PATIENCE, "nothing is committed any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Told::default();
        for poster in self.posters {
            let told = poster.await.unwrap();
            all.stored.extend(told.stored);
            all.failed.extend(told.failed);
            all.granted.extend(told.granted);
            all.not_granted.extend(told.not_granted);
            all.slowest = all.slowest.max(told.slowest);
        }
        all
    }
}

async fn post(case: Arc<Case>, poster: u32, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Told {
    let mut told = Told::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut accept = case.lead(&format!("p{poster}.{number}@example.com"));
        accept.places = vec![campaign(1_000_000)];
        accept.idempotency = Some(IdempotencyKey { key: format!("{poster}.{number}"), fingerprint: [7; 32] });
        let (lead, delivery) = (accept.lead.id, accept.deliveries[0].id);
        let began = clock::instant();
        match case.store().accept(accept).await {
            Ok(Accepted::Stored) => told.stored.push(lead),
            Ok(other) => panic!("a new lead with a new key: {other:?}"),
            Err(_) => {
                told.failed.push(lead);
                told.slowest = told.slowest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        }
        told.slowest = told.slowest.max(began.elapsed());
        match case.store().start_attempt(attempt(delivery, 1, case.now(), &[contract(1_000_000)])).await {
            Ok(Granted::Go(_)) => {
                told.granted.push(delivery);
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(other) => panic!("a queued delivery with places left: {other:?}"),
            Err(_) => told.not_granted.push(delivery),
        }
    }
    told
}

/// Everybody was told the truth, and the counts are right. `url` leads to the server itself.
async fn check(url: &str, told: &Told) {
    let store = connect(url).await;
    for lead in &told.stored {
        assert!(store.lead_exists(*lead).await.unwrap(), "{lead} was told to be stored");
    }
    for lead in &told.failed {
        assert!(!store.lead_exists(*lead).await.unwrap(), "{lead} was told not to be stored");
    }
    for delivery in &told.granted {
        assert_eq!(store.delivery(*delivery).await.unwrap().unwrap().delivery.state, DeliveryState::Sending);
    }
    for delivery in &told.not_granted {
        assert_eq!(store.delivery(*delivery).await.unwrap().unwrap().delivery.state, DeliveryState::Queued);
    }
    let counts = store.places(vec![campaign(0).key, contract(0).key]).await.unwrap();
    assert_eq!(
        counts,
        [(campaign(0).key, told.stored.len() as u64), (contract(0).key, told.granted.len() as u64)],
        "each is counted once"
    );
    assert_eq!(store.recount_places().await.unwrap()[&contract(0).key], told.granted.len() as u64);
}

/// Between the gateway and the server: loses every few a COMMIT, or the answer to one.
struct Thief {
    port: u16,
    state: Arc<Loot>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Loot {
    commits: AtomicU64,
    requests: AtomicU64,
    answers: AtomicU64,
}

impl Thief {
    async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::new(Loot::default());
        let loot = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                tokio::spawn(carry(client, server, Arc::clone(&loot)));
            }
        });
        Self { port: own, state, accepting }
    }
}

impl Drop for Thief {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, server: TcpStream, loot: Arc<Loot>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mute = Arc::new(AtomicBool::new(false));
    let muted = Arc::clone(&mute);
    let answers = async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from_server.read(&mut buffer).await {
                Ok(read) if read > 0 => {
                    if muted.load(Ordering::SeqCst) {
                        // It has committed, for it answers.
                        return;
                    }
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    };
    // Whichever ends first takes both connections with it.
    tokio::select! {
        () = answers => {}
        _ = requests(&mut from_client, &mut to_server, &loot, &mute) => {}
    }
}

/// Carries frame by frame what the client sends, until one is lost.
async fn requests(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    loot: &Loot,
    mute: &AtomicBool,
) -> std::io::Result<()> {
    // The first one has no tag.
    let mut tagged = false;
    loop {
        let mut frame = vec![0; if tagged { 5 } else { 4 }];
        from.read_exact(&mut frame).await?;
        let length = u32::from_be_bytes(frame[frame.len() - 4..].try_into().unwrap()) as usize;
        let head = frame.len();
        frame.resize(head + length - 4, 0);
        from.read_exact(&mut frame[head..]).await?;
        let commits = frame[0] == b'Q' && frame.windows(6).any(|part| part == b"COMMIT");
        if tagged && commits {
            match loot.commits.fetch_add(1, Ordering::SeqCst) % 7 {
                2 => {
                    loot.requests.fetch_add(1, Ordering::SeqCst);
                    return Ok(());
                }
                5 => {
                    loot.answers.fetch_add(1, Ordering::SeqCst);
                    // The answers to what came before may be lost too.
                    mute.store(true, Ordering::SeqCst);
                }
                _ => {}
            }
        }
        tagged = true;
        to.write_all(&frame).await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_whose_answer_is_lost_is_told_as_it_was() {
    let server = Postgres::start();
    let url = server.database();
    let thief = Thief::before(server.port()).await;
    let through = url.replace(&format!(":{}/", server.port()), &format!(":{}/", thief.port));
    drop(connect(&url).await);
    let case = Arc::new(case(&through).await);
    let load = Load::start(&case);
    load.more(100).await;
    let told = load.end().await;
    check(&url, &told).await;
    let (requests, answers) = (thief.state.requests.load(Ordering::SeqCst), thief.state.answers.load(Ordering::SeqCst));
    assert!(requests > 0 && answers > 0, "{requests} requests and {answers} answers were lost");
    assert!(!told.failed.is_empty() && !told.not_granted.is_empty(), "a lost request is a failure");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_throws_everybody_out_is_killed_or_restarted_loses_nothing() {
    let mut server = Postgres::start();
    let url = server.database();
    let case = Arc::new(case(&url).await);
    let load = Load::start(&case);
    load.more(30).await;
    for round in 0..2 {
        let (own, of) =
            (server.url(), "pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'");
        server = tokio::task::spawn_blocking(move || {
            server.psql(&own, &format!("SELECT pg_terminate_backend(pid) FROM {of}"));
            server
        })
        .await
        .unwrap();
        load.more(30).await;
        server = tokio::task::spawn_blocking(move || {
            if round % 2 == 0 {
                server.kill9();
            } else {
                server.stop();
            }
            server.restart();
            server
        })
        .await
        .unwrap();
        load.more(30).await;
    }
    let told = load.end().await;
    check(&url, &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_everybody_is_told_at_once() {
    let mut server = Postgres::start();
    let url = server.database();
    let case = case(&url).await;
    let stored = case.accept_one("a@example.com").await;
    server.stop();
    for n in 0..5 {
        let began = clock::instant();
        let refused = case.store().accept(case.lead(&format!("b{n}@example.com"))).await.unwrap_err();
        assert!(matches!(refused, StoreError::Failed(_) | StoreError::Busy), "{refused}");
        assert!(!refused.to_string().contains("example.com"), "{refused}");
        let patience = if n == 0 { AT_ONCE } else { Duration::from_secs(4) };
        assert!(began.elapsed() < patience, "{:?}", began.elapsed());
    }
    server.restart();
    let began = clock::instant();
    while case.store().accept(case.lead("c@example.com")).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "it never came back");
    }
    assert!(case.store().lead_exists(stored).await.unwrap());
}

/// Keeps locks in a session of its own until it is dropped.
struct Holder<'a> {
    server: &'a Postgres,
    url: &'a str,
    session: std::process::Child,
}

impl<'a> Holder<'a> {
    fn of(server: &'a Postgres, url: &'a str, lock: &str) -> Self {
        let session = server.spawn_psql(url, &format!("BEGIN; {lock}; SELECT pg_sleep(600)"));
        let began = clock::instant();
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while server.psql(url, sleeping) != "1" {
            assert!(began.elapsed() < PATIENCE, "nobody holds it");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { server, url, session }
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        // The server would sleep on without its client.
        let sleeping = "pg_stat_activity WHERE wait_event = 'PgSleep'";
        self.server.psql(self.url, &format!("SELECT pg_terminate_backend(pid) FROM {sleeping}"));
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}

/// What comes of an attempt that is asked for again whenever the store has failed.
async fn granted(store: &Store, delivery: DeliveryId, case: &Case, place: &Place) -> Granted {
    let began = clock::instant();
    loop {
        match store.start_attempt(attempt(delivery, 1, case.now(), std::slice::from_ref(place))).await {
            Ok(granted) => return granted,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_somebody_holds_delays_those_alone_who_need_it() {
    let server = Postgres::start();
    let url = server.database();
    let case = case(&url).await;
    let other = place(OwnerKind::Contract, "other", "t", Some(10));
    let (_, first) = case.queued("a@example.com").await;
    assert_eq!(case.start(first, 1, &[contract(10)]).await, Granted::Go(vec![]));
    let (_, needs) = case.queued("b@example.com").await;
    let (_, needs_not) = case.queued("c@example.com").await;

    let holder = Holder::of(&server, &url, "SELECT * FROM place WHERE key = 'contract/bright/t' FOR UPDATE");
    let store = case.store();
    let held = store.start_attempt(attempt(needs, 1, case.now(), &[contract(10)]));
    let (held, free, accepted) = tokio::join!(
        held,
        granted(&store, needs_not, &case, &other),
        // What comes in waits for nothing that goes out.
        store.accept(case.lead("d@example.com")),
    );
    let refused = held.unwrap_err().to_string();
    assert!(refused.contains("holds the count of contract/bright/t"), "{refused}");
    assert_eq!(free, Granted::Go(vec![]));
    assert_eq!(accepted.unwrap(), Accepted::Stored);

    // Nothing of it was done, and once the count is free it is granted.
    drop(holder);
    assert_eq!(granted(&store, needs, &case, &contract(10)).await, Granted::Go(vec![]));
    let counts = store.places(vec![contract(0).key, other.key]).await.unwrap();
    assert_eq!(counts.iter().map(|(_, used)| *used).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_gateways_bring_an_empty_database_up_to_date_at_once() {
    let server = Postgres::start();
    let url = server.database();
    let gateways: Vec<_> = (0..6)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { connect(&url).await })
        })
        .collect();
    let mut lookups = HashSet::new();
    for gateway in gateways {
        // One key for all: what one stores the others find.
        let store = gateway.await.unwrap();
        let case = Case::new(Box::new(move || store.clone()));
        let accept = Accept { status: LeadStatus::Unsold, ..case.lead("same@example.com") };
        case.store().accept(accept).await.unwrap();
        lookups.insert(server.psql(&url, "SELECT count(DISTINCT hashes) FROM found_by"));
    }
    assert_eq!(lookups, HashSet::from(["1".to_owned()]));
    assert_eq!(server.psql(&url, "SELECT string_agg(version::text, ',') FROM migration"), "1,2");

    server.psql(&url, "INSERT INTO migration VALUES (999)");
    let refused = Store::connect(&url, &ConnectOptions::default()).await.unwrap_err().to_string();
    assert!(refused.contains("newer gateway (schema 999"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_lose_commits_is_refused() {
    let server = Postgres::start();
    let url = server.database();
    server.psql(&url, "ALTER ROLE gateway SET synchronous_commit = off");
    let refused = Store::connect(&url, &ConnectOptions::default()).await.unwrap_err().to_string();
    assert!(refused.contains("`synchronous_commit = off`"), "{refused}");
}

/// Two gateways on one store, many posts of one person and of one key: one of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_people_and_limits_hold_across_gateways() {
    let server = Postgres::start();
    let url = server.database();
    let clock = Clock::system();
    let cases = [Arc::new(case(&url).await), Arc::new(case(&url).await)];
    let posts: Vec<_> = (0..120)
        .map(|n| {
            let case = Arc::clone(&cases[n % 2]);
            let mut accept = case.lead("x@example.com");
            Arc::get_mut(&mut accept.lead).unwrap().id = LeadId(clock.uuid());
            accept.deliveries.iter_mut().for_each(|delivery| delivery.id = DeliveryId(clock.uuid()));
            match n / 2 % 3 {
                0 => accept.idempotency = Some(IdempotencyKey { key: "one".to_owned(), fingerprint: [1; 32] }),
                1 => {
                    let (text, window) = ("email".to_owned(), Duration::from_hours(1));
                    accept.dedupe = vec![lead_gateway::store::DedupeKey { text, window }];
                }
                _ => accept.places = vec![campaign(7)],
            }
            tokio::spawn(async move { case.store().accept(accept).await.unwrap() })
        })
        .collect();
    let (mut stored, mut taken, mut duplicate, mut full) = (0, HashSet::new(), 0, 0);
    for post in posts {
        match post.await.unwrap() {
            Accepted::Stored => stored += 1,
            Accepted::KeyTaken(other) => drop(taken.insert(other.lead)),
            Accepted::Duplicate => duplicate += 1,
            Accepted::LimitReached(_) => full += 1,
        }
    }
    assert_eq!((stored, taken.len(), duplicate, full), (1 + 1 + 7, 1, 39, 33));
}

/// Far from a limit a commit does not lock the count before it decides: whoever comes to the last places at the same moment
/// must find out when it writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_places_are_taken_once_by_gateways_that_all_saw_them_free() {
    const LIMIT: u64 = 25;
    let server = Postgres::start();
    let url = server.database();
    let cases = [case(&url).await, case(&url).await, case(&url).await, case(&url).await].map(Arc::new);
    let clock = Clock::system();
    for round in 0..3 {
        let period = format!("round{round}");
        let posters = cases.clone().map(|case| {
            let (clock, period) = (clock.clone(), period.clone());
            tokio::spawn(async move {
                let mut stored = 0;
                loop {
                    let mut accept = case.lead("x@example.com");
                    Arc::get_mut(&mut accept.lead).unwrap().id = LeadId(clock.uuid());
                    accept.deliveries.iter_mut().for_each(|delivery| delivery.id = DeliveryId(clock.uuid()));
                    accept.places = vec![place(OwnerKind::Campaign, "solar", &period, Some(LIMIT))];
                    match case.store().accept(accept).await.unwrap() {
                        Accepted::Stored => stored += 1,
                        Accepted::LimitReached(_) => return stored,
                        other => panic!("{other:?}"),
                    }
                }
            })
        });
        let mut stored = 0;
        for poster in posters {
            stored += poster.await.unwrap();
        }
        assert_eq!(stored, LIMIT, "{period}");
        let key = place(OwnerKind::Campaign, "solar", &period, None).key;
        assert_eq!(cases[0].store().places(vec![key.clone()]).await.unwrap(), [(key, LIMIT)]);
        // After a refusal counts are locked first, for a while.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
}

/// A gateway that was taken for dead goes on: its reply still counts while nobody else has acted on the delivery.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_after_its_attempt_was_given_up_says_what_it_was() {
    let server = Postgres::start();
    let sqlite = tempfile::tempdir().unwrap();
    let sqlite = Store::open(sqlite.path()).unwrap();
    for case in [case(&server.database()).await, Case::new(Box::new(move || sqlite.clone()))] {
        let sold = Change { verdict: Some(Verdict::Accepted), ..Change::to(DeliveryState::Accepted) };
        let unknown = Change { unknown: true, ..Change::to(DeliveryState::Unknown) };
        let retried = Change { unknown: true, ..Change::to(DeliveryState::Queued) };
        for (given_up, then_resolved) in [(&unknown, false), (&retried, false), (&unknown, true)] {
            let ids = case.queued("a@example.com").await;
            assert_eq!(case.start(ids.1, 1, &[contract(100)]).await, Granted::Go(vec![]));
            let mut lost = case.ended(ids, given_up.clone(), LeadStep::Untouched);
            let end = std::sync::Arc::make_mut(lost.attempt.as_mut().unwrap());
            (end.verdict, end.class) = (Verdict::Unknown, Class::Crash);
            case.step(lost).await;
            if then_resolved {
                let mut resolved = case.ended(ids, Change::to(DeliveryState::Rejected), LeadStep::Untouched);
                (resolved.from, resolved.attempt) = (DeliveryState::Unknown, None);
                case.step(resolved).await;
            }
            case.step(case.ended(ids, sold.clone(), LeadStep::Sold)).await;
            let state = if then_resolved { DeliveryState::Rejected } else { DeliveryState::Accepted };
            assert_eq!(case.record(ids.1).await.delivery.state, state);
            // What was said is kept in any case.
            let attempts = case.store().attempts(ids.1).await.unwrap();
            assert_eq!(attempts[0].attempt.class, Some(Class::Response));
        }
        // Once there is another attempt, the first one's reply changes nothing.
        let ids = case.queued("b@example.com").await;
        case.start(ids.1, 1, &[]).await;
        let mut lost = case.ended(ids, retried, LeadStep::Untouched);
        let end = std::sync::Arc::make_mut(lost.attempt.as_mut().unwrap());
        (end.verdict, end.class) = (Verdict::Unknown, Class::Crash);
        case.step(lost).await;
        assert_eq!(case.start(ids.1, 2, &[]).await, Granted::Go(vec![]));
        case.step(case.ended(ids, sold, LeadStep::Sold)).await;
        assert_eq!(case.record(ids.1).await.delivery.state, DeliveryState::Sending);
    }
}
