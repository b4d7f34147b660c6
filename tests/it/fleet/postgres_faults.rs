//! PostgreSQL fails in mid-load: sources are told at once to come back, deliveries pause, and when it is there again
//! everything goes on by itself, with nothing lost and nothing sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lead_gateway::clock;
use serde_json::{Value, json};

use super::{OK, Shared, sent_to};
use crate::harness::{Gateway, JsonBody as _, KEY, World, buyer, text_at};
use crate::partner_stub::{Behaviour, Stub};

/// The longest that a source may wait to be told to come back, with room for a slow machine.
const AT_ONCE: Duration = Duration::from_secs(8);

/// What sources were told.
#[derive(Default)]
struct Told {
    acknowledged: Vec<String>,
    refused: usize,
    slowest: Duration,
}

/// Posts to both gateways until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    posted: Arc<AtomicUsize>,
    posters: Vec<tokio::task::JoinHandle<Told>>,
}

impl Load {
    fn start(gateways: &[Gateway]) -> Self {
        let (stop, posted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let posters = (0..8)
            .map(|poster| {
                let gateway = &gateways[poster % gateways.len()];
                let (url, client) = (gateway.url("/v1/campaigns/solar/leads"), gateway.client.clone());
                let (stop, posted) = (Arc::clone(&stop), Arc::clone(&posted));
                tokio::spawn(async move {
                    let mut told = Told::default();
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let body = json!({"email": format!("p{poster}.{number}@example.com")});
                        let began = clock::instant();
                        let answer = client.post(&url).bearer_auth(KEY).json_body(&body).send().await.unwrap();
                        told.slowest = told.slowest.max(began.elapsed());
                        match answer.status().as_u16() {
                            202 => {
                                let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
                                told.acknowledged.push(text_at(&body, "/lead_id"));
                                posted.fetch_add(1, Ordering::Relaxed);
                                // Each lead is looked at in the end.
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            503 => {
                                assert!(answer.headers().contains_key("retry-after"));
                                told.refused += 1;
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            other => panic!("a source was told {other}: {}", answer.text().await.unwrap()),
                        }
                    }
                    told
                })
            })
            .collect();
        Self { stop, posted, posters }
    }

    /// Waits until so many more leads were acknowledged.
    async fn more(&self, leads: usize) {
        let wanted = self.posted.load(Ordering::Relaxed) + leads;
        let began = clock::instant();
        while self.posted.load(Ordering::Relaxed) < wanted {
            assert!(!self.posters.iter().any(tokio::task::JoinHandle::is_finished), "a poster gave up");
            assert!(began.elapsed() < Duration::from_mins(1), "no lead is taken any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Told::default();
        for poster in self.posters {
            let told = poster.await.unwrap();
            all.acknowledged.extend(told.acknowledged);
            all.refused += told.refused;
            all.slowest = all.slowest.max(told.slowest);
        }
        all
    }
}

async fn start(shared: &Shared, stub: &Stub) -> (World, [Gateway; 2]) {
    let world = shared.world(&buyer("takes", &stub.url("/"), "", "", ""));
    let gateways = [world.start().await, world.start().await];
    (world, gateways)
}

/// Every acknowledged lead is sold, and the partner has each delivery and each person once.
async fn settle(gateways: [Gateway; 2], stub: &Stub, told: &Told) {
    for state in ["queued", "sending"] {
        let path = format!("/v1/deliveries?state={state}&limit=1");
        gateways[0].eventually(&path, |page| page["items"] == json!([])).await;
    }
    let unknown = gateways[0].get("/v1/deliveries?state=unknown").await;
    assert_eq!(unknown["items"], json!([]), "whatever happens to the database, no outcome is lost");
    for id in &told.acknowledged {
        assert_eq!(text_at(&gateways[0].lead(id).await, "/status"), "sold");
    }
    let (_, people) = sent_to(stub);
    // Those whose source was told to come back may have been stored all the same, and are then delivered too.
    assert!(people.len() >= told.acknowledged.len() && people.len() <= told.acknowledged.len() + told.refused);
    assert!(told.slowest < AT_ONCE, "a source waited {:?}", told.slowest);
    for gateway in gateways {
        gateway.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_is_killed_stopped_or_throws_everybody_out_loses_nothing() {
    let mut shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let (_world, gateways) = start(&shared, &takes).await;
    let load = Load::start(&gateways);
    load.more(30).await;
    for round in 0..3 {
        let url = shared.postgres.url();
        shared
            .postgres
            .psql(&url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()");
        load.more(30).await;
        shared = tokio::task::spawn_blocking(move || {
            if round == 1 {
                shared.postgres.stop();
            } else {
                shared.postgres.kill9();
            }
            shared
        })
        .await
        .unwrap();
        // Long enough that sources are told, and short of a lease.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let ready = gateways[0].client.get(gateways[0].url("/readyz")).send().await.unwrap();
        assert_eq!(ready.status(), 503);
        shared = tokio::task::spawn_blocking(move || {
            shared.postgres.restart();
            shared
        })
        .await
        .unwrap();
        load.more(30).await;
    }
    let told = load.end().await;
    assert!(told.refused > 0, "nobody was told to come back");
    settle(gateways, &takes, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_row_that_somebody_holds_delays_and_spoils_nothing() {
    let shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let (world, gateways) = start(&shared, &takes).await;
    let load = Load::start(&gateways);
    load.more(30).await;
    let url = world.store_url();
    // A count, and what is under way just now.
    for held in [
        "SELECT used FROM place ORDER BY key LIMIT 1 FOR UPDATE",
        "SELECT id FROM delivery ORDER BY id DESC LIMIT 8 FOR UPDATE",
        "SELECT id FROM lead ORDER BY id DESC LIMIT 8 FOR UPDATE",
    ] {
        let mut holds = shared.postgres.spawn_psql(&url, &format!("BEGIN; {held}; SELECT pg_sleep(4); COMMIT"));
        load.more(30).await;
        assert!(tokio::task::spawn_blocking(move || holds.wait().unwrap()).await.unwrap().success());
        load.more(30).await;
    }
    let told = load.end().await;
    settle(gateways, &takes, &told).await;
    drop(shared);
}

/// What `/readyz` says of the store once it is out of order.
async fn out_of_order(gateway: &Gateway) -> String {
    let began = clock::instant();
    loop {
        let ready = gateway.client.get(gateway.url("/readyz")).send().await.unwrap();
        if ready.status() == 503 {
            return ready.text().await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_mins(1), "nobody noticed that the disk is full");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_whose_disk_is_full_loses_nothing_and_takes_leads_again_when_there_is_room() {
    let shared = Shared::start();
    let Some(mut disk) = shared.postgres.small_disk(48) else { return };
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let world = World::shared(
        &buyer("takes", &takes.url("/"), "", "", ""),
        &shared.postgres.database_on(&disk),
        &format!("url = \"{}\"", shared.redis.url()),
    );
    let gateways = [world.start().await, world.start().await];
    let load = Load::start(&gateways);
    load.more(30).await;
    for _ in 0..2 {
        disk.fill();
        let said = out_of_order(&gateways[0]).await;
        assert!(said.contains("No space left on device"), "{said}");
        // (What still fits into pages that are there is committed, and sent.)
        tokio::time::sleep(Duration::from_secs(2)).await;
        disk.free();
        load.more(30).await;
    }
    let told = load.end().await;
    assert!(told.refused > 0, "nobody was told to come back");
    settle(gateways, &takes, &told).await;
    drop(shared);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_dies_of_a_full_log_disk_loses_nothing() {
    let mut shared = Shared::start();
    let Some(mut disk) = shared.postgres.small_disk(48) else { return };
    shared.postgres.keep_log_on(&disk);
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let (_world, gateways) = start(&shared, &takes).await;
    let load = Load::start(&gateways);
    load.more(30).await;
    disk.fill();
    // The log has room in what it has; somebody's great table uses it up.
    let rows = "CREATE TABLE great AS SELECT repeat(md5(n::text), 40) FROM generate_series(1, 40000) AS n";
    let mut writes = shared.postgres.spawn_psql(&shared.postgres.url(), rows);
    out_of_order(&gateways[0]).await;
    writes.wait().unwrap();
    let said = shared.postgres.log();
    assert!(said.contains("PANIC") && said.contains("No space left on device"), "{said}");
    disk.free();
    let shared = tokio::task::spawn_blocking(move || {
        shared.postgres.restart();
        shared
    })
    .await
    .unwrap();
    load.more(30).await;
    let told = load.end().await;
    assert!(told.refused > 0, "nobody was told to come back");
    settle(gateways, &takes, &told).await;
    drop(shared);
}
