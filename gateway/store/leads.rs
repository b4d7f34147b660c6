//! Leads as they are stored.

use jiff::{Timestamp, ToSpan as _};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::deliveries::{DeliveryRecord, deliveries_of};
use super::{Store, StoreError, rows};
use crate::model::id::{ContractId, LeadId};
use crate::model::lead::{Candidate, Lead, LeadReason, LeadStatus};
use crate::model::money::Amount;

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
        self.read(|conn| Ok(conn.prepare_cached("SELECT 1 FROM meta LIMIT 1")?.exists([]).map(drop)?)).await
    }

    /// A lead by id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn lead(&self, id: LeadId) -> Result<Option<LeadRecord>, StoreError> {
        self.read(move |conn| Ok(read_lead(conn, id)?)).await
    }

    /// A lead with its deliveries, read in one transaction.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn standings(&self, id: LeadId) -> Result<Option<Standings>, StoreError> {
        self.read(move |conn| {
            let tx = conn.unchecked_transaction()?;
            let Some(record) = read_lead(&tx, id)? else { return Ok(None) };
            let deliveries = deliveries_of(&tx, id)?;
            Ok(Some(Standings { record, deliveries }))
        })
        .await
    }

    /// Whether a lead is stored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn lead_exists(&self, id: LeadId) -> Result<bool, StoreError> {
        self.read(move |conn| Ok(conn.prepare_cached("SELECT 1 FROM lead WHERE id = ?1")?.exists([id.0.as_bytes()])?))
            .await
    }

    /// The lead that a source's idempotency key belongs to, if it is still remembered at `now`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn remembered(&self, source: &str, key: &str, now: Timestamp) -> Result<Option<Remembered>, StoreError> {
        let (source, key) = (source.to_owned(), key.to_owned());
        self.read(move |conn| Ok(remembered(conn, &source, &key, now)?)).await
    }

    /// The original bytes of a lead's post with their content type.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn original_body(&self, id: LeadId) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        self.read(move |conn| {
            Ok(conn
                .prepare_cached("SELECT content_type, body FROM lead WHERE id = ?1")?
                .query_row([id.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?)
        })
        .await
    }

    /// The number of the last turn each contract had.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn turns(&self) -> Result<Vec<(ContractId, u64)>, StoreError> {
        self.read(|conn| {
            let mut turns = conn.prepare_cached("SELECT contract, turn FROM turn")?;
            let rows = turns
                .query_map([], |row| Ok((rows::parsed(row, 0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0))))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

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
    conn.prepare_cached(&format!("SELECT {LEAD_COLUMNS} FROM lead WHERE id = ?1"))?
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
