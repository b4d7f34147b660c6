//! Reading deliveries, attempts and exchanges from SQLite.

use super::{Sqlite, places, rows};
use crate::model::delivery::{Attempt, Class, Delivery, DeliveryState, Verdict};
use crate::model::id::{DeliveryId, LeadId};
use crate::model::money::Amount;
use crate::store::{AttemptRecord, DeliveryRecord, ExchangeRecord, Message, StoreError};
use rusqlite::{Connection, OptionalExtension as _, Row};
use std::collections::HashMap;

/// Which exchange of an attempt a row holds: the one with the partner.
pub(super) const PARTNER: u8 = 0;

/// Or the one with its token endpoint.
pub(super) const TOKEN: u8 = 1;

impl Sqlite {
    pub(in crate::store) async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError> {
        self.read(move |conn| {
            Ok(conn
                .prepare_cached(&format!("SELECT {DELIVERY_COLUMNS} FROM delivery WHERE id = ?1"))?
                .query_row([id.0.as_bytes()], delivery_of)
                .optional()?)
        })
        .await
    }

    pub(in crate::store) async fn deliveries_of(
        &self,
        leads: Vec<LeadId>,
    ) -> Result<HashMap<LeadId, Vec<DeliveryRecord>>, StoreError> {
        self.read(move |conn| leads.into_iter().map(|lead| Ok((lead, deliveries_of(conn, lead)?))).collect()).await
    }

    pub(in crate::store) async fn attempts(&self, id: DeliveryId) -> Result<Vec<AttemptRecord>, StoreError> {
        self.read(move |conn| Ok(attempts_of(conn, id)?)).await
    }
}

/// The columns that [`delivery_of`] reads, in its order.
pub(super) const DELIVERY_COLUMNS: &str = "id, lead, campaign, source, partner, contract, received_at, state, waits, verdict, reason, \
     price, reference, redirect_url, attempt_count, first_attempt_at, had_unknown, due_at, redelivery_of, bypass_limits, \
     created_at, updated_at, places, held_ms";

pub(super) fn delivery_of(row: &Row<'_>) -> rusqlite::Result<DeliveryRecord> {
    Ok(DeliveryRecord {
        delivery: Delivery {
            id: DeliveryId(rows::uuid(row, 0)?),
            lead: LeadId(rows::uuid(row, 1)?),
            campaign: rows::parsed(row, 2)?,
            source: rows::parsed(row, 3)?,
            partner: rows::parsed(row, 4)?,
            contract: rows::parsed(row, 5)?,
            received_at: rows::time(row, 6)?,
            state: rows::word(row, 7, DeliveryState::from_word)?,
            waits: row.get(8)?,
            verdict: rows::word_opt(row, 9, Verdict::from_word)?,
            reason: row.get(10)?,
            price: row.get::<_, Option<i64>>(11)?.map(Amount),
            reference: row.get(12)?,
            redirect_url: row.get(13)?,
            attempt_count: row.get(14)?,
            first_attempt_at: rows::time_opt(row, 15)?,
            had_unknown: row.get(16)?,
            due_at: rows::time_opt(row, 17)?,
            redelivery_of: rows::uuid_opt(row, 18)?.map(DeliveryId),
            bypass_limits: row.get(19)?,
            created_at: rows::time(row, 20)?,
            updated_at: rows::time(row, 21)?,
        },
        places: places::parse(row.get_ref(22)?.as_str()?),
        held_ms: u64::try_from(row.get::<_, i64>(23)?).unwrap_or(0),
    })
}

pub(super) fn of_lead_sql() -> String {
    format!("SELECT {DELIVERY_COLUMNS} FROM delivery WHERE lead = ?1 ORDER BY id")
}

pub(super) fn deliveries_of(conn: &Connection, lead: LeadId) -> rusqlite::Result<Vec<DeliveryRecord>> {
    conn.prepare_cached(&of_lead_sql())?.query_map([lead.0.as_bytes()], delivery_of)?.collect()
}

fn attempts_of(conn: &Connection, id: DeliveryId) -> rusqlite::Result<Vec<AttemptRecord>> {
    let mut select = conn.prepare_cached(
        "SELECT number, started_at, deadline, ended_at, verdict, class, status_code, latency_ms, explanation, timings, exchange_day
         FROM attempt WHERE delivery = ?1 ORDER BY number",
    )?;
    let found = select.query_map([id.0.as_bytes()], |row| {
        let attempt = Attempt {
            number: row.get(0)?,
            started_at: rows::time(row, 1)?,
            deadline: rows::time(row, 2)?,
            ended_at: rows::time_opt(row, 3)?,
            verdict: rows::word_opt(row, 4, Verdict::from_word)?,
            class: rows::word_opt(row, 5, Class::from_word)?,
            status_code: row.get(6)?,
            latency_ms: row.get(7)?,
            explanation: rows::json_opt(row, 8)?,
            timings: rows::json_opt(row, 9)?,
        };
        Ok((attempt, row.get::<_, Option<u32>>(10)?))
    })?;
    let mut records = Vec::new();
    for row in found {
        let (attempt, day) = row?;
        let read = |part| day.map(|day| read_exchange(conn, id, attempt.number, part, day)).transpose();
        let (exchange, token_exchange) = (read(PARTNER)?.flatten(), read(TOKEN)?.flatten());
        records.push(AttemptRecord { attempt, exchange, token_exchange });
    }
    Ok(records)
}

fn read_exchange(
    conn: &Connection,
    id: DeliveryId,
    number: u32,
    part: u8,
    day: u32,
) -> rusqlite::Result<Option<ExchangeRecord>> {
    let select = conn.prepare(&format!(
        "SELECT request_head, request_body, request_truncated, response_head, response_body, response_truncated
         FROM exchange_{day} WHERE delivery = ?1 AND number = ?2 AND part = ?3"
    ));
    let mut select = match select {
        Ok(select) => select,
        // The day is past the capture's retention, and its table was dropped.
        Err(rusqlite::Error::SqliteFailure(_, Some(message))) if message.contains("no such table") => return Ok(None),
        Err(rusqlite::Error::SqlInputError { msg, .. }) if msg.contains("no such table") => return Ok(None),
        Err(error) => return Err(error),
    };
    select
        .query_row((id.0.as_bytes(), number, part), |row| {
            let request = Message { head: row.get(0)?, body: row.get(1)?, truncated: row.get(2)? };
            let response = match row.get::<_, Option<String>>(3)? {
                Some(head) => Some(Message { head, body: row.get(4)?, truncated: row.get(5)? }),
                None => None,
            };
            Ok(ExchangeRecord { request, response })
        })
        .optional()
}
