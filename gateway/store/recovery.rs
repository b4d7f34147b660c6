//! What is unfinished: found at start, and read page by page while it is worked off, so that a backlog of any size
//! needs little memory.

use super::deliveries::DeliveryRecord;
use super::{Store, StoreError};
use crate::model::id::{ContractId, DeliveryId, LeadId};
use crate::model::lead::Lead;
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;

/// A delivery's rank in its contract's queue: the lead's arrival (or, for a retry, when it is due), then its id.
pub type QueueKey = (Timestamp, DeliveryId);

/// A waiting delivery, as little of it as the queue needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The delivery.
    pub id: DeliveryId,
    /// Its lead.
    pub lead: LeadId,
    /// When the lead was received.
    pub received_at: Timestamp,
    /// Waits here whatever the contract's policies say.
    pub waits: bool,
    /// It may already be with the partner: never passed over.
    pub had_unknown: bool,
    /// A person let it pass the limits.
    pub bypass_limits: bool,
    /// When its next attempt is due.
    pub due_at: Option<Timestamp>,
    /// Since when it has been waiting here.
    pub since: Timestamp,
}

/// A waiting delivery with all that its attempt needs.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The delivery as it is stored.
    pub record: DeliveryRecord,
    /// Its lead.
    pub lead: Arc<Lead>,
}

impl Store {
    /// Contracts that have waiting deliveries.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn contracts_with_queue(&self) -> Result<Vec<ContractId>, StoreError> {
        on_engine!(self, db => db.contracts_with_queue().await)
    }

    /// The next of a contract's queue that are ready at `now`, in order, after `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn ready_page(
        &self,
        contract: ContractId,
        after: Option<QueueKey>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Queued>, StoreError> {
        on_engine!(self, db => db.ready_page(contract, after, now, limit).await)
    }

    /// A contract's retries by when they are due, after `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn due_page(
        &self,
        contract: ContractId,
        after: Option<QueueKey>,
        limit: u32,
    ) -> Result<Vec<Queued>, StoreError> {
        on_engine!(self, db => db.due_page(contract, after, limit).await)
    }

    /// Waiting deliveries with their leads, all at once; those that are no longer there are left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(&self, page: &[Queued]) -> Result<HashMap<DeliveryId, Loaded>, StoreError> {
        let of = |queued: &Queued| (queued.id, queued.lead);
        on_engine!(self, db => db.load(page.iter().map(of).collect()).await)
    }

    /// Deliveries with an attempt that nobody can conclude any more at `now`, in order of id after `after`: on the embedded
    /// store, asked at start, every open one; among several gateways those of gateways that have gone, once their deadline
    /// is past.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open_attempts(
        &self,
        after: Option<DeliveryId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        on_engine!(self, db => db.open_attempts(after, limit, now).await)
    }

    /// How many deliveries are unknown; for metrics, counted from the index.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unknown_count(&self) -> Result<u64, StoreError> {
        on_engine!(self, db => db.unknown_count().await)
    }

    /// How many deliveries wait in a contract's queue.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn queue_length(&self, contract: ContractId) -> Result<u64, StoreError> {
        on_engine!(self, db => db.queue_length(contract).await)
    }
}
