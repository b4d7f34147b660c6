//! Tables of one day (UTC) each: exchanges, look-ups and refusals. Dropping a day is dropping its tables.

use std::collections::HashSet;

use rusqlite::Connection;

/// The days whose tables are known to exist.
#[derive(Default)]
pub(super) struct Days(HashSet<u32>);

impl Days {
    /// Makes the tables of `day` if they are not known to exist.
    pub(super) fn ensure(&mut self, conn: &Connection, day: u32) -> rusqlite::Result<()> {
        if self.0.contains(&day) {
            return Ok(());
        }
        conn.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS exchange_{day} (
                 delivery BLOB NOT NULL, number INTEGER NOT NULL, part INTEGER NOT NULL,
                 request_head TEXT NOT NULL, request_body BLOB NOT NULL, request_truncated INTEGER NOT NULL,
                 response_head TEXT, response_body BLOB, response_truncated INTEGER NOT NULL
             );
             CREATE INDEX IF NOT EXISTS exchange_{day}_delivery ON exchange_{day} (delivery, number, part);
             CREATE TABLE IF NOT EXISTS lookup_run_{day} (
                 run INTEGER NOT NULL, first BLOB NOT NULL, entries BLOB NOT NULL, PRIMARY KEY (run, first)
             ) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS refusal_{day} (
                 id BLOB PRIMARY KEY, source TEXT NOT NULL, campaign TEXT NOT NULL, at INTEGER NOT NULL,
                 request_head TEXT NOT NULL, request_body BLOB NOT NULL, request_truncated INTEGER NOT NULL,
                 status INTEGER NOT NULL, answer TEXT NOT NULL
             ) WITHOUT ROWID;"
        ))?;
        self.0.insert(day);
        Ok(())
    }

    /// After a rollback, and after tables were dropped, nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// The days that have a table called `prefix_YYYYMMDD`, newest first.
pub(super) fn tables(conn: &Connection, prefix: &str) -> rusqlite::Result<Vec<u32>> {
    let mut names = conn.prepare_cached(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE ?1 || '\\_%' ESCAPE '\\' ORDER BY name DESC",
    )?;
    let mut days = Vec::new();
    for name in names.query_map([prefix], |row| row.get::<_, String>(0))? {
        days.extend(name?.rsplit_once('_').and_then(|(_, day)| day.parse::<u32>().ok()));
    }
    Ok(days)
}
