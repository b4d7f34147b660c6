//! Refused posts of known sources can be found and read by staff, without their secrets.

use serde_json::json;

use super::super::harness::{World, all_bytes};
use super::*;

const BORN: &str = "1980-02-17";

#[tokio::test]
async fn a_refused_post_is_found_by_its_request_id_with_what_was_asked_and_answered() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let body = json!({"email": "nobody", "name": "Zoë", "birth_date": BORN});
    let answer = gateway.post(&body).await;
    let problem = is_problem(&answer, 422, "validation");
    let other = post(&gateway, LEADS, FORM_KEY, "application/x-www-form-urlencoded", "email=nobody").await;
    is_problem(&other, 422, "validation");

    let id = text_at(&problem, "/request_id");
    let found = gateway.get(&format!("/v1/refusals?request_id={id}")).await;
    let [refusal] = found["items"].as_array().unwrap().as_slice() else { panic!("{found:#}") };
    assert_eq!(text_at(refusal, "/request_id"), id);
    assert_eq!((text_at(refusal, "/source"), text_at(refusal, "/campaign")), ("acme".to_owned(), "solar".to_owned()));
    assert_eq!(refusal["status"], 422);
    assert_eq!(refusal["answer"], problem);
    assert_eq!(refusal["request"]["method"], "POST");
    assert_eq!(refusal["request"]["body"], body.to_string().replace(BORN, "***"));
    assert_eq!((&refusal["request"]["encoding"], &refusal["request"]["truncated"]), (&json!("utf-8"), &json!(false)));
    let headers = refusal["request"]["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["authorization", "***"])), "{headers:#?}");
    assert!(headers.contains(&json!(["content-type", "application/json"])), "{headers:#?}");

    let of = |query: &str| {
        let path = format!("/v1/refusals?{query}");
        let gateway = &gateway;
        async move { gateway.get(&path).await["items"].as_array().unwrap().len() }
    };
    assert_eq!(of("source=acme").await, 1);
    assert_eq!(of("source=form").await, 1);
    assert_eq!(of("source=lender").await, 0);
    let at = text_at(refusal, "/received_at");
    assert_eq!(of(&format!("from={at}")).await, 2);
    assert_eq!(of(&format!("to={at}")).await, 0);
    assert_eq!(of("from=2000-01-01T00:00:00Z&to=2001-01-01T00:00:00Z").await, 0);

    // A viewer does not see the person.
    let viewer = world.new_token("looker", "viewer");
    let seen = gateway.send(gateway.client.get(gateway.url("/v1/refusals")).bearer_auth(&viewer)).await;
    assert!(!seen.text.contains("Zoë"), "{}", seen.text);
    gateway.finish().await;
}

#[tokio::test]
async fn every_kind_of_refusal_is_kept() {
    let (_partner, network) = taker().await;
    let world = World::with("", "limits = { total = 1 }", &format!("{network}{OTHERS}"));
    let gateway = world.start().await;
    let first = accepted(&post_once(&gateway, "one", &email("a@example.com")).await);
    gateway.lead_becomes(&first, "sold").await;
    let json = "application/json";
    let mut ids = Vec::new();
    let mut refused = |answer: Answer, status: u16| {
        assert_eq!(answer.status, status, "{}", answer.text);
        ids.push((answer.at("/request_id"), status));
    };
    refused(gateway.post_to("/v1/campaigns/wind/leads", &email("a@example.com")).await, 404);
    refused(gateway.post_to("/v1/campaigns/loans/leads", &email("a@example.com")).await, 403);
    refused(post(&gateway, LEADS, KEY, "text/plain", "?").await, 415);
    refused(post(&gateway, LEADS, KEY, json, vec![b' '; 2 << 20]).await, 413);
    refused(post(&gateway, LEADS, KEY, json, b"{\"email\": \"\xff\"".to_vec()).await, 400);
    refused(post_once(&gateway, "one", &email("b@example.com")).await, 422);
    refused(gateway.post(&email("nobody")).await, 422);
    refused(gateway.post(&email("c@example.com")).await, 403);
    for (id, status) in &ids {
        let found = gateway.get(&format!("/v1/refusals?request_id={id}")).await;
        assert_eq!(found["items"][0]["status"], *status, "{found:#}");
    }
    let body_of = |number: usize| format!("/v1/refusals?request_id={}", ids[number].0);
    // What is larger than is kept says so; what is no text is base64.
    let large = gateway.get(&body_of(3)).await;
    assert_eq!(large["items"][0]["request"]["truncated"], true);
    assert!(text_at(&large, "/items/0/request/body").len() <= 64 << 10);
    let bytes = gateway.get(&body_of(4)).await;
    assert_eq!(text_at(&bytes, "/items/0/request/encoding"), "base64");

    // A page at a time, newest first, none twice.
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = gateway.get(&format!("/v1/refusals?limit=3{cursor}")).await;
        paged.extend(page["items"].as_array().unwrap().iter().map(|item| text_at(item, "/request_id")));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    ids.reverse();
    assert_eq!(paged, ids.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
    gateway.finish().await;
}

#[tokio::test]
async fn keys_and_sensitive_fields_are_masked_in_every_body_readable_or_not() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let (json, form, xml) = ("application/json", "application/x-www-form-urlencoded", "text/xml");
    let bodies = [
        (json, format!("{{\"birth_date\": \"{BORN}\", \"email\": \"nobody\"}}")),
        (form, format!("birth_date={BORN}&email=nobody&key={FORM_KEY}")),
        (xml, format!("<l><birth_date>{BORN}</birth_date><email>nobody</email><key>{FORM_KEY}</key></l>")),
        // Broken, of another type, too large: nobody can say which value is which.
        (json, format!("{{\"key\": \"{FORM_KEY}\", \"birth_date\": \"{BORN}\", \"email\": }}")),
        (json, format!("{{\"birth_date\": \"{BORN}\"")),
        (form, format!("email=%FF&birth_date={BORN}")),
        (xml, format!("<l><birth_date>{BORN}</birth_date>")),
        ("text/plain", format!("birth_date: {BORN}")),
        (json, format!("{{\"birth_date\": \"{BORN}\"{}", " ".repeat(2 << 20))),
    ];
    let count = bodies.len();
    for (kind, body) in bodies {
        let answer = post(&gateway, LEADS, FORM_KEY, kind, body).await;
        assert!([400, 413, 415, 422].contains(&answer.status), "{}", answer.text);
    }
    let found = gateway.get("/v1/refusals?source=form&limit=500").await;
    assert_eq!(found["items"].as_array().unwrap().len(), count);
    let shown = found.to_string();
    assert!(!shown.contains(BORN), "{found:#}");
    assert!(!shown.contains(FORM_KEY), "{found:#}");
    // What is no secret stays readable.
    assert!(shown.contains("nobody"), "{found:#}");
    gateway.finish().await;
    let kept = all_bytes(&world.path("data"));
    for secret in [BORN, FORM_KEY] {
        assert!(memchr::memmem::find(&kept, secret.as_bytes()).is_none(), "{secret} lies in the data directory");
        assert!(!world.log().contains(secret), "{secret} stands in the log");
    }
}
