//! Steps in SQLite.

use super::accept::insert_delivery;
use super::audit::insert_audit;
use super::deliveries::{PARTNER, TOKEN};
use super::leads::read_lead;
use super::writer::Tx;
use super::{Sqlite, lookups, places, rows};
use crate::model::delivery::{Class, DeliveryState, Verdict};
use crate::model::id::{DeliveryId, LeadId};
use crate::model::lead::LeadReason;
use crate::store::days::day_of;
use crate::store::hashes::lookup_hash;
use crate::store::step::{Standing, fits};
use crate::store::{Audit, ExchangeRecord, LeadStep, NewDelivery, Step, Stepped, StoreError};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

impl Sqlite {
    pub(in crate::store) async fn step(&self, step: Step) -> Result<Stepped, StoreError> {
        let prepared = Prepared::of(&step, &self.lookup_key)?;
        self.commit(move |tx| run(tx, &step, &prepared)).await
    }

    pub(in crate::store) async fn redeliver(
        &self,
        lead: LeadId,
        new: NewDelivery,
        at: Timestamp,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.commit(move |tx| {
            if let Some(old) = &new.redelivery_of {
                let state: Option<String> = tx
                    .statement("SELECT state FROM delivery WHERE id = ?1")?
                    .query_row([old.0.as_bytes()], |row| row.get(0))
                    .optional()?;
                if !state.as_deref().and_then(DeliveryState::from_word).is_some_and(DeliveryState::is_final) {
                    return Ok(false);
                }
            }
            let Some(record) = read_lead(tx.connection(), lead)? else { return Ok(false) };
            insert_delivery(tx, &record.lead, &new, at)?;
            tx.statement("UPDATE lead SET version = version + 1 WHERE id = ?1")?.execute([lead.0.as_bytes()])?;
            insert_audit(tx, &audit, at)?;
            Ok(true)
        })
        .await
    }
}

/// What of a step is worked out before its turn to be written comes.
struct Prepared {
    explanation: Option<String>,
    timings: Option<String>,
    reference: Option<[u8; 16]>,
}

impl Prepared {
    fn of(step: &Step, key: &[u8; 32]) -> rusqlite::Result<Self> {
        let end = step.attempt.as_ref();
        Ok(Self {
            explanation: end.map(|end| rows::to_json(&end.explanation)).transpose()?,
            timings: end.and_then(|end| end.timings.as_ref()).map(rows::to_json).transpose()?,
            reference: step.change.reference.as_ref().map(|reference| lookup_hash(key, "reference", reference)),
        })
    }
}

fn run(tx: &mut Tx<'_, '_>, step: &Step, prepared: &Prepared) -> rusqlite::Result<Stepped> {
    let simple = !step.change.give_back && !matches!(step.then, LeadStep::Advance { .. });
    // As nearly all are: what it expects is there, and nothing else has to be known.
    if simple && update_delivery(tx, step, (step.from, step.attempts))? {
        follow(tx, step, prepared)?;
        return Ok(Stepped::Done(Vec::new()));
    }
    let found = tx
        .statement("SELECT state, attempt_count, had_unknown, places FROM delivery WHERE id = ?1")?
        .query_row([step.delivery.0.as_bytes()], |row| {
            let state = rows::word(row, 0, DeliveryState::from_word)?;
            let standing = Standing { state, attempts: row.get(1)?, had_unknown: row.get(2)?, ended: None };
            Ok((standing, row.get::<_, String>(3)?))
        })
        .optional()?;
    let Some((mut standing, owned)) = found else { return Ok(Stepped::Stale(DeliveryState::Cancelled, 0)) };
    let Standing { state, attempts, .. } = standing;
    if let Some(end) = step.attempt.as_ref().filter(|_| state != step.from) {
        standing.ended = recorded_end(tx, step.delivery, end.number)?;
    }
    if !fits(step, standing) {
        // It changes nothing any more, but what was said is kept.
        end_attempt(tx, step, prepared)?;
        return Ok(Stepped::Stale(state, attempts));
    }
    if let LeadStep::Advance { version, .. } = &step.then {
        let now: Option<i64> = tx
            .statement("SELECT version FROM lead WHERE id = ?1")?
            .query_row([step.lead.0.as_bytes()], |row| row.get(0))
            .optional()?;
        if now != Some(rows::count(*version)) {
            return Ok(Stepped::LeadMoved);
        }
    }

    let given_back = if step.change.give_back { places::parse(&owned) } else { Vec::new() };
    for key in &given_back {
        tx.count(key, -1)?;
    }
    update_delivery(tx, step, (state, attempts))?;
    follow(tx, step, prepared)?;
    Ok(Stepped::Done(given_back))
}

/// What follows from the delivery's change.
fn follow(tx: &mut Tx<'_, '_>, step: &Step, prepared: &Prepared) -> rusqlite::Result<()> {
    end_attempt(tx, step, prepared)?;
    if let Some(reference) = prepared.reference {
        lookups::append(tx, step.delivery.0.as_bytes(), &[reference], step.at)?;
    }
    move_lead(tx, step)?;
    if let Some(audit) = &step.audit {
        insert_audit(tx, audit, step.at)?;
    }
    Ok(())
}

/// How an attempt was recorded to have ended; `None`: not yet.
fn recorded_end(
    tx: &Tx<'_, '_>,
    delivery: DeliveryId,
    number: u32,
) -> rusqlite::Result<Option<(Verdict, Option<Class>)>> {
    tx.statement("SELECT verdict, class FROM attempt WHERE delivery = ?1 AND number = ?2 AND verdict IS NOT NULL")?
        .query_row(params![delivery.0.as_bytes(), number], |row| {
            Ok((rows::word(row, 0, Verdict::from_word)?, rows::word_opt(row, 1, Class::from_word)?))
        })
        .optional()
}

/// Changes the delivery, if it is in that state and has had so many attempts.
fn update_delivery(tx: &Tx<'_, '_>, step: &Step, found: (DeliveryState, u32)) -> rusqlite::Result<bool> {
    let change = &step.change;
    let (state, attempts) = found;
    let changed = tx.statement(
        "UPDATE delivery SET state = ?2, verdict = coalesce(?3, verdict), reason = coalesce(?4, reason), price = coalesce(?5, price),
                reference = coalesce(?6, reference), redirect_url = coalesce(?7, redirect_url), due_at = ?8,
                had_unknown = had_unknown OR ?9, places = CASE WHEN ?10 THEN '' ELSE places END, updated_at = ?11
         WHERE id = ?1 AND state = ?12 AND attempt_count = ?13",
    )?
    .execute(params![
        step.delivery.0.as_bytes(),
        change.state.as_str(),
        change.verdict.map(Verdict::as_str),
        change.reason,
        change.price.map(|amount| amount.0),
        change.reference,
        change.redirect_url,
        change.due_at.map(Timestamp::as_microsecond),
        change.unknown,
        change.give_back,
        step.at.as_microsecond(),
        state.as_str(),
        attempts,
    ])?;
    Ok(changed > 0)
}

fn end_attempt(tx: &mut Tx<'_, '_>, step: &Step, prepared: &Prepared) -> rusqlite::Result<()> {
    let Some(end) = &step.attempt else { return Ok(()) };
    let (delivery, at) = (step.delivery, step.at);
    let day = end.exchange.as_ref().map(|_| day_of(at));
    let ended = tx.statement(
        "UPDATE attempt SET ended_at = ?3, verdict = ?4, class = ?5, status_code = ?6, latency_ms = ?7, explanation = ?8,
                timings = ?9, exchange_day = ?10
         WHERE delivery = ?1 AND number = ?2 AND (ended_at IS NULL OR (verdict = 'unknown' AND ?5 <> 'crash'))",
    )?
    .execute(params![
        delivery.0.as_bytes(),
        end.number,
        at.as_microsecond(),
        end.verdict.as_str(),
        end.class.as_str(),
        end.status_code,
        end.latency_ms,
        prepared.explanation,
        prepared.timings,
        day,
    ])?;
    if ended == 0 {
        // Its outcome was recorded before.
        return Ok(());
    }
    let Some(day) = day else { return Ok(()) };
    for (part, exchange) in [(PARTNER, &end.exchange), (TOKEN, &end.token_exchange)] {
        if let Some(exchange) = exchange {
            keep_exchange(tx, delivery, end.number, part, exchange, day)?;
        }
    }
    Ok(())
}

fn keep_exchange(
    tx: &mut Tx<'_, '_>,
    delivery: DeliveryId,
    number: u32,
    part: u8,
    exchange: &ExchangeRecord,
    day: u32,
) -> rusqlite::Result<()> {
    tx.ensure_day(day)?;
    let response = exchange.response.as_ref();
    tx.statement_of_day(
        "INSERT INTO exchange_{day} (delivery, number, part, request_head, request_body, request_truncated,
                                     response_head, response_body, response_truncated)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        day,
    )?
    .execute(params![
        delivery.0.as_bytes(),
        number,
        part,
        exchange.request.head,
        exchange.request.body,
        exchange.request.truncated,
        response.map(|message| &message.head),
        response.map(|message| &message.body),
        response.is_some_and(|message| message.truncated),
    ])
    .map(drop)
}

fn move_lead(tx: &Tx<'_, '_>, step: &Step) -> rusqlite::Result<()> {
    let id = step.lead.0.as_bytes();
    match &step.then {
        LeadStep::Untouched => {
            tx.statement("UPDATE lead SET version = version + 1 WHERE id = ?1")?.execute([id])?;
        }
        LeadStep::Sold => {
            tx.statement("UPDATE lead SET version = version + 1, status = 'sold', reason = NULL WHERE id = ?1")?
                .execute([id])?;
        }
        LeadStep::Advance { status, reason, deliveries, .. } => {
            tx.statement("UPDATE lead SET version = version + 1, status = ?2, reason = ?3 WHERE id = ?1")?
                .execute(params![id, status.as_str(), reason.map(LeadReason::as_str)])?;
            if !deliveries.is_empty()
                && let Some(record) = read_lead(tx.connection(), step.lead)?
            {
                for new in deliveries {
                    insert_delivery(tx, &record.lead, new, step.at)?;
                }
            }
        }
    }
    Ok(())
}
