//! The accept commit in SQLite.

use super::leads::remembered;
use super::writer::Tx;
use super::{Sqlite, lookups, rows};
use crate::model::id::LeadId;
use crate::model::lead::{Lead, LeadReason, LeadStatus};
use crate::model::limit::{Place, PlaceKey};
use crate::store::hashes::{keyed, lookup_hash};
use crate::store::{Accept, Accepted, DedupeKey, NewDelivery, StoreError};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

impl Sqlite {
    pub(in crate::store) async fn accept(&self, accept: Accept) -> Result<Accepted, StoreError> {
        let lead = accept.lead.id;
        let prepared = Prepared::of(&accept, &self.lookup_key)?;
        let outcome = self.commit(move |tx| run(tx, &accept, &prepared)).await;
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

/// What of a lead is worked out before its turn to be written comes: all leads share one writer.
struct Prepared {
    fields: String,
    meta: String,
    candidates: String,
    /// As `Accept::dedupe`.
    persons: Vec<[u8; 32]>,
    lookups: Vec<[u8; 16]>,
}

impl Prepared {
    fn of(accept: &Accept, key: &[u8; 32]) -> rusqlite::Result<Self> {
        Ok(Self {
            fields: rows::to_json(&accept.lead.fields)?,
            meta: rows::to_json(&accept.lead.meta)?,
            candidates: rows::to_json(&accept.candidates)?,
            persons: accept.dedupe.iter().map(|rule| keyed(key, &["dedupe", &rule.text])).collect(),
            lookups: accept.lookups.iter().map(|(kind, value)| lookup_hash(key, kind, value)).collect(),
        })
    }
}

fn run(tx: &mut Tx<'_, '_>, accept: &Accept, prepared: &Prepared) -> rusqlite::Result<Accepted> {
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
    let persons = || accept.dedupe.iter().zip(&prepared.persons);
    let duplicate = !lead.test && is_duplicate(tx, persons(), at)?;

    if duplicate {
        insert_lead(tx, accept, prepared, LeadStatus::Rejected, Some(LeadReason::Duplicate))?;
    } else {
        insert_lead(tx, accept, prepared, accept.status, accept.reason)?;
        for delivery in &accept.deliveries {
            insert_delivery(tx, lead, delivery, at)?;
        }
        if !lead.test {
            for place in &accept.places {
                tx.count(&place.key, 1)?;
            }
            remember_person(tx, persons(), lead.id, at)?;
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
    lookups::append(tx, lead.id.0.as_bytes(), &prepared.lookups, at)?;
    Ok(if duplicate { Accepted::Duplicate } else { Accepted::Stored })
}

fn full_place(tx: &mut Tx<'_, '_>, wanted: &[Place]) -> rusqlite::Result<Option<PlaceKey>> {
    for place in wanted {
        if let Some(limit) = place.limit
            && u64::try_from(tx.used(&place.key)?).unwrap_or(0) >= limit
        {
            return Ok(Some(place.key.clone()));
        }
    }
    Ok(None)
}

fn is_duplicate<'a>(
    tx: &Tx<'_, '_>,
    persons: impl Iterator<Item = (&'a DedupeKey, &'a [u8; 32])>,
    at: Timestamp,
) -> rusqlite::Result<bool> {
    for (rule, hash) in persons {
        let earlier: Option<i64> =
            tx.statement("SELECT at FROM dedupe WHERE hash = ?1")?.query_row([hash], |row| row.get(0)).optional()?;
        let window = i64::try_from(rule.window.as_micros()).unwrap_or(i64::MAX);
        if earlier.is_some_and(|earlier| at.as_microsecond().saturating_sub(earlier) < window) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remember_person<'a>(
    tx: &Tx<'_, '_>,
    persons: impl Iterator<Item = (&'a DedupeKey, &'a [u8; 32])>,
    lead: LeadId,
    at: Timestamp,
) -> rusqlite::Result<()> {
    for (rule, hash) in persons {
        let window = i64::try_from(rule.window.as_micros()).unwrap_or(i64::MAX);
        tx.statement(
            "INSERT INTO dedupe (hash, lead, at, until) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (hash) DO UPDATE SET lead = excluded.lead, at = excluded.at, until = max(until, excluded.until)",
        )?
        .execute(params![hash, lead.0.as_bytes(), at.as_microsecond(), at.as_microsecond().saturating_add(window)])?;
    }
    Ok(())
}

fn insert_lead(
    tx: &Tx<'_, '_>,
    accept: &Accept,
    prepared: &Prepared,
    status: LeadStatus,
    reason: Option<LeadReason>,
) -> rusqlite::Result<()> {
    let lead = &*accept.lead;
    tx.statement(
        "INSERT INTO lead_data (fields, meta, candidates, content_type, body, request_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        prepared.fields,
        prepared.meta,
        prepared.candidates,
        accept.content_type,
        &accept.body[..],
        accept.request.0.as_bytes(),
    ])?;
    tx.statement(
        "INSERT INTO lead (id, campaign, source, status, reason, test, received_at, version, payout, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, ?9)",
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
        tx.connection().last_insert_rowid(),
    ])
    .map(drop)
}

/// Adds a delivery of `lead`.
pub(super) fn insert_delivery(tx: &Tx<'_, '_>, lead: &Lead, new: &NewDelivery, at: Timestamp) -> rusqlite::Result<()> {
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
