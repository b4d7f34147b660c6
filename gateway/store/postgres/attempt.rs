//! The attempt commit in PostgreSQL.

use super::Postgres;
use super::found::Found;
use super::writer::{Done, Work};
use super::writes::Writes;
use crate::model::delivery::DeliveryState;
use crate::model::limit::{Place, PlaceKey};
use crate::store::{Granted, StartAttempt, StoreError};
use std::sync::Arc;

impl Postgres {
    pub(in crate::store) async fn start_attempt(&self, attempt: StartAttempt) -> Result<Granted, StoreError> {
        match self.writer.commit(Work::Attempt(Arc::new(attempt))).await? {
            Done::Granted(granted) => Ok(granted),
            _ => Err(StoreError::Closed),
        }
    }
}

pub(super) fn decide<'a>(
    attempt: &'a StartAttempt,
    found: &mut Found,
    writes: &mut Writes<'a>,
) -> Result<Granted, StoreError> {
    let Some(row) = found.delivery(attempt.delivery.0)? else { return Ok(Granted::Stale) };
    if row.state != DeliveryState::Queued || row.attempts + 1 != attempt.number {
        return Ok(Granted::Stale);
    }
    // Another gateway took it over, and may be sending it.
    if row.owner != Some(writes.token()) {
        return Ok(Granted::Stale);
    }
    // Whoever paused was told after this commit's locks: no attempt may start behind that.
    if row.is_paused {
        return Ok(Granted::Paused);
    }
    let owned = row.places.clone();
    let taken: Vec<&Place> = attempt.places.iter().filter(|place| !owned.contains(&place.key)).collect();
    let mut full = Vec::new();
    for place in &taken {
        let used = found.used(&place.key)?;
        if place.limit.is_some_and(|limit| used >= limit) {
            full.push((place.key.clone(), used));
        }
    }
    if !full.is_empty() {
        writes.is_full = true;
        return Ok(Granted::Full(full));
    }
    let given_back: Vec<PlaceKey> =
        owned.into_iter().filter(|key| !attempt.places.iter().any(|place| place.key == *key)).collect();
    for key in &given_back {
        found.can_count(key)?;
    }
    for place in taken {
        writes.take(found, place);
    }
    for key in &given_back {
        writes.give_back(found, key);
    }
    writes.starts.push(attempt);
    Ok(Granted::Go(given_back))
}
