//! What waits or was under way at the incarnations that are this gateway's, from PostgreSQL, through its indexes: one walk
//! for each token, merged.

use super::deliveries::{DELIVERY_COLUMNS, delivery_of};
use super::leads::{LEAD_COLUMNS, lead_of};
use super::{Postgres, rows};
use crate::model::id::{ContractId, DeliveryId, LeadId};
use crate::model::lead::Lead;
use crate::store::{DeliveryRecord, Loaded, QueueKey, Queued, StoreError};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_postgres::Row;
use uuid::Uuid;

fn queued_of(row: &Row) -> Result<Queued, StoreError> {
    let due_at = rows::time_opt(row, 6)?;
    let updated_at = rows::time(row, 7)?;
    Ok(Queued {
        id: DeliveryId(row.try_get(0)?),
        lead: LeadId(row.try_get(1)?),
        received_at: rows::time(row, 2)?,
        waits: row.try_get(3)?,
        had_unknown: row.try_get(4)?,
        bypass_limits: row.try_get(5)?,
        due_at,
        since: due_at.unwrap_or(updated_at),
    })
}

/// The columns that [`queued_of`] reads, in its order.
const QUEUED_COLUMNS: &str = "id, lead, received_at, waits, had_unknown, bypass_limits, due_at, updated_at";

/// Steps from contract to contract through the index instead of reading every waiting delivery.
pub(super) const CONTRACTS: &str = "WITH RECURSIVE one (token, contract) AS (
         SELECT token, (SELECT min(contract) FROM delivery WHERE state = 'queued' AND gateway = token)
         FROM unnest($1::uuid[]) AS own (token)
         UNION ALL
         SELECT token, (SELECT min(delivery.contract) FROM delivery
                        WHERE state = 'queued' AND gateway = one.token AND delivery.contract > one.contract)
         FROM one WHERE one.contract IS NOT NULL
     ) SELECT DISTINCT contract COLLATE \"C\" FROM one WHERE contract IS NOT NULL ORDER BY 1";

pub(super) const UNKNOWN: &str = "SELECT count(*) FROM delivery WHERE state = 'unknown'";

pub(super) const LENGTH: &str =
    "SELECT count(*) FROM delivery WHERE state = 'queued' AND gateway = ANY($1) AND contract = $2";

pub(super) fn ready_sql() -> String {
    format!(
        "SELECT page.* FROM unnest($1::uuid[]) AS own (token), LATERAL (
             SELECT {QUEUED_COLUMNS} FROM delivery
             WHERE state = 'queued' AND gateway = token AND contract = $2 AND (received_at, id) > ($3, $4)
               AND (due_at IS NULL OR due_at <= $5)
             ORDER BY received_at, id LIMIT $6
         ) AS page ORDER BY received_at, id LIMIT $6"
    )
}

fn some_deliveries_sql() -> String {
    format!("SELECT {DELIVERY_COLUMNS} FROM delivery WHERE id = ANY($1) AND state = 'queued'")
}

fn some_leads_sql() -> String {
    format!("SELECT {LEAD_COLUMNS} FROM lead WHERE id = ANY($1)")
}

pub(super) fn due_sql() -> String {
    format!(
        "SELECT page.* FROM unnest($1::uuid[]) AS own (token), LATERAL (
             SELECT {QUEUED_COLUMNS} FROM delivery
             WHERE state = 'queued' AND due_at IS NOT NULL AND gateway = token AND contract = $2 AND (due_at, id) > ($3, $4)
             ORDER BY due_at, id LIMIT $5
         ) AS page ORDER BY due_at, id LIMIT $5"
    )
}

/// The attempts that this incarnation itself makes are under way, not lost; those of gateways that have gone are left alone
/// until their deadline.
pub(super) fn open_sql() -> String {
    format!(
        "SELECT {DELIVERY_COLUMNS} FROM delivery WHERE state = 'sending' AND id > $1 AND gateway = ANY($2)
           AND EXISTS (SELECT 1 FROM attempt WHERE attempt.delivery = delivery.id AND attempt.number = delivery.attempt_count
                         AND attempt.gateway <> $3 AND attempt.deadline < $4)
         ORDER BY id LIMIT $5"
    )
}

/// Where a page begins.
fn after_key(after: Option<QueueKey>) -> (i64, Uuid) {
    after.map_or((i64::MIN, Uuid::nil()), |(time, id)| (time.as_microsecond(), id.0))
}

impl Postgres {
    pub(in crate::store) async fn contracts_with_queue(&self) -> Result<Vec<ContractId>, StoreError> {
        let session = self.session().await?;
        let found = rows::query(&session, CONTRACTS, &[&self.fleet.member().owned]).await?;
        found.iter().map(|row| rows::parsed(row, 0)).collect()
    }

    pub(in crate::store) async fn ready_page(
        &self,
        contract: ContractId,
        after: Option<QueueKey>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Queued>, StoreError> {
        let (time, id) = after_key(after);
        let session = self.session().await?;
        let owned = &self.fleet.member().owned;
        let (now, limit) = (now.as_microsecond(), i64::from(limit));
        let page = rows::query(&session, &ready_sql(), &[owned, &contract.as_str(), &time, &id, &now, &limit]).await?;
        page.iter().map(queued_of).collect()
    }

    pub(in crate::store) async fn load(
        &self,
        page: Vec<(DeliveryId, LeadId)>,
    ) -> Result<HashMap<DeliveryId, Loaded>, StoreError> {
        let session = self.session().await?;
        let (deliveries, leads): (Vec<Uuid>, Vec<Uuid>) = page.iter().map(|(id, lead)| (id.0, lead.0)).unzip();
        let leads = rows::query(&session, &some_leads_sql(), &[&leads]).await?;
        let leads: HashMap<LeadId, Arc<Lead>> = leads
            .iter()
            .map(|row| lead_of(row).map(|record| (record.lead.id, Arc::new(record.lead))))
            .collect::<Result<_, _>>()?;
        let deliveries = rows::query(&session, &some_deliveries_sql(), &[&deliveries]).await?;
        let mut found = HashMap::with_capacity(deliveries.len());
        for row in &deliveries {
            let record = delivery_of(row)?;
            if let Some(lead) = leads.get(&record.delivery.lead) {
                found.insert(record.delivery.id, Loaded { record, lead: Arc::clone(lead) });
            }
        }
        Ok(found)
    }

    pub(in crate::store) async fn due_page(
        &self,
        contract: ContractId,
        after: Option<QueueKey>,
        limit: u32,
    ) -> Result<Vec<Queued>, StoreError> {
        let (time, id) = after_key(after);
        let session = self.session().await?;
        let owned = &self.fleet.member().owned;
        let page =
            rows::query(&session, &due_sql(), &[owned, &contract.as_str(), &time, &id, &i64::from(limit)]).await?;
        page.iter().map(queued_of).collect()
    }

    pub(in crate::store) async fn open_attempts(
        &self,
        after: Option<DeliveryId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let member = self.fleet.member();
        let session = self.session().await?;
        let (now, limit) = (now.as_microsecond(), i64::from(limit));
        let page = rows::query(&session, &open_sql(), &[&after, &member.owned, &member.token, &now, &limit]).await?;
        page.iter().map(delivery_of).collect()
    }

    pub(in crate::store) async fn unknown_count(&self) -> Result<u64, StoreError> {
        let session = self.session().await?;
        rows::count(&session.query_one(UNKNOWN, &[]).await?, 0)
    }

    pub(in crate::store) async fn queue_length(&self, contract: ContractId) -> Result<u64, StoreError> {
        let session = self.session().await?;
        let owned = &self.fleet.member().owned;
        let found = rows::query_opt(&session, LENGTH, &[owned, &contract.as_str()]).await?;
        found.map_or(Ok(0), |row| rows::count(&row, 0))
    }
}
