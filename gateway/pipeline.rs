//! READ THIS FIRST: one lead's life, stage by stage.
//!
//! ```text
//! accept    routing says who may have it → ACCEPT COMMIT → the contracts' queues (worker/)
//! attempt   render → ATTEMPT COMMIT, which takes the places → dispatch → verdict
//! conclude  what it means for the delivery and the lead → COMPLETION COMMIT → who comes next
//! ```
//!
//! A partner's failure is a value (a verdict); `Err` means the gateway's own trouble. The worker calls [`Pipeline::attempt`]
//! only with everything in hand that could make it wait (permit, pace, breaker, the gate's ticket), so that nothing
//! queues between the attempt's commit and its first byte. Invariants are listed in `docs/ARCHITECTURE.md`.

mod authorise;
mod captured;
mod conclude;
pub mod decide;
mod lane;
mod outcomes;
mod plan;
mod send;
mod staff;
mod truth;

pub use authorise::Authorisation;
pub use lane::{Lane, Lanes, Permit, Space};
pub use outcomes::{Outcome, Outcomes, Waiting};
pub use send::{deliver, masked, request_for};
pub use staff::{ActFault, RedeliverLimits};
pub use truth::StoreTruth;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::capture::Redactor;
use crate::clock::{self, Clock};
use crate::directory::{CampaignEntry, ContractEntry, Directory, SourceEntry};
use crate::dispatch::Dispatcher;
pub use crate::dispatch::token::TokenExchange;
use crate::failpoint;
use crate::gate::{Gate, Ticket};
use crate::model::contract::OnUnknown;
use crate::model::delivery::{Class, Delivery, DeliveryState, Judgement, Verdict};
use crate::model::exchange::{Outgoing, SendBefore, SendFaultKind, Sent, Timings};
use crate::model::id::{ContractId, DeliveryId, PartnerId};
use crate::model::lead::{Lead, LeadReason, LeadStatus};
use crate::model::limit::PlaceKey;
use crate::store::{
    Accept, Accepted, AttemptEnd, Change, DedupeKey, DeliveryRecord, ExchangeRecord, Granted, IdempotencyKey, Queued,
    StartAttempt, Store, StoreError,
};
use crate::telemetry;
use captured::captured;
use conclude::{Conclusion, MoveOn};
use plan::Turns;
use send::judge;

/// How long a stored attempt may take beyond its endpoint's `timeout` before it counts as lost.
const DEADLINE_SLACK: Duration = Duration::from_secs(10);

/// Everything a lead's life needs. One per process.
pub struct Pipeline {
    /// Time and ids.
    pub clock: Clock,
    /// What is durable.
    pub store: Store,
    /// The network in memory.
    pub directory: Directory,
    /// May this contract have one now?
    pub gate: Gate,
    /// Sends requests.
    pub dispatcher: Dispatcher,
    /// Concurrency, pace and breaker of each contract's endpoint.
    pub lanes: Lanes,
    /// Sources that wait.
    pub outcomes: Outcomes,
    /// How much of each body is kept.
    pub capture_limit: usize,
    turns: tokio::sync::Mutex<Turns>,
    pausing: tokio::sync::Mutex<()>,
    queues: OnceLock<Arc<dyn Queues>>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipeline")
    }
}

/// Where deliveries wait for their turn; the worker's side of the pipeline.
pub trait Queues: Send + Sync {
    /// A delivery that is stored as waiting; `lead` spares reading it again.
    fn push(&self, contract: &ContractId, queued: Queued, lead: Option<Arc<Lead>>);
    /// A place of this partner is free again.
    fn freed(&self, partner: &PartnerId);
    /// A pause, a schedule or a limit has changed.
    fn changed(&self);
}

/// A posted lead that passed every check but those that only a commit can make.
#[derive(Debug)]
pub struct Posted {
    /// The lead.
    pub lead: Arc<Lead>,
    /// Its dedupe values.
    pub dedupe: Vec<DedupeKey>,
    /// What staff will look it up by.
    pub lookups: Vec<(&'static str, String)>,
    /// The source's `Idempotency-Key`.
    pub idempotency: Option<IdempotencyKey>,
    /// The body's type, as posted.
    pub content_type: String,
    /// The body, as posted.
    pub body: bytes::Bytes,
    /// The request that brought it.
    pub request: crate::model::id::RequestId,
}

/// What became of a posted lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Stored, a duplicate, at a limit, or its key taken.
    pub accepted: Accepted,
    /// Where the lead stands.
    pub status: LeadStatus,
    /// Why.
    pub reason: Option<LeadReason>,
}

/// Everything that an attempt needs and that could make it wait.
pub struct Go<'a> {
    /// The delivery whose turn it is.
    pub queued: &'a Queued,
    /// Its lead, and the delivery as it was read with it; one that is fresh has no past to be read.
    pub known: Option<(Arc<Lead>, Option<Box<DeliveryRecord>>)>,
    /// Its contract.
    pub entry: &'a Arc<ContractEntry>,
    /// The gate's answer.
    pub ticket: &'a Ticket,
    /// The lane's.
    pub permit: Permit,
    /// How long it has been held since it was last in motion.
    pub held: Duration,
    /// Rung when the partner has room for the next.
    pub bell: &'a (dyn Fn() + Sync),
}

impl std::fmt::Debug for Go<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Go").field("queued", self.queued).finish_non_exhaustive()
    }
}

/// How an attempt went, for the queue that made it.
#[derive(Debug)]
pub enum Attempted {
    /// It is recorded; the endpoint's trouble, if any, went to its breaker.
    Done,
    /// The store refused, or the gate's ticket is out of date: the delivery waits on and asks the gate again.
    BackToGate,
    /// The delivery was no longer there to be sent.
    Gone,
}

impl Pipeline {
    /// A pipeline that has yet to be given its queues.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "each is one part of it")]
    pub fn new(
        clock: Clock,
        store: Store,
        directory: Directory,
        gate: Gate,
        dispatcher: Dispatcher,
        turns: HashMap<ContractId, u64>,
        lanes: Lanes,
        capture_limit: usize,
    ) -> Self {
        Self {
            clock,
            store,
            directory,
            gate,
            dispatcher,
            lanes,
            outcomes: Outcomes::default(),
            capture_limit,
            turns: tokio::sync::Mutex::new(Turns::new(turns)),
            pausing: tokio::sync::Mutex::default(),
            queues: OnceLock::new(),
        }
    }

    /// Connects the worker's queues; only the first call counts.
    pub fn connect(&self, queues: Arc<dyn Queues>) {
        let _ = self.queues.set(queues);
    }

    fn queues(&self) -> Option<&dyn Queues> {
        self.queues.get().map(AsRef::as_ref)
    }

    /// Routes a lead and makes it durable with its first deliveries.
    ///
    /// # Errors
    /// When it could not be made durable: the source must be told to try again.
    pub async fn accept(
        &self,
        posted: Posted,
        campaign: &CampaignEntry,
        source: &SourceEntry,
    ) -> Result<Receipt, StoreError> {
        let network = self.directory.network();
        let lead = &*posted.lead;
        let now = lead.received_at;
        let plan::Routed { candidates, mut plan, turn } = self.route(&network, campaign, lead).await;
        if lead.test {
            plan = self.predict(&network, campaign, lead, &candidates, plan).await;
        }
        let accept = Accept {
            lead: Arc::clone(&posted.lead),
            status: plan.status,
            reason: plan.reason,
            payout: source.payout,
            candidates,
            deliveries: plan.deliveries.clone(),
            places: campaign.places(source, now),
            dedupe: posted.dedupe,
            idempotency: posted.idempotency,
            lookups: posted.lookups,
            turn: turn.as_ref().map(|turn| (turn.contract.clone(), turn.number)),
            content_type: posted.content_type,
            body: posted.body,
            request: posted.request,
        };
        failpoint::pass("accept.before");
        let began = clock::instant();
        let outcome = self.store.accept(accept).await;
        telemetry::stage("accept_commit", began.elapsed());
        if !matches!(outcome, Ok(Accepted::Stored)) {
            self.take_back_turn(turn).await;
        }
        let accepted = outcome?;
        if accepted == Accepted::Stored {
            failpoint::pass("accept.committed");
            self.announce(&posted.lead, &plan);
            return Ok(Receipt { accepted, status: plan.status, reason: plan.reason });
        }
        Ok(Receipt { accepted, status: LeadStatus::Rejected, reason: Some(LeadReason::Duplicate) })
    }

    /// One attempt of a delivery whose turn it is, from rendering to the recorded outcome.
    ///
    /// # Errors
    /// When the store failed before anything was sent. (After sending, recording is tried until it succeeds.)
    pub async fn attempt(&self, go: Go<'_>) -> Result<Attempted, StoreError> {
        let Go { queued, known, entry, ticket, mut permit, held, bell } = go;
        let loaded = match self.load(queued, known, entry).await {
            Ok(loaded) => loaded,
            Err(error) => {
                self.not_started(entry, ticket, permit, &[]);
                return Err(error);
            }
        };
        let Some((record, lead)) = loaded else {
            self.not_started(entry, ticket, permit, &[]);
            return Ok(Attempted::Gone);
        };
        let number = record.delivery.attempt_count + 1;
        let network = self.directory.network();
        let began = clock::instant();
        let authorisation = Authorisation::obtain(&self.dispatcher, entry).await;
        if authorisation.exchange.is_some() {
            telemetry::stage("token", began.elapsed());
        }

        let began = clock::instant();
        let mut outgoing = match request_for(&network, entry, &lead, record.delivery.id, number, self.clock.now()) {
            Ok(outgoing) => outgoing,
            Err(why) => {
                self.not_started(entry, ticket, permit, &[]);
                let change = decide::after_render_failure(why, record.delivery.had_unknown);
                self.conclude(&record.delivery, DeliveryState::Queued, Conclusion::of(change)).await?;
                return Ok(Attempted::Done);
            }
        };

        telemetry::stage("render", began.elapsed());
        authorisation.put_into(&mut outgoing);

        let began = clock::instant();
        let started_at = self.clock.now();
        let lease = self.store.send_before();
        if lease.is_some_and(|before| before <= clock::uptime()) {
            self.not_started(entry, ticket, permit, &[]);
            return Err(StoreError::NoLease);
        }
        if started_at >= ticket.valid_until {
            // A period or the hours ended while it was being rendered.
            self.not_started(entry, ticket, permit, &[]);
            return Ok(Attempted::BackToGate);
        }
        outgoing.must_be_sent_before(SendBefore { lease, hours: ticket.valid_until, clock: self.clock.clone() });
        failpoint::pass("attempt.ticket");
        // What does not count toward `give_up_after` is the time held since the first attempt.
        let held_ms = if number == 1 { 0 } else { record.held_ms + u64::try_from(held.as_millis()).unwrap_or(0) };
        match self.start(&record.delivery, number, started_at, entry, ticket, held_ms).await {
            Ok(Granted::Go(earlier)) => {
                self.gate.made(ticket);
                self.give_back(&record.delivery.partner, earlier);
            }
            Ok(Granted::Full(counts)) => {
                self.not_started(entry, ticket, permit, &counts);
                return Ok(Attempted::BackToGate);
            }
            Ok(Granted::Paused) => {
                self.not_started(entry, ticket, permit, &[]);
                // The gate has not heard of it, and would say the same again.
                self.correct_pauses(&entry.contract).await?;
                return Ok(Attempted::BackToGate);
            }
            Ok(Granted::Stale) => {
                self.not_started(entry, ticket, permit, &[]);
                return Ok(Attempted::Gone);
            }
            Err(error) => {
                self.not_started(entry, ticket, permit, &[]);
                return Err(error);
            }
        }

        telemetry::stage("attempt_commit", began.elapsed());
        failpoint::pass("attempt.committed");

        let began = clock::instant();
        let (outgoing, sent) = match &authorisation.fault {
            // The attempt is made, and ends here: so it counts, is seen, and tells the breaker.
            Some(fault) => (outgoing, Sent { result: Err(fault.clone()), timings: Timings::default() }),
            None => deliver(&self.dispatcher, entry, outgoing, Some(permit.lane())).await,
        };
        let took = began.elapsed();
        telemetry::stage("dispatch", took);
        failpoint::pass("dispatch.replied");
        let redactor = Redactor::new(&outgoing.secrets);
        let (sent, mut judgement) = judge(entry, sent, self.clock.now()).await;
        // Ours, and not the partner's: the attempt costs the delivery none of those that it may have.
        let too_late = matches!(&sent.result, Err(fault) if fault.kind == SendFaultKind::TooLate);
        let at_once = authorisation.refused(entry, &sent.result, &mut judgement).await || too_late;
        let judgement = masked(judgement, &redactor);
        let mut ended = self.attempt_end(number, &judgement, &sent, &outgoing, &redactor);
        ended.token_exchange = authorisation.exchange.map(|exchange| self.token_exchange(&exchange));
        telemetry::attempt_ended(
            entry.counts_for(&record.delivery.partner),
            &record.delivery,
            judgement.verdict,
            judgement.class,
        );
        if too_late {
            permit.unused(self.clock.now());
        } else {
            permit.learn(&judgement, ended.status_code, took, self.clock.now());
            permit.replied();
        }
        bell();
        let began = clock::instant();
        self.record(record.delivery, started_at, held_ms, entry, judgement, ended, at_once).await;
        telemetry::stage("completion_commit", began.elapsed());
        failpoint::pass("completion.told");
        Ok(Attempted::Done)
    }

    /// Passes over a waiting delivery whose contract is shut: it ends as `skipped`, and its lead goes on.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub async fn pass_over(&self, queued: &Queued, reason: String) -> Result<(), StoreError> {
        let change = Change { reason: Some(reason), give_back: true, ..Change::to(DeliveryState::Skipped) };
        self.end_waiting(queued, change).await
    }

    /// Ends a delivery that has waited longer than its contract's `hold_for`.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub async fn expire(&self, queued: &Queued) -> Result<(), StoreError> {
        self.end_waiting(queued, decide::after_hold(queued.had_unknown)).await
    }

    /// Ends a waiting delivery whose contract is no more.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub async fn orphaned(&self, queued: &Queued) -> Result<(), StoreError> {
        let change = decide::after_render_failure("the contract was deleted".to_owned(), queued.had_unknown);
        self.end_waiting(queued, change).await
    }

    async fn end_waiting(&self, queued: &Queued, change: Change) -> Result<(), StoreError> {
        let Some(record) = self.store.delivery(queued.id).await? else { return Ok(()) };
        let delivery = &record.delivery;
        // The queue may have seen it as it was before an attempt: then it is no longer the queue's to end.
        let as_seen = delivery.had_unknown == queued.had_unknown && delivery.due_at == queued.due_at;
        if delivery.state == DeliveryState::Queued && as_seen {
            self.conclude(&record.delivery, DeliveryState::Queued, Conclusion::of(change)).await?;
        }
        Ok(())
    }

    /// An attempt broke off inside the gateway, by a fault of ours. If it had begun, its outcome is unknown; if not, the
    /// delivery fails, for it would break off again.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub async fn broke_off(&self, queued: &Queued, ticket: &Ticket) -> Result<(), StoreError> {
        let Some(record) = self.store.delivery(queued.id).await? else { return Ok(()) };
        match record.delivery.state {
            DeliveryState::Sending => self.lost_attempt(record).await,
            DeliveryState::Queued if record.delivery.due_at == queued.due_at => {
                self.gate.hand_back(ticket, &[]);
                let why = "the gateway failed while preparing it; its log says how".to_owned();
                let change = decide::after_render_failure(why, record.delivery.had_unknown);
                self.conclude(&record.delivery, DeliveryState::Queued, Conclusion::of(change)).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// An attempt was open when the gateway stopped: nobody can say what became of it.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub async fn lost_attempt(&self, record: DeliveryRecord) -> Result<(), StoreError> {
        let delivery = &record.delivery;
        let network = self.directory.network();
        let entry = network.contract(&delivery.contract);
        let judgement = Judgement {
            verdict: Verdict::Unknown,
            class: Class::Crash,
            explanation: crate::model::delivery::Explanation { rule: "crash".to_owned(), ..Default::default() },
            reason: Some("the gateway stopped while the attempt was open".to_owned()),
            reference: None,
            redirect_url: None,
            price: None,
            retry_after: None,
        };
        let now = self.clock.now();
        let on_unknown = entry.map_or(OnUnknown::Review, |entry| entry.contract.on_unknown);
        let again = entry.map_or(Err("the contract was deleted".to_owned()), |entry| {
            self.try_again(delivery, delivery.first_attempt_at.unwrap_or(now), record.held_ms, entry, &judgement)
        });
        let ending = decide::after_attempt(&judgement, delivery.had_unknown, on_unknown, again);
        let end = AttemptEnd {
            number: delivery.attempt_count,
            verdict: judgement.verdict,
            class: judgement.class,
            status_code: None,
            latency_ms: None,
            explanation: judgement.explanation,
            timings: None,
            exchange: None,
            token_exchange: None,
        };
        self.conclude(
            delivery,
            DeliveryState::Sending,
            Conclusion { attempt: Some(Arc::new(end)), ..Conclusion::of(ending.change) },
        )
        .await?;
        Ok(())
    }

    /// An attempt was not made after all: what it had taken is free again. `counts` are what the store said when it
    /// refused, if it did.
    pub(crate) fn not_started(
        &self,
        entry: &ContractEntry,
        ticket: &Ticket,
        permit: Permit,
        counts: &[(PlaceKey, u64)],
    ) {
        permit.unused(self.clock.now());
        self.gate.hand_back(ticket, counts);
        if let Some(queues) = self.queues() {
            queues.freed(&entry.contract.partner);
        }
    }

    /// The places that a waiting delivery still has, from an attempt whose outcome is unknown.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn places_of(&self, delivery: DeliveryId) -> Result<Vec<PlaceKey>, StoreError> {
        Ok(self.store.delivery(delivery).await?.map(|record| record.places).unwrap_or_default())
    }

    /// The delivery and its lead, if it still waits.
    async fn load(
        &self,
        queued: &Queued,
        known: Option<(Arc<Lead>, Option<Box<DeliveryRecord>>)>,
        entry: &ContractEntry,
    ) -> Result<Option<(DeliveryRecord, Arc<Lead>)>, StoreError> {
        // Should it have moved on since, its commit finds out.
        if let Some((lead, record)) = known {
            let record = record.map_or_else(|| plan::fresh_record(queued, &lead, entry), |record| *record);
            return Ok(Some((record, lead)));
        }
        let Some(record) = self.store.delivery(queued.id).await? else { return Ok(None) };
        let due = record.delivery.due_at.is_none_or(|due| due <= self.clock.now());
        if record.delivery.state != DeliveryState::Queued || !due {
            return Ok(None);
        }
        let Some(lead) = self.store.lead(queued.lead).await? else { return Ok(None) };
        Ok(Some((record, Arc::new(lead.lead))))
    }

    async fn start(
        &self,
        delivery: &Delivery,
        number: u32,
        at: Timestamp,
        entry: &ContractEntry,
        ticket: &Ticket,
        held_ms: u64,
    ) -> Result<Granted, StoreError> {
        let longest = entry.contract.endpoint.longest_exchange().saturating_add(DEADLINE_SLACK);
        self.store
            .start_attempt(StartAttempt {
                delivery: delivery.id,
                number,
                started_at: at,
                deadline: at.checked_add(SignedDuration::try_from(longest).unwrap_or_default()).unwrap_or(at),
                places: ticket.places.clone(),
                held_ms,
            })
            .await
    }

    fn attempt_end(
        &self,
        number: u32,
        judgement: &Judgement,
        sent: &Sent,
        outgoing: &Outgoing,
        redactor: &Redactor<'_>,
    ) -> AttemptEnd {
        let reply = match &sent.result {
            Ok(reply) => Some(reply),
            Err(fault) => fault.partial.as_ref(),
        };
        AttemptEnd {
            number,
            verdict: judgement.verdict,
            class: judgement.class,
            status_code: reply.map(|reply| reply.status),
            latency_ms: Some(sent.timings.total),
            explanation: judgement.explanation.clone(),
            timings: Some(sent.timings),
            exchange: Some(captured(
                outgoing,
                &self.dispatcher.added_headers(outgoing),
                reply,
                redactor,
                self.capture_limit,
            )),
            token_exchange: None,
        }
    }

    /// What is kept of an exchange with a token endpoint.
    fn token_exchange(&self, exchange: &TokenExchange) -> ExchangeRecord {
        let TokenExchange { outgoing, sent } = exchange;
        let reply = match &sent.result {
            Ok(reply) => Some(reply),
            Err(fault) => fault.partial.as_ref(),
        };
        let redactor = Redactor::new(&outgoing.secrets);
        captured(outgoing, &self.dispatcher.added_headers(outgoing), reply, &redactor, self.capture_limit)
    }

    /// A delivery is held at a shut gate: its source need not wait, unless another delivery of the lead is in motion.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn parked(&self, held: &Queued) -> Result<(), StoreError> {
        if !self.outcomes.is_awaited(held.lead) {
            return Ok(());
        }
        let Some(standings) = self.store.standings(held.lead).await? else { return Ok(()) };
        let (network, now) = (self.directory.network(), self.clock.now());
        let others = standings.deliveries.iter().filter(|record| record.delivery.id != held.id);
        if !others.map(|record| plan::standing(&network, record, now)).any(|standing| standing.in_motion) {
            self.outcomes.tell(held.lead, Outcome::Parked);
        }
        Ok(())
    }
}
