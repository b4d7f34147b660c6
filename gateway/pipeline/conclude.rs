//! How a delivery's change becomes durable: the completion commit, with all that follows for its lead.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::plan::{self, Plan};
use super::{Outcome, Pipeline, decide};
use crate::clock;
use crate::directory::ContractEntry;
use crate::dispatch::retry;
use crate::failpoint;
use crate::model::delivery::{Delivery, DeliveryState, Judgement, Verdict};
use crate::model::id::PartnerId;
use crate::model::lead::{Lead, LeadStatus};
use crate::model::limit::{Place, PlaceKey};
use crate::store::{AttemptEnd, Audit, Change, LeadStep, Queued, Step, Stepped, StoreError};
use crate::telemetry;

/// Pauses between tries to record an outcome while the store fails.
const RECORD_AGAIN: Duration = Duration::from_millis(500);

impl Pipeline {
    /// Records the outcome of an attempt, for as long as it takes: what the partner said must not be lost. `at_once` makes
    /// the next attempt, if it may have one, due now.
    #[expect(clippy::too_many_arguments, reason = "all of them are what one attempt came to")]
    pub(super) async fn record(
        &self,
        delivery: Delivery,
        started_at: Timestamp,
        held_ms: u64,
        entry: &ContractEntry,
        judgement: Judgement,
        end: AttemptEnd,
        at_once: bool,
    ) {
        let mut delivery = delivery;
        delivery.attempt_count = end.number;
        let first = *delivery.first_attempt_at.get_or_insert(started_at);
        let mut again = self.try_again(&delivery, first, held_ms, entry, &judgement);
        // One more than `max_attempts` where a token had expired: the lead was never looked at.
        if at_once && delivery.attempt_count <= entry.contract.endpoint.retry.max_attempts {
            again = Ok(Timestamp::from_microsecond(started_at.as_microsecond()).unwrap_or(started_at));
        }
        let ending = decide::after_attempt(&judgement, delivery.had_unknown, entry.contract.on_unknown, again);
        let may_fail_over = ending.may_fail_over && !at_once;
        let conclusion = Conclusion { attempt: Some(Arc::new(end)), may_fail_over, ..Conclusion::of(ending.change) };
        let mut told = false;
        loop {
            match self.conclude(&delivery, DeliveryState::Sending, conclusion.clone()).await {
                Ok(_) => return,
                Err(StoreError::Closed) => {
                    tracing::error!(delivery.id = %delivery.id, "stopped before an outcome was recorded; it will be unknown");
                    return;
                }
                Err(error) => {
                    if !told {
                        tracing::warn!(delivery.id = %delivery.id, store.error = %error, "an outcome cannot be recorded yet");
                    }
                    told = true;
                    tokio::time::sleep(RECORD_AGAIN).await;
                    self.store.well().await;
                }
            }
        }
    }

    pub(super) fn try_again(
        &self,
        delivery: &Delivery,
        first: Timestamp,
        held_ms: u64,
        entry: &ContractEntry,
        judgement: &Judgement,
    ) -> Result<Timestamp, String> {
        let tried = retry::Tried {
            attempts: delivery.attempt_count,
            first_at: first,
            held: Duration::from_millis(held_ms),
            retry_after: judgement.retry_after,
        };
        match retry::plan(&entry.contract.endpoint.retry, tried, self.clock.now(), clock::draw()) {
            // To the microsecond, as the store keeps it: queue and store must agree on its rank.
            retry::Again::At(due) => Ok(Timestamp::from_microsecond(due.as_microsecond()).unwrap_or(due)),
            retry::Again::GiveUp(why) => Err(why.to_string()),
        }
    }

    /// Makes a delivery's change durable together with what follows for its lead, and tells everybody concerned.
    pub(super) async fn conclude(
        &self,
        delivery: &Delivery,
        from: DeliveryState,
        conclusion: Conclusion,
    ) -> Result<Option<DeliveryState>, StoreError> {
        loop {
            let Some(move_on) = self.follow(delivery, &conclusion).await? else { return Ok(None) };
            let state = move_on.change.state;
            let due_at = move_on.change.due_at;
            let sold = sold(delivery, &move_on.change);
            let step = Step {
                delivery: delivery.id,
                lead: delivery.lead,
                from,
                attempts: delivery.attempt_count,
                at: self.clock.now(),
                change: move_on.change,
                attempt: conclusion.attempt.clone(),
                then: move_on.then,
                audit: conclusion.audit.clone(),
            };
            failpoint::pass("completion.before");
            let gives_back = step.change.give_back;
            let returning = gives_back.then(|| self.gate.returning(&delivery.partner, &delivery.contract));
            match self.store.step(step).await? {
                Stepped::Done(given_back) => {
                    failpoint::pass("completion.committed");
                    self.give_back(&delivery.partner, given_back);
                    drop(returning);
                    if state == DeliveryState::Queued {
                        self.wait_again(delivery, due_at, conclusion.attempt.as_deref());
                    }
                    match &move_on.plan {
                        Some((lead, plan)) => self.announce(lead, plan),
                        None if state == DeliveryState::Accepted => self.outcomes.tell(delivery.lead, sold),
                        // It is tried again at once: the source may wait for that.
                        None if due_at.is_some_and(|due| due <= self.clock.now()) => {}
                        // It waits for a retry.
                        None => self.outcomes.tell(delivery.lead, Outcome::Parked),
                    }
                    let network = self.directory.network();
                    let entry = network.contract(&delivery.contract);
                    let counts = entry.and_then(|entry| entry.counts_for(&delivery.partner));
                    telemetry::delivery_ended(counts, delivery, state);
                    return Ok(Some(state));
                }
                // Another delivery of this lead ended at the same moment: look again.
                Stepped::LeadMoved => {}
                Stepped::Stale(now, _) => {
                    tracing::debug!(delivery.id = %delivery.id, delivery.state = %now, "moved on by somebody else");
                    return Ok(None);
                }
            }
        }
    }

    pub(super) fn give_back(&self, partner: &PartnerId, keys: Vec<PlaceKey>) {
        if keys.is_empty() {
            return;
        }
        let places: Vec<Place> = keys.into_iter().map(|key| Place { key, limit: None }).collect();
        self.gate.settle(&places, true);
        if let Some(queues) = self.queues() {
            queues.freed(partner);
        }
    }

    /// Puts a delivery that is to be tried again back into its queue.
    pub(super) fn wait_again(&self, delivery: &Delivery, due_at: Option<Timestamp>, attempt: Option<&AttemptEnd>) {
        let now = self.clock.now();
        let unknown = attempt.is_some_and(|end| end.verdict == Verdict::Unknown);
        if let Some(queues) = self.queues() {
            queues.push(
                &delivery.contract,
                Queued {
                    id: delivery.id,
                    lead: delivery.lead,
                    received_at: delivery.received_at,
                    waits: delivery.waits,
                    had_unknown: delivery.had_unknown || unknown,
                    bypass_limits: delivery.bypass_limits,
                    due_at,
                    since: due_at.unwrap_or(now),
                },
                None,
            );
        }
    }

    /// After a commit: new deliveries to their queues, and word to whoever waits.
    pub(super) fn announce(&self, lead: &Arc<Lead>, plan: &Plan) {
        if let Some(queues) = self.queues() {
            for new in plan.deliveries.iter().filter(|new| new.state == DeliveryState::Queued) {
                queues.push(&new.contract, plan::queued(new, lead, self.clock.now()), Some(Arc::clone(lead)));
            }
        }
        match plan.status {
            LeadStatus::Unsold => self.outcomes.tell(lead.id, Outcome::Unsold { reason: plan.reason }),
            LeadStatus::Sold | LeadStatus::Rejected => self.outcomes.tell(lead.id, Outcome::Decided),
            LeadStatus::Pending if plan.parked => self.outcomes.tell(lead.id, Outcome::Parked),
            LeadStatus::Pending => {}
        }
    }
}

/// What a source is told once this accepted delivery has sold its lead: all of it, where no other can be accepted.
fn sold(delivery: &Delivery, change: &Change) -> Outcome {
    if delivery.redelivery_of.is_some() {
        return Outcome::Decided;
    }
    // An earlier attempt may have brought one, and this one none: then that stands.
    Outcome::Sold { redirect_url: change.redirect_url.clone().or_else(|| delivery.redirect_url.clone()) }
}

/// A delivery's change with what belongs into the same commit.
#[derive(Debug, Clone)]
pub(crate) struct Conclusion {
    pub(super) change: Change,
    pub(super) attempt: Option<Arc<AttemptEnd>>,
    pub(super) may_fail_over: bool,
    /// A person ended it: nobody else is offered the lead because of that.
    pub(super) by_cancel: bool,
    pub(super) audit: Option<Audit>,
}

impl Conclusion {
    pub(super) fn of(change: Change) -> Self {
        Self { change, attempt: None, may_fail_over: false, by_cancel: false, audit: None }
    }
}

/// What a conclusion means for the lead.
pub(super) struct MoveOn {
    pub(super) change: Change,
    pub(super) then: LeadStep,
    pub(super) plan: Option<(Arc<Lead>, Plan)>,
}
