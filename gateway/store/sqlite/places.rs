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

/// Which of `places` are full, with their counts; those in `owned` it has already.
pub(super) fn full(
    tx: &mut Tx<'_, '_>,
    places: &[Place],
    owned: &[PlaceKey],
) -> rusqlite::Result<Vec<(PlaceKey, u64)>> {
    let mut full = Vec::new();
    for place in places.iter().filter(|place| !owned.contains(&place.key)) {
        if let Some(limit) = place.limit {
            let used = unsigned(tx.used(&place.key)?);
            if used >= limit {
                full.push((place.key.clone(), used));
            }
        }
    }
    Ok(full)
}

/// Takes `places`; those in `owned` it has already.
pub(super) fn count(tx: &mut Tx<'_, '_>, places: &[Place], owned: &[PlaceKey]) -> rusqlite::Result<()> {
    places.iter().filter(|place| !owned.contains(&place.key)).try_for_each(|place| tx.count(&place.key, 1))
}

/// The keys of places, as a delivery's `places` column has them.
pub(super) fn column(places: &[Place]) -> String {
    let keys: Vec<&str> = places.iter().map(|place| place.key.as_str()).collect();
    keys.join("\n")
}

/// The keys in a delivery's `places` column.
pub(super) fn parse(column: &str) -> Vec<PlaceKey> {
    column.lines().map(PlaceKey::from_text).collect()
}
