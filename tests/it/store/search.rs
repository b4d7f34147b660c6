//! Searches against a filter over a list of everything there is: each condition, pairs of them, and page after page.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use lead_gateway::model::delivery::{DeliveryState, Verdict};
use lead_gateway::model::id::{DeliveryId, LeadId, RequestId};
use lead_gateway::model::lead::LeadStatus;
use lead_gateway::store::{
    Accept, AttemptEnd, Change, DeliverySearch, LeadSearch, LeadStep, Message, Page, RefusalRecord, RefusalSearch, Step,
};
use uuid::Uuid;

use super::suite::{Case, end};

/// A small generator with a known seed: the same "random" data in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % n as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

/// Reads page after page and checks that none is larger than asked.
async fn pages<T>(mut page: impl AsyncFnMut(Option<Uuid>) -> Page<T>, size: u32) -> Vec<T> {
    let (mut items, mut cursor) = (Vec::new(), None);
    loop {
        let next = page(cursor).await;
        assert!(next.items.len() <= size as usize);
        assert!(next.next.is_none() || next.items.len() == size as usize);
        items.extend(next.items);
        cursor = next.next;
        if cursor.is_none() {
            return items;
        }
    }
}

const EMAILS: [&str; 3] = ["a@example.com", "b@example.com", "c@example.com"];
const PHONES: [&str; 2] = ["+442079460018", "+442079460019"];
const SOURCES: [&str; 3] = ["acme", "bolt", "core"];
const CAMPAIGNS: [&str; 2] = ["solar", "wind"];
const STATUSES: [LeadStatus; 4] = [LeadStatus::Pending, LeadStatus::Sold, LeadStatus::Unsold, LeadStatus::Rejected];

struct StoredLead {
    id: LeadId,
    email: &'static str,
    phone: &'static str,
    source: &'static str,
    campaign: &'static str,
    status: LeadStatus,
    test: bool,
    received: Timestamp,
}

/// A condition and the filter that it means.
type Condition<S, R> = (Box<dyn Fn(&mut S)>, Box<dyn Fn(&R) -> bool>);

pub async fn leads_are_found_as_a_filter_over_all_of_them_would(case: Case) {
    let mut dice = Dice(7);
    let mut all: Vec<StoredLead> = Vec::new();
    for _ in 0..150 {
        case.pass(SignedDuration::from_mins(i64::try_from(dice.below(80)).unwrap()));
        let (email, phone) = (dice.of(&EMAILS), dice.of(&PHONES));
        let mut accept = case.lead(email);
        let lead = Arc::make_mut(&mut accept.lead);
        lead.source = dice.of(&SOURCES).parse().unwrap();
        lead.campaign = dice.of(&CAMPAIGNS).parse().unwrap();
        lead.test = dice.below(4) == 0;
        accept.status = dice.of(&STATUSES);
        accept.lookups.push(("phone", phone.to_owned()));
        let lead = &accept.lead;
        all.insert(
            0,
            StoredLead {
                id: lead.id,
                email,
                phone,
                source: SOURCES.into_iter().find(|id| *id == lead.source.as_str()).unwrap(),
                campaign: CAMPAIGNS.into_iter().find(|id| *id == lead.campaign.as_str()).unwrap(),
                status: accept.status,
                test: lead.test,
                received: lead.received_at,
            },
        );
        case.store().accept(accept).await.unwrap();
    }
    let (newest, oldest) = (all[0].received, all[all.len() - 1].received);
    assert!(newest.duration_since(oldest) > SignedDuration::from_hours(48), "several days");
    let (early, late) = (all[110].received, all[40].received);

    let conditions: Vec<Condition<LeadSearch, StoredLead>> = vec![
        (Box::new(|_| {}), Box::new(|_| true)),
        (
            Box::new(|search| search.lookups.push(("email", vec![EMAILS[0].to_owned()]))),
            Box::new(|lead| lead.email == EMAILS[0]),
        ),
        (
            Box::new(|search| search.lookups.push(("email", EMAILS[1..].iter().map(|&one| one.to_owned()).collect()))),
            Box::new(|lead| lead.email != EMAILS[0]),
        ),
        (
            Box::new(|search| search.lookups.push(("phone", vec![PHONES[1].to_owned()]))),
            Box::new(|lead| lead.phone == PHONES[1]),
        ),
        (Box::new(|search| search.lookups.push(("phone", Vec::new()))), Box::new(|_| false)),
        (Box::new(|search| search.source = Some("acme".parse().unwrap())), Box::new(|lead| lead.source == "acme")),
        (Box::new(|search| search.campaign = Some("wind".parse().unwrap())), Box::new(|lead| lead.campaign == "wind")),
        (Box::new(|search| search.status = Some(LeadStatus::Sold)), Box::new(|lead| lead.status == LeadStatus::Sold)),
        (Box::new(|search| search.test = Some(true)), Box::new(|lead| lead.test)),
        (Box::new(|search| search.test = Some(false)), Box::new(|lead| !lead.test)),
        (Box::new(move |search| search.from = Some(early)), Box::new(move |lead| lead.received >= early)),
        (Box::new(move |search| search.to = Some(late)), Box::new(move |lead| lead.received < late)),
    ];
    for first in &conditions {
        for second in &conditions {
            let mut search = LeadSearch::default();
            first.0(&mut search);
            second.0(&mut search);
            // A pair on one key is the second alone, but for look-ups, which must all hold.
            let same_key = |a: &LeadSearch, b: &LeadSearch| {
                (a.source.is_some() && b.source.is_some())
                    || (a.campaign.is_some() && b.campaign.is_some())
                    || (a.test.is_some() && b.test.is_some())
            };
            let (mut one, mut two) = (LeadSearch::default(), LeadSearch::default());
            first.0(&mut one);
            second.0(&mut two);
            if same_key(&one, &two) {
                continue;
            }
            let expected: Vec<LeadId> =
                all.iter().filter(|lead| first.1(lead) && second.1(lead)).map(|lead| lead.id).collect();
            for size in [7, 150, 500] {
                let found = pages(
                    async |cursor| {
                        case.store().find_leads(LeadSearch { cursor, limit: size, ..search.clone() }).await.unwrap()
                    },
                    size,
                )
                .await;
                let found: Vec<LeadId> = found.into_iter().map(|record| record.lead.id).collect();
                assert_eq!(found, expected, "{search:?}");
            }
        }
    }
}

struct StoredDelivery {
    id: DeliveryId,
    lead: LeadId,
    contract: &'static str,
    source: &'static str,
    campaign: &'static str,
    state: DeliveryState,
    verdict: Option<Verdict>,
    status_code: Option<u16>,
    reference: Option<&'static str>,
    reason: Option<&'static str>,
    due: Option<Timestamp>,
    created: Timestamp,
}

const CONTRACTS: [&str; 3] = ["bright", "dim", "dark"];
const REASONS: [&str; 3] = ["Over Cap", "postcode not covered", "100% of cap_used"];
const REFERENCES: [&str; 2] = ["REF-1", "ref-1"];

pub async fn deliveries_are_found_as_a_filter_over_all_of_them_would(case: Case) {
    let mut dice = Dice(11);
    let mut all: Vec<StoredDelivery> = Vec::new();
    for n in 0..100 {
        case.pass(SignedDuration::from_mins(i64::try_from(dice.below(80)).unwrap()));
        let contracts = [dice.of(&CONTRACTS), dice.of(&CONTRACTS)];
        let mut accept = case.lead(&format!("a{n}@example.com"));
        let (source, campaign) = (dice.of(&SOURCES), dice.of(&CAMPAIGNS));
        let lead = Arc::make_mut(&mut accept.lead);
        (lead.source, lead.campaign) = (source.parse().unwrap(), campaign.parse().unwrap());
        accept.deliveries = contracts.map(|contract| case.delivery(contract)).into();
        let (lead, ids) = (accept.lead.id, [accept.deliveries[0].id, accept.deliveries[1].id]);
        case.store().accept(accept).await.unwrap();
        for (id, contract) in ids.into_iter().zip(contracts) {
            let created = case.now();
            let mut one = StoredDelivery {
                id,
                lead,
                contract,
                source,
                campaign,
                state: DeliveryState::Queued,
                verdict: None,
                status_code: None,
                reference: None,
                reason: None,
                due: None,
                created,
            };
            work(&case, &mut dice, &mut one).await;
            all.insert(0, one);
        }
    }
    all.sort_by_key(|one| std::cmp::Reverse(one.id));
    let now = case.now();
    let (early, late, lead) = (all[150].created, all[50].created, all[77].lead);
    let shut = || vec!["bright".parse().unwrap(), "dark".parse().unwrap()];
    let waits = move |one: &StoredDelivery| {
        one.state == DeliveryState::Queued && one.due.is_none_or(|due| due <= now) && one.contract != "dim"
    };

    let mut conditions: Vec<Condition<DeliverySearch, StoredDelivery>> = vec![
        (Box::new(|_| {}), Box::new(|_| true)),
        (Box::new(move |search| search.lead = Some(lead)), Box::new(move |one| one.lead == lead)),
        (Box::new(|search| search.partner = Some("dim".parse().unwrap())), Box::new(|one| one.contract == "dim")),
        (Box::new(|search| search.contract = Some("dark".parse().unwrap())), Box::new(|one| one.contract == "dark")),
        (Box::new(|search| search.campaign = Some("wind".parse().unwrap())), Box::new(|one| one.campaign == "wind")),
        (Box::new(|search| search.source = Some("core".parse().unwrap())), Box::new(|one| one.source == "core")),
        (
            Box::new(|search| search.verdict = Some(Verdict::Rejected)),
            Box::new(|one| one.verdict == Some(Verdict::Rejected)),
        ),
        (Box::new(|search| search.status_code = Some(200)), Box::new(|one| one.status_code == Some(200))),
        (Box::new(|search| search.status_code = Some(503)), Box::new(|one| one.status_code == Some(503))),
        (
            Box::new(|search| search.reference = Some("REF-1".to_owned())),
            Box::new(|one| one.reference == Some("REF-1")),
        ),
        (
            Box::new(|search| search.reason = Some("CAP".to_owned())),
            Box::new(|one| one.reason.is_some_and(|reason| reason.to_lowercase().contains("cap"))),
        ),
        (
            Box::new(|search| search.reason = Some("p_u".to_owned())),
            Box::new(|one| one.reason.is_some_and(|reason| reason.contains("p_u"))),
        ),
        (Box::new(move |search| (search.held, search.now) = (Some((true, shut())), now)), Box::new(waits)),
        (
            Box::new(move |search| (search.held, search.now) = (Some((false, shut())), now)),
            Box::new(move |one| !waits(one)),
        ),
        (Box::new(|search| search.held = Some((true, Vec::new()))), Box::new(|_| false)),
        (Box::new(|search| search.held = Some((false, Vec::new()))), Box::new(|_| true)),
        (Box::new(move |search| search.from = Some(early)), Box::new(move |one| one.created >= early)),
        (Box::new(move |search| search.to = Some(late)), Box::new(move |one| one.created < late)),
    ];
    for state in DeliveryState::ALL {
        conditions
            .push((Box::new(move |search| search.state = Some(*state)), Box::new(move |one| one.state == *state)));
    }
    for (number, first) in conditions.iter().enumerate() {
        for second in &conditions[number..] {
            let (mut search, mut one, mut two) =
                (DeliverySearch::default(), DeliverySearch::default(), DeliverySearch::default());
            first.0(&mut one);
            second.0(&mut two);
            let same_key = (one.held.is_some() && two.held.is_some())
                || (one.state.is_some() && two.state.is_some())
                || (one.status_code.is_some() && two.status_code.is_some())
                || (one.reason.is_some() && two.reason.is_some());
            if same_key {
                continue;
            }
            first.0(&mut search);
            second.0(&mut search);
            let expected: Vec<_> = all.iter().filter(|one| first.1(one) && second.1(one)).map(|one| one.id).collect();
            for size in [9, 500] {
                let found = pages(
                    async |cursor| {
                        let search = DeliverySearch { cursor, limit: size, ..search.clone() };
                        case.store().find_deliveries(search).await.unwrap()
                    },
                    size,
                )
                .await;
                let found: Vec<_> = found.into_iter().map(|record| record.delivery.id).collect();
                assert_eq!(found, expected, "{search:?}");
            }
        }
    }
}

/// Lets a delivery have any history.
async fn work(case: &Case, dice: &mut Dice, one: &mut StoredDelivery) {
    let outcome = dice.below(8);
    if outcome == 0 {
        return; // waits for its first attempt
    }
    case.start(one.id, 1, &[]).await;
    one.state = DeliveryState::Sending;
    if outcome == 1 {
        return;
    }
    let (state, verdict) = match outcome {
        2 => (DeliveryState::Queued, Verdict::Retryable),
        3 => (DeliveryState::Unknown, Verdict::Unknown),
        4 => (DeliveryState::Accepted, Verdict::Accepted),
        5 => (DeliveryState::Failed, Verdict::Retryable),
        6 => (DeliveryState::Duplicate, Verdict::Duplicate),
        _ => (DeliveryState::Rejected, Verdict::Rejected),
    };
    (one.state, one.verdict) = (state, Some(verdict));
    one.status_code = dice.of(&[None, Some(200), Some(503)]);
    one.reason = (dice.below(3) > 0).then(|| dice.of(&REASONS));
    one.reference = (dice.below(2) > 0).then(|| dice.of(&REFERENCES));
    if state == DeliveryState::Queued {
        one.due = Some(case.now() + SignedDuration::from_mins(i64::try_from(dice.below(10_000)).unwrap() - 100));
    }
    let change = Change {
        verdict: Some(verdict),
        reason: one.reason.map(str::to_owned),
        reference: one.reference.map(str::to_owned),
        due_at: one.due,
        ..Change::to(state)
    };
    let step = case.ended((one.lead, one.id), change, LeadStep::Untouched);
    let attempt = AttemptEnd { status_code: one.status_code, ..end(1, verdict) };
    case.step(Step { attempt: Some(Arc::new(attempt)), ..step }).await;
}

type Filter<'a> = Box<dyn Fn(&(RequestId, &str, Timestamp)) -> bool + 'a>;

pub async fn refusals_are_found_as_a_filter_over_all_of_them_would(case: Case) {
    let mut dice = Dice(13);
    let mut all: Vec<(RequestId, &str, Timestamp)> = Vec::new();
    for _ in 0..120 {
        case.pass(SignedDuration::from_mins(i64::try_from(dice.below(90)).unwrap()));
        let (id, source) = (RequestId(case.clock.uuid()), dice.of(&SOURCES));
        let record = RefusalRecord {
            request_id: id,
            source: source.parse().unwrap(),
            campaign: "solar".to_owned(),
            at: case.now(),
            request: Message { head: "{}".to_owned(), body: Vec::new(), truncated: false },
            status: 422,
            answer: "{}".to_owned(),
        };
        case.store().refuse(record).await.unwrap();
        all.insert(0, (id, source, case.now()));
    }
    let (early, late, one) = (all[90].2, all[30].2, all[60].0);
    let cases: Vec<(RefusalSearch, Filter<'_>)> = vec![
        (RefusalSearch::default(), Box::new(|_| true)),
        (
            RefusalSearch { source: Some("bolt".parse().unwrap()), ..RefusalSearch::default() },
            Box::new(|refusal| refusal.1 == "bolt"),
        ),
        (RefusalSearch { request_id: Some(one), ..RefusalSearch::default() }, Box::new(|refusal| refusal.0 == one)),
        (
            RefusalSearch { from: Some(early), to: Some(late), ..RefusalSearch::default() },
            Box::new(|refusal| refusal.2 >= early && refusal.2 < late),
        ),
        (
            RefusalSearch { source: Some("acme".parse().unwrap()), to: Some(early), ..RefusalSearch::default() },
            Box::new(|refusal| refusal.1 == "acme" && refusal.2 < early),
        ),
    ];
    for (search, filter) in cases {
        let expected: Vec<_> = all.iter().filter(|refusal| filter(refusal)).map(|refusal| refusal.0).collect();
        assert!(!expected.is_empty());
        for size in [1, 8, 500] {
            let found = pages(
                async |cursor| {
                    let search = RefusalSearch { cursor, limit: size, ..search.clone() };
                    case.store().find_refusals(search).await.unwrap()
                },
                size,
            )
            .await;
            let found: Vec<_> = found.into_iter().map(|record| record.request_id).collect();
            assert_eq!(found, expected, "{search:?}");
        }
    }
}

/// A publisher that sends one `external_id` with every lead must not hide its own older leads.
pub async fn more_leads_than_are_looked_up_at_a_time_are_all_found(case: Case) {
    const LEADS: usize = 1_250;
    let posts: Vec<_> = (0..LEADS)
        .map(|n| {
            if n == LEADS / 2 {
                case.pass(SignedDuration::from_hours(24));
            }
            let mut accept = Accept { lookups: vec![("external_id", "same".to_owned())], ..case.lead("a@example.com") };
            // The oldest ten are another source's.
            if n < 10 {
                Arc::make_mut(&mut accept.lead).source = "first".parse().unwrap();
            }
            let store = case.store();
            tokio::spawn(async move {
                let id = accept.lead.id;
                store.accept(accept).await.unwrap();
                id
            })
        })
        .collect();
    let mut ids = Vec::new();
    for post in posts {
        ids.insert(0, post.await.unwrap());
    }
    let search = LeadSearch { lookups: vec![("external_id", vec!["same".to_owned()])], ..LeadSearch::default() };
    let all = pages(
        async |cursor| case.store().find_leads(LeadSearch { cursor, limit: 500, ..search.clone() }).await.unwrap(),
        500,
    )
    .await;
    assert_eq!(all.into_iter().map(|record| record.lead.id).collect::<Vec<_>>(), ids);
    let first = LeadSearch { source: Some("first".parse().unwrap()), limit: 50, ..search };
    let found = case.store().find_leads(first).await.unwrap();
    assert_eq!(found.items.iter().map(|record| record.lead.id).collect::<Vec<_>>(), ids[LEADS - 10..]);
    assert_eq!(found.next, None);
}
