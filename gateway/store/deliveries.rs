//! Deliveries, their attempts and their exchanges as they are stored.

use super::{Store, StoreError};
use crate::model::delivery::{Attempt, Delivery};
use crate::model::id::{DeliveryId, LeadId};
use crate::model::limit::PlaceKey;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// A stored delivery, with what only the store and the pipeline care about.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// The delivery.
    pub delivery: Delivery,
    /// The places it owns.
    pub places: Vec<PlaceKey>,
    /// How long it has been held before its last attempt.
    pub held_ms: u64,
}

/// A stored attempt with what was captured of it, where that is still kept.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// The attempt.
    pub attempt: Attempt,
    /// Its exchange; gone once its day is past the capture's retention.
    pub exchange: Option<ExchangeRecord>,
    /// The exchange with a token endpoint that came before it, if there was one.
    pub token_exchange: Option<ExchangeRecord>,
}

/// The captured two sides of an exchange, secrets masked.
#[derive(Clone)]
pub struct ExchangeRecord {
    /// What was sent.
    pub request: Message,
    /// What came back, as far as it came.
    pub response: Option<Message>,
}

/// One captured side.
#[derive(Clone)]
pub struct Message {
    /// Method and URL, or status; and headers: a [`Head`] as JSON.
    pub head: String,
    /// The body, cut at the capture's size cap.
    pub body: Vec<u8>,
    /// Whether it was cut.
    pub truncated: bool,
}

impl std::fmt::Debug for ExchangeRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExchangeRecord({} bytes sent)", self.request.body.len())
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({} bytes)", self.body.len())
    }
}

/// The head of a captured message.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Of a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// In their order.
    pub headers: Vec<(String, String)>,
}

impl Store {
    /// A delivery by id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError> {
        on_engine!(self, db => db.delivery(id).await)
    }

    /// The deliveries of several leads, oldest first, by lead.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn deliveries_of(&self, leads: Vec<LeadId>) -> Result<HashMap<LeadId, Vec<DeliveryRecord>>, StoreError> {
        on_engine!(self, db => db.deliveries_of(leads).await)
    }

    /// A delivery's attempts, first to last, with what was captured.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn attempts(&self, id: DeliveryId) -> Result<Vec<AttemptRecord>, StoreError> {
        on_engine!(self, db => db.attempts(id).await)
    }
}
