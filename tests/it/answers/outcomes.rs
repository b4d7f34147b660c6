//! What a lead that was taken is answered: at once or after a wait, in the source's format, and nothing it may not know.

use std::time::Duration;

use lead_gateway::clock;
use serde_json::json;

use super::super::harness::{World, buyer, lead};
use super::super::partner_stub::{Behaviour, Stub};
use super::*;

const RULES: &str = "[contract.endpoint.response]\naccepted = { json = \"$.ok\", equals = \"true\" }\n\
    rejected = { json = \"$.ok\", equals = \"false\" }\nreason = { json = \"$.why\" }\nreference = { json = \"$.ref\" }\n\
    redirect_url = { json = \"$.next\" }\nprice = { json = \"$.price\" }\n";

async fn answering(behaviour: Behaviour) -> (Stub, World) {
    let partner = Stub::start(behaviour).await;
    let world = World::new(&buyer("sunny", &partner.url("/"), "", "", RULES));
    (partner, world)
}

#[tokio::test]
async fn a_sold_lead_tells_its_source_no_more_than_the_contract_says() {
    let reply = r#"{"ok":true,"ref":"SUNNY-REF-1","next":"https://thanks.example/?a=1&b=2","price":"29.99","why":"sunny words"}"#;
    let (_partner, world) = answering(Behaviour::ok(reply)).await;
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&json!({"email": "a@example.com", "external_id": "A-17"})).await;
    assert_eq!(answer.status, 200);
    let sold = answer.json();
    let keys = ["lead_id", "status", "payout", "redirect_url", "reason", "external_id", "test", "received_at"];
    assert_eq!(sold.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    assert_eq!(sold["status"], "sold");
    assert_eq!(sold["payout"], "12.50");
    assert_eq!(sold["redirect_url"], "https://thanks.example/?a=1&b=2");
    assert_eq!(sold["reason"], Value::Null);
    assert_eq!(sold["external_id"], "A-17");
    assert_eq!(sold["test"], false);
    let received = sold["received_at"].as_str().unwrap();
    assert!(
        received.ends_with('Z') && received.parse::<jiff::Timestamp>().is_ok() && received.len() == 27,
        "{received}"
    );

    // The same, whenever it asks; and in every other answer it can get.
    let id = answer.at("/lead_id");
    let own = gateway.send(gateway.client.get(gateway.url(&format!("/v1/leads/{id}"))).bearer_auth(KEY)).await;
    assert_eq!(own.json(), sold);
    let own = gateway.send(gateway.client.get(gateway.url(&format!("/v1/leads/{id}"))).header("x-api-key", KEY)).await;
    assert_eq!(own.json(), sold);
    for secret in ["29.99", "31.00", "SUNNY-REF-1", "sunny"] {
        assert!(!own.text.contains(secret), "a source sees {secret}: {}", own.text);
    }
    gateway.finish().await;
}

#[tokio::test]
async fn an_unsold_lead_says_only_that_there_was_no_buyer() {
    let (_partner, world) = answering(Behaviour::ok(r#"{"ok":false,"why":"sunny says over cap"}"#)).await;
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&lead("a@example.com")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        (answer.at("/status"), answer.at("/reason"), answer.at("/payout")),
        ("unsold".to_owned(), "no_buyer".to_owned(), "null".to_owned())
    );
    assert!(!answer.text.contains("sunny"), "{}", answer.text);
    let own = gateway.url(&format!("/v1/leads/{}", answer.at("/lead_id")));
    assert_eq!(gateway.send(gateway.client.get(own).bearer_auth(KEY)).await.text, answer.text);
    gateway.finish().await;
}

/// What a replay answers is read from the store; what a source that waited is told comes from the attempt itself.
#[tokio::test]
async fn a_source_that_waited_and_one_that_asks_again_get_the_same_bytes() {
    let sold = r#"{"ok":true,"next":"https://thanks.example/?a=1&b=2"}"#;
    for (number, reply) in [sold, r#"{"ok":true}"#, r#"{"ok":false,"why":"over cap"}"#].into_iter().enumerate() {
        let (_partner, world) = answering(Behaviour::ok(reply)).await;
        let gateway = world.start().await;
        for format in ["application/json", "application/xml"] {
            let post = || {
                let post = gateway.client.post(gateway.url(&format!("{LEADS}?wait=20"))).bearer_auth(KEY);
                let post = post.header("idempotency-key", format).header("accept", format);
                let body = json!({"email": format!("{}@example.com", &format[12..]), "external_id": "A-17"});
                gateway.send(post.header("content-type", "application/json").body(body.to_string()))
            };
            let (waited, again) = (post().await, post().await);
            assert_eq!((waited.status, again.status), (200, 200), "{number} {format}: {}", again.text);
            assert_eq!(waited.text, again.text, "{number} {format}");
        }
        gateway.finish().await;
    }
}

#[tokio::test]
async fn a_source_may_ask_for_the_wait_in_the_query_the_header_or_its_agreement() {
    let (_partner, network) = taker().await;
    let patient = "[[source]]\nid = \"patient\"\ncampaign = \"solar\"\npartner = \"media\"\nkey = \"test-key-of-patient-1\"\nwait = \"20s\"\n";
    let world = World::new(&format!("{network}{patient}"));
    let gateway = world.start().await;
    let url = gateway.url(LEADS);
    let with = |query: &str, prefer: Option<&str>, key: &str, address: &str| {
        let mut post =
            gateway.client.post(format!("{url}{query}")).bearer_auth(key).header("content-type", "application/json");
        if let Some(prefer) = prefer {
            post = post.header("prefer", prefer);
        }
        post.body(lead(address).to_string())
    };
    let patient = "test-key-of-patient-1";
    let posts = [
        ("?wait=20", None, KEY, 200),
        ("?wait=3600", None, KEY, 200),
        ("", Some("wait=20"), KEY, 200),
        ("", Some("respond-async, wait=20"), KEY, 200),
        ("", None, patient, 200),
        ("", None, KEY, 202),
        ("?wait=0", None, KEY, 202),
        ("?wait=0", Some("wait=20"), patient, 202),
        ("", Some("wait=0"), patient, 202),
    ];
    for (number, (query, prefer, key, status)) in posts.into_iter().enumerate() {
        let answer = gateway.send(with(query, prefer, key, &format!("{number}@example.com"))).await;
        assert_eq!(answer.status, status, "{query} {prefer:?} {}", answer.text);
        assert_eq!(answer.at("/status"), if status == 200 { "sold" } else { "pending" });
    }
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
    gateway.finish().await;
}

#[tokio::test]
async fn a_wait_that_is_over_answers_pending_and_the_outcome_comes_later() {
    let (partner, world) = answering(Behaviour::hang_after_reading()).await;
    let gateway = world.start().await;
    let began = clock::instant();
    let answer = gateway.post_to(&format!("{LEADS}?wait=1"), &lead("a@example.com")).await;
    accepted(&answer);
    assert!((Duration::from_millis(950)..Duration::from_secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
    partner.wait_for_requests(1).await;
    gateway.kill();
}

/// Posts with a long wait to a network in which nothing will be known soon: the answer must come at once.
async fn answers_at_once(network: &str) -> (Gateway, Value) {
    let world = World::new(network);
    let gateway = world.start().await;
    let began = clock::instant();
    let answer = gateway.post_and_wait(&lead("a@example.com")).await;
    let id = accepted(&answer);
    assert!(began.elapsed() < Duration::from_secs(8), "it was kept waiting {:?}", began.elapsed());
    let lead = gateway.lead(&id).await;
    (gateway, lead)
}

#[tokio::test]
async fn a_lead_that_is_held_is_not_waited_for() {
    let (_partner, url) = (0, "http://127.0.0.1:9/");
    let never_now = "schedule = { mon = \"00:00-00:01\" }\n";
    let clock = lead_gateway::clock::Clock::manual(super::super::harness::at("2026-11-21T09:30:00Z"));
    let world = World::new(&buyer("sunny", url, never_now, "when_closed = \"hold\"\nhold_for = \"99d\"", ""));
    let gateway = world.start_inside(clock).await;
    let began = clock::instant();
    let id = accepted(&gateway.post_and_wait(&lead("a@example.com")).await);
    assert!(began.elapsed() < Duration::from_secs(8));
    assert_eq!(text_at(&gateway.lead(&id).await, "/deliveries/0/held/reason"), "closed");
    gateway.stop().await;
}

#[tokio::test]
async fn a_lead_that_is_to_be_tried_again_is_not_waited_for() {
    let partner = Stub::start(Behaviour::reply(503, "")).await;
    let (gateway, lead) =
        answers_at_once(&buyer("sunny", &partner.url("/"), "", "", "retry = { first = \"10m\" }")).await;
    assert_eq!(text_at(&lead, "/deliveries/0/state"), "queued");
    gateway.stop().await;
}

#[tokio::test]
async fn a_lead_whose_fate_is_unknown_is_not_waited_for() {
    let partner = Stub::start(Behaviour::reset_after_reading()).await;
    let (gateway, lead) = answers_at_once(&buyer("sunny", &partner.url("/"), "", "", "")).await;
    assert_eq!(text_at(&lead, "/deliveries/0/state"), "unknown");
    gateway.stop().await;
}

#[tokio::test]
async fn after_an_unknown_attempt_with_next_the_source_hears_of_the_next_buyer() {
    let lost = Stub::start(Behaviour::reset_after_reading()).await;
    let (_taker, second) = taker().await;
    let first = buyer("misty", &lost.url("/"), "", "priority = 1\non_unknown = \"next\"", "");
    let second = second.replace("price = \"31.00\"", "price = \"31.00\"\npriority = 2");
    let world = World::new(&format!("{first}{second}"));
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&lead("a@example.com")).await;
    assert_eq!((answer.status, answer.at("/status")), (200, "sold".to_owned()));
    gateway.stop().await;
}

#[tokio::test]
async fn while_a_source_waits_a_retry_gives_way_to_the_next_buyer() {
    let busy = Stub::start(Behaviour::reply(503, "")).await;
    let (_taker, second) = taker().await;
    let first = buyer("busy", &busy.url("/"), "", "priority = 1", "retry = { first = \"10m\" }");
    let second = second.replace("price = \"31.00\"", "price = \"31.00\"\npriority = 2");
    let world = World::new(&format!("{first}{second}"));
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&lead("a@example.com")).await;
    assert_eq!((answer.status, answer.at("/status")), (200, "sold".to_owned()));
    let lead = gateway.lead(&answer.at("/lead_id")).await;
    assert_eq!(text_at(&lead, "/deliveries/0/state"), "failed");
    gateway.finish().await;
}

#[tokio::test]
async fn a_test_lead_is_answered_and_marked_and_goes_nowhere() {
    let (partner, network) = taker().await;
    let picky = "filters = { all = [{ field = \"postcode\", prefix = [\"SW\"] }] }\nlimits = { daily = 1 }";
    let world = World::new(&network.replace("price = \"31.00\"", &format!("price = \"31.00\"\n{picky}")));
    let gateway = world.start().await;
    let fits = json!({"email": "a@example.com", "postcode": "SW1A 1AA", "external_id": "T-1"});
    let mut in_body = fits.clone();
    in_body["test"] = json!(true);
    let mut answers = vec![
        gateway.post(&in_body).await,
        gateway.post_to(&format!("{LEADS}?test=true"), &fits).await,
        gateway.post_to(&format!("{LEADS}?test=1&wait=5"), &fits).await,
    ];
    let body = "email=a%40example.com&postcode=SW1A1AA&test=yes&external_id=T-1";
    answers.push(post(&gateway, LEADS, KEY, "application/x-www-form-urlencoded", body).await);
    for answer in &answers {
        assert_eq!(
            (answer.status, answer.at("/status"), answer.at("/test")),
            (200, "sold".to_owned(), "true".to_owned()),
            "{}",
            answer.text
        );
        let seen = gateway.lead(&answer.at("/lead_id")).await;
        assert_eq!((&seen["test"], &seen["deliveries"]), (&json!(true), &json!([])));
    }
    let misfit = gateway.post(&json!({"email": "a@example.com", "test": true})).await;
    assert_eq!(
        (misfit.status, misfit.at("/status"), misfit.at("/reason")),
        (200, "unsold".to_owned(), "no_buyer".to_owned())
    );
    is_problem(&gateway.post(&json!({"test": true})).await, 422, "validation");
    assert_eq!(gateway.get("/v1/deliveries").await["items"], json!([]));
    assert_eq!(gateway.get("/v1/leads?test=true&limit=500").await["items"].as_array().unwrap().len(), 5);
    // The one place of the contract is still there for a real lead, and a test sees that it is gone then.
    let real = gateway.post_and_wait(&fits).await;
    assert_eq!(real.at("/status"), "sold", "{}", real.text);
    assert_eq!(gateway.get("/v1/leads?test=false").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(partner.requests().len(), 1);
    gateway.finish().await;
}

#[tokio::test]
async fn xml_is_answered_in_xml_unless_the_source_accepts_something_else() {
    let reply = r#"{"ok":true,"next":"https://thanks.example/?a=1&b=2"}"#;
    let (_partner, world) = answering(Behaviour::ok(reply)).await;
    let gateway = world.start().await;
    let xml = "<lead><email>a@example.com</email><external_id>A &amp; B</external_id></lead>";
    let with = |accept: Option<&str>, kind: &str, body: &str| {
        let mut post =
            gateway.client.post(gateway.url(&format!("{LEADS}?wait=20"))).bearer_auth(KEY).header("content-type", kind);
        if let Some(accept) = accept {
            post = post.header("accept", accept);
        }
        post.body(body.to_owned())
    };
    for accept in [None, Some("*/*"), Some("application/xml"), Some("text/xml, application/json;q=0.1")] {
        let answer = gateway.send(with(accept, "text/xml", xml)).await;
        assert_eq!(answer.status, 200);
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with("application/xml"), "{accept:?}");
        let value = |name: &str| xml_value(&answer.text, name);
        assert_eq!(value("status").as_deref(), Some("sold"));
        assert_eq!(value("external_id").as_deref(), Some("A & B"));
        assert_eq!(value("redirect_url").as_deref(), Some("https://thanks.example/?a=1&b=2"));
        assert_eq!(value("reason").as_deref(), Some(""));
        assert_eq!(value("payout").as_deref(), Some("12.50"));
        assert_eq!(text_at(&gateway.lead(&value("lead_id").unwrap()).await, "/status"), "sold");
    }
    let json_wanted = gateway.send(with(Some("application/json"), "application/xml", xml)).await;
    assert_eq!(
        (json_wanted.headers["content-type"].to_str().unwrap(), json_wanted.at("/status")),
        ("application/json", "sold".to_owned())
    );
    let xml_wanted =
        gateway.send(with(Some("application/xml"), "application/json", &lead("b@example.com").to_string())).await;
    assert!(xml_wanted.headers["content-type"].to_str().unwrap().starts_with("application/xml"));
    // Not at once either: a 202 is XML as well; a problem never is.
    let pending = gateway.client.post(gateway.url(LEADS)).bearer_auth(KEY).header("content-type", "text/xml").body(xml);
    let pending = gateway.send(pending).await;
    assert_eq!((pending.status, xml_value(&pending.text, "status").as_deref()), (202, Some("pending")));
    is_problem(
        &gateway.send(with(Some("application/xml"), "text/xml", "<lead><email>x</email></lead>")).await,
        422,
        "validation",
    );
    gateway.lead_becomes(&xml_value(&pending.text, "lead_id").unwrap(), "sold").await;
    gateway.finish().await;
}

/// The text of a child of `<lead>`.
fn xml_value(xml: &str, name: &str) -> Option<String> {
    let document = quick_xml::Reader::from_str(xml);
    let mut reader = document;
    reader.config_mut().expand_empty_elements = true;
    let mut path: Vec<String> = Vec::new();
    let mut text = String::new();
    loop {
        use quick_xml::events::Event;
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                path.push(start.name().as_ref().to_owned());
                text.clear();
            }
            Event::Text(part) => text.push_str(&part),
            Event::GeneralRef(reference) => match reference.resolve_char_ref().unwrap() {
                Some(c) => text.push(c),
                None => text.push_str(quick_xml::escape::resolve_xml_entity(&reference).unwrap()),
            },
            Event::End(_) => {
                if path == ["lead", name] {
                    return Some(text);
                }
                path.pop();
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[tokio::test]
async fn every_format_gives_the_same_lead() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let bodies = [
        ("application/json", json!({"email": "Zoë@example.com", "name": "Zoë\n& <Söhne>", "bill": 50.5, "address": {"city": "Łódź", "geo": {"lat": "51.5"}}, "external_id": "A-1", "click_id": "c", "sub1": "1", "sub5": "5", "unknown": true}).to_string()),
        ("application/json", json!({"email": "Zoë@example.com", "name": "Zoë\n& <Söhne>", "bill": "50.5", "address.city": "Łódź", "address.geo.lat": "51.5", "external_id": "A-1", "click_id": "c", "sub1": "1", "sub5": "5", "unknown": "true", "phone": null, "postcode": ""}).to_string()),
        ("application/x-www-form-urlencoded", "email=Zo%C3%AB%40example.com&name=Zo%c3%ab%0A%26+%3CS%C3%B6hne%3E&bill=50.5&address.city=%C5%81%C3%B3d%C5%BA&address.geo.lat=51.5&external_id=A-1&click_id=c&sub1=1&sub5=5&unknown=true&phone=".to_owned()),
        ("multipart/form-data; boundary=b", multipart(&[("email", "Zoë@example.com"), ("name", "Zoë\n& <Söhne>"), ("bill", "50.5"), ("address.city", "Łódź"), ("address.geo.lat", "51.5"), ("external_id", "A-1"), ("click_id", "c"), ("sub1", "1"), ("sub5", "5"), ("unknown", "true"), ("phone", "")])),
        ("text/xml; charset=utf-8", "<?xml version=\"1.0\" encoding=\"UTF-8\"?><l:lead xmlns:l=\"urn:x\"><email>Zo&#xEB;@example.com</email><name>Zoë\n<![CDATA[& <Söhne>]]></name><bill>50.5</bill><address><city>Łódź</city><geo><lat>51.5</lat></geo></address><external_id>A-1</external_id><click_id>c</click_id><sub1>1</sub1><sub5>5</sub5><unknown>true</unknown><phone/></l:lead>".to_owned()),
    ];
    let mut seen: Vec<(Value, Value)> = Vec::new();
    for (kind, body) in bodies {
        let answer = post(&gateway, LEADS, KEY, kind, body).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        let id = if answer.text.starts_with('<') {
            xml_value(&answer.text, "lead_id").unwrap()
        } else {
            answer.at("/lead_id")
        };
        let lead = gateway.lead_becomes(&id, "sold").await;
        assert_eq!(text_at(&lead, "/external_id"), "A-1");
        seen.push((lead["fields"].clone(), lead["meta"].clone()));
    }
    let (fields, meta) = &seen[0];
    assert_eq!(fields["name"], "Zoë\n& <Söhne>");
    assert_eq!(
        (&fields["address.city"], &fields["address.geo.lat"], &fields["bill"]),
        (&json!("Łódź"), &json!("51.5"), &json!("50.5"))
    );
    assert_eq!((&meta["click_id"], &meta["sub1"], &meta["sub5"]), (&json!("c"), &json!("1"), &json!("5")));
    assert!(fields.get("phone").is_none() && fields.get("sub1").is_none());
    for other in &seen[1..] {
        assert_eq!(other, &seen[0]);
    }
    gateway.finish().await;
}

#[tokio::test]
async fn a_lead_that_nobody_can_buy_is_pending_to_a_source_that_does_not_wait() {
    let world = World::new("");
    let gateway = world.start().await;
    let id = accepted(&gateway.post(&lead("a@example.com")).await);
    assert_eq!(text_at(&gateway.lead(&id).await, "/status"), "unsold");
    let waited = gateway.post_and_wait(&lead("b@example.com")).await;
    assert_eq!((waited.status, waited.at("/status")), (200, "unsold".to_owned()));
    gateway.finish().await;
}
