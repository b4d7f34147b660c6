//! Limits of source and campaign, in the campaign's zone; and the time before recovery is done.

use std::sync::Arc;
use std::time::Duration;

use lead_gateway::api;
use lead_gateway::app::App;
use lead_gateway::clock::Clock;
use lead_gateway::config::Config;
use lead_gateway::web::server::{self, Bounds};
use serde_json::json;

use super::super::harness::{World, at, lead};
use super::*;

/// Posts that are taken, with their outcome waited for.
async fn take(gateway: &Gateway, addresses: &[&str]) {
    for address in addresses {
        let id = accepted(&gateway.post(&lead(address)).await);
        gateway.lead_becomes(&id, "sold").await;
    }
}

#[tokio::test]
async fn a_daily_limit_says_when_it_opens_and_opens_at_the_campaigns_midnight() {
    let (_partner, network) = taker().await;
    let world = World::with("", "limits = { daily = 2 }", &network);
    // 23:30 in London, in summer.
    let clock = Clock::manual(at("2026-07-01T22:30:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    // Posts that are no leads count for nothing: refused ones, and test leads.
    is_problem(&gateway.post(&email("nobody")).await, 422, "validation");
    assert_eq!(gateway.post(&json!({"email": "t@example.com", "test": true})).await.status, 200);
    take(&gateway, &["a@example.com", "b@example.com"]).await;

    let answer = gateway.post(&lead("c@example.com")).await;
    is_problem(&answer, 429, "limit-reached");
    let opens = retry_after(&answer).unwrap();
    assert!((1800..=1801).contains(&opens), "{opens}");
    // A test lead does not see the limit.
    let test = gateway.post(&json!({"email": "t@example.com", "test": true})).await;
    assert_eq!((test.status, test.at("/status")), (200, "sold".to_owned()), "{}", test.text);

    clock.set(at("2026-07-01T22:59:59.999999Z"));
    is_problem(&gateway.post(&lead("c@example.com")).await, 429, "limit-reached");
    clock.set(at("2026-07-01T23:00:00Z"));
    take(&gateway, &["c@example.com", "d@example.com"]).await;
    is_problem(&gateway.post(&lead("e@example.com")).await, 429, "limit-reached");
    gateway.finish().await;
}

#[tokio::test]
async fn a_monthly_limit_names_a_time_only_within_a_day_of_it() {
    let (_partner, network) = taker().await;
    let world = World::with("limits = { monthly = 1 }", "", &format!("{network}{OTHERS}"));
    let clock = Clock::manual(at("2026-11-21T09:30:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    take(&gateway, &["a@example.com"]).await;
    let answer = gateway.post(&lead("b@example.com")).await;
    is_problem(&answer, 429, "limit-reached");
    assert_eq!(retry_after(&answer), None);
    // It is the campaign's: another source of it is refused too, and another campaign is not.
    let other = post(&gateway, LEADS, FORM_KEY, "application/json", lead("c@example.com").to_string()).await;
    is_problem(&other, 429, "limit-reached");
    let loan =
        post(&gateway, "/v1/campaigns/loans/leads", LENDER_KEY, "application/json", email("a@example.com").to_string());
    assert_eq!(loan.await.status, 202);
    clock.set(at("2026-11-30T12:00:00Z"));
    let opens = retry_after(&gateway.post(&lead("b@example.com")).await).unwrap();
    assert!((12 * 3600..=12 * 3600 + 1).contains(&opens), "{opens}");
    clock.set(at("2026-12-01T00:00:00Z"));
    take(&gateway, &["b@example.com"]).await;
    gateway.finish().await;
}

#[tokio::test]
async fn a_total_that_is_used_up_is_forbidden_for_good() {
    let (_partner, network) = taker().await;
    let world = World::with("", "limits = { daily = 1, total = 1 }", &network);
    let clock = Clock::manual(at("2026-11-21T09:30:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    take(&gateway, &["a@example.com"]).await;
    clock.set(at("2027-11-22T09:30:00Z"));
    let answer = gateway.post(&lead("b@example.com")).await;
    is_problem(&answer, 403, "limit-reached");
    assert_eq!(retry_after(&answer), None);
    gateway.finish().await;
}

#[tokio::test]
async fn where_day_and_total_are_both_used_up_nobody_is_told_to_come_back() {
    let (_partner, network) = taker().await;
    let world = World::with("", "limits = { daily = 1, total = 1 }", &network);
    let gateway = world.start_inside(Clock::manual(at("2026-11-21T09:30:00Z"))).await;
    take(&gateway, &["a@example.com"]).await;
    let answer = gateway.post(&lead("b@example.com")).await;
    is_problem(&answer, 403, "limit-reached");
    assert_eq!(retry_after(&answer), None);
    gateway.finish().await;
}

#[tokio::test]
async fn an_unsold_lead_and_a_duplicate_count_as_they_should() {
    // Nobody buys: every accepted lead is unsold, and still counts; its duplicate does not.
    let dedupe = "dedupe = [{ fields = [\"email\"], window = \"30d\" }]";
    let world = World::with(dedupe, "limits = { daily = 2 }", "");
    let gateway = world.start().await;
    assert_eq!(gateway.post_and_wait(&lead("a@example.com")).await.at("/status"), "unsold");
    assert_eq!(gateway.post(&lead("a@example.com")).await.at("/status"), "rejected");
    assert_eq!(gateway.post_and_wait(&lead("b@example.com")).await.at("/status"), "unsold");
    is_problem(&gateway.post(&lead("c@example.com")).await, 429, "limit-reached");
    gateway.finish().await;
}

#[tokio::test]
async fn before_recovery_is_done_a_lead_is_unavailable_and_every_earlier_row_still_answers() {
    let (_partner, network) = taker().await;
    let world = World::new(&network);
    let gateway = world.start().await;
    let old = post_once(&gateway, "one", &lead("a@example.com")).await.at("/lead_id");
    gateway.lead_becomes(&old, "sold").await;
    gateway.stop().await;

    // A gateway that is served and never recovers.
    let config = Config::load(&world.path("gateway.toml"), true).unwrap();
    let app = Arc::new(App::open(config, Clock::system()).await.unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bounds = Bounds { connections: 10, header_timeout: Duration::from_secs(5), drain: Duration::from_secs(5) };
    let served =
        tokio::spawn(server::serve(listener, api::Face::new(Arc::clone(&app.api)), bounds, std::future::pending()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = |key: Option<&str>, body: String| {
        let mut post = client.post(format!("{url}{LEADS}")).bearer_auth(KEY).header("content-type", "application/json");
        if let Some(key) = key {
            post = post.header("idempotency-key", key);
        }
        post.body(body).send()
    };
    let unavailable = post(Some("two"), lead("b@example.com").to_string()).await.unwrap();
    assert_eq!(unavailable.status(), 503);
    assert!(unavailable.headers().contains_key("retry-after"));
    assert!(unavailable.text().await.unwrap().contains("/problems/unavailable"));
    assert_eq!(post(None, "{".to_owned()).await.unwrap().status(), 400);
    assert_eq!(post(Some("one"), lead("b@example.com").to_string()).await.unwrap().status(), 422);
    assert_eq!(post(None, email("nobody").to_string()).await.unwrap().status(), 422);
    assert_eq!(post(Some("one"), lead("a@example.com").to_string()).await.unwrap().status(), 200);
    assert_eq!(client.get(format!("{url}/readyz")).send().await.unwrap().status(), 503);
    assert_eq!(client.get(format!("{url}/healthz")).send().await.unwrap().status(), 200);
    served.abort();
}
