//! What becomes of a lead while contracts are closed, full or paused: where it goes, where it waits, for how long, and
//! that it is sent the moment it may be.

use jiff::{SignedDuration, Timestamp};
use lead_gateway::clock::Clock;
use serde_json::{Value, json};

use crate::desk::{
    Desk, Reply, apply, assert_places_agree, count, in_state, number_of, numbered, outcomes, partner, post_all, posted,
    settled, shown, steps,
};
use crate::harness::{Gateway, World, at, text_at};

mod window;

/// Nine to five on working days; June 15th 2026 is a Monday.
const OFFICE: &str = "schedule = { mon-fri = \"09:00-17:00\" }";

fn world(buyers: &[String]) -> World {
    World::new(&buyers.concat())
}

fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

/// Waits until these are a lead's deliveries; see [`steps`].
async fn goes(gateway: &Gateway, lead: &str, expected: &[&str]) -> Value {
    gateway.eventually(&format!("/v1/leads/{lead}"), |lead| steps(lead) == expected).await
}

fn named(number: usize, name: &str) -> Value {
    json!({"email": format!("n{number}@example.com"), "name": name})
}

/// Beside `other`, who refuses leads of an odd number, three contracts: each says something else to do while it is shut
/// for `reason`, and takes the leads that bear its name.
async fn each_policy_is_kept(reason: &str, of_partner: &str, until: Option<&str>) {
    let desk =
        Desk::start(
            |visit| {
                if visit.contract == "other" && number_of(&visit.email) % 2 == 1 { Reply::No } else { Reply::Yes }
            },
        )
        .await;
    let mut buyers: Vec<String> = ["next", "hold", "skip"]
        .iter()
        .map(|policy| {
            let keys = format!(
                "priority = 1\nwhen_{reason} = \"{policy}\"\nfilters = {{ field = \"name\", equals = \"{policy}\" }}"
            );
            desk.buyer(policy, of_partner, &keys)
        })
        .collect();
    buyers.push(desk.buyer("other", "", "priority = 2"));
    let world = world(&buyers);
    let clock = Clock::manual(at("2026-06-15T11:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    let mut sent = 0;
    for policy in ["next", "hold", "skip"] {
        match reason {
            "full" => {
                let first = posted(&gateway, &named(0, policy)).await;
                gateway.lead_becomes(&first, "sold").await;
                sent += 1;
            }
            "paused" => {
                let answer = gateway.act(&format!("/v1/partners/{policy}/pause"), &json!({})).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
            }
            _ => {}
        }
    }
    settled(&gateway).await;

    let passed = |policy: &str| format!("{policy} skipped {reason}");
    // Somebody else takes it.
    for policy in ["next", "skip"] {
        let answer = gateway.post_and_wait(&named(2, policy)).await;
        assert_eq!((answer.status, answer.at("/status")), (200, "sold".to_owned()), "{policy}");
        let lead = gateway.lead(&answer.at("/lead_id")).await;
        assert_eq!(steps(&lead), [passed(policy), "other accepted".to_owned()]);
        // It was passed over in the commit that took the lead in.
        assert_eq!(text_at(&lead, "/deliveries/0/created_at"), text_at(&lead, "/received_at"));
        sent += 1;
    }
    let hold = posted(&gateway, &named(2, "hold")).await;
    let held = format!("hold held {reason}");
    assert_eq!(steps(&gateway.lead(&hold).await), [held.as_str()]);
    // Nobody else does.
    let answer = gateway.post_and_wait(&named(3, "skip")).await;
    assert_eq!((answer.at("/status"), answer.at("/reason")), ("unsold".to_owned(), "no_buyer".to_owned()));
    let began = lead_gateway::clock::instant();
    let answer = gateway.post_and_wait(&named(3, "next")).await;
    assert_eq!((answer.status, answer.at("/status")), (202, "pending".to_owned()), "{}", answer.text);
    assert!(began.elapsed() < std::time::Duration::from_secs(15), "it was held, and its source kept waiting");
    let next = answer.at("/lead_id");
    sent += 2;
    let waits = format!("next held {reason}");
    let lead = goes(&gateway, &next, &[&passed("next"), "other rejected", &waits]).await;
    for held in [&lead["deliveries"][2]["held"], &gateway.lead(&hold).await["deliveries"][0]["held"]] {
        assert_eq!(
            *held,
            json!({"reason": reason, "until": until.map(|until| shown(at(until))), "timezone": "Europe/London"})
        );
    }
    assert_eq!(desk.visits().len(), sent);

    // It opens.
    match until {
        Some(until) => clock.set(at(until)),
        None => {
            for policy in ["next", "hold", "skip"] {
                gateway.act(&format!("/v1/partners/{policy}/resume"), &json!({})).await;
            }
        }
    }
    for lead in [hold, next] {
        gateway.lead_becomes(&lead, "sold").await;
    }
    settled(&gateway).await;
    assert_eq!(desk.visits().len(), sent + 2);
    assert_places_agree(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_closed_a_lead_goes_on_waits_or_is_offered_others_only() {
    each_policy_is_kept("closed", "schedule = { mon-sun = \"18:00-20:00\" }", Some("2026-06-15T17:00:00Z")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_full_a_lead_goes_on_waits_or_is_offered_others_only() {
    each_policy_is_kept("full", "limits = { daily = 1, monthly = 90 }", Some("2026-06-15T23:00:00Z")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_paused_a_lead_goes_on_waits_or_is_offered_others_only() {
    each_policy_is_kept("paused", "", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nobody_open_a_lead_waits_where_it_opens_first() {
    let desk = Desk::willing().await;
    let opens = |id: &str, hour: u32| desk.buyer(id, &format!("schedule = {{ mon-sun = \"{hour}:00-20:00\" }}"), "");
    let world = world(&[opens("late", 11), opens("first", 10), desk.buyer("paused", "", ""), opens("never", 12)]);
    let clock = Clock::manual(at("2026-06-15T08:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    for id in ["partners/paused", "contracts/never"] {
        gateway.act(&format!("/v1/{id}/pause"), &json!({})).await;
    }
    let lead = posted(&gateway, &numbered(0)).await;
    let seen = gateway.lead(&lead).await;
    let mut passed: Vec<String> = steps(&seen);
    assert_eq!(passed.pop().unwrap(), "first held closed");
    passed.sort();
    let expected = ["first skipped closed", "late skipped closed", "never skipped paused", "paused skipped paused"];
    assert_eq!(passed, expected);
    assert_eq!(text_at(&seen, "/deliveries/4/held/until"), "2026-06-15T09:00:00.000000Z");
    clock.set(at("2026-06-15T09:00:00Z"));
    gateway.lead_becomes(&lead, "sold").await;
    assert_eq!(desk.sent_to("first").len(), 1);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_is_sent_at_the_opening_in_the_order_it_came_and_nobody_overtakes() {
    let desk = Desk::willing().await;
    let world = world(&[desk.buyer_with("a", OFFICE, "when_closed = \"hold\"\nhold_for = \"3d\"", "concurrency = 1")]);
    // Saturday noon; Monday nine is 08:00 in UTC.
    let start = at("2026-06-13T11:00:00Z");
    let clock = Clock::manual(start);
    let gateway = world.start_inside(clock.clone()).await;
    for number in 0..8 {
        clock.set(start + minutes(number));
        posted(&gateway, &numbered(usize::try_from(number).unwrap())).await;
    }
    clock.set(at("2026-06-15T07:59:59.999999Z"));
    let last = posted(&gateway, &numbered(8)).await;
    let held = gateway.last_delivery_becomes(&last, "queued").await;
    assert_eq!(text_at(&held, "/held/until"), "2026-06-15T08:00:00.000000Z");
    assert_eq!(desk.visits(), []);
    clock.set(at("2026-06-15T08:00:00Z"));
    post_all(&gateway, (9..25).map(numbered)).await;
    desk.wait_for(25).await;
    let order: Vec<usize> = desk.sent_to("a").iter().map(|email| number_of(email)).collect();
    assert_eq!(order[..9], [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    settled(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_are_kept_across_clock_changes_midnights_and_closed_days() {
    // zone, partner's hours, when the lead comes, when it is sent
    let cases = [
        // The hour from 01:00 does not exist: half past one is skipped, so it opens at two, British Summer Time.
        ("Europe/London", "schedule = { sun = \"01:30-03:00\" }", "2026-03-29T00:10:00Z", "2026-03-29T01:00:00Z"),
        // The hour from 01:00 comes twice: it opens the first time.
        ("Europe/London", "schedule = { sun = \"01:30-03:00\" }", "2026-10-25T00:10:00Z", "2026-10-25T00:30:00Z"),
        // 09:00 in New York before and after the spring change.
        (
            "America/New_York",
            "schedule = { mon-sun = \"09:00-17:00\" }",
            "2026-03-07T22:30:00Z",
            "2026-03-08T13:00:00Z",
        ),
        // A window across midnight belongs to the day it opens: Saturday's small hours are Friday's, Sunday's nobody's.
        ("Asia/Tokyo", "schedule = { fri = \"22:00-02:00\" }", "2026-06-12T12:59:00Z", "2026-06-12T13:00:00Z"),
        ("Asia/Tokyo", "schedule = { fri-sat = \"22:00-02:00\" }", "2026-06-12T17:00:00Z", "2026-06-13T13:00:00Z"),
        // Christmas is not worked, whatever the weekday.
        (
            "Europe/London",
            "schedule = { mon-sun = \"09:00-17:00\" }\nclosed_on = [\"2026-12-25\", \"2026-12-26\"]",
            "2026-12-24T17:00:00Z",
            "2026-12-27T09:00:00Z",
        ),
    ];
    let desk = Desk::willing().await;
    let buyers: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(index, (zone, hours, ..))| {
            let keys = format!(
                "when_closed = \"hold\"\nhold_for = \"7d\"\nfilters = {{ field = \"name\", equals = \"case {index}\" }}"
            );
            desk.buyer(&format!("case{index}"), &format!("timezone = \"{zone}\"\n{hours}"), &keys)
        })
        .collect();
    let world = world(&buyers);
    for (index, (zone, hours, comes, opens)) in cases.into_iter().enumerate() {
        let clock = Clock::manual(at(comes));
        let gateway = world.start_inside(clock.clone()).await;
        let lead = posted(&gateway, &named(index, &format!("case {index}"))).await;
        let until = shown(at(opens));
        let held = json!({"reason": "closed", "until": until, "timezone": zone});
        assert_eq!(gateway.lead(&lead).await["deliveries"][0]["held"], held, "{hours} from {comes}");
        clock.set(at(opens) - SignedDuration::from_micros(1));
        assert_eq!(gateway.lead(&lead).await["deliveries"][0]["held"], held, "{hours} from {comes}");
        assert_eq!(desk.visits().len(), index);
        clock.set(at(opens));
        gateway.lead_becomes(&lead, "sold").await;
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_midnight_a_full_contract_sends_as_many_as_its_limit_and_no_more() {
    let desk = Desk::willing().await;
    let world = world(&[desk.buyer("a", "limits = { daily = 3 }", "when_full = \"hold\"\nhold_for = \"7d\"")]);
    let clock = Clock::manual(at("2026-06-15T11:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    post_all(&gateway, (0..11).map(numbered)).await;
    for (day, sent) in [(15, 3), (16, 6), (17, 9), (18, 11)] {
        clock.set(at(&format!("2026-06-{}T23:00:00Z", day - 1)).max(clock.now()));
        desk.wait_for(sent).await;
        settled(&gateway).await;
        assert_eq!(desk.visits().len(), sent, "on day {day}");
        assert_eq!(count(&gateway, &format!("contract/a/d2026-06-{day}")).await, if day == 18 { 2 } else { 3 });
        assert_places_agree(&gateway).await;
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waited_longer_than_hold_for_goes_to_the_next_or_is_unsold_as_expired() {
    let desk = Desk::willing().await;
    let world = world(&[
        desk.buyer("paused", "", "priority = 1\nwhen_paused = \"hold\"\nhold_for = \"2h\""),
        desk.buyer("other", "", "priority = 2\nfilters = { field = \"name\", equals = \"both\" }"),
    ]);
    let start = at("2026-06-15T11:00:00Z");
    let clock = Clock::manual(start);
    let gateway = world.start_inside(clock.clone()).await;
    gateway.act("/v1/contracts/paused/pause", &json!({})).await;
    let both = posted(&gateway, &named(0, "both")).await;
    clock.set(start + minutes(1));
    let alone = posted(&gateway, &named(1, "alone")).await;
    clock.set(start + minutes(120) - SignedDuration::from_micros(1));
    for lead in [&both, &alone] {
        assert_eq!(steps(&gateway.lead(lead).await), ["paused held paused"]);
    }
    clock.set(start + minutes(120));
    let both = gateway.lead_becomes(&both, "sold").await;
    assert_eq!(outcomes(&both), ["paused expired", "other accepted"]);
    assert_eq!(steps(&gateway.lead(&alone).await), ["paused held paused"], "it came a minute later");
    clock.set(start + minutes(121));
    let alone = gateway.lead_becomes(&alone, "unsold").await;
    assert_eq!(steps(&alone), ["paused expired"]);
    assert_eq!(text_at(&alone, "/reason"), "expired");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_waited_for_who_opens_too_late_or_never() {
    let desk = Desk::willing().await;
    let wants = |name: &str| format!("filters = {{ field = \"name\", equals = \"{name}\" }}");
    let world = world(&[
        desk.buyer("late", OFFICE, &format!("when_closed = \"hold\"\nhold_for = \"15h\"\n{}", wants("late"))),
        desk.buyer("in-time", OFFICE, &format!("when_closed = \"hold\"\nhold_for = \"16h\"\n{}", wants("in-time"))),
        desk.buyer("used-up", "limits = { total = 1 }", &format!("when_full = \"hold\"\n{}", wants("used-up"))),
        desk.buyer("month", "limits = { monthly = 1 }", &format!("when_full = \"hold\"\n{}", wants("month"))),
    ]);
    // Five in the afternoon in London, sixteen hours before nine.
    let clock = Clock::manual(at("2026-06-15T16:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    for first in ["used-up", "month"] {
        let lead = posted(&gateway, &named(0, first)).await;
        gateway.lead_becomes(&lead, "sold").await;
    }
    for (name, reason) in [("late", "closed"), ("used-up", "full"), ("month", "full")] {
        let answer = gateway.post_and_wait(&named(1, name)).await;
        assert_eq!((answer.status, answer.at("/status")), (200, "unsold".to_owned()), "{name}");
        let lead = gateway.lead(&answer.at("/lead_id")).await;
        assert_eq!(steps(&lead), [format!("{name} skipped {reason}")]);
    }
    let lead = posted(&gateway, &named(1, "in-time")).await;
    assert_eq!(steps(&gateway.lead(&lead).await), ["in-time held closed"]);
    clock.set(at("2026-06-16T08:00:00Z"));
    gateway.lead_becomes(&lead, "sold").await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_passed_over_when_a_limit_is_lowered_for_good() {
    let desk = Desk::willing().await;
    let buyers = |limits: &str| desk.buyer("a", limits, "when_full = \"hold\"");
    let world = world(&[buyers("limits = { daily = 1 }")]);
    let gateway = world.start_inside(Clock::manual(at("2026-06-15T11:00:00Z"))).await;
    let sold = posted(&gateway, &numbered(0)).await;
    gateway.lead_becomes(&sold, "sold").await;
    let waits = posted(&gateway, &numbered(1)).await;
    goes(&gateway, &waits, &["a held full"]).await;
    apply(&world, &gateway, &buyers("limits = { total = 1 }")).await;
    let waits = gateway.lead_becomes(&waits, "unsold").await;
    assert_eq!(steps(&waits), ["a skipped full"]);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_wakes_those_who_wait_at_once() {
    let desk = Desk::willing().await;
    let world = world(&[desk.buyer("a", "", "when_paused = \"hold\"")]);
    let gateway = world.start_inside(Clock::manual(at("2026-06-15T11:00:00Z"))).await;
    for who in ["partners/a", "contracts/a"] {
        gateway.act(&format!("/v1/{who}/pause"), &json!({})).await;
        let before = desk.visits().len();
        let leads = post_all(&gateway, (before..before + 5).map(numbered)).await;
        for lead in &leads {
            assert_eq!(steps(&gateway.lead(&lead.at("/lead_id")).await), ["a held paused"]);
        }
        gateway.act(&format!("/v1/{who}/resume"), &json!({})).await;
        desk.wait_for(before + 5).await;
        settled(&gateway).await;
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_attempt_is_never_passed_over() {
    let desk = Desk::start(|visit| match (visit.contract.as_str(), visit.before) {
        ("a", 0) => Reply::Broken,
        _ => Reply::Yes,
    })
    .await;
    let keys =
        "priority = 1\non_unknown = \"retry\"\nwhen_closed = \"skip\"\nwhen_paused = \"skip\"\nhold_for = \"20h\"";
    let world = world(&[desk.buyer("a", OFFICE, keys), desk.buyer("other", "", "priority = 2")]);
    // Five seconds before closing time: the retry comes after it.
    let clock = Clock::manual(at("2026-06-15T15:59:55Z"));
    let gateway = world.start_inside(clock.clone()).await;
    let lead = posted(&gateway, &numbered(0)).await;
    desk.wait_for(1).await;
    gateway.eventually(&format!("/v1/leads/{lead}"), |lead| lead["deliveries"][0]["due_at"].is_string()).await;
    clock.set(at("2026-06-15T16:01:00Z"));
    goes(&gateway, &lead, &["a held closed"]).await;
    gateway.act("/v1/contracts/a/pause", &json!({})).await;
    goes(&gateway, &lead, &["a held paused"]).await;
    gateway.act("/v1/contracts/a/resume", &json!({})).await;
    clock.set(at("2026-06-16T08:00:00Z"));
    let lead = gateway.lead_becomes(&lead, "sold").await;
    assert_eq!(steps(&lead), ["a accepted"]);
    assert_eq!(desk.sent_to("a").len(), 2);

    // One that waited longer than hold_for is for a person.
    clock.set(at("2026-06-19T15:59:55Z"));
    let lead = posted(&gateway, &numbered(1)).await;
    desk.wait_for(3).await;
    gateway.eventually(&format!("/v1/leads/{lead}"), |lead| lead["deliveries"][0]["due_at"].is_string()).await;
    clock.set(at("2026-06-19T16:01:00Z"));
    goes(&gateway, &lead, &["a held closed"]).await;
    clock.set(at("2026-06-20T12:10:00Z"));
    let unknown = gateway.last_delivery_becomes(&lead, "unknown").await;
    assert_eq!(text_at(&unknown, "/verdict"), "unknown");
    assert_eq!(count(&gateway, "contract/a/d2026-06-19").await, 1, "its place stays taken");
    assert_places_agree(&gateway).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_is_due_while_closed_is_passed_over_or_waits() {
    let busy_once = |visit: &crate::desk::Visit| match (visit.contract.as_str(), visit.before) {
        ("other", _) if number_of(&visit.email) == 1 => Reply::No,
        ("other", _) => Reply::Yes,
        (_, 0) => Reply::Busy,
        _ => Reply::Yes,
    };
    let desk = Desk::start(busy_once).await;
    let wants = |name: &str| {
        format!("priority = 1\nwhen_closed = \"{name}\"\nfilters = {{ field = \"name\", equals = \"{name}\" }}")
    };
    // An hour from first to last, held time not counted: the night is fifteen.
    let endpoint = "retry = { first = \"10s\", give_up_after = \"1h\" }";
    let world = world(&[
        desk.buyer_with("next", OFFICE, &wants("next"), endpoint),
        desk.buyer_with("hold", OFFICE, &wants("hold"), endpoint),
        desk.buyer("other", "", "priority = 2"),
    ]);
    let clock = Clock::manual(at("2026-06-15T15:59:55Z"));
    let gateway = world.start_inside(clock.clone()).await;
    let taken = posted(&gateway, &named(0, "next")).await;
    let refused = posted(&gateway, &named(1, "next")).await;
    let holds = posted(&gateway, &named(2, "hold")).await;
    desk.wait_for(3).await;
    settled(&gateway).await;
    clock.set(at("2026-06-15T16:01:00Z"));
    goes(&gateway, &taken, &["next skipped closed", "other accepted"]).await;
    goes(&gateway, &refused, &["next skipped closed", "other rejected", "next held closed"]).await;
    goes(&gateway, &holds, &["hold held closed"]).await;
    clock.set(at("2026-06-16T08:00:00Z"));
    let holds = gateway.lead_becomes(&holds, "sold").await;
    assert_eq!(text_at(&holds, "/deliveries/0/attempt_count"), "2");
    gateway.lead_becomes(&refused, "sold").await;
    settled(&gateway).await;
    assert_places_agree(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_held_does_not_count_for_giving_up_and_time_before_the_first_attempt_gives_none_away() {
    let desk = Desk::start(|_| Reply::Later).await;
    let endpoint = "retry = { max_attempts = 100, first = \"10m\", max = \"10m\", give_up_after = \"1h\" }";
    let world = world(&[desk.buyer_with("a", OFFICE, "when_closed = \"hold\"", endpoint)]);
    // Sunday evening, twelve hours before it opens.
    let clock = Clock::manual(at("2026-06-14T20:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    let lead = posted(&gateway, &numbered(0)).await;
    goes(&gateway, &lead, &["a held closed"]).await;
    let opens = at("2026-06-15T08:00:00Z");
    clock.set(opens);
    let last = retried_until_failed(&gateway, &desk, &clock, &lead).await;
    let took = last.duration_since(opens);
    assert!(minutes(40) < took && took <= minutes(60), "the last attempt was after {took}");

    // 45 minutes before closing time: the rest of its hour is in the morning.
    let start = at("2026-06-15T15:15:00Z");
    clock.set(start);
    let lead = posted(&gateway, &numbered(1)).await;
    let last = retried_until_failed(&gateway, &desk, &clock, &lead).await;
    let took = last.duration_since(start) - SignedDuration::from_hours(16);
    assert!(minutes(40) < took && took <= minutes(60), "the last attempt was after {took} of open time");
    // At the opening itself, where the pause before it began right before closing time.
    assert!(last >= at("2026-06-16T08:00:00Z"), "the last attempt was at {last}");
    gateway.finish().await;
}

/// Moves the clock from attempt to attempt until the lead's delivery has failed; when the last attempt was.
async fn retried_until_failed(gateway: &Gateway, desk: &Desk, clock: &Clock, lead: &str) -> Timestamp {
    let path = format!("/v1/leads/{lead}");
    let mut visits = desk.visits().len();
    loop {
        desk.wait_for(visits).await;
        let seen = gateway
            .eventually(&path, |lead| {
                let delivery = &lead["deliveries"][0];
                let waits =
                    delivery["state"] == "queued" && (delivery["due_at"].is_string() || !delivery["held"].is_null());
                waits || delivery["state"] == "failed"
            })
            .await;
        let delivery = &seen["deliveries"][0];
        if delivery["state"] == "failed" {
            return clock.now();
        }
        let due: Timestamp = match text_at(delivery, "/held/until").as_str() {
            "null" => at(&text_at(delivery, "/due_at")),
            until => at(until),
        };
        let attempts = delivery["attempt_count"].clone();
        clock.set(due.max(clock.now()));
        visits += 1;
        gateway
            .eventually(&path, |lead| {
                let delivery = &lead["deliveries"][0];
                delivery["attempt_count"] != attempts || !delivery["held"].is_null()
            })
            .await;
        visits = desk.visits().len().min(visits);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redelivery_to_a_closed_contract_waits_for_its_opening() {
    let desk = Desk::willing().await;
    let world = world(&[desk.buyer("a", OFFICE, "when_closed = \"skip\"\nhold_for = \"20h\"")]);
    let clock = Clock::manual(at("2026-06-15T15:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    let lead = posted(&gateway, &numbered(0)).await;
    let sold = gateway.last_delivery_becomes(&lead, "accepted").await;
    clock.set(at("2026-06-15T16:00:00Z"));
    let path = format!("/v1/deliveries/{}/redeliver", text_at(&sold, "/id"));
    assert_eq!(gateway.act(&path, &json!({"reason": "they lost it"})).await.status, 202);
    goes(&gateway, &lead, &["a accepted", "a held closed"]).await;
    clock.set(at("2026-06-16T08:00:00Z"));
    goes(&gateway, &lead, &["a accepted", "a accepted"]).await;
    assert_eq!(desk.visits().len(), 2);
    assert_places_agree(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bypass_goes_past_those_that_wait_and_does_not_make_them_wait_longer() {
    let desk = Desk::willing().await;
    let world = world(&[desk.buyer("a", "limits = { daily = 1 }", "when_full = \"hold\"\nhold_for = \"13h\"")]);
    let start = at("2026-06-15T11:00:00Z");
    let clock = Clock::manual(start);
    let gateway = world.start_inside(clock.clone()).await;
    let first = posted(&gateway, &numbered(0)).await;
    let sold = gateway.last_delivery_becomes(&first, "accepted").await;
    let waits = posted(&gateway, &numbered(1)).await;
    goes(&gateway, &waits, &["a held full"]).await;
    // Paused as well, so that midnight does not let it go.
    clock.set(start + minutes(10 * 60));
    let path = format!("/v1/deliveries/{}/redeliver", text_at(&sold, "/id"));
    gateway.act(&path, &json!({})).await;
    desk.wait_for(2).await;
    settled(&gateway).await;
    goes(&gateway, &waits, &["a held full"]).await;
    gateway.act("/v1/contracts/a/pause", &json!({})).await;
    clock.set(start + minutes(13 * 60));
    let waits = gateway.lead_becomes(&waits, "unsold").await;
    assert_eq!(steps(&waits), ["a expired"]);
    assert_eq!(desk.visits().len(), 2);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_larger_than_memory_is_sent_in_order() {
    let desk = Desk::willing().await;
    let world = world(&[desk.buyer_with("a", OFFICE, "when_closed = \"hold\"", "concurrency = 1")]);
    let start = at("2026-06-15T06:00:00Z");
    let clock = Clock::manual(start);
    let gateway = world.start_inside(clock.clone()).await;
    for block in 0..5 {
        clock.set(start + minutes(block));
        let from = usize::try_from(block).unwrap() * 100;
        post_all(&gateway, (from..from + 100).map(numbered)).await;
    }
    clock.set(at("2026-06-15T08:00:00Z"));
    desk.wait_for(300).await;
    let blocks: Vec<usize> = desk.sent_to("a").iter().take(300).map(|email| number_of(email) / 100).collect();
    assert!(blocks.is_sorted(), "who came later was sent earlier");
    desk.wait_for(500).await;
    settled(&gateway).await;
    let mut all = desk.sent_to("a");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 500, "each once");
    assert_eq!(in_state(&gateway, "queued").await, 0);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_passes_over_a_backlog_larger_than_memory() {
    let desk = Desk::willing().await;
    let world = world(&[
        desk.buyer_with("a", "", "priority = 1\nwhen_paused = \"next\"", "concurrency = 1"),
        desk.buyer("other", "", "priority = 2"),
    ]);
    let gateway = world.start_inside(Clock::manual(at("2026-06-15T11:00:00Z"))).await;
    desk.silence(&["a"]);
    for block in 0..4 {
        post_all(&gateway, (block * 100..block * 100 + 100).map(numbered)).await;
    }
    gateway.act("/v1/partners/a/pause", &json!({})).await;
    desk.release(&["a"]);
    desk.wait_for(400).await;
    settled(&gateway).await;
    assert_eq!(desk.counts(), [("a".to_owned(), 1), ("other".to_owned(), 399)].into());
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contracts_of_one_partner_wake_when_its_day_begins_and_share_it() {
    let desk = Desk::willing().await;
    let wants = |name: &str| {
        format!("when_full = \"hold\"\nhold_for = \"2d\"\nfilters = {{ field = \"name\", equals = \"{name}\" }}")
    };
    let world = world(&[
        partner("p", "timezone = \"America/New_York\"\nlimits = { daily = 4 }"),
        desk.contract("a", "p", &wants("a"), ""),
        desk.contract("b", "p", &wants("b"), ""),
    ]);
    let clock = Clock::manual(at("2026-11-01T03:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    post_all(&gateway, (0..12).map(|number| named(number, if number % 2 == 0 { "a" } else { "b" }))).await;
    desk.wait_for(4).await;
    settled(&gateway).await;
    assert_places_agree(&gateway).await;
    // November 1st has 25 hours in New York.
    for (midnight, sent) in [("2026-11-01T04:00:00Z", 8), ("2026-11-02T05:00:00Z", 12)] {
        clock.set(at(midnight) - SignedDuration::from_micros(1));
        settled(&gateway).await;
        assert_eq!(desk.visits().len(), sent - 4);
        clock.set(at(midnight));
        desk.wait_for(sent).await;
        settled(&gateway).await;
        assert_eq!(desk.visits().len(), sent);
        assert_places_agree(&gateway).await;
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_at_a_stop_waits_on_after_the_start() {
    let desk = Desk::willing().await;
    let world = world(&[desk.buyer("a", OFFICE, "when_closed = \"hold\"")]);
    let clock = Clock::manual(at("2026-06-15T20:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    let lead = posted(&gateway, &numbered(0)).await;
    goes(&gateway, &lead, &["a held closed"]).await;
    gateway.stop().await;
    let gateway = world.start_inside(clock.clone()).await;
    goes(&gateway, &lead, &["a held closed"]).await;
    clock.set(at("2026-06-16T08:00:00Z"));
    gateway.lead_becomes(&lead, "sold").await;
    assert_eq!(desk.visits().len(), 1);
    gateway.finish().await;
}
