//! The attempt commit in SQLite.

use super::writer::Tx;
use super::{Sqlite, places, rows};
use crate::model::delivery::DeliveryState;
use crate::model::limit::PlaceKey;
use crate::store::{Granted, StartAttempt, StoreError};
use rusqlite::{OptionalExtension as _, params};

impl Sqlite {
    pub(in crate::store) async fn start_attempt(&self, attempt: StartAttempt) -> Result<Granted, StoreError> {
        self.commit(move |tx| run(tx, &attempt)).await
    }
}

fn run(tx: &mut Tx<'_, '_>, attempt: &StartAttempt) -> rusqlite::Result<Granted> {
    if !tx.is_any_paused()? && places::full(tx, &attempt.places, &[])?.is_empty() && start(tx, attempt, "")? {
        // As nearly all are: queued for this attempt, and owning nothing.
        places::count(tx, &attempt.places, &[])?;
        return Ok(Granted::Go(Vec::new()));
    }
    let found = tx
        .statement("SELECT state, attempt_count, places, partner, contract FROM delivery WHERE id = ?1")?
        .query_row([attempt.delivery.0.as_bytes()], |row| {
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
    if tx.is_paused(&partner, &contract)? {
        return Ok(Granted::Paused);
    }
    let before = places::parse(&owned);
    let full = places::full(tx, &attempt.places, &before)?;
    if !full.is_empty() {
        return Ok(Granted::Full(full));
    }
    if !start(tx, attempt, &owned)? {
        return Ok(Granted::Stale);
    }
    places::count(tx, &attempt.places, &before)?;
    let given_back: Vec<PlaceKey> =
        before.into_iter().filter(|key| !attempt.places.iter().any(|place| place.key == *key)).collect();
    for key in &given_back {
        tx.count(key, -1)?;
    }
    Ok(Granted::Go(given_back))
}

/// Writes the attempt, if its delivery is queued for it and owns these places.
fn start(tx: &Tx<'_, '_>, attempt: &StartAttempt, owned: &str) -> rusqlite::Result<bool> {
    let id = attempt.delivery.0.as_bytes();
    let started = attempt.started_at.as_microsecond();
    let changed = tx
        .statement(
            "UPDATE delivery SET state = 'sending', attempt_count = ?2, first_attempt_at = coalesce(first_attempt_at, ?3),
                    due_at = NULL, places = ?4, held_ms = ?5, updated_at = ?3
             WHERE id = ?1 AND state = 'queued' AND attempt_count = ?2 - 1 AND places = ?6",
        )?
        .execute(params![
            id,
            attempt.number,
            started,
            places::column(&attempt.places),
            rows::count(attempt.held_ms),
            owned
        ])?;
    if changed == 0 {
        return Ok(false);
    }
    tx.statement("INSERT INTO attempt (delivery, number, started_at, deadline) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id, attempt.number, started, attempt.deadline.as_microsecond()])?;
    Ok(true)
}
