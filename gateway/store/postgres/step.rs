//! Steps in PostgreSQL.

use super::accept::to_json;
use super::deliveries::{PARTNER, TOKEN};
use super::found::{Found, LeadRow};
use super::writer::{Done, Held, Work};
use super::writes::{DeliveryWrite, ExchangeWrite, LeadWrite, Writes, number, signed};
use super::{Postgres, lookups};
use crate::model::delivery::{Class, DeliveryState, Verdict};
use crate::model::id::LeadId;
use crate::model::lead::LeadStatus;
use crate::store::days::day_of;
use crate::store::hashes::lookup_hash;
use crate::store::step::{Standing, fits};
use crate::store::{Audit, ExchangeRecord, LeadStep, NewDelivery, Step, Stepped, StoreError};
use jiff::Timestamp;
use std::sync::Arc;
use uuid::Uuid;

/// A step with all that can be made ready before it is its turn.
pub(super) struct StepWork {
    pub(super) step: Step,
    pub(super) explanation: Option<String>,
    pub(super) timings: Option<String>,
    pub(super) day: u32,
    /// It has something to keep under its day.
    pub(super) needs_day: bool,
    /// What its partner's reference is looked up by, as a list.
    reference: Option<String>,
}

/// A delivery that a person wants.
pub(super) struct RedeliverWork {
    pub(super) lead: LeadId,
    pub(super) new: NewDelivery,
    pub(super) at: Timestamp,
    pub(super) audit: Audit,
}

impl StepWork {
    fn new(step: Step, hash_key: &[u8; 32]) -> Result<Self, StoreError> {
        let end = step.attempt.as_ref();
        let reference =
            step.change.reference.as_ref().map(|value| lookups::list([lookup_hash(hash_key, "reference", value)]));
        Ok(Self {
            explanation: end.map(|end| to_json(&end.explanation)).transpose()?,
            timings: end.and_then(|end| end.timings.as_ref()).map(to_json).transpose()?,
            day: day_of(step.at),
            needs_day: reference.is_some() || end.is_some_and(|end| end.exchange.is_some()),
            reference,
            step,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let of = |record: &ExchangeRecord| {
            record.request.body.len() + record.response.as_ref().map_or(0, |response| response.body.len())
        };
        let end = self.step.attempt.as_ref();
        end.map_or(0, |end| end.exchange.iter().chain(&end.token_exchange).map(of).sum())
    }
}

impl RedeliverWork {
    pub(super) fn holds(&self) -> Vec<Held> {
        let old = self.new.redelivery_of.map(|old| Held::Delivery(old.0));
        old.into_iter().chain([Held::Lead(self.lead.0)]).collect()
    }
}

impl Postgres {
    pub(in crate::store) async fn step(&self, step: Step) -> Result<Stepped, StoreError> {
        let work = StepWork::new(step, &self.lookup_key)?;
        match self.writer.commit(Work::Step(Arc::new(work))).await? {
            Done::Stepped(stepped) => Ok(stepped),
            _ => Err(StoreError::Closed),
        }
    }

    pub(in crate::store) async fn redeliver(
        &self,
        lead: LeadId,
        new: NewDelivery,
        at: Timestamp,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        let work = RedeliverWork { lead, new, at, audit };
        match self.writer.commit(Work::Redeliver(Arc::new(work))).await? {
            Done::Redelivered(made) => Ok(made),
            _ => Err(StoreError::Closed),
        }
    }
}

pub(super) fn decide<'a>(
    work: &'a StepWork,
    found: &mut Found,
    writes: &mut Writes<'a>,
) -> Result<Stepped, StoreError> {
    let step = &work.step;
    let Some(row) = found.delivery(step.delivery.0)? else {
        return Ok(Stepped::Stale(DeliveryState::Cancelled, 0));
    };
    let (state, attempts) = (row.state, row.attempts);
    let ended = step.attempt.as_ref().and_then(|end| found.attempt(step.delivery.0, end.number).copied().flatten());
    if !fits(step, Standing { state, attempts, had_unknown: row.had_unknown, ended }) {
        // It changes nothing any more, but what was said is kept.
        end_attempt(work, found, writes);
        return Ok(Stepped::Stale(state, attempts));
    }
    let lead = found.lead(step.lead.0)?.cloned();
    if let LeadStep::Advance { version, .. } = &step.then
        && lead.as_ref().map(|lead| lead.version) != Some(signed(*version))
    {
        return Ok(Stepped::LeadMoved);
    }

    let given_back = if step.change.give_back { row.places.clone() } else { Vec::new() };
    for key in &given_back {
        found.can_count(key)?;
    }
    for key in &given_back {
        writes.give_back(found, key);
    }
    writes.steps.push(step);
    end_attempt(work, found, writes);
    writes.references.extend(work.reference.as_deref().map(|hashes| (number(work.day), step.delivery.0, hashes)));
    move_lead(step, lead, writes);
    writes.audit.extend(step.audit.as_ref().map(|audit| (audit, step.at)));
    Ok(Stepped::Done(given_back))
}

/// Records the attempt's end and its exchange, unless its outcome was known before.
fn end_attempt<'a>(work: &'a StepWork, found: &Found, writes: &mut Writes<'a>) {
    let step = &work.step;
    let Some(end) = &step.attempt else { return };
    match found.attempt(step.delivery.0, end.number) {
        Some(None) => {}
        // What is known of it is more than that its gateway has gone.
        Some(Some((Verdict::Unknown, _))) if end.class != Class::Crash => {}
        _ => return,
    }
    writes.ends.push(work);
    if end.exchange.is_none() {
        return;
    }
    let exchange = |part: i16, record: &'a ExchangeRecord| ExchangeWrite {
        delivery: step.delivery.0,
        number: number(end.number),
        part,
        day: number(work.day),
        record,
    };
    writes.exchanges.extend(end.exchange.as_ref().map(|record| exchange(PARTNER, record)));
    writes.exchanges.extend(end.token_exchange.as_ref().map(|record| exchange(TOKEN, record)));
}

fn move_lead<'a>(step: &'a Step, lead: Option<LeadRow>, writes: &mut Writes<'a>) {
    let moved = match &step.then {
        LeadStep::Untouched => None,
        LeadStep::Sold => Some((LeadStatus::Sold, None)),
        LeadStep::Advance { status, reason, deliveries, .. } => {
            if let Some(lead) = lead {
                let made = deliveries.iter().map(|new| delivery_of(new, step.lead.0, lead.clone(), step.at));
                writes.deliveries.extend(made);
            }
            Some((*status, *reason))
        }
    };
    writes.moves.push(LeadWrite { lead: step.lead.0, moved });
}

fn delivery_of(new: &NewDelivery, lead: Uuid, row: LeadRow, at: Timestamp) -> DeliveryWrite<'_> {
    let LeadRow { campaign, source, received_at, .. } = row;
    DeliveryWrite { new, lead, campaign, source, received_at, at: at.as_microsecond() }
}

pub(super) fn redeliver<'a>(
    work: &'a RedeliverWork,
    found: &Found,
    writes: &mut Writes<'a>,
) -> Result<bool, StoreError> {
    if let Some(old) = work.new.redelivery_of
        && !found.delivery(old.0)?.is_some_and(|row| row.state.is_final())
    {
        return Ok(false);
    }
    let Some(lead) = found.lead(work.lead.0)?.cloned() else { return Ok(false) };
    writes.deliveries.push(delivery_of(&work.new, work.lead.0, lead, work.at));
    writes.moves.push(LeadWrite { lead: work.lead.0, moved: None });
    writes.audit.push((&work.audit, work.at));
    Ok(true)
}
