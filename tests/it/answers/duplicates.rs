//! Duplicates: stored, rejected, and told so at once.

use lead_gateway::clock::Clock;
use serde_json::json;

use super::super::harness::{World, at};
use super::*;

const DEDUPE: &str =
    "dedupe = [{ fields = [\"email\", \"postcode\"], window = \"30d\" }, { fields = [\"phone\"], window = \"1d\" }]";

fn person(email: &str, postcode: &str, phone: &str) -> Value {
    json!({"email": email, "postcode": postcode, "phone": phone})
}

#[tokio::test]
async fn a_known_person_is_stored_as_rejected_and_nobody_is_asked() {
    let (partner, network) = taker().await;
    let world = World::with(DEDUPE, "", &format!("{network}{OTHERS}"));
    let gateway = world.start().await;
    let first = accepted(&gateway.post(&person("anne@example.com", "SW1A 1AA", "020 7946 0001")).await);
    gateway.lead_becomes(&first, "sold").await;

    // All fields of one rule, after normalising.
    let again = gateway.post(&person(" Anne@EXAMPLE.com", "sw1a1aa", "020 7946 0002")).await;
    assert_eq!(
        (again.status, again.at("/status"), again.at("/reason")),
        (200, "rejected".to_owned(), "duplicate".to_owned())
    );
    let kept = gateway.lead(&again.at("/lead_id")).await;
    assert_eq!((text_at(&kept, "/status"), text_at(&kept, "/reason")), ("rejected".to_owned(), "duplicate".to_owned()));
    assert_eq!(kept["deliveries"], json!([]));
    assert_eq!(text_at(&kept, "/fields/phone"), "+442079460002");
    // The other rule; another spelling of the number.
    let other = gateway.post(&person("berta@example.com", "SW1A 1AA", "+44 (0)20 7946 0001")).await;
    assert_eq!(other.at("/reason"), "duplicate");
    // Any source of the campaign.
    let source = post(
        &gateway,
        LEADS,
        FORM_KEY,
        "application/json",
        person("anne@example.com", "SW1A1AA", "020 7946 0009").to_string(),
    );
    assert_eq!(source.await.at("/reason"), "duplicate");
    // One field of a rule is not all of it; a field that is missing equals nothing.
    for (number, body) in [
        person("anne@example.com", "SE1 1AA", "020 7946 0003"),
        person("berta@example.com", "SW1A 1AA", "020 7946 0004"),
        json!({"email": "anne@example.com"}),
        json!({"email": "anne@example.com"}),
    ]
    .iter()
    .enumerate()
    {
        let answer = gateway.post(body).await;
        assert_eq!(answer.status, 202, "{number}: {}", answer.text);
        gateway.lead_becomes(&answer.at("/lead_id"), "sold").await;
    }
    assert_eq!(partner.requests().len(), 5);
    gateway.finish().await;
}

#[tokio::test]
async fn a_window_counts_from_the_last_lead_that_was_not_itself_rejected() {
    let world = World::with("dedupe = [{ fields = [\"email\"], window = \"10d\" }]", "", "");
    let clock = Clock::manual(at("2026-11-01T12:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    let body = json!({"email": "a@example.com"});
    let post = || gateway.post_and_wait(&body);
    assert_eq!(post().await.at("/status"), "unsold");
    clock.set(at("2026-11-09T12:00:00Z"));
    assert_eq!(post().await.at("/status"), "rejected");
    clock.set(at("2026-11-11T11:59:59.999999Z"));
    assert_eq!(post().await.at("/status"), "rejected");
    // Ten days after the first, although the duplicates came later.
    clock.set(at("2026-11-11T12:00:00Z"));
    assert_eq!(post().await.at("/status"), "unsold");
    clock.set(at("2026-11-21T11:59:59Z"));
    assert_eq!(post().await.at("/status"), "rejected");
    gateway.finish().await;
}

#[tokio::test]
async fn test_leads_neither_see_duplicates_nor_make_them() {
    let world = World::with("dedupe = [{ fields = [\"email\"], window = \"10d\" }]", "", "");
    let gateway = world.start().await;
    let test = json!({"email": "a@example.com", "test": true});
    for _ in 0..2 {
        assert_eq!(gateway.post(&test).await.at("/status"), "unsold");
    }
    assert_eq!(gateway.post_and_wait(&json!({"email": "a@example.com"})).await.at("/status"), "unsold");
    assert_eq!(gateway.post(&test).await.at("/status"), "unsold");
    assert_eq!(gateway.post(&json!({"email": "a@example.com"})).await.at("/reason"), "duplicate");
    gateway.finish().await;
}

#[tokio::test]
async fn of_many_posts_of_one_person_at_the_same_moment_one_is_taken() {
    let (partner, network) = taker().await;
    let world = World::with("dedupe = [{ fields = [\"email\"], window = \"10d\" }]", "", &network);
    let gateway = world.start().await;
    let posts: Vec<_> = (0..20)
        .map(|_| {
            let post =
                gateway.client.post(gateway.url(LEADS)).bearer_auth(KEY).header("content-type", "application/json");
            tokio::spawn(post.body(r#"{"email":"a@example.com"}"#).send())
        })
        .collect();
    let mut taken = 0;
    for post in posts {
        taken += usize::from(post.await.unwrap().unwrap().status() == 202);
    }
    assert_eq!(taken, 1);
    gateway.eventually("/v1/leads?status=sold", |page| page["items"].as_array().unwrap().len() == 1).await;
    assert_eq!(partner.requests().len(), 1);
    gateway.finish().await;
}
