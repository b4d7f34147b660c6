//! Place counts in SQLite.

use super::Sqlite;
use super::writer::Tx;
use crate::model::limit::{Place, PlaceKey};
use crate::store::StoreError;
use rusqlite::{Connection, OptionalExtension as _};
use std::collections::HashMap;

impl Sqlite {
    pub(in crate::store) async fn places(&self, keys: Vec<PlaceKey>) -> Result<Vec<(PlaceKey, u64)>, StoreError> {
        self.read(move |conn| {
            keys.into_iter().map(|key| used(conn, &key).map(|n| (key, unsigned(n))).map_err(StoreError::from)).collect()
        })
        .await
    }

    pub(in crate::store) async fn all_places(&self) -> Result<Vec<(PlaceKey, u64)>, StoreError> {
        self.read(|conn| {
            let mut all = conn.prepare_cached("SELECT key, used FROM place WHERE used <> 0")?;
            let rows = all.query_map([], |row| Ok((key_of(row)?, unsigned(row.get(1)?))))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(in crate::store) async fn recount_places(&self) -> Result<HashMap<PlaceKey, u64>, StoreError> {
        self.read(|conn| {
            let mut owners = conn.prepare("SELECT places FROM delivery WHERE places <> ''")?;
            let mut counts = HashMap::new();
            for places in owners.query_map([], |row| row.get::<_, String>(0))? {
                for key in places?.lines() {
                    *counts.entry(PlaceKey::from_text(key)).or_insert(0) += 1;
                }
            }
            Ok(counts)
        })
        .await
    }
}

fn key_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<PlaceKey> {
    Ok(PlaceKey::from_text(row.get_ref(0)?.as_str()?))
}

fn unsigned(used: i64) -> u64 {
    u64::try_from(used).unwrap_or(0)
}

pub(super) fn used(conn: &Connection, key: &PlaceKey) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT used FROM place WHERE key = ?1")?
        .query_row([key.as_str()], |row| row.get(0))
        .optional()
        .map(|used| used.unwrap_or(0))
}

pub(super) fn set(conn: &Connection, key: &PlaceKey, used: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO place (key, used) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET used = excluded.used",
    )?
    .execute((key.as_str(), used))
    .map(drop)
}

/// Takes all of `places`, or none and says which are full, with their counts.
pub(super) fn take(
    tx: &mut Tx<'_>,
    places: &[Place],
    owned: &[PlaceKey],
) -> rusqlite::Result<Result<(), Vec<(PlaceKey, u64)>>> {
    let mut full = Vec::new();
    for place in places.iter().filter(|place| !owned.contains(&place.key)) {
        let used = unsigned(tx.used(&place.key)?);
        if place.limit.is_some_and(|limit| used >= limit) {
            full.push((place.key.clone(), used));
        }
    }
    if !full.is_empty() {
        return Ok(Err(full));
    }
    for place in places.iter().filter(|place| !owned.contains(&place.key)) {
        tx.count(&place.key, 1)?;
    }
    Ok(Ok(()))
}

/// The keys in a delivery's `places` column.
pub(super) fn parse(column: &str) -> Vec<PlaceKey> {
    column.lines().map(PlaceKey::from_text).collect()
}
