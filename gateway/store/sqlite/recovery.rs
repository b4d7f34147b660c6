//! What waits or was under way, from SQLite, through its indexes.

use super::deliveries::{DELIVERY_COLUMNS, delivery_of};
use super::leads::read_lead;
use super::{Sqlite, rows};
use crate::model::id::{ContractId, DeliveryId, LeadId};
use crate::store::{DeliveryRecord, Loaded, QueueKey, Queued, StoreError};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, params};
use std::collections::HashMap;
use std::sync::Arc;

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

impl Sqlite {
    pub(in crate::store) async fn contracts_with_queue(&self) -> Result<Vec<ContractId>, StoreError> {
        self.read(|conn| {
            let mut select = conn.prepare(CONTRACTS)?;
            let contracts = select.query_map([], |row| rows::parsed(row, 0))?.collect::<Result<_, _>>()?;
            Ok(contracts)
        })
        .await
    }

    pub(in crate::store) async fn ready_page(
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

    pub(in crate::store) async fn due_page(
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

    pub(in crate::store) async fn load(
        &self,
        page: Vec<(DeliveryId, LeadId)>,
    ) -> Result<HashMap<DeliveryId, Loaded>, StoreError> {
        self.read(move |conn| {
            let mut found = HashMap::with_capacity(page.len());
            let mut deliveries = conn.prepare_cached(&format!(
                "SELECT {DELIVERY_COLUMNS} FROM delivery WHERE id = ?1 AND state = 'queued'"
            ))?;
            for (id, lead) in page {
                let record = deliveries.query_row([id.0.as_bytes()], delivery_of).optional()?;
                if let Some(record) = record
                    && let Some(lead) = read_lead(conn, lead)?
                {
                    found.insert(id, Loaded { record, lead: Arc::new(lead.lead) });
                }
            }
            Ok(found)
        })
        .await
    }

    pub(in crate::store) async fn open_attempts(
        &self,
        after: Option<DeliveryId>,
        limit: u32,
        _: Timestamp,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.read(move |conn| {
            let after = after.map_or([0; 16], |id| *id.0.as_bytes());
            let mut select = conn.prepare_cached(&open_sql())?;
            let page = select.query_map(params![after, limit], delivery_of)?;
            Ok(page.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(in crate::store) async fn unknown_count(&self) -> Result<u64, StoreError> {
        self.read(|conn| {
            let n: i64 = conn.prepare_cached(UNKNOWN)?.query_row([], |row| row.get(0))?;
            Ok(u64::try_from(n).unwrap_or(0))
        })
        .await
    }

    pub(in crate::store) async fn queue_length(&self, contract: ContractId) -> Result<u64, StoreError> {
        self.read(move |conn| {
            let n: i64 = conn.prepare_cached(LENGTH)?.query_row([contract.as_str()], |row| row.get(0))?;
            Ok(u64::try_from(n).unwrap_or(0))
        })
        .await
    }
}
