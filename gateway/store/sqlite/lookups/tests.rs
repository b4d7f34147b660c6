#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

/// Leads whose hashes are drawn from a few, so that many are found under each.
const LEADS: u128 = 23_000;

fn hash(kind: u8, n: u128) -> [u8; 16] {
    let mut hash = [kind; 16];
    // Spread, as hashes are.
    hash[..8].copy_from_slice(&u64::try_from(n).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    hash
}

/// The `n`th lead: its id, and what it is found by: an address of its own, and a number that it shares with others; a
/// hundred and more have the number 0.
fn lead(n: u128) -> (Uuid, [[u8; 16]; 2]) {
    let shared = if n.is_multiple_of(200) { 0 } else { n % 7_000 };
    (Uuid::from_u128(n + 1), [hash(1, n), hash(2, shared)])
}

async fn store_with(leads: std::ops::Range<u128>, at: Timestamp, store: &Sqlite) {
    store
        .commit(move |tx| {
            for (id, hashes) in leads.clone().map(lead) {
                append(tx, id.as_bytes(), &hashes, at)?;
            }
            Ok(())
        })
        .await
        .unwrap();
}

/// As whoever reads all of them would find them.
fn reference(groups: &[Vec<[u8; 16]>], below: Option<Uuid>, most: usize) -> Vec<Uuid> {
    let fits = |hashes: &[[u8; 16]; 2]| groups.iter().all(|any| any.iter().any(|hash| hashes.contains(hash)));
    let leads = (0..LEADS).rev().map(lead).filter(|(id, hashes)| below.is_none_or(|below| *id < below) && fits(hashes));
    leads.map(|(id, _)| id).take(most).collect()
}

async fn all_are_found(store: &Sqlite, when: &str) {
    let wanted: [Vec<Vec<[u8; 16]>>; 6] = [
        vec![vec![hash(1, 0)]],
        vec![vec![hash(1, 22_999)]],
        vec![vec![hash(2, 0)]],
        vec![vec![hash(2, 6_999), hash(2, 17), hash(1, 5)]],
        vec![vec![hash(2, 0)], vec![hash(1, 200), hash(1, 22_800), hash(1, 3)]],
        vec![vec![hash(9, 9)]],
    ];
    for groups in wanted {
        for (below, most) in [(None, 1_000), (Some(Uuid::from_u128(20_500)), 1_000), (None, 7)] {
            let asked = groups.clone();
            let found = store.read(move |conn| Ok(look_up(conn, &asked, below, most)?)).await.unwrap();
            assert_eq!(found, reference(&groups, below, most), "{when}: {groups:?} below {below:?}");
        }
    }
}

async fn tail(store: &Sqlite) -> i64 {
    store.read(|conn| Ok(conn.query_row("SELECT count(*) FROM lookup_tail", [], |row| row.get(0))?)).await.unwrap()
}

#[tokio::test]
async fn what_is_appended_is_found_before_while_and_after_it_is_sorted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(dir.path()).unwrap();
    let evening: Timestamp = "2026-11-21T23:59:59Z".parse().unwrap();
    let morning: Timestamp = "2026-11-22T00:00:01Z".parse().unwrap();
    store_with(0..9_000, evening, &store).await;
    assert!(!store.sort_lookups().await.unwrap(), "there is not enough for a run");
    store_with(9_000..LEADS, morning, &store).await;
    all_are_found(&store, "appended").await;

    // A part of a run, as a crash leaves it: its leads are still in the tail.
    let mut entries = store.read(|conn| Ok(gather(conn)?)).await.unwrap().unwrap().days.remove(&20_261_121).unwrap();
    entries.truncate(300);
    let rows: Vec<Vec<u8>> = entries.chunks(PER_ROW).map(<[Entry]>::concat).collect();
    let run = store.commit(|tx| begin(tx, &[20_261_121])).await.unwrap()[0];
    store.commit(move |tx| write(tx, 20_261_121, run, &rows)).await.unwrap();
    all_are_found(&store, "broken off").await;

    assert!(store.sort_lookups().await.unwrap());
    assert_eq!(tail(&store).await, i64::try_from(LEADS).unwrap() - RUN);
    assert!(!store.sort_lookups().await.unwrap());
    all_are_found(&store, "sorted").await;
    let run_of = |day| store.read(move |conn| Ok(runs(conn, day)?));
    // What was broken off has gone.
    assert_eq!((run_of(20_261_121).await.unwrap(), run_of(20_261_122).await.unwrap()), (vec![1], vec![1]));
    let entries = "SELECT sum(length(entries)) / 32 FROM lookup_run_20261121";
    let entries: i64 = store.read(move |conn| Ok(conn.query_row(entries, [], |row| row.get(0))?)).await.unwrap();
    assert_eq!(entries, 9_000 * 2);

    // Another that finds the rest of the tail of one that a crash ended between two bites.
    store_with(LEADS..LEADS + 1, morning, &store).await;
    store.commit(|tx| begin(tx, &[20_261_122])).await.unwrap();
    store.commit(|tx| tx.statement(NOTHING_BEGUN)?.execute([]).map(drop)).await.unwrap();
    store.commit(|tx| begin(tx, &[20_261_122])).await.unwrap();
    assert_eq!(run_of(20_261_122).await.unwrap(), vec![1], "a run that is whole stays");
}

#[tokio::test]
async fn a_store_from_before_there_was_a_tail_is_searched_and_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join("gateway.db")).unwrap();
    old.execute_batch(include_str!("../migrations/0001_start.sql")).unwrap();
    old.execute_batch(
        "PRAGMA user_version = 1;
         CREATE TABLE lookup_20261120 (hash BLOB NOT NULL, id BLOB NOT NULL, PRIMARY KEY (hash, id)) WITHOUT ROWID;
         CREATE TABLE lookup_20261121 (hash BLOB NOT NULL, id BLOB NOT NULL, PRIMARY KEY (hash, id)) WITHOUT ROWID;",
    )
    .unwrap();
    old.execute_batch("BEGIN").unwrap();
    for n in 0..LEADS {
        let ((id, hashes), day) = (lead(n), if n < 1_000 { 20_261_120 } else { 20_261_121 });
        for hash in hashes {
            let sql = format!("INSERT INTO lookup_{day} (hash, id) VALUES (?1, ?2)");
            old.prepare_cached(&sql).unwrap().execute(params![hash, id.as_bytes()]).unwrap();
        }
    }
    let sql = "INSERT INTO lead VALUES (?1, 'solar', 'acme', 'sold', NULL, 0, 5, 3, 125, '{\"n\":\"1\"}', '{}', '[]', 'text', ?2, ?1)";
    for n in [7_u128, 3, 9] {
        old.execute(sql, params![Uuid::from_u128(n).as_bytes(), format!("body {n}").as_bytes()]).unwrap();
    }
    old.execute_batch("COMMIT").unwrap();
    drop(old);
    let store = Sqlite::open(dir.path()).unwrap();
    all_are_found(&store, "migrated").await;
    while store.sort_lookups().await.unwrap() {}
    all_are_found(&store, "sorted").await;
    for n in [3_u128, 7, 9] {
        let id = crate::model::id::LeadId(Uuid::from_u128(n));
        let record = store.lead(id).await.unwrap().unwrap();
        assert_eq!((record.version, record.payout.map(|amount| amount.0), record.lead.id), (3, Some(125), id));
        let body = store.original_body(id).await.unwrap().unwrap();
        assert_eq!(body, ("text".to_owned(), format!("body {n}").into_bytes()));
    }
}
