//! Leads as they are stored.

use super::deliveries::DeliveryRecord;
use super::{Store, StoreError};
use crate::model::id::{ContractId, LeadId};
use crate::model::lead::{Candidate, Lead, LeadReason, LeadStatus};
use crate::model::money::Amount;
use jiff::Timestamp;

/// How long an idempotency key is remembered (CONTRACT 7).
pub(super) const REMEMBER_KEYS_HOURS: i64 = 24;

/// A stored lead.
#[derive(Debug, Clone)]
pub struct LeadRecord {
    /// The lead itself.
    pub lead: Lead,
    /// Where it stands.
    pub status: LeadStatus,
    /// Why.
    pub reason: Option<LeadReason>,
    /// What its source earns.
    pub payout: Option<Amount>,
    /// The contracts looked at, in order.
    pub candidates: Vec<Candidate>,
    /// Counts the changes to its deliveries.
    pub version: u64,
}

/// The lead that an idempotency key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// The lead.
    pub lead: LeadId,
    /// A hash of the body it came in.
    pub fingerprint: [u8; 32],
}

/// A lead with all its deliveries, as of one moment.
#[derive(Debug, Clone)]
pub struct Standings {
    /// The lead.
    pub record: LeadRecord,
    /// Its deliveries, oldest first.
    pub deliveries: Vec<DeliveryRecord>,
}

impl Store {
    /// Whether the store can be read.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn check(&self) -> Result<(), StoreError> {
        on_engine!(self, db => db.check().await)
    }

    /// A lead by id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn lead(&self, id: LeadId) -> Result<Option<LeadRecord>, StoreError> {
        on_engine!(self, db => db.lead(id).await)
    }

    /// A lead with its deliveries, read in one transaction.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn standings(&self, id: LeadId) -> Result<Option<Standings>, StoreError> {
        on_engine!(self, db => db.standings(id).await)
    }

    /// Whether a lead is stored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn lead_exists(&self, id: LeadId) -> Result<bool, StoreError> {
        on_engine!(self, db => db.lead_exists(id).await)
    }

    /// The lead that a source's idempotency key belongs to, if it is still remembered at `now`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn remembered(&self, source: &str, key: &str, now: Timestamp) -> Result<Option<Remembered>, StoreError> {
        on_engine!(self, db => db.remembered(source, key, now).await)
    }

    /// The original bytes of a lead's post with their content type.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn original_body(&self, id: LeadId) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        on_engine!(self, db => db.original_body(id).await)
    }

    /// The number of the last turn each contract had.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn turns(&self) -> Result<Vec<(ContractId, u64)>, StoreError> {
        on_engine!(self, db => db.turns().await)
    }
}
