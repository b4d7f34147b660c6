//! Four gateways race for the same places, while partners refuse, break off, and while midnight comes to all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lead_gateway::clock::{self, Clock};
use serde_json::json;

use super::{OK, Shared};
use crate::harness::{Gateway, JsonBody as _, KEY, at, buyer};
use crate::partner_stub::{Behaviour, Stub};

const GATEWAYS: usize = 4;
/// Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_mins(2);
const CLIENTS: usize = 64;
/// Leads of a rush: more than all places of a day, with what partners refuse.
const LEADS: usize = 1_500;
/// A partner's limit a day, its zone, and the days that the test sees there: in June it is midnight in the first three at
/// once, and in the last one already morning.
const PARTNERS: [(&str, usize, &str, usize); 4] = [
    ("one", 1, "Europe/London", 2),
    ("seven", 7, "Africa/Lagos", 2),
    ("thousand", 1_000, "Europe/Lisbon", 2),
    ("morning", 7, "Asia/Tokyo", 1),
];

/// What a partner does with its requests, in turn: most are taken, some refused, some broken off after they were read, some
/// not answered in time.
fn moody(requests: usize) -> Vec<Behaviour> {
    let of = |number: usize| match number {
        n if n % 7 == 3 => Behaviour::reply(200, r#"{"ok": false}"#),
        n if n % 97 == 50 => Behaviour::close_after_reading(),
        n if n % 113 == 5 => Behaviour::hang_after_reading(),
        _ => Behaviour::ok(OK),
    };
    (0..requests).map(of).collect()
}

/// Of the first so many requests, those that took a place for good.
fn kept(requests: usize) -> usize {
    (0..requests).filter(|n| n % 7 != 3).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_gateways_fill_every_limit_exactly_on_both_sides_of_a_midnight() {
    let shared = Shared::start();
    let (mut stubs, mut network) = (Vec::new(), String::new());
    for (id, limit, zone, _) in PARTNERS {
        let stub = Stub::script(moody(4 * LEADS)).await;
        let rules = "timeout = \"2s\"\n[contract.endpoint.response]\naccepted = { json = \"$.ok\", equals = \"true\" }\n\
                     rejected = { json = \"$.ok\", equals = \"false\" }";
        network +=
            &buyer(id, &stub.url("/"), &format!("limits = {{ daily = {limit} }}"), "when_full = \"skip\"", rules)
                .replacen("Europe/London", zone, 1);
        stubs.push(stub);
    }
    let world = shared.world(&network);
    let base = std::fs::read_to_string(world.path("network/base.toml")).unwrap();
    let base = base.replacen("currency = \"GBP\"", "currency = \"GBP\"\ndistribution = \"broadcast\"\nsell_to = 0", 1);
    world.write("network/base.toml", &base);
    let clock = Clock::manual(at("2026-06-10T22:59:59.999999Z"));
    let mut gateways = Vec::new();
    for _ in 0..GATEWAYS {
        gateways.push(world.start_inside(clock.clone()).await);
    }

    // The first day's places are all wanted, and taken …
    let posted = Arc::new(AtomicUsize::new(0));
    post_many(&gateways, &posted, LEADS).await;
    fill(&gateways, &stubs, &posted, 1).await;
    // … and midnight comes in the middle of the second rush.
    let (second, wanted) = (posted.load(Ordering::Relaxed), LEADS / 10);
    let midnight = async {
        while posted.load(Ordering::Relaxed) < second + wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        clock.set(at("2026-06-10T23:00:00Z"));
    };
    tokio::join!(post_many(&gateways, &posted, LEADS), midnight);
    fill(&gateways, &stubs, &posted, 2).await;
    for state in ["queued", "sending"] {
        gateways[0]
            .eventually(&format!("/v1/deliveries?state={state}&limit=1"), |page| page["items"] == json!([]))
            .await;
    }
    for ((id, limit, _, days), stub) in PARTNERS.iter().zip(&stubs) {
        // Never exceeded, and never short: there was more than enough for all.
        assert_eq!(kept(stub.count()), limit * days, "{id}, of {} requests", stub.count());
    }
    let store = &gateways[0].app().pipeline.store;
    let (held, recounted) = (store.all_places().await.unwrap(), store.recount_places().await.unwrap());
    for (key, used) in held.iter().filter(|(key, _)| key.as_str().starts_with("partner/")) {
        assert_eq!(recounted.get(key), Some(used), "{key}");
        let limit =
            PARTNERS.iter().find(|(id, ..)| key.as_str().contains(&format!("/{id}/d"))).map(|(_, limit, ..)| *limit);
        assert!(limit.is_none_or(|limit| *used == limit as u64), "{key}: {used}");
    }
    for gateway in gateways {
        gateway.stop().await;
    }
}

/// Posts a lead now and then until every place of so many days is taken: one that a partner gives back at last was
/// offered to nobody who had been passed over before.
async fn fill(gateways: &[Gateway], stubs: &[Stub], posted: &Arc<AtomicUsize>, days: usize) {
    let began = clock::instant();
    let wanted = |(_, limit, _, all): &(&str, usize, &str, usize)| limit * days.min(*all);
    while let Some((partner, stub)) =
        PARTNERS.iter().zip(stubs).find(|(partner, stub)| kept(stub.count()) < wanted(partner))
    {
        assert!(began.elapsed() < PATIENCE, "{}: {} of {} were taken", partner.0, kept(stub.count()), wanted(partner));
        post_many(gateways, posted, 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Posts so many from all clients to all gateways at once.
async fn post_many(gateways: &[Gateway], posted: &Arc<AtomicUsize>, leads: usize) {
    let first = posted.load(Ordering::Relaxed);
    let next = Arc::new(AtomicUsize::new(first));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let gateway = &gateways[client % gateways.len()];
            let (url, http) = (gateway.url("/v1/campaigns/solar/leads"), gateway.client.clone());
            let (next, posted) = (Arc::clone(&next), Arc::clone(posted));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= first + leads {
                        break;
                    }
                    let body = json!({"email": format!("r{number}@example.com")});
                    loop {
                        let answer = http.post(&url).bearer_auth(KEY).json_body(&body).send().await.unwrap();
                        match answer.status().as_u16() {
                            202 => {
                                posted.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                            // A machine with more to do than it can: it says so, and the source comes back.
                            503 => tokio::time::sleep(Duration::from_millis(100)).await,
                            other => panic!("a source was told {other}"),
                        }
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}
