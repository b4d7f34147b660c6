//! Random histories of a store against a model of it: lists and counters in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use lead_gateway::model::delivery::{DeliveryState, Verdict};
use lead_gateway::model::id::{ContractId, DeliveryId, LeadId};
use lead_gateway::model::lead::LeadStatus;
use lead_gateway::model::limit::{OwnerKind, Place, PlaceKey};
use lead_gateway::store::{
    Accept, Accepted, Change, DedupeKey, Granted, IdempotencyKey, LeadStep, NewDelivery, Remembered, Step, Stepped,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::suite::{Case, DAY, Opener, audit, end, place};

const CONTRACTS: [&str; 3] = ["a", "b", "c"];
const WINDOW: SignedDuration = SignedDuration::from_hours(30);

/// What may happen; indexes are taken modulo how many there are.
#[derive(Debug, Clone)]
enum Act {
    Accept { person: u8, key: Option<u8>, contracts: Vec<u8>, test: bool },
    Start { delivery: usize, number: i8 },
    Step { delivery: usize, to: u8, from_matches: bool, then: u8, stale_version: bool },
    Redeliver { delivery: usize },
    PassHours(u8),
    Reopen,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let accept = (
        0..4_u8,
        proptest::option::weighted(0.3, 0..3_u8),
        prop::collection::vec(0..3_u8, 1..3),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(person, key, contracts, test)| Act::Accept { person, key, contracts, test });
    let start = (any::<usize>(), prop_oneof![8 => Just(0_i8), 1 => Just(1), 1 => Just(-1)])
        .prop_map(|(delivery, number)| Act::Start { delivery, number });
    let step = (any::<usize>(), 0..6_u8, prop::bool::weighted(0.9), 0..3_u8, prop::bool::weighted(0.15)).prop_map(
        |(delivery, to, from_matches, then, stale_version)| Act::Step {
            delivery,
            to,
            from_matches,
            then,
            stale_version,
        },
    );
    let act = prop_oneof![
        4 => accept,
        6 => start,
        6 => step,
        1 => any::<usize>().prop_map(|delivery| Act::Redeliver { delivery }),
        1 => (1..20_u8).prop_map(Act::PassHours),
        1 => Just(Act::Reopen),
    ];
    prop::collection::vec(act, 1..80)
}

#[derive(Debug, Clone)]
struct Delivery {
    id: DeliveryId,
    lead: LeadId,
    contract: &'static str,
    received: jiff::Timestamp,
    state: DeliveryState,
    attempts: u32,
    places: Vec<PlaceKey>,
    had_unknown: bool,
}

#[derive(Default)]
struct Model {
    leads: BTreeMap<LeadId, (LeadStatus, u64)>,
    deliveries: Vec<Delivery>,
    counts: BTreeMap<PlaceKey, u64>,
    people: HashMap<u8, jiff::Timestamp>,
    keys: HashMap<u8, (Remembered, jiff::Timestamp)>,
}

pub fn run(make: impl Fn() -> Opener, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner
        .run(&acts(), |acts| {
            runtime.block_on(async {
                let (case, mut model) = (Case::new(make()), Model::default());
                for act in &acts {
                    model.act(&case, act).await;
                }
                model.compare(&case).await;
                case.reopen();
                model.compare(&case).await;
                model.compare_open(&case).await;
            });
            Ok(())
        })
        .unwrap();
}

impl Model {
    async fn act(&mut self, case: &Case, act: &Act) {
        match act {
            Act::Accept { person, key, contracts, test } => self.accept(case, *person, *key, contracts, *test).await,
            Act::Start { delivery, number } => self.start(case, *delivery, *number).await,
            Act::Step { delivery, to, from_matches, then, stale_version } => {
                self.step(case, *delivery, *to, *from_matches, *then, *stale_version).await;
            }
            Act::Redeliver { delivery } => self.redeliver(case, *delivery).await,
            Act::PassHours(hours) => case.pass(SignedDuration::from_hours(i64::from(*hours))),
            Act::Reopen => {
                case.reopen();
                self.compare(case).await;
                self.compare_open(case).await;
            }
        }
    }

    async fn accept(&mut self, case: &Case, person: u8, key: Option<u8>, contracts: &[u8], test: bool) {
        let now = case.now();
        let mut accept = case.lead("a@example.com");
        Arc::make_mut(&mut accept.lead).test = test;
        let contracts: BTreeSet<_> = contracts.iter().map(|n| CONTRACTS[usize::from(*n)]).collect();
        if test {
            accept.deliveries.clear();
        } else {
            accept.deliveries = contracts.iter().map(|contract| case.delivery(contract)).collect();
        }
        let day = now.strftime("d%F").to_string();
        let limited = place(OwnerKind::Source, "acme", &day, Some(6));
        let accept = Accept {
            places: vec![limited.clone()],
            dedupe: vec![DedupeKey { text: format!("solar/{person}"), window: Duration::try_from(WINDOW).unwrap() }],
            idempotency: key.map(|key| IdempotencyKey { key: format!("key {key}"), fingerprint: [key; 32] }),
            ..accept
        };
        let lead = accept.lead.id;
        let deliveries = accept.deliveries.clone();
        let outcome = case.store().accept(accept).await.unwrap();

        let known = key.and_then(|key| self.keys.get(&key)).filter(|(_, at)| now.duration_since(*at) < DAY);
        if let Some((remembered, _)) = known {
            assert_eq!(outcome, Accepted::KeyTaken(*remembered));
            return;
        }
        if !test && self.used(&limited.key) >= 6 {
            assert_eq!(outcome, Accepted::LimitReached(limited.key));
            return;
        }
        if let Some(key) = key {
            self.keys.insert(key, (Remembered { lead, fingerprint: [key; 32] }, now));
        }
        if !test && self.people.get(&person).is_some_and(|at| now.duration_since(*at) < WINDOW) {
            assert_eq!(outcome, Accepted::Duplicate);
            self.leads.insert(lead, (LeadStatus::Rejected, 1));
            return;
        }
        assert_eq!(outcome, Accepted::Stored);
        self.leads.insert(lead, (LeadStatus::Pending, 1));
        if !test {
            self.people.insert(person, now);
            *self.counts.entry(limited.key).or_default() += 1;
        }
        for new in deliveries {
            self.add(&new, lead, now);
        }
    }

    fn add(&mut self, new: &NewDelivery, lead: LeadId, received: jiff::Timestamp) {
        self.deliveries.push(Delivery {
            id: new.id,
            lead,
            contract: CONTRACTS.into_iter().find(|id| *id == new.contract.as_str()).unwrap(),
            received,
            state: new.state,
            attempts: 0,
            places: Vec::new(),
            had_unknown: false,
        });
    }

    fn used(&self, key: &PlaceKey) -> u64 {
        self.counts.get(key).copied().unwrap_or(0)
    }

    fn give_back(&mut self, keys: &[PlaceKey]) {
        for key in keys {
            *self.counts.get_mut(key).unwrap() -= 1;
        }
    }

    /// One of the deliveries; mostly one of those that can still move.
    fn pick(&self, n: usize) -> Option<usize> {
        let open: Vec<usize> = (0..self.deliveries.len()).filter(|n| !self.deliveries[*n].state.is_final()).collect();
        match n % 5 {
            0 => n.checked_div(5)?.checked_rem(self.deliveries.len()),
            _ => open.get((n / 5).checked_rem(open.len())?).copied(),
        }
    }

    async fn start(&mut self, case: &Case, n: usize, off: i8) {
        let Some(n) = self.pick(n) else { return };
        let delivery = self.deliveries[n].clone();
        let number = (delivery.attempts + 1).saturating_add_signed(off.into());
        let day = case.now().strftime("d%F").to_string();
        let places: Vec<Place> = vec![
            place(OwnerKind::Partner, delivery.contract, &day, Some(3)),
            place(OwnerKind::Contract, delivery.contract, &day, Some(2)),
            place(OwnerKind::Contract, delivery.contract, "t", None),
        ];
        let outcome = case.start(delivery.id, number, &places).await;
        if delivery.state != DeliveryState::Queued || off != 0 {
            assert_eq!(outcome, Granted::Stale);
            return;
        }
        let new: Vec<&Place> = places.iter().filter(|place| !delivery.places.contains(&place.key)).collect();
        let full: Vec<_> = new
            .iter()
            .map(|place| (place.key.clone(), self.used(&place.key), place.limit))
            .filter(|(_, used, limit)| limit.is_some_and(|limit| *used >= limit))
            .map(|(key, used, _)| (key, used))
            .collect();
        if !full.is_empty() {
            assert_eq!(outcome, Granted::Full(full));
            return;
        }
        let keys: Vec<PlaceKey> = places.iter().map(|place| place.key.clone()).collect();
        let earlier: Vec<_> = delivery.places.iter().filter(|key| !keys.contains(key)).cloned().collect();
        assert_eq!(outcome, Granted::Go(earlier.clone()));
        for place in new {
            *self.counts.entry(place.key.clone()).or_default() += 1;
        }
        self.give_back(&earlier);
        let delivery = &mut self.deliveries[n];
        (delivery.state, delivery.places) = (DeliveryState::Sending, keys);
        delivery.attempts += 1;
    }

    async fn step(&mut self, case: &Case, n: usize, to: u8, from_matches: bool, then: u8, stale_version: bool) {
        let Some(n) = self.pick(n) else { return };
        let delivery = self.deliveries[n].clone();
        let (to, verdict, give_back, unknown) = match to {
            0 => (DeliveryState::Accepted, Verdict::Accepted, false, false),
            1 => (DeliveryState::Rejected, Verdict::Rejected, true, false),
            2 => (DeliveryState::Queued, Verdict::Retryable, true, false),
            3 => (DeliveryState::Unknown, Verdict::Unknown, false, true),
            4 => (DeliveryState::Queued, Verdict::Unknown, false, true),
            _ => (DeliveryState::Failed, Verdict::Retryable, true, false),
        };
        let from = match (from_matches, delivery.state) {
            (true, state) => state,
            (false, DeliveryState::Sending) => DeliveryState::Queued,
            (false, _) => DeliveryState::Sending,
        };
        let version = self.leads[&delivery.lead].1;
        let next = case.delivery(CONTRACTS[(n + 1) % 3]);
        let then = match then {
            0 => LeadStep::Untouched,
            1 => LeadStep::Sold,
            _ => LeadStep::Advance {
                version: if stale_version { version + 1 } else { version },
                status: LeadStatus::Unsold,
                reason: None,
                deliveries: vec![next.clone()],
            },
        };
        let sending = from == DeliveryState::Sending;
        let step = Step {
            delivery: delivery.id,
            lead: delivery.lead,
            from,
            attempts: delivery.attempts,
            at: case.now(),
            change: Change { verdict: Some(verdict), give_back, unknown, ..Change::to(to) },
            attempt: sending.then(|| std::sync::Arc::new(end(delivery.attempts, verdict))),
            then: then.clone(),
            audit: None,
        };
        let outcome = case.step(step).await;
        if from != delivery.state {
            assert_eq!(outcome, Stepped::Stale(delivery.state, delivery.attempts));
            return;
        }
        if matches!(then, LeadStep::Advance { .. }) && stale_version {
            assert_eq!(outcome, Stepped::LeadMoved);
            return;
        }
        let given = if give_back { delivery.places.clone() } else { Vec::new() };
        assert_eq!(outcome, Stepped::Done(given.clone()));
        self.give_back(&given);
        let moved = &mut self.deliveries[n];
        moved.state = to;
        moved.had_unknown |= unknown;
        if give_back {
            moved.places.clear();
        }
        let lead = self.leads.get_mut(&delivery.lead).unwrap();
        lead.1 += 1;
        match then {
            LeadStep::Untouched => {}
            LeadStep::Sold => lead.0 = LeadStatus::Sold,
            LeadStep::Advance { status, .. } => {
                lead.0 = status;
                self.add(&next, delivery.lead, delivery.received);
            }
        }
    }

    async fn redeliver(&mut self, case: &Case, n: usize) {
        let Some(n) = self.pick(n) else { return };
        let old = self.deliveries[n].clone();
        let new = NewDelivery { redelivery_of: Some(old.id), ..case.delivery(old.contract) };
        let done = case.store().redeliver(old.lead, new.clone(), case.now(), audit("redeliver", None)).await.unwrap();
        assert_eq!(done, old.state.is_final());
        if done {
            self.leads.get_mut(&old.lead).unwrap().1 += 1;
            self.add(&new, old.lead, old.received);
        }
    }

    /// Everything that can be read agrees.
    async fn compare(&self, case: &Case) {
        let store = case.store();
        let counts: BTreeMap<_, _> = store.all_places().await.unwrap().into_iter().collect();
        let taken: BTreeMap<_, _> = self.counts.clone().into_iter().filter(|(_, used)| *used > 0).collect();
        assert_eq!(counts, taken);
        let recounted: BTreeMap<_, _> = store.recount_places().await.unwrap().into_iter().collect();
        let of_deliveries =
            |key: &PlaceKey| key.as_str().starts_with("partner/") || key.as_str().starts_with("contract/");
        assert_eq!(recounted, counts.into_iter().filter(|(key, _)| of_deliveries(key)).collect());

        for (id, (status, version)) in &self.leads {
            let standings = store.standings(*id).await.unwrap().unwrap();
            assert_eq!((standings.record.status, standings.record.version), (*status, *version));
            let mut expected: Vec<_> = self.deliveries.iter().filter(|one| one.lead == *id).collect();
            expected.sort_by_key(|one| one.id);
            assert_eq!(standings.deliveries.len(), expected.len());
            for (record, one) in standings.deliveries.iter().zip(expected) {
                let stored = &record.delivery;
                assert_eq!((stored.id, stored.state, stored.attempt_count), (one.id, one.state, one.attempts));
                assert_eq!((&record.places, stored.had_unknown), (&one.places, one.had_unknown));
            }
        }
        let of = |state: DeliveryState| self.deliveries.iter().filter(move |one| one.state == state);
        let queues: BTreeSet<_> = of(DeliveryState::Queued).map(|one| one.contract).collect();
        let stored = store.contracts_with_queue().await.unwrap();
        assert_eq!(
            stored.iter().map(ContractId::as_str).collect::<Vec<_>>(),
            queues.iter().copied().collect::<Vec<_>>()
        );
        for contract in queues {
            let mut expected: Vec<_> = of(DeliveryState::Queued)
                .filter(|one| one.contract == contract)
                .map(|one| (one.received, one.id))
                .collect();
            expected.sort_unstable();
            let page = store.ready_page(contract.parse().unwrap(), None, case.now(), 500).await.unwrap();
            assert_eq!(page.iter().map(|one| (one.received_at, one.id)).collect::<Vec<_>>(), expected);
        }
        assert_eq!(store.unknown_count().await.unwrap(), of(DeliveryState::Unknown).count() as u64);
    }

    /// What was under way before a restart is found.
    async fn compare_open(&self, case: &Case) {
        let sending = self.deliveries.iter().filter(|one| one.state == DeliveryState::Sending);
        let mut open: Vec<_> = sending.map(|one| one.id).collect();
        open.sort_unstable();
        let stored = case.store().open_attempts(None, 500, jiff::Timestamp::MAX).await.unwrap();
        assert_eq!(stored.iter().map(|record| record.delivery.id).collect::<Vec<_>>(), open);
    }
}
