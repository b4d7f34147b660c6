//! What is unfinished: found at start, and read page by page while it is worked off, so that a backlog of any size
//! needs little memory.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::deliveries::{DELIVERY_COLUMNS, DeliveryRecord, delivery_of};
use super::{Store, StoreError, rows};
use crate::model::id::{ContractId, DeliveryId, LeadId};

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

const QUEUED_COLUMNS: &str = "id, lead, received_at, waits, had_unknown, bypass_limits, due_at, updated_at";

fn queued_of(row: &Row<'_>) -> rusqlite::Result<Queued> {
    let due_at = rows::time_opt(row, 6)?;
    let updated_at = rows::time(row, 7)?;
    Ok(Queued {
        id: DeliveryId(rows::uuid(row, 0)?),
        lead: LeadId(rows::uuid(row, 1)?),
        received_at: rows::time(row, 2)?,
        waits: row.get(3)?,
        had_unknown: row.get(4)?,
        bypass_limits: row.get(5)?,
        due_at,
        since: due_at.unwrap_or(updated_at),
    })
}

/// Steps from contract to contract through the index instead of reading every waiting delivery.
pub(super) const CONTRACTS: &str = "WITH RECURSIVE one (contract) AS (
         SELECT min(contract) FROM delivery WHERE state = 'queued'
         UNION ALL
         SELECT (SELECT min(contract) FROM delivery WHERE state = 'queued' AND contract > one.contract) FROM one
         WHERE one.contract IS NOT NULL
     ) SELECT contract FROM one WHERE contract IS NOT NULL";
pub(super) const UNKNOWN: &str = "SELECT count(*) FROM delivery INDEXED BY delivery_unknown WHERE state = 'unknown'";
pub(super) const LENGTH: &str =
    "SELECT count(*) FROM delivery INDEXED BY delivery_queue WHERE state = 'queued' AND contract = ?1";

pub(super) fn ready_sql() -> String {
    format!(
        "SELECT {QUEUED_COLUMNS} FROM delivery INDEXED BY delivery_queue
         WHERE state = 'queued' AND contract = ?1 AND (received_at, id) > (?2, ?3) AND (due_at IS NULL OR due_at <= ?4)
         ORDER BY received_at, id LIMIT ?5"
    )
}

pub(super) fn due_sql() -> String {
    format!(
        "SELECT {QUEUED_COLUMNS} FROM delivery INDEXED BY delivery_due
         WHERE state = 'queued' AND due_at IS NOT NULL AND contract = ?1 AND (due_at, id) > (?2, ?3)
         ORDER BY due_at, id LIMIT ?4"
    )
}

pub(super) fn open_sql() -> String {
    format!(
        "SELECT {DELIVERY_COLUMNS} FROM delivery INDEXED BY delivery_sending WHERE state = 'sending' AND id > ?1
         ORDER BY id LIMIT ?2"
    )
}

impl Store {
    /// Contracts that have waiting deliveries.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn contracts_with_queue(&self) -> Result<Vec<ContractId>, StoreError> {
        self.read(|conn| {
            let mut select = conn.prepare(CONTRACTS)?;
            let contracts = select.query_map([], |row| rows::parsed(row, 0))?.collect::<Result<_, _>>()?;
            Ok(contracts)
        })
        .await
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
        self.read(move |conn| {
            let (time, id) = after.map_or((i64::MIN, [0; 16]), |(time, id)| (time.as_microsecond(), *id.0.as_bytes()));
            let mut select = conn.prepare_cached(&ready_sql())?;
            let page =
                select.query_map(params![contract.as_str(), time, id, now.as_microsecond(), limit], queued_of)?;
            Ok(page.collect::<Result<_, _>>()?)
        })
        .await
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
        self.read(move |conn| {
            let (time, id) = after.map_or((i64::MIN, [0; 16]), |(time, id)| (time.as_microsecond(), *id.0.as_bytes()));
            let mut select = conn.prepare_cached(&due_sql())?;
            let page = select.query_map(params![contract.as_str(), time, id, limit], queued_of)?;
            Ok(page.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Deliveries whose attempt was open when the gateway stopped, in order of id after `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open_attempts(
        &self,
        after: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.read(move |conn| {
            let after = after.map_or([0; 16], |id| *id.0.as_bytes());
            let mut select = conn.prepare_cached(&open_sql())?;
            let page = select.query_map(params![after, limit], delivery_of)?;
            Ok(page.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// How many deliveries are unknown; for metrics, counted from the index.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unknown_count(&self) -> Result<u64, StoreError> {
        self.read(|conn| {
            let n: i64 = conn.prepare_cached(UNKNOWN)?.query_row([], |row| row.get(0))?;
            Ok(u64::try_from(n).unwrap_or(0))
        })
        .await
    }

    /// How many deliveries wait in a contract's queue.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn queue_length(&self, contract: ContractId) -> Result<u64, StoreError> {
        self.read(move |conn| {
            let n: i64 = conn.prepare_cached(LENGTH)?.query_row([contract.as_str()], |row| row.get(0))?;
            Ok(u64::try_from(n).unwrap_or(0))
        })
        .await
    }
}
