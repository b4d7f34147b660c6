//! A step: one change of one delivery, with everything that follows from it, in one commit: the attempt's outcome and
//! its exchange, places given back, the lead's status, and the deliveries that come next.
//!
//! A step says what it expects to find. When the delivery or its lead has moved in the meantime, nothing is written
//! and the caller looks again: so two deliveries of one lead that end at the same moment cannot both hand it on.

use super::accept::NewDelivery;
use super::audit::Audit;
use super::deliveries::ExchangeRecord;
use super::{Store, StoreError};
use crate::model::delivery::{Class, DeliveryState, Explanation, Verdict};
use crate::model::exchange::Timings;
use crate::model::id::{DeliveryId, LeadId};
use crate::model::lead::{LeadReason, LeadStatus};
use crate::model::limit::PlaceKey;
use crate::model::money::Amount;
use jiff::Timestamp;
use std::sync::Arc;

/// One change of one delivery.
#[derive(Debug, Clone)]
pub struct Step {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its lead.
    pub lead: LeadId,
    /// The state it must be in.
    pub from: DeliveryState,
    /// How many attempts it must have had.
    pub attempts: u32,
    /// When.
    pub at: Timestamp,
    /// What it becomes.
    pub change: Change,
    /// The attempt that ended. Shared: a step that has to be tried again is made anew, and what was captured is large.
    pub attempt: Option<Arc<AttemptEnd>>,
    /// What it means for the lead.
    pub then: LeadStep,
    /// Who asked for it, where a person did.
    pub audit: Option<Audit>,
}

/// What a delivery becomes. `None` leaves what was there.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its new state.
    pub state: DeliveryState,
    /// The last attempt's verdict, or what it was resolved to.
    pub verdict: Option<Verdict>,
    /// Why, in words.
    pub reason: Option<String>,
    /// The partner's own price.
    pub price: Option<Amount>,
    /// The partner's id of the lead.
    pub reference: Option<String>,
    /// The page for the person.
    pub redirect_url: Option<String>,
    /// When the next attempt is due.
    pub due_at: Option<Timestamp>,
    /// An attempt's outcome is unknown.
    pub unknown: bool,
    /// Whether the places it owns are given back.
    pub give_back: bool,
}

impl Change {
    /// A change to `state` and nothing else.
    #[must_use]
    pub fn to(state: DeliveryState) -> Self {
        Self {
            state,
            verdict: None,
            reason: None,
            price: None,
            reference: None,
            redirect_url: None,
            due_at: None,
            unknown: false,
            give_back: false,
        }
    }
}

/// An attempt's outcome.
#[derive(Debug, Clone)]
pub struct AttemptEnd {
    /// Which attempt.
    pub number: u32,
    /// What it meant.
    pub verdict: Verdict,
    /// What that rests on.
    pub class: Class,
    /// The reply's status.
    pub status_code: Option<u16>,
    /// Whole exchange, milliseconds.
    pub latency_ms: Option<u32>,
    /// Which rule said so.
    pub explanation: Explanation,
    /// Where the time went.
    pub timings: Option<Timings>,
    /// What was sent and came back.
    pub exchange: Option<ExchangeRecord>,
    /// The exchange with a token endpoint that came before it.
    pub token_exchange: Option<ExchangeRecord>,
}

/// What a step means for its lead.
#[derive(Debug, Clone)]
pub enum LeadStep {
    /// Nothing.
    Untouched,
    /// Sold, and nobody else is to have it: whatever else happened to the lead.
    Sold,
    /// As decided by somebody who saw the lead at this version.
    Advance {
        /// The version seen.
        version: u64,
        /// Its status.
        status: LeadStatus,
        /// Why, if decided.
        reason: Option<LeadReason>,
        /// Deliveries that come next.
        deliveries: Vec<NewDelivery>,
    },
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stepped {
    /// Durable. These places were given back.
    Done(Vec<PlaceKey>),
    /// The delivery was not as expected: its state now, and its attempts.
    Stale(DeliveryState, u32),
    /// The lead has changed since it was looked at.
    LeadMoved,
}

/// A delivery as a step finds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// Its state.
    pub(super) state: DeliveryState,
    /// Its attempts.
    pub(super) attempts: u32,
    /// An attempt of it is, or was, unknown.
    pub(super) had_unknown: bool,
    /// How the attempt that the step ends was recorded to have ended; `None`: not yet.
    pub(super) ended: Option<(Verdict, Option<Class>)>,
}

/// Whether a step still fits the delivery.
///
/// It must find what it expects; but for a reply that comes after the attempt was given up as lost with its gateway
/// (which went on after all, or was only slow). As long as nothing came of that but waiting, the reply says what it was.
pub(super) fn fits(step: &Step, found: Standing) -> bool {
    if found.attempts != step.attempts {
        return false;
    }
    if found.state == step.from {
        return true;
    }
    let given_up = found.ended == Some((Verdict::Unknown, Some(Class::Crash)));
    let of_this = step.attempt.as_ref().is_some_and(|end| end.number == found.attempts && end.class != Class::Crash);
    let waits = match found.state {
        DeliveryState::Unknown => true,
        DeliveryState::Queued => found.had_unknown,
        _ => false,
    };
    step.from == DeliveryState::Sending && given_up && of_this && waits
}

impl Store {
    /// Makes a step durable, or says what is different from what it expected.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn step(&self, step: Step) -> Result<Stepped, StoreError> {
        on_engine!(self, db => db.step(step).await)
    }

    /// Adds a delivery to a lead by a person's wish; `false` if the delivery it repeats is unfinished.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn redeliver(
        &self,
        lead: LeadId,
        new: NewDelivery,
        at: Timestamp,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        on_engine!(self, db => db.redeliver(lead, new, at, audit).await)
    }
}
