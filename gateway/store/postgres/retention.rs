//! Forgetting in PostgreSQL: a day is its partitions; leads go in small bites.
//!
//! Several gateways may be at it at the same moment: what one has taken, the others step over.

use super::{Postgres, days, mark, rows};
use crate::model::limit::PlaceKey;
use crate::store::days::{day_before, day_of, id_bound};
use crate::store::leads::REMEMBER_KEYS_HOURS;
use crate::store::{Forgotten, StoreError};
use deadpool_postgres::Object;
use jiff::{Timestamp, ToSpan as _};
use std::collections::HashSet;
use std::time::Duration;
use uuid::Uuid;

/// Rows deleted in one commit, so that leads waiting for theirs hardly notice.
const BITE: i64 = 500;

/// Finished leads, oldest first: ids carry their time, so no index on received_at is needed.
pub(super) const OLDEST: &str = "SELECT id FROM lead WHERE received_at < $1 AND id < $2
       AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.lead = lead.id AND state IN ('queued', 'sending', 'unknown'))
     ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED";

const FINISHED: &str = "SELECT id FROM unnest($1::uuid[]) AS locked (id) WHERE NOT EXISTS (
         SELECT 1 FROM delivery WHERE delivery.lead = locked.id AND state IN ('queued', 'sending', 'unknown'))";

const OWNED: &str = "SELECT DISTINCT unnest(string_to_array(places, E'\\n')) FROM delivery
     WHERE places <> '' AND state IN ('queued', 'sending', 'unknown')";
const PLACES: &str =
    "DELETE FROM place WHERE key IN (SELECT key FROM place WHERE key = ANY($1) ORDER BY key FOR UPDATE SKIP LOCKED)";

/// Incarnations that ended days ago and left nothing to do. Whose owner is forgotten is taken over by another.
const GATEWAYS: &str = "DELETE FROM gateway WHERE until < clock_timestamp() - interval '2 days' AND token <> $1
         AND NOT EXISTS (SELECT 1 FROM delivery WHERE state = 'queued' AND delivery.gateway = gateway.token)
         AND NOT EXISTS (SELECT 1 FROM delivery WHERE state = 'sending' AND delivery.gateway = gateway.token)
         AND NOT EXISTS (SELECT 1 FROM delivery WHERE state = 'unknown' AND delivery.gateway = gateway.token)";

impl Postgres {
    pub(in crate::store) async fn tidy(
        &self,
        now: Timestamp,
        capture: Duration,
        leads: Duration,
    ) -> Result<Forgotten, StoreError> {
        let mut forgotten = Forgotten::default();
        let mut session = self.session().await?;
        for hours in [0_i64, 24, 48] {
            days::ensure(&session, day_of(now.checked_add(hours.hours()).unwrap_or(now))).await?;
        }
        let (capture_until, leads_until) = (day_before(now, capture), day_before(now, leads));
        let until = |parent| if ["found_by", "lookup"].contains(&parent) { leads_until } else { capture_until };
        for (parent, day) in days::of(&session).await? {
            if day < until(parent) && days::drop(&mut session, parent, day).await? {
                forgotten.days += 1;
            }
        }
        let before = now.as_microsecond().saturating_sub(i64::try_from(leads.as_micros()).unwrap_or(i64::MAX));
        loop {
            let bitten = delete_leads(&mut session, before).await?;
            forgotten.leads += bitten;
            if bitten < usize::try_from(BITE).unwrap_or(usize::MAX) {
                break;
            }
        }
        let keys_before = now.checked_sub(REMEMBER_KEYS_HOURS.hours()).map_or(0, Timestamp::as_microsecond);
        for (table, key, column, before) in
            [("idempotency", "source, key", "at", keys_before), ("dedupe", "hash", "until", now.as_microsecond())]
        {
            let sql = bite_sql(table, key, column);
            while rows::execute(&session, &sql, &[&before, &BITE]).await? >= BITE.unsigned_abs() {}
        }
        forgotten.places = forget_places(&session, now).await?;
        rows::execute(&session, mark::FORGET, &[]).await?;
        rows::execute(&session, GATEWAYS, &[&self.fleet.member().token]).await?;
        Ok(forgotten)
    }
}

/// Deletes counts of past periods. Those that an unfinished delivery owns stay: they will be given back.
async fn forget_places(session: &Object, now: Timestamp) -> Result<usize, StoreError> {
    let keys = |rows: Vec<tokio_postgres::Row>| {
        rows.iter().map(|row| Ok(PlaceKey::from_text(row.try_get(0)?))).collect::<Result<Vec<_>, StoreError>>()
    };
    let owned: HashSet<PlaceKey> = keys(rows::query(session, OWNED, &[]).await?)?.into_iter().collect();
    let all = keys(rows::query(session, "SELECT key FROM place", &[]).await?)?;
    let past: Vec<&str> =
        all.iter().filter(|key| key.is_past(now) && !owned.contains(key)).map(PlaceKey::as_str).collect();
    let mut forgotten = 0;
    for bite in past.chunks(usize::try_from(BITE).unwrap_or(500)) {
        forgotten += rows::execute(session, PLACES, &[&bite]).await?;
    }
    Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
}

/// Deletes some of the oldest finished leads with their deliveries and attempts.
async fn delete_leads(session: &mut Object, before: i64) -> Result<usize, StoreError> {
    let tx = session.transaction().await?;
    let found = rows::query(&tx, OLDEST, &[&before, &id_bound(before), &BITE]).await?;
    let locked: Vec<Uuid> = found.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    // A person may have sent one of them again before it was locked.
    let still = rows::query(&tx, FINISHED, &[&locked]).await?;
    let ids: Vec<Uuid> = still.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !ids.is_empty() {
        let attempts = "DELETE FROM attempt WHERE delivery IN (SELECT id FROM delivery WHERE lead = ANY($1))";
        for sql in [attempts, "DELETE FROM delivery WHERE lead = ANY($1)", "DELETE FROM lead WHERE id = ANY($1)"] {
            rows::execute(&tx, sql, &[&ids]).await?;
        }
    }
    tx.commit().await?;
    Ok(locked.len())
}

pub(super) fn bite_sql(table: &str, key: &str, column: &str) -> String {
    format!(
        "DELETE FROM {table} WHERE ({key}) IN
             (SELECT {key} FROM {table} WHERE {column} <= $1 ORDER BY {key} LIMIT $2 FOR UPDATE SKIP LOCKED)"
    )
}
