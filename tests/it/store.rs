//! The store: what every engine must do (`store/suite.rs`, `store/search.rs`, `store/model.rs`), and what each promises
//! besides.

mod faults;
mod fleet;
mod model;
mod plans;
mod search;
pub mod suite;
mod unclear;
mod upgrade;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lead_gateway::clock;
use lead_gateway::store::{ConnectOptions, Joined, Newcomer, Store, StoreError};

use crate::servers::postgres::Postgres;

use suite::{Case, Opener};

/// A directory of its own for each case.
fn sqlite() -> Opener {
    let dir = tempfile::tempdir().unwrap();
    Box::new(move || Store::open(dir.path()).unwrap())
}

/// A server and a database of its own for each case.
fn postgres() -> Opener {
    on(&Arc::new(Postgres::start()))
}

/// A new database on a server. Who opens it again is another gateway, which takes over what the one before left.
fn on(server: &Arc<Postgres>) -> Opener {
    let (server, url) = (Arc::clone(server), server.database());
    let before: Mutex<Option<Store>> = Mutex::new(None);
    Box::new(move || {
        let _ = &server;
        let opened = async {
            let last = before.lock().unwrap().take();
            if let Some(last) = last {
                last.leave().await.unwrap();
            }
            let store = Store::connect(&url, &ConnectOptions::default()).await.unwrap();
            let newcomer = Newcomer { name: "test".to_owned(), alone: false };
            assert_eq!(store.join(&newcomer).await.unwrap(), Joined::Member);
            store.heartbeat(true).await.unwrap();
            *before.lock().unwrap() = Some(store.clone());
            store
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(opened))
    })
}

/// One test for each sentence of the suite.
macro_rules! passes {
    ($engine:ident: $($file:ident::$sentence:ident),* $(,)?) => {
        mod $engine {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $sentence() {
                    super::$file::$sentence(super::suite::Case::new(super::$engine())).await;
                }
            )*
        }
    };
}

/// What every engine must do.
macro_rules! passes_the_suite {
    ($engine:ident) => {
        passes! { $engine:
            suite::a_lead_is_stored_with_all_that_belongs_to_it_or_not_at_all,
            suite::an_idempotency_key_is_remembered_for_24_hours,
            suite::of_many_posts_with_one_idempotency_key_one_is_stored,
            suite::a_person_is_a_duplicate_within_the_window_and_no_longer,
            suite::of_many_posts_of_one_person_one_is_no_duplicate,
            suite::test_leads_are_neither_counted_nor_remembered,
            suite::accepts_at_once_fill_a_limit_exactly,
            suite::attempts_at_once_fill_a_limit_exactly,
            suite::an_attempt_with_the_wrong_number_or_state_is_stale,
            suite::a_paused_partner_or_contract_starts_no_attempt,
            suite::the_places_of_an_unknown_attempt_move_with_the_next,
            suite::a_full_period_takes_nothing_and_says_how_much_is_taken,
            suite::a_step_from_another_state_is_stale_and_changes_nothing,
            suite::of_two_steps_that_hand_one_lead_on_one_wins,
            suite::a_definite_no_gives_the_places_back_and_unknown_keeps_them,
            suite::a_redelivery_waits_until_the_old_one_is_final,
            suite::exchanges_come_back_byte_for_byte,
            suite::what_is_looked_up_is_found_over_many_days,
            suite::counts_of_past_periods_are_forgotten_but_for_those_that_the_unfinished_own,
            suite::retention_drops_whole_days_and_keeps_what_is_unfinished,
            suite::old_leads_go_in_bites_with_their_deliveries_and_attempts,
            suite::a_failing_write_fails_alone_among_many,
            suite::turns_never_go_back,
            suite::queues_are_paged_in_order_without_loss_or_repetition,
            suite::open_attempts_are_found_page_by_page_after_a_restart,
            suite::resources_change_all_or_none_and_keep_their_versions,
            suite::thousands_of_resources_change_at_once,
            suite::pauses_and_tokens_outlive_a_restart,
            suite::whatever_is_changed_is_counted,
            search::leads_are_found_as_a_filter_over_all_of_them_would,
            search::deliveries_are_found_as_a_filter_over_all_of_them_would,
            search::refusals_are_found_as_a_filter_over_all_of_them_would,
            search::more_leads_than_are_looked_up_at_a_time_are_all_found,
        }
    };
}

passes_the_suite!(sqlite);
passes_the_suite!(postgres);

#[test]
fn any_history_on_sqlite_agrees_with_a_simple_model() {
    model::run(sqlite, 32);
}

#[test]
fn any_history_on_postgres_agrees_with_a_simple_model() {
    let server = Arc::new(Postgres::start());
    model::run(|| on(&server), 4);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_directory_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/data");
    let _store = Store::open(&data).unwrap();
    assert_eq!(mode(&data), 0o700);
}

#[test]
fn the_database_is_for_its_owner_alone_in_anybodys_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let _store = Store::open(dir.path()).unwrap();
    for file in ["gateway.db", "gateway.db-wal", "gateway.db-shm"] {
        assert_eq!(mode(&dir.path().join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_directory_has_one_store_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!Store::is_in_use(dir.path()));
    let store = Store::open(dir.path()).unwrap();
    assert!(Store::is_in_use(dir.path()));
    let second = Store::open(dir.path()).unwrap_err().to_string();
    assert!(second.contains("another gateway uses it"), "{second}");
    drop(store);
    assert!(!Store::is_in_use(dir.path()));
    Store::open(dir.path()).unwrap();
}

#[test]
fn opening_twice_migrates_once_and_leaves_no_log_behind() {
    let dir = tempfile::tempdir().unwrap();
    let version = || {
        let conn = rusqlite::Connection::open(dir.path().join("gateway.db")).unwrap();
        conn.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0)).unwrap()
    };
    drop(Store::open(dir.path()).unwrap());
    let first = version();
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(version(), first);
    assert!(first > 0);
    let log = std::fs::metadata(dir.path().join("gateway.db-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0);
}

#[test]
fn a_store_of_a_newer_gateway_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let conn = rusqlite::Connection::open(dir.path().join("gateway.db")).unwrap();
    conn.pragma_update(None, "user_version", 999).unwrap();
    let refused = Store::open(dir.path()).unwrap_err();
    assert!(matches!(refused, StoreError::Open { .. }));
    assert!(refused.to_string().contains("newer gateway (schema 999"), "{refused}");
    assert_eq!(conn.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0)).unwrap(), 999);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let refused = Store::open(&dir.path().join("file/data")).unwrap_err().to_string();
    assert!(refused.contains("file/data") && refused.contains("check the path"), "{refused}");
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("gateway.db"), "not a database, ".repeat(1_000)).unwrap();
    let refused = Store::open(dir.path()).unwrap_err();
    assert!(matches!(refused, StoreError::Open { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_write_blocks_no_reader_and_a_long_read_no_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let case = Case::new(Box::new(move || store.clone()));
    let lead = case.accept_one("a@example.com").await;

    // Somebody else's write transaction, open for long: reads answer, a write waits for it.
    let other = rusqlite::Connection::open(dir.path().join("gateway.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE lead SET campaign = 'other'").unwrap();
    let waiting = tokio::spawn({
        let store = case.store();
        let accept = case.lead("b@example.com");
        async move { store.accept(accept).await }
    });
    for _ in 0..20 {
        assert!(case.store().lead(lead).await.unwrap().unwrap().lead.campaign.as_str() == "solar");
    }
    assert!(!waiting.is_finished());
    other.execute_batch("ROLLBACK").unwrap();
    waiting.await.unwrap().unwrap();

    // A read transaction, open for long: it sees what it began with, and writes go on.
    other.execute_batch("BEGIN").unwrap();
    let leads = || other.query_row("SELECT count(*) FROM lead", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(leads(), 2);
    let began = clock::instant();
    for n in 0..20 {
        case.accept_one(&format!("c{n}@example.com")).await;
    }
    assert!(began.elapsed() < Duration::from_secs(8), "the writes waited for the reader");
    assert_eq!(leads(), 2);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(leads(), 22);
}

/// When, who, what, to what, and why.
type Act = (i64, String, String, String, Option<String>);

fn are_written_down(acts: &[Act]) {
    let seen: Vec<_> = acts.iter().map(|act| (act.1.as_str(), act.2.as_str(), act.4.as_deref())).collect();
    assert_eq!(
        seen,
        [
            ("sam", "cancel", Some("asked to")),
            ("sam", "redeliver", None),
            ("sam", "pause", None),
            ("sam", "resume", None),
            ("cli", "token", None),
        ]
    );
    assert!(acts.iter().all(|act| act.0 > 0 && !act.3.is_empty()));
}

#[tokio::test]
async fn what_people_do_is_written_down_with_their_reasons() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let case = Case::new(Box::new(move || store.clone()));
    suite::acts_of_people(&case).await;
    let conn = rusqlite::Connection::open(dir.path().join("gateway.db")).unwrap();
    let mut select = conn.prepare("SELECT at, who, action, subject, reason FROM audit ORDER BY seq").unwrap();
    let acts: Vec<Act> = select.query_map([], |row| row.try_into()).unwrap().map(Result::unwrap).collect();
    are_written_down(&acts);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_do_is_written_down_in_postgres_too() {
    let server = Postgres::start();
    let url = server.database();
    let store = Store::connect(&url, &ConnectOptions::default()).await.unwrap();
    suite::acts_of_people(&Case::new(Box::new(move || store.clone()))).await;
    let rows = server.psql(&url, "SELECT at, who, action, subject, reason FROM audit ORDER BY seq");
    let acts: Vec<Act> = rows
        .lines()
        .map(|row| {
            let columns: Vec<&str> = row.split('|').collect();
            let reason = (!columns[4].is_empty()).then(|| columns[4].to_owned());
            (columns[0].parse().unwrap(), columns[1].to_owned(), columns[2].to_owned(), columns[3].to_owned(), reason)
        })
        .collect();
    are_written_down(&acts);
}
