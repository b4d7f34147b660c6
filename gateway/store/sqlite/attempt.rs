//! The attempt commit in SQLite.

use super::writer::Tx;
use super::{Sqlite, places};
use crate::model::delivery::DeliveryState;
use crate::model::limit::PlaceKey;
use crate::store::{Granted, StartAttempt, StoreError};
use rusqlite::{OptionalExtension as _, params};

impl Sqlite {
    pub(in crate::store) async fn start_attempt(&self, attempt: StartAttempt) -> Result<Granted, StoreError> {
        self.commit(move |tx| run(tx, &attempt)).await
    }
}

fn run(tx: &mut Tx<'_>, attempt: &StartAttempt) -> rusqlite::Result<Granted> {
    let id = attempt.delivery.0.as_bytes();
    let found = tx
        .statement("SELECT state, attempt_count, places, partner, contract FROM delivery WHERE id = ?1")?
        .query_row([id], |row| {
            let (state, attempts): (String, u32) = (row.get(0)?, row.get(1)?);
            let (owned, partner, contract): (String, String, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((state, attempts, owned, partner, contract))
        })
        .optional()?;
    let Some((state, attempts, owned, partner, contract)) = found else { return Ok(Granted::Stale) };
    if state != DeliveryState::Queued.as_str() || attempts + 1 != attempt.number {
        return Ok(Granted::Stale);
    }
    // Whoever paused was told after this writer had it: no attempt may start behind that.
    let paused = tx
        .statement("SELECT 1 FROM paused WHERE (kind = 'partner' AND id = ?1) OR (kind = 'contract' AND id = ?2)")?
        .exists((&partner, &contract))?;
    if paused {
        return Ok(Granted::Paused);
    }
    let owned = places::parse(&owned);
    if let Err(full) = places::take(tx, &attempt.places, &owned)? {
        return Ok(Granted::Full(full));
    }
    let given_back: Vec<PlaceKey> =
        owned.into_iter().filter(|key| !attempt.places.iter().any(|place| place.key == *key)).collect();
    for key in &given_back {
        tx.count(key, -1)?;
    }
    let started = attempt.started_at.as_microsecond();
    let keys: Vec<&str> = attempt.places.iter().map(|place| place.key.as_str()).collect();
    tx.statement(
        "UPDATE delivery SET state = 'sending', attempt_count = ?2, first_attempt_at = coalesce(first_attempt_at, ?3),
                due_at = NULL, places = ?4, held_ms = ?5, updated_at = ?3 WHERE id = ?1",
    )?
    .execute(params![id, attempt.number, started, keys.join("\n"), super::rows::count(attempt.held_ms)])?;
    tx.statement("INSERT INTO attempt (delivery, number, started_at, deadline) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id, attempt.number, started, attempt.deadline.as_microsecond()])?;
    Ok(Granted::Go(given_back))
}
