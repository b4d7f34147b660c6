//! A gateway that stands still (SIGSTOP: a paused machine, a long swap) wherever it hurts, for longer than its endpoint's
//! time-out, and then goes on: nothing is sent twice, and nothing is lost.

use std::process::Command;
use std::time::Duration;

use lead_gateway::clock;
use lead_gateway::failpoint::POINTS;
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{Gateway, World, buyer, lead, text_at};
use crate::partner_stub::{Behaviour, Stub};
use crate::servers::state;

/// How long it stands still: longer than the endpoint waits for a reply.
const STALL: Duration = Duration::from_millis(3_500);
/// Leads of each case; the stop comes on the way.
const LEADS: usize = 5;
/// Cases at the same time.
const AT_ONCE: usize = 6;

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Starts a gateway that will stop at the n-th passing of a point.
async fn start_armed(world: &World, point: &str, nth: usize) -> Gateway {
    let mut command = world.command(&["serve"]);
    command.env("GATEWAY_TEST_POINT", format!("stop:{point}:{nth}"));
    world.start_as(command).await
}

async fn stands_still_and_goes_on(point: &'static str) {
    let stub = Stub::start(Behaviour::ok(r#"{"ok": true}"#)).await;
    let world = World::new(&buyer("bright", &stub.url("/"), "limits = { daily = 100 }", "", "timeout = \"3s\""));
    // The first start loads the network, which commits too.
    world.start().await.stop().await;
    // In the midst of the third lead, of those that pass once for each; of the others, which pass more often, later.
    let nth = if point.starts_with("writer") { 8 } else { 3 };
    let gateway = start_armed(&world, point, nth).await;
    let pid = gateway.pid();

    let (client, url) = (gateway.client.clone(), gateway.url("/v1/campaigns/solar/leads?wait=30"));
    let posting = tokio::spawn(async move {
        let mut ids = Vec::new();
        for n in 0..LEADS {
            let post = client.post(&url).bearer_auth(crate::harness::KEY).header("content-type", "application/json");
            let answer = post.body(lead(&format!("a{n}@example.com")).to_string()).send().await.unwrap();
            if answer.status() == 503 {
                // A commit took long, and its gateway says so: this lead was not promised.
                continue;
            }
            assert!(answer.status().is_success(), "{}", answer.status());
            let body: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            ids.push(text_at(&body, "/lead_id"));
        }
        ids
    });
    let began = clock::instant();
    while state(pid) != 'T' {
        assert!(began.elapsed() < Duration::from_secs(30), "{point} was never passed");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let before = stub.count();
    tokio::time::sleep(STALL).await;
    assert_eq!((state(pid), stub.count()), ('T', before), "{point}: it did not stand still");
    signal("-CONT", pid);

    let ids = posting.await.unwrap();
    for state in ["queued", "sending"] {
        gateway.eventually(&format!("/v1/deliveries?state={state}"), |page| page["items"] == json!([])).await;
    }
    let mut unknown = Vec::new();
    for id in &ids {
        let lead = gateway.lead(id).await;
        let delivery = gateway.get(&format!("/v1/deliveries/{}", text_at(&lead, "/deliveries/0/id"))).await;
        assert_eq!(lead["deliveries"].as_array().unwrap().len(), 1, "{point}: {lead:#}");
        let seen =
            stub.requests().iter().filter(|one| one.header("idempotency-key") == delivery["id"].as_str()).count();
        match text_at(&delivery, "/state").as_str() {
            "accepted" => assert_eq!(seen, 1, "{point}: {delivery:#}"),
            // It stood still in the midst of an exchange, and its time was over when it went on.
            "unknown" => {
                unknown.push(delivery.clone());
                assert!(seen <= 1, "{point}: sent {seen} times: {delivery:#}");
                assert_eq!(text_at(&delivery, "/attempts/0/class"), "timeout", "{point}: {delivery:#}");
            }
            other => panic!("{point}: {other}: {delivery:#}"),
        }
    }
    // Only one exchange can have been under way, and none when it stood still outside of it.
    assert!(unknown.len() <= usize::from(point == "dispatch.handed_over"), "{point}: unknown are {unknown:#?}");
    gateway.stop().await;
}

// A gateway's start keeps a thread of the runtime, and the partners must answer meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn a_gateway_that_stands_still_anywhere_and_goes_on_sends_nothing_twice_and_loses_nothing() {
    let mut cases = JoinSet::new();
    for point in POINTS.into_iter().filter(|point| !point.starts_with("recovery")) {
        cases.spawn(stands_still_and_goes_on(point));
        if cases.len() >= AT_ONCE {
            cases.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}
