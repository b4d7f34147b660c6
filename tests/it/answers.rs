//! What a source is answered (CONTRACT 7), as an outsider sees it: every row of the answer table, in its order.

mod duplicates;
mod limits;
mod lists;
mod outcomes;
mod refusals;
mod table;

use serde_json::{Value, json};

use super::harness::{Answer, Gateway, KEY, World, buyer, text_at};
use super::partner_stub::{Behaviour, Stub};

const LEADS: &str = "/v1/campaigns/solar/leads";

/// A second campaign with a source of its own, and a source of `solar` that may put its key anywhere.
const OTHERS: &str = r#"
[[campaign]]
id = "loans"
timezone = "Europe/London"
currency = "GBP"
[campaign.fields]
email = { type = "email", required = true }

[[source]]
id = "lender"
campaign = "loans"
partner = "media"
key = "test-key-of-lender-01"

[[source]]
id = "form"
campaign = "solar"
partner = "media"
key = "test-key-of-a-form-01"
key_in_body = true
payout = "7.00"
"#;
const LENDER_KEY: &str = "test-key-of-lender-01";
const FORM_KEY: &str = "test-key-of-a-form-01";

/// A buyer that takes whatever comes.
async fn taker() -> (Stub, String) {
    let partner = Stub::start(Behaviour::ok("{}")).await;
    let network = buyer("sunny", &partner.url("/leads"), "", "", "");
    (partner, network)
}

/// Posts any body with the key in `Authorization`.
async fn post(gateway: &Gateway, path: &str, key: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = gateway.client.post(gateway.url(path)).bearer_auth(key).header("content-type", content_type);
    gateway.send(request.body(body)).await
}

/// A multipart body whose boundary is `b`.
fn multipart(fields: &[(&str, &str)]) -> String {
    let part = |(name, value): &(&str, &str)| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    fields.iter().map(part).collect::<Vec<_>>().concat() + "--b--\r\n"
}

/// Posts JSON under an idempotency key.
async fn post_once(gateway: &Gateway, key: &str, body: &Value) -> Answer {
    let request = gateway.client.post(gateway.url(LEADS)).bearer_auth(KEY).header("idempotency-key", key);
    gateway.send(request.header("content-type", "application/json").body(body.to_string())).await
}

/// The answer is this problem, whole and consistent (RFC 9457).
#[track_caller]
fn is_problem(answer: &Answer, status: u16, kind: &str) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{}", answer.text);
    let problem = answer.json();
    assert_eq!(problem["type"], format!("/problems/{kind}"), "{problem:#}");
    assert_eq!(problem["status"], status);
    for text in ["title", "detail"] {
        assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{problem:#}");
    }
    assert_eq!(problem["request_id"].as_str(), answer.headers["x-request-id"].to_str().ok(), "{problem:#}");
    problem
}

/// The seconds of `Retry-After`.
fn retry_after(answer: &Answer) -> Option<u64> {
    Some(answer.headers.get("retry-after")?.to_str().unwrap().parse().unwrap())
}

/// The fields that an answer names as wrong, in its order.
fn wrong_fields(answer: &Answer) -> Vec<String> {
    answer.json()["errors"].as_array().unwrap().iter().map(|error| text_at(error, "/field")).collect()
}

/// The lead was taken; its id.
#[track_caller]
fn accepted(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_eq!(answer.at("/status"), "pending");
    answer.at("/lead_id")
}

/// How many leads staff can see.
async fn leads(gateway: &Gateway) -> usize {
    gateway.get("/v1/leads?limit=500").await["items"].as_array().unwrap().len()
}

fn email(address: &str) -> Value {
    json!({"email": address})
}

/// A world with one buyer that takes everything, and the sources of [`OTHERS`].
async fn world() -> (Stub, World) {
    let (partner, network) = taker().await;
    (partner, World::new(&format!("{network}{OTHERS}")))
}

/// Adds a key to `[server]`.
fn configure_server(world: &World, key: &str) {
    let config = std::fs::read_to_string(world.path("gateway.toml")).unwrap();
    world.write("gateway.toml", &config.replace("[server]\n", &format!("[server]\n{key}\n")));
}
