//! An authorization server that checks what it is shown, and an API that takes its tokens and nothing else.

use serde_json::Value;

use super::super::harness::{Gateway, World, buyer, lead, text_at};
use super::Peer;

/// This server takes what stands in `Authorization` as it is.
const MINE: &str = "client_id = \"gateway\", client_secret = \"client secret/+&=1\", client_auth = \"basic_plain\"";

fn network(peer: &Peer, oauth2: &str) -> String {
    let auth = format!(
        "retry = {{ first = \"1h\" }}\nauth = {{ oauth2 = {{ token_url = \"{}\", scope = \"leads.write\", {oauth2} }} }}\n\
         [contract.endpoint.response]\naccepted = {{ json = \"$.status\", equals = \"taken\" }}\nreference = {{ json = \"$.number\" }}\n",
        peer.url("/token")
    );
    buyer("sunny", &peer.url("/leads"), "", "", &auth)
}

async fn seen(gateway: &Gateway, peer: &Peer) -> Value {
    gateway.send(gateway.client.get(peer.url("/seen"))).await.json()
}

#[tokio::test]
async fn an_authorization_server_gives_tokens_for_every_way_of_showing_who_we_are() {
    for (oauth2, grant) in [
        (MINE, "client_credentials"),
        ("client_id = \"letters\", client_secret = \"only-letters\"", "client_credentials"),
        ("client_id = \"by-body\", client_secret = \"another:secret\", client_auth = \"body\"", "client_credentials"),
        (
            "client_id = \"letters\", client_secret = \"only-letters\", grant = \"password\", username = \"ada\", password = \"p&w of ada\"",
            "password",
        ),
    ] {
        let peer = Peer::start("oauth2_server.py", &["3600"]);
        let world = World::new(&network(&peer, oauth2));
        let gateway = world.start().await;
        for n in 0..3 {
            let answer = gateway.post_and_wait(&lead(&format!("n{n}@example.com"))).await;
            assert_eq!(answer.at("/status"), "sold", "{}", answer.text);
        }
        let seen = seen(&gateway, &peer).await;
        assert_eq!(seen["fetched"], serde_json::json!([grant]));
        assert_eq!(seen["leads"].as_array().unwrap().len(), 3);
        gateway.finish().await;
    }
}

#[tokio::test]
async fn a_token_that_was_forgotten_or_has_expired_costs_no_lead() {
    let peer = Peer::start("oauth2_server.py", &["3600"]);
    let world = World::new(&network(&peer, MINE));
    let gateway = world.start().await;
    assert_eq!(gateway.post_and_wait(&lead("a@example.com")).await.at("/status"), "sold");
    gateway.send(gateway.client.post(peer.url("/forget"))).await;
    let answer = gateway.post_and_wait(&lead("b@example.com")).await;
    assert_eq!(answer.at("/status"), "sold", "{}", answer.text);
    let shown = gateway.lead(&answer.at("/lead_id")).await;
    assert_eq!(text_at(&shown, "/deliveries/0/attempt_count"), "2", "one with the old token, one with the new");
    assert_eq!(seen(&gateway, &peer).await["leads"], serde_json::json!(["a@example.com", "b@example.com"]));
    gateway.finish().await;
}

#[tokio::test]
async fn a_wrong_secret_is_said_in_the_servers_own_words() {
    let peer = Peer::start("oauth2_server.py", &["3600"]);
    let world = World::new(&network(&peer, "client_id = \"gateway\", client_secret = \"wrong\""));
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&lead("a@example.com")).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let shown = gateway.lead(&answer.at("/lead_id")).await;
    assert!(text_at(&shown, "/deliveries/0/reason").contains("invalid_client"), "{shown:#}");
    assert_eq!(seen(&gateway, &peer).await["leads"], serde_json::json!([]));
    gateway.stop().await;
}
