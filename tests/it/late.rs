//! What was admitted in time and comes to its first byte too late is not sent: the hours are the partner's, however long our
//! commit or its connection took.

use std::time::Duration;

use lead_gateway::clock::Clock;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{World, at, buyer, lead, text_at};
use crate::partner_stub::{Authority, Behaviour, Stub};

/// The way to `stub`, on which nothing gets further until it is opened.
async fn barred_way(stub: &Stub) -> (u16, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (opened, open) = watch::channel(false);
    let to = stub.address();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut open = open.clone();
            tokio::spawn(async move {
                if open.wait_for(|open| *open).await.is_ok()
                    && let Ok(mut server) = TcpStream::connect(to).await
                {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (port, opened)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_hours_end_before_its_first_byte_is_not_sent_and_costs_the_delivery_nothing() {
    let authority = Authority::new();
    let takes = Stub::start_tls(Behaviour::ok(r#"{"ok": true}"#), authority.serve(&["127.0.0.1"])).await;
    // TLS is made before anything is handed over, and cannot be while the way is barred.
    let (port, way) = barred_way(&takes).await;
    let endpoint = "connect_timeout = \"60s\"\ntimeout = \"60s\"\nretry = { max_attempts = 1 }";
    let hours = "schedule = { mon-fri = \"09:00-17:00\" }";
    let world =
        World::new(&buyer("bright", &format!("https://127.0.0.1:{port}/"), hours, "when_closed = \"hold\"", endpoint));
    std::fs::write(world.path("ca.pem"), authority.pem()).unwrap();
    world.configure(&format!("extra_ca = \"{}\"", world.path("ca.pem").display()));
    let clock = Clock::manual(at("2026-11-19T16:59:59Z")); // a Thursday
    let gateway = world.start_inside(clock.clone()).await;
    let id = gateway.post(&lead("late@example.com")).await.at("/lead_id");
    gateway.last_delivery_becomes(&id, "sending").await;
    clock.set(at("2026-11-19T17:00:00Z"));
    way.send_replace(true);
    let held = gateway.last_delivery_becomes(&id, "queued").await;
    assert_eq!(text_at(&held, "/attempts/0/class"), "not_sent", "{held:#}");
    assert!(text_at(&held, "/attempts/0/verdict") == "retryable" && takes.count() == 0, "{held:#}");
    let closed = |page: &serde_json::Value| text_at(page, "/items/0/held/reason") == "closed";
    gateway.eventually("/v1/deliveries?held=true", closed).await;

    // It was the only attempt it may have, and no fault of the partner's: it goes when the hours begin again.
    clock.set(at("2026-11-20T09:00:00Z"));
    gateway.lead_becomes(&id, "sold").await;
    assert_eq!(takes.count(), 1);
    assert_eq!(gateway.get("/v1/deliveries?state=unknown").await["items"], json!([]));
    tokio::time::timeout(Duration::from_secs(30), gateway.finish()).await.unwrap();
}
