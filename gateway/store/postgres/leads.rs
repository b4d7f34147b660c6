//! Reading leads from PostgreSQL.

use super::deliveries::{delivery_of, of_leads_sql};
use super::{Postgres, rows};
use crate::model::id::{ContractId, LeadId};
use crate::model::lead::{Lead, LeadReason, LeadStatus};
use crate::model::money::Amount;
use crate::store::leads::REMEMBER_KEYS_HOURS;
use crate::store::{LeadRecord, Remembered, Standings, StoreError};
use jiff::{Timestamp, ToSpan as _};
use tokio_postgres::{IsolationLevel, Row};

/// The columns that [`lead_of`] reads, in its order.
pub(super) const LEAD_COLUMNS: &str =
    "id, campaign, source, status, reason, test, received_at, version, payout, fields, meta, candidates";

pub(super) fn lead_of(row: &Row) -> Result<LeadRecord, StoreError> {
    Ok(LeadRecord {
        lead: Lead {
            id: LeadId(row.try_get(0)?),
            campaign: rows::parsed(row, 1)?,
            source: rows::parsed(row, 2)?,
            received_at: rows::time(row, 6)?,
            test: row.try_get(5)?,
            fields: rows::json(row, 9)?,
            meta: rows::json(row, 10)?,
        },
        status: rows::word(row, 3, LeadStatus::from_word)?,
        reason: rows::word_opt(row, 4, LeadReason::from_word)?,
        payout: row.try_get::<_, Option<i64>>(8)?.map(Amount),
        candidates: rows::json(row, 11)?,
        version: rows::count(row, 7)?,
    })
}

pub(super) fn one_sql() -> String {
    format!("SELECT {LEAD_COLUMNS} FROM lead WHERE id = $1")
}

impl Postgres {
    pub(in crate::store) async fn check(&self) -> Result<(), StoreError> {
        let db = self.session().await?;
        rows::query_opt(&db, "SELECT 1 FROM meta LIMIT 1", &[]).await.map(drop)
    }

    pub(in crate::store) async fn lead(&self, id: LeadId) -> Result<Option<LeadRecord>, StoreError> {
        let db = self.session().await?;
        rows::query_opt(&db, &one_sql(), &[&id.0]).await?.as_ref().map(lead_of).transpose()
    }

    pub(in crate::store) async fn standings(&self, id: LeadId) -> Result<Option<Standings>, StoreError> {
        let mut db = self.session().await?;
        // Both statements see one and the same moment.
        let tx = db.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
        let Some(row) = rows::query_opt(&tx, &one_sql(), &[&id.0]).await? else { return Ok(None) };
        let record = lead_of(&row)?;
        let deliveries = rows::query(&tx, &of_leads_sql(), &[&vec![id.0]]).await?;
        let deliveries = deliveries.iter().map(delivery_of).collect::<Result<_, _>>()?;
        tx.commit().await?;
        Ok(Some(Standings { record, deliveries }))
    }

    pub(in crate::store) async fn lead_exists(&self, id: LeadId) -> Result<bool, StoreError> {
        let db = self.session().await?;
        Ok(rows::query_opt(&db, "SELECT 1 FROM lead WHERE id = $1", &[&id.0]).await?.is_some())
    }

    pub(in crate::store) async fn remembered(
        &self,
        source: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<Remembered>, StoreError> {
        let since = now.checked_sub(REMEMBER_KEYS_HOURS.hours()).map_or(i64::MIN, Timestamp::as_microsecond);
        let db = self.session().await?;
        let sql = "SELECT lead, fingerprint FROM idempotency WHERE source = $1 AND key = $2 AND at > $3";
        let Some(row) = rows::query_opt(&db, sql, &[&source, &key, &since]).await? else { return Ok(None) };
        let fingerprint = <[u8; 32]>::try_from(row.try_get::<_, &[u8]>(1)?)
            .map_err(|_| rows::bad(&row, 1, "a fingerprint has 32 bytes"))?;
        Ok(Some(Remembered { lead: LeadId(row.try_get(0)?), fingerprint }))
    }

    pub(in crate::store) async fn original_body(&self, id: LeadId) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        let db = self.session().await?;
        let row = rows::query_opt(&db, "SELECT content_type, body FROM lead WHERE id = $1", &[&id.0]).await?;
        row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
    }

    pub(in crate::store) async fn turns(&self) -> Result<Vec<(ContractId, u64)>, StoreError> {
        let db = self.session().await?;
        let found = rows::query(&db, "SELECT contract, turn FROM turn", &[]).await?;
        found.iter().map(|row| Ok((rows::parsed(row, 0)?, rows::count(row, 1)?))).collect()
    }
}
