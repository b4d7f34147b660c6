//! Redis fails in mid-load in every way it can: at worst that delays; no limit is passed, and none stays short.

use std::sync::Arc;
use std::time::Duration;

use lead_gateway::clock;
use serde_json::json;

use super::{OK, Shared, sent_to};
use crate::harness::{Gateway, JsonBody as _, KEY, World, buyer};
use crate::partner_stub::{Behaviour, Stub};
use crate::servers::proxy::Proxy;

/// What the partner may have, and how many leads come: fewer places than leads, so that every one of them is wanted.
const LIMIT: usize = 500;
const LEADS_A_ROUND: usize = 70;

/// What happens to Redis, or to the way there, in the middle of a round.
type Fault = fn(&mut Shared, &Proxy);

const FAULTS: [(&str, Fault); 8] = [
    ("flushed", |shared, _| drop(shared.redis.command(&["FLUSHALL"]))),
    ("its scripts flushed", |shared, _| drop(shared.redis.command(&["SCRIPT", "FLUSH"]))),
    ("cut off for a moment", |_, way| way.cut()),
    ("heard, and not answering", |_, way| {
        way.mute(true);
        std::thread::sleep(Duration::from_millis(800));
        way.mute(false);
        way.cut();
    }),
    ("slower than anybody waits", |_, way| {
        way.delay(Duration::from_millis(400));
        std::thread::sleep(Duration::from_millis(800));
        way.delay(Duration::ZERO);
    }),
    ("killed, and started again empty", |shared, _| {
        shared.redis.kill();
        shared.redis.restart();
    }),
    ("stopped for a while", |shared, _| {
        shared.redis.stop();
        std::thread::sleep(Duration::from_millis(1_500));
        shared.redis.go_on();
    }),
    ("killed", |shared, _| shared.redis.kill()),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_to_redis_in_mid_load_every_place_is_filled_and_none_beyond() {
    let mut shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let way = Arc::new(Proxy::to(shared.redis.port).await);
    let limits = format!("limits = {{ daily = {LIMIT} }}");
    let world = World::shared(
        &buyer("takes", &takes.url("/"), &limits, "when_full = \"skip\"", ""),
        &shared.postgres.database(),
        &format!("url = \"{}\"", way.url()),
    );
    let gateways = [world.start().await, world.start().await];
    for (round, (name, fault)) in FAULTS.iter().enumerate() {
        let half = takes.count() + LEADS_A_ROUND / 3;
        let posts = post_round(&gateways, round);
        // In the middle of the round, unless it is the last one, in which the places come to their end before.
        while takes.count() < half.min(LIMIT) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let harmed = Arc::clone(&way);
        shared = tokio::task::spawn_blocking(move || {
            fault(&mut shared, &harmed);
            shared
        })
        .await
        .unwrap();
        for post in posts {
            assert_eq!(post.await.unwrap(), 202, "{name}");
        }
        let wanted = ((round + 1) * LEADS_A_ROUND).min(LIMIT);
        let began = clock::instant();
        while takes.count() < wanted {
            assert!(began.elapsed() < Duration::from_secs(30), "{name}: {} of {wanted} were sent", takes.count());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // Without Redis, too, all is well, and said.
    for gateway in &gateways {
        let began = clock::instant();
        loop {
            let ready = gateway.get_open("/readyz").await;
            assert_eq!(ready["status"], "ready", "{ready}");
            if ready["gate"] == "redis not answering" {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "nobody noticed that Redis is gone: {ready}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gateway.eventually("/v1/leads?status=pending&limit=1", |page| page["items"] == json!([])).await;
    }
    assert_eq!(takes.count(), LIMIT);
    assert_eq!(sent_to(&takes).0.len(), LIMIT);
    shared.redis.restart();
    for gateway in &gateways {
        let began = clock::instant();
        while gateway.get_open("/readyz").await["gate"] != "redis" {
            assert!(began.elapsed() < Duration::from_secs(30), "it never found Redis again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let last = gateways[0].post_and_wait(&json!({"email": "last@example.com"})).await;
    assert_eq!(last.at("/status"), "unsold", "full is full: {last:?}");
    for gateway in gateways {
        gateway.finish().await;
    }
}

fn post_round(gateways: &[Gateway], round: usize) -> Vec<tokio::task::JoinHandle<u16>> {
    (0..LEADS_A_ROUND)
        .map(|number| {
            let gateway = &gateways[number % gateways.len()];
            let body = json!({"email": format!("f{round}.{number}@example.com")});
            let post = gateway.client.post(gateway.url("/v1/campaigns/solar/leads")).bearer_auth(KEY).json_body(&body);
            tokio::spawn(async move { post.send().await.unwrap().status().as_u16() })
        })
        .collect()
}
