//! The attempt commit: the attempt's row and its places, before the first byte is sent. The store grants, or says what
//! is full.

use super::{Store, StoreError};
use crate::model::id::DeliveryId;
use crate::model::limit::{Place, PlaceKey};
use jiff::Timestamp;

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
        on_engine!(self, db => db.start_attempt(attempt).await)
    }
}
