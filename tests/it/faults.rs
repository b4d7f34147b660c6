//! What the embedded store may suffer while leads come in: a full disk, a file system that refuses writes, a lock that
//! somebody else holds. The real binary; nothing is lost, and everything goes on by itself when the fault ends.

mod disk;
mod lock;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lead_gateway::clock;
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, JsonBody as _, KEY, World, buyer, lead, text_at};
use crate::partner_stub::{Behaviour, Stub};

/// How long what must come may take; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a source may wait for its 503: 3 s for a store that hangs, and some for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A gateway and its partner, who takes everything.
async fn world() -> (Stub, World) {
    let stub = Stub::start(Behaviour::ok(r#"{"ok": true}"#)).await;
    let world = World::new(&buyer("bright", &stub.url("/"), "", "", ""));
    (stub, world)
}

/// Posts a lead under an idempotency key of its own.
async fn post(gateway: &Gateway, email: &str) -> Answer {
    let post = gateway.client.post(gateway.url("/v1/campaigns/solar/leads")).bearer_auth(KEY);
    gateway.send(post.header("idempotency-key", email).json_body(&lead(email))).await
}

/// It says that it is safe to come back, and when.
fn is_unavailable(answer: &Answer) {
    assert_eq!((answer.status, answer.at("/type").as_str()), (503, "/problems/unavailable"), "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
}

/// Posts until one is refused; those that were stored, and that one.
async fn post_until_refused(gateway: &Gateway, name: &str) -> (Vec<String>, String) {
    let (mut stored, began) = (Vec::new(), clock::instant());
    for n in 0.. {
        assert!(began.elapsed() < PATIENCE, "{name}: nothing is refused");
        let email = format!("{name}{n}@example.com");
        let answer = post(gateway, &email).await;
        if answer.status == 503 {
            is_unavailable(&answer);
            return (stored, email);
        }
        assert_eq!(answer.status, 202, "{answer:?}");
        stored.push(email);
    }
    unreachable!()
}

/// `/readyz`: its status and what it says.
async fn readiness(gateway: &Gateway) -> (u16, Value) {
    let answer = gateway.send(gateway.client.get(gateway.url("/readyz"))).await;
    (answer.status, answer.json())
}

/// Waits until `/readyz` answers so, and says what it says then.
async fn becomes(gateway: &Gateway, status: u16) -> Value {
    let began = clock::instant();
    loop {
        let (now, said) = readiness(gateway).await;
        if now == status {
            return said;
        }
        assert!(began.elapsed() < PATIENCE, "/readyz is {now} {said}, and never became {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Posts again, as sources do, until each is taken.
async fn post_again(gateway: &Gateway, emails: impl IntoIterator<Item = String>) {
    for email in emails {
        let began = clock::instant();
        loop {
            let answer = post(gateway, &email).await;
            match answer.status {
                200 | 202 => break,
                409 => assert_eq!(answer.at("/type"), "/problems/idempotency-in-progress"),
                _ => is_unavailable(&answer),
            }
            assert!(began.elapsed() < PATIENCE, "{email} is never taken: {answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn leads_by_email(gateway: &Gateway) -> BTreeMap<String, Value> {
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

/// Every lead is stored once, sold, and was sent once; none is left lying.
async fn all_are_sold_once(gateway: &Gateway, stub: &Stub, posted: &BTreeSet<String>) {
    let began = clock::instant();
    loop {
        let leads = leads_by_email(gateway).await;
        if leads.values().all(|lead| text_at(lead, "/status") == "sold") {
            assert_eq!(&leads.keys().cloned().collect::<BTreeSet<_>>(), posted);
            break;
        }
        assert!(began.elapsed() < PATIENCE, "some are never sold: {leads:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let sent: Vec<_> =
        stub.requests().iter().map(|request| request.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!(sent.len(), posted.len(), "sent more often than sold");
    assert_eq!(sent.iter().collect::<BTreeSet<_>>().len(), sent.len(), "sent twice");
}

/// How long an answer took.
async fn timed<T>(answer: impl Future<Output = T>) -> (T, Duration) {
    let began: Instant = clock::instant();
    let answer = answer.await;
    (answer, began.elapsed())
}

fn nothing() -> Value {
    json!([])
}
