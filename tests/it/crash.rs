//! `kill -9` in mid-load, and a restart: nothing acknowledged is missing, nothing is sent twice, no limit is passed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{JsonBody as _, KEY, World, buyer, lead, text_at};
use crate::partner_stub::{Behaviour, Stub};

/// Kills in one run; each at another moment of the load.
const KILLS: u64 = 6;
/// What the limited partner may have today.
const LIMIT: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_in_mid_load_loses_nothing_sends_nothing_twice_and_passes_no_limit() {
    let limited = Stub::start(Behaviour::ok(r#"{"ok": true}"#)).await;
    let open = Stub::start(Behaviour::ok(r#"{"ok": true}"#)).await;
    let network = [
        buyer("limited", &limited.url("/"), &format!("limits = {{ daily = {LIMIT} }}"), "priority = 1", ""),
        buyer("open", &open.url("/"), "", "priority = 2", ""),
    ];
    let world = World::new(&network.concat());
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();

    for kill in 0..KILLS {
        let gateway = world.start().await;
        let stop = Arc::new(AtomicBool::new(false));
        let posters: Vec<_> = (0..8)
            .map(|poster| {
                let (client, url, stop) =
                    (gateway.client.clone(), gateway.url("/v1/campaigns/solar/leads"), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut acknowledged = Vec::new();
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let email = format!("p{kill}.{poster}.{number}@example.com");
                        let Ok(answer) = client.post(&url).bearer_auth(KEY).json_body(&lead(&email)).send().await
                        else {
                            break;
                        };
                        let status = answer.status();
                        let Ok(body) = answer.text().await else { break };
                        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
                        assert_eq!(status, 202, "{body}");
                        acknowledged.push((text_at(&body, "/lead_id"), email));
                    }
                    acknowledged
                })
            })
            .collect();
        // Another moment each time, by how much has been sent.
        let before = open.requests().len() + limited.requests().len();
        let wanted = before + 20 + 17 * usize::try_from(kill).unwrap();
        while open.requests().len() + limited.requests().len() < wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gateway.kill();
        stop.store(true, Ordering::Relaxed);
        for poster in posters {
            acknowledged.extend(poster.await.unwrap());
        }
    }
    assert!(acknowledged.len() > 50, "there was no load: {}", acknowledged.len());

    let gateway = world.start().await;
    for state in ["queued", "sending"] {
        gateway.eventually(&format!("/v1/deliveries?state={state}"), |page| page["items"] == json!([])).await;
    }
    let mut unknown = BTreeSet::new();
    for id in acknowledged.keys() {
        let lead = gateway.lead(id).await;
        match text_at(&lead, "/status").as_str() {
            "sold" => {}
            "pending" => {
                let delivery = lead["deliveries"].as_array().unwrap().last().unwrap();
                assert_eq!(text_at(delivery, "/state"), "unknown", "{lead:#}");
                unknown.insert(text_at(delivery, "/id"));
            }
            other => panic!("an acknowledged lead is {other}: {lead:#}"),
        }
    }
    // An attempt can be open at a kill for each permit of each contract.
    assert!(unknown.len() <= usize::try_from(KILLS).unwrap() * 32, "{} are unknown", unknown.len());

    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    let mut people: BTreeMap<String, usize> = BTreeMap::new();
    for request in limited.requests().iter().chain(&open.requests()) {
        *sent.entry(request.header("idempotency-key").unwrap().to_owned()).or_default() += 1;
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        *people.entry(text_at(&body, "/email")).or_default() += 1;
    }
    let twice: Vec<_> = sent.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "deliveries were sent twice: {twice:?}");
    let twice: Vec<_> = people.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "people were sent twice: {twice:?}");
    for (id, email) in &acknowledged {
        // Whoever is sold has arrived, and an unknown one may have.
        if text_at(&gateway.lead(id).await, "/status") == "sold" {
            assert_eq!(people.get(email), Some(&1), "{email} is sold, and nobody has it");
        }
    }
    assert!(limited.requests().len() <= LIMIT, "{} of {LIMIT} were sent", limited.requests().len());
    gateway.stop().await;
}
