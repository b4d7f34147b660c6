//! The rows of the table up to the fields: keys, campaign, pace, body, idempotency, pause.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::harness::{Gateway, KEY, World, all_bytes, buyer, lead};
use super::super::partner_stub::{Behaviour, Stub};
use super::*;
use lead_gateway::clock;

const JSON: &str = "application/json";
const XML: &str = "application/xml";
const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=b";

#[tokio::test]
async fn a_post_without_a_known_key_is_unauthorized_and_leaves_nothing() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let url = gateway.url(LEADS);
    let bare = || gateway.client.post(&url).header("content-type", JSON).body(r#"{"email":"a@example.com"}"#);
    let in_body = json!({"email": "a@example.com", "key": KEY}).to_string();
    let posts = [
        ("no key", bare()),
        ("a wrong key", bare().bearer_auth("test-key-of-nobody-01")),
        ("a wrong X-Api-Key", bare().header("x-api-key", "test-key-of-nobody-01")),
        ("an empty key", bare().header("authorization", "Bearer ")),
        ("another scheme", bare().basic_auth("acme", Some(KEY))),
        ("the key alone", bare().header("authorization", KEY)),
        ("bytes that are no text", bare().header("x-api-key", &b"\xff\xfe"[..])),
        (
            "a key in the query where the source may not",
            gateway.client.post(format!("{url}?key={KEY}")).header("content-type", JSON).body("{}"),
        ),
        ("a key in the body where the source may not", bare().body(in_body)),
        ("a staff token", bare().bearer_auth(&gateway.token)),
    ];
    for (what, post) in posts {
        let answer = gateway.send(post).await;
        is_problem(&answer, 401, "unauthorized");
        assert!(answer.headers.contains_key("www-authenticate"), "{what}");
    }
    assert_eq!(gateway.get("/v1/refusals").await["items"], json!([]), "posts of nobody are kept");
    assert_eq!(leads(&gateway).await, 0);
    gateway.finish().await;
}

#[tokio::test]
async fn either_header_opens_with_the_scheme_in_any_case() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    for (number, (name, value)) in [
        ("authorization", format!("Bearer {KEY}")),
        ("authorization", format!("bearer {KEY}")),
        ("x-api-key", KEY.to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let request = gateway.client.post(gateway.url(LEADS)).header(name, value).header("content-type", JSON);
        let id = accepted(&gateway.send(request.body(lead(&format!("{number}@example.com")).to_string())).await);
        gateway.lead_becomes(&id, "sold").await;
    }
    gateway.finish().await;
}

#[tokio::test]
async fn a_key_in_body_or_query_opens_where_its_source_allows_it_and_is_not_stored() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let url = gateway.url(LEADS);
    let bare = |kind: &str, body: String| gateway.client.post(&url).header("content-type", kind).body(body);
    let posts = [
        bare(JSON, json!({"email": "j@example.com", "key": FORM_KEY}).to_string()),
        bare(FORM, format!("key={FORM_KEY}&email=f%40example.com")),
        bare(XML, format!("<lead><email>x@example.com</email><key>{FORM_KEY}</key></lead>")).header("accept", JSON),
        bare(MULTIPART, multipart(&[("email", "m@example.com"), ("key", FORM_KEY)])),
        gateway.client.post(format!("{url}?key={FORM_KEY}")).header("content-type", FORM).body("email=q%40example.com"),
    ];
    for post in posts {
        let id = accepted(&gateway.send(post).await);
        let lead = gateway.lead_becomes(&id, "sold").await;
        assert_eq!(text_at(&lead, "/source"), "form");
        assert_eq!(lead["fields"].as_object().unwrap().keys().collect::<Vec<_>>(), ["email"], "{lead:#}");
    }
    // A refused one too, and one that cannot even be read.
    is_problem(&gateway.send(bare(FORM, format!("key={FORM_KEY}&email=nobody"))).await, 422, "validation");
    let broken = bare(JSON, format!("{{\"key\": \"{FORM_KEY}\", \"email\": ")).bearer_auth(FORM_KEY);
    is_problem(&gateway.send(broken).await, 400, "malformed");
    gateway.finish().await;
    let kept = all_bytes(&world.path("data"));
    assert!(!contains(&kept, FORM_KEY), "the key lies in the data directory");
    assert!(!contains(world.log().as_bytes(), FORM_KEY), "the key stands in the log");
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

#[tokio::test]
async fn an_unknown_campaign_is_not_found_and_another_ones_is_forbidden() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    for unknown in ["", "wind", "Solar", "so%20lar", "..%2Fsolar", "%00", &"x".repeat(300)] {
        let answer = gateway.post_to(&format!("/v1/campaigns/{unknown}/leads"), &lead("a@example.com")).await;
        is_problem(&answer, 404, "not-found");
    }
    is_problem(&gateway.post_to("/v1/campaigns/loans/leads", &lead("a@example.com")).await, 403, "forbidden");
    is_problem(&post(&gateway, LEADS, LENDER_KEY, JSON, "{}").await, 403, "forbidden");
    assert_eq!(leads(&gateway).await, 0);
    gateway.finish().await;
}

#[tokio::test]
async fn a_source_that_posts_too_fast_is_told_when_to_come_back() {
    let (_partner, network) = taker().await;
    let world = World::with("", "rate = \"2/60s\"", &format!("{network}{OTHERS}"));
    let gateway = world.start().await;
    // What was refused before the pace is asked costs none of it.
    for _ in 0..3 {
        is_problem(&gateway.post_to("/v1/campaigns/loans/leads", &email("a@example.com")).await, 403, "forbidden");
    }
    accepted(&gateway.post(&lead("a@example.com")).await);
    accepted(&gateway.post(&lead("b@example.com")).await);
    let answer = gateway.post(&lead("c@example.com")).await;
    is_problem(&answer, 429, "rate-limited");
    assert!((1..=30).contains(&retry_after(&answer).unwrap()), "{:?}", answer.headers);
    // Before anything about the body; and after the campaign.
    is_problem(&post(&gateway, LEADS, KEY, "text/plain", "?").await, 429, "rate-limited");
    is_problem(&gateway.post_to("/v1/campaigns/loans/leads", &email("a@example.com")).await, 403, "forbidden");
    // Others keep their own pace.
    let other = post(&gateway, LEADS, FORM_KEY, JSON, lead("d@example.com").to_string()).await;
    gateway.lead_becomes(&accepted(&other), "sold").await;
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
    gateway.finish().await;
}

#[tokio::test]
async fn a_body_of_a_type_that_is_not_read_is_unsupported() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    for kind in [
        "text/plain",
        "application/octet-stream",
        "application/json; charset=iso-8859-1",
        "text/xml; charset=\"utf-16\"",
        "json",
        "",
        "a/b/c",
    ] {
        is_problem(&post(&gateway, LEADS, KEY, kind, "{}").await, 415, "unsupported-media-type");
    }
    let compressed = gateway.client.post(gateway.url(LEADS)).bearer_auth(KEY).header("content-encoding", "gzip");
    let compressed = gateway.send(compressed.header("content-type", "application/json").body("{}")).await;
    is_problem(&compressed, 415, "unsupported-media-type");
    assert!(compressed.text.contains("uncompressed"), "{}", compressed.text);
    let without = gateway.client.post(gateway.url(LEADS)).bearer_auth(KEY).body("{}");
    is_problem(&gateway.send(without).await, 415, "unsupported-media-type");
    for (number, kind) in
        ["application/json; charset=UTF-8", "APPLICATION/JSON", "application/vnd.acme+json"].into_iter().enumerate()
    {
        accepted(&post(&gateway, LEADS, KEY, kind, lead(&format!("{number}@example.com")).to_string()).await);
    }
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
    gateway.finish().await;
}

/// A post over a bare connection, so that its body can be anything.
async fn connect(gateway: &Gateway, head: &str) -> TcpStream {
    let mut wire = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST {LEADS} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {JSON}\r\n{head}\r\n\r\n"
    );
    wire.write_all(head.as_bytes()).await.unwrap();
    wire
}

#[tokio::test]
async fn a_body_over_the_limit_is_too_large_and_one_at_the_limit_is_not() {
    let (_partner, world) = world().await;
    configure_server(&world, "body_limit = \"2KiB\"");
    let gateway = world.start().await;
    let of_size = |size: usize| {
        let body = lead("a@example.com").to_string();
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    is_problem(&post(&gateway, LEADS, KEY, JSON, of_size(2049)).await, 413, "too-large");
    // Far over it, the client still hears the answer.
    is_problem(&post(&gateway, LEADS, KEY, JSON, of_size(12 << 20)).await, 413, "too-large");
    // A limit is no reason to read what is no lead: the type comes first.
    is_problem(&post(&gateway, LEADS, KEY, "text/plain", of_size(2049)).await, 415, "unsupported-media-type");
    // And size before form.
    is_problem(&post(&gateway, LEADS, KEY, JSON, "{".repeat(2049)).await, 413, "too-large");
    assert_eq!(leads(&gateway).await, 0);
    let id = accepted(&post(&gateway, LEADS, KEY, JSON, of_size(2048)).await);
    gateway.lead_becomes(&id, "sold").await;
    gateway.finish().await;
}

/// Writes for as long as the gateway takes it; then what it answered, which may be nothing where it closed.
async fn flood(wire: TcpStream, chunk: &[u8]) -> String {
    let (mut from, mut to) = wire.into_split();
    let chunk = chunk.to_vec();
    let writer = tokio::spawn(async move { while to.write_all(&chunk).await.is_ok() {} });
    let mut answer = Vec::new();
    let _ = from.read_to_end(&mut answer).await;
    writer.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_of_twenty_mebibytes_or_without_end_gets_its_answer_or_a_close_in_bounded_time() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let began = clock::instant();
    let huge = 20 << 20;
    let wire = connect(&gateway, &format!("Content-Length: {huge}")).await;
    let answer = flood(wire, &vec![b' '; 64 << 10]).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");

    let mut chunk = b"10000\r\n".to_vec();
    chunk.resize(chunk.len() + 0x10000, b' ');
    chunk.extend_from_slice(b"\r\n");
    let wire = connect(&gateway, "Transfer-Encoding: chunked").await;
    let answer = flood(wire, &chunk).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    // It still serves.
    let id = accepted(&gateway.post(&lead("a@example.com")).await);
    gateway.lead_becomes(&id, "sold").await;
    gateway.finish().await;
}

#[tokio::test]
async fn a_client_that_has_passed_the_limit_and_dawdles_is_answered_within_seconds() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let began = clock::instant();
    // Over the limit at once; the rest never comes.
    let mut wire = connect(&gateway, "Content-Length: 8000000").await;
    wire.write_all(&vec![b' '; (1 << 20) + 1]).await.unwrap();
    let mut answer = vec![0; 12];
    wire.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 413");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    gateway.finish().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_malformed_with_line_and_column() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let deep = format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100));
    let deep_xml = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
    let bodies: &[(&str, &[u8], &str)] = &[
        (JSON, b"{\"email\": \"a@example.com\",\n \"name\" \"x\"}", "line 2, column 9"),
        (JSON, b"", "line 1, column 1"),
        (JSON, b"[]", "line 1, column 1"),
        (JSON, b"\"text\"", "line 1, column"),
        (JSON, b"{\"email\": \"a@example.com\"} {}", "line 1, column"),
        (JSON, b"{\"email\": \"\xff\"}", "line 1, column 12"),
        (JSON, b"{\"email\":\"a@example.com\",\"email\":\"b@example.com\"}", "line 1, column"),
        (JSON, deep.as_bytes(), "line 1, column"),
        (FORM, b"email=a%40example.com&name=%FF", "line 1, column 23"),
        (FORM, b"name=x&name=y", "line 1, column 8"),
        (XML, b"<lead>\n<email>a@example.com</mail></lead>", "line 2, column"),
        (XML, b"<lead><email>a@example.com</email>", "line 1, column"),
        (XML, b"<lead><a>1</a></lead><lead/>", "line 1, column 22"),
        (XML, b"<lead><name>a & b</name></lead>", "line 1, column"),
        (XML, deep_xml.as_bytes(), "line 1, column"),
        (XML, b"<!DOCTYPE lead SYSTEM \"http://127.0.0.1/x.dtd\"><lead/>", "line 1, column 1"),
        (XML, b"<?xml version=\"1.0\"?>\n<!DOCTYPE lead [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>\n<lead><name>&x;</name></lead>", "line 2, column 1"),
        (XML, b"<lead>\n<name>&nbsp;</name></lead>", "line 2, column"),
    ];
    for (kind, body, place) in bodies {
        let problem = is_problem(&post(&gateway, LEADS, KEY, kind, body.to_vec()).await, 400, "malformed");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(place), "{}: {detail}", String::from_utf8_lossy(body));
    }
    is_problem(&gateway.post_to(&format!("{LEADS}?wait=soon"), &lead("a@example.com")).await, 400, "malformed");
    assert_eq!(leads(&gateway).await, 0);
    gateway.finish().await;
}

#[tokio::test]
async fn the_same_key_while_the_first_is_being_worked_on_is_in_progress() {
    let partner = Stub::start(Behaviour::hang_after_reading()).await;
    let world = World::new(&buyer("slow", &partner.url("/"), "", "", "timeout = \"2s\""));
    let gateway = world.start().await;
    let body = lead("a@example.com");
    let request = gateway.client.post(gateway.url(&format!("{LEADS}?wait=30"))).bearer_auth(KEY);
    let request = request.header("idempotency-key", "one").header("content-type", JSON).body(body.to_string());
    let first = tokio::spawn(request.send());
    partner.wait_for_requests(1).await;
    let answer = post_once(&gateway, "one", &body).await;
    is_problem(&answer, 409, "idempotency-in-progress");
    // It is unknown after the time-out, so the source is not kept waiting; then the key answers again.
    assert_eq!(first.await.unwrap().unwrap().status(), 202);
    assert_eq!(post_once(&gateway, "one", &body).await.status, 202);
    assert_eq!(leads(&gateway).await, 1);
    gateway.stop().await;
}

#[tokio::test]
async fn two_posts_with_one_key_at_the_same_moment_make_one_lead() {
    let (partner, world) = world().await;
    let gateway = world.start().await;
    let body = lead("a@example.com");
    let posts: Vec<_> = (0..8)
        .map(|_| {
            let post = gateway.client.post(gateway.url(LEADS)).bearer_auth(KEY).header("idempotency-key", "one");
            tokio::spawn(post.header("content-type", JSON).body(body.to_string()).send())
        })
        .collect();
    let mut ids: Vec<String> = Vec::new();
    for post in posts {
        let response = post.await.unwrap().unwrap();
        let status = response.status().as_u16();
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        match status {
            200 | 202 => ids.push(text_at(&answer, "/lead_id")),
            409 => assert_eq!(answer["type"], "/problems/idempotency-in-progress"),
            _ => panic!("{answer:#}"),
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    gateway.lead_becomes(&ids[0], "sold").await;
    assert_eq!(leads(&gateway).await, 1);
    assert_eq!(partner.requests().len(), 1);
    gateway.finish().await;
}

#[tokio::test]
async fn a_key_again_with_the_same_bytes_is_the_same_lead_also_after_a_restart_and_with_others_refused() {
    let (partner, world) = world().await;
    let gateway = world.start().await;
    gateway.act("/v1/partners/sunny/pause", &json!({})).await;
    let body = lead("a@example.com");
    let id = accepted(&post_once(&gateway, "one", &body).await);
    assert_eq!(accepted(&post_once(&gateway, "one", &body).await), id);
    // The same values in other bytes are another body.
    let spaced = gateway.client.post(gateway.url(LEADS)).bearer_auth(KEY).header("idempotency-key", "one");
    let spaced = gateway.send(spaced.header("content-type", JSON).body(format!("{body} "))).await;
    is_problem(&spaced, 422, "idempotency-reused");
    gateway.stop().await;

    let gateway = world.start().await;
    assert_eq!(accepted(&post_once(&gateway, "one", &body).await), id);
    is_problem(&post_once(&gateway, "one", &lead("b@example.com")).await, 422, "idempotency-reused");
    // Another source's key of the same name is its own.
    let other = gateway.client.post(gateway.url(LEADS)).bearer_auth(FORM_KEY).header("idempotency-key", "one");
    let other = accepted(&gateway.send(other.header("content-type", JSON).body(body.to_string())).await);
    assert_ne!(other, id);
    gateway.act("/v1/partners/sunny/resume", &json!({})).await;
    gateway.lead_becomes(&id, "sold").await;
    gateway.lead_becomes(&other, "sold").await;
    let replay = post_once(&gateway, "one", &body).await;
    assert_eq!((replay.status, replay.at("/status"), replay.at("/lead_id")), (200, "sold".to_owned(), id));
    assert_eq!(partner.requests().len(), 2);
    gateway.finish().await;
}

#[tokio::test]
async fn a_refused_post_leaves_no_idempotency_key() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    is_problem(&post_once(&gateway, "one", &email("nobody")).await, 422, "validation");
    gateway.act("/v1/sources/acme/pause", &json!({})).await;
    is_problem(&post_once(&gateway, "one", &lead("a@example.com")).await, 403, "source-paused");
    gateway.act("/v1/sources/acme/resume", &json!({})).await;
    let id = accepted(&post_once(&gateway, "one", &lead("b@example.com")).await);
    gateway.lead_becomes(&id, "sold").await;
    for bad in ["", " ", "with space", &"x".repeat(256)] {
        is_problem(&post_once(&gateway, bad, &lead("c@example.com")).await, 400, "malformed");
    }
    gateway.finish().await;
}

#[tokio::test]
async fn a_paused_or_ended_source_is_refused_until_it_is_resumed() {
    let (_partner, network) = taker().await;
    let ended = "[[source]]\nid = \"old\"\ncampaign = \"solar\"\npartner = \"media\"\nkey = \"test-key-of-old-00001\"\nstatus = \"ended\"\n";
    let world = World::new(&format!("{network}{ended}"));
    let gateway = world.start().await;
    let first = accepted(&post_once(&gateway, "before", &lead("a@example.com")).await);
    gateway.lead_becomes(&first, "sold").await;

    assert_eq!(gateway.act("/v1/sources/acme/pause", &json!({})).await.status, 200);
    is_problem(&gateway.post(&lead("b@example.com")).await, 403, "source-paused");
    // A replay is no new lead; wrong fields are looked at later.
    assert_eq!(post_once(&gateway, "before", &lead("a@example.com")).await.at("/lead_id"), first);
    is_problem(&post_once(&gateway, "before", &lead("b@example.com")).await, 422, "idempotency-reused");
    is_problem(&gateway.post(&email("nobody")).await, 403, "source-paused");
    let old = post(&gateway, LEADS, "test-key-of-old-00001", JSON, lead("b@example.com").to_string()).await;
    is_problem(&old, 403, "source-paused");
    gateway.stop().await;

    // A pause is state: it outlives the process.
    let gateway = world.start().await;
    is_problem(&gateway.post(&lead("b@example.com")).await, 403, "source-paused");
    assert_eq!(gateway.act("/v1/sources/acme/resume", &json!({})).await.status, 200);
    let id = accepted(&gateway.post(&lead("b@example.com")).await);
    gateway.lead_becomes(&id, "sold").await;
    gateway.finish().await;
}

#[tokio::test]
async fn every_wrong_field_is_named_at_once_in_every_format() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let long = "x".repeat(300);
    let bodies = [
        (JSON, json!({"phone": "12", "postcode": "?", "bill": "-1", "birth_date": "1980-02-30", "external_id": long, "test": "perhaps", "name": [1]}).to_string()),
        (FORM, format!("phone=12&postcode=%3F&bill=-1&birth_date=1980-02-30&external_id={long}&test=perhaps&name=%00")),
        (XML, format!("<l><phone>12</phone><postcode>?</postcode><bill>-1</bill><birth_date>1980-02-30</birth_date><external_id>{long}</external_id><test>perhaps</test><name>{}</name></l>", "n".repeat(1001))),
    ];
    for (kind, body) in bodies {
        let answer = post(&gateway, LEADS, KEY, kind, body).await;
        let problem = is_problem(&answer, 422, "validation");
        let mut wrong = wrong_fields(&answer);
        wrong.sort();
        assert_eq!(
            wrong,
            ["bill", "birth_date", "email", "external_id", "name", "phone", "postcode", "test"],
            "{problem:#}"
        );
        for error in problem["errors"].as_array().unwrap() {
            assert!(!text_at(error, "/code").is_empty() && !text_at(error, "/message").is_empty());
        }
        assert!(!answer.text.contains("1980-02-30"), "an answer repeats a value: {}", answer.text);
    }
    let answer = gateway.post_to(&format!("{LEADS}?test=perhaps"), &email("nobody")).await;
    is_problem(&answer, 422, "validation");
    assert_eq!(wrong_fields(&answer), ["test", "email"]);
    assert_eq!(leads(&gateway).await, 0);
    gateway.finish().await;
}

#[tokio::test]
async fn of_two_faults_the_earlier_row_of_the_table_answers() {
    let (_partner, network) = taker().await;
    let campaign = "dedupe = [{ fields = [\"email\"], window = \"30d\" }]";
    let world = World::with(campaign, "limits = { daily = 1 }", &format!("{network}{OTHERS}"));
    let gateway = world.start().await;
    let nowhere = "/v1/campaigns/wind/leads";
    is_problem(&post(&gateway, nowhere, "test-key-of-nobody-01", "text/plain", "?").await, 401, "unauthorized");
    is_problem(&post(&gateway, nowhere, KEY, "text/plain", "?").await, 404, "not-found");
    is_problem(&post(&gateway, "/v1/campaigns/loans/leads", KEY, "text/plain", "?").await, 403, "forbidden");
    let id = accepted(&post_once(&gateway, "one", &lead("a@example.com")).await);
    gateway.lead_becomes(&id, "sold").await;

    let keyed = gateway.client.post(gateway.url(LEADS)).bearer_auth(KEY).header("idempotency-key", "one");
    is_problem(&gateway.send(keyed.header("content-type", JSON).body("{")).await, 400, "malformed");
    gateway.act("/v1/sources/acme/pause", &json!({})).await;
    is_problem(&post_once(&gateway, "one", &email("nobody")).await, 422, "idempotency-reused");
    is_problem(&gateway.post(&email("nobody")).await, 403, "source-paused");
    gateway.act("/v1/sources/acme/resume", &json!({})).await;
    // The limit is used up, and the person is known.
    is_problem(&gateway.post(&email("nobody")).await, 422, "validation");
    is_problem(&gateway.post(&lead("a@example.com")).await, 429, "limit-reached");
    assert_eq!(post_once(&gateway, "one", &lead("a@example.com")).await.status, 200);
    gateway.finish().await;
}

#[tokio::test]
async fn whatever_is_asked_is_answered_as_a_problem_with_its_request_id() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let client = &gateway.client;
    for path in ["/", "/v1", "/v2/leads", "/v1/leads/x/y", "/v1/openapi.json", "/%ff", "/v1/campaigns/solar/leads/"] {
        let answer = gateway.send(client.get(gateway.url(path))).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text);
        is_problem(&answer, 404, "not-found");
    }
    for (method, path) in
        [("GET", LEADS), ("PUT", LEADS), ("DELETE", "/v1/leads"), ("POST", "/healthz"), ("BREW", "/v1/deliveries")]
    {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        is_problem(
            &gateway.send(client.request(method, gateway.url(path)).bearer_auth(KEY)).await,
            405,
            "method-not-allowed",
        );
    }
    // What a framework would answer itself, in words of its own.
    for path in ["/v1/campaigns/%ff/leads", "/v1/campaigns/%C3%28/leads"] {
        let answer = gateway.post_to(path, &lead("a@example.com")).await;
        assert!([400, 404].contains(&answer.status), "{}", answer.status);
        is_problem(&answer, answer.status, if answer.status == 404 { "not-found" } else { "malformed" });
    }
    let odd = gateway.send(client.get(gateway.url("/v1/leads/%ff")).bearer_auth(&gateway.token)).await;
    is_problem(&odd, odd.status, if odd.status == 404 { "not-found" } else { "malformed" });
    let large =
        client.post(gateway.url("/v1/deliveries/x/cancel")).bearer_auth(&gateway.token).body(vec![b' '; 3 << 20]);
    is_problem(&gateway.send(large).await, 413, "too-large");

    let head = gateway.send(client.head(gateway.url(LEADS))).await;
    assert_eq!((head.status, head.text.as_str()), (405, ""));
    let mut seen = std::collections::HashSet::new();
    for path in ["/healthz", "/readyz", "/openapi.json", "/metrics", "/nothing"] {
        let answer = gateway.send(client.get(gateway.url(path))).await;
        assert!(seen.insert(answer.headers["x-request-id"].clone()), "two requests have one id");
    }
    gateway.finish().await;
}

#[tokio::test]
async fn rubbish_on_the_wire_ends_its_connection_and_nothing_else() {
    let (_partner, world) = world().await;
    let gateway = world.start().await;
    let big_head = format!("GET / HTTP/1.1\r\nHost: g\r\nX-Big: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: g\r\n{}\r\n", "X-A: b\r\n".repeat(500));
    let rubbish: [&[u8]; 9] = [
        b"\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello over TLS\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST /v1/campaigns/solar/leads HTTP/1.1\r\nHost: g\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/campaigns/solar/leads HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        b"POST /v1/campaigns/solar/leads HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
        big_head.as_bytes(),
        many.as_bytes(),
    ];
    for bytes in rubbish {
        let mut wire = TcpStream::connect(gateway.address).await.unwrap();
        let _ = wire.write_all(bytes).await;
        let _ = wire.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), wire.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "no end after {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // A post that breaks off is no lead, even where what came would be one.
    let mut wire = connect(&gateway, "Content-Length: 100").await;
    wire.write_all(lead("a@example.com").to_string().as_bytes()).await.unwrap();
    drop(wire);
    let id = accepted(&gateway.post(&lead("b@example.com")).await);
    gateway.lead_becomes(&id, "sold").await;
    assert_eq!(leads(&gateway).await, 1);
    gateway.finish().await;
}

/// The plain spelling is taken by hand, any other by way of the router.
#[tokio::test]
async fn a_post_is_answered_alike_however_its_path_is_spelled() {
    let (_partner, network) = taker().await;
    let world = World::new(&format!("{network}{OTHERS}"));
    let gateway = world.start().await;
    let (json, form) = ("application/json", "application/x-www-form-urlencoded");
    let posts = [
        (KEY, json, "{\"email\":\"N@example.com\"}", ""),
        (KEY, json, "{\"email\":\"waitsN@example.com\"}", "?wait=20"),
        (KEY, json, "{\"email\":\"testN@example.com\"}", "?test=true"),
        (KEY, json, "{\"email\":\"nobody\"}", ""),
        (KEY, json, "{", ""),
        (KEY, "text/plain", "", ""),
        (KEY, json, "", "?wait=soon"),
        ("another-key-than-any", json, "{}", ""),
        (LENDER_KEY, json, "{}", ""),
        (FORM_KEY, form, "email=formN%40example.com", ""),
    ];
    for (key, kind, body, query) in posts {
        let mut answers = Vec::new();
        for (number, campaign) in ["solar", "s%6flar"].into_iter().enumerate() {
            let body = body.replace('N', &number.to_string());
            let path = format!("/v1/campaigns/{campaign}/leads{query}");
            let answer = post(&gateway, &path, key, kind, body).await;
            assert!(answer.headers.contains_key("x-request-id"), "{path}");
            let mut shown = answer.json();
            for own in ["lead_id", "request_id", "received_at"] {
                if let Some(value) = shown.get_mut(own) {
                    *value = Value::Bool(value.as_str().is_some_and(|text| !text.is_empty()));
                }
            }
            let mut names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
            names.sort();
            answers.push((answer.status, shown, names, answer.headers.get("content-type").cloned()));
        }
        assert_eq!(answers[0], answers[1], "{key} {kind} {body} {query}");
    }
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
    gateway.finish().await;
}
