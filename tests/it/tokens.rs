//! Access tokens (OAuth 2.0): fetched before an attempt, kept, fetched anew when the partner refuses one.

use serde_json::Value;

use super::harness::{Gateway, World, all_bytes, buyer, lead, text_at};
use super::partner_stub::{Behaviour, Stub, refused};

const SECRET: &str = "client-secret-of-ours/+1";

fn granted(token: &str, more: &str) -> Behaviour {
    let body = format!("{{\"access_token\": \"{token}\", \"token_type\": \"Bearer\"{more}}}");
    Behaviour::reply_with(200, &[("Content-Type", "application/json")], body)
}

/// A buyer that wants tokens of `tokens`; `more` are further keys of `oauth2`, `endpoint` of the endpoint.
fn wanting_tokens(partner: &str, tokens: &str, more: &str, endpoint: &str) -> String {
    let auth = format!(
        "auth = {{ oauth2 = {{ token_url = \"{tokens}\", client_id = \"gateway\", client_secret = \"{SECRET}\"{more} }} }}\n"
    );
    buyer("sunny", partner, "", "", &format!("retry = {{ first = \"10ms\" }}\n{auth}{endpoint}"))
}

async fn sold(gateway: &Gateway, email: &str) -> Value {
    let answer = gateway.post_and_wait(&lead(email)).await;
    assert_eq!((answer.status, answer.at("/status")), (200, "sold".to_owned()), "{}", answer.text);
    delivery(gateway, &answer.at("/lead_id")).await
}

async fn delivery(gateway: &Gateway, lead: &str) -> Value {
    let lead = gateway.lead(lead).await;
    gateway.get(&format!("/v1/deliveries/{}", text_at(&lead, "/deliveries/0/id"))).await
}

#[tokio::test]
async fn a_token_is_fetched_once_and_kept_and_neither_it_nor_the_secret_is_ever_stored() {
    let tokens = Stub::start(granted(
        "token-of-the-partner/1",
        ", \"expires_in\": 3600, \"refresh_token\": \"refresher-of-it\"",
    ))
    .await;
    let partner = Stub::start(Behaviour::ok("thanks for token-of-the-partner/1")).await;
    let world = World::new(&wanting_tokens(
        &partner.url("/leads"),
        &tokens.url("/token"),
        ", scope = \"leads.write\", params = { audience = \"https://api.example\" }",
        "",
    ));
    world.configure("[log]\nlevel = \"debug\"");
    let gateway = world.start().await;
    let first = sold(&gateway, "a@example.com").await;
    for n in 0..5 {
        sold(&gateway, &format!("b{n}@example.com")).await;
    }
    assert_eq!(tokens.count(), 1);
    let asked = &tokens.requests()[0];
    assert_eq!(asked.text(), "grant_type=client_credentials&scope=leads.write&audience=https%3A%2F%2Fapi.example");
    // RFC 6749, section 2.3.1: both halves form-encoded first.
    let basic = "Basic Z2F0ZXdheTpjbGllbnQtc2VjcmV0LW9mLW91cnMlMkYlMkIx";
    assert_eq!(asked.header("authorization"), Some(basic));
    for request in partner.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer token-of-the-partner/1"));
    }

    let attempt = &first["attempts"][0];
    assert_eq!(text_at(attempt, "/response/body"), "thanks for ***");
    assert_eq!(text_at(attempt, "/token_exchange/request/url"), tokens.url("/token"));
    assert!(text_at(attempt, "/token_exchange/request/body").starts_with("grant_type=client_credentials&scope="));
    assert_eq!(text_at(attempt, "/token_exchange/response/status"), "200");
    assert!(text_at(attempt, "/token_exchange/response/body").starts_with("{\"access_token\": \"***\""));
    let contract = gateway.get("/v1/contracts/sunny").await;
    assert_eq!(text_at(&contract, "/endpoint/auth/oauth2/client_secret"), "***");
    assert_eq!(text_at(&contract, "/endpoint/auth/oauth2/token_url"), tokens.url("/token"));
    let shown = format!("{first}{contract}{}", gateway.get("/v1/deliveries").await);
    gateway.finish().await;
    let (kept, log) = (all_bytes(&world.path("data")), world.log());
    for secret in ["token-of-the-partner", "refresher-of-it", basic] {
        assert!(memchr::memmem::find(&kept, secret.as_bytes()).is_none(), "{secret} lies in the data directory");
        assert!(!log.contains(secret) && !shown.contains(secret), "{secret} is shown");
    }
    // The secret was typed into the contract; nowhere else does it stand.
    assert!(!log.contains(SECRET) && !shown.contains(SECRET));
}

#[tokio::test]
async fn a_token_that_the_partner_no_longer_knows_is_fetched_anew_and_the_lead_sent_again_at_once() {
    let tokens = Stub::script([granted("first-token", ""), granted("second-token", "")]).await;
    let partner =
        Stub::script([Behaviour::ok("yes"), Behaviour::reply(401, "who are you?"), Behaviour::ok("yes")]).await;
    let other = Stub::start(Behaviour::ok("yes")).await;
    // Slow to retry: what comes at once does not come by the usual pause.
    let network = wanting_tokens(&partner.url("/"), &tokens.url("/token"), "", "").replace("10ms", "1h")
        + &buyer("other", &other.url("/"), "", "priority = 2", "");
    let world = World::new(&network);
    let gateway = world.start().await;
    sold(&gateway, "a@example.com").await;
    let second = sold(&gateway, "b@example.com").await;
    assert_eq!(text_at(&second, "/state"), "accepted");
    assert_eq!(
        (text_at(&second, "/attempts/0/verdict"), text_at(&second, "/attempts/0/class")),
        ("retryable".into(), "response".into())
    );
    assert_eq!(text_at(&second, "/attempts/0/token_exchange"), "null");
    assert_eq!(text_at(&second, "/attempts/1/token_exchange/response/status"), "200");
    let shown: Vec<_> =
        partner.requests().iter().map(|request| request.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(shown, ["Bearer first-token", "Bearer first-token", "Bearer second-token"]);
    assert_eq!((tokens.count(), other.count()), (2, 0));
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_token_was_fetched_with_is_masked_in_the_partners_replies_too() {
    let tokens = Stub::start(granted("some-token", "")).await;
    let partner = Stub::start(Behaviour::reply(400, format!("{{\"why\": \"no client {SECRET}\"}}"))).await;
    let rules = "[contract.endpoint.response]\nreason = { json = \"$.why\" }\n";
    let world = World::new(&wanting_tokens(&partner.url("/"), &tokens.url("/token"), "", rules));
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&lead("a@example.com")).await;
    let shown = delivery(&gateway, &answer.at("/lead_id")).await;
    assert_eq!(text_at(&shown, "/reason"), "no client ***", "{shown:#}");
    assert!(!shown.to_string().contains(SECRET), "{shown:#}");
    gateway.finish().await;
    world.write("lead.json", "{\"email\": \"a@example.com\"}");
    let output = world.run(&["send", "sunny", "lead.json"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("no client ***") && !said.contains(SECRET), "{said}");
}

#[tokio::test]
async fn rules_of_the_contract_and_a_single_attempt_do_not_keep_an_expired_token_in_use() {
    for (status, rules) in [
        (401, "rejected = { json = \"$.status\", equals = \"error\" }"),
        (401, "retryable = { json = \"$.status\" }"),
        (200, "rejected = { json = \"$.status\" }\nunauthorized = { json = \"$.status\", equals = \"error\" }"),
    ] {
        let tokens = Stub::script([granted("first-token", ""), granted("second-token", "")]).await;
        let partner = Stub::script([
            Behaviour::ok("{}"),
            Behaviour::reply(status, "{\"status\": \"error\"}"),
            Behaviour::ok("{}"),
        ])
        .await;
        let rules = format!("[contract.endpoint.response]\naccepted = {{ regex = \"^.}}$\" }}\n{rules}");
        let network = wanting_tokens(&partner.url("/"), &tokens.url("/token"), "", &rules)
            .replace("first = \"10ms\"", "max_attempts = 1");
        let world = World::new(&network);
        let gateway = world.start().await;
        sold(&gateway, "a@example.com").await;
        let second = sold(&gateway, "b@example.com").await;
        assert_eq!(text_at(&second, "/attempts/0/explanation/rule"), "token_refused", "{second:#}");
        assert_eq!((tokens.count(), partner.count()), (2, 3));
        gateway.finish().await;
    }
}

#[tokio::test]
async fn a_token_that_could_not_be_read_is_not_stored_either() {
    for reply in [
        Behaviour::ok("accessToken=lies-here-in-clear"),
        Behaviour::ok("{\"data\": {\"access_token\": \"lies-here-in-clear\"}}"),
        Behaviour::hang_mid_body("{\"access_token\": \"lies-here-in-clear\","),
    ] {
        let tokens = Stub::start(reply).await;
        let network = wanting_tokens(
            "http://127.0.0.1:9/",
            &tokens.url("/token?client_secret=lies-here-too"),
            "",
            "timeout = \"300ms\"\n",
        )
        .replace("10ms", "1h");
        let world = World::new(&network);
        let gateway = world.start().await;
        let answer = gateway.post(&lead("a@example.com")).await;
        let shown = gateway
            .eventually(&format!("/v1/leads/{}", answer.at("/lead_id")), |lead| {
                text_at(lead, "/deliveries/0/attempt_count") == "1" && text_at(lead, "/deliveries/0/state") != "sending"
            })
            .await;
        let shown = gateway.get(&format!("/v1/deliveries/{}", text_at(&shown, "/deliveries/0/id"))).await;
        assert_eq!(text_at(&shown, "/attempts/0/token_exchange/response/body"), "***", "{shown:#}");
        assert_eq!(text_at(&shown, "/attempts/0/token_exchange/request/url"), tokens.url("/token?***"));
        let contract = gateway.get("/v1/contracts/sunny").await;
        assert_eq!(text_at(&contract, "/endpoint/auth/oauth2/token_url"), tokens.url("/token?***"));
        gateway.stop().await;
        assert!(memchr::memmem::find(&all_bytes(&world.path("data")), b"lies-here-in-clear").is_none());
    }
}

#[tokio::test]
async fn a_slow_token_endpoint_makes_no_request_old() {
    let tokens =
        Stub::start(granted("slow", "").after(super::partner_stub::Step::Pause(std::time::Duration::from_secs(3))))
            .await;
    let partner = Stub::start(Behaviour::ok("yes")).await;
    let headers = "headers = { X-Timestamp = \"{{request.timestamp}}\" }\n";
    let world = World::new(&wanting_tokens(&partner.url("/"), &tokens.url("/token"), "", headers));
    let gateway = world.start().await;
    sold(&gateway, "a@example.com").await;
    let request = &partner.requests()[0];
    let stamped: i64 = request.header("x-timestamp").unwrap().parse().unwrap();
    let now = lead_gateway::clock::Clock::system().now().as_second();
    assert!(now - stamped < 3, "{} seconds old", now - stamped);
    gateway.finish().await;
}

#[tokio::test]
async fn a_fresh_token_that_the_partner_refuses_is_ours_to_fix() {
    let tokens = Stub::start(granted("useless", "")).await;
    let partner = Stub::start(Behaviour::reply(401, "")).await;
    let world = World::new(&wanting_tokens(&partner.url("/"), &tokens.url("/token"), "", ""));
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&lead("a@example.com")).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let shown = delivery(&gateway, &answer.at("/lead_id")).await;
    assert_eq!(text_at(&shown, "/attempts/0/class"), "configuration");
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 1, "the breaker is open");
    gateway.stop().await;
}

#[tokio::test]
async fn a_token_endpoint_that_refuses_us_is_seen_with_its_words_and_nothing_reaches_the_partner() {
    let said = format!(
        "{{\"error\": \"invalid_client\", \"error_description\": \"no client with {SECRET} or client-secret-of-ours%2F%2B1\"}}"
    );
    let tokens = Stub::start(Behaviour::reply(400, said)).await;
    let partner = Stub::start(Behaviour::ok("never")).await;
    let world = World::new(&wanting_tokens(&partner.url("/"), &tokens.url("/token"), "", "").replace("10ms", "1h"));
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&lead("a@example.com")).await;
    assert_eq!(answer.status, 202);
    let shown = delivery(&gateway, &answer.at("/lead_id")).await;
    let attempt = &shown["attempts"][0];
    assert_eq!(
        (text_at(attempt, "/verdict"), text_at(attempt, "/class")),
        ("retryable".into(), "configuration".into())
    );
    assert_eq!(text_at(attempt, "/explanation/rule"), "no_token");
    assert!(text_at(&shown, "/reason").contains("invalid_client, no client with *** or ***"), "{shown:#}");
    assert_eq!(text_at(attempt, "/token_exchange/response/status"), "400");
    assert!(!shown.to_string().contains("client-secret-of-ours"), "{shown:#}");
    assert_eq!(partner.connections(), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_token_endpoint_that_is_away_for_a_while_costs_a_retry() {
    let partner = Stub::start(Behaviour::ok("yes")).await;
    for trouble in [Behaviour::reply(503, ""), Behaviour::reset_after_reading()] {
        let tokens = Stub::script([trouble, granted("late", "")]).await;
        let world = World::new(&wanting_tokens(&partner.url("/"), &tokens.url("/token"), "", ""));
        let gateway = world.start().await;
        let before = partner.count();
        let answer = gateway.post(&lead("a@example.com")).await;
        gateway.lead_becomes(&answer.at("/lead_id"), "sold").await;
        let shown = delivery(&gateway, &answer.at("/lead_id")).await;
        assert_eq!(text_at(&shown, "/attempts/0/class"), "not_sent", "{shown:#}");
        assert_eq!(partner.count(), before + 1);
        gateway.finish().await;
    }
    let gone = format!("http://{}/token", refused().await);
    let world = World::new(&wanting_tokens(&partner.url("/"), &gone, "", "").replace("10ms", "1h"));
    let gateway = world.start().await;
    let answer = gateway.post_and_wait(&lead("a@example.com")).await;
    let shown = delivery(&gateway, &answer.at("/lead_id")).await;
    assert_eq!(text_at(&shown, "/attempts/0/class"), "not_sent", "{shown:#}");
    gateway.stop().await;
}

#[tokio::test]
async fn leads_that_come_together_share_one_fetch() {
    let tokens = Stub::start(
        granted("shared", "").after(super::partner_stub::Step::Pause(std::time::Duration::from_millis(200))),
    )
    .await;
    let partner = Stub::start(Behaviour::ok("yes")).await;
    let world = World::new(&wanting_tokens(&partner.url("/"), &tokens.url("/token"), "", ""));
    let gateway = world.start().await;
    for n in 0..20 {
        assert_eq!(gateway.post(&lead(&format!("n{n}@example.com"))).await.status, 202);
    }
    gateway.eventually("/v1/deliveries?state=accepted", |page| page["items"].as_array().unwrap().len() == 20).await;
    assert_eq!(tokens.count(), 1);
    gateway.finish().await;
}

#[tokio::test]
async fn the_other_grants_and_the_places_for_credentials_are_as_rfc_6749_has_them() {
    let partner = Stub::start(Behaviour::ok("yes")).await;
    for (more, body, header) in [
        (
            ", client_auth = \"body\"",
            "grant_type=client_credentials&client_id=gateway&client_secret=client-secret-of-ours%2F%2B1".to_owned(),
            "Bearer short-lived",
        ),
        (
            ", grant = \"password\", username = \"ada\", password = \"p&w\", client_auth = \"body\"",
            "grant_type=password&username=ada&password=p%26w&client_id=gateway&client_secret=client-secret-of-ours%2F%2B1".to_owned(),
            "Bearer short-lived",
        ),
        (
            ", grant = \"refresh_token\", refresh_token = \"for-good\", scheme = \"Zoho-oauthtoken\"",
            "grant_type=refresh_token&refresh_token=for-good".to_owned(),
            "Zoho-oauthtoken short-lived",
        ),
    ] {
        // Zero seconds: used for the one attempt, and fetched again for the next.
        let tokens = Stub::start(granted("short-lived", ", \"expires_in\": \"0\"")).await;
        let world = World::new(&wanting_tokens(&partner.url("/"), &tokens.url("/token"), more, ""));
        let gateway = world.start().await;
        sold(&gateway, "a@example.com").await;
        sold(&gateway, "b@example.com").await;
        assert_eq!(tokens.count(), 2);
        assert_eq!(tokens.requests()[1].text(), body);
        assert_eq!(partner.requests().last().unwrap().header("authorization"), Some(header));
        gateway.finish().await;
    }
}

#[test]
fn settings_that_do_not_fit_are_told_all_at_once() {
    let network = wanting_tokens(
        "http://127.0.0.1:9/",
        "ftp://nowhere",
        ", grant = \"password\", refresh_token = \"r\", header = \"X Bad\"",
        "tls = { certificate = \"file:/nowhere.pem\", ca = \"no pem\" }",
    );
    let world = World::new(&network);
    let output = world.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for part in [
        "endpoint.auth.oauth2.token_url: not an http",
        "endpoint.auth.oauth2.username: grant = \"password\" needs it",
        "endpoint.auth.oauth2.password: grant = \"password\" needs it",
        "endpoint.auth.oauth2.refresh_token: belongs to grant",
        "endpoint.auth.oauth2.header: `X Bad` is not a header name",
        "endpoint.tls.key: is missing",
        "endpoint.url: is http, where `tls` means nothing",
        "endpoint.tls.ca: it holds no certificate",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains(SECRET));
}
