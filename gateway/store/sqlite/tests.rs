//! What can only be seen from inside the store: how its queries are answered, what its connections are set to, and
//! that work which breaks off takes nothing with it. What a store must do stands in `tests/it/store`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use rusqlite::Connection;

use super::Sqlite;
use super::deliveries::{DELIVERY_COLUMNS, of_lead_sql};
use super::recovery::{CONTRACTS, LENGTH, UNKNOWN, due_sql, open_sql, ready_sql};
use super::retention::OLDEST;
use crate::store::StoreError;

fn store() -> (tempfile::TempDir, Arc<Sqlite>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Sqlite::open(dir.path()).unwrap());
    (dir, store)
}

/// What SQLite says it will do, a line each.
fn plan(conn: &Connection, sql: &str) -> Vec<String> {
    let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let parameters = vec![rusqlite::types::Null; explain.parameter_count()];
    explain
        .query_map(rusqlite::params_from_iter(parameters), |row| row.get::<_, String>(3))
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

#[tokio::test]
async fn queues_and_leads_are_read_through_their_indexes_without_sorting() {
    let (_dir, store) = store();
    let page =
        format!("SELECT {DELIVERY_COLUMNS} FROM delivery WHERE state = 'unknown' AND id < ?1 ORDER BY id DESC LIMIT 2");
    let expected = [
        (ready_sql(), "SEARCH delivery USING INDEX delivery_queue (contract=? AND (received_at,id)>(?,?))"),
        (due_sql(), "SEARCH delivery USING INDEX delivery_due (contract=? AND (due_at,id)>(?,?))"),
        (open_sql(), "SEARCH delivery USING INDEX delivery_sending (id>?)"),
        (of_lead_sql(), "SEARCH delivery USING INDEX delivery_lead (lead=?)"),
        (LENGTH.to_owned(), "SEARCH delivery USING COVERING INDEX delivery_queue (contract=?)"),
        (UNKNOWN.to_owned(), "SCAN delivery USING COVERING INDEX delivery_unknown"),
        (page, "SEARCH delivery USING INDEX delivery_unknown (id<?)"),
    ];
    store
        .read(move |conn| {
            for (sql, wanted) in expected {
                assert_eq!(plan(conn, &sql), [wanted], "{sql}");
            }
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn contracts_with_a_queue_are_found_without_reading_the_queue() {
    let (_dir, store) = store();
    store
        .read(|conn| {
            let lines = plan(conn, CONTRACTS);
            let of_deliveries: Vec<_> = lines.iter().filter(|line| line.contains(" delivery ")).collect();
            assert_eq!(of_deliveries.len(), 2, "{lines:#?}");
            for line in of_deliveries {
                // min() by an index reads one row; a SCAN here would read all that wait.
                assert!(line.starts_with("SEARCH delivery USING COVERING INDEX delivery_queue"), "{lines:#?}");
            }
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn retention_reads_old_leads_and_their_deliveries_only() {
    let (_dir, store) = store();
    store
        .read(|conn| {
            let lines = plan(conn, OLDEST);
            assert!(lines.contains(&"SEARCH lead USING PRIMARY KEY (id<?)".to_owned()), "{lines:#?}");
            assert!(
                lines.iter().any(|line| line.contains("delivery USING INDEX delivery_lead (lead=?)")),
                "{lines:#?}"
            );
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn every_commit_is_synced_and_none_has_to_checkpoint() {
    let (_dir, store) = store();
    let settings = store
        .commit(|tx| {
            let text = |name: &str| tx.connection().pragma_query_value(None, name, |row| row.get::<_, String>(0));
            let number = |name: &str| tx.connection().pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            Ok((text("journal_mode")?, number("synchronous")?, number("wal_autocheckpoint")?))
        })
        .await
        .unwrap();
    // 2 is FULL.
    assert_eq!(settings, ("wal".to_owned(), 2, 0));
}

#[tokio::test]
async fn a_job_that_fails_or_panics_fails_alone_and_the_writer_goes_on() {
    let (_dir, store) = store();
    store.commit(|tx| tx.connection().execute_batch("CREATE TABLE seen (n INTEGER PRIMARY KEY)")).await.unwrap();
    // Holds the writer until the others have queued up, so that they share a transaction.
    let (go, held) = mpsc::channel::<()>();
    let first = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            store
                .commit(move |_| {
                    let _ = held.recv();
                    Ok(())
                })
                .await
        }
    });
    let before = store.commit_stats().commits.load(Ordering::Relaxed);
    let jobs: Vec<_> = (0..20)
        .map(|n: i64| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                store
                    .commit(move |tx| {
                        tx.statement("INSERT INTO seen VALUES (?1)")?.execute([n])?;
                        match n {
                            7 => tx.statement("INSERT INTO seen VALUES (?1)")?.execute([n]).map(drop),
                            13 => panic!("a bug"),
                            _ => Ok(()),
                        }
                    })
                    .await
            })
        })
        .collect();
    // On one thread: this lets all of them queue up.
    tokio::task::yield_now().await;
    // Closed for good, for the job runs again if it shared its transaction with those that fail.
    drop(go);
    first.await.unwrap().unwrap();
    for (n, job) in jobs.into_iter().enumerate() {
        let outcome = job.await.unwrap();
        assert_eq!(outcome.is_err(), n == 7 || n == 13, "{n}: {outcome:?}");
    }
    let seen = store
        .read(|conn| {
            Ok(conn
                .query_row("SELECT count(*), min(n), max(n) FROM seen", [], |row| <(i64, i64, i64)>::try_from(row))?)
        })
        .await
        .unwrap();
    assert_eq!(seen, (18, 0, 19));
    assert!(store.commit_stats().commits.load(Ordering::Relaxed) > before);
}

#[tokio::test]
async fn a_read_that_panics_costs_no_connection() {
    let (_dir, store) = store();
    for _ in 0..10 {
        let broken = store.read::<(), _>(|_| panic!("a bug")).await;
        assert!(matches!(broken, Err(StoreError::Failed(_))), "{broken:?}");
    }
    for _ in 0..10 {
        store.read(|conn| Ok(conn.execute_batch("SELECT 1")?)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_keeps_its_connection_until_it_has_read() {
    let (_dir, store) = store();
    // As many reads as there are connections begin, and nobody waits for them any more.
    let (begun, begins) = mpsc::channel::<()>();
    let end = Arc::new(Barrier::new(5));
    for _ in 0..4 {
        let (store, begun, end) = (Arc::clone(&store), begun.clone(), Arc::clone(&end));
        let read = tokio::spawn(async move {
            store
                .read(move |_| {
                    begun.send(()).unwrap();
                    end.wait();
                    Ok(())
                })
                .await
        });
        begins.recv_timeout(Duration::from_secs(10)).unwrap();
        read.abort();
        assert!(read.await.unwrap_err().is_cancelled());
    }
    let next = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.read(|conn| Ok(conn.execute_batch("SELECT 1")?)).await }
    });
    tokio::task::yield_now().await;
    end.wait();
    // It waits for a connection; it is not told that the store is closed.
    next.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_leave_connections_to_deliveries() {
    let (_dir, store) = store();
    let (begun, begins) = mpsc::channel::<()>();
    let end = Arc::new(Barrier::new(3));
    let searches: Vec<_> = (0..2)
        .map(|_| {
            let (store, begun, end) = (Arc::clone(&store), begun.clone(), Arc::clone(&end));
            tokio::spawn(async move {
                store
                    .search(move |_| {
                        begun.send(()).unwrap();
                        end.wait();
                        Ok(())
                    })
                    .await
            })
        })
        .collect();
    for _ in 0..2 {
        begins.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    // These have to wait for the two; reads do not.
    let more: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.search(|_| Ok(())).await })
        })
        .collect();
    for _ in 0..8 {
        store.read(|conn| Ok(conn.execute_batch("SELECT 1")?)).await.unwrap();
    }
    assert!(more.iter().all(|search| !search.is_finished()));
    end.wait();
    for search in searches.into_iter().chain(more) {
        search.await.unwrap().unwrap();
    }
}
