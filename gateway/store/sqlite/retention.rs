//! Forgetting in SQLite: a day is its tables; leads go in small bites.

use super::Sqlite;
use super::days::tables;
use super::places::parse;
use super::writer::Tx;
use crate::model::limit::PlaceKey;
use crate::store::days::{day_before, day_of, id_bound};
use crate::store::leads::REMEMBER_KEYS_HOURS;
use crate::store::{Forgotten, StoreError};
use jiff::{Timestamp, ToSpan as _};
use rusqlite::params;
use std::collections::HashSet;
use std::time::Duration;

/// Rows deleted in one commit, so that leads waiting for theirs hardly notice.
const BITE: usize = 500;

/// Finished leads, oldest first: ids carry their time, so no index on received_at is needed.
pub(super) const OLDEST: &str = "SELECT id FROM lead WHERE received_at < ?1 AND id < ?2
       AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.lead = lead.id AND state IN ('queued', 'sending', 'unknown'))
     ORDER BY id LIMIT ?3";

/// The places of what is unfinished: an attempt is open or unknown, or was unknown and is to be tried again.
pub(super) const OWNED: &str = "SELECT places FROM delivery INDEXED BY delivery_sending WHERE state = 'sending'
     UNION ALL SELECT places FROM delivery INDEXED BY delivery_unknown WHERE state = 'unknown'
     UNION ALL SELECT places FROM delivery INDEXED BY delivery_due
         WHERE state = 'queued' AND due_at IS NOT NULL AND places <> ''";

impl Sqlite {
    pub(in crate::store) async fn tidy(
        &self,
        now: Timestamp,
        capture: Duration,
        leads: Duration,
    ) -> Result<Forgotten, StoreError> {
        let mut forgotten = Forgotten::default();
        let tomorrow = now.checked_add(24.hours()).unwrap_or(now);
        self.commit(move |tx| tx.ensure_day(day_of(tomorrow))).await?;
        let (capture_until, leads_until) = (day_before(now, capture), day_before(now, leads));
        for (prefix, until) in [("exchange", capture_until), ("refusal", capture_until), ("lookup_run", leads_until)] {
            forgotten.days += self.commit(move |tx| drop_days(tx, prefix, until)).await?;
        }
        let leads_before = now.as_microsecond().saturating_sub(i64::try_from(leads.as_micros()).unwrap_or(i64::MAX));
        loop {
            let bitten = self.commit(move |tx| delete_leads(tx, leads_before)).await?;
            forgotten.leads += bitten;
            if bitten < BITE {
                break;
            }
        }
        let keys_before = now.checked_sub(REMEMBER_KEYS_HOURS.hours()).map_or(0, Timestamp::as_microsecond);
        for (table, column, before) in [("idempotency", "at", keys_before), ("dedupe", "until", now.as_microsecond())] {
            while self.commit(move |tx| bite(tx, table, column, before)).await? >= BITE {}
        }
        forgotten.places = self.forget_places(now).await?;
        Ok(forgotten)
    }

    /// Deletes counts of past periods. Those that an unfinished delivery owns stay: they will be given back.
    async fn forget_places(&self, now: Timestamp) -> Result<usize, StoreError> {
        let past: Vec<PlaceKey> = self
            .search(move |conn| {
                let mut owned = HashSet::new();
                let mut select = conn.prepare(OWNED)?;
                let owners = select.query_map([], |row| row.get::<_, String>(0))?;
                for places in owners {
                    owned.extend(parse(&places?).into_iter().filter(|key| key.is_past(now)));
                }
                let mut select = conn.prepare("SELECT key FROM place")?;
                let keys = select.query_map([], |row| Ok(PlaceKey::from_text(row.get_ref(0)?.as_str()?)))?;
                let past = keys.filter(|key| key.as_ref().map_or(true, |key| key.is_past(now) && !owned.contains(key)));
                Ok(past.collect::<Result<_, _>>()?)
            })
            .await?;
        for bite in past.chunks(BITE) {
            let bite = bite.to_vec();
            self.commit(move |tx| bite.iter().try_for_each(|key| tx.forget(key))).await?;
        }
        Ok(past.len())
    }
}

fn drop_days(tx: &mut Tx<'_, '_>, prefix: &'static str, until: u32) -> rusqlite::Result<usize> {
    let old: Vec<u32> = tables(tx.connection(), prefix)?.into_iter().filter(|day| *day < until).collect();
    for day in &old {
        tx.connection().execute_batch(&format!("DROP TABLE {prefix}_{day}"))?;
        tx.forget_days();
    }
    if prefix == "lookup_run" {
        // What has not been sorted yet; but for the last, whose number must not be given again to what a sort would then
        // take for a row that it has written.
        tx.statement("DELETE FROM lookup_tail WHERE day < ?1 AND seq < (SELECT max(seq) FROM lookup_tail)")?
            .execute([until])?;
    }
    Ok(old.len())
}

/// Deletes some of the oldest finished leads with their deliveries and attempts.
fn delete_leads(tx: &mut Tx<'_, '_>, before: i64) -> rusqlite::Result<usize> {
    let ids: Vec<[u8; 16]> = tx
        .statement(OLDEST)?
        .query_map(params![before, id_bound(before).as_bytes(), i64::try_from(BITE).unwrap_or(i64::MAX)], |row| {
            row.get(0)
        })?
        .collect::<Result<_, _>>()?;
    for id in &ids {
        tx.statement("DELETE FROM attempt WHERE delivery IN (SELECT id FROM delivery WHERE lead = ?1)")?
            .execute([id])?;
        tx.statement("DELETE FROM delivery WHERE lead = ?1")?.execute([id])?;
        tx.statement("DELETE FROM lead_data WHERE seq = (SELECT data FROM lead WHERE id = ?1)")?.execute([id])?;
        tx.statement("DELETE FROM lead WHERE id = ?1")?.execute([id])?;
    }
    Ok(ids.len())
}

fn bite(tx: &mut Tx<'_, '_>, table: &'static str, column: &'static str, before: i64) -> rusqlite::Result<usize> {
    let (key, join) = if table == "dedupe" { ("hash", "hash") } else { ("(source, key)", "source, key") };
    tx.connection()
        .prepare_cached(&format!(
            "DELETE FROM {table} WHERE {key} IN (SELECT {join} FROM {table} WHERE {column} <= ?1 LIMIT {BITE})"
        ))?
        .execute([before])
}
