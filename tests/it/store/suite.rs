//! What every store must do, whatever it is made of. Each sentence gets a store of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use lead_gateway::clock::Clock;
use lead_gateway::model::delivery::{Class, DeliveryState, Explanation, Verdict};
use lead_gateway::model::exchange::Timings;
use lead_gateway::model::id::{ContractId, DeliveryId, LeadId, RequestId};
use lead_gateway::model::lead::{Candidate, FieldValue, Lead, LeadReason, LeadStatus, Meta};
use lead_gateway::model::limit::{OwnerKind, Place, PlaceKey};
use lead_gateway::model::money::Amount;
use lead_gateway::store::{
    Accept, Accepted, AttemptEnd, Audit, Change, DedupeKey, DeliveryRecord, DeliverySearch, ExchangeRecord, Granted,
    IdempotencyKey, Kind, LeadSearch, LeadStep, Message, NewDelivery, PausedKind, Queued, RefusalRecord, RefusalSearch,
    Remembered, ResourceChange, Step, Stepped, Store, StoreError, TokenRecord,
};

/// Opens one and the same store again and again; the one before must be gone.
pub type Opener = Box<dyn Fn() -> Store + Send + Sync>;

pub const HOUR: SignedDuration = SignedDuration::from_hours(1);
pub const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A store with a clock for its ids and times.
pub struct Case {
    open: Opener,
    store: std::sync::Mutex<Option<Store>>,
    pub clock: Clock,
}

impl Case {
    pub fn new(open: Opener) -> Self {
        let store = open();
        let clock = Clock::manual("2026-11-21T09:30:00Z".parse().unwrap());
        Self { open, store: std::sync::Mutex::new(Some(store)), clock }
    }

    pub fn store(&self) -> Store {
        self.store.lock().unwrap().clone().unwrap()
    }

    /// As after a restart. Nobody may hold the store.
    pub fn reopen(&self) {
        let mut store = self.store.lock().unwrap();
        drop(store.take());
        *store = Some((self.open)());
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn pass(&self, time: SignedDuration) {
        self.clock.set(self.now() + time);
    }

    /// A lead of the source `acme` in the campaign `solar`, waiting at the contract `bright`.
    pub fn lead(&self, email: &str) -> Accept {
        let lead = Lead {
            id: LeadId(self.clock.uuid()),
            campaign: "solar".parse().unwrap(),
            source: "acme".parse().unwrap(),
            received_at: self.now(),
            test: false,
            fields: [("email".to_owned(), FieldValue::Text(email.to_owned()))].into(),
            meta: Meta { external_id: Some("A-17".to_owned()), ..Meta::default() },
        };
        Accept {
            lead: Arc::new(lead),
            status: LeadStatus::Pending,
            reason: None,
            payout: Some(Amount(1250)),
            candidates: vec![Candidate {
                contract: "bright".parse().unwrap(),
                partner: "bright".parse().unwrap(),
                filtered: None,
            }],
            deliveries: vec![self.delivery("bright")],
            places: Vec::new(),
            dedupe: Vec::new(),
            idempotency: None,
            lookups: vec![("email", email.to_owned())],
            turn: None,
            content_type: "application/json".to_owned(),
            body: Bytes::from_static(b"{\"as\": \"posted\"}\xff\x00"),
            request: RequestId(self.clock.uuid()),
        }
    }

    pub fn delivery(&self, contract: &str) -> NewDelivery {
        NewDelivery {
            id: DeliveryId(self.clock.uuid()),
            partner: contract.parse().unwrap(),
            contract: contract.parse().unwrap(),
            state: DeliveryState::Queued,
            waits: false,
            reason: None,
            price: Some(Amount(3100)),
            redelivery_of: None,
            bypass_limits: false,
        }
    }

    pub async fn accept_one(&self, email: &str) -> LeadId {
        let accept = self.lead(email);
        let id = accept.lead.id;
        assert_eq!(self.store().accept(accept).await.unwrap(), Accepted::Stored);
        id
    }

    /// The only delivery of a lead that is stored now.
    pub async fn queued(&self, email: &str) -> (LeadId, DeliveryId) {
        let accept = self.lead(email);
        let ids = (accept.lead.id, accept.deliveries[0].id);
        assert_eq!(self.store().accept(accept).await.unwrap(), Accepted::Stored);
        ids
    }

    pub async fn record(&self, id: DeliveryId) -> DeliveryRecord {
        self.store().delivery(id).await.unwrap().unwrap()
    }

    pub async fn start(&self, delivery: DeliveryId, number: u32, places: &[Place]) -> Granted {
        self.store().start_attempt(attempt(delivery, number, self.now(), places)).await.unwrap()
    }

    pub async fn step(&self, step: Step) -> Stepped {
        self.store().step(step).await.unwrap()
    }

    /// A step of a delivery whose first attempt is open.
    pub fn ended(&self, (lead, delivery): (LeadId, DeliveryId), change: Change, then: LeadStep) -> Step {
        Step {
            delivery,
            lead,
            from: DeliveryState::Sending,
            attempts: 1,
            at: self.now(),
            attempt: Some(Arc::new(end(1, change.verdict.unwrap_or(Verdict::Rejected)))),
            change,
            then,
            audit: None,
        }
    }

    async fn counts(&self) -> HashMap<PlaceKey, u64> {
        self.store().all_places().await.unwrap().into_iter().collect()
    }

    async fn found(&self, kind: &'static str, value: &str) -> Vec<LeadId> {
        let search = LeadSearch { lookups: vec![(kind, vec![value.to_owned()])], limit: 500, ..LeadSearch::default() };
        self.store().find_leads(search).await.unwrap().items.into_iter().map(|record| record.lead.id).collect()
    }
}

pub fn attempt(
    delivery: DeliveryId,
    number: u32,
    now: Timestamp,
    places: &[Place],
) -> lead_gateway::store::StartAttempt {
    lead_gateway::store::StartAttempt {
        delivery,
        number,
        started_at: now,
        deadline: now + SignedDuration::from_secs(15),
        places: places.to_vec(),
        held_ms: 0,
    }
}

pub fn end(number: u32, verdict: Verdict) -> AttemptEnd {
    AttemptEnd {
        number,
        verdict,
        class: Class::Response,
        status_code: Some(200),
        latency_ms: Some(41),
        explanation: Explanation { rule: "rejected".to_owned(), selector: Some("json $.code".to_owned()), found: None },
        timings: Some(Timings { connect: Some(1), total: 41, ..Timings::default() }),
        exchange: None,
        token_exchange: None,
    }
}

pub fn place(kind: OwnerKind, owner: &str, period: &str, limit: Option<u64>) -> Place {
    Place { key: PlaceKey::new(kind, owner, period), limit }
}

fn contract_day(limit: u64) -> Place {
    place(OwnerKind::Contract, "bright", "d2026-11-21", Some(limit))
}

fn sold() -> Change {
    Change { verdict: Some(Verdict::Accepted), ..Change::to(DeliveryState::Accepted) }
}

fn refused() -> Change {
    Change { verdict: Some(Verdict::Rejected), give_back: true, ..Change::to(DeliveryState::Rejected) }
}

pub fn audit(action: &'static str, reason: Option<&str>) -> Audit {
    Audit { who: "sam".to_owned(), action, subject: "delivery/1".to_owned(), reason: reason.map(str::to_owned) }
}

pub async fn a_lead_is_stored_with_all_that_belongs_to_it_or_not_at_all(case: Case) {
    let source = place(OwnerKind::Source, "acme", "d2026-11-21", Some(10));
    let full = |case: &Case, email: &str| Accept {
        deliveries: vec![
            case.delivery("bright"),
            NewDelivery { state: DeliveryState::Skipped, reason: Some("closed".to_owned()), ..case.delivery("other") },
        ],
        places: vec![source.clone()],
        dedupe: vec![DedupeKey { text: format!("solar/{email}"), window: Duration::from_mins(1) }],
        idempotency: Some(IdempotencyKey { key: format!("key-{email}"), fingerprint: [7; 32] }),
        lookups: vec![("email", email.to_owned()), ("external_id", "A-17".to_owned())],
        turn: Some(("bright".parse().unwrap(), 3)),
        ..case.lead(email)
    };
    let accept = full(&case, "a@example.com");
    assert_eq!(case.store().accept(accept.clone()).await.unwrap(), Accepted::Stored);
    case.reopen();

    let standings = case.store().standings(accept.lead.id).await.unwrap().unwrap();
    let record = &standings.record;
    assert_eq!(record.lead, *accept.lead);
    assert_eq!((record.status, record.reason, record.payout), (LeadStatus::Pending, None, Some(Amount(1250))));
    assert_eq!(record.candidates, accept.candidates);
    let of = |n: usize| &standings.deliveries[n].delivery;
    assert_eq!(standings.deliveries.len(), 2);
    assert_eq!(
        (of(0).id, of(0).state, of(0).price),
        (accept.deliveries[0].id, DeliveryState::Queued, Some(Amount(3100)))
    );
    assert_eq!((of(1).state, of(1).reason.as_deref()), (DeliveryState::Skipped, Some("closed")));
    assert_eq!((of(0).received_at, of(0).created_at), (accept.lead.received_at, accept.lead.received_at));
    let original = case.store().original_body(accept.lead.id).await.unwrap().unwrap();
    assert_eq!(original, ("application/json".to_owned(), accept.body.to_vec()));
    assert_eq!(case.counts().await, HashMap::from([(source.key.clone(), 1)]));
    assert_eq!(case.found("email", "a@example.com").await, [accept.lead.id]);
    assert_eq!(case.found("external_id", "A-17").await, [accept.lead.id]);
    let remembered = case.store().remembered("acme", "key-a@example.com", case.now()).await.unwrap();
    assert_eq!(remembered, Some(Remembered { lead: accept.lead.id, fingerprint: [7; 32] }));
    assert_eq!(case.store().turns().await.unwrap(), [("bright".parse().unwrap(), 3)]);

    // Its second delivery cannot be stored: then nothing of it is.
    let mut broken = full(&case, "b@example.com");
    broken.deliveries[1].id = accept.deliveries[0].id;
    broken.turn = Some(("bright".parse().unwrap(), 9));
    let failed = case.store().accept(broken.clone()).await;
    assert!(matches!(failed, Err(StoreError::Failed(_))), "{failed:?}");
    for round in ["at once", "after a restart"] {
        assert!(!case.store().lead_exists(broken.lead.id).await.unwrap(), "{round}");
        assert!(case.store().delivery(broken.deliveries[0].id).await.unwrap().is_none(), "{round}");
        assert_eq!(case.found("email", "b@example.com").await, [], "{round}");
        assert_eq!(case.store().remembered("acme", "key-b@example.com", case.now()).await.unwrap(), None, "{round}");
        assert_eq!(case.counts().await, HashMap::from([(source.key.clone(), 1)]), "{round}");
        assert_eq!(case.store().turns().await.unwrap(), [("bright".parse().unwrap(), 3)], "{round}");
        case.reopen();
    }
    // Nor is its person remembered.
    let again = full(&case, "b@example.com");
    assert_eq!(case.store().accept(again).await.unwrap(), Accepted::Stored);
}

pub async fn an_idempotency_key_is_remembered_for_24_hours(case: Case) {
    let keyed = |case: &Case, source: &str, fingerprint: u8| {
        let mut accept = case.lead("a@example.com");
        Arc::make_mut(&mut accept.lead).source = source.parse().unwrap();
        accept.idempotency = Some(IdempotencyKey { key: "order-1".to_owned(), fingerprint: [fingerprint; 32] });
        accept
    };
    let first = keyed(&case, "acme", 1);
    let remembered = Remembered { lead: first.lead.id, fingerprint: [1; 32] };
    assert_eq!(case.store().accept(first).await.unwrap(), Accepted::Stored);
    // Another source's key is another key.
    assert_eq!(case.store().accept(keyed(&case, "other", 2)).await.unwrap(), Accepted::Stored);
    case.pass(DAY - SignedDuration::from_micros(1));
    case.reopen();
    case.store().tidy(case.now(), Duration::from_hours(24), Duration::from_hours(24)).await.unwrap();
    assert_eq!(case.store().remembered("acme", "order-1", case.now()).await.unwrap(), Some(remembered));
    assert_eq!(case.store().accept(keyed(&case, "acme", 3)).await.unwrap(), Accepted::KeyTaken(remembered));
    case.pass(SignedDuration::from_micros(1));
    assert_eq!(case.store().remembered("acme", "order-1", case.now()).await.unwrap(), None);
    let second = keyed(&case, "acme", 4);
    let id = second.lead.id;
    assert_eq!(case.store().accept(second).await.unwrap(), Accepted::Stored);
    let taken = case.store().accept(keyed(&case, "acme", 5)).await.unwrap();
    assert_eq!(taken, Accepted::KeyTaken(Remembered { lead: id, fingerprint: [4; 32] }));
}

pub async fn of_many_posts_with_one_idempotency_key_one_is_stored(case: Case) {
    let posts: Vec<_> = (0..32)
        .map(|n| {
            let mut accept = case.lead(&format!("a{n}@example.com"));
            accept.idempotency = Some(IdempotencyKey { key: "order-1".to_owned(), fingerprint: [n; 32] });
            let store = case.store();
            tokio::spawn(async move { (accept.lead.id, store.accept(accept).await.unwrap()) })
        })
        .collect();
    let (mut stored, mut told) = (Vec::new(), BTreeSet::new());
    for post in posts {
        match post.await.unwrap() {
            (id, Accepted::Stored) => stored.push(id),
            (_, Accepted::KeyTaken(other)) => drop(told.insert(other.lead)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stored.len(), 1);
    assert_eq!(told.into_iter().collect::<Vec<_>>(), stored);
}

pub async fn a_person_is_a_duplicate_within_the_window_and_no_longer(case: Case) {
    let source = place(OwnerKind::Source, "acme", "t", None);
    let window = Duration::from_hours(30 * 24);
    let person = |case: &Case| Accept {
        dedupe: vec![
            DedupeKey { text: format!("solar/phone/{}", case.clock.uuid()), window },
            DedupeKey { text: "solar/email/a@example.com".to_owned(), window },
        ],
        places: vec![source.clone()],
        ..case.lead("a@example.com")
    };
    assert_eq!(case.store().accept(person(&case)).await.unwrap(), Accepted::Stored);
    case.pass(DAY * 15);
    case.reopen();
    let duplicate = person(&case);
    assert_eq!(case.store().accept(duplicate.clone()).await.unwrap(), Accepted::Duplicate);
    let record = case.store().lead(duplicate.lead.id).await.unwrap().unwrap();
    assert_eq!((record.status, record.reason), (LeadStatus::Rejected, Some(LeadReason::Duplicate)));
    assert!(case.store().delivery(duplicate.deliveries[0].id).await.unwrap().is_none());
    assert_eq!(case.counts().await[&source.key], 1, "duplicates are not counted");
    assert_eq!(case.found("email", "a@example.com").await.len(), 2, "duplicates are found all the same");

    // The rejected one does not stretch the window, and tidying does not shorten it.
    case.pass(DAY * 15 - SignedDuration::from_micros(1));
    case.store().tidy(case.now(), window, window * 2).await.unwrap();
    assert_eq!(case.store().accept(person(&case)).await.unwrap(), Accepted::Duplicate);
    case.pass(SignedDuration::from_micros(1));
    assert_eq!(case.store().accept(person(&case)).await.unwrap(), Accepted::Stored);
    assert_eq!(case.store().accept(person(&case)).await.unwrap(), Accepted::Duplicate);
}

pub async fn of_many_posts_of_one_person_one_is_no_duplicate(case: Case) {
    let posts: Vec<_> = (0..32)
        .map(|_| {
            let mut accept = case.lead("a@example.com");
            accept.dedupe = vec![DedupeKey { text: "solar/a".to_owned(), window: Duration::from_mins(1) }];
            let store = case.store();
            tokio::spawn(async move { store.accept(accept).await.unwrap() })
        })
        .collect();
    let mut stored = 0;
    for post in posts {
        match post.await.unwrap() {
            Accepted::Stored => stored += 1,
            other => assert_eq!(other, Accepted::Duplicate),
        }
    }
    assert_eq!(stored, 1);
}

pub async fn test_leads_are_neither_counted_nor_remembered(case: Case) {
    let source = place(OwnerKind::Source, "acme", "t", Some(1));
    let dedupe = vec![DedupeKey { text: "solar/a".to_owned(), window: Duration::from_mins(1) }];
    let post = |case: &Case, test: bool| {
        let mut accept = case.lead("a@example.com");
        accept.places = vec![source.clone()];
        accept.dedupe.clone_from(&dedupe);
        if test {
            Arc::make_mut(&mut accept.lead).test = true;
            accept.deliveries.clear();
        }
        accept
    };
    assert_eq!(case.store().accept(post(&case, true)).await.unwrap(), Accepted::Stored);
    assert_eq!(case.counts().await, HashMap::new());
    assert_eq!(case.store().accept(post(&case, false)).await.unwrap(), Accepted::Stored);
    // Neither the limit that is now reached nor the person that is now known is seen by a test.
    assert_eq!(case.store().accept(post(&case, true)).await.unwrap(), Accepted::Stored);
    assert_eq!(case.store().accept(post(&case, false)).await.unwrap(), Accepted::LimitReached(source.key.clone()));
    assert_eq!(case.counts().await[&source.key], 1);
}

pub async fn accepts_at_once_fill_a_limit_exactly(case: Case) {
    let daily = place(OwnerKind::Source, "acme", "d2026-11-21", Some(20));
    let total = place(OwnerKind::Campaign, "solar", "t", Some(1_000));
    for round in 0..2 {
        let posts: Vec<_> = (0..40)
            .map(|n| {
                let accept = Accept {
                    places: vec![total.clone(), daily.clone()],
                    ..case.lead(&format!("a{round}.{n}@example.com"))
                };
                let store = case.store();
                tokio::spawn(async move { (accept.lead.id, store.accept(accept).await.unwrap()) })
            })
            .collect();
        let mut stored = 0;
        for post in posts {
            match post.await.unwrap() {
                (_, Accepted::Stored) => stored += 1,
                (id, reached) => {
                    assert_eq!(reached, Accepted::LimitReached(daily.key.clone()));
                    assert!(!case.store().lead_exists(id).await.unwrap());
                }
            }
        }
        assert_eq!(stored, if round == 0 { 20 } else { 0 });
        let counts = case.counts().await;
        assert_eq!((counts[&daily.key], counts[&total.key]), (20, 20));
        case.reopen();
    }
}

pub async fn attempts_at_once_fill_a_limit_exactly(case: Case) {
    const LIMIT: u64 = 13;
    let places = [contract_day(LIMIT), place(OwnerKind::Partner, "bright", "t", None)];
    let mut deliveries = Vec::new();
    for n in 0..64 {
        deliveries.push(case.queued(&format!("a{n}@example.com")).await.1);
    }
    let tasks: Vec<_> = deliveries
        .into_iter()
        .map(|delivery| {
            let (store, start) = (case.store(), attempt(delivery, 1, case.now(), &places));
            tokio::spawn(async move { (delivery, store.start_attempt(start).await.unwrap()) })
        })
        .collect();
    let mut granted = 0;
    for task in tasks {
        let (delivery, answer) = task.await.unwrap();
        let record = case.record(delivery).await;
        match answer {
            Granted::Go(earlier) => {
                granted += 1;
                assert_eq!(earlier, []);
                assert_eq!((record.delivery.state, record.delivery.attempt_count), (DeliveryState::Sending, 1));
                assert_eq!(record.places.len(), 2);
            }
            Granted::Full(full) => {
                assert_eq!(full, [(places[0].key.clone(), LIMIT)]);
                assert_eq!((record.delivery.state, record.delivery.attempt_count), (DeliveryState::Queued, 0));
                assert_eq!(record.places, []);
                assert!(case.store().attempts(delivery).await.unwrap().is_empty());
            }
            other => panic!("{delivery} was queued: {other:?}"),
        }
    }
    assert_eq!(granted, LIMIT);
    let expected = HashMap::from([(places[0].key.clone(), LIMIT), (places[1].key.clone(), LIMIT)]);
    assert_eq!(case.counts().await, expected);
    assert_eq!(case.store().recount_places().await.unwrap(), expected);
}

pub async fn an_attempt_with_the_wrong_number_or_state_is_stale(case: Case) {
    let ids = case.queued("a@example.com").await;
    for number in [0, 2, 3] {
        assert_eq!(case.start(ids.1, number, &[contract_day(5)]).await, Granted::Stale, "{number}");
    }
    assert_eq!(case.start(DeliveryId(case.clock.uuid()), 1, &[]).await, Granted::Stale);
    assert_eq!(case.start(ids.1, 1, &[contract_day(5)]).await, Granted::Go(Vec::new()));
    for number in [1, 2] {
        assert_eq!(case.start(ids.1, number, &[contract_day(5)]).await, Granted::Stale, "sending, {number}");
    }
    let step = case.ended(ids, refused(), LeadStep::Untouched);
    assert_eq!(case.step(step).await, Stepped::Done(vec![contract_day(5).key]));
    assert_eq!(case.start(ids.1, 2, &[contract_day(5)]).await, Granted::Stale, "finished");
    assert_eq!(case.counts().await, HashMap::new());
    assert_eq!(case.store().attempts(ids.1).await.unwrap().len(), 1);
}

pub async fn a_paused_partner_or_contract_starts_no_attempt(case: Case) {
    let ids = case.queued("a@example.com").await;
    let pause = async |kind: PausedKind, id: &str, paused: bool| {
        case.store().set_paused(kind, id.to_owned(), paused, case.now(), audit("pause", None)).await.unwrap();
    };
    for kind in [PausedKind::Partner, PausedKind::Contract] {
        pause(kind, "bright", true).await;
        case.reopen();
        assert_eq!(case.start(ids.1, 1, &[contract_day(5)]).await, Granted::Paused);
        assert_eq!(case.start(ids.1, 2, &[contract_day(5)]).await, Granted::Stale, "whatever is paused");
        pause(kind, "bright", false).await;
    }
    // Neither another's pause nor that of a source with its name is its own.
    pause(PausedKind::Partner, "other", true).await;
    pause(PausedKind::Source, "bright", true).await;
    assert_eq!(case.counts().await, HashMap::new());
    assert_eq!(case.start(ids.1, 1, &[contract_day(5)]).await, Granted::Go(Vec::new()));
}

pub async fn the_places_of_an_unknown_attempt_move_with_the_next(case: Case) {
    let day = |day: &str, limit| place(OwnerKind::Contract, "bright", day, Some(limit));
    let month = place(OwnerKind::Partner, "bright", "m2026-11", Some(1));
    let ids = case.queued("a@example.com").await;
    assert_eq!(case.start(ids.1, 1, &[day("d2026-11-21", 1), month.clone()]).await, Granted::Go(Vec::new()));
    let unknown = Change { unknown: true, verdict: Some(Verdict::Unknown), ..Change::to(DeliveryState::Queued) };
    assert_eq!(case.step(case.ended(ids, unknown, LeadStep::Untouched)).await, Stepped::Done(Vec::new()));
    case.pass(DAY);
    case.reopen();

    // The new day is full: nothing moves.
    let other = case.queued("b@example.com").await;
    assert_eq!(case.start(other.1, 1, &[day("d2026-11-22", 1)]).await, Granted::Go(Vec::new()));
    let places = [day("d2026-11-22", 1), month.clone()];
    assert_eq!(case.start(ids.1, 2, &places).await, Granted::Full(vec![(places[0].key.clone(), 1)]));
    assert_eq!(case.counts().await[&day("d2026-11-21", 1).key], 1);

    // With room, the day's place moves; the month's, though it is full, is its own already.
    let places = [day("d2026-11-22", 2), month.clone()];
    assert_eq!(case.start(ids.1, 2, &places).await, Granted::Go(vec![day("d2026-11-21", 1).key]));
    let expected = HashMap::from([(places[0].key.clone(), 2), (month.key.clone(), 1)]);
    assert_eq!(case.counts().await, expected);
    assert_eq!(case.store().recount_places().await.unwrap(), expected);
    assert!(case.record(ids.1).await.delivery.had_unknown);
}

pub async fn a_full_period_takes_nothing_and_says_how_much_is_taken(case: Case) {
    let first = case.queued("a@example.com").await.1;
    let places = [
        place(OwnerKind::Contract, "bright", "d1", Some(2)),
        place(OwnerKind::Contract, "bright", "m1", Some(1)),
        place(OwnerKind::Partner, "bright", "t", Some(1)),
        place(OwnerKind::Partner, "bright", "m1", None),
    ];
    assert_eq!(case.start(first, 1, &places).await, Granted::Go(Vec::new()));
    let before = case.counts().await;
    let second = case.queued("b@example.com").await.1;
    let full = Granted::Full(vec![(places[1].key.clone(), 1), (places[2].key.clone(), 1)]);
    assert_eq!(case.start(second, 1, &places).await, full);
    assert_eq!(case.counts().await, before);
    // A limit that was lowered below what is taken is full too.
    let lowered = place(OwnerKind::Contract, "bright", "d1", Some(1));
    assert_eq!(case.start(second, 1, std::slice::from_ref(&lowered)).await, Granted::Full(vec![(lowered.key, 1)]));
    let asked = case.store().places(places.iter().map(|place| place.key.clone()).collect()).await.unwrap();
    assert_eq!(asked.into_iter().collect::<HashMap<_, _>>(), before);
}

pub async fn a_step_from_another_state_is_stale_and_changes_nothing(case: Case) {
    let ids = case.queued("a@example.com").await;
    let open = case.ended(ids, sold(), LeadStep::Sold);
    assert_eq!(case.step(open.clone()).await, Stepped::Stale(DeliveryState::Queued, 0));
    assert_eq!(case.start(ids.1, 1, &[contract_day(5)]).await, Granted::Go(Vec::new()));
    let second = Step { attempts: 2, ..open.clone() };
    assert_eq!(case.step(second).await, Stepped::Stale(DeliveryState::Sending, 1));
    let before = case.store().lead(ids.0).await.unwrap().unwrap();
    assert_eq!((before.status, before.version), (LeadStatus::Pending, 1));
    assert_eq!(case.step(open.clone()).await, Stepped::Done(Vec::new()));
    assert_eq!(case.step(open.clone()).await, Stepped::Stale(DeliveryState::Accepted, 1));
    let gone = Step { delivery: DeliveryId(case.clock.uuid()), ..open };
    assert!(matches!(case.step(gone).await, Stepped::Stale(..)));
    let after = case.store().lead(ids.0).await.unwrap().unwrap();
    assert_eq!((after.status, after.version), (LeadStatus::Sold, 2));
    assert_eq!(case.counts().await[&contract_day(5).key], 1, "what is sold keeps its place");
}

pub async fn of_two_steps_that_hand_one_lead_on_one_wins(case: Case) {
    for round in 0..10 {
        let mut accept = case.lead(&format!("a{round}@example.com"));
        accept.deliveries.push(case.delivery("other"));
        let lead = accept.lead.id;
        let deliveries = [accept.deliveries[0].id, accept.deliveries[1].id];
        case.store().accept(accept).await.unwrap();
        for delivery in deliveries {
            case.start(delivery, 1, &[]).await;
        }
        let version = case.store().lead(lead).await.unwrap().unwrap().version;
        let tasks = deliveries.map(|delivery| {
            let next = case.delivery("third");
            let then = LeadStep::Advance {
                version,
                status: LeadStatus::Pending,
                reason: None,
                deliveries: vec![next.clone()],
            };
            let (store, step) = (case.store(), case.ended((lead, delivery), refused(), then));
            tokio::spawn(async move { (delivery, next.id, store.step(step).await.unwrap()) })
        });
        let mut won = 0;
        for task in tasks {
            let (delivery, next, stepped) = task.await.unwrap();
            let state = case.record(delivery).await.delivery.state;
            let made = case.store().delivery(next).await.unwrap().is_some();
            if stepped == Stepped::Done(Vec::new()) {
                won += 1;
                assert_eq!((state, made), (DeliveryState::Rejected, true));
            } else {
                assert_eq!(stepped, Stepped::LeadMoved);
                assert_eq!((state, made), (DeliveryState::Sending, false));
                assert_eq!(case.store().attempts(delivery).await.unwrap()[0].attempt.ended_at, None);
            }
        }
        assert_eq!(won, 1);
    }
}

pub async fn a_definite_no_gives_the_places_back_and_unknown_keeps_them(case: Case) {
    let partner = place(OwnerKind::Partner, "bright", "t", None);
    let places = [contract_day(5), partner.clone()];
    let (no, unknown) = (case.queued("a@example.com").await, case.queued("b@example.com").await);
    for ids in [no, unknown] {
        assert_eq!(case.start(ids.1, 1, &places).await, Granted::Go(Vec::new()));
    }
    let change = Change { unknown: true, verdict: Some(Verdict::Unknown), ..Change::to(DeliveryState::Unknown) };
    assert_eq!(case.step(case.ended(unknown, change, LeadStep::Untouched)).await, Stepped::Done(Vec::new()));
    let then = LeadStep::Advance {
        version: 1,
        status: LeadStatus::Unsold,
        reason: Some(LeadReason::NoBuyer),
        deliveries: Vec::new(),
    };
    let given = Stepped::Done(places.iter().map(|place| place.key.clone()).collect());
    assert_eq!(case.step(case.ended(no, refused(), then)).await, given);
    case.reopen();

    assert_eq!(case.counts().await, HashMap::from([(places[0].key.clone(), 1), (partner.key.clone(), 1)]));
    assert_eq!(case.store().recount_places().await.unwrap(), case.counts().await);
    assert_eq!(case.store().unknown_count().await.unwrap(), 1);
    let lead = case.store().lead(no.0).await.unwrap().unwrap();
    assert_eq!((lead.status, lead.reason), (LeadStatus::Unsold, Some(LeadReason::NoBuyer)));
    let record = case.record(unknown.1).await;
    assert_eq!((record.delivery.state, record.delivery.had_unknown), (DeliveryState::Unknown, true));
    assert_eq!(record.places.len(), 2);

    // A person says no: the place comes back once.
    let resolved = Step {
        from: DeliveryState::Unknown,
        attempt: None,
        audit: Some(audit("resolve", Some("called them"))),
        ..case.ended(unknown, refused(), LeadStep::Untouched)
    };
    assert_eq!(case.step(resolved.clone()).await, given);
    assert_eq!(case.step(resolved).await, Stepped::Stale(DeliveryState::Rejected, 1));
    assert_eq!(case.counts().await, HashMap::new());
}

pub async fn a_redelivery_waits_until_the_old_one_is_final(case: Case) {
    let ids = case.queued("a@example.com").await;
    let again =
        || NewDelivery { redelivery_of: Some(ids.1), waits: true, bypass_limits: true, ..case.delivery("bright") };
    let redeliver = async |new: NewDelivery| {
        case.store().redeliver(ids.0, new, case.now(), audit("redeliver", None)).await.unwrap()
    };
    assert!(!redeliver(again()).await);
    case.start(ids.1, 1, &[]).await;
    assert!(!redeliver(again()).await);
    case.step(case.ended(ids, sold(), LeadStep::Sold)).await;
    let new = again();
    assert!(redeliver(new.clone()).await);
    let stored = case.record(new.id).await.delivery;
    assert_eq!((stored.redelivery_of, stored.bypass_limits, stored.waits), (Some(ids.1), true, true));
    assert_eq!(case.store().deliveries_of(vec![ids.0]).await.unwrap()[&ids.0].len(), 2);
    let version = case.store().lead(ids.0).await.unwrap().unwrap().version;
    assert_eq!(version, 3, "who saw the lead before must look again");
}

pub async fn exchanges_come_back_byte_for_byte(case: Case) {
    let every_byte: Vec<u8> = (0..=255).collect();
    let exchanges = [
        ExchangeRecord {
            request: Message { head: "{\"url\":\"é\"}".to_owned(), body: every_byte.clone(), truncated: false },
            response: Some(Message { head: String::new(), body: every_byte.repeat(300), truncated: true }),
        },
        ExchangeRecord {
            request: Message { head: "{}".to_owned(), body: Vec::new(), truncated: true },
            response: None,
        },
        ExchangeRecord {
            request: Message { head: "\u{1}\"'\u{1F600}".to_owned(), body: b"\xff\xfe".to_vec(), truncated: false },
            response: Some(Message { head: "{}".to_owned(), body: Vec::new(), truncated: false }),
        },
    ];
    let ids = case.queued("a@example.com").await;
    for (number, exchange) in (1..).zip(&exchanges) {
        case.start(ids.1, number, &[]).await;
        case.pass(DAY); // each on another day
        let change = Change { verdict: Some(Verdict::Retryable), ..Change::to(DeliveryState::Queued) };
        let mut step = case.ended(ids, change, LeadStep::Untouched);
        step.attempts = number;
        step.attempt =
            Some(Arc::new(AttemptEnd { exchange: Some(exchange.clone()), ..end(number, Verdict::Retryable) }));
        assert_eq!(case.step(step).await, Stepped::Done(Vec::new()));
    }
    case.reopen();
    let attempts = case.store().attempts(ids.1).await.unwrap();
    assert_eq!(attempts.len(), exchanges.len());
    let flat = |message: &Message| (message.head.clone(), message.body.clone(), message.truncated);
    for (number, (stored, exchange)) in (1..).zip(attempts.iter().zip(&exchanges)) {
        assert_eq!(stored.attempt.number, number);
        assert_eq!((stored.attempt.verdict, stored.attempt.class), (Some(Verdict::Retryable), Some(Class::Response)));
        assert_eq!(stored.attempt.explanation, Some(end(1, Verdict::Retryable).explanation));
        assert_eq!(stored.attempt.timings, end(1, Verdict::Retryable).timings);
        assert!(stored.attempt.ended_at.unwrap() > stored.attempt.started_at);
        let found = stored.exchange.as_ref().unwrap();
        assert_eq!(flat(&found.request), flat(&exchange.request));
        assert_eq!(found.response.as_ref().map(flat), exchange.response.as_ref().map(flat));
    }
}

fn refusal(case: &Case) -> RefusalRecord {
    RefusalRecord {
        request_id: RequestId(case.clock.uuid()),
        source: "acme".parse().unwrap(),
        campaign: "no/such campaign".to_owned(),
        at: case.now(),
        request: Message { head: "{}".to_owned(), body: b"\xff".to_vec(), truncated: false },
        status: 422,
        answer: "{\"status\":422}".to_owned(),
    }
}

pub async fn what_is_looked_up_is_found_over_many_days(case: Case) {
    let (mut leads, mut deliveries, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..5 {
        let ids = case.queued("a@example.com").await;
        case.start(ids.1, 1, &[]).await;
        case.pass(DAY / 2); // the partner's reference comes later, sometimes on the next day
        let change = Change { reference: Some("REF".to_owned()), ..sold() };
        case.step(case.ended(ids, change, LeadStep::Sold)).await;
        let refused = refusal(&case);
        case.store().refuse(refused.clone()).await.unwrap();
        case.pass(DAY / 2 + HOUR);
        case.accept_one(&format!("other{n}@example.com")).await;
        leads.insert(0, ids.0);
        deliveries.insert(0, ids.1);
        refusals.insert(0, refused.request_id);
    }
    case.reopen();
    assert_eq!(case.found("email", "a@example.com").await, leads);
    assert_eq!(case.found("phone", "a@example.com").await, [], "a kind is not another");
    assert_eq!(case.found("email", "A@example.com").await, []);
    let search = DeliverySearch { reference: Some("REF".to_owned()), limit: 100, ..DeliverySearch::default() };
    let found = case.store().find_deliveries(search).await.unwrap();
    assert_eq!(found.items.iter().map(|record| record.delivery.id).collect::<Vec<_>>(), deliveries);
    let found = case.store().find_refusals(RefusalSearch { limit: 100, ..RefusalSearch::default() }).await.unwrap();
    assert_eq!(found.items.iter().map(|record| record.request_id).collect::<Vec<_>>(), refusals);
    let one = RefusalSearch { request_id: Some(refusals[2]), limit: 1, ..RefusalSearch::default() };
    let found = case.store().find_refusals(one).await.unwrap();
    assert_eq!((found.items.len(), found.next), (1, None));
    assert_eq!((found.items[0].status, found.items[0].request.body.as_slice()), (422, &b"\xff"[..]));
}

pub async fn counts_of_past_periods_are_forgotten_but_for_those_that_the_unfinished_own(case: Case) {
    let contract = |period: &str| place(OwnerKind::Contract, "bright", period, None);
    let partner = |period: &str| place(OwnerKind::Partner, "bright", period, None);
    let (sold_one, unknown, waiting) =
        (case.queued("a@example.com").await, case.queued("b@example.com").await, case.queued("c@example.com").await);
    case.start(sold_one.1, 1, &[contract("d2026-11-20"), contract("m2026-11"), contract("t")]).await;
    case.step(case.ended(sold_one, sold(), LeadStep::Sold)).await;
    case.start(unknown.1, 1, &[contract("d2026-11-21"), contract("m2026-11")]).await;
    let to_unknown = Change { unknown: true, verdict: Some(Verdict::Unknown), ..Change::to(DeliveryState::Unknown) };
    case.step(case.ended(unknown, to_unknown, LeadStep::Untouched)).await;
    case.start(waiting.1, 1, &[partner("d2026-11-21")]).await;
    let later = Change {
        unknown: true,
        verdict: Some(Verdict::Unknown),
        due_at: Some(case.now() + DAY),
        ..Change::to(DeliveryState::Queued)
    };
    case.step(case.ended(waiting, later, LeadStep::Untouched)).await;
    let year = Duration::from_hours(365 * 24);
    let tidy = async || case.store().tidy(case.now(), year, year).await.unwrap().places;

    // While one of them may still be present somewhere, nothing goes.
    assert_eq!(tidy().await, 0);
    case.pass(SignedDuration::from_hours(12 * 24));
    assert_eq!(tidy().await, 1);
    let key = |place: Place, used: u64| (place.key, used);
    let left = HashMap::from([
        key(contract("d2026-11-21"), 1),
        key(partner("d2026-11-21"), 1),
        key(contract("m2026-11"), 2),
        key(contract("t"), 1),
    ]);
    assert_eq!(case.counts().await, left);

    // What is given back at last may go then.
    let no = Change { verdict: Some(Verdict::Rejected), give_back: true, ..Change::to(DeliveryState::Rejected) };
    let step = Step { from: DeliveryState::Unknown, attempt: None, ..case.ended(unknown, no, LeadStep::Untouched) };
    assert!(matches!(case.step(step).await, Stepped::Done(_)));
    assert_eq!(tidy().await, 2);
    case.reopen();
    assert_eq!(case.counts().await, HashMap::from([key(partner("d2026-11-21"), 1), key(contract("t"), 1)]));
}

pub async fn retention_drops_whole_days_and_keeps_what_is_unfinished(case: Case) {
    let days = |n: u64| Duration::from_hours(n * 24);
    let sell = async |ids: (LeadId, DeliveryId)| {
        case.start(ids.1, 1, &[contract_day(100)]).await;
        let exchange = ExchangeRecord {
            request: Message { head: "{}".to_owned(), body: b"x".to_vec(), truncated: false },
            response: None,
        };
        let mut step = case.ended(ids, Change { reference: Some("REF".to_owned()), ..sold() }, LeadStep::Sold);
        step.attempt = Some(Arc::new(AttemptEnd { exchange: Some(exchange), ..end(1, Verdict::Accepted) }));
        case.step(step).await;
    };
    let finished = case.queued("finished@example.com").await;
    sell(finished).await;
    case.store().refuse(refusal(&case)).await.unwrap();
    let waiting = case.queued("waiting@example.com").await;
    let sending = case.queued("sending@example.com").await;
    case.start(sending.1, 1, &[]).await;
    let unknown = case.queued("unknown@example.com").await;
    case.start(unknown.1, 1, &[]).await;
    let change = Change { unknown: true, ..Change::to(DeliveryState::Unknown) };
    case.step(case.ended(unknown, change, LeadStep::Untouched)).await;
    let sent_again = case.queued("again@example.com").await;
    sell(sent_again).await;
    let again = NewDelivery { redelivery_of: Some(sent_again.1), ..case.delivery("bright") };
    assert!(case.store().redeliver(sent_again.0, again, case.now(), audit("redeliver", None)).await.unwrap());

    // The capture's last day: it began more than ten days ago, but it is not wholly past.
    case.pass(DAY * 10);
    let day_two = case.queued("young@example.com").await;
    sell(day_two).await;
    let tidied = case.store().tidy(case.now(), days(10), days(20)).await.unwrap();
    assert_eq!((tidied.days, tidied.leads), (0, 0));
    assert!(case.store().attempts(finished.1).await.unwrap()[0].exchange.is_some());

    // A day later its exchanges and refusals go; leads and what they are looked up by stay.
    case.pass(DAY);
    let tidied = case.store().tidy(case.now(), days(10), days(20)).await.unwrap();
    assert_eq!((tidied.days, tidied.leads), (2, 0));
    assert!(case.store().attempts(finished.1).await.unwrap()[0].exchange.is_none());
    assert!(case.store().attempts(day_two.1).await.unwrap()[0].exchange.is_some());
    let refusals = case.store().find_refusals(RefusalSearch { limit: 9, ..RefusalSearch::default() }).await.unwrap();
    assert_eq!(refusals.items.len(), 0);
    assert_eq!(case.found("email", "finished@example.com").await, [finished.0]);
    // Should the clock be set back, a dropped day is made again.
    case.pass(DAY * -11);
    case.store().refuse(refusal(&case)).await.unwrap();
    case.pass(DAY * 11);

    // At last the finished lead goes; the unfinished stay, with all of theirs.
    case.pass(DAY * 10);
    case.reopen();
    let tidied = case.store().tidy(case.now(), days(30), days(20)).await.unwrap();
    assert_eq!(tidied.leads, 1);
    assert!(tidied.days >= 1);
    assert_eq!(case.found("email", "finished@example.com").await, []);
    assert!(case.store().lead(finished.0).await.unwrap().is_none());
    assert!(case.store().delivery(finished.1).await.unwrap().is_none());
    assert!(case.store().attempts(finished.1).await.unwrap().is_empty());
    for ids in [waiting, sending, unknown, sent_again, day_two] {
        assert!(case.store().lead(ids.0).await.unwrap().is_some());
        assert!(case.store().delivery(ids.1).await.unwrap().is_some());
    }
    assert_eq!(case.store().attempts(unknown.1).await.unwrap().len(), 1);
    assert_eq!(case.store().tidy(case.now(), days(30), days(20)).await.unwrap().leads, 0);

    // What was dropped can be filled again, as by a clock that was set back.
    let search = LeadSearch { limit: 100, ..LeadSearch::default() };
    let before = case.store().find_leads(search.clone()).await.unwrap().items.len();
    case.pass(DAY * -21);
    let late = case.queued("late@example.com").await;
    sell(late).await;
    case.store().refuse(refusal(&case)).await.unwrap();
    assert_eq!(case.found("email", "late@example.com").await, [late.0]);
    assert!(case.store().attempts(late.1).await.unwrap()[0].exchange.is_some());
    assert_eq!(case.store().find_leads(search).await.unwrap().items.len(), before + 1);
}

pub async fn old_leads_go_in_bites_with_their_deliveries_and_attempts(case: Case) {
    const LEADS: usize = 1_101; // more than two bites
    let mut accepts = Vec::new();
    for n in 0..LEADS {
        let mut accept = case.lead(&format!("a{n}@example.com"));
        accept.deliveries[0].state = DeliveryState::Skipped;
        accept.status = LeadStatus::Unsold;
        accepts.push(accept);
    }
    let ids: Vec<_> = accepts.iter().map(|accept| (accept.lead.id, accept.deliveries[0].id)).collect();
    let stored: Vec<_> = accepts
        .into_iter()
        .map(|accept| {
            let store = case.store();
            tokio::spawn(async move { store.accept(accept).await.unwrap() })
        })
        .collect();
    for one in stored {
        assert_eq!(one.await.unwrap(), Accepted::Stored);
    }
    case.pass(DAY * 2);
    let young = case.queued("young@example.com").await;
    let tidied = case.store().tidy(case.now(), Duration::from_hours(24), Duration::from_hours(24)).await.unwrap();
    assert_eq!(tidied.leads, LEADS);
    for (lead, delivery) in ids {
        assert!(!case.store().lead_exists(lead).await.unwrap());
        assert!(case.store().delivery(delivery).await.unwrap().is_none());
    }
    assert!(case.store().lead_exists(young.0).await.unwrap());
}

pub async fn a_failing_write_fails_alone_among_many(case: Case) {
    let taken = case.queued("first@example.com").await.1;
    let posts: Vec<_> = (0..64)
        .map(|n| {
            let mut accept = case.lead(&format!("a{n}@example.com"));
            accept.places = vec![place(OwnerKind::Source, "acme", "t", Some(1_000))];
            if n % 16 == 5 {
                accept.deliveries.push(NewDelivery { id: taken, ..case.delivery("other") });
            }
            let store = case.store();
            tokio::spawn(async move { (n, accept.lead.id, store.accept(accept).await) })
        })
        .collect();
    for post in posts {
        let (n, lead, outcome) = post.await.unwrap();
        let stored = case.store().lead_exists(lead).await.unwrap();
        assert_eq!(stored, n % 16 != 5, "{n}");
        assert_eq!(outcome.is_ok(), stored, "{n}: {outcome:?}");
    }
    assert_eq!(case.counts().await.values().copied().collect::<Vec<_>>(), [60]);
}

pub async fn turns_never_go_back(case: Case) {
    let contract: ContractId = "bright".parse().unwrap();
    for (turn, expected) in [(5, 5), (3, 5), (6, 6)] {
        let accept = Accept { turn: Some((contract.clone(), turn)), ..case.lead("a@example.com") };
        case.store().accept(accept).await.unwrap();
        case.reopen();
        assert_eq!(case.store().turns().await.unwrap(), [(contract.clone(), expected)]);
    }
}

/// Contract, arrival, when it is due, and the delivery.
type Waiting = (&'static str, Timestamp, Option<Timestamp>, DeliveryId);

pub async fn queues_are_paged_in_order_without_loss_or_repetition(case: Case) {
    let contracts = ["a", "b", "b2"];
    let mut all: Vec<Waiting> = Vec::new();
    for n in 0..60_usize {
        let mut accept = case.lead(&format!("a{n}@example.com"));
        let contract = contracts[n * 7 / 4 % 3];
        // Several arrive at one moment, and some were received before others that have lesser ids.
        Arc::make_mut(&mut accept.lead).received_at =
            case.now() - SignedDuration::from_secs(i64::try_from(n % 7).unwrap());
        accept.deliveries = vec![case.delivery(contract)];
        let ids = (accept.lead.id, accept.deliveries[0].id);
        let received = accept.lead.received_at;
        case.store().accept(accept).await.unwrap();
        let due = match n % 5 {
            0 | 1 => {
                case.start(ids.1, 1, &[]).await;
                let due = case.now() + SignedDuration::from_secs(i64::try_from(n % 4).unwrap() * 60 - 60);
                let change = Change { due_at: Some(due), ..Change::to(DeliveryState::Queued) };
                case.step(case.ended(ids, change, LeadStep::Untouched)).await;
                Some(due)
            }
            2 => {
                let step = Step {
                    from: DeliveryState::Queued,
                    attempts: 0,
                    attempt: None,
                    ..case.ended(ids, refused(), LeadStep::Untouched)
                };
                case.step(step).await;
                continue;
            }
            _ => None,
        };
        all.push((contract, received, due, ids.1));
    }
    case.reopen();
    let (store, now) = (case.store(), case.now());
    assert_eq!(store.contracts_with_queue().await.unwrap(), contracts.map(|id| id.parse().unwrap()));
    for contract in contracts {
        let id: ContractId = contract.parse().unwrap();
        let of = |wanted: &dyn Fn(&Waiting) -> Option<Timestamp>| {
            let mut keys: Vec<_> =
                all.iter().filter(|one| one.0 == contract).filter_map(|one| Some((wanted(one)?, one.3))).collect();
            keys.sort_unstable();
            keys
        };
        let ready = of(&|one| one.2.is_none_or(|due| due <= now).then_some(one.1));
        let due = of(&|one| one.2);
        assert!(!ready.is_empty() && !due.is_empty());
        for size in [1, 3, 500] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = store.ready_page(id.clone(), after, now, size).await.unwrap();
                let Some(last) = page.last() else { break };
                after = Some((last.received_at, last.id));
                seen.extend(page.iter().map(|queued| (queued.received_at, queued.id)));
            }
            assert_eq!(seen, ready);
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page: Vec<Queued> = store.due_page(id.clone(), after, size).await.unwrap();
                let Some(last) = page.last() else { break };
                after = Some((last.due_at.unwrap(), last.id));
                seen.extend(page.iter().map(|queued| (queued.due_at.unwrap(), queued.id)));
            }
            assert_eq!(seen, due);
        }
        let length = all.iter().filter(|one| one.0 == contract).count();
        assert_eq!(store.queue_length(id).await.unwrap(), length as u64);
    }
    assert_eq!(store.queue_length("none".parse().unwrap()).await.unwrap(), 0);
}

pub async fn open_attempts_are_found_page_by_page_after_a_restart(case: Case) {
    let mut open = Vec::new();
    for n in 0..25 {
        let ids = case.queued(&format!("a{n}@example.com")).await;
        if n % 3 != 0 {
            case.start(ids.1, 1, &[contract_day(100)]).await;
        }
        if n % 3 == 1 {
            case.step(case.ended(ids, sold(), LeadStep::Sold)).await;
        }
        if n % 3 == 2 {
            open.push(ids.1);
        }
    }
    case.reopen();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = case.store().open_attempts(after, 3, Timestamp::MAX).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.delivery.id);
        assert!(page.iter().all(|record| record.delivery.state == DeliveryState::Sending && record.places.len() == 1));
        found.extend(page.iter().map(|record| record.delivery.id));
    }
    assert_eq!(found, open);
}

pub async fn resources_change_all_or_none_and_keep_their_versions(case: Case) {
    let change = |id: &str, from: Option<u64>, document: Option<&str>| ResourceChange {
        kind: Kind::Partner,
        id: id.to_owned(),
        from,
        document: document.map(str::to_owned),
    };
    let apply =
        async |changes: Vec<ResourceChange>| case.store().apply(changes, "sam".to_owned(), case.now()).await.unwrap();
    let have = async || -> Vec<_> {
        let all = case.store().resources().await.unwrap();
        all.into_iter().map(|one| (one.id, one.version, one.document)).collect()
    };
    let row = |id: &str, version: u64, document: &str| (id.to_owned(), version, document.to_owned());
    assert!(apply(vec![change("a", None, Some("1")), change("b", None, Some("1"))]).await);
    assert!(!apply(vec![change("c", None, Some("1")), change("a", None, Some("2"))]).await, "it exists");
    assert!(!apply(vec![change("c", None, Some("1")), change("a", Some(2), Some("2"))]).await, "it is at 1");
    assert_eq!(have().await, [row("a", 1, "1"), row("b", 1, "1")]);
    assert!(apply(vec![change("a", Some(1), Some("2")), change("b", Some(1), None)]).await);
    case.reopen();
    assert_eq!(have().await, [row("a", 2, "2")]);
    // One that comes back goes on counting: nobody takes it for the one that was there.
    assert!(apply(vec![change("b", None, Some("3"))]).await);
    assert_eq!(have().await, [row("a", 2, "2"), row("b", 3, "3")]);
}

pub async fn thousands_of_resources_change_at_once(case: Case) {
    const MANY: u64 = 2_345;
    let id = |n: u64| format!("partner-{n:04}");
    let change = |n: u64, from: Option<u64>, document: Option<String>| ResourceChange {
        kind: Kind::Partner,
        id: id(n),
        from,
        document,
    };
    let apply =
        async |changes: Vec<ResourceChange>| case.store().apply(changes, "sam".to_owned(), case.now()).await.unwrap();
    let have = async || -> Vec<_> {
        let all = case.store().resources().await.unwrap();
        all.into_iter().map(|one| (one.id, one.version, one.document, one.changed_elsewhere)).collect()
    };
    assert!(apply((0..MANY).map(|n| change(n, None, Some(n.to_string()))).collect()).await);
    let all: Vec<_> = (0..MANY).map(|n| (id(n), 1, n.to_string(), false)).collect();
    assert_eq!(have().await, all);
    // The last alone is not as expected.
    assert!(!apply((0..MANY).map(|n| change(n, Some(1 + n / (MANY - 1)), None)).collect()).await);
    assert_eq!(have().await, all);
    // Every third is deleted, every fifth of the others set again.
    let deleted = |n: u64| n.is_multiple_of(3);
    let set = |n: u64| !deleted(n) && n.is_multiple_of(5);
    let changes = (0..MANY).filter(|n| deleted(*n) || set(*n));
    let changes = changes.map(|n| change(n, Some(1), (!deleted(n)).then(|| format!("\"{n}\"")))).collect();
    assert!(apply(changes).await);
    case.reopen();
    let left = (0..MANY)
        .filter(|n| !deleted(*n))
        .map(|n| if set(n) { (id(n), 2, format!("\"{n}\""), false) } else { (id(n), 1, n.to_string(), false) });
    assert_eq!(have().await, left.collect::<Vec<_>>());
}

pub async fn pauses_and_tokens_outlive_a_restart(case: Case) {
    let pause = async |paused: bool| {
        let act = audit("pause", None);
        case.store().set_paused(PausedKind::Contract, "bright".to_owned(), paused, case.now(), act).await.unwrap();
    };
    for _ in 0..2 {
        pause(true).await;
    }
    let token = TokenRecord { name: "sam".to_owned(), hash: [9; 32], role: "viewer".to_owned() };
    let add = async |token: TokenRecord| case.store().add_token(token, case.now(), audit("token", None)).await.unwrap();
    assert!(add(token.clone()).await);
    assert!(!add(TokenRecord { hash: [8; 32], ..token.clone() }).await, "the name is taken");
    case.reopen();
    assert_eq!(case.store().paused().await.unwrap(), [(PausedKind::Contract, "bright".to_owned())]);
    assert_eq!(case.store().tokens().await.unwrap(), [token]);
    pause(false).await;
    case.reopen();
    assert_eq!(case.store().paused().await.unwrap(), []);
}

pub async fn whatever_is_changed_is_counted(case: Case) {
    let since = case.store().changes().await.unwrap();
    let counted = async || {
        let now = case.store().changes().await.unwrap();
        (now.network - since.network, now.pauses - since.pauses, now.tokens - since.tokens)
    };
    let partner = |from: Option<u64>| ResourceChange {
        kind: Kind::Partner,
        id: "a".to_owned(),
        from,
        document: Some("1".to_owned()),
    };
    let apply = async |from| case.store().apply(vec![partner(from)], "sam".to_owned(), case.now()).await.unwrap();
    assert!(apply(None).await);
    assert_eq!(counted().await, (1, 0, 0));
    assert!(!apply(None).await, "it exists");
    assert_eq!(counted().await, (1, 0, 0));
    for (paused, times) in [(true, 1), (false, 2)] {
        let act = audit("pause", None);
        case.store().set_paused(PausedKind::Partner, "a".to_owned(), paused, case.now(), act).await.unwrap();
        assert_eq!(counted().await, (1, times, 0));
    }
    let token = TokenRecord { name: "sam".to_owned(), hash: [9; 32], role: "viewer".to_owned() };
    for _ in 0..2 {
        case.store().add_token(token.clone(), case.now(), audit("token", None)).await.unwrap();
        assert_eq!(counted().await, (1, 2, 1), "once: then the name is taken");
    }
}

/// One act of each kind that is written down.
pub async fn acts_of_people(case: &Case) {
    let ids = case.queued("a@example.com").await;
    let cancel = Step {
        from: DeliveryState::Queued,
        attempts: 0,
        attempt: None,
        audit: Some(audit("cancel", Some("asked to"))),
        ..case.ended(ids, Change::to(DeliveryState::Cancelled), LeadStep::Untouched)
    };
    case.step(cancel.clone()).await;
    assert!(matches!(case.step(cancel).await, Stepped::Stale(..)), "and what came to nothing is not");
    let again = NewDelivery { redelivery_of: Some(ids.1), ..case.delivery("bright") };
    assert!(case.store().redeliver(ids.0, again, case.now(), audit("redeliver", None)).await.unwrap());
    for (paused, action) in [(true, "pause"), (false, "resume")] {
        let act = audit(action, None);
        case.store().set_paused(PausedKind::Source, "acme".to_owned(), paused, case.now(), act).await.unwrap();
    }
    let token = TokenRecord { name: "kim".to_owned(), hash: [1; 32], role: "admin".to_owned() };
    let act = Audit { who: "cli".to_owned(), ..audit("token", None) };
    assert!(case.store().add_token(token.clone(), case.now(), act.clone()).await.unwrap());
    assert!(!case.store().add_token(token, case.now(), act).await.unwrap());
}
