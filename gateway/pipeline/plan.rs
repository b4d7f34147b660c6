//! Who may have a lead next: what routing says, given what the gates and breakers say now.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::{Conclusion, MoveOn, Pipeline};
use crate::clock;
use crate::directory::{CampaignEntry, ContractEntry, Network};
use crate::gate::{Gate, GateUnavailable, Shut};
use crate::model::campaign::Distribution;
use crate::model::contract::OnUnknown;
use crate::model::delivery::{Delivery, DeliveryState, ShutReason};
use crate::model::id::{ContractId, DeliveryId};
use crate::model::lead::{Candidate, Lead, LeadReason, LeadStatus};
use crate::model::limit::Place;
use crate::routing;
use crate::routing::advance::{self, Move, Standing, Terms, View};
use crate::store::{Change, DeliveryRecord, LeadStep, NewDelivery, Queued, StoreError};

/// What is to be done for a lead now.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Deliveries to be made, in order: queued, waiting, or skipped.
    pub(super) deliveries: Vec<NewDelivery>,
    /// Where the lead then stands.
    pub(super) status: LeadStatus,
    /// Why.
    pub(super) reason: Option<LeadReason>,
    /// Nothing of it is in motion: it waits for an opening, a retry or a person.
    pub(super) parked: bool,
}

/// A fresh lead's way.
pub(super) struct Routed {
    pub(super) candidates: Vec<Candidate>,
    pub(super) plan: Plan,
    pub(super) turn: Option<Turn>,
}

/// The turn a contract was given (round robin), and the one it had before.
pub(super) struct Turn {
    pub(super) contract: ContractId,
    pub(super) number: u64,
    before: u64,
}

/// Whose turn it was, over all campaigns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: HashMap<ContractId, u64>,
    /// Turns that were given back, each with the one that its contract had before: they come first again, so that a
    /// refused lead costs its contract no turn, however many others were given in the meantime.
    open: HashMap<ContractId, BTreeMap<u64, u64>>,
    next: u64,
}

impl Turns {
    pub(super) fn new(last: HashMap<ContractId, u64>) -> Self {
        let next = last.values().max().map_or(1, |last| last + 1);
        Self { last, open: HashMap::new(), next }
    }

    /// The number of the contract's last turn, as far as its next one is concerned; 0 = none yet.
    fn last(&self, contract: &ContractId) -> u64 {
        let open = self.open.get(contract).and_then(BTreeMap::first_key_value).map(|(_, before)| *before);
        open.or_else(|| self.last.get(contract).copied()).unwrap_or(0)
    }

    fn give(&mut self, contract: &ContractId) -> Turn {
        if let Some(open) = self.open.get_mut(contract)
            && let Some((number, before)) = open.pop_first()
        {
            return Turn { contract: contract.clone(), number, before };
        }
        let number = self.next;
        self.next += 1;
        let before = self.last.insert(contract.clone(), number).unwrap_or(0);
        Turn { contract: contract.clone(), number, before }
    }

    /// The lead did not come to be: the turn is open again.
    fn take_back(&mut self, turn: Turn) {
        self.open.entry(turn.contract).or_default().insert(turn.number, turn.before);
    }
}

/// What advance() was told of contracts.
type Views = HashMap<ContractId, (Terms, View)>;

/// How often a "full" that would end a lead's routing is asked of the store before it is believed.
const CONFIRM: usize = 2;

impl Pipeline {
    /// Orders the campaign's contracts for a fresh lead and decides where it goes first.
    pub(super) async fn route(&self, network: &Network, campaign: &CampaignEntry, lead: &Lead) -> Routed {
        let distribution = campaign.campaign.distribution;
        let mut draw = clock::draw;
        if distribution != Distribution::RoundRobin {
            let candidates = routing::candidates(lead, campaign.routed(), distribution, &mut draw, &|_| 0);
            let plan = self.plan(network, Some(campaign), &candidates, &[], false).await;
            return Routed { candidates, plan, turn: None };
        }
        // Held until the turn is given, so that two leads that arrive together do not both get the same one.
        let mut turns = self.turns.lock().await;
        let candidates = routing::candidates(lead, campaign.routed(), distribution, &mut draw, &|id| turns.last(id));
        let plan = self.plan(network, Some(campaign), &candidates, &[], false).await;
        let first = plan.deliveries.iter().find(|new| new.state == DeliveryState::Queued);
        let turn = if lead.test { None } else { first.map(|new| turns.give(&new.contract)) };
        Routed { candidates, plan, turn }
    }

    /// A lead that was given a turn was not stored after all.
    pub(super) async fn take_back_turn(&self, turn: Option<Turn>) {
        if let Some(turn) = turn {
            self.turns.lock().await.take_back(turn);
        }
    }

    /// For a test lead: renders for whoever would have it, one candidate after another where a template fails, and says
    /// what would become of it. Nothing is sent.
    pub(super) async fn predict(
        &self,
        network: &Network,
        campaign: &CampaignEntry,
        lead: &Lead,
        candidates: &[Candidate],
        mut plan: Plan,
    ) -> Plan {
        let now = self.clock.now();
        let mut failed: Vec<DeliveryRecord> = Vec::new();
        let sold = loop {
            let mut fails = Vec::new();
            for new in &plan.deliveries {
                let Some(entry) = network.contract(&new.contract) else { continue };
                let mut record = fresh_record(&queued(new, lead, now), lead, entry);
                record.delivery.state = new.state;
                record.delivery.reason.clone_from(&new.reason);
                if new.state == DeliveryState::Queued {
                    match super::request_for(network, entry, lead, new.id, 1, now) {
                        Ok(_) => break,
                        Err(why) => {
                            tracing::info!(contract.id = %new.contract, "a test lead could not be rendered: {why}");
                        }
                    }
                    record.delivery.state = DeliveryState::Failed;
                }
                fails.push(record);
            }
            if fails.len() < plan.deliveries.len() {
                break true;
            }
            if !fails.iter().any(|record| record.delivery.state == DeliveryState::Failed) {
                break false;
            }
            failed.append(&mut fails);
            plan = self.plan(network, Some(campaign), candidates, &failed, false).await;
        };
        Plan {
            deliveries: Vec::new(),
            status: if sold { LeadStatus::Sold } else { LeadStatus::Unsold },
            reason: (!sold).then_some(LeadReason::NoBuyer),
            parked: true,
        }
    }

    /// What follows for the lead when `delivery` changes as `conclusion` says; `None` if the lead is gone.
    pub(super) async fn follow(
        &self,
        delivery: &Delivery,
        conclusion: &Conclusion,
    ) -> Result<Option<MoveOn>, StoreError> {
        let network = self.directory.network();
        let campaign = network.campaign(&delivery.campaign).map(AsRef::as_ref);
        let change = &conclusion.change;
        let plain = |then: LeadStep| MoveOn { change: change.clone(), then, plan: None };

        // The usual ends need no look at the lead's other deliveries.
        let alone = campaign.is_some_and(|entry| entry.campaign.sell_to == 1);
        let awaited = conclusion.may_fail_over && self.outcomes.is_awaited(delivery.lead);
        match change.state {
            DeliveryState::Accepted if alone || delivery.redelivery_of.is_some() => {
                return Ok(Some(plain(LeadStep::Sold)));
            }
            DeliveryState::Queued if alone && !awaited => return Ok(Some(plain(LeadStep::Untouched))),
            // A person sent it again, to this contract: nobody else is offered the lead because of that.
            _ if delivery.redelivery_of.is_some() => return Ok(Some(plain(LeadStep::Untouched))),
            _ => {}
        }

        let Some(standings) = self.store.standings(delivery.lead).await? else { return Ok(None) };
        let cancelled = conclusion.by_cancel;
        let lead = Arc::new(standings.record.lead);
        let candidates = &standings.record.candidates;
        let version = standings.record.version;
        let after = |change: &Change| {
            let mut deliveries = standings.deliveries.clone();
            for record in deliveries.iter_mut().filter(|record| record.delivery.id == delivery.id) {
                record.delivery.state = change.state;
                record.delivery.due_at = change.due_at;
                // Why it was passed over decides whether it may be waited there.
                record.delivery.reason = change.reason.clone().or_else(|| record.delivery.reason.take());
                record.delivery.attempt_count = delivery.attempt_count;
            }
            deliveries
        };
        let advance = |plan: &Plan| LeadStep::Advance {
            version,
            status: plan.status,
            reason: plan.reason,
            deliveries: plan.deliveries.clone(),
        };
        if awaited {
            let failed = Change {
                reason: change
                    .reason
                    .clone()
                    .or(Some("a source was waiting, and others had not been asked".to_owned())),
                due_at: None,
                ..Change { state: DeliveryState::Failed, ..change.clone() }
            };
            let plan = self.plan(&network, campaign, candidates, &after(&failed), cancelled).await;
            let asks = |new: &NewDelivery| new.state == DeliveryState::Queued && !new.waits;
            if plan.deliveries.iter().any(asks) {
                return Ok(Some(MoveOn { change: failed, then: advance(&plan), plan: Some((lead, plan)) }));
            }
            return Ok(Some(plain(LeadStep::Untouched)));
        }
        let plan = self.plan(&network, campaign, candidates, &after(change), cancelled).await;
        Ok(Some(MoveOn { change: change.clone(), then: advance(&plan), plan: Some((lead, plan)) }))
    }

    /// Asks routing, with the gates as they are. A "full" that would leave a lead without a buyer is first confirmed
    /// by the store, for a gate may be behind.
    async fn plan(
        &self,
        network: &Network,
        campaign: Option<&CampaignEntry>,
        candidates: &[Candidate],
        deliveries: &[DeliveryRecord],
        cancelled: bool,
    ) -> Plan {
        let now = self.clock.now();
        // Contracts that were deleted since are no candidates any more; advance() passes them over.
        let standings: Vec<Standing> = deliveries.iter().map(|record| standing(network, record, now)).collect();
        let (distribution, sell_to) =
            campaign.map_or((Distribution::Priority, 1), |entry| (entry.campaign.distribution, entry.campaign.sell_to));
        let step = advance::Step { now, distribution, sell_to, candidates, deliveries: &standings, cancelled };
        let nobody = HashSet::new();
        let (mut next, mut looked) = self.next(network, &step, &nobody).await;
        for round in 1..=CONFIRM + 1 {
            let full: HashSet<ContractId> = looked
                .into_iter()
                .filter(|(_, (_, view))| matches!(view, View::Shut { reason: ShutReason::Full, .. }))
                .map(|(contract, _)| contract)
                .collect();
            let unsold = next.decided.is_some_and(|(status, _)| status == LeadStatus::Unsold);
            if !unsold || full.is_empty() || !self.gate_was_behind(network, &full, now).await {
                break;
            }
            // The gate keeps to it: a place is on its way back. The lead waits for that at the contract.
            let doubted = if round > CONFIRM { &full } else { &nobody };
            (next, looked) = self.next(network, &step, doubted).await;
        }

        let starts = next.moves.iter().any(|step| matches!(step, Move::Queue(_)));
        let parked = !starts && !standings.iter().any(|standing| standing.in_motion);
        let (status, reason) = next.decided.unwrap_or((LeadStatus::Pending, None));
        let deliveries = next.moves.iter().filter_map(|step| self.new_delivery(network, step)).collect();
        Plan { deliveries, status, reason, parked }
    }

    /// What advance() says, and what it was told of contracts: of those that are `doubted` to be full, that nobody knows.
    /// A gate in memory is asked about those alone that advance() comes to: mostly the first.
    async fn next(
        &self,
        network: &Network,
        step: &advance::Step<'_>,
        doubted: &HashSet<ContractId>,
    ) -> (advance::Next, Views) {
        let view = |entry: &ContractEntry, said| {
            let (terms, view) = self.view(entry, said, step.now);
            let is_full = matches!(view, View::Shut { reason: ShutReason::Full, .. });
            let unknown = View::Shut { reason: ShutReason::Unavailable, until: None, never: false };
            (terms, if is_full && doubted.contains(&entry.contract.id) { unknown } else { view })
        };
        if let Gate::Memory(gate) = &self.gate {
            let looked = RefCell::new(Views::new());
            let next = advance::advance(step, &|contract| {
                let entry = network.contract(contract)?;
                let view = view(entry, gate.look(contract, step.now));
                looked.borrow_mut().insert(contract.clone(), view);
                Some(view)
            });
            return (next, looked.into_inner());
        }
        let mut looked = Views::new();
        for contract in step.needed() {
            let Some(entry) = network.contract(contract) else { continue };
            let view = view(entry, self.gate.look(contract, step.now).await);
            looked.insert(contract.clone(), view);
        }
        (advance::advance(step, &|contract| looked.get(contract).copied()), looked)
    }

    fn view(
        &self,
        entry: &ContractEntry,
        said: Result<Option<Shut>, GateUnavailable>,
        now: Timestamp,
    ) -> (Terms, View) {
        let view = match self.shut_as(entry, said, now) {
            None => View::Open,
            Some(shut) => View::Shut { reason: shut.reason, until: shut.until, never: shut.never },
        };
        (Terms::from(entry.contract.as_ref()), view)
    }

    /// Tells the gate what the store really holds for these contracts; whether that was less than the gate believed.
    pub(crate) async fn gate_was_behind(
        &self,
        network: &Network,
        contracts: impl IntoIterator<Item = &ContractId>,
        now: Timestamp,
    ) -> bool {
        for contract in contracts {
            let Some(entry) = network.contract(contract) else { continue };
            let places: Vec<Place> = entry.places(now).into_iter().filter(|place| place.limit.is_some()).collect();
            let keys: Vec<_> = places.iter().map(|place| place.key.clone()).collect();
            let as_of = self.gate.as_of(&keys).await;
            let held = match self.store.places(keys).await {
                Ok(held) => held,
                Err(error) => {
                    tracing::warn!(store.error = %error, "a full gate could not be confirmed; it is believed");
                    return false;
                }
            };
            if held.iter().zip(&places).all(|((_, used), place)| place.limit.is_none_or(|limit| *used < limit)) {
                self.gate.reconcile(&held, as_of).await;
                return true;
            }
        }
        false
    }

    fn new_delivery(&self, network: &Network, step: &Move) -> Option<NewDelivery> {
        let (contract, state, waits, reason) = match step {
            Move::Queue(contract) => (contract, DeliveryState::Queued, false, None),
            Move::Hold(contract) => (contract, DeliveryState::Queued, true, None),
            Move::Skip(contract, why) => (contract, DeliveryState::Skipped, false, Some(why.as_skipped().to_owned())),
        };
        let entry = network.contract(contract)?;
        Some(NewDelivery {
            id: DeliveryId(self.clock.uuid()),
            partner: entry.contract.partner.clone(),
            contract: contract.clone(),
            state,
            waits,
            reason,
            price: entry.price,
            redelivery_of: None,
            bypass_limits: false,
        })
    }

    /// Why nothing can be delivered to this contract now, if so: its gate, or its breaker.
    pub async fn shut(&self, entry: &ContractEntry, now: Timestamp) -> Option<Shut> {
        self.shut_as(entry, self.gate.look(&entry.contract.id, now).await, now)
    }

    /// The same, where the gate has answered.
    fn shut_as(
        &self,
        entry: &ContractEntry,
        said: Result<Option<Shut>, GateUnavailable>,
        now: Timestamp,
    ) -> Option<Shut> {
        let shut = |reason, until| Shut { reason, until, never: false, timezone: entry.timezone_name() };
        match said {
            Ok(Some(shut)) => Some(shut),
            Ok(None) => {
                let until = self.lanes.lane(entry).broken_until(now)?;
                Some(shut(ShutReason::Breaker, Some(until)))
            }
            Err(unavailable) => {
                tracing::debug!(contract.id = %entry.contract.id, gate.error = %unavailable, "the gate cannot answer");
                Some(shut(ShutReason::Unavailable, None))
            }
        }
    }
}

pub(super) fn standing(network: &Network, record: &DeliveryRecord, now: Timestamp) -> Standing {
    let delivery = &record.delivery;
    let next = network.contract(&delivery.contract).is_some_and(|entry| entry.contract.on_unknown == OnUnknown::Next);
    let ready =
        delivery.state == DeliveryState::Queued && !delivery.waits && delivery.due_at.is_none_or(|due| due <= now);
    let skipped_for = delivery.reason.as_deref().filter(|_| delivery.state == DeliveryState::Skipped);
    Standing {
        contract: delivery.contract.clone(),
        partner: delivery.partner.clone(),
        state: delivery.state,
        attempted: delivery.attempt_count > 0,
        in_motion: ready || delivery.state == DeliveryState::Sending,
        on_unknown_next: next,
        skipped_for: skipped_for.and_then(ShutReason::from_word),
    }
}

/// What the queue needs to know of a delivery that was just made.
pub(super) fn queued(new: &NewDelivery, lead: &Lead, now: Timestamp) -> Queued {
    Queued {
        id: new.id,
        lead: lead.id,
        received_at: lead.received_at,
        waits: new.waits,
        had_unknown: false,
        bypass_limits: new.bypass_limits,
        due_at: None,
        since: now,
    }
}

/// A delivery that has had no attempt, as the store has it.
pub(super) fn fresh_record(queued: &Queued, lead: &Lead, entry: &ContractEntry) -> DeliveryRecord {
    DeliveryRecord {
        delivery: Delivery {
            id: queued.id,
            lead: lead.id,
            campaign: lead.campaign.clone(),
            source: lead.source.clone(),
            partner: entry.contract.partner.clone(),
            contract: entry.contract.id.clone(),
            received_at: queued.received_at,
            state: DeliveryState::Queued,
            waits: queued.waits,
            verdict: None,
            reason: None,
            price: entry.price,
            reference: None,
            redirect_url: None,
            attempt_count: 0,
            first_attempt_at: None,
            had_unknown: false,
            due_at: None,
            redelivery_of: None,
            bypass_limits: queued.bypass_limits,
            created_at: queued.since,
            updated_at: queued.since,
        },
        places: Vec::new(),
        held_ms: 0,
    }
}
