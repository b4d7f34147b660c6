//! Reading leads from SQLite.

use super::deliveries::deliveries_of;
use super::{Sqlite, rows};
use crate::model::id::{ContractId, LeadId};
use crate::model::lead::{Lead, LeadReason, LeadStatus};
use crate::model::money::Amount;
use crate::store::leads::REMEMBER_KEYS_HOURS;
use crate::store::{LeadRecord, Remembered, Standings, StoreError};
use jiff::{Timestamp, ToSpan as _};
use rusqlite::{Connection, OptionalExtension as _, Row};

impl Sqlite {
    pub(in crate::store) async fn check(&self) -> Result<(), StoreError> {
        self.read(|conn| Ok(conn.prepare_cached("SELECT 1 FROM meta LIMIT 1")?.exists([]).map(drop)?)).await
    }

    pub(in crate::store) async fn lead(&self, id: LeadId) -> Result<Option<LeadRecord>, StoreError> {
        self.read(move |conn| Ok(read_lead(conn, id)?)).await
    }

    pub(in crate::store) async fn standings(&self, id: LeadId) -> Result<Option<Standings>, StoreError> {
        self.read(move |conn| {
            let tx = conn.unchecked_transaction()?;
            let Some(record) = read_lead(&tx, id)? else { return Ok(None) };
            let deliveries = deliveries_of(&tx, id)?;
            Ok(Some(Standings { record, deliveries }))
        })
        .await
    }

    pub(in crate::store) async fn lead_exists(&self, id: LeadId) -> Result<bool, StoreError> {
        self.read(move |conn| Ok(conn.prepare_cached("SELECT 1 FROM lead WHERE id = ?1")?.exists([id.0.as_bytes()])?))
            .await
    }

    pub(in crate::store) async fn remembered(
        &self,
        source: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<Remembered>, StoreError> {
        let (source, key) = (source.to_owned(), key.to_owned());
        self.read(move |conn| Ok(remembered(conn, &source, &key, now)?)).await
    }

    pub(in crate::store) async fn original_body(&self, id: LeadId) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        self.read(move |conn| {
            Ok(conn
                .prepare_cached("SELECT content_type, body FROM lead CROSS JOIN lead_data ON seq = data WHERE id = ?1")?
                .query_row([id.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?)
        })
        .await
    }

    pub(in crate::store) async fn turns(&self) -> Result<Vec<(ContractId, u64)>, StoreError> {
        self.read(|conn| {
            let mut turns = conn.prepare_cached("SELECT contract, turn FROM turn")?;
            let rows = turns
                .query_map([], |row| Ok((rows::parsed(row, 0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0))))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

/// Leads with what they brought; in this order, so that they are read by their own keys.
pub(super) const LEADS: &str = "lead CROSS JOIN lead_data ON lead_data.seq = lead.data";

/// The columns that [`lead_of`] reads, in its order.
pub(super) const LEAD_COLUMNS: &str =
    "id, campaign, source, status, reason, test, received_at, version, payout, fields, meta, candidates";

pub(super) fn lead_of(row: &Row<'_>) -> rusqlite::Result<LeadRecord> {
    Ok(LeadRecord {
        lead: Lead {
            id: LeadId(rows::uuid(row, 0)?),
            campaign: rows::parsed(row, 1)?,
            source: rows::parsed(row, 2)?,
            received_at: rows::time(row, 6)?,
            test: row.get(5)?,
            fields: rows::json(row, 9)?,
            meta: rows::json(row, 10)?,
        },
        status: rows::word(row, 3, LeadStatus::from_word)?,
        reason: rows::word_opt(row, 4, LeadReason::from_word)?,
        payout: row.get::<_, Option<i64>>(8)?.map(Amount),
        candidates: rows::json(row, 11)?,
        version: u64::try_from(row.get::<_, i64>(7)?).unwrap_or(0),
    })
}

pub(super) fn read_lead(conn: &Connection, id: LeadId) -> rusqlite::Result<Option<LeadRecord>> {
    conn.prepare_cached(&format!("SELECT {LEAD_COLUMNS} FROM {LEADS} WHERE id = ?1"))?
        .query_row([id.0.as_bytes()], lead_of)
        .optional()
}

pub(super) fn remembered(
    conn: &Connection,
    source: &str,
    key: &str,
    now: Timestamp,
) -> rusqlite::Result<Option<Remembered>> {
    let since = now.checked_sub(REMEMBER_KEYS_HOURS.hours()).map_or(i64::MIN, Timestamp::as_microsecond);
    conn.prepare_cached("SELECT lead, fingerprint FROM idempotency WHERE source = ?1 AND key = ?2 AND at > ?3")?
        .query_row((source, key, since), |row| {
            Ok(Remembered { lead: LeadId(rows::uuid(row, 0)?), fingerprint: row.get(1)? })
        })
        .optional()
}
