//! What must hold when the machine is short of disk or memory. The real binary.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lead_gateway::clock::{self, Clock};
use lead_gateway::model::delivery::DeliveryState;
use lead_gateway::model::id::{DeliveryId, LeadId, RequestId};
use lead_gateway::model::lead::{Candidate, FieldValue, Lead, LeadStatus, Meta};
use lead_gateway::store::{Accept, Accepted, Audit, NewDelivery, PausedKind, Store};
use serde_json::json;

use crate::harness::{Gateway, JsonBody as _, KEY, World, buyer, lead, memory, text_at};
use crate::partner_stub::{Behaviour, Stub};
use crate::servers::disk::SmallDisk;

/// A world whose one contract keeps every lead waiting.
fn world_that_waits() -> World {
    World::new(&buyer(
        "bright",
        "http://127.0.0.1:9/",
        "",
        "schedule = { mon = \"03:00-03:01\" }\nwhen_closed = \"hold\"\nhold_for = \"30d\"",
        "",
    ))
}

/// Posts leads until one is answered otherwise than `status`; returns the e-mail addresses of those, and of that one.
async fn post_until_not(gateway: &Gateway, status: u16, name: &str) -> (Vec<String>, String) {
    let (mut before, began) = (Vec::new(), clock::instant());
    for n in 0.. {
        assert!(began.elapsed() < Duration::from_secs(30), "{name}: still {status}");
        let email = format!("{name}{n}@example.com");
        // Large, so that a small disk is soon full.
        let lead = json!({"email": email, "name": "n".repeat(900), "notes": "x".repeat(900)});
        let answer = gateway
            .send(
                gateway
                    .client
                    .post(gateway.url("/v1/campaigns/solar/leads"))
                    .bearer_auth(KEY)
                    .header("idempotency-key", &email)
                    .json_body(&lead),
            )
            .await;
        match answer.status {
            202 => assert_eq!(answer.at("/status"), "pending"),
            503 => {
                assert_eq!(answer.at("/type"), "/problems/unavailable");
                assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
            }
            _ => panic!("{answer:?}"),
        }
        if answer.status != status {
            return (before, email);
        }
        before.push(email);
    }
    unreachable!()
}

async fn all_leads(gateway: &Gateway) -> BTreeMap<String, serde_json::Value> {
    let (mut leads, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = gateway.get(&format!("/v1/leads?limit=500{cursor}")).await;
        for lead in page["items"].as_array().unwrap() {
            let before = leads.insert(text_at(lead, "/fields/email"), lead.clone());
            assert!(before.is_none(), "twice: {lead:#}");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return leads,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_answered_503_and_leaves_nothing_half_stored() {
    let world = world_that_waits();
    let Some(mut disk) = SmallDisk::mount(&world.path("data"), 8) else { return };
    let gateway = world.start().await;
    assert_eq!(gateway.post(&lead("first@example.com")).await.status, 202);
    disk.fill();
    // What the log and the database have left is used up first.
    let (mut stored, refused) = post_until_not(&gateway, 202, "filling").await;
    stored.push("first@example.com".to_owned());
    let mut refused = vec![refused];
    for n in 0..20 {
        let (more, no) = post_until_not(&gateway, 202, &format!("full{n}.")).await;
        stored.extend(more);
        refused.push(no);
    }
    // It lives, and what can be read is read.
    assert_eq!(gateway.send(gateway.client.get(gateway.url("/healthz"))).await.status, 200);
    assert!(all_leads(&gateway).await.contains_key("first@example.com"));

    disk.free();
    let (more, again) = post_until_not(&gateway, 503, "freed").await;
    refused.extend(more);
    stored.push(again);
    for n in 0..20 {
        let email = format!("after{n}@example.com");
        assert_eq!(gateway.post(&lead(&email)).await.status, 202);
        stored.push(email);
    }
    // A post that was refused left nothing behind, not even its idempotency key: it can be made again.
    let retried = refused.pop().unwrap();
    let post = gateway.client.post(gateway.url("/v1/campaigns/solar/leads")).bearer_auth(KEY);
    let answer = gateway.send(post.header("idempotency-key", &retried).json_body(&lead(&retried))).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    stored.push(retried);
    gateway.kill();

    let gateway = world.start().await;
    let leads = all_leads(&gateway).await;
    assert_eq!(leads.keys().cloned().collect::<BTreeSet<_>>(), stored.into_iter().collect());
    for lead in leads.values() {
        let lead = gateway.lead(&text_at(lead, "/lead_id")).await;
        assert_eq!(lead["deliveries"].as_array().unwrap().len(), 1, "{lead:#}");
    }
    gateway.stop().await;
    let conn = rusqlite::Connection::open(world.path("data/gateway.db")).unwrap();
    let sound: String = conn.pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}

/// What the process may hold in memory with any backlog, in this build: its code and tables (of phone numbers and time
/// zones), the store's page caches, and windows of its queues.
const MEMORY_AT_MOST: u64 = 150 << 20;
/// And while it works: the writer's page cache (64 MiB) and the readers' (4 of 16 MiB) fill up.
const WORKING_AT_MOST: u64 = MEMORY_AT_MOST + (128 << 20);
const BACKLOG: usize = 30_000;

/// Fills a world's store with leads that wait at the contract `bright`, which is paused.
async fn fill(world: &World, leads: usize) {
    let store = Store::open(&world.path("data")).unwrap();
    let clock = Clock::system();
    let audit = Audit { who: "test".to_owned(), action: "pause", subject: "contract/bright".to_owned(), reason: None };
    store.set_paused(PausedKind::Contract, "bright".to_owned(), true, clock.now(), audit).await.unwrap();
    let mut posts = tokio::task::JoinSet::new();
    for n in 0..leads {
        let lead = Lead {
            id: LeadId(clock.uuid()),
            campaign: "solar".parse().unwrap(),
            source: "acme".parse().unwrap(),
            received_at: clock.now(),
            test: false,
            fields: [
                ("email".to_owned(), FieldValue::Text(format!("a{n}@example.com"))),
                ("name".to_owned(), FieldValue::Text("n".repeat(500))),
            ]
            .into(),
            meta: Meta::default(),
        };
        let accept = Accept {
            lead: Arc::new(lead),
            status: LeadStatus::Pending,
            reason: None,
            payout: None,
            candidates: vec![Candidate {
                contract: "bright".parse().unwrap(),
                partner: "bright".parse().unwrap(),
                filtered: None,
            }],
            deliveries: vec![NewDelivery {
                id: DeliveryId(clock.uuid()),
                partner: "bright".parse().unwrap(),
                contract: "bright".parse().unwrap(),
                state: DeliveryState::Queued,
                waits: true,
                reason: None,
                price: None,
                redelivery_of: None,
                bypass_limits: false,
            }],
            places: Vec::new(),
            dedupe: Vec::new(),
            idempotency: None,
            lookups: Vec::new(),
            turn: None,
            content_type: "application/json".to_owned(),
            body: Bytes::from(vec![b'x'; 1_000]),
            request: RequestId(clock.uuid()),
        };
        let store = store.clone();
        posts.spawn(async move { assert_eq!(store.accept(accept).await.unwrap(), Accepted::Stored) });
        while posts.len() > 2_000 {
            posts.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(post) = posts.join_next().await {
        post.unwrap();
    }
}

/// A gateway, just started, with the backlog waiting at a partner, which is paused; and what its partner gets.
async fn with_backlog() -> (World, Gateway, Stub) {
    let stub = Stub::start(Behaviour::ok(r#"{"ok": true}"#)).await;
    let world = World::new(&buyer("bright", &stub.url("/"), "", "when_paused = \"hold\"", "concurrency = 16"));
    world.start().await.stop().await; // loads the network
    fill(&world, BACKLOG).await;
    let gateway = world.start().await;
    let page = gateway.get("/v1/deliveries?held=true&limit=500").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 500);
    assert_eq!(text_at(&page, "/items/0/held/reason"), "paused");
    assert_eq!(stub.requests().len(), 0);
    (world, gateway, stub)
}

/// Resumes, and waits until so many have been delivered; says how much memory each tenth of the way took.
async fn work_off(gateway: &Gateway, stub: &Stub, many: usize) -> Vec<u64> {
    assert_eq!(gateway.act("/v1/contracts/bright/resume", &json!({})).await.status, 200);
    let (mut seen, mut last, mut memories) = (0, clock::instant(), Vec::new());
    while seen < many {
        // The first within seconds, and never a longer pause.
        assert!(last.elapsed() < Duration::from_secs(5), "nothing for 5 s after {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = stub.count();
        if now > seen {
            (seen, last) = (now, clock::instant());
        }
        if seen * 10 / many > memories.len() {
            memories.push(memory(gateway.pid(), "VmRSS"));
        }
    }
    memories
}

/// No delivery more than once.
fn each_once(stub: &Stub) -> usize {
    let requests = stub.requests();
    let deliveries: BTreeSet<_> = requests.iter().map(|request| request.header("idempotency-key").unwrap()).collect();
    assert_eq!(requests.len(), deliveries.len());
    requests.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_backlog_costs_little_memory_and_starts_within_seconds() {
    let (world, gateway, stub) = with_backlog().await;
    let rss = memory(gateway.pid(), "VmRSS");
    assert!(rss < MEMORY_AT_MOST, "{} MiB with a backlog", rss >> 20);
    work_off(&gateway, &stub, 2_000).await;
    gateway.stop().await;
    let sent = each_once(&stub);

    // The rest is still there, and none of it was lost or sent on the way.
    let store = Store::open(&world.path("data")).unwrap();
    let left = store.queue_length("bright".parse().unwrap()).await.unwrap();
    assert_eq!(sent + usize::try_from(left).unwrap(), BACKLOG);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo nextest run --run-ignored only -E 'test(large_backlog)'"]
async fn a_large_backlog_is_worked_off_to_its_end_each_once_in_bounded_memory() {
    let (_world, gateway, stub) = with_backlog().await;
    let memories = work_off(&gateway, &stub, BACKLOG).await;
    for state in ["queued", "sending"] {
        gateway.eventually(&format!("/v1/deliveries?state={state}"), |page| page["items"] == json!([])).await;
    }
    gateway.finish().await;
    assert_eq!(each_once(&stub), BACKLOG);
    let memories: Vec<u64> = memories.into_iter().map(|bytes| bytes >> 20).collect();
    eprintln!("MiB on the way: {memories:?}");
    assert!(memories.iter().all(|mib| *mib < WORKING_AT_MOST >> 20), "MiB on the way: {memories:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_hangs_up_leaves_no_lead_behind() {
    const POSTS: usize = 300;
    let stub = Stub::start(Behaviour::ok(r#"{"ok": true}"#)).await;
    let world = World::new(&buyer("bright", &stub.url("/"), "", "", ""));
    let gateway = world.start().await;
    for n in 0..POSTS {
        let body = lead(&format!("a{n}@example.com")).to_string();
        let mut stream = TcpStream::connect(gateway.address).unwrap();
        let head = format!(
            "POST /v1/campaigns/solar/leads HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        // Gone at another moment each time.
        std::thread::sleep(Duration::from_micros(u64::try_from(n % 60).unwrap() * 100));
    }
    // Whatever was stored is delivered: nothing waits without anybody knowing of it.
    let last = gateway.post_and_wait(&lead("last@example.com")).await;
    assert_eq!(last.at("/status"), "sold");
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == json!([])).await;
    let leads = all_leads(&gateway).await.len();
    assert!(leads > 1, "no post arrived");
    assert_eq!(stub.requests().len(), leads);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_cannot_be_read_any_more_keeps_no_other_from_being_carried_on() {
    let hangs = Stub::start(Behaviour::hang_after_reading()).await;
    let world = World::new(&buyer("bright", &hangs.url("/"), "", "", ""));
    let gateway = world.start().await;
    let mut ids = Vec::new();
    for email in ["damaged@example.com", "whole@example.com"] {
        ids.push(gateway.post(&lead(email)).await.at("/lead_id"));
    }
    hangs.wait_for_requests(2).await;
    gateway.kill();
    // As a disk would that gives back other bytes than it was given.
    let database = rusqlite::Connection::open(world.path("data/gateway.db")).unwrap();
    let damage = "UPDATE lead_data SET fields = 'torn' WHERE fields LIKE '%damaged@%'";
    assert_eq!(database.execute(damage, []).unwrap(), 1);
    drop(database);
    let gateway = world.start().await;
    gateway.last_delivery_becomes(&ids[1], "unknown").await;
    assert!(world.log().contains("a lost attempt cannot be concluded"), "{}", world.log());
    gateway.kill();
}
