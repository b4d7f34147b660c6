//! The attempt commit: the attempt's row and its places, before the first byte is sent. The store grants, or says what
//! is full.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::writer::Tx;
use super::{Store, StoreError, places};
use crate::model::delivery::DeliveryState;
use crate::model::id::DeliveryId;
use crate::model::limit::{Place, PlaceKey};

/// An attempt about to be made.
#[derive(Debug, Clone)]
pub struct StartAttempt {
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// The attempt's number: one more than those before.
    pub number: u32,
    /// Now.
    pub started_at: Timestamp,
    /// By then it must have an outcome.
    pub deadline: Timestamp,
    /// What it takes; places that the delivery still owns from an unknown attempt are moved to these.
    pub places: Vec<Place>,
    /// Time held so far.
    pub held_ms: u64,
}

/// What became of an attempt commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Granted {
    /// Durable: send now. Says which places of earlier periods were given back.
    Go(Vec<PlaceKey>),
    /// These counters are at their limit, with their counts: back to the gate.
    Full(Vec<(PlaceKey, u64)>),
    /// Somebody paused the partner or the contract since the gate was asked: back to the gate.
    Paused,
    /// The delivery is no longer queued for this attempt: somebody else ended it.
    Stale,
}

impl Store {
    /// Records an attempt and takes its places; returns after the commit is synced.
    ///
    /// # Errors
    /// When it is not certain that the attempt is durable: then nothing may be sent.
    pub async fn start_attempt(&self, attempt: StartAttempt) -> Result<Granted, StoreError> {
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
