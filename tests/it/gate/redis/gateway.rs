//! A whole gateway on Redis, from the post to the partner.

use lead_gateway::clock::Clock;
use serde_json::json;

use super::eventually;
use crate::desk::{Desk, Reply, apply, count, in_state, number_of, numbered, post_all, settled};
use crate::harness::{Gateway, World, at};
use crate::servers::redis::Redis;

async fn sold(gateway: &Gateway, many: usize) {
    gateway.eventually("/v1/leads?status=sold&limit=500", |page| page["items"].as_array().unwrap().len() == many).await;
}

async fn gate_is(gateway: &Gateway, what: &str) {
    eventually(what, async || gateway.get("/readyz").await["gate"] == json!(what)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_keeps_its_limits_with_redis_without_it_and_when_it_forgets() {
    let mut redis = Redis::start();
    // Every second lead is accepted.
    let desk =
        Desk::start(|visit| if number_of(&visit.email).is_multiple_of(2) { Reply::Yes } else { Reply::No }).await;
    let buyer = |daily: u64| desk.buyer("a", &format!("limits = {{ daily = {daily} }}"), "when_full = \"hold\"");
    let world = World::new(&buyer(9));
    world.configure(&format!("[gate]\nurl = \"{}\"", redis.url()));
    let gateway = world.start_inside(Clock::manual(at("2026-06-15T11:00:00Z"))).await;
    gate_is(&gateway, "redis").await;

    post_all(&gateway, (0..10).map(numbered)).await;
    sold(&gateway, 5).await;
    redis.command(&["FLUSHALL"]);
    post_all(&gateway, (10..20).map(numbered)).await;
    sold(&gateway, 9).await;
    settled(&gateway).await;
    assert_eq!(count(&gateway, "partner/a/d2026-06-15").await, 9);
    assert!(in_state(&gateway, "queued").await >= 1);

    redis.kill();
    gate_is(&gateway, "redis not answering").await;
    post_all(&gateway, [numbered(20)]).await;
    settled(&gateway).await;
    assert_eq!(count(&gateway, "partner/a/d2026-06-15").await, 9);
    eventually("the metric says so", async || {
        let metrics = gateway.send(gateway.client.get(gateway.url("/metrics"))).await.text;
        metrics.lines().any(|line| line == "gateway_gate_up 0")
    })
    .await;

    redis.restart();
    gate_is(&gateway, "redis").await;
    apply(&world, &gateway, &buyer(12)).await;
    sold(&gateway, 11).await;
    settled(&gateway).await;
    assert_eq!(count(&gateway, "partner/a/d2026-06-15").await, 11);
    gateway.finish().await;
}
