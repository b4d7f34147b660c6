//! What leads and deliveries are found by: keyed hashes, whose order is that of chance. In one tree each of them would
//! cost a page of the log. So they are appended to a tail in the order they come, and when there are many, written sorted as a
//! *run*: rows of some dozen entries in the tables of their day, never changed again. A search reads the tail and looks
//! into each run.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::days::tables;
use super::writer::Tx;
use super::{Sqlite, rows};
use crate::store::StoreError;
use crate::store::days::day_of;

/// Rows of the tail that make a run; a search reads all of them, which takes some milliseconds.
const RUN: i64 = 20_000;
/// Entries of a run at most, whatever its rows have: what is sorted in memory.
const ENTRIES: usize = 200_000;
/// Bytes of an entry: hash, and id.
const ENTRY: usize = 32;
/// Entries of a row: what still lies in a leaf of the tree.
const PER_ROW: usize = 56;
/// Rows of a run written in one commit, so that leads waiting for theirs hardly notice.
const ROWS_AT_ONCE: usize = 32;
/// Rows of the tail deleted in one commit.
const BITE: i64 = 500;

/// A hash and the id found under it.
type Entry = [u8; ENTRY];

/// Makes `id` findable by these hashes.
pub(super) fn append(tx: &Tx<'_, '_>, id: &[u8; 16], hashes: &[[u8; 16]], at: Timestamp) -> rusqlite::Result<()> {
    if hashes.is_empty() {
        return Ok(());
    }
    tx.statement("INSERT INTO lookup_tail (id, day, hashes) VALUES (?1, ?2, ?3)")?
        .execute(params![id, day_of(at), hashes.concat()])
        .map(drop)
}

/// Ids below `below` that are found under a hash of each of `groups`, newest first; at most `most`.
pub(super) fn look_up(
    conn: &Connection,
    groups: &[Vec<[u8; 16]>],
    below: Option<Uuid>,
    most: usize,
) -> rusqlite::Result<Vec<Uuid>> {
    let mut found = Newest { ids: Vec::new(), below, most };
    // In one snapshot: what leaves the tail meanwhile is seen in its run, or still here.
    let conn = conn.unchecked_transaction()?;
    let mut tail = conn.prepare_cached("SELECT id, hashes FROM lookup_tail")?;
    let mut appended = tail.query([])?;
    while let Some(row) = appended.next()? {
        let hashes = row.get_ref(1)?.as_blob()?;
        if groups.iter().all(|any| any.iter().any(|hash| hashes.chunks_exact(16).any(|one| one == hash))) {
            found.add([rows::uuid(row, 0)?]);
        }
    }
    for day in tables(&conn, "lookup_run")? {
        for run in runs(&conn, day)? {
            // All that a lead is found by lies in one run.
            let mut ids: Option<HashSet<Uuid>> = None;
            for any in groups {
                let mut these = HashSet::new();
                for hash in any {
                    these.extend(in_run(&conn, day, run, hash)?);
                }
                ids = Some(ids.map_or(these.clone(), |before| before.intersection(&these).copied().collect()));
            }
            found.add(ids.unwrap_or_default());
        }
    }
    Ok(found.ids)
}

/// The newest of what is found.
struct Newest {
    ids: Vec<Uuid>,
    below: Option<Uuid>,
    most: usize,
}

impl Newest {
    fn add(&mut self, ids: impl IntoIterator<Item = Uuid>) {
        let before = self.ids.len();
        self.ids.extend(ids.into_iter().filter(|id| self.below.is_none_or(|below| *id < below)));
        if self.ids.len() > before {
            self.ids.sort_unstable_by(|a, b| b.cmp(a));
            self.ids.dedup();
            self.ids.truncate(self.most);
        }
    }
}

/// The runs of a day, found by leaping from one to the next.
fn runs(conn: &Connection, day: u32) -> rusqlite::Result<Vec<i64>> {
    let sql = format!(
        "WITH RECURSIVE one (run) AS (
             SELECT min(run) FROM lookup_run_{day}
             UNION ALL
             SELECT (SELECT min(run) FROM lookup_run_{day} WHERE run > one.run) FROM one WHERE one.run IS NOT NULL
         ) SELECT run FROM one WHERE run IS NOT NULL"
    );
    conn.prepare_cached(&sql)?.query_map([], |row| row.get(0))?.collect()
}

/// What a run has under a hash.
fn in_run(conn: &Connection, day: u32, run: i64, hash: &[u8; 16]) -> rusqlite::Result<Vec<Uuid>> {
    let bound = |id: u8| [*hash, [id; 16]].concat();
    // The last row that begins before it may have the first of them.
    let sql = format!(
        "SELECT entries FROM lookup_run_{day} WHERE run = ?1 AND first <= ?3 AND first >=
             coalesce((SELECT max(first) FROM lookup_run_{day} WHERE run = ?1 AND first < ?2), x'')"
    );
    let mut select = conn.prepare_cached(&sql)?;
    let mut found = select.query(params![run, bound(0), bound(u8::MAX)])?;
    let mut ids = Vec::new();
    while let Some(row) = found.next()? {
        let entries = row.get_ref(0)?.as_blob()?.chunks_exact(ENTRY);
        let of_hash = entries.filter(|entry| entry[..16] == *hash);
        ids.extend(of_hash.filter_map(|entry| Uuid::from_slice(&entry[16..]).ok()));
    }
    Ok(ids)
}

impl Sqlite {
    /// Writes a run if the tail is long enough for one; whether it may be long enough for another.
    pub(in crate::store) async fn sort_lookups(&self) -> Result<bool, StoreError> {
        let Some(Gathered { first, last, days }) = self.read(|conn| Ok(gather(conn)?)).await? else {
            return Ok(false);
        };
        let of_days: Vec<u32> = days.keys().copied().collect();
        let runs = self.commit(move |tx| begin(tx, &of_days)).await?;
        for ((day, entries), run) in days.into_iter().zip(runs) {
            let rows: Vec<Vec<u8>> = entries.chunks(PER_ROW).map(<[Entry]>::concat).collect();
            for rows in rows.chunks(ROWS_AT_ONCE) {
                let rows = rows.to_vec();
                self.commit(move |tx| write(tx, day, run, &rows)).await?;
            }
        }
        // Only now: until then all of it is in the tail. From the first bite on the runs are needed.
        let mut from = first;
        while from <= last {
            let to = from.saturating_add(BITE).min(last);
            self.commit(move |tx| {
                tx.statement(NOTHING_BEGUN)?.execute([])?;
                tx.statement("DELETE FROM lookup_tail WHERE seq BETWEEN ?1 AND ?2")?.execute((from, to)).map(drop)
            })
            .await?;
            from = to + 1;
        }
        Ok(true)
    }
}

/// The oldest part of the tail, from its first row to its last, sorted, by day.
struct Gathered {
    first: i64,
    last: i64,
    days: BTreeMap<u32, Vec<Entry>>,
}

fn gather(conn: &Connection) -> rusqlite::Result<Option<Gathered>> {
    let ends = "SELECT (SELECT min(seq) FROM lookup_tail), (SELECT max(seq) FROM lookup_tail)";
    let (first, end): (Option<i64>, Option<i64>) =
        conn.prepare_cached(ends)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(end)) = (first, end) else { return Ok(None) };
    if end - first < RUN {
        return Ok(None);
    }
    let mut select = conn.prepare_cached("SELECT seq, id, day, hashes FROM lookup_tail ORDER BY seq LIMIT ?1")?;
    let mut appended = select.query([RUN])?;
    let mut gathered = Gathered { first, last: first, days: BTreeMap::new() };
    let mut many = 0;
    while let Some(row) = appended.next()? {
        gathered.last = row.get(0)?;
        let (id, day) = (row.get_ref(1)?.as_blob()?, row.get(2)?);
        let entries = gathered.days.entry(day).or_default();
        for hash in row.get_ref(3)?.as_blob()?.chunks_exact(16) {
            let mut entry = [0; ENTRY];
            entry[..16].copy_from_slice(hash);
            entry[16..].copy_from_slice(id.get(..16).unwrap_or(&[0; 16]));
            entries.push(entry);
            many += 1;
        }
        if many >= ENTRIES {
            break;
        }
    }
    for entries in gathered.days.values_mut() {
        entries.sort_unstable();
    }
    Ok(Some(gathered))
}

const NOTHING_BEGUN: &str = "DELETE FROM meta WHERE key = 'lookup_runs_begun'";

/// Takes the numbers of new runs, one for each of the days. What an earlier sort has begun and not finished goes.
fn begin(tx: &mut Tx<'_, '_>, days: &[u32]) -> rusqlite::Result<Vec<i64>> {
    let begun: Option<String> = tx
        .statement("SELECT value FROM meta WHERE key = 'lookup_runs_begun'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let there: HashSet<u32> = tables(tx.connection(), "lookup_run")?.into_iter().collect();
    for begun in begun.iter().flat_map(|begun| begun.split_ascii_whitespace()) {
        if let Some((day, run)) = begun.split_once(':')
            && let (Ok(day), Ok(run)) = (day.parse(), run.parse::<i64>())
            && there.contains(&day)
        {
            tx.statement_of_day("DELETE FROM lookup_run_{day} WHERE run = ?1", day)?.execute([run])?;
        }
    }
    let mut runs = Vec::new();
    for day in days {
        tx.ensure_day(*day)?;
        let next = "SELECT coalesce(max(run), 0) + 1 FROM lookup_run_{day}";
        runs.push(tx.statement_of_day(next, *day)?.query_row([], |row| row.get(0))?);
    }
    let begins: Vec<String> = days.iter().zip(&runs).map(|(day, run)| format!("{day}:{run}")).collect();
    tx.statement(
        "INSERT INTO meta (key, value) VALUES ('lookup_runs_begun', ?1)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )?
    .execute([begins.join(" ")])?;
    Ok(runs)
}

/// Writes rows of a run.
fn write(tx: &mut Tx<'_, '_>, day: u32, run: i64, rows: &[Vec<u8>]) -> rusqlite::Result<()> {
    tx.ensure_day(day)?;
    let sql = "INSERT INTO lookup_run_{day} (run, first, entries) VALUES (?1, ?2, ?3)
               ON CONFLICT (run, first) DO UPDATE SET entries = excluded.entries";
    let mut insert = tx.statement_of_day(sql, day)?;
    for entries in rows {
        insert.execute(params![run, &entries[..ENTRY.min(entries.len())], entries])?;
    }
    Ok(())
}

/// For a store from before there was a tail: a table for each day, with a row for each entry.
pub(super) fn migrate(conn: &Connection) -> rusqlite::Result<()> {
    let mut append = conn.prepare("INSERT INTO lookup_tail (id, day, hashes) VALUES (?1, ?2, ?3)")?;
    // Oldest first, as they came: what is forgotten first stands at the tail's beginning.
    for day in tables(conn, "lookup")?.into_iter().rev() {
        let mut select = conn.prepare(&format!("SELECT id, hash FROM lookup_{day} ORDER BY id"))?;
        let mut entries = select.query([])?;
        let mut of_one: (Vec<u8>, Vec<u8>) = Default::default();
        loop {
            let next: Option<(Vec<u8>, Vec<u8>)> = match entries.next()? {
                Some(row) => Some((row.get(0)?, row.get(1)?)),
                None => None,
            };
            if next.as_ref().is_none_or(|(id, _)| *id != of_one.0) && !of_one.1.is_empty() {
                append.execute(params![of_one.0, day, of_one.1])?;
                of_one.1.clear();
            }
            let Some((id, hash)) = next else { break };
            of_one.0 = id;
            of_one.1.extend(hash);
        }
        drop(entries);
        drop(select);
        conn.execute_batch(&format!("DROP TABLE lookup_{day}"))?;
    }
    Ok(())
}
