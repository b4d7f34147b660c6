//! What every gate must do, whatever it counts in. Each test gets a gate of its own from `make`.

use std::future::Future;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use lead_gateway::gate::{Answer, Gate, GateUnavailable, Paused, Shut, Ticket};
use lead_gateway::model::delivery::ShutReason;
use lead_gateway::model::id::ContractId;
use lead_gateway::model::limit::{OwnerKind, Place, PlaceKey};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::books::Subject;
use super::{Network, at, network};

pub fn run<F, Fut>(make: F)
where
    F: Fn(Network) -> Fut,
    Fut: Future<Output = Subject>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        of_64_tasks_at_once_exactly_the_limit_get_through(&make).await;
        the_contracts_of_one_partner_share_its_limit(&make).await;
        a_place_given_back_is_free_for_the_next(&make).await;
        a_day_ends_at_midnight_in_the_partners_zone(&make).await;
        of_several_periods_the_one_that_ends_last_says_when(&make).await;
        a_total_used_up_never_opens(&make).await;
        a_full_contract_opens_with_its_hours_not_at_midnight(&make).await;
        hours_of_partner_and_contract_must_both_be_open(&make).await;
        hours_without_anything_in_common_never_open(&make).await;
        a_pause_wins_and_nobody_knows_its_end(&make).await;
        a_bypass_passes_limits_but_neither_pause_nor_hours(&make).await;
        counts_are_what_the_store_says(&make).await;
        a_count_from_before_a_place_was_given_back_is_not_believed(&make).await;
        a_delivery_that_has_its_places_already_is_not_counted_twice(&make).await;
        a_new_network_keeps_counts_and_pauses(&make).await;
        a_contract_without_rules_is_not_known_rather_than_shut(&make).await;
        what_is_left_is_the_least_of_all_limits(&make).await;
    });
    any_history_agrees_with_a_list_of_who_has_what(&runtime, &make);
}

fn id(text: &str) -> ContractId {
    text.parse().unwrap()
}

fn noon() -> Timestamp {
    at("2026-11-21T12:00:00Z") // a Saturday
}

async fn ticket(gate: &Gate, contract: &str, now: Timestamp) -> Ticket {
    match gate.take(&id(contract), now, false).await.unwrap() {
        Answer::Open(ticket) => ticket,
        Answer::Shut(shut) => panic!("{contract} is shut: {shut:?}"),
    }
}

/// Tells the gate what the store holds, as whoever puts gate and store together does.
async fn tell(gate: &Subject, counts: &[(PlaceKey, u64)]) {
    gate.books.set(counts);
    let keys: Vec<PlaceKey> = counts.iter().map(|(key, _)| key.clone()).collect();
    let as_of = gate.as_of(&keys).await;
    gate.reconcile(counts, as_of).await;
}

/// Asks both ways, which must agree.
async fn shut(gate: &Gate, contract: &str, now: Timestamp) -> Shut {
    let looked = gate.look(&id(contract), now).await.unwrap();
    match gate.take(&id(contract), now, false).await.unwrap() {
        Answer::Shut(shut) => {
            assert_eq!(looked.as_ref(), Some(&shut));
            shut
        }
        Answer::Open(_) => panic!("{contract} is open"),
    }
}

fn assert_shut(shut: &Shut, reason: ShutReason, until: Option<&str>, never: bool) {
    assert_eq!((shut.reason, shut.until, shut.never), (reason, until.map(at), never));
    assert_eq!(&*shut.timezone, "Europe/London");
}

async fn of_64_tasks_at_once_exactly_the_limit_get_through<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(
    make: &F,
) {
    for limit in [1, 7, 1000] {
        let gate = Arc::new(
            make(network("limits = { total = 5000 }", &[("c", &format!("limits = {{ daily = {limit} }}"))])).await,
        );
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    let mut granted = 0;
                    for _ in 0..40 {
                        if let Answer::Open(_) = gate.take(&id("c"), noon(), false).await.unwrap() {
                            granted += 1;
                        }
                        tokio::task::yield_now().await;
                    }
                    granted
                })
            })
            .collect();
        let mut granted = 0;
        for task in tasks {
            granted += task.await.unwrap();
        }
        assert_eq!(granted, limit);
        assert_eq!(gate.left(&id("c"), noon()).unwrap(), Some(0));
    }
}

async fn the_contracts_of_one_partner_share_its_limit<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(make: &F) {
    let gate = make(network("limits = { daily = 2 }", &[("a", ""), ("b", "")])).await;
    ticket(&gate, "a", noon()).await;
    ticket(&gate, "b", noon()).await;
    for contract in ["a", "b"] {
        assert_shut(&shut(&gate, contract, noon()).await, ShutReason::Full, Some("2026-11-22T00:00:00Z"), false);
    }
}

async fn a_place_given_back_is_free_for_the_next<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(make: &F) {
    let gate = make(network("", &[("c", "limits = { daily = 1, total = 2 }")])).await;
    let first = ticket(&gate, "c", noon()).await;
    let keys: Vec<&str> = first.places.iter().map(|place| place.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "partner/brightroof/d2026-11-21",
            "partner/brightroof/m2026-11",
            "partner/brightroof/t",
            "contract/c/d2026-11-21",
            "contract/c/m2026-11",
            "contract/c/t",
        ]
    );
    let limits: Vec<Option<u64>> = first.places.iter().map(|place| place.limit).collect();
    assert_eq!(limits, [None, None, None, Some(1), None, Some(2)]);
    shut(&gate, "c", noon()).await;
    gate.settle(&first.places, true);
    let second = ticket(&gate, "c", noon()).await;
    gate.settle(&second.places, false);
    shut(&gate, "c", noon()).await;
    // Given back twice by mistake, it is still no less than none.
    gate.settle(&second.places, true);
    gate.settle(&second.places, true);
    assert_eq!(gate.left(&id("c"), noon()).unwrap(), Some(1));
}

async fn a_day_ends_at_midnight_in_the_partners_zone<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(make: &F) {
    let gate = make(network("timezone = \"America/New_York\"", &[("c", "limits = { daily = 1 }")])).await;
    let before = at("2026-11-22T04:59:59.999999Z");
    let midnight = at("2026-11-22T05:00:00Z");
    let taken = ticket(&gate, "c", before).await;
    assert_eq!(taken.valid_until, midnight);
    let full = shut(&gate, "c", before).await;
    assert_eq!((full.until, &*full.timezone), (Some(midnight), "America/New_York"));
    let next = ticket(&gate, "c", midnight).await;
    assert_eq!(next.places[3].key.as_str(), "contract/c/d2026-11-22");
    // What is given back late frees the day it was taken in, not today.
    gate.settle(&taken.places, true);
    shut(&gate, "c", midnight).await;
}

async fn of_several_periods_the_one_that_ends_last_says_when<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(
    make: &F,
) {
    let gate = make(network("limits = { daily = 1 }", &[("c", "limits = { monthly = 1 }")])).await;
    ticket(&gate, "c", noon()).await;
    assert_shut(&shut(&gate, "c", noon()).await, ShutReason::Full, Some("2026-12-01T00:00:00Z"), false);
}

async fn a_total_used_up_never_opens<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(make: &F) {
    let gate = make(network("", &[("c", "limits = { daily = 1, total = 1 }")])).await;
    ticket(&gate, "c", noon()).await;
    assert_shut(&shut(&gate, "c", noon()).await, ShutReason::Full, None, true);
    assert_shut(&shut(&gate, "c", at("2030-01-01T00:00:00Z")).await, ShutReason::Full, None, true);
}

async fn a_full_contract_opens_with_its_hours_not_at_midnight<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(
    make: &F,
) {
    let gate = make(network(
        "schedule = { mon-fri = \"09:00-17:00\" }\nclosed_on = [\"2026-11-23\"]",
        &[("c", "limits = { daily = 1 }")],
    ))
    .await;
    let friday = at("2026-11-20T16:00:00Z");
    assert_eq!(ticket(&gate, "c", friday).await.valid_until, at("2026-11-20T17:00:00Z"));
    assert_shut(&shut(&gate, "c", friday).await, ShutReason::Full, Some("2026-11-24T09:00:00Z"), false);
    // After hours it is closed in the first place.
    let evening = at("2026-11-20T18:00:00Z");
    assert_shut(&shut(&gate, "c", evening).await, ShutReason::Closed, Some("2026-11-24T09:00:00Z"), false);
}

async fn hours_of_partner_and_contract_must_both_be_open<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(
    make: &F,
) {
    let gate = make(network(
        "schedule = { mon-fri = \"09:00-12:00, 13:00-17:00\" }",
        &[("c", "schedule = { tue-sun = \"11:30-13:30\" }")],
    ))
    .await;
    let monday = at("2026-11-23T11:45:00Z");
    assert_shut(&shut(&gate, "c", monday).await, ShutReason::Closed, Some("2026-11-24T11:30:00Z"), false);
    let tuesday = at("2026-11-24T11:30:00Z");
    assert_eq!(ticket(&gate, "c", tuesday).await.valid_until, at("2026-11-24T12:00:00Z"));
    let noon = at("2026-11-24T12:00:00Z");
    assert_shut(&shut(&gate, "c", noon).await, ShutReason::Closed, Some("2026-11-24T13:00:00Z"), false);
}

async fn hours_without_anything_in_common_never_open<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(make: &F) {
    let gate = make(network(
        "schedule = { mon = \"00:00-24:00\" }\nclosed_on = [\"2026-11-23\", \"2099-01-01\"]",
        &[("never", "schedule = { tue = \"00:00-24:00\" }"), ("no-hours", "schedule = {}"), ("mondays", "")],
    ))
    .await;
    for contract in ["never", "no-hours"] {
        assert_shut(&shut(&gate, contract, noon()).await, ShutReason::Closed, None, true);
    }
    assert_shut(&shut(&gate, "mondays", noon()).await, ShutReason::Closed, Some("2026-11-30T00:00:00Z"), false);
}

async fn a_pause_wins_and_nobody_knows_its_end<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(make: &F) {
    let gate =
        make(network("schedule = { mon = \"09:00-10:00\" }", &[("a", "limits = { total = 1 }"), ("b", "")])).await;
    let open = at("2026-11-23T09:00:00Z");
    gate.set_paused(Paused::Partner("brightroof".parse().unwrap()), true).await;
    for now in [noon(), open] {
        for contract in ["a", "b"] {
            assert_shut(&shut(&gate, contract, now).await, ShutReason::Paused, None, false);
        }
    }
    gate.set_paused(Paused::Partner("brightroof".parse().unwrap()), false).await;
    ticket(&gate, "a", open).await;
    gate.set_paused(Paused::Contract(id("a")), true).await;
    // Paused, and when it is resumed its total is still used up.
    assert_shut(&shut(&gate, "a", open).await, ShutReason::Paused, None, true);
    ticket(&gate, "b", open).await;
}

async fn a_bypass_passes_limits_but_neither_pause_nor_hours<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(
    make: &F,
) {
    let gate = make(network("schedule = { sat = \"09:00-17:00\" }", &[("c", "limits = { total = 1 }")])).await;
    ticket(&gate, "c", noon()).await;
    let Answer::Open(free) = gate.take(&id("c"), noon(), true).await.unwrap() else { panic!("limits hold a bypass") };
    assert_eq!((free.places.as_slice(), free.valid_until), ([].as_slice(), at("2026-11-21T17:00:00Z")));
    let Answer::Shut(closed) = gate.take(&id("c"), at("2026-11-21T17:00:00Z"), true).await.unwrap() else {
        panic!("hours do not hold a bypass")
    };
    // The limit is no matter to it, so it does open.
    assert_shut(&closed, ShutReason::Closed, Some("2026-11-28T09:00:00Z"), false);
    gate.set_paused(Paused::Contract(id("c")), true).await;
    let Answer::Shut(paused) = gate.take(&id("c"), noon(), true).await.unwrap() else {
        panic!("a pause does not hold a bypass")
    };
    assert_shut(&paused, ShutReason::Paused, None, false);
}

async fn counts_are_what_the_store_says<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(make: &F) {
    let gate = make(network("", &[("c", "limits = { daily = 10 }")])).await;
    let key = PlaceKey::new(OwnerKind::Contract, "c", "d2026-11-21");
    tell(&gate, &[(key.clone(), 10)]).await;
    shut(&gate, "c", noon()).await;
    tell(&gate, &[(key.clone(), 9)]).await;
    let last = ticket(&gate, "c", noon()).await;
    shut(&gate, "c", noon()).await;
    // While its commit is under way nobody can say whether the store's count has it.
    tell(&gate, &[(key.clone(), 9)]).await;
    shut(&gate, "c", noon()).await;
    gate.made(&last);
    tell(&gate, &[(key, 0)]).await;
    assert_eq!(gate.left(&id("c"), noon()).unwrap(), Some(10));
}

async fn a_count_from_before_a_place_was_given_back_is_not_believed<
    F: Fn(Network) -> Fut,
    Fut: Future<Output = Subject>,
>(
    make: &F,
) {
    let gate = make(network("", &[("c", "limits = { daily = 2 }")])).await;
    let key = PlaceKey::new(OwnerKind::Contract, "c", "d2026-11-21");
    gate.made(&ticket(&gate, "c", noon()).await);
    let last = ticket(&gate, "c", noon()).await;
    gate.made(&last);
    let asked = gate.as_of(std::slice::from_ref(&key)).await;
    gate.settle(&last.places, true);
    gate.reconcile(&[(key.clone(), 2)], asked).await;
    assert_eq!(gate.left(&id("c"), noon()).unwrap(), Some(1));
    // The store refuses with a count that is as new as can be: that is believed.
    let refused = ticket(&gate, "c", noon()).await;
    gate.hand_back(&refused, &[(key, 2)]);
    assert_eq!(gate.left(&id("c"), noon()).unwrap(), Some(0));
}

async fn a_delivery_that_has_its_places_already_is_not_counted_twice<F, Fut>(make: &F)
where
    F: Fn(Network) -> Fut,
    Fut: Future<Output = Subject>,
{
    let gate = make(network("", &[("c", "limits = { daily = 1, monthly = 2 }")])).await;
    let first = ticket(&gate, "c", noon()).await;
    let owned: Vec<PlaceKey> = first.places.iter().map(|place| place.key.clone()).collect();
    shut(&gate, "c", noon()).await;
    let Answer::Open(again) = gate.take_again(&id("c"), noon(), &owned).await.unwrap() else {
        panic!("its own place is in its way")
    };
    assert_eq!(again.places, first.places);
    gate.hand_back(&again, &[]);
    assert_eq!(gate.left(&id("c"), noon()).unwrap(), Some(0), "it still has its own");
    // The next day it takes that day's, and keeps the month's.
    let tomorrow = noon() + SignedDuration::from_hours(24);
    gate.take_again(&id("c"), tomorrow, &owned).await.unwrap();
    assert_eq!(gate.left(&id("c"), tomorrow).unwrap(), Some(0));
    let later = tomorrow + SignedDuration::from_hours(24);
    assert_eq!(gate.left(&id("c"), later).unwrap(), Some(1), "one of the month is left");
}

async fn a_new_network_keeps_counts_and_pauses<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(make: &F) {
    let gate = make(network("", &[("a", "limits = { daily = 2 }"), ("b", "")])).await;
    gate.set_paused(Paused::Contract(id("b")), true).await;
    ticket(&gate, "a", noon()).await;
    ticket(&gate, "a", noon()).await;
    gate.install(network("", &[("a", "limits = { daily = 3 }"), ("b", "")]), 2).await;
    ticket(&gate, "a", noon()).await;
    shut(&gate, "a", noon()).await;
    assert_eq!(shut(&gate, "b", noon()).await.reason, ShutReason::Paused);
    // A limit lowered below what is used already holds at once.
    gate.install(network("", &[("a", "limits = { daily = 1 }")]), 3).await;
    shut(&gate, "a", noon()).await;
    assert_eq!(gate.left(&id("a"), noon()).unwrap(), Some(0));
}

async fn a_contract_without_rules_is_not_known_rather_than_shut<
    F: Fn(Network) -> Fut,
    Fut: Future<Output = Subject>,
>(
    make: &F,
) {
    let gate = make(network("", &[("c", "")])).await;
    let unknown = GateUnavailable::NoRules(id("gone"));
    assert_eq!(gate.take(&id("gone"), noon(), false).await, Err(unknown.clone()));
    assert_eq!(gate.look(&id("gone"), noon()).await, Err(unknown.clone()));
    assert_eq!(gate.left(&id("gone"), noon()), Err(unknown));
}

async fn what_is_left_is_the_least_of_all_limits<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(make: &F) {
    let gate =
        make(network("limits = { monthly = 3 }", &[("a", "limits = { daily = 2 }"), ("b", ""), ("c", "")])).await;
    assert_eq!(gate.left(&id("a"), noon()).unwrap(), Some(2));
    assert_eq!(gate.left(&id("b"), noon()).unwrap(), Some(3));
    ticket(&gate, "c", noon()).await;
    ticket(&gate, "c", noon()).await;
    assert_eq!(gate.left(&id("a"), noon()).unwrap(), Some(1));
    let tomorrow = noon() + SignedDuration::from_hours(24);
    ticket(&gate, "a", tomorrow).await;
    assert_eq!(gate.left(&id("a"), tomorrow).unwrap(), Some(0));
    let gate = make(network("", &[("free", "")])).await;
    assert_eq!(gate.left(&id("free"), noon()).unwrap(), None);
}

#[derive(Debug, Clone)]
enum Event {
    Take {
        contract: &'static str,
        bypass: bool,
    },
    /// The attempt at this index of those that hold places ends.
    End {
        which: prop::sample::Index,
        given_back: bool,
    },
    Pause {
        who: Option<&'static str>,
        paused: bool,
    },
    Pass {
        hours: i64,
    },
    /// The gate is told what the list says, as after a restart.
    Reconcile,
}

fn any_event() -> impl Strategy<Value = Event> {
    let contract = || prop::sample::select(vec!["a", "b"]);
    prop_oneof![
        8 => (contract(), prop::bool::weighted(0.1)).prop_map(|(contract, bypass)| Event::Take { contract, bypass }),
        3 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(which, given_back)| Event::End { which, given_back }),
        1 => (prop::option::of(contract()), prop::bool::weighted(0.3))
            .prop_map(|(who, paused)| Event::Pause { who, paused }),
        3 => (1..40i64).prop_map(|hours| Event::Pass { hours }),
        1 => Just(Event::Reconcile),
    ]
}

/// What the gate should know, as a list of places held and nothing cleverer.
#[derive(Default)]
struct Held(Vec<(&'static str, jiff::civil::Date, Vec<Place>)>);

impl Held {
    /// Partner: 3 a day. Contract a: 4 a month. Contract b: 2 a day and 6 ever.
    fn allows(&self, contract: &str, today: jiff::civil::Date) -> bool {
        let count = |wanted: &dyn Fn(&str, jiff::civil::Date) -> bool| {
            self.0.iter().filter(|(contract, date, _)| wanted(contract, *date)).count()
        };
        let own_day = count(&|other, date| other == contract && date == today);
        let own_month = count(&|other, date| other == contract && date.first_of_month() == today.first_of_month());
        let own_total = count(&|other, _| other == contract);
        count(&|_, date| date == today) < 3
            && if contract == "a" { own_month < 4 } else { own_day < 2 && own_total < 6 }
    }
}

fn any_history_agrees_with_a_list_of_who_has_what<F: Fn(Network) -> Fut, Fut: Future<Output = Subject>>(
    runtime: &tokio::runtime::Runtime,
    make: &F,
) {
    let zone = jiff::tz::TimeZone::get("America/New_York").unwrap();
    let mut runner = TestRunner::new(Config { cases: 64, ..Config::default() });
    let history = prop::collection::vec(any_event(), 1..120);
    let result = runner.run(&history, |events| {
        runtime.block_on(async {
            let gate = make(network(
                "timezone = \"America/New_York\"\nlimits = { daily = 3 }",
                &[("a", "limits = { monthly = 4 }"), ("b", "limits = { daily = 2, total = 6 }")],
            ))
            .await;
            let mut now = at("2026-10-25T02:30:00Z");
            let mut held = Held::default();
            let mut paused: Vec<Option<&str>> = Vec::new();
            for event in events {
                let today = zone.to_datetime(now).date();
                match event {
                    Event::Take { contract, bypass } => {
                        let reason = match gate.take(&id(contract), now, bypass).await.unwrap() {
                            Answer::Open(ticket) if bypass => {
                                prop_assert!(ticket.places.is_empty());
                                None
                            }
                            Answer::Open(ticket) => {
                                gate.made(&ticket);
                                held.0.push((contract, today, ticket.places));
                                None
                            }
                            Answer::Shut(shut) => Some(shut.reason),
                        };
                        let expected = if paused.contains(&None) || paused.contains(&Some(contract)) {
                            Some(ShutReason::Paused)
                        } else {
                            let before = held.0.len() - usize::from(reason.is_none() && !bypass);
                            let allowed = Held(held.0[..before].to_vec()).allows(contract, today);
                            (!bypass && !allowed).then_some(ShutReason::Full)
                        };
                        prop_assert_eq!(reason, expected);
                    }
                    Event::End { which, given_back } if !held.0.is_empty() => {
                        let which = which.index(held.0.len());
                        gate.settle(&held.0[which].2, given_back);
                        if given_back {
                            held.0.remove(which);
                        }
                    }
                    Event::End { .. } => {}
                    Event::Pause { who, paused: pause } => {
                        paused.retain(|other| *other != who);
                        paused.extend(pause.then_some(who));
                        let who = match who {
                            None => Paused::Partner("brightroof".parse().unwrap()),
                            Some(contract) => Paused::Contract(id(contract)),
                        };
                        gate.set_paused(who, pause).await;
                    }
                    Event::Pass { hours } => now += SignedDuration::from_hours(hours),
                    Event::Reconcile => {
                        let mut counts: Vec<(PlaceKey, u64)> = Vec::new();
                        for place in held.0.iter().flat_map(|(_, _, places)| places) {
                            match counts.iter_mut().find(|(key, _)| *key == place.key) {
                                Some((_, used)) => *used += 1,
                                None => counts.push((place.key.clone(), 1)),
                            }
                        }
                        tell(&gate, &counts).await;
                    }
                }
            }
            Ok(())
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
