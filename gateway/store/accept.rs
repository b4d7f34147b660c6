//! The accept commit: a lead, its ordered candidates, its first deliveries, its source's and campaign's places, its
//! idempotency key, what it will be found by. All of it, or nothing.

use super::leads::Remembered;
use super::{Store, StoreError};
use crate::model::delivery::DeliveryState;
use crate::model::id::{ContractId, DeliveryId, PartnerId, RequestId};
use crate::model::lead::{Candidate, Lead, LeadReason, LeadStatus};
use crate::model::limit::{Place, PlaceKey};
use crate::model::money::Amount;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A lead about to become durable.
#[derive(Debug, Clone)]
pub struct Accept {
    /// The lead.
    pub lead: Arc<Lead>,
    /// What routing says of it.
    pub status: LeadStatus,
    /// Why, if that is decided.
    pub reason: Option<LeadReason>,
    /// What the source earns.
    pub payout: Option<Amount>,
    /// Every contract that was looked at, in order.
    pub candidates: Vec<Candidate>,
    /// Its first deliveries, in order.
    pub deliveries: Vec<NewDelivery>,
    /// Places of its source and campaign.
    pub places: Vec<Place>,
    /// What makes it the same person as an earlier one.
    pub dedupe: Vec<DedupeKey>,
    /// The source's `Idempotency-Key`.
    pub idempotency: Option<IdempotencyKey>,
    /// What staff will look it up by: kind and normalised value.
    pub lookups: Vec<(&'static str, String)>,
    /// Whose turn it was (round robin).
    pub turn: Option<(ContractId, u64)>,
    /// The body's type, as posted.
    pub content_type: String,
    /// The body, as posted.
    pub body: Bytes,
    /// The request that brought it.
    pub request: RequestId,
}

/// A delivery about to be made.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// The buyer.
    pub partner: PartnerId,
    /// The contract.
    pub contract: ContractId,
    /// `queued`, or `skipped` for a contract that was passed over.
    pub state: DeliveryState,
    /// Waits here whatever the contract's policies say.
    pub waits: bool,
    /// Why it was skipped.
    pub reason: Option<String>,
    /// The contract's price.
    pub price: Option<Amount>,
    /// The delivery that a person sends again.
    pub redelivery_of: Option<DeliveryId>,
    /// A person let it pass the limits.
    pub bypass_limits: bool,
}

/// A hash over one dedupe rule's values, and how far back it looks.
#[derive(Debug, Clone)]
pub struct DedupeKey {
    /// Campaign, rule and values, hashed by the store with its own key.
    pub text: String,
    /// The rule's window.
    pub window: Duration,
}

/// A source's `Idempotency-Key` and the body it came with.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    /// As posted.
    pub key: String,
    /// A hash of the body's bytes.
    pub fingerprint: [u8; 32],
}

/// What became of an accept commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// Durable.
    Stored,
    /// Durable as `rejected`: the campaign had this person already.
    Duplicate,
    /// Nothing was stored: this source or campaign limit is reached.
    LimitReached(PlaceKey),
    /// Nothing was stored: the idempotency key belongs to another lead.
    KeyTaken(Remembered),
}

impl Store {
    /// Makes a lead durable, or says why not; returns after the commit is synced.
    ///
    /// # Errors
    /// When nothing could be made durable. After a failed commit the lead is looked for before that is said.
    pub async fn accept(&self, accept: Accept) -> Result<Accepted, StoreError> {
        on_engine!(self, db => db.accept(accept).await)
    }
}
