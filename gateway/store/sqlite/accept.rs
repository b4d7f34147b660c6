//! The accept commit in SQLite.

use super::leads::remembered;
use super::writer::Tx;
use super::{Sqlite, rows};
use crate::model::id::LeadId;
use crate::model::lead::{Lead, LeadReason, LeadStatus};
use crate::model::limit::{Place, PlaceKey};
use crate::store::days::day_of;
use crate::store::hashes::{keyed, lookup_hash};
use crate::store::{Accept, Accepted, DedupeKey, NewDelivery, StoreError};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

impl Sqlite {
    pub(in crate::store) async fn accept(&self, accept: Accept) -> Result<Accepted, StoreError> {
        let key = self.lookup_key;
        let lead = accept.lead.id;
        let outcome = self.commit(move |tx| run(tx, &accept, &key)).await;
        match outcome {
            Err(StoreError::Failed(why)) => match self.lead_exists(lead).await {
                Ok(true) => Ok(Accepted::Stored),
                _ => Err(StoreError::Failed(why)),
            },
            outcome => outcome,
        }
    }

    pub(in crate::store) fn lookup_hash(&self, kind: &str, value: &str) -> [u8; 16] {
        lookup_hash(&self.lookup_key, kind, value)
    }
}

fn run(tx: &mut Tx<'_>, accept: &Accept, key: &[u8; 32]) -> rusqlite::Result<Accepted> {
    let lead = &*accept.lead;
    let at = lead.received_at;
    if let Some(idempotency) = &accept.idempotency
        && let Some(other) = remembered(tx.connection(), lead.source.as_str(), &idempotency.key, at)?
    {
        return Ok(Accepted::KeyTaken(other));
    }
    // Limits neither see nor count a test lead.
    if !lead.test
        && let Some(full) = full_place(tx, &accept.places)?
    {
        return Ok(Accepted::LimitReached(full));
    }
    let dedupe: Vec<(&DedupeKey, [u8; 32])> =
        accept.dedupe.iter().map(|d| (d, keyed(key, &["dedupe", &d.text]))).collect();
    let duplicate = !lead.test && is_duplicate(tx, &dedupe, at)?;

    tx.ensure_day(day_of(at))?;
    if duplicate {
        insert_lead(tx, accept, LeadStatus::Rejected, Some(LeadReason::Duplicate))?;
    } else {
        insert_lead(tx, accept, accept.status, accept.reason)?;
        for delivery in &accept.deliveries {
            insert_delivery(tx, lead, delivery, at)?;
        }
        if !lead.test {
            for place in &accept.places {
                tx.count(&place.key, 1)?;
            }
            remember_person(tx, &dedupe, lead.id, at)?;
        }
        if let Some((contract, turn)) = &accept.turn {
            tx.statement(
                "INSERT INTO turn VALUES (?1, ?2) ON CONFLICT (contract) DO UPDATE SET turn = max(turn, excluded.turn)",
            )?
            .execute(params![contract.as_str(), rows::count(*turn)])?;
        }
    }
    if let Some(idempotency) = &accept.idempotency {
        tx.statement(
            "INSERT INTO idempotency (source, key, fingerprint, lead, at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (source, key) DO UPDATE SET fingerprint = excluded.fingerprint, lead = excluded.lead, at = excluded.at",
        )?
        .execute(params![lead.source.as_str(), idempotency.key, idempotency.fingerprint, lead.id.0.as_bytes(), at.as_microsecond()])?;
    }
    insert_lookups(tx, key, &accept.lookups, lead.id.0.as_bytes(), at)?;
    Ok(if duplicate { Accepted::Duplicate } else { Accepted::Stored })
}

fn full_place(tx: &mut Tx<'_>, wanted: &[Place]) -> rusqlite::Result<Option<PlaceKey>> {
    for place in wanted {
        if let Some(limit) = place.limit
            && u64::try_from(tx.used(&place.key)?).unwrap_or(0) >= limit
        {
            return Ok(Some(place.key.clone()));
        }
    }
    Ok(None)
}

fn is_duplicate(tx: &Tx<'_>, keys: &[(&DedupeKey, [u8; 32])], at: Timestamp) -> rusqlite::Result<bool> {
    for (rule, hash) in keys {
        let earlier: Option<i64> =
            tx.statement("SELECT at FROM dedupe WHERE hash = ?1")?.query_row([hash], |row| row.get(0)).optional()?;
        let window = i64::try_from(rule.window.as_micros()).unwrap_or(i64::MAX);
        if earlier.is_some_and(|earlier| at.as_microsecond().saturating_sub(earlier) < window) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remember_person(tx: &Tx<'_>, keys: &[(&DedupeKey, [u8; 32])], lead: LeadId, at: Timestamp) -> rusqlite::Result<()> {
    for (rule, hash) in keys {
        let window = i64::try_from(rule.window.as_micros()).unwrap_or(i64::MAX);
        tx.statement(
            "INSERT INTO dedupe (hash, lead, at, until) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (hash) DO UPDATE SET lead = excluded.lead, at = excluded.at, until = max(until, excluded.until)",
        )?
        .execute(params![hash, lead.0.as_bytes(), at.as_microsecond(), at.as_microsecond().saturating_add(window)])?;
    }
    Ok(())
}

fn insert_lead(tx: &Tx<'_>, accept: &Accept, status: LeadStatus, reason: Option<LeadReason>) -> rusqlite::Result<()> {
    let lead = &*accept.lead;
    tx.statement(
        "INSERT INTO lead (id, campaign, source, status, reason, test, received_at, version, payout, fields, meta, candidates,
                           content_type, body, request_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(params![
        lead.id.0.as_bytes(),
        lead.campaign.as_str(),
        lead.source.as_str(),
        status.as_str(),
        reason.map(LeadReason::as_str),
        lead.test,
        lead.received_at.as_microsecond(),
        accept.payout.map(|amount| amount.0),
        rows::to_json(&lead.fields)?,
        rows::to_json(&lead.meta)?,
        rows::to_json(&accept.candidates)?,
        accept.content_type,
        &accept.body[..],
        accept.request.0.as_bytes(),
    ])
    .map(drop)
}

/// Adds a delivery of `lead`.
pub(super) fn insert_delivery(tx: &Tx<'_>, lead: &Lead, new: &NewDelivery, at: Timestamp) -> rusqlite::Result<()> {
    tx.statement(
        "INSERT INTO delivery (id, lead, campaign, source, partner, contract, received_at, state, waits, reason, price,
                               redelivery_of, bypass_limits, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14)",
    )?
    .execute(params![
        new.id.0.as_bytes(),
        lead.id.0.as_bytes(),
        lead.campaign.as_str(),
        lead.source.as_str(),
        new.partner.as_str(),
        new.contract.as_str(),
        lead.received_at.as_microsecond(),
        new.state.as_str(),
        new.waits,
        new.reason,
        new.price.map(|amount| amount.0),
        new.redelivery_of.as_ref().map(|id| id.0.as_bytes()),
        new.bypass_limits,
        at.as_microsecond(),
    ])
    .map(drop)
}

/// Makes `id` findable by these values.
pub(super) fn insert_lookups(
    tx: &mut Tx<'_>,
    key: &[u8; 32],
    lookups: &[(&'static str, String)],
    id: &[u8; 16],
    at: Timestamp,
) -> rusqlite::Result<()> {
    if lookups.is_empty() {
        return Ok(());
    }
    let day = day_of(at);
    tx.ensure_day(day)?;
    let mut insert =
        tx.statement(&format!("INSERT INTO lookup_{day} (hash, id) VALUES (?1, ?2) ON CONFLICT DO NOTHING"))?;
    for (kind, value) in lookups {
        insert.execute(params![lookup_hash(key, kind, value), id])?;
    }
    Ok(())
}
