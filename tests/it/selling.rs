//! Who gets a lead, and how many anybody gets: distribution and limits, from the post to the partners, under load.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lead_gateway::clock::Clock;
use lead_gateway::gate::Answer;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::desk::{
    Desk, Reply, apply, assert_places_agree, count, in_state, number_of, numbered, outcomes, partner, post_all, posted,
    settled, steps,
};
use crate::harness::{Gateway, KEY, World, at, lead, text_at};

const LONDON: &str = "timezone = \"Europe/London\"";

/// Noon of a working day in London.
fn noon() -> Clock {
    Clock::manual(at("2026-06-15T11:00:00Z"))
}

fn campaign(keys: &str, network: &[String]) -> World {
    World::with(keys, "", &network.concat())
}

fn accepted(answers: &[crate::harness::Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 202).count()
}

/// Whether `share` of `all` is what `expected` would give by chance, within five standard deviations.
#[track_caller]
fn assert_share(share: usize, all: usize, expected: f64) {
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let (share, all) = (share as f64, all as f64);
    let bound = 5.0 * (all * expected * (1.0 - expected)).sqrt();
    assert!((share - all * expected).abs() <= bound, "{share} of {all}, and {expected} was expected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priority_goes_first_and_ties_are_drawn_by_weight() {
    let desk = Desk::willing().await;
    let world = campaign(
        "distribution = \"priority\"",
        &[
            desk.buyer("later", "", "priority = 2\nweight = 100"),
            desk.buyer("often", "", "priority = 1\nweight = 3"),
            desk.buyer("seldom", "", "priority = 1\nweight = 1"),
        ],
    );
    let gateway = world.start_inside(noon()).await;
    assert_eq!(accepted(&post_all(&gateway, (0..200).map(numbered)).await), 200);
    desk.wait_for(200).await;
    let counts = desk.counts();
    assert_eq!(counts.get("later"), None, "{counts:?}");
    assert_share(counts["often"], 200, 0.75);
    settled(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weighted_gives_each_its_share_and_none_to_who_has_no_weight() {
    let desk = Desk::willing().await;
    let buyers: Vec<String> = [("half", 5), ("third", 3), ("fifth", 2), ("none", 0)]
        .map(|(id, weight)| desk.buyer(id, "", &format!("weight = {weight}")))
        .to_vec();
    let gateway = campaign("distribution = \"weighted\"", &buyers).start_inside(noon()).await;
    post_all(&gateway, (0..300).map(numbered)).await;
    desk.wait_for(300).await;
    let counts = desk.counts();
    assert_eq!(counts.get("none"), None, "{counts:?}");
    for (id, share) in [("half", 0.5), ("third", 0.3), ("fifth", 0.2)] {
        assert_share(counts[id], 300, share);
    }
    settled(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_is_exact_for_leads_that_come_together_and_across_a_restart() {
    let desk = Desk::willing().await;
    let world = campaign("distribution = \"round_robin\"", &["a", "b", "c"].map(|id| desk.buyer(id, "", "")));
    let clock = noon();
    for run in 0..2 {
        let gateway = world.start_inside(clock.clone()).await;
        // 20 and then 40: the restart comes in the middle of a round.
        let (from, to) = [(0, 20), (20, 60)][run];
        assert_eq!(accepted(&post_all(&gateway, (from..to).map(numbered)).await), to - from);
        desk.wait_for(to).await;
        settled(&gateway).await;
        gateway.finish().await;
    }
    assert_eq!(desk.counts(), BTreeMap::from(["a", "b", "c"].map(|id| (id.to_owned(), 20))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_and_posts_over_a_limit_use_no_turn() {
    let desk = Desk::willing().await;
    let world = World::with(
        "distribution = \"round_robin\"\ndedupe = [{ fields = [\"email\"], window = \"30d\" }]",
        "limits = { daily = 61 }",
        &["a", "b", "c"].map(|id| desk.buyer(id, "", "")).concat(),
    );
    let clock = noon();
    let gateway = world.start_inside(clock.clone()).await;
    // The first lead opens the round; then duplicates of it come between fresh ones.
    posted(&gateway, &numbered(0)).await;
    let mixed = (1..=30).flat_map(|number| [numbered(number), numbered(0), numbered(0)]);
    let answers = post_all(&gateway, mixed).await;
    assert_eq!(accepted(&answers), 30);
    assert_eq!(answers.iter().filter(|answer| answer.at("/reason") == "duplicate").count(), 60);
    // 30 more of 60 fit under the source's limit.
    let answers = post_all(&gateway, (100..160).map(numbered)).await;
    assert_eq!(accepted(&answers), 30);
    assert_eq!(answers.iter().filter(|answer| answer.status == 429).count(), 30);
    // Turns that were given back at the end are the next to be used.
    clock.set(at("2026-06-16T11:00:00Z"));
    for number in 200..259 {
        posted(&gateway, &numbered(number)).await;
    }
    desk.wait_for(120).await;
    assert_eq!(desk.counts(), BTreeMap::from(["a", "b", "c"].map(|id| (id.to_owned(), 40))));
    settled(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contract_that_was_shut_keeps_its_turn_and_no_more() {
    let desk = Desk::willing().await;
    let world = campaign("distribution = \"round_robin\"", &["a", "b", "c"].map(|id| desk.buyer(id, "", "")));
    let gateway = world.start_inside(noon()).await;
    gateway.act("/v1/contracts/c/pause", &json!({})).await;
    for number in 0..4 {
        posted(&gateway, &numbered(number)).await;
        desk.wait_for(number + 1).await;
    }
    gateway.act("/v1/contracts/c/resume", &json!({})).await;
    for number in 4..8 {
        posted(&gateway, &numbered(number)).await;
        desk.wait_for(number + 1).await;
    }
    let order: String = desk.visits().into_iter().map(|visit| visit.contract).collect();
    assert_eq!(order, "ababcabc");
    settled(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_is_exact_among_those_whose_filters_match() {
    let desk = Desk::willing().await;
    let wants = |name: &str| format!("filters = {{ field = \"name\", equals = \"{name}\" }}");
    let network = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")].map(|(id, name)| desk.buyer(id, "", &wants(name)));
    let gateway = campaign("distribution = \"round_robin\"", &network).start_inside(noon()).await;
    let leads = (0..40).map(|number| {
        let name = if number % 4 == 0 { "y" } else { "x" };
        json!({"email": format!("n{number}@example.com"), "name": name})
    });
    post_all(&gateway, leads).await;
    desk.wait_for(40).await;
    let expected = [("a", 15), ("b", 15), ("c", 5), ("d", 5)].map(|(id, count)| (id.to_owned(), count));
    assert_eq!(desk.counts(), BTreeMap::from(expected));
    settled(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broadcast_to_all_is_sold_at_the_first_yes_and_goes_on_to_the_others() {
    let desk = Desk::start(|visit| if visit.contract == "b" { Reply::No } else { Reply::Yes }).await;
    let world =
        campaign("distribution = \"broadcast\"\nsell_to = 0", &["a", "b", "c", "d"].map(|id| desk.buyer(id, "", "")));
    let gateway = world.start_inside(noon()).await;
    desk.silence(&["b", "c", "d"]);
    let answer = gateway.post_and_wait(&numbered(0)).await;
    assert_eq!((answer.status, answer.at("/status")), (200, "sold".to_owned()), "while three have not replied");
    desk.wait_for(4).await;
    desk.release(&["b", "c", "d"]);
    settled(&gateway).await;
    let sold = gateway.lead(&answer.at("/lead_id")).await;
    assert_eq!(outcomes(&sold), ["a accepted", "b rejected", "c accepted", "d accepted"]);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_to_two_never_sells_to_a_third_however_they_reply() {
    // A lead's number says who refuses it: bit 0 is a, bit 1 is b …
    let desk = Desk::start(|visit| {
        let bit = visit.contract.bytes().next().unwrap() - b'a';
        if number_of(&visit.email) >> bit & 1 == 1 { Reply::No } else { Reply::Yes }
    })
    .await;
    let buyers = ["a", "b", "c", "d", "e"];
    let world = campaign("distribution = \"broadcast\"\nsell_to = 2", &buyers.map(|id| desk.buyer(id, "", "")));
    let gateway = world.start_inside(noon()).await;
    desk.silence(&buyers);
    let leads = post_all(&gateway, (0..32).map(numbered)).await;
    // 16 at once at each contract: the first half of the leads has both of its slots filled, and nobody replies.
    desk.wait_for(32).await;
    assert_eq!(desk.counts().into_keys().collect::<Vec<_>>(), ["a", "b"], "two at once, the first two");
    desk.release(&buyers);
    settled(&gateway).await;
    assert_eq!(desk.most_at_once(), 2);
    for (number, answer) in leads.iter().enumerate() {
        let lead = gateway.lead(&answer.at("/lead_id")).await;
        let willing: Vec<&str> = (0..5).filter(|bit| number >> bit & 1 == 0).map(|bit| buyers[bit]).collect();
        let sold: Vec<String> = outcomes(&lead).into_iter().filter(|one| one.ends_with("accepted")).collect();
        let expected: Vec<String> = willing.iter().take(2).map(|id| format!("{id} accepted")).collect();
        assert_eq!(sold, expected, "{lead:#}");
        assert_eq!(text_at(&lead, "/status"), if willing.is_empty() { "unsold" } else { "sold" });
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_buyers_by_priority_are_asked_one_after_the_other() {
    let desk = Desk::start(|visit| if visit.contract == "b" { Reply::No } else { Reply::Yes }).await;
    let network = ["a", "b", "c", "d"]
        .map(|id| desk.buyer(id, "", &format!("priority = {}", id.bytes().next().unwrap() - b'a' + 1)));
    let gateway = campaign("sell_to = 2", &network).start_inside(noon()).await;
    let leads = post_all(&gateway, (0..20).map(numbered)).await;
    desk.wait_for(60).await;
    settled(&gateway).await;
    assert_eq!(desk.most_at_once(), 1, "nobody has a lead open while another has");
    for answer in leads {
        let lead = gateway.lead(&answer.at("/lead_id")).await;
        assert_eq!(outcomes(&lead), ["a accepted", "b rejected", "c accepted", "d untried"]);
        assert_eq!(text_at(&lead, "/status"), "sold");
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_contracts_of_one_partner_never_get_the_same_lead() {
    for keys in ["distribution = \"broadcast\"\nsell_to = 0", "sell_to = 3"] {
        let desk = Desk::willing().await;
        let world = campaign(
            keys,
            &[
                partner("p", LONDON),
                desk.contract("p1", "p", "priority = 1", ""),
                desk.contract("p2", "p", "priority = 2", ""),
                desk.buyer("q", "", "priority = 3"),
            ],
        );
        let gateway = world.start_inside(noon()).await;
        let answers = post_all(&gateway, (0..20).map(numbered)).await;
        desk.wait_for(40).await;
        settled(&gateway).await;
        for answer in answers {
            let lead = gateway.lead(&answer.at("/lead_id")).await;
            assert_eq!(outcomes(&lead), ["p1 accepted", "p2 untried", "q accepted"]);
        }
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsold_lead_says_of_each_candidate_what_became_of_it_and_why() {
    let desk = Desk::start(|visit| if visit.contract == "known" { Reply::Known } else { Reply::No }).await;
    let world = campaign(
        "",
        &[
            desk.buyer("no", "", "priority = 1"),
            desk.buyer("known", "", "priority = 2"),
            partner("p", LONDON),
            desk.contract("p1", "p", "priority = 3", ""),
            desk.contract("p2", "p", "priority = 4", ""),
            desk.buyer("shut", "", "priority = 5\nwhen_paused = \"skip\""),
            desk.buyer("picky", "", "filters = { field = \"bill\", min = \"50\" }"),
        ],
    );
    let gateway = world.start_inside(noon()).await;
    gateway.act("/v1/partners/shut/pause", &json!({})).await;
    let answer = gateway.post_and_wait(&numbered(1)).await;
    assert_eq!((answer.status, answer.at("/status")), (200, "unsold".to_owned()));
    assert_eq!(answer.at("/reason"), "no_buyer");
    let lead = gateway.lead(&answer.at("/lead_id")).await;
    assert_eq!(
        outcomes(&lead),
        ["no rejected", "known duplicate", "p1 rejected", "p2 untried", "shut skipped", "picky filtered"]
    );
    let reasons: Vec<String> = (0..6).map(|index| text_at(&lead, &format!("/candidates/{index}/reason"))).collect();
    assert_eq!(reasons[0], "not for us");
    assert!(reasons[3].contains("same partner"), "{reasons:?}");
    assert_eq!(reasons[4], "paused");
    assert!(reasons[5].contains("bill"), "{reasons:?}");
    assert_eq!(steps(&lead), ["no rejected", "known duplicate", "p1 rejected", "shut skipped paused"]);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_contract_gets_the_leads_that_its_filters_want() {
    let desk = Desk::willing().await;
    let filters = [
        ("equals", r#"{ field = "name", equals = "Ann" }"#),
        ("one-of", r#"{ field = "name", one_of = ["Ann", "Bob"] }"#),
        ("range", r#"{ field = "bill", min = "50", max = "99.50" }"#),
        ("prefix", r#"{ field = "postcode", prefix = ["SW", "SE1"] }"#),
        ("regex", r#"{ field = "email", matches = "@(gmail|example)\\.com$" }"#),
        ("not", r#"{ not = { field = "name", equals = "Ann" } }"#),
        ("all", r#"{ all = [{ field = "name", equals = "Ann" }, { field = "bill", min = "50" }] }"#),
        ("any", r#"{ any = [{ field = "name", equals = "Bob" }, { field = "bill", max = "10" }] }"#),
        ("source", r#"{ source = "acme" }"#),
        ("not-source", r#"{ not = { source = "acme" } }"#),
        ("has-phone", r#"{ field = "phone", exists = true }"#),
        ("adult", r#"{ field = "birth_date", max = "2008-06-15" }"#),
    ];
    let network: Vec<String> =
        filters.iter().map(|(id, filter)| desk.buyer(id, "", &format!("filters = {filter}"))).collect();
    let gateway = campaign("distribution = \"broadcast\"\nsell_to = 0", &network).start_inside(noon()).await;
    let cases: [(Value, &[&str]); 4] = [
        (
            json!({"email": "a@example.com", "name": "Ann", "bill": "99.5", "postcode": "sw1a1aa", "phone": "020 7946 0000"}),
            &["equals", "one-of", "range", "prefix", "regex", "all", "source", "has-phone"],
        ),
        (
            json!({"email": "b@gmail.com.evil.org", "name": "Bob", "bill": 49.99, "postcode": "SE2 9AA"}),
            &["one-of", "not", "any", "source"],
        ),
        (
            json!({"email": "c@gmail.com", "bill": "10", "postcode": "SE1 9AA", "birth_date": "2008-06-15"}),
            &["prefix", "regex", "not", "any", "source", "adult"],
        ),
        (
            json!({"email": "d@other.org", "name": "Ann", "bill": "50", "birth_date": "2008-06-16"}),
            &["equals", "one-of", "range", "all", "source"],
        ),
    ];
    for (lead, wanted_by) in cases {
        let id = posted(&gateway, &lead).await;
        let lead = gateway
            .eventually(&format!("/v1/leads/{id}"), |lead| {
                outcomes(lead).iter().all(|one| one.ends_with("accepted") || one.ends_with("filtered"))
            })
            .await;
        let got: BTreeSet<String> =
            outcomes(&lead).iter().filter_map(|one| one.strip_suffix(" accepted").map(str::to_owned)).collect();
        assert_eq!(got, wanted_by.iter().map(ToString::to_string).collect(), "{lead:#}");
        for candidate in lead["candidates"].as_array().unwrap() {
            let filtered = candidate["outcome"] == "filtered";
            assert_eq!(filtered, candidate["reason"].is_string(), "{candidate}");
        }
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_limit_is_exact_for_leads_that_come_together() {
    for period in ["daily", "monthly", "total"] {
        let desk = Desk::willing().await;
        let limits = format!("limits = {{ {period} = 7 }}");
        let world = campaign(
            "",
            &[
                desk.buyer("partner", &limits, "priority = 1"),
                desk.buyer("contract", "", &format!("priority = 2\n{limits}\nwhen_full = \"skip\"")),
                desk.buyer("open", "limits = { daily = 30 }", "priority = 3\nwhen_full = \"skip\""),
            ],
        );
        let gateway = world.start_inside(noon()).await;
        assert_eq!(accepted(&post_all(&gateway, (0..64).map(numbered)).await), 64);
        // What is left over waits at the partner's, if that opens again within a day.
        let unsold = if period == "daily" { 0 } else { 20 };
        gateway
            .eventually("/v1/leads?status=sold&limit=500", |page| page["items"].as_array().unwrap().len() == 44)
            .await;
        gateway
            .eventually("/v1/leads?status=unsold&limit=500", |page| page["items"].as_array().unwrap().len() == unsold)
            .await;
        settled(&gateway).await;
        let expected = [("partner", 7), ("contract", 7), ("open", 30)].map(|(id, sent)| (id.to_owned(), sent));
        assert_eq!(desk.counts(), BTreeMap::from(expected), "{period}");
        assert_eq!(in_state(&gateway, "queued").await, 20 - unsold);
        assert_places_agree(&gateway).await;
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_give_their_places_back_and_a_limit_is_reached_exactly_nevertheless() {
    // Of three leads one is accepted, one rejected, one known.
    let desk = Desk::start(|visit| [Reply::Yes, Reply::No, Reply::Known][number_of(&visit.email) % 3]).await;
    let world = campaign("", &[desk.buyer("a", "limits = { daily = 7 }", "when_full = \"hold\"")]);
    let gateway = world.start_inside(noon()).await;
    post_all(&gateway, (0..63).map(numbered)).await;
    gateway.eventually("/v1/leads?status=sold&limit=500", |page| page["items"].as_array().unwrap().len() == 7).await;
    settled(&gateway).await;
    assert_eq!(in_state(&gateway, "accepted").await, 7);
    let refused = in_state(&gateway, "rejected").await + in_state(&gateway, "duplicate").await;
    assert_eq!(in_state(&gateway, "queued").await, 63 - 7 - refused, "the others wait");
    assert_eq!(desk.visits().len(), 7 + refused);
    assert_places_agree(&gateway).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_under_load_lose_no_place_where_nobody_else_would_take_the_lead() {
    // "Full" would leave these leads unsold: it is asked of the store before it is believed, while others end.
    let said = AtomicUsize::new(0);
    let desk = Desk::start(
        move |_| if said.fetch_add(1, Ordering::SeqCst).is_multiple_of(4) { Reply::Yes } else { Reply::No },
    )
    .await;
    let world = campaign("", &[desk.buyer("a", "limits = { daily = 20 }", "when_full = \"skip\"")]);
    let gateway = world.start_inside(noon()).await;
    for round in 0..6 {
        post_all(&gateway, (round * 50..round * 50 + 50).map(numbered)).await;
    }
    settled(&gateway).await;
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
    assert_places_agree(&gateway).await;
    assert!(in_state(&gateway, "accepted").await <= 20);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_given_back_goes_to_the_next_lead_at_once() {
    for reply in [Reply::No, Reply::Known, Reply::Busy] {
        let desk = Desk::start(move |visit| if number_of(&visit.email) == 0 { reply } else { Reply::Yes }).await;
        let world =
            campaign("", &[desk.buyer("a", "limits = { total = 1 }", "when_full = \"hold\"\nwhen_paused = \"hold\"")]);
        let gateway = world.start_inside(noon()).await;
        desk.silence(&["a"]);
        posted(&gateway, &numbered(0)).await;
        desk.wait_for(1).await;
        // A total that is used up opens by itself never, so a lead that came now would not wait: it comes after.
        desk.release(&["a"]);
        settled(&gateway).await;
        assert_eq!(count(&gateway, "contract/a/t").await, 0);
        let next = posted(&gateway, &numbered(1)).await;
        gateway.lead_becomes(&next, "sold").await;
        settled(&gateway).await;
        assert_places_agree(&gateway).await;
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lead_that_comes_while_the_last_place_is_on_its_way_back_waits_for_it() {
    let desk = Desk::willing().await;
    let gateway =
        campaign("", &[desk.buyer("a", "limits = { total = 1 }", "when_full = \"hold\"")]).start_inside(noon()).await;
    let pipeline = &gateway.app().pipeline;
    // The gate counts one that the store has no more: the commit that gave it back has yet to be heard of.
    let entry = pipeline.directory.network().contracts().next().unwrap().clone();
    let returning = pipeline.gate.returning(&entry.contract.partner, &entry.contract.id);
    let taken = pipeline.gate.take(&entry.contract.id, pipeline.clock.now(), false).await;
    let Ok(Answer::Open(ticket)) = taken else { panic!("{taken:?}") };
    pipeline.gate.made(&ticket);
    let waits = posted(&gateway, &numbered(1)).await;
    // Each rings the bell of the contract's queue, where the first waits: it is not to be passed over there either.
    for others in 10..20 {
        posted(&gateway, &numbered(others)).await;
        assert_eq!(text_at(&gateway.lead(&waits).await, "/status"), "pending");
    }
    assert_eq!(desk.visits(), []);

    pipeline.gate.settle(&ticket.places, true);
    drop(returning);
    posted(&gateway, &numbered(2)).await;
    gateway.lead_becomes(&waits, "sold").await;
    settled(&gateway).await;
    assert_places_agree(&gateway).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_place_gets_it_when_it_is_given_back() {
    for reply in [Reply::No, Reply::Known, Reply::Busy] {
        let desk = Desk::start(move |visit| if number_of(&visit.email) == 0 { reply } else { Reply::Yes }).await;
        let network = [
            partner("p", &format!("{LONDON}\nlimits = {{ daily = 1 }}")),
            desk.contract("a", "p", "filters = { field = \"name\", equals = \"a\" }\nwhen_full = \"hold\"", ""),
            desk.contract("b", "p", "filters = { field = \"name\", equals = \"b\" }\nwhen_full = \"hold\"", ""),
        ];
        let gateway = campaign("", &network).start_inside(noon()).await;
        desk.silence(&["a"]);
        posted(&gateway, &json!({"email": "n0@example.com", "name": "a"})).await;
        desk.wait_for(1).await;
        // The partner's only place is taken by its other contract.
        let next = posted(&gateway, &json!({"email": "n1@example.com", "name": "b"})).await;
        let held = gateway.last_delivery_becomes(&next, "queued").await;
        assert_eq!(text_at(&held, "/held/reason"), "full");
        desk.release(&["a"]);
        gateway.lead_becomes(&next, "sold").await;
        settled(&gateway).await;
        assert_places_agree(&gateway).await;
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lead_that_cannot_be_rendered_takes_no_place_from_those_that_wait() {
    let desk = Desk::willing().await;
    let network = [
        partner("p", &format!("{LONDON}\nlimits = {{ daily = 1 }}")),
        desk.contract(
            "a",
            "p",
            "filters = { field = \"name\", equals = \"a\" }",
            "headers = { X-Bill = \"{{number lead.bill}}\" }",
        ),
        desk.contract("b", "p", "filters = { field = \"name\", equals = \"b\" }\nwhen_full = \"hold\"", ""),
    ];
    let gateway = campaign("", &network).start_inside(noon()).await;
    let leads = (0..40).map(
        |number| json!({"email": format!("n{number}@example.com"), "name": if number % 2 == 0 { "a" } else { "b" }}),
    );
    post_all(&gateway, leads).await;
    desk.wait_for(1).await;
    settled(&gateway).await;
    assert_eq!(desk.visits().len(), 1);
    assert_places_agree(&gateway).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_outcome_keeps_its_place_until_a_person_says_no() {
    let desk =
        Desk::start(
            |visit| {
                if visit.contract == "a" && number_of(&visit.email) == 0 { Reply::Broken } else { Reply::Yes }
            },
        )
        .await;
    let world = campaign(
        "",
        &[
            desk.buyer("a", "limits = { daily = 1 }", "when_full = \"hold\""),
            desk.buyer("b", "", "priority = 2\nfilters = { field = \"bill\", min = \"1\" }"),
        ],
    );
    let gateway = world.start_inside(noon()).await;
    let first = posted(&gateway, &json!({"email": "n0@example.com", "bill": 5})).await;
    let unknown = gateway.last_delivery_becomes(&first, "unknown").await;
    let second = posted(&gateway, &numbered(1)).await;
    let waits = gateway.last_delivery_becomes(&second, "queued").await;
    assert_eq!(text_at(&waits, "/held/reason"), "full");
    assert_eq!(count(&gateway, "partner/a/d2026-06-15").await, 1);
    assert_places_agree(&gateway).await;

    let path = format!("/v1/deliveries/{}/resolve", text_at(&unknown, "/id"));
    let resolved = gateway.act(&path, &json!({"verdict": "rejected", "reason": "they say they never got it"})).await;
    assert_eq!(resolved.status, 200, "{}", resolved.text);
    gateway.lead_becomes(&second, "sold").await;
    // Routing goes on for the first.
    let first = gateway.lead_becomes(&first, "sold").await;
    assert_eq!(outcomes(&first), ["a rejected", "b accepted"]);
    assert_places_agree(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redelivery_takes_a_place_or_passes_the_limit_as_asked() {
    let desk = Desk::willing().await;
    let world = campaign("", &[desk.buyer("a", "limits = { daily = 1 }", "")]);
    let clock = noon();
    let gateway = world.start_inside(clock.clone()).await;
    let first = posted(&gateway, &numbered(0)).await;
    gateway.lead_becomes(&first, "sold").await;
    let sold = gateway.last_delivery_becomes(&first, "accepted").await;
    let path = format!("/v1/deliveries/{}/redeliver", text_at(&sold, "/id"));
    // It keeps its place, so it takes no other.
    assert_eq!(gateway.act(&path, &json!({})).await.status, 202);
    desk.wait_for(2).await;
    settled(&gateway).await;
    assert_eq!(count(&gateway, "contract/a/d2026-06-15").await, 1);
    assert_places_agree(&gateway).await;
    let answer = gateway.act(&path, &json!({"limits": "consume"})).await;
    let held = gateway
        .eventually(&format!("/v1/deliveries/{}", answer.at("/delivery_id")), |one| !one["held"].is_null())
        .await;
    assert_eq!(text_at(&held, "/held/reason"), "full");
    assert_eq!(text_at(&held, "/held/until"), "2026-06-15T23:00:00.000000Z");
    clock.set(at("2026-06-15T23:00:00Z"));
    desk.wait_for(3).await;
    settled(&gateway).await;
    assert_eq!(count(&gateway, "contract/a/d2026-06-16").await, 1);
    assert_places_agree(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partners_limit_is_shared_by_its_contracts() {
    let desk = Desk::willing().await;
    let world = campaign(
        "distribution = \"weighted\"",
        &[
            partner("p", &format!("{LONDON}\nlimits = {{ daily = 5, monthly = 100 }}")),
            desk.contract("x", "p", "limits = { daily = 4 }\nwhen_full = \"skip\"", ""),
            desk.contract("y", "p", "when_full = \"skip\"", ""),
        ],
    );
    let gateway = world.start_inside(noon()).await;
    let answers = post_all(&gateway, (0..40).map(numbered)).await;
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
    assert_eq!((answers.len(), desk.visits().len()), (40, 5), "{:?}", desk.counts());
    assert_eq!(count(&gateway, "partner/p/d2026-06-15").await, 5);
    assert_eq!(count(&gateway, "partner/p/m2026-06").await, 5);
    assert_places_agree(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_partners_day_ends_at_its_own_midnight() {
    let desk = Desk::willing().await;
    let zones = [("tokyo", "Asia/Tokyo"), ("london", "Europe/London"), ("york", "America/New_York")];
    let network = zones.map(|(id, zone)| {
        desk.buyer(id, &format!("timezone = \"{zone}\"\nlimits = {{ daily = 1 }}"), "when_full = \"hold\"")
    });
    // The last half-minute of the 15th in Tokyo.
    let clock = Clock::manual(at("2026-06-15T14:59:30Z"));
    let world = campaign("distribution = \"broadcast\"\nsell_to = 0", &network);
    let gateway = world.start_inside(clock.clone()).await;
    let first = posted(&gateway, &numbered(0)).await;
    desk.wait_for(3).await;
    settled(&gateway).await;
    assert_eq!(outcomes(&gateway.lead(&first).await), ["london accepted", "tokyo accepted", "york accepted"]);
    let second = posted(&gateway, &numbered(1)).await;
    let held = gateway.lead(&second).await;
    let until: HashMap<String, (String, String)> = held["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text_at(one, "/contract"), (text_at(one, "/held/until"), text_at(one, "/held/timezone"))))
        .collect();
    let midnights = ["2026-06-15T15:00:00.000000Z", "2026-06-15T23:00:00.000000Z", "2026-06-16T04:00:00.000000Z"];
    for (index, ((id, zone), midnight)) in zones.into_iter().zip(midnights).enumerate() {
        assert_eq!(until[id], (midnight.to_owned(), zone.to_owned()));
        assert_eq!(desk.visits().len(), 3 + index, "before midnight in {zone}");
        clock.set(at(midnight));
        desk.wait_for(4 + index).await;
        assert_eq!(desk.visits()[3 + index].contract, id);
        settled(&gateway).await;
        assert_eq!(count(&gateway, &format!("contract/{id}/d2026-06-16")).await, 1);
        assert_eq!(count(&gateway, &format!("contract/{id}/d2026-06-15")).await, 1);
        assert_places_agree(&gateway).await;
    }
    gateway.lead_becomes(&second, "sold").await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_midnight_takes_the_new_days_place() {
    for (first_reply, kept) in [(Reply::Busy, 0), (Reply::Broken, 1)] {
        let desk = Desk::start(move |visit| if visit.before == 0 { first_reply } else { Reply::Yes }).await;
        // The last five seconds of the 15th in New York.
        let clock = Clock::manual(at("2026-06-16T03:59:55Z"));
        let world = campaign(
            "",
            &[desk.buyer(
                "a",
                "timezone = \"America/New_York\"\nlimits = { daily = 1, monthly = 9 }",
                "on_unknown = \"retry\"\nwhen_full = \"hold\"",
            )],
        );
        let gateway = world.start_inside(clock.clone()).await;
        let first = posted(&gateway, &numbered(0)).await;
        desk.wait_for(1).await;
        settled(&gateway).await;
        assert_eq!(count(&gateway, "partner/a/d2026-06-15").await, kept, "after {first_reply:?}");
        assert_places_agree(&gateway).await;
        clock.set(at("2026-06-16T04:00:30Z"));
        gateway.lead_becomes(&first, "sold").await;
        settled(&gateway).await;
        assert_eq!(count(&gateway, "partner/a/d2026-06-15").await, 0);
        assert_eq!(count(&gateway, "partner/a/d2026-06-16").await, 1);
        assert_eq!(count(&gateway, "contract/a/m2026-06").await, 1);
        assert_places_agree(&gateway).await;
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_an_unknown_outcome_has_its_place_already() {
    let desk = Desk::start(|visit| match (number_of(&visit.email), visit.before) {
        (0, 0) => Reply::Broken,
        (0, 1) => Reply::Busy,
        _ => Reply::Yes,
    })
    .await;
    let clock = noon();
    let world = campaign(
        "",
        &[desk.buyer("a", "limits = { daily = 1, total = 2 }", "on_unknown = \"retry\"\nwhen_full = \"hold\"")],
    );
    let gateway = world.start_inside(clock.clone()).await;
    let first = posted(&gateway, &numbered(0)).await;
    desk.wait_for(1).await;
    settled(&gateway).await;
    // Another one waits for the place, and must not get in between.
    let second = posted(&gateway, &numbered(1)).await;
    for (minutes, visits) in [(1, 2), (5, 3)] {
        clock.set(at("2026-06-15T11:00:00Z") + jiff::SignedDuration::from_mins(minutes));
        desk.wait_for(visits).await;
        settled(&gateway).await;
        assert_places_agree(&gateway).await;
    }
    gateway.lead_becomes(&first, "sold").await;
    assert_eq!(desk.sent_to("a"), ["n0@example.com"; 3]);
    clock.set(at("2026-06-15T23:00:00Z"));
    gateway.lead_becomes(&second, "sold").await;
    assert_places_agree(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lowered_limit_stops_at_once_and_a_raised_one_wakes_at_once() {
    let desk = Desk::willing().await;
    let buyers = |daily: u64| desk.buyer("a", &format!("limits = {{ daily = {daily} }}"), "when_full = \"hold\"");
    let world = campaign("", &[buyers(10)]);
    let gateway = world.start_inside(noon()).await;
    for number in 0..4 {
        posted(&gateway, &numbered(number)).await;
    }
    desk.wait_for(4).await;
    settled(&gateway).await;
    apply(&world, &gateway, &buyers(2)).await;
    let answers = post_all(&gateway, (4..10).map(numbered)).await;
    for answer in &answers {
        let held = gateway.last_delivery_becomes(&answer.at("/lead_id"), "queued").await;
        assert_eq!(text_at(&held, "/held/reason"), "full");
    }
    assert_eq!(desk.visits().len(), 4);
    assert_places_agree(&gateway).await;
    apply(&world, &gateway, &buyers(7)).await;
    desk.wait_for(7).await;
    settled(&gateway).await;
    assert_eq!((desk.visits().len(), in_state(&gateway, "queued").await), (7, 3));
    assert_places_agree(&gateway).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_and_campaign_limits_count_the_leads_that_were_taken_and_nothing_else() {
    for (campaign, source, who) in
        [("limits = { daily = 7 }", "", "campaign solar"), ("", "limits = { daily = 7 }", "source acme")]
    {
        // Nobody wants them: an unsold lead gives nothing back.
        let desk = Desk::start(|_| Reply::No).await;
        let campaign = format!("{campaign}\ndedupe = [{{ fields = [\"email\"], window = \"30d\" }}]");
        let world = World::with(&campaign, source, &desk.buyer("a", "", ""));
        // Nine in the evening: the day ends in London in three hours.
        let clock = Clock::manual(at("2026-06-15T20:00:00Z"));
        let gateway = world.start_inside(clock.clone()).await;
        let answer = gateway.post_and_wait(&numbered(0)).await;
        assert_eq!((answer.status, answer.at("/status")), (200, "unsold".to_owned()));
        // A duplicate, an invalid one and a test count for nothing.
        assert_eq!(gateway.post(&numbered(0)).await.at("/reason"), "duplicate");
        assert_eq!(gateway.post(&json!({"email": "no"})).await.status, 422);
        assert_eq!(gateway.post_to("/v1/campaigns/solar/leads?test=true", &numbered(9)).await.status, 200);
        let answers = post_all(&gateway, (1..41).map(numbered)).await;
        assert_eq!(accepted(&answers), 6);
        for refused in answers.iter().filter(|answer| answer.status != 202) {
            assert_eq!((refused.status, refused.at("/type")), (429, "/problems/limit-reached".to_owned()));
            assert_eq!(refused.headers["retry-after"], "10800");
            assert!(refused.at("/detail").contains(who), "{}", refused.text);
        }
        settled(&gateway).await;
        clock.set(at("2026-06-15T22:59:59.999Z"));
        assert_eq!(gateway.post(&numbered(50)).await.status, 429);
        clock.set(at("2026-06-15T23:00:00Z"));
        assert_eq!(accepted(&post_all(&gateway, (60..80).map(numbered)).await), 7);
        settled(&gateway).await;
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_up_total_of_a_source_is_refused_for_good() {
    let desk = Desk::willing().await;
    let world = World::with("", "limits = { total = 2 }", &desk.buyer("a", "", ""));
    let gateway = world.start_inside(noon()).await;
    assert_eq!(accepted(&post_all(&gateway, (0..9).map(numbered)).await), 2);
    let refused = gateway.post(&numbered(20)).await;
    assert_eq!((refused.status, refused.at("/type")), (403, "/problems/limit-reached".to_owned()));
    assert!(!refused.headers.contains_key("retry-after"));
    settled(&gateway).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_hangs_up_at_once_leaves_no_lead_behind() {
    let desk = Desk::willing().await;
    let gateway = campaign("", &[desk.buyer("a", "", "")]).start_inside(noon()).await;
    for number in 0..60 {
        let body = lead(&format!("n{number}@example.com")).to_string();
        let mut stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
        let head = format!(
            "POST /v1/campaigns/solar/leads HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Some are gone before they are read, some during the commit.
        for _ in 0..number % 7 {
            tokio::task::yield_now().await;
        }
        drop(stream);
    }
    // Another lead is stored after all that were taken in, and each of those is sent.
    posted(&gateway, &numbered(100)).await;
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
    all_sent(&gateway, &desk).await;
    gateway.finish().await;
}

async fn all_sent(gateway: &Gateway, desk: &Desk) {
    let stored = gateway.get("/v1/leads?limit=500").await["items"].as_array().unwrap().len();
    let sent: BTreeSet<String> = desk.sent_to("a").into_iter().collect();
    assert!(sent.len() >= stored, "{} of {stored} were sent", sent.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_lead_before_silence_is_sent_at_once() {
    let desk = Desk::willing().await;
    let gateway = campaign("", &[desk.buyer("a", "limits = { daily = 1000 }", "")]).start_inside(noon()).await;
    let slowest = Mutex::new(std::time::Duration::ZERO);
    for number in 0..300 {
        let began = lead_gateway::clock::instant();
        let answer = gateway.post_and_wait(&numbered(number)).await;
        assert_eq!(answer.at("/status"), "sold", "{}", answer.text);
        let mut slowest = slowest.lock().unwrap();
        *slowest = (*slowest).max(began.elapsed());
    }
    let slowest = slowest.into_inner().unwrap();
    assert!(slowest < std::time::Duration::from_secs(5), "one took {slowest:?}");
    gateway.finish().await;
}
