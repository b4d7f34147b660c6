//! `gateway redeliver`: by id or by search, with every refusal named.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{run, told};
use crate::harness::{Gateway, World, buyer, lead, text_at};
use crate::partner_stub::{Behaviour, Stub};

const RULES: &str = r"
[contract.endpoint.response]
accepted = { json = '$.ok', equals = true }
rejected = { json = '$.ok', equals = false }
";

fn no() -> Behaviour {
    Behaviour::ok(r#"{"ok": false}"#)
}

fn yes() -> Behaviour {
    Behaviour::ok(r#"{"ok": true}"#)
}

/// Posts so many leads whose only delivery is rejected; the deliveries' ids, newest first.
async fn rejected(gateway: &Gateway, count: usize) -> Vec<String> {
    for number in 0..count {
        let id = gateway.post(&lead(&format!("p{number}@example.com"))).await.at("/lead_id");
        gateway.lead_becomes(&id, "unsold").await;
    }
    let page = gateway.get("/v1/deliveries?state=rejected").await;
    let ids: Vec<String> = page["items"].as_array().unwrap().iter().map(|item| text_at(item, "/id")).collect();
    assert_eq!(ids.len(), count);
    ids
}

fn json_of(world: &World, code: i32, arguments: &[&str]) -> Value {
    let output = world.run(&[&["--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

// The partner must be able to reply while the command is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_search_finds_is_sent_again_once_each_and_the_new_ones_are_not_found_by_it() {
    let stub = Stub::start(no()).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", RULES));
    let gateway = world.start().await;
    let old = rejected(&gateway, 3).await;

    let search = ["redeliver", "--contract", "one", "--state", "rejected", "--reason", "their outage"];
    let text = run(&world, 2, &search);
    assert!(text.contains("3 deliveries would be sent again") && text.contains("--yes"), "{text}");
    let search = [&search[..], &["--yes"]].concat();
    let dry = run(&world, 0, &[&search[..], &["--dry-run"]].concat());
    assert!(dry.contains("3 deliveries would be redelivered (dry run): 3 rejected"), "{dry}");
    assert_eq!(stub.requests().len(), 3);

    // The new ones are rejected too, while the command still runs.
    let report = json_of(&world, 0, &[&search[..], &["--wait", "--rate", "20/s"]].concat());
    assert_eq!(report["matched"], 3);
    assert_eq!(report["states"], json!({"rejected": 3}));
    let sent: Vec<String> =
        report["redelivered"].as_array().unwrap().iter().map(|one| text_at(one, "/delivery")).collect();
    assert_eq!(sent, old);
    assert_eq!(stub.requests().len(), 6);
    for one in report["redelivered"].as_array().unwrap() {
        let new = gateway.get(&format!("/v1/deliveries/{}", text_at(one, "/redelivered_as"))).await;
        assert_eq!(new["redelivery_of"], one["delivery"]);
    }
    gateway.finish().await;
}

#[tokio::test]
async fn by_ids_each_refusal_is_told_with_its_reason_and_the_command_ends_with_1() {
    let stub = Stub::script([no(), yes()]).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "when_paused = \"hold\"", RULES));
    let gateway = world.start().await;
    let old = rejected(&gateway, 1).await;
    assert_eq!(gateway.act("/v1/contracts/one/pause", &json!({})).await.status, 200);
    let waiting = gateway.post(&lead("w@example.com")).await.at("/lead_id");
    let waiting = text_at(&gateway.last_delivery_becomes(&waiting, "queued").await, "/id");
    let nobody = "0199f6c2-0000-7000-8000-000000000001";

    let text = run(&world, 1, &["redeliver", &waiting, nobody, &old[0], "--reason", "again", "--limits", "bypass"]);
    assert!(text.contains("1 delivery redelivered, 2 refused."), "{text}");
    assert!(text.contains("1 refused: it is unfinished; resolve or cancel it first"), "{text}");
    assert!(text.contains(&format!("{nobody}  refused: there is no")), "{text}");
    assert!(text.contains(&format!("{}  redelivered as ", old[0])), "{text}");
    gateway.stop().await;
}

#[tokio::test]
async fn without_a_running_gateway_a_redelivery_is_sent_after_the_next_start() {
    let stub = Stub::script([no(), yes()]).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", RULES));
    let gateway = world.start().await;
    let old = rejected(&gateway, 1).await;
    gateway.stop().await;

    let text = run(&world, 1, &["redeliver", &old[0], "--reason", "again", "--wait"]);
    assert!(text.contains("no gateway runs"), "{text}");
    let text = run(&world, 0, &["redeliver", "--partner", "one", "--reason", "again"]);
    assert!(text.contains("they are sent after the next start"), "{text}");
    assert_eq!(stub.requests().len(), 1);

    let gateway = world.start().await;
    let page =
        gateway.eventually("/v1/deliveries?state=accepted", |page| page["items"].as_array().unwrap().len() == 1).await;
    assert_eq!(text_at(&page, "/items/0/redelivery_of"), old[0]);
    gateway.finish().await;
}

#[tokio::test]
async fn an_interrupted_run_says_what_was_done_and_how_to_go_on_and_then_does_the_rest_alone() {
    let stub = Stub::start(no()).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", RULES));
    let gateway = world.start().await;
    let old = rejected(&gateway, 3).await;
    let search = ["redeliver", "--state", "rejected", "--reason", "again", "--yes"];

    let mut child = world
        .command(&[&search[..], &["--rate", "1/h"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with(&old[0]), "{first}");
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let go_on = format!("--before {}", old[0]);
    assert!(rest.iter().any(|line| line.contains("2 of 3 were not reached")), "{rest:?}");
    assert!(rest.iter().any(|line| line.ends_with(&go_on)), "{rest:?}");

    let report = json_of(&world, 0, &[&search[..], &["--before", &old[0]]].concat());
    let sent: Vec<String> =
        report["redelivered"].as_array().unwrap().iter().map(|one| text_at(one, "/delivery")).collect();
    assert_eq!(sent, old[1..]);
    gateway.eventually("/v1/deliveries?state=queued", |page| page["items"] == json!([])).await;
    gateway.stop().await;
}

#[test]
fn misuse_of_redeliver_ends_with_2_and_says_what_is_right() {
    let world = World::new("");
    let id = "0199f6c2-0000-7000-8000-000000000001";
    for (arguments, word) in [
        (vec!["redeliver", "--reason", "x"], "--contract"),
        (vec!["redeliver", id, "--contract", "one", "--reason", "x"], "not both"),
        (vec!["redeliver", id], "--reason"),
        (vec!["redeliver", id, "--reason", " "], "say why"),
        (vec!["redeliver", "--state", "lost", "--reason", "x"], "no state"),
        (vec!["redeliver", "--from", "yesterday", "--reason", "x"], "2026-11-21T09:30:00Z"),
        (vec!["redeliver", id, "--reason", "x", "--limits", "some"], "consume or bypass"),
        (vec!["redeliver", id, "--reason", "x", "--rate", "fast"], "50/s"),
    ] {
        let (code, text) = told(&world.run(&arguments));
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(word), "{arguments:?}: {text}");
    }
}
