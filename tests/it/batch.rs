//! `POST …/leads/batch`: a result for every line, in order, each after its commit; nothing lost, nothing taken twice.

use std::collections::BTreeMap;

use lead_gateway::clock;
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, KEY, World, buyer, text_at};
use crate::partner_stub::{Behaviour, Stub};

const BATCH: &str = "/v1/campaigns/solar/leads/batch";

fn request(gateway: &Gateway, path: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
    let request = gateway.client.post(gateway.url(path)).bearer_auth(KEY);
    request.header("content-type", "application/x-ndjson").body(body)
}

/// The results of a batch that must be taken as a whole.
async fn results_of(gateway: &Gateway, path: &str, body: String) -> Vec<Value> {
    let answer = gateway.send(request(gateway, path, body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    assert!(answer.headers.contains_key("x-request-id"));
    results(&answer.text)
}

fn results(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

/// Line and status of each result.
fn statuses(results: &[Value]) -> Vec<(u64, u64)> {
    let number = |result: &Value, name: &str| result[name].as_u64().unwrap_or_else(|| panic!("{name} of {result}"));
    results.iter().map(|result| (number(result, "line"), number(result, "status_code"))).collect()
}

/// So many lines, each with a person, an id and an idempotency key of its own.
fn many(count: usize) -> String {
    let line = |n: usize| {
        let lead = json!({"email": format!("p{n}@example.com"), "external_id": format!("L{n}"), "idempotency_key": format!("key-{n}")});
        format!("{lead}\n")
    };
    (1..=count).map(line).collect::<Vec<_>>().concat()
}

/// The ids of all leads by their external ids.
async fn all_leads(gateway: &Gateway) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut path = "/v1/leads?limit=500".to_owned();
    loop {
        let page = gateway.get(&path).await;
        for lead in page["items"].as_array().unwrap() {
            let known = found.insert(text_at(lead, "/external_id"), text_at(lead, "/lead_id"));
            assert_eq!(known, None, "{lead} was taken twice");
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/leads?limit=500&cursor={cursor}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn ten_thousand_lines_are_answered_in_order_and_every_lead_is_found() {
    let world = World::with("dedupe = [{ fields = [\"email\"], window = \"30d\" }]", "", "");
    let gateway = world.start().await;
    let results = results_of(&gateway, BATCH, many(10_000)).await;
    assert_eq!(statuses(&results), (1..=10_000).map(|line| (line, 202)).collect::<Vec<_>>());
    let found = all_leads(&gateway).await;
    assert_eq!(found.len(), 10_000);
    for result in &results {
        assert_eq!(result["external_id"], format!("L{}", result["line"]));
        assert_eq!(result["status"], "pending");
        assert_eq!(found[&text_at(result, "/external_id")], text_at(result, "/lead_id"));
    }
    gateway.finish().await;
}

#[tokio::test]
async fn every_line_gets_what_its_own_post_would_have_been_answered() {
    let partner = Stub::start(Behaviour::ok("{}")).await;
    let world = World::with(
        "unknown_fields = \"refuse\"\ndedupe = [{ fields = [\"email\"], window = \"30d\" }]",
        "",
        &buyer("sunny", &partner.url("/"), "", "", ""),
    );
    let gateway = world.start().await;
    let long = format!(r#"{{"email": "a@example.com", "name": "{}"}}"#, "n".repeat(1 << 20));
    let lines = [
        r#"{"email": "a@example.com", "external_id": "A"}"#,
        "",
        r#"{"email": "b@example.com", "#,
        r#"{"email": "nobody", "bill": -1, "birth_date": "1899-13-13", "more": 1}"#,
        "  \t",
        r#"{"email": "A@EXAMPLE.com", "external_id": "B"}"#,
        r#"{"email": "k@example.com", "idempotency_key": "K"}"#,
        r#"{"email": "k@example.com", "idempotency_key": "K"}"#,
        r#"{"email": "other@example.com", "idempotency_key": "K"}"#,
        r#"{"email": "c@example.com", "idempotency_key": "two words"}"#,
        r#"{"email": "c@example.com", "idempotency_key": ["K"]}"#,
        r#"{"email": "t@example.com", "test": true}"#,
        "[1]",
        &long,
        r#"{"email": "last@example.com", "idempotency_key": null, "external_id": "Z"}"#,
    ];
    // A wait is none of a batch's.
    let results = results_of(&gateway, &format!("{BATCH}?wait=30"), lines.join("\r\n")).await;
    let expected = [
        (1, 202),
        (2, 400),
        (3, 400),
        (4, 422),
        (5, 400),
        (6, 200),
        (7, 202),
        (8, 202),
        (9, 422),
        (10, 400),
        (11, 400),
        (12, 200),
        (13, 400),
        (14, 413),
        (15, 202),
    ];
    let mut got = statuses(&results);
    // By then the lead of the replayed line may have been sold.
    got[7].1 = 202;
    assert_eq!(got, expected);
    let of = |line: u64| results.iter().find(|result| result["line"] == line).unwrap();
    assert_eq!(of(1)["external_id"], "A");
    assert!(text_at(of(2), "/detail").starts_with("line 2 is blank"), "{}", of(2));
    assert_eq!(text_at(of(3), "/type"), "/problems/malformed");
    assert!(text_at(of(3), "/detail").starts_with("line 3, column 27: "), "{}", of(3));
    let wrong: Vec<_> = of(4)["errors"].as_array().unwrap().iter().map(|error| text_at(error, "/field")).collect();
    assert_eq!(wrong, ["bill", "birth_date", "email", "more"]);
    assert_eq!((&of(6)["status"], &of(6)["reason"]), (&json!("rejected"), &json!("duplicate")));
    assert_eq!(of(7)["lead_id"], of(8)["lead_id"]);
    assert_eq!(text_at(of(9), "/type"), "/problems/idempotency-reused");
    for line in [10, 11] {
        assert!(text_at(of(line), "/detail").starts_with(&format!("line {line}: ")), "{}", of(line));
    }
    assert_eq!((&of(12)["test"], &of(12)["status"]), (&json!(true), &json!("sold")));
    assert_eq!(of(15)["external_id"], "Z");

    // A refused line is kept as a refused post is, under an id of its own.
    let id = text_at(of(4), "/request_id");
    let refusals = gateway.get(&format!("/v1/refusals?request_id={id}")).await;
    let kept = &refusals["items"][0];
    assert_eq!((&kept["status"], &kept["answer"]["line"]), (&json!(422), &json!(4)));
    assert_eq!(text_at(kept, "/request/url"), BATCH);
    let body = text_at(kept, "/request/body");
    assert!(body.contains("nobody") && body.contains("***") && !body.contains("1899"), "{body}");
    assert_eq!(gateway.get("/v1/refusals").await["items"].as_array().unwrap().len(), 9);
    for line in [1, 7, 15] {
        gateway.lead_becomes(&text_at(of(line), "/lead_id"), "sold").await;
    }
    gateway.finish().await;
}

#[tokio::test]
async fn a_batch_that_cannot_be_taken_at_all_is_refused_as_a_whole() {
    let other = "[[campaign]]\nid = \"loans\"\ntimezone = \"UTC\"\ncurrency = \"GBP\"\n";
    let world = World::new(other);
    let gateway = world.start().await;
    let post = |path: &str, kind: &str, body: String| {
        gateway.client.post(gateway.url(path)).bearer_auth(KEY).header("content-type", kind).body(body)
    };
    let ndjson = "application/x-ndjson";
    let line = || "{\"email\": \"a@example.com\"}\n".to_owned();
    let over = "x".repeat((16 << 20) + 1);
    for (status, kind, request) in [
        (401, "unauthorized", gateway.client.post(gateway.url(BATCH)).header("content-type", ndjson).body(line())),
        (404, "not-found", post("/v1/campaigns/lunar/leads/batch", ndjson, line())),
        (403, "forbidden", post("/v1/campaigns/loans/leads/batch", ndjson, line())),
        (415, "unsupported-media-type", post(BATCH, "application/json", line())),
        (415, "unsupported-media-type", post(BATCH, "application/x-ndjson; charset=utf-16", line())),
        (413, "too-large", post(BATCH, ndjson, line().repeat(10_001))),
        (413, "too-large", post(BATCH, ndjson, over)),
        (400, "malformed", post(BATCH, ndjson, String::new())),
        (400, "malformed", post(BATCH, ndjson, " \r\n\n".to_owned())),
        (400, "malformed", post(BATCH, ndjson, line()).header("idempotency-key", "K")),
    ] {
        let answer: Answer = gateway.send(request).await;
        assert_eq!((answer.status, answer.at("/type")), (status, format!("/problems/{kind}")), "{}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    assert_eq!(all_leads(&gateway).await.len(), 0);
    for kind in ["application/ndjson", "application/jsonl; charset=utf-8", "Application/X-JSONL"] {
        assert_eq!(gateway.send(post(BATCH, kind, line())).await.status, 200, "{kind}");
    }
    gateway.finish().await;
}

#[tokio::test]
async fn a_batch_that_is_posted_again_gives_the_same_leads() {
    let world = World::new("");
    let gateway = world.start().await;
    let ids = |results: &[Value]| results.iter().map(|result| text_at(result, "/lead_id")).collect::<Vec<_>>();
    let first = results_of(&gateway, BATCH, many(700)).await;
    let again = results_of(&gateway, BATCH, many(800)).await;
    assert_eq!(ids(&first), ids(&again[..700]));
    assert_eq!(all_leads(&gateway).await.len(), 800);
    gateway.finish().await;
}

#[tokio::test]
async fn lines_wait_for_the_sources_rate_and_are_refused_where_that_would_be_long() {
    let world = World::with("", "rate = \"40/s\"", "");
    let gateway = world.start().await;
    let began = clock::instant();
    let results = results_of(&gateway, BATCH, many(80)).await;
    assert!(statuses(&results).iter().all(|(_, status)| *status == 202), "{results:?}");
    assert!(began.elapsed().as_millis() >= 900, "80 leads came through a rate of 40 a second in {:?}", began.elapsed());
    gateway.finish().await;

    let world = World::with("", "rate = \"2/h\"", "");
    let gateway = world.start().await;
    let results = results_of(&gateway, BATCH, many(4)).await;
    assert_eq!(statuses(&results), [(1, 202), (2, 202), (3, 429), (4, 429)]);
    assert_eq!(text_at(&results[2], "/type"), "/problems/rate-limited");
    assert!(results[3]["retry_after"].as_u64().is_some_and(|seconds| (1700..=1800).contains(&seconds)), "{results:?}");
    gateway.finish().await;
}

/// Reads results until there are so many, and leaves the rest.
async fn read_some(gateway: &Gateway, body: String, wanted: usize) -> Vec<Value> {
    let mut response = request(gateway, BATCH, body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut text = Vec::new();
    while whole_lines(&text) < wanted {
        text.extend(response.chunk().await.unwrap().expect("the results ended"));
    }
    let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap();
    results(std::str::from_utf8(&text[..whole]).unwrap())
}

/// How many whole lines there are.
fn whole_lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[tokio::test]
async fn a_kill_in_mid_batch_loses_no_line_that_was_answered() {
    let world = World::new("");
    let mut answered = BTreeMap::new();
    for wanted in [1, 200, 900] {
        let gateway = world.start().await;
        let mut response = request(&gateway, BATCH, many(3_000)).send().await.unwrap();
        let mut text = Vec::new();
        while whole_lines(&text) < wanted {
            text.extend(response.chunk().await.unwrap().expect("the results ended"));
        }
        gateway.kill();
        // What was on its way still counts.
        while let Ok(Some(more)) = response.chunk().await {
            text.extend(more);
        }
        let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap();
        for result in results(std::str::from_utf8(&text[..whole]).unwrap()) {
            assert!([200, 202].contains(&result["status_code"].as_u64().unwrap()), "{result}");
            let (external, id) = (text_at(&result, "/external_id"), text_at(&result, "/lead_id"));
            if let Some(before) = answered.insert(external, id.clone()) {
                assert_eq!(before, id, "a line that was answered got another lead");
            }
        }
        assert!(answered.len() >= wanted);
    }
    let gateway = world.start().await;
    let found = all_leads(&gateway).await;
    for (external, id) in &answered {
        assert_eq!(found.get(external), Some(id), "{external} was answered, and is not there");
    }
    // The rest of it, with the same keys, and nobody is there twice.
    let results = results_of(&gateway, BATCH, many(3_000)).await;
    assert!(statuses(&results).iter().all(|(_, status)| [200, 202].contains(status)));
    let found = all_leads(&gateway).await;
    assert_eq!(found.len(), 3_000);
    for result in &results {
        assert_eq!(found[&text_at(result, "/external_id")], text_at(result, "/lead_id"));
    }
    gateway.finish().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_lead_behind_and_may_send_the_rest() {
    let partner = Stub::start(Behaviour::ok("{}")).await;
    let world = World::new(&buyer("sunny", &partner.url("/"), "", "", ""));
    let gateway = world.start().await;
    let some = read_some(&gateway, many(400), 10).await;
    assert!(some.len() >= 10);
    let results = results_of(&gateway, BATCH, many(400)).await;
    let in_progress = |result: &Value| result["status_code"] == 409;
    // Lines of the first that were under way still.
    for result in results.iter().filter(|result| !in_progress(result)) {
        assert!([200, 202].contains(&result["status_code"].as_u64().unwrap()), "{result}");
    }
    for (before, now) in some.iter().zip(&results) {
        assert_eq!(before["lead_id"], now["lead_id"]);
    }
    assert_eq!(all_leads(&gateway).await.len(), 400);
    // Every stored lead has reached its queue: none is left when all is delivered.
    for state in ["queued", "sending"] {
        gateway.eventually(&format!("/v1/deliveries?state={state}"), |page| page["items"] == json!([])).await;
    }
    assert_eq!(partner.requests().len(), 400);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_network_governs_the_next_line_of_a_batch() {
    let world = World::with("", "rate = \"10/s\"", "");
    let gateway = world.start().await;
    let body = many(60);
    let change = async {
        gateway.eventually("/v1/leads?limit=500", |page| page["items"].as_array().unwrap().len() >= 10).await;
        let base = std::fs::read_to_string(world.path("network/base.toml")).unwrap();
        world.write("network/base.toml", &base.replace("payout = \"12.50\"", "payout = \"12.50\"\nstatus = \"ended\""));
        let output = world.run(&["apply", "network"]);
        assert!(output.status.success(), "{output:?}");
    };
    let (results, ()) = tokio::join!(results_of(&gateway, BATCH, body), change);
    let (taken, refused): (Vec<_>, Vec<_>) = statuses(&results).into_iter().partition(|(_, status)| *status == 202);
    assert!(taken.len() >= 10 && !refused.is_empty(), "{} taken, {} refused", taken.len(), refused.len());
    assert!(refused.iter().all(|(_, status)| *status == 403), "{refused:?}");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_source_has_two_batches_at_a_time_and_leaves_room_for_others() {
    let world = World::with("", "rate = \"5/s\"", "");
    let gateway = world.start().await;
    let begun = async |n: usize| {
        let lines = (0..30).map(|line| format!("{{\"email\": \"b{n}l{line}@example.com\"}}\n"));
        request(&gateway, BATCH, lines.collect::<String>()).send().await.unwrap()
    };
    let (first, second) = (begun(1).await, begun(2).await);
    let third = begun(3).await;
    assert_eq!((first.status().as_u16(), second.status().as_u16(), third.status().as_u16()), (200, 200, 429));
    assert_eq!(third.headers()["retry-after"], "10");
    for batch in [first, second] {
        assert_eq!(results(&batch.text().await.unwrap()).len(), 30);
    }
    assert_eq!(begun(4).await.status().as_u16(), 200);
    gateway.stop().await;
}
