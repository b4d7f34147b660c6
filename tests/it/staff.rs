//! What staff and operators ask and do (CONTRACT 7), as an outsider sees it.

mod deliveries;
mod operators;
mod roles;
mod search;
mod secrets;

use serde_json::{Value, json};

use super::harness::{Answer, Gateway, KEY, World, buyer, lead, text_at};
use super::partner_stub::{Behaviour, Stub};

/// Response rules of a partner that answers `{"ok":…,"why":…,"ref":…}`.
const RULES: &str = "[contract.endpoint.response]\naccepted = { json = \"$.ok\", equals = \"true\" }\n\
    rejected = { json = \"$.ok\", equals = \"false\" }\nreason = { json = \"$.why\" }\nreference = { json = \"$.ref\" }\n";

/// One buyer with [`RULES`] that answers as told.
async fn ruled(behaviour: Behaviour, partner_keys: &str, contract_keys: &str) -> (Stub, World) {
    let partner = Stub::start(behaviour).await;
    let world = World::new(&buyer("sunny", &partner.url("/leads"), partner_keys, contract_keys, RULES));
    (partner, world)
}

/// What someone with this token gets.
async fn get_as(gateway: &Gateway, token: &str, path: &str) -> Answer {
    gateway.send(gateway.client.get(gateway.url(path)).bearer_auth(token)).await
}

/// What someone with this token may do.
async fn act_as(gateway: &Gateway, token: &str, path: &str, body: &Value) -> Answer {
    gateway.send(gateway.client.post(gateway.url(path)).bearer_auth(token).body(body.to_string())).await
}

#[track_caller]
fn is_problem(answer: &Answer, status: u16, kind: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{}", answer.text);
    assert_eq!(answer.at("/type"), format!("/problems/{kind}"), "{}", answer.text);
    assert_eq!(answer.at("/request_id"), answer.headers["x-request-id"].to_str().unwrap());
}

/// The ids of the items on a page.
async fn ids(gateway: &Gateway, path: &str) -> Vec<String> {
    let page = gateway.get(path).await;
    let id = if path.starts_with("/v1/leads") { "/lead_id" } else { "/id" };
    page["items"].as_array().unwrap().iter().map(|item| text_at(item, id)).collect()
}

/// Posts a lead and waits for its end; its id.
async fn settled(gateway: &Gateway, body: &Value) -> String {
    let answer = gateway.post_and_wait(body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.at("/lead_id")
}

fn email(address: &str) -> Value {
    json!({"email": address})
}
