//! A delivery with its attempts, what people may do to it, and what its candidates came to.

use std::collections::BTreeMap;

use super::*;

/// The object's keys, in their order.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn delivery_of(lead: &Value) -> String {
    text_at(lead, "/deliveries/0/id")
}

#[tokio::test]
async fn a_delivery_shows_its_attempts_as_the_contract_says() {
    let reply = Behaviour::reply_with(
        200,
        &[("X-Partner", "1"), ("Content-Type", "application/json")],
        "{\"ok\":false, \"why\":\"over cap\"}\r\n",
    );
    let (partner, world) = ruled(reply, "", "").await;
    let gateway = world.start().await;
    let lead = gateway.lead(&settled(&gateway, &lead("a@example.com")).await).await;
    let id = delivery_of(&lead);
    let seen = gateway.get(&format!("/v1/deliveries/{id}")).await;
    let fields = [
        "id",
        "lead_id",
        "campaign",
        "source",
        "partner",
        "contract",
        "state",
        "held",
        "verdict",
        "reason",
        "price",
        "reference",
        "redirect_url",
        "attempt_count",
        "due_at",
        "redelivery_of",
        "created_at",
        "updated_at",
        "attempts",
    ];
    assert_eq!(keys(&seen), fields);
    // The same without its attempts in the lead.
    assert_eq!(keys(&lead["deliveries"][0]), &fields[..fields.len() - 1]);
    for (pointer, expected) in [
        ("/id", id.as_str()),
        ("/lead_id", &text_at(&lead, "/lead_id")),
        ("/campaign", "solar"),
        ("/source", "acme"),
        ("/partner", "sunny"),
        ("/contract", "sunny"),
        ("/state", "rejected"),
        ("/held", "null"),
        ("/verdict", "rejected"),
        ("/reason", "over cap"),
        ("/price", "31.00"),
        ("/reference", "null"),
        ("/redirect_url", "null"),
        ("/attempt_count", "1"),
        ("/due_at", "null"),
        ("/redelivery_of", "null"),
    ] {
        assert_eq!(text_at(&seen, pointer), expected, "{pointer}");
    }
    for time in ["/created_at", "/updated_at", "/attempts/0/started_at", "/attempts/0/ended_at"] {
        let time = text_at(&seen, time);
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }
    let attempt = &seen["attempts"][0];
    assert_eq!(
        keys(attempt),
        [
            "number",
            "started_at",
            "ended_at",
            "verdict",
            "class",
            "status_code",
            "latency_ms",
            "explanation",
            "timings_ms",
            "request",
            "response"
        ]
    );
    assert_eq!(
        (&attempt["number"], &attempt["verdict"], &attempt["class"], &attempt["status_code"]),
        (&json!(1), &json!("rejected"), &json!("response"), &json!(200))
    );
    assert_eq!(attempt["explanation"], json!({"rule": "rejected", "selector": "json $.ok", "found": "false"}));
    assert_eq!(keys(&attempt["timings_ms"]), ["dns", "connect", "tls", "first_byte", "total"]);
    assert!(attempt["timings_ms"]["total"].is_u64() && attempt["timings_ms"]["first_byte"].is_u64());
    assert_eq!(attempt["latency_ms"], attempt["timings_ms"]["total"]);

    // Byte for byte what was on the wire.
    let request = &attempt["request"];
    assert_eq!(keys(request), ["method", "url", "headers", "body", "encoding", "truncated"]);
    let sent = &partner.requests()[0];
    assert_eq!((text_at(request, "/method"), text_at(request, "/url")), ("POST".to_owned(), partner.url("/leads")));
    assert_eq!(
        (text_at(request, "/body"), text_at(request, "/encoding"), &request["truncated"]),
        (sent.text(), "utf-8".to_owned(), &json!(false))
    );
    for header in request["headers"].as_array().unwrap() {
        assert_eq!(sent.header(header[0].as_str().unwrap()), header[1].as_str(), "{header}");
    }
    assert!(request["headers"].as_array().unwrap().contains(&json!(["idempotency-key", id])), "{request:#}");
    let response = &attempt["response"];
    assert_eq!(keys(response), ["status", "headers", "body", "encoding", "truncated"]);
    assert_eq!(
        (&response["status"], text_at(response, "/body")),
        (&json!(200), "{\"ok\":false, \"why\":\"over cap\"}\r\n".to_owned())
    );
    assert!(response["headers"].as_array().unwrap().contains(&json!(["x-partner", "1"])), "{response:#}");
    gateway.finish().await;
}

#[tokio::test]
async fn a_reply_that_is_no_text_is_base64_and_a_long_one_says_that_it_was_cut() {
    let behaviours = [Behaviour::ok(b"\xff\xfe\x00yes"), Behaviour::ok("€".repeat(1000)), Behaviour::ok("")];
    let partner = Stub::script(behaviours).await;
    let world = World::new(&buyer("sunny", &partner.url("/"), "", "", ""));
    world.configure("[capture]\nbody_limit = \"100\"".replace("100", "100B").as_str());
    let gateway = world.start().await;
    let mut responses = Vec::new();
    for number in 0..3 {
        let lead = gateway
            .lead(&settled(&gateway, &json!({"email": "a@example.com", "name": "n".repeat(500 * number)})).await)
            .await;
        let seen = gateway.get(&format!("/v1/deliveries/{}", delivery_of(&lead))).await;
        responses.push(seen["attempts"][0].clone());
    }
    let [bytes, long, empty] = responses.as_slice() else { panic!() };
    assert_eq!(
        (text_at(bytes, "/response/body"), text_at(bytes, "/response/encoding")),
        ("//4AeWVz".to_owned(), "base64".to_owned())
    );
    assert_eq!(bytes["response"]["truncated"], false);
    // Cut between two characters.
    assert_eq!((text_at(long, "/response/body"), &long["response"]["truncated"]), ("€".repeat(33), &json!(true)));
    assert_eq!((text_at(long, "/request/body").len(), &long["request"]["truncated"]), (100, &json!(true)));
    assert_eq!((text_at(empty, "/response/body"), &empty["response"]["truncated"]), (String::new(), &json!(false)));
    gateway.finish().await;
}

#[tokio::test]
async fn an_attempt_without_a_reply_says_what_happened() {
    let lost = Stub::start(Behaviour::reset_after_reading()).await;
    let nobody = super::super::partner_stub::refused().await;
    let network = [
        buyer("lost", &lost.url("/"), "", "priority = 1\non_unknown = \"next\"", ""),
        buyer("gone", &format!("http://{nobody}/"), "", "priority = 2", "retry = { max_attempts = 1 }"),
    ];
    let world = World::new(&network.concat());
    let gateway = world.start().await;
    let id = gateway.post_and_wait(&lead("a@example.com")).await.at("/lead_id");
    let lead =
        gateway.eventually(&format!("/v1/leads/{id}"), |lead| text_at(lead, "/deliveries/1/state") == "failed").await;
    for (number, (class, verdict)) in [("reset", "unknown"), ("not_sent", "retryable")].into_iter().enumerate() {
        let id = text_at(&lead, &format!("/deliveries/{number}/id"));
        let attempt = &gateway.get(&format!("/v1/deliveries/{id}")).await["attempts"][0];
        assert_eq!((text_at(attempt, "/class"), text_at(attempt, "/verdict")), (class.to_owned(), verdict.to_owned()));
        assert_eq!((&attempt["response"], &attempt["status_code"]), (&Value::Null, &Value::Null));
        assert!(text_at(attempt, "/request/body").contains("a@example.com"), "{attempt:#}");
        assert!(!text_at(attempt, "/explanation/found").is_empty());
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_held_delivery_says_why_until_when_and_in_which_zone() {
    let clock = lead_gateway::clock::Clock::manual(super::super::harness::at("2026-11-21T09:30:00Z"));
    let world = World::new(&buyer(
        "sunny",
        "http://127.0.0.1:9/",
        "schedule = { mon = \"09:00-17:00\" }",
        "when_closed = \"hold\"\nhold_for = \"99d\"",
        "",
    ));
    let gateway = world.start_inside(clock).await;
    let id = gateway.post(&lead("a@example.com")).await.at("/lead_id");
    let seen = gateway.lead(&id).await;
    let held = json!({"reason": "closed", "until": "2026-11-23T09:00:00.000000Z", "timezone": "Europe/London"});
    let shown = &seen["deliveries"][0]["held"];
    assert_eq!(
        (text_at(shown, "/reason"), text_at(shown, "/timezone")),
        ("closed".to_owned(), "Europe/London".to_owned())
    );
    let until: jiff::Timestamp = text_at(shown, "/until").parse().unwrap();
    assert_eq!(until, text_at(&held, "/until").parse().unwrap());
    assert_eq!(gateway.get("/v1/deliveries?held=true").await["items"][0]["held"], *shown);
    assert_eq!(gateway.get(&format!("/v1/deliveries/{}", delivery_of(&seen))).await["held"], *shown);
    gateway.stop().await;
}

#[tokio::test]
async fn people_redeliver_resolve_and_cancel_only_what_they_may() {
    let behaviours = [Behaviour::reset_after_reading(), Behaviour::ok("{\"ok\":true}")];
    let partner = Stub::script(behaviours).await;
    let world = World::new(&buyer("sunny", &partner.url("/"), "", "when_paused = \"hold\"", RULES));
    let gateway = world.start().await;
    let id = gateway.post_and_wait(&lead("a@example.com")).await.at("/lead_id");
    let first = text_at(&gateway.last_delivery_becomes(&id, "unknown").await, "/id");
    let act = |delivery: &str, act: &str| format!("/v1/deliveries/{delivery}/{act}");

    is_problem(&gateway.act(&act(&first, "redeliver"), &json!({})).await, 409, "conflict");
    is_problem(&gateway.act(&act(&first, "cancel"), &json!({})).await, 409, "conflict");
    for bad in [
        json!({}),
        json!({"verdict": "duplicate"}),
        json!({"verdict": "maybe"}),
        json!({"verdict": "accepted", "why": "typo"}),
        json!([]),
    ] {
        is_problem(&gateway.act(&act(&first, "resolve"), &bad).await, 422, "validation");
    }
    let broken = gateway.client.post(gateway.url(&act(&first, "resolve"))).bearer_auth(&gateway.token).body("{");
    is_problem(&gateway.send(broken).await, 400, "malformed");
    let resolved = gateway.act(&act(&first, "resolve"), &json!({"verdict": "accepted", "reason": "they rang"})).await;
    assert_eq!(
        (resolved.status, resolved.at("/state"), resolved.at("/verdict"), resolved.at("/reason")),
        (200, "accepted".to_owned(), "accepted".to_owned(), "they rang".to_owned())
    );
    gateway.lead_becomes(&id, "sold").await;
    is_problem(&gateway.act(&act(&first, "resolve"), &json!({"verdict": "rejected"})).await, 409, "conflict");

    let again = gateway.act(&act(&first, "redeliver"), &json!({"limits": "bypass", "reason": "asked for"})).await;
    assert_eq!(again.status, 202, "{}", again.text);
    let second = again.at("/delivery_id");
    assert_ne!(second, first);
    let seen =
        gateway.eventually(&format!("/v1/deliveries/{second}"), |seen| text_at(seen, "/state") == "accepted").await;
    assert_eq!(text_at(&seen, "/redelivery_of"), first);
    let sent = partner.requests();
    assert_eq!(sent[1].header("idempotency-key"), Some(second.as_str()));
    is_problem(&gateway.act(&act(&first, "redeliver"), &json!({"limits": "none"})).await, 422, "validation");

    // A waiting one can be cancelled, once.
    gateway.act("/v1/contracts/sunny/pause", &json!({})).await;
    let waiting = gateway.post(&lead("b@example.com")).await.at("/lead_id");
    let third = delivery_of(&gateway.lead(&waiting).await);
    is_problem(&gateway.act(&act(&third, "resolve"), &json!({"verdict": "accepted"})).await, 409, "conflict");
    is_problem(&gateway.act(&act(&third, "redeliver"), &json!({})).await, 409, "conflict");
    let cancelled = gateway.act(&act(&third, "cancel"), &json!({"reason": "withdrawn"})).await;
    assert_eq!(
        (cancelled.status, cancelled.at("/state"), cancelled.at("/reason")),
        (200, "cancelled".to_owned(), "withdrawn".to_owned())
    );
    is_problem(&gateway.act(&act(&third, "cancel"), &json!({})).await, 409, "conflict");
    gateway.lead_becomes(&waiting, "unsold").await;
    for unknown in ["01990000-0000-7000-8000-000000000000", "x"] {
        for name in ["redeliver", "cancel"] {
            is_problem(&gateway.act(&act(unknown, name), &json!({})).await, 404, "not-found");
        }
        is_problem(&gateway.act(&act(unknown, "resolve"), &json!({"verdict": "accepted"})).await, 404, "not-found");
    }
    gateway.finish().await;
}

#[tokio::test]
async fn every_candidate_says_what_it_came_to() {
    let no = Stub::start(Behaviour::ok("{\"ok\":false,\"why\":\"over cap\"}")).await;
    let yes = Stub::start(Behaviour::ok("{\"ok\":true}")).await;
    let network = [
        buyer(
            "picky",
            &yes.url("/"),
            "",
            "priority = 1\nfilters = { all = [{ field = \"postcode\", prefix = [\"SW\"] }] }",
            RULES,
        ),
        buyer("shut", &yes.url("/"), "", "priority = 2\nwhen_paused = \"skip\"", RULES),
        buyer("no", &no.url("/"), "", "priority = 3", RULES),
        buyer("yes", &yes.url("/"), "", "priority = 4", RULES),
        buyer("later", &yes.url("/"), "", "priority = 5", RULES),
    ];
    let world = World::new(&network.concat());
    let gateway = world.start().await;
    gateway.act("/v1/partners/shut/pause", &json!({})).await;
    let lead = gateway.lead(&settled(&gateway, &lead("a@example.com")).await).await;
    let candidates: BTreeMap<String, (String, String)> = lead["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|candidate| {
            assert_eq!(keys(candidate), ["contract", "outcome", "reason"]);
            (text_at(candidate, "/contract"), (text_at(candidate, "/outcome"), text_at(candidate, "/reason")))
        })
        .collect();
    let outcome = |contract: &str| candidates[contract].0.as_str();
    assert_eq!(
        ["picky", "shut", "no", "yes", "later"].map(outcome),
        ["filtered", "skipped", "rejected", "accepted", "untried"]
    );
    assert!(candidates["picky"].1.contains("postcode"), "{candidates:#?}");
    assert_eq!((candidates["shut"].1.as_str(), candidates["no"].1.as_str()), ("paused", "over cap"));
    gateway.finish().await;
}
