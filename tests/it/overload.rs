//! More than the gateway can take: clients that trickle, posts that a store in trouble cannot store. The real binary; its
//! memory stays flat, what goes beyond is told early, and all is well when the load falls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lead_gateway::clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Gateway, JsonBody as _, KEY, World, buyer, lead, memory};
use crate::partner_stub::{Behaviour, Stub};

async fn world() -> (Stub, World) {
    let stub = Stub::start(Behaviour::ok(r#"{"ok": true}"#)).await;
    let world = World::new(&buyer("bright", &stub.url("/"), "", "", ""));
    (stub, world)
}

/// A client that sends a head and `sent` bytes of a body of 900 KiB, and then nothing.
async fn slow_client(gateway: &Gateway, key: &str, sent: usize) -> std::io::Result<TcpStream> {
    let mut wire = TcpStream::connect(gateway.address).await?;
    let head = format!(
        "POST /v1/campaigns/solar/leads HTTP/1.1\r\nHost: g\r\n{key}Content-Type: application/json\r\n\
         Content-Length: 921600\r\n\r\n"
    );
    wire.write_all(head.as_bytes()).await?;
    // What the gateway does not read does not matter: it is not in its memory.
    let _ = tokio::time::timeout(Duration::from_millis(500), wire.write_all(&vec![b' '; sent])).await;
    Ok(wire)
}

async fn slow_clients(gateway: &Arc<Gateway>, key: &'static str, many: usize, sent: usize) -> Vec<TcpStream> {
    let mut connecting = tokio::task::JoinSet::new();
    let mut wires = Vec::new();
    for _ in 0..many {
        let gateway = Arc::clone(gateway);
        connecting.spawn(async move { slow_client(&gateway, key, sent).await });
        if connecting.len() >= 100 {
            wires.push(connecting.join_next().await.unwrap().unwrap().unwrap());
        }
    }
    while let Some(wire) = connecting.join_next().await {
        wires.push(wire.unwrap().unwrap());
    }
    wires
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_clients_cost_bounded_memory_and_others_are_answered() {
    const CLIENTS: usize = 1_000;
    let (_stub, world) = world().await;
    std::fs::write(
        world.path("gateway.toml"),
        std::fs::read_to_string(world.path("gateway.toml"))
            .unwrap()
            .replace("[server]\n", "[server]\nbody_timeout = \"6s\"\n"),
    )
    .unwrap();
    let gateway = Arc::new(world.start().await);
    let id = gateway.post_and_wait(&lead("before@example.com")).await;
    assert_eq!(id.at("/status"), "sold");
    let before = memory(gateway.pid(), "VmRSS");
    // 300 MiB in all, of which 128 may be held; and each of the connections costs something by itself.
    let authorized: &str = Box::leak(format!("Authorization: Bearer {KEY}\r\n").into_boxed_str());
    let wires = slow_clients(&gateway, authorized, CLIENTS, 300 << 10).await;
    let most = memory(gateway.pid(), "VmRSS");
    assert!(
        most < before + (128 << 20) * 2 + CLIENTS as u64 * (24 << 10),
        "{} MiB, then {} MiB",
        before >> 20,
        most >> 20
    );
    // Early and clearly, one way or the other.
    let began = clock::instant();
    let answer = gateway.post(&lead("meanwhile@example.com")).await;
    assert!(matches!(answer.status, 202 | 503), "{answer:?}");
    assert!(answer.status == 202 || answer.headers.contains_key("retry-after"), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(gateway.send(gateway.client.get(gateway.url("/healthz"))).await.status, 200);
    // Their time is over, or they go: all is as before.
    drop(wires);
    is_taken(&gateway, "after@example.com").await;
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == serde_json::json!([])).await;
    Arc::into_inner(gateway).unwrap().finish().await;
}

/// Posts until it is taken.
async fn is_taken(gateway: &Gateway, email: &str) {
    let began = clock::instant();
    loop {
        let answer = gateway.post(&lead(email)).await;
        if answer.status == 202 {
            return;
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(30), "never taken again: {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cost_little_and_keep_nobody_out() {
    let (_stub, world) = world().await;
    let gateway = Arc::new(world.start().await);
    gateway.post_and_wait(&lead("before@example.com")).await;
    let before = memory(gateway.pid(), "VmRSS");
    // No key in the head: it might be in the body.
    let wires = slow_clients(&gateway, "", 300, 300 << 10).await;
    // A wrong one: the body is not looked at.
    let wrong = slow_clients(&gateway, "X-Api-Key: wrong-key-of-nobody-1\r\n", 300, 300 << 10).await;
    let most = memory(gateway.pid(), "VmRSS");
    assert!(most < before + (80 << 20), "{} MiB, then {} MiB", before >> 20, most >> 20);
    for n in 0..20 {
        let answer = gateway.post(&lead(&format!("meanwhile{n}@example.com"))).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    drop((wires, wrong));
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == serde_json::json!([])).await;
    Arc::into_inner(gateway).unwrap().finish().await;
}

#[tokio::test]
async fn a_wrong_key_is_answered_before_the_body_is_there() {
    let (_stub, world) = world().await;
    let gateway = world.start().await;
    let head = "POST /v1/campaigns/solar/leads HTTP/1.1\r\nHost: g\r\nX-Api-Key: wrong-key-of-nobody-1\r\n\
                Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let mut wire = TcpStream::connect(gateway.address).await.unwrap();
    wire.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    wire.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_posting_connections_against_a_store_that_hangs_are_refused_early_in_flat_memory() {
    let (stub, world) = world().await;
    let gateway = Arc::new(world.start().await);
    assert_eq!(gateway.post_and_wait(&lead("before@example.com")).await.at("/status"), "sold");
    let lock = rusqlite::Connection::open(world.path("data/gateway.db")).unwrap();
    lock.busy_timeout(Duration::from_secs(30)).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = memory(gateway.pid(), "VmRSS");

    let refused = Arc::new(AtomicUsize::new(0));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let posters: Vec<_> = (0..64)
        .map(|poster| {
            let (gateway, refused, stopped) = (Arc::clone(&gateway), Arc::clone(&refused), stopped.clone());
            tokio::spawn(async move {
                let mut taken = 0;
                for n in 0.. {
                    if *stopped.borrow() {
                        break;
                    }
                    // As large as a lead may be, so that what is held on to is seen.
                    let body =
                        serde_json::json!({"email": format!("p{poster}n{n}@example.com"), "notes": "x".repeat(900)});
                    let padded = format!("{body}{}", " ".repeat(200 << 10));
                    let post = gateway.client.post(gateway.url("/v1/campaigns/solar/leads")).bearer_auth(KEY);
                    let answer = gateway.send(post.header("content-type", "application/json").body(padded)).await;
                    match answer.status {
                        202 => taken += 1,
                        503 => {
                            assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => panic!("{answer:?}"),
                    }
                }
                taken
            })
        })
        .collect();
    // Many more come and go than were there when it began: nobody waits for long.
    let began = clock::instant();
    let mut most = 0;
    while refused.load(Ordering::Relaxed) < 64 * 6 {
        assert!(began.elapsed() < Duration::from_mins(1), "posts wait for a store that hangs");
        most = most.max(memory(gateway.pid(), "VmRSS"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(most < before + (96 << 20), "{} MiB, then {} MiB", before >> 20, most >> 20);
    assert_eq!(stub.count(), 1, "sent without a commit");
    lock.execute_batch("ROLLBACK").unwrap();
    is_taken(&gateway, "after@example.com").await;
    stop.send(true).unwrap();
    let mut taken = 2;
    for poster in posters {
        taken += poster.await.unwrap();
    }
    gateway.eventually("/v1/leads?status=pending", |page| page["items"] == serde_json::json!([])).await;
    assert_eq!(stub.count(), taken);
    Arc::into_inner(gateway).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_with_an_endless_body_or_without_a_token_are_refused_early() {
    let (_stub, world) = world().await;
    let gateway = world.start().await;
    let path = "/v1/deliveries/0199f6c2-0000-7000-8000-000000000000/cancel";
    let large = "x".repeat(100 << 10);
    let without = gateway.send(gateway.client.post(gateway.url(path)).body(large.clone())).await;
    assert_eq!(without.status, 401, "{without:?}");
    // Its body is not read, which ends the connection: nobody may send another request into that.
    assert_eq!(without.headers["connection"], "close");
    // However little it is: it may be on its way.
    let nowhere = gateway.send(gateway.client.post(gateway.url("/v1/nothing")).body("{}")).await;
    assert_eq!((nowhere.status, &nowhere.headers["connection"]), (404, &"close".parse().unwrap()));
    let with = gateway.send(gateway.client.post(gateway.url(path)).bearer_auth(&gateway.token).body(large)).await;
    assert_eq!(with.status, 413, "{with:?}");
    let unknown = gateway.client.post(gateway.url(path)).bearer_auth(&gateway.token).json_body(&serde_json::json!({}));
    assert_eq!(gateway.send(unknown).await.status, 404);
    gateway.finish().await;
}
