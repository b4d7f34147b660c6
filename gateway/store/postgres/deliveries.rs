//! Reading deliveries, attempts and exchanges from PostgreSQL.

use super::{Postgres, rows};
use crate::model::delivery::{Attempt, Class, Delivery, DeliveryState, Verdict};
use crate::model::id::{DeliveryId, LeadId};
use crate::model::limit::PlaceKey;
use crate::model::money::Amount;
use crate::store::{AttemptRecord, DeliveryRecord, ExchangeRecord, Message, StoreError};
use std::collections::HashMap;
use tokio_postgres::Row;
use uuid::Uuid;

/// Which exchange of an attempt a row holds: the one with the partner.
pub(super) const PARTNER: i16 = 0;

/// Or the one with its token endpoint.
pub(super) const TOKEN: i16 = 1;

/// The columns that [`delivery_of`] reads, in its order.
pub(super) const DELIVERY_COLUMNS: &str = "id, lead, campaign, source, partner, contract, received_at, state, waits, verdict, reason, \
     price, reference, redirect_url, attempt_count, first_attempt_at, had_unknown, due_at, redelivery_of, bypass_limits, \
     created_at, updated_at, places, held_ms";

pub(super) fn delivery_of(row: &Row) -> Result<DeliveryRecord, StoreError> {
    Ok(DeliveryRecord {
        delivery: Delivery {
            id: DeliveryId(row.try_get(0)?),
            lead: LeadId(row.try_get(1)?),
            campaign: rows::parsed(row, 2)?,
            source: rows::parsed(row, 3)?,
            partner: rows::parsed(row, 4)?,
            contract: rows::parsed(row, 5)?,
            received_at: rows::time(row, 6)?,
            state: rows::word(row, 7, DeliveryState::from_word)?,
            waits: row.try_get(8)?,
            verdict: rows::word_opt(row, 9, Verdict::from_word)?,
            reason: row.try_get(10)?,
            price: row.try_get::<_, Option<i64>>(11)?.map(Amount),
            reference: row.try_get(12)?,
            redirect_url: row.try_get(13)?,
            attempt_count: rows::small(row, 14)?,
            first_attempt_at: rows::time_opt(row, 15)?,
            had_unknown: row.try_get(16)?,
            due_at: rows::time_opt(row, 17)?,
            redelivery_of: row.try_get::<_, Option<Uuid>>(18)?.map(DeliveryId),
            bypass_limits: row.try_get(19)?,
            created_at: rows::time(row, 20)?,
            updated_at: rows::time(row, 21)?,
        },
        places: places_of(row.try_get(22)?),
        held_ms: rows::count(row, 23)?,
    })
}

/// The keys in a delivery's `places` column.
pub(super) fn places_of(column: &str) -> Vec<PlaceKey> {
    column.lines().map(PlaceKey::from_text).collect()
}

pub(super) fn one_sql() -> String {
    format!("SELECT {DELIVERY_COLUMNS} FROM delivery WHERE id = $1")
}

pub(super) fn of_leads_sql() -> String {
    format!("SELECT {DELIVERY_COLUMNS} FROM delivery WHERE lead = ANY($1) ORDER BY id")
}

const ATTEMPTS: &str = "SELECT number, started_at, deadline, ended_at, verdict, class, status_code, latency_ms, explanation, timings, exchange_day
     FROM attempt WHERE delivery = $1 ORDER BY number";

/// The days are named, so that no other partition is read.
pub(super) const EXCHANGES: &str = "SELECT number, part, request_head, request_body, request_truncated, response_head, response_body, response_truncated
     FROM exchange WHERE day = ANY($1) AND delivery = $2";

impl Postgres {
    pub(in crate::store) async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError> {
        let db = self.session().await?;
        rows::query_opt(&db, &one_sql(), &[&id.0]).await?.as_ref().map(delivery_of).transpose()
    }

    pub(in crate::store) async fn deliveries_of(
        &self,
        leads: Vec<LeadId>,
    ) -> Result<HashMap<LeadId, Vec<DeliveryRecord>>, StoreError> {
        let db = self.session().await?;
        let ids: Vec<Uuid> = leads.iter().map(|lead| lead.0).collect();
        let mut found: HashMap<LeadId, Vec<DeliveryRecord>> =
            leads.into_iter().map(|lead| (lead, Vec::new())).collect();
        for row in rows::query(&db, &of_leads_sql(), &[&ids]).await? {
            let record = delivery_of(&row)?;
            found.entry(record.delivery.lead).or_default().push(record);
        }
        Ok(found)
    }

    pub(in crate::store) async fn attempts(&self, id: DeliveryId) -> Result<Vec<AttemptRecord>, StoreError> {
        let db = self.session().await?;
        let (mut records, mut days) = (Vec::new(), Vec::new());
        for row in rows::query(&db, ATTEMPTS, &[&id.0]).await? {
            records.push(AttemptRecord { attempt: attempt_of(&row)?, exchange: None, token_exchange: None });
            days.extend(row.try_get::<_, Option<i32>>(10)?);
        }
        if days.is_empty() {
            return Ok(records);
        }
        days.sort_unstable();
        days.dedup();
        for row in rows::query(&db, EXCHANGES, &[&days, &id.0]).await? {
            let number: u32 = rows::small(&row, 0)?;
            let part: i16 = row.try_get(1)?;
            let Some(record) = records.iter_mut().find(|record| record.attempt.number == number) else { continue };
            let exchange = exchange_of(&row)?;
            match part {
                PARTNER => record.exchange = Some(exchange),
                TOKEN => record.token_exchange = Some(exchange),
                _ => {}
            }
        }
        Ok(records)
    }
}

fn attempt_of(row: &Row) -> Result<Attempt, StoreError> {
    Ok(Attempt {
        number: rows::small(row, 0)?,
        started_at: rows::time(row, 1)?,
        deadline: rows::time(row, 2)?,
        ended_at: rows::time_opt(row, 3)?,
        verdict: rows::word_opt(row, 4, Verdict::from_word)?,
        class: rows::word_opt(row, 5, Class::from_word)?,
        status_code: rows::small_opt(row, 6)?,
        latency_ms: row.try_get::<_, Option<i64>>(7)?.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)),
        explanation: rows::json_opt(row, 8)?,
        timings: rows::json_opt(row, 9)?,
    })
}

fn exchange_of(row: &Row) -> Result<ExchangeRecord, StoreError> {
    let request = Message { head: row.try_get(2)?, body: row.try_get(3)?, truncated: row.try_get(4)? };
    let response = match row.try_get::<_, Option<String>>(5)? {
        Some(head) => {
            let body = row.try_get::<_, Option<Vec<u8>>>(6)?.unwrap_or_default();
            Some(Message { head, body, truncated: row.try_get(7)? })
        }
        None => None,
    };
    Ok(ExchangeRecord { request, response })
}
