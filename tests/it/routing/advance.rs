//! Moving on: by example, and through whole random lives of leads held to the rules one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lead_gateway::model::campaign::Distribution;
use lead_gateway::model::contract::WhenShut;
use lead_gateway::model::delivery::{DeliveryState, ShutReason};
use lead_gateway::model::id::ContractId;
use lead_gateway::model::lead::{Candidate, LeadReason, LeadStatus};
use lead_gateway::routing::advance::{AtShut, Move, Next, Standing, Step, Terms, View, advance};
use proptest::prelude::*;

const NO_BUYER: Option<(LeadStatus, Option<LeadReason>)> = Some((LeadStatus::Unsold, Some(LeadReason::NoBuyer)));
const SOLD: Option<(LeadStatus, Option<LeadReason>)> = Some((LeadStatus::Sold, None));

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn in_hours(hours: i64) -> Timestamp {
    now() + SignedDuration::from_hours(hours)
}

fn terms(when: WhenShut) -> Terms {
    Terms { when_closed: when, when_full: when, when_paused: when, hold_for: Duration::from_hours(24) }
}

fn shut(reason: ShutReason, until: Option<Timestamp>) -> View {
    View::Shut { reason, until, never: false }
}

fn closed(hours: i64) -> View {
    shut(ShutReason::Closed, Some(in_hours(hours)))
}

/// Candidates by name, `partner/contract` or a name that is both, and what is known of each.
struct World {
    distribution: Distribution,
    sell_to: u32,
    candidates: Vec<Candidate>,
    known: BTreeMap<ContractId, (Terms, View)>,
    deliveries: Vec<Standing>,
}

impl World {
    fn new(sell_to: u32, listed: &[(&str, WhenShut, View)]) -> Self {
        let mut candidates = Vec::new();
        let mut known = BTreeMap::new();
        for (name, when, view) in listed {
            let (partner, contract) = name.split_once('/').unwrap_or((name, name));
            let contract: ContractId = contract.parse().unwrap();
            known.insert(contract.clone(), (terms(*when), *view));
            candidates.push(Candidate { contract, partner: partner.parse().unwrap(), filtered: None });
        }
        Self { distribution: Distribution::Priority, sell_to, candidates, known, deliveries: Vec::new() }
    }

    fn broadcast(mut self) -> Self {
        self.distribution = Distribution::Broadcast;
        self
    }

    fn sees(&mut self, contract: &str, view: View) {
        self.known.get_mut(&contract.parse::<ContractId>().unwrap()).unwrap().1 = view;
    }

    fn next_after(&self, cancelled: bool) -> Next {
        let step = Step {
            now: now(),
            distribution: self.distribution,
            sell_to: self.sell_to,
            candidates: &self.candidates,
            deliveries: &self.deliveries,
            cancelled,
        };
        let needed: BTreeSet<&ContractId> = step.needed().collect();
        advance(&step, &|contract| {
            assert!(needed.contains(contract), "{contract} is looked at and was not said to be needed");
            self.known.get(contract).copied()
        })
    }

    /// Decides and makes the deliveries; says what was done: `queue a`, `hold b`, `skip c`.
    fn advance(&mut self) -> (Vec<String>, Option<(LeadStatus, Option<LeadReason>)>) {
        let next = self.next_after(false);
        (self.make(&next.moves), next.decided)
    }

    fn make(&mut self, moves: &[Move]) -> Vec<String> {
        let mut said = Vec::new();
        for made in moves {
            let (word, contract, state, in_motion, skipped_for) = match made {
                Move::Queue(contract) => ("queue", contract, DeliveryState::Queued, true, None),
                Move::Hold(contract) => ("hold", contract, DeliveryState::Queued, false, None),
                Move::Skip(contract, reason) => ("skip", contract, DeliveryState::Skipped, false, Some(*reason)),
            };
            said.push(format!("{word} {contract}"));
            let partner = &self.candidates.iter().find(|candidate| candidate.contract == *contract).unwrap().partner;
            self.deliveries.push(Standing {
                contract: contract.clone(),
                partner: partner.clone(),
                state,
                attempted: false,
                in_motion,
                on_unknown_next: false,
                skipped_for,
            });
        }
        said
    }

    /// The newest delivery of a contract has had an attempt and ends, or does not.
    fn ends(&mut self, contract: &str, state: DeliveryState) -> &mut Standing {
        let delivery =
            self.deliveries.iter_mut().rev().find(|delivery| delivery.contract.as_str() == contract).unwrap();
        delivery.state = state;
        delivery.in_motion = false;
        delivery.attempted =
            !matches!(state, DeliveryState::Skipped | DeliveryState::Expired | DeliveryState::Cancelled);
        delivery
    }
}

use WhenShut::{Hold, Next as GoOn, Skip};

#[test]
fn one_after_another_is_offered_the_lead_until_one_accepts() {
    let mut lead = World::new(1, &[("a", GoOn, View::Open), ("b", GoOn, View::Open), ("c", GoOn, View::Open)]);
    assert_eq!(lead.advance(), (vec!["queue a".to_owned()], None));
    assert_eq!(lead.advance(), (vec![], None), "a is in motion");
    lead.ends("a", DeliveryState::Rejected);
    assert_eq!(lead.advance(), (vec!["queue b".to_owned()], None));
    lead.ends("b", DeliveryState::Accepted);
    assert_eq!(lead.advance(), (vec![], SOLD));
}

#[test]
fn every_definite_end_tries_the_next_and_after_the_last_the_lead_is_unsold() {
    for end in [
        DeliveryState::Rejected,
        DeliveryState::Duplicate,
        DeliveryState::Failed,
        DeliveryState::Skipped,
        DeliveryState::Expired,
    ] {
        let mut lead = World::new(1, &[("a", Skip, View::Open), ("b", Skip, View::Open)]);
        lead.advance();
        lead.ends("a", end).skipped_for = (end == DeliveryState::Skipped).then_some(ShutReason::Full);
        assert_eq!(lead.advance().0, ["queue b"]);
        lead.ends("b", DeliveryState::Rejected);
        let reason = if end == DeliveryState::Expired { LeadReason::Expired } else { LeadReason::NoBuyer };
        assert_eq!(lead.advance(), (vec![], Some((LeadStatus::Unsold, Some(reason)))));
    }
}

#[test]
fn a_lead_that_nobody_wants_is_unsold_at_once() {
    let mut lead = World::new(1, &[]);
    assert_eq!(lead.advance(), (vec![], NO_BUYER));
    let mut lead = World::new(1, &[("a", GoOn, View::Open)]);
    lead.candidates[0].filtered = Some("postcode does not start with SW".to_owned());
    assert_eq!(lead.advance(), (vec![], NO_BUYER));
}

#[test]
fn a_contract_that_left_the_network_is_passed_over_without_a_delivery() {
    let mut lead = World::new(1, &[("a", GoOn, View::Open), ("b", GoOn, View::Open)]);
    lead.known.remove(&"a".parse::<ContractId>().unwrap());
    assert_eq!(lead.advance().0, ["queue b"]);
}

#[test]
fn an_unknown_keeps_its_slot_and_the_lead_pending() {
    let mut lead = World::new(1, &[("a", GoOn, View::Open), ("b", GoOn, View::Open)]);
    lead.advance();
    lead.ends("a", DeliveryState::Unknown);
    assert_eq!(lead.advance(), (vec![], None));
    // A person says that it was refused: routing goes on.
    lead.ends("a", DeliveryState::Rejected);
    assert_eq!(lead.advance().0, ["queue b"]);
}

#[test]
fn an_unknown_of_an_owner_who_accepts_a_double_sale_frees_its_slot() {
    let mut lead = World::new(1, &[("a/one", GoOn, View::Open), ("b", GoOn, View::Open), ("a/two", GoOn, View::Open)]);
    lead.advance();
    lead.ends("one", DeliveryState::Unknown).on_unknown_next = true;
    assert_eq!(lead.advance().0, ["queue b"]);
    lead.ends("b", DeliveryState::Rejected);
    assert_eq!(lead.advance(), (vec![], None), "the partner may have it, so its other contract is not tried");
    lead.ends("one", DeliveryState::Rejected);
    assert_eq!(lead.advance(), (vec![], NO_BUYER));
}

#[test]
fn sold_to_two_the_second_slot_is_filled_after_the_first_was_decided() {
    let mut lead = World::new(
        2,
        &[("a", GoOn, View::Open), ("b", GoOn, View::Open), ("c", GoOn, View::Open), ("d", GoOn, View::Open)],
    );
    assert_eq!(lead.advance().0, ["queue a"]);
    lead.ends("a", DeliveryState::Accepted);
    assert_eq!(lead.advance(), (vec!["queue b".to_owned()], SOLD));
    // Unknown, waiting for a retry or held: it fills a slot, but the next need not wait for it.
    lead.ends("b", DeliveryState::Rejected);
    assert_eq!(lead.advance().0, ["queue c"]);
    lead.ends("c", DeliveryState::Accepted);
    assert_eq!(lead.advance(), (vec![], SOLD));
}

#[test]
fn a_delivery_that_waits_for_its_retry_fills_its_slot_and_does_not_block_the_other() {
    let mut lead = World::new(2, &[("a", GoOn, View::Open), ("b", GoOn, View::Open), ("c", GoOn, View::Open)]);
    lead.advance();
    lead.ends("a", DeliveryState::Queued);
    assert_eq!(lead.advance().0, ["queue b"]);
    lead.ends("b", DeliveryState::Unknown);
    assert_eq!(lead.advance(), (vec![], None));
}

#[test]
fn broadcast_fills_all_slots_at_once_and_a_definite_no_frees_one() {
    let listed = [("a", GoOn, View::Open), ("b", GoOn, View::Open), ("c", GoOn, View::Open), ("d", GoOn, View::Open)];
    let mut lead = World::new(2, &listed).broadcast();
    assert_eq!(lead.advance().0, ["queue a", "queue b"]);
    assert_eq!(lead.advance().0, Vec::<String>::new());
    lead.ends("b", DeliveryState::Rejected);
    assert_eq!(lead.advance().0, ["queue c"]);
    lead.ends("a", DeliveryState::Accepted);
    assert_eq!(lead.advance(), (vec![], SOLD));
    let mut all = World::new(0, &listed).broadcast();
    assert_eq!(all.advance().0, ["queue a", "queue b", "queue c", "queue d"]);
}

#[test]
fn two_contracts_of_one_partner_never_get_the_same_lead() {
    let listed = [("p/a", GoOn, View::Open), ("p/b", GoOn, View::Open), ("q", GoOn, View::Open)];
    assert_eq!(World::new(0, &listed).broadcast().advance().0, ["queue a", "queue q"]);
    for end in [DeliveryState::Rejected, DeliveryState::Duplicate, DeliveryState::Failed, DeliveryState::Accepted] {
        let mut lead = World::new(0, &listed);
        lead.advance();
        lead.ends("a", end);
        assert_eq!(lead.advance().0, ["queue q"], "after {end}");
    }
}

#[test]
fn a_partner_that_never_saw_the_lead_may_get_it_by_its_other_contract() {
    let mut lead = World::new(1, &[("p/a", GoOn, closed(3)), ("p/b", GoOn, View::Open)]);
    assert_eq!(lead.advance().0, ["skip a", "queue b"]);
    // It could not be rendered.
    let mut lead = World::new(1, &[("p/a", GoOn, View::Open), ("p/b", GoOn, View::Open)]);
    lead.advance();
    lead.ends("a", DeliveryState::Failed).attempted = false;
    assert_eq!(lead.advance().0, ["queue b"]);
}

#[test]
fn one_passed_over_between_two_tries_is_waited_at_but_not_asked_through_another_contract() {
    let mut lead = World::new(1, &[("p/a", GoOn, View::Open), ("p/b", GoOn, View::Open)]);
    assert_eq!(lead.advance().0, ["queue a"]);
    // It said 503, and when its retry was due its breaker was open.
    lead.sees("a", shut(ShutReason::Breaker, Some(in_hours(1))));
    let skipped = lead.ends("a", DeliveryState::Skipped);
    (skipped.attempted, skipped.skipped_for) = (true, Some(ShutReason::Breaker));
    assert_eq!(lead.advance(), (vec!["hold a".to_owned()], None));
}

#[test]
fn passed_over_by_all_a_lead_waits_where_it_opens_first() {
    let mut lead = World::new(
        1,
        &[
            ("a", GoOn, closed(3)),
            ("paused", GoOn, shut(ShutReason::Paused, None)),
            ("b", GoOn, closed(2)),
            ("c", Skip, closed(1)),
        ],
    );
    assert_eq!(
        lead.advance(),
        (["skip a", "skip paused", "skip b", "skip c", "hold b"].map(String::from).to_vec(), None)
    );
    lead.ends("b", DeliveryState::Expired);
    assert_eq!(lead.advance().0, ["hold a"]);
    lead.ends("a", DeliveryState::Rejected);
    // A pause may end at any time, so it comes last but it does come.
    assert_eq!(lead.advance().0, ["hold paused"]);
    lead.ends("paused", DeliveryState::Expired);
    assert_eq!(lead.advance(), (vec![], Some((LeadStatus::Unsold, Some(LeadReason::Expired)))));
}

#[test]
fn one_that_opened_meanwhile_is_not_offered_again_before_the_untried_and_then_waits_no_more() {
    let mut lead = World::new(1, &[("a", GoOn, closed(1)), ("b", GoOn, View::Open), ("c", GoOn, View::Open)]);
    assert_eq!(lead.advance().0, ["skip a", "queue b"]);
    lead.sees("a", View::Open);
    lead.ends("b", DeliveryState::Rejected);
    assert_eq!(lead.advance().0, ["queue c"]);
    lead.ends("c", DeliveryState::Rejected);
    assert_eq!(lead.advance().0, ["hold a"]);
}

#[test]
fn hold_waits_here_unless_the_opening_is_known_to_come_too_late() {
    let others = ("b", GoOn, View::Open);
    for (view, expected) in [
        (closed(24), "hold a"),
        (shut(ShutReason::Paused, None), "hold a"),
        (shut(ShutReason::Breaker, Some(in_hours(1))), "hold a"),
    ] {
        assert_eq!(World::new(1, &[("a", Hold, view), others]).advance().0, [expected]);
    }
    for view in [closed(25), View::Shut { reason: ShutReason::Full, until: None, never: true }] {
        assert_eq!(World::new(1, &[("a", Hold, view), others]).advance().0, ["skip a", "queue b"]);
        for when in [Hold, GoOn, Skip] {
            let mut alone = World::new(1, &[("a", when, view)]);
            assert_eq!(alone.advance(), (vec!["skip a".to_owned()], NO_BUYER));
        }
    }
}

#[test]
fn each_reason_has_its_own_policy_and_a_breaker_counts_as_paused() {
    let terms = Terms { when_closed: Hold, when_full: GoOn, when_paused: Skip, hold_for: Duration::from_hours(1) };
    let at = |reason| terms.at_shut(reason, None, false, now());
    assert_eq!(at(ShutReason::Closed), AtShut::Wait);
    assert_eq!(at(ShutReason::Full), AtShut::PassOver);
    assert_eq!(at(ShutReason::Paused), AtShut::PassOver);
    assert_eq!(at(ShutReason::Breaker), AtShut::PassOver);
    let mut lead = World::new(1, &[("a", GoOn, shut(ShutReason::Breaker, Some(in_hours(1))))]);
    for entry in lead.known.values_mut() {
        entry.0 = terms;
    }
    assert_eq!(lead.advance(), (vec!["skip a".to_owned()], NO_BUYER), "skip offers it to the others only");
    // Skipped for a pause, it is not waited at either when now it is closed.
    lead.sees("a", closed(1));
    assert_eq!(lead.advance(), (vec![], NO_BUYER));
}

#[test]
fn not_knowing_is_no_reason_to_pass_anybody_over() {
    for when in [Hold, GoOn, Skip] {
        let mut lead = World::new(1, &[("a", when, shut(ShutReason::Unavailable, None)), ("b", when, View::Open)]);
        assert_eq!(lead.advance().0, ["queue a"]);
        assert_eq!(terms(when).at_shut(ShutReason::Unavailable, None, false, now()), AtShut::Wait);
    }
}

#[test]
fn a_cancelled_delivery_frees_its_slot_and_offers_nobody_else() {
    let mut lead = World::new(1, &[("a", Hold, closed(1)), ("b", GoOn, View::Open)]);
    lead.advance();
    lead.ends("a", DeliveryState::Cancelled);
    let next = lead.next_after(true);
    assert_eq!((next.moves, next.decided), (vec![], NO_BUYER));
    // Another delivery of the lead is still under way: nothing is decided, and its end moves on as ever.
    let mut two = World::new(2, &[("a", Hold, closed(1)), ("b", GoOn, View::Open), ("c", GoOn, View::Open)]);
    assert_eq!(two.advance().0, ["hold a", "queue b"]);
    two.ends("a", DeliveryState::Cancelled);
    assert_eq!(two.next_after(true), Next::default());
    two.ends("b", DeliveryState::Rejected);
    assert_eq!(two.advance().0, ["queue c"]);
}

#[test]
fn the_turn_belongs_to_who_is_offered_the_lead_first() {
    let mut lead = World::new(1, &[("a", GoOn, closed(1)), ("b", GoOn, View::Open)]);
    let next = lead.next_after(false);
    assert_eq!(next.first_offered().map(ContractId::as_str), Some("b"));
    lead.sees("b", View::Shut { reason: ShutReason::Full, until: None, never: true });
    lead.sees("a", View::Shut { reason: ShutReason::Full, until: None, never: true });
    assert_eq!(lead.next_after(false).first_offered(), None);
}

// ---- whole lives ----

#[derive(Debug, Clone)]
struct Life {
    distribution: Distribution,
    sell_to: u32,
    /// Partner, terms, whether filtered.
    contracts: Vec<(usize, Terms, bool)>,
    /// What happens, step by step, read in a circle: to which unfinished delivery, what, and how the gates look then.
    events: Vec<(prop::sample::Index, u8, Vec<View>)>,
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let when = || prop::sample::select(vec![GoOn, GoOn, Hold, Skip]);
    (when(), when(), when()).prop_map(|(when_closed, when_full, when_paused)| Terms {
        when_closed,
        when_full,
        when_paused,
        hold_for: Duration::from_hours(24),
    })
}

fn any_view() -> impl Strategy<Value = View> {
    let reason = prop::sample::select(vec![
        ShutReason::Closed,
        ShutReason::Full,
        ShutReason::Paused,
        ShutReason::Breaker,
        ShutReason::Unavailable,
    ]);
    let shut = (reason, prop::option::of(-1..48i64), prop::bool::weighted(0.1))
        .prop_map(|(reason, hours, never)| View::Shut { reason, until: hours.map(in_hours).filter(|_| !never), never });
    prop_oneof![2 => Just(View::Open), 3 => shut]
}

fn any_life() -> impl Strategy<Value = Life> {
    let distribution =
        prop::sample::select(vec![Distribution::Priority, Distribution::RoundRobin, Distribution::Broadcast]);
    let contracts = prop::collection::vec((0..4usize, any_terms(), prop::bool::weighted(0.1)), 0..7);
    let event = (any::<prop::sample::Index>(), any::<u8>(), prop::collection::vec(any_view(), 7));
    (distribution, 0..4u32, contracts, prop::collection::vec(event, 1..30))
        .prop_map(|(distribution, sell_to, contracts, events)| Life { distribution, sell_to, contracts, events })
}

fn may_be_waited_at(terms: Terms, reason: ShutReason) -> bool {
    match reason {
        ShutReason::Closed => terms.when_closed != Skip,
        ShutReason::Full => terms.when_full != Skip,
        ShutReason::Paused | ShutReason::Breaker => terms.when_paused != Skip,
        ShutReason::Unavailable => true,
    }
}

/// What was passed over in the end was answered "not now" before, if at all.
fn may_have_it(delivery: &Standing) -> bool {
    delivery.state == DeliveryState::Accepted || delivery.attempted && delivery.state != DeliveryState::Skipped
}

/// The rules of DESIGN and CONTRACT, each checked by itself on what a step has made.
fn keeps_the_rules(world: &World, before: usize, next: &Next, cancelled: bool) -> Result<(), TestCaseError> {
    let unfinished = |delivery: &&Standing| !delivery.state.is_final();
    let fills = |delivery: &&Standing| match delivery.state {
        DeliveryState::Unknown => !delivery.on_unknown_next,
        state => state == DeliveryState::Accepted || !state.is_final(),
    };
    let made = &world.deliveries[before..];
    let filled = world.deliveries.iter().filter(fills).count();
    let slots = if world.sell_to == 0 { usize::MAX } else { world.sell_to as usize };
    // A double sale that was accepted may later fill a slot that was given away; then nobody new is offered the lead.
    prop_assert!(filled <= slots || made.is_empty(), "sell_to is exceeded");
    if cancelled {
        prop_assert!(made.is_empty(), "a person stopped it");
    }
    for candidate in &world.candidates {
        let sales = world.deliveries.iter().filter(|delivery| delivery.partner == candidate.partner);
        let seen = sales.clone().filter(|d| unfinished(d) || may_have_it(d)).count();
        prop_assert!(seen <= 1, "{} has the lead twice", candidate.partner);
        let asked: BTreeSet<_> = sales.filter(|d| unfinished(d) || d.attempted).map(|d| &d.contract).collect();
        prop_assert!(asked.len() <= 1, "{} was asked through two contracts", candidate.partner);
    }
    for delivery in made {
        let candidate = world.candidates.iter().find(|candidate| candidate.contract == delivery.contract).unwrap();
        prop_assert!(candidate.filtered.is_none());
        if let Some(reason) = delivery.skipped_for {
            let earlier = world.deliveries[..before].iter().filter(|other| other.contract == delivery.contract);
            prop_assert_eq!(earlier.count(), 0, "passed over twice by routing");
            prop_assert!(reason != ShutReason::Unavailable, "passed over for not knowing");
        }
    }
    if world.distribution != Distribution::Broadcast {
        prop_assert!(world.deliveries.iter().filter(|delivery| delivery.in_motion).count() <= 1);
    }
    let moving = world.deliveries.iter().any(|delivery| delivery.in_motion);
    if filled < slots && !cancelled && (world.distribution == Distribution::Broadcast || !moving) {
        nobody_is_forgotten(world)?;
    }
    let accepted = world.deliveries.iter().any(|delivery| delivery.state == DeliveryState::Accepted);
    let pending = world.deliveries.iter().any(|delivery| !delivery.state.is_final());
    let status = next.decided.map(|(status, _)| status);
    let expected = if accepted { Some(LeadStatus::Sold) } else { (!pending).then_some(LeadStatus::Unsold) };
    prop_assert_eq!(status, expected);
    Ok(())
}

/// With a slot free and nothing in motion, there is nobody left to be tried and nobody left to be waited at.
fn nobody_is_forgotten(world: &World) -> Result<(), TestCaseError> {
    for candidate in world.candidates.iter().filter(|candidate| candidate.filtered.is_none()) {
        let of_partner = world.deliveries.iter().filter(|delivery| delivery.partner == candidate.partner);
        let elsewhere = |d: &Standing| d.attempted && d.contract != candidate.contract;
        if of_partner.clone().any(|d| may_have_it(d) || !d.state.is_final() || elsewhere(d)) {
            continue;
        }
        let own: Vec<&Standing> = of_partner.filter(|delivery| delivery.contract == candidate.contract).collect();
        prop_assert!(!own.is_empty(), "{} is untried", candidate.contract);
        if own.iter().any(|delivery| delivery.state != DeliveryState::Skipped) {
            continue;
        }
        let (terms, view) = world.known[&candidate.contract];
        let reasons = own.iter().filter_map(|delivery| delivery.skipped_for);
        let (now_reason, in_time) = match view {
            View::Open => (None, true),
            View::Shut { reason, until, never } => (Some(reason), !never && until.is_none_or(|at| at <= in_hours(24))),
        };
        let waitable = in_time && reasons.chain(now_reason).all(|reason| may_be_waited_at(terms, reason));
        prop_assert!(!waitable, "{} is not waited at", candidate.contract);
    }
    Ok(())
}

/// One thing that the world may do to an unfinished delivery. Says whether a person cancelled it.
fn befalls(delivery: &mut Standing, event: u8, waits: bool, view: (Terms, View)) -> bool {
    let to = |delivery: &mut Standing, state: DeliveryState, attempted: bool| {
        delivery.state = state;
        delivery.in_motion = false;
        delivery.attempted |= attempted;
    };
    if delivery.state == DeliveryState::Unknown {
        // It waits for a person.
        to(delivery, if event.is_multiple_of(2) { DeliveryState::Accepted } else { DeliveryState::Rejected }, true);
        return false;
    }
    match event % 10 {
        0 | 1 => to(delivery, DeliveryState::Accepted, true),
        2 => to(delivery, DeliveryState::Rejected, true),
        3 => to(delivery, DeliveryState::Duplicate, true),
        4 => to(delivery, DeliveryState::Failed, event < 128),
        5 => {
            to(delivery, DeliveryState::Unknown, true);
            delivery.on_unknown_next = event < 128;
        }
        6 => to(delivery, DeliveryState::Expired, false),
        7 => {
            to(delivery, DeliveryState::Cancelled, false);
            return true;
        }
        8 => to(delivery, DeliveryState::Queued, true), // waits for its retry
        _ => match view {
            // Its turn has come and the gate is shut by now.
            (terms, View::Shut { reason, until, never })
                if !waits && terms.at_shut(reason, until, never, now()) == AtShut::PassOver =>
            {
                to(delivery, DeliveryState::Skipped, false);
                delivery.skipped_for = Some(reason);
            }
            _ => to(delivery, DeliveryState::Rejected, true),
        },
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_are_kept_and_every_lead_ends_sold_or_unsold(life in any_life()) {
        let names: Vec<String> = (0..life.contracts.len()).map(|i| format!("p{}/c{i}", life.contracts[i].0)).collect();
        let listed: Vec<(&str, WhenShut, View)> = names.iter().map(|name| (name.as_str(), GoOn, View::Open)).collect();
        let mut world = World::new(life.sell_to, &listed);
        world.distribution = life.distribution;
        for (candidate, (_, _, filtered)) in world.candidates.iter_mut().zip(&life.contracts) {
            candidate.filtered = filtered.then(|| "not wanted".to_owned());
        }
        let mut waiting: BTreeSet<usize> = BTreeSet::new();
        let mut cancelled = false;
        // Each contract can be passed over by routing and by its queue, wait, be retried and unknown: a handful of
        // steps each. A retry may go on for ever only as long as the partner says so.
        for step in 0..=life.contracts.len() * 8 + 40 {
            let (which, event, views) = &life.events[step % life.events.len()];
            for ((i, (_, terms, _)), view) in life.contracts.iter().enumerate().zip(views) {
                let contract: ContractId = format!("c{i}").parse().unwrap();
                world.known.insert(contract, (*terms, *view));
            }
            let next = world.next_after(cancelled);
            let before = world.deliveries.len();
            world.make(&next.moves);
            for (i, made) in (before..).zip(&next.moves) {
                if let Move::Hold(contract) = made {
                    waiting.insert(i);
                    world.deliveries[i].in_motion = world.known[contract].1 == View::Open;
                }
            }
            keeps_the_rules(&world, before, &next, cancelled)?;
            let unfinished: Vec<usize> =
                (0..world.deliveries.len()).filter(|i| !world.deliveries[*i].state.is_final()).collect();
            if unfinished.is_empty() {
                prop_assert!(next.decided.is_some());
                let again = world.next_after(false).moves;
                prop_assert!(cancelled || again.is_empty(), "nothing is left to do, and yet {:?}", again);
                return Ok(());
            }
            let i = unfinished[which.index(unfinished.len())];
            let view = world.known[&world.deliveries[i].contract];
            let retries_enough = step > life.contracts.len() * 4 && event % 10 == 8;
            let event = if retries_enough { 2 } else { *event };
            cancelled = befalls(&mut world.deliveries[i], event, waiting.contains(&i), view);
        }
        prop_assert!(false, "it never ends: {:?}", world.deliveries);
    }
}
