//! More waiting deliveries than anybody would keep in memory, and a midnight that opens a thousand contracts at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lead_gateway::clock::{self, Clock};
use lead_gateway::store::Store;
use rusqlite::params;
use serde_json::json;
use uuid::Uuid;

use crate::harness::{Gateway, World, at, buyer, memory, text_at};
use crate::partner_stub::{Behaviour, Stub};
use crate::servers::postgres::Postgres;

/// What the process may hold in memory with any backlog, in this build (docs/operations.md has the figures of a release).
const MEMORY_AT_MOST: u64 = 160 << 20;
/// How long a start may take with any backlog, on a slow machine.
const START_WITHIN: Duration = Duration::from_secs(10);

/// Leads that wait at the contract `bright`, written straight into the database: received one millisecond after the other.
/// The posts of a day, in seconds.
fn fill(database: &Path, leads: usize) {
    let mut conn = rusqlite::Connection::open(database).unwrap();
    conn.pragma_update(None, "synchronous", "OFF").unwrap();
    let begin = at("2026-11-20T08:00:00Z").as_microsecond();
    let tx = conn.transaction().unwrap();
    {
        let mut lead = tx
            .prepare(
                "INSERT INTO lead (id, campaign, source, status, test, received_at, version, data)
                 VALUES (?1, 'solar', 'acme', 'pending', 0, ?2, 1, ?3)",
            )
            .unwrap();
        let mut data = tx
            .prepare(
                "INSERT INTO lead_data (seq, fields, meta, candidates, content_type, body, request_id)
                 VALUES (?1, ?2, '{}', ?3, 'application/json', ?4, ?5)",
            )
            .unwrap();
        let mut delivery = tx
            .prepare(
                "INSERT INTO delivery (id, lead, campaign, source, partner, contract, received_at, state, waits,
                                       created_at, updated_at)
                 VALUES (?1, ?2, 'solar', 'acme', 'bright', 'bright', ?3, 'queued', 1, ?3, ?3)",
            )
            .unwrap();
        let candidates = json!([{"contract": "bright", "partner": "bright"}]).to_string();
        let body = "x".repeat(400);
        for n in 0..leads {
            let received = begin + i64::try_from(n).unwrap() * 1_000;
            let id = |kind: u64| {
                let millis = u64::try_from(received / 1_000).unwrap();
                let mut bytes = [0_u8; 16];
                bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
                bytes[8..].copy_from_slice(&((kind << 56) | n as u64).to_be_bytes());
                *uuid::Builder::from_bytes(bytes)
                    .with_version(uuid::Version::SortRand)
                    .with_variant(uuid::Variant::RFC4122)
                    .into_uuid()
                    .as_bytes()
            };
            let fields = format!("{{\"email\":\"a{n}@example.com\",\"name\":\"Ann {n}\"}}");
            let seq = i64::try_from(n).unwrap() + 1;
            data.execute(params![seq, fields, candidates, body.as_bytes(), id(1)]).unwrap();
            lead.execute(params![id(1), received, seq]).unwrap();
            delivery.execute(params![id(2), id(1), received]).unwrap();
        }
    }
    tx.execute("INSERT INTO paused (kind, id, since, by) VALUES ('contract', 'bright', 0, 'test')", []).unwrap();
    tx.commit().unwrap();
}

/// As [`fill`], in PostgreSQL: left by a gateway that has gone.
fn fill_postgres(postgres: &Postgres, url: &str, leads: usize) {
    let begin = at("2026-11-20T08:00:00Z").as_microsecond();
    let id = |kind: u64| {
        format!(
            "(lpad(to_hex(({begin} + n * 1000::bigint) / 1000), 12, '0') || '70008{kind:03}' || lpad(to_hex(n), 12, '0'))::uuid"
        )
    };
    let (lead, delivery, gone) = (id(1), id(2), "00000000-0000-7000-8000-000000000001");
    postgres.psql(
        url,
        &format!(
            "INSERT INTO gateway (token, name, gate, until, owner) VALUES ('{gone}', 'gone', 'memory', '-infinity', '{gone}');
             INSERT INTO lead (id, campaign, source, status, test, received_at, version, fields, meta, candidates,
                               content_type, body, request_id)
             SELECT {lead}, 'solar', 'acme', 'pending', false, {begin} + n * 1000::bigint, 1,
                    format('{{\"email\":\"a%s@example.com\",\"name\":\"Ann %s\"}}', n, n), '{{}}',
                    '[{{\"contract\": \"bright\", \"partner\": \"bright\"}}]', 'application/json',
                    convert_to(repeat('x', 400), 'UTF8'), {lead}
             FROM generate_series(0, {leads} - 1) AS n;
             INSERT INTO delivery (id, lead, gateway, campaign, source, partner, contract, received_at, state, waits,
                                   created_at, updated_at)
             SELECT {delivery}, {lead}, '{gone}', 'solar', 'acme', 'bright', 'bright', {begin} + n * 1000::bigint, 'queued',
                    true, {begin} + n * 1000::bigint, {begin} + n * 1000::bigint
             FROM generate_series(0, {leads} - 1) AS n;
             INSERT INTO paused (kind, id, since, by) VALUES ('contract', 'bright', 0, 'test');
             ANALYZE lead, delivery"
        ),
    );
}

/// Two partners: `bright`, who was away for a day and takes one at a time, and `other`, who is well.
fn two(bright: &Stub, other: &Stub) -> String {
    let picky = |id: &str, url: &str, contract: &str, endpoint: &str| {
        buyer(id, url, "", &format!("{contract}\nfilters = {{ field = \"name\", equals = \"{id}\" }}"), endpoint)
    };
    let hold = "priority = 2\nwhen_paused = \"hold\"\nhold_for = \"900d\"";
    [buyer("bright", &bright.url("/"), "", hold, "concurrency = 1"), picky("other", &other.url("/"), "", "")].concat()
}

/// A gateway just started upon so many that wait at a partner who was away for a day; beside it one that is well.
async fn started_with(leads: usize) -> (World, Gateway, Stub, Stub, Duration) {
    let (bright, other) = (Stub::start(Behaviour::ok("{}")).await, Stub::start(Behaviour::ok("{}")).await);
    let world = World::new(&two(&bright, &other));
    world.start().await.stop().await; // loads the network
    fill(&world.path("data/gateway.db"), leads);
    let began = clock::instant();
    let gateway = world.start().await;
    let took = began.elapsed();
    (world, gateway, bright, other, took)
}

/// The one that is well sells as if nothing waited.
async fn the_other_is_served(gateway: &Gateway, name: &str) {
    for n in 0..20 {
        let began = clock::instant();
        let lead = json!({"email": format!("{name}{n}@example.com"), "name": "other"});
        let sold = gateway.post_and_wait(&lead).await;
        assert_eq!(sold.at("/status"), "sold", "{sold:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

async fn drains_oldest_first_in_flat_memory(leads: usize, drained: usize) {
    let (world, gateway, bright, other, took) = started_with(leads).await;
    let emails = drains(gateway, &bright, &other, leads, drained, took).await;
    let store = Store::open(&world.path("data")).unwrap();
    let left = store.queue_length("bright".parse().unwrap()).await.unwrap();
    assert_eq!(emails + usize::try_from(left).unwrap(), leads);
}

/// Has so many of those that wait delivered, and stops the gateway; how many were.
async fn drains(gateway: Gateway, bright: &Stub, other: &Stub, leads: usize, drained: usize, took: Duration) -> usize {
    assert!(took < START_WITHIN, "a start took {took:?}");
    let started = memory(gateway.pid(), "VmRSS");
    eprintln!("{leads} waiting: ready after {took:?}, {} MiB", started >> 20);
    assert!(started < MEMORY_AT_MOST, "{} MiB", started >> 20);
    assert_eq!(bright.count(), 0);
    the_other_is_served(&gateway, "before").await;

    assert_eq!(gateway.act("/v1/contracts/bright/resume", &json!({})).await.status, 200);
    let began = clock::instant();
    while bright.count() < drained {
        assert!(began.elapsed() < Duration::from_mins(5), "{} of {drained} in five minutes", bright.count());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    the_other_is_served(&gateway, "meanwhile").await;
    let working = memory(gateway.pid(), "VmRSS");
    eprintln!("{drained} drained after {:?}, {} MiB", began.elapsed(), working >> 20);
    assert!(working < MEMORY_AT_MOST + (96 << 20), "{} MiB", working >> 20);
    gateway.stop().await;

    // Oldest first, each once, and the rest is still there.
    let emails: Vec<String> = bright
        .requests()
        .iter()
        .map(|request| serde_json::from_slice::<serde_json::Value>(&request.body).unwrap())
        .map(|body| text_at(&body, "/email"))
        .collect();
    let expected: Vec<String> = (0..emails.len()).map(|n| format!("a{n}@example.com")).collect();
    assert_eq!(emails, expected);
    assert_eq!(other.count(), 40);
    emails.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_that_a_dead_gateway_left_in_postgresql_are_taken_over_and_drain_oldest_first() {
    let postgres = Postgres::start();
    let (bright, other) = (Stub::start(Behaviour::ok("{}")).await, Stub::start(Behaviour::ok("{}")).await);
    let world = World::shared(&two(&bright, &other), &postgres.database(), "url = \"memory\"");
    world.start().await.stop().await; // loads the network
    let leads = 200_000;
    fill_postgres(&postgres, &world.store_url(), leads);
    let began = clock::instant();
    let gateway = world.start().await;
    let took = began.elapsed();
    let delivered = drains(gateway, &bright, &other, leads, 300, took).await;
    let left = postgres.psql(&world.store_url(), "SELECT count(*) FROM delivery WHERE state = 'queued'");
    assert_eq!(delivered + left.parse::<usize>().unwrap(), leads);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_that_wait_cost_little_start_fast_and_drain_oldest_first() {
    drains_oldest_first_in_flat_memory(200_000, 600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and 4 GiB of disk, on a quiet machine and a release build: make measure"]
async fn two_million_that_wait_cost_little_start_fast_and_drain_oldest_first() {
    drains_oldest_first_in_flat_memory(2_000_000, 200_000).await;
}

/// A campaign with one source, whose key is `test-key-of-ID` and hyphens up to twenty characters.
fn campaign(id: &str, more: &str) -> String {
    let key = format!("test-key-of-{id}");
    format!(
        r#"
[[campaign]]
id = "{id}"
timezone = "Europe/London"
currency = "GBP"
{more}
[campaign.fields]
email = {{ type = "email", required = true }}
name = {{ type = "text" }}

[[source]]
id = "{id}"
campaign = "{id}"
partner = "media"
key = "{key:-<20}"
"#
    )
}

/// A campaign and one contract whom the crowd does not concern.
fn unrelated(url: &str) -> String {
    let buyer = buyer("calm", url, "", "", "").replace("campaign = \"solar\"", "campaign = \"calm\"");
    campaign("calm", "") + &buyer
}

/// Posts to the unrelated contract one after another while `more` says so; how long each took to its sale, sorted.
async fn calm_sales(gateway: &Gateway, name: &str, more: impl Fn(usize) -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while more(took.len()) {
        let began = clock::instant();
        let lead = json!({"email": format!("{name}{}@example.com", took.len()), "name": "calm"});
        let post =
            gateway.client.post(gateway.url("/v1/campaigns/calm/leads?wait=60")).bearer_auth("test-key-of-calm----");
        let sold = gateway.send(post.header("content-type", "application/json").body(lead.to_string())).await;
        assert_eq!(sold.at("/status"), "sold", "{sold:?}");
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() * 99).div_ceil(100) - 1]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_that_opens_a_thousand_contracts_at_once_is_a_ripple() {
    const CAMPAIGNS: usize = 50;
    const CONTRACTS: usize = 1_000;
    const LEADS: usize = 2;
    let (calm, many) = (Stub::start(Behaviour::ok("{}")).await, Stub::start(Behaviour::ok("{}")).await);
    let mut network = unrelated(&calm.url("/"));
    for n in 0..CONTRACTS {
        let contract = "schedule = { mon-sun = \"09:00-17:00\" }\nwhen_closed = \"hold\"";
        let campaign = format!("campaign = \"crowd{}\"", n % CAMPAIGNS);
        network +=
            &buyer(&format!("c{n}"), &many.url("/"), "", contract, "").replace("campaign = \"solar\"", &campaign);
    }
    for n in 0..CAMPAIGNS {
        network += &campaign(&format!("crowd{n}"), "distribution = \"broadcast\"\nsell_to = 0");
    }
    let world = World::new(&network);
    world.configure("attempts = 64");
    // Closed as yet, in London.
    let clock = Clock::manual(at("2026-11-21T08:00:00Z"));
    let gateway = world.start_inside(clock.clone()).await;
    for n in 0..LEADS {
        for campaign in 0..CAMPAIGNS {
            let lead = json!({"email": format!("held{n}@example.com"), "name": "all"});
            let (path, key) = (format!("/v1/campaigns/crowd{campaign}/leads"), format!("test-key-of-crowd{campaign}"));
            let post = gateway.client.post(gateway.url(&path)).bearer_auth(format!("{key:-<20}"));
            let answer = gateway.send(post.header("content-type", "application/json").body(lead.to_string())).await;
            assert_eq!(answer.status, 202, "{answer:?}");
        }
    }
    calm_sales(&gateway, "warm", |n| n < 20).await;
    let alone = p99(&calm_sales(&gateway, "alone", |n| n < 100).await);
    assert_eq!(many.count(), 0);
    let before = memory(std::process::id(), "VmRSS");

    let app = Arc::clone(gateway.app());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let watcher = tokio::spawn(async move {
        let (mut under_way, mut bytes) = (0, 0);
        while !*stopped.borrow() {
            under_way = under_way.max(app.pipeline.lanes.under_way());
            bytes = bytes.max(memory(std::process::id(), "VmRSS"));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (under_way, bytes)
    });
    clock.set(at("2026-11-21T09:00:00Z"));
    let began = clock::instant();
    let all = CONTRACTS * LEADS;
    let during = calm_sales(&gateway, "during", |n| {
        assert!(began.elapsed() < Duration::from_mins(2), "{} of {all} in two minutes", many.count());
        n < 20 || many.count() < all
    })
    .await;
    stop.send(true).unwrap();
    let (under_way, most) = watcher.await.unwrap();
    let took = began.elapsed();
    eprintln!(
        "{all} in {took:?}; unrelated p99 alone {alone:?}, during {:?} of {}, worst {:?}; {under_way} at once; {} MiB, then {} MiB",
        p99(&during),
        during.len(),
        during.last().unwrap(),
        before >> 20,
        most >> 20
    );
    assert!(p99(&during) < alone * 10 + Duration::from_secs(10), "alone {alone:?}, during {:?}", p99(&during));
    assert!(most < before + (128 << 20), "{} MiB, then {} MiB", before >> 20, most >> 20);
    // They open by turns: no more than 64, and one more of each that has none and whose turn it is.
    assert!(under_way <= 200, "{under_way} attempts at once");
    for state in ["queued", "sending"] {
        gateway.eventually(&format!("/v1/deliveries?state={state}"), |page| page["items"] == json!([])).await;
    }
    let sent: BTreeSet<String> =
        many.requests().iter().map(|request| request.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!((sent.len(), many.count()), (all, all), "each once");
    assert!(sent.iter().all(|id| id.parse::<Uuid>().is_ok()));
    gateway.finish().await;
}
