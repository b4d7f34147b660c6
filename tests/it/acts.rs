//! What people do: redeliver, resolve, cancel, pause and resume over the API; apply, check, render, send and make tokens
//! by the command line (CONTRACT 7 and 8).

use std::process::Output;

use lead_gateway::clock::Clock;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{Gateway, JsonBody as _, KEY, World, all_bytes, at, buyer, lead, text_at};
use crate::partner_stub::{Behaviour, Step, Stub};

const RULES: &str = r"
[contract.endpoint.response]
accepted = { json = '$.ok', equals = true }
rejected = { json = '$.ok', equals = false }
";

const HOLD: &str = "when_paused = \"hold\"";

fn yes() -> Behaviour {
    Behaviour::ok(r#"{"ok": true}"#)
}

fn no() -> Behaviour {
    Behaviour::ok(r#"{"ok": false}"#)
}

/// Takes what nobody before it took.
fn backup(stub: &Stub) -> String {
    buyer("backup", &stub.url("/"), "", "priority = 9", "")
}

fn states(lead: &Value) -> Vec<String> {
    lead["deliveries"].as_array().unwrap().iter().map(|delivery| text_at(delivery, "/state")).collect()
}

impl Gateway {
    /// Does something to a delivery; the status of the answer.
    async fn act_on(&self, delivery: &Value, act: &str, body: &Value) -> u16 {
        self.act(&format!("/v1/deliveries/{}/{act}", text_at(delivery, "/id")), body).await.status
    }

    /// Redelivers; the new delivery's id.
    async fn redeliver(&self, delivery: &Value, body: &Value) -> String {
        let answer = self.act(&format!("/v1/deliveries/{}/redeliver", text_at(delivery, "/id")), body).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        answer.at("/delivery_id")
    }

    /// The delivery with this id, once it is in this state.
    async fn becomes(&self, delivery: &str, state: &str) -> Value {
        self.eventually(&format!("/v1/deliveries/{delivery}"), |delivery| text_at(delivery, "/state") == state).await
    }

    /// Posts a lead and waits until its last delivery is in this state; the lead's id and the delivery.
    async fn brought_to(&self, email: &str, state: &str) -> (String, Value) {
        let id = self.post(&lead(email)).await.at("/lead_id");
        let delivery = self.last_delivery_becomes(&id, state).await;
        (id, delivery)
    }

    async fn pause(&self, what: &str) {
        let answer = self.act(&format!("/v1/{what}/pause"), &json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }

    async fn resume(&self, what: &str) {
        let answer = self.act(&format!("/v1/{what}/resume"), &json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

/// Exit code, and everything that was printed.
fn told(output: &Output) -> (i32, String) {
    let text = [&*output.stdout, &*output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// Runs a command that must end with this code; what it printed.
fn run(world: &World, code: i32, arguments: &[&str]) -> String {
    let (ended, text) = told(&world.run(arguments));
    assert_eq!(ended, code, "{arguments:?}: {text}");
    text
}

// Redeliver

#[tokio::test]
async fn a_redelivery_is_a_new_delivery_with_its_own_key_and_todays_template_and_passes_a_limit_its_old_one_fills() {
    let stub = Stub::start(yes()).await;
    let world = World::new(&buyer("one", &stub.url("/"), "limits = { daily = 1 }", "", ""));
    let gateway = world.start().await;
    let (id, old) = gateway.brought_to("zoe@example.com", "accepted").await;
    world.write("templates/lead.json.hbs", "{\"mail\": \"{{lead.email}}\", \"try\": \"{{delivery.id}}\"}");
    run(&world, 0, &["apply", "network"]);

    let new = gateway.redeliver(&old, &json!({"reason": "they lost it"})).await;

    let new = gateway.becomes(&new, "accepted").await;
    assert_eq!(new["redelivery_of"], old["id"]);
    assert_ne!(new["id"], old["id"]);
    let requests = stub.requests();
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key").unwrap()).collect();
    assert_eq!(keys, [&*text_at(&old, "/id"), &*text_at(&new, "/id")]);
    assert!(requests[1].text().starts_with("{\"mail\": \"zoe@example.com\""), "{}", requests[1].text());
    let lead = gateway.lead(&id).await;
    assert_eq!((text_at(&lead, "/status"), states(&lead).len()), ("sold".to_owned(), 2));
    // It took no place, and gave none back: another lead still finds the limit reached.
    let (_, full) = gateway.brought_to("ann@example.com", "queued").await;
    assert_eq!(text_at(&full, "/held/reason"), "full");
    gateway.stop().await;
}

#[tokio::test]
async fn a_redelivery_of_what_has_no_place_any_more_takes_one_unless_a_person_says_otherwise() {
    let stub = Stub::script([no(), yes()]).await;
    let world = World::new(&buyer("one", &stub.url("/"), "limits = { daily = 1 }", "", RULES));
    let gateway = world.start().await;
    let (id, rejected) = gateway.brought_to("zoe@example.com", "rejected").await;
    gateway.lead_becomes(&id, "unsold").await;
    gateway.brought_to("ann@example.com", "accepted").await;

    let held = gateway.redeliver(&rejected, &json!({})).await;
    let held =
        gateway.eventually(&format!("/v1/deliveries/{held}"), |new| text_at(new, "/held/reason") == "full").await;
    assert_eq!(gateway.act_on(&held, "cancel", &json!({})).await, 200);
    assert_eq!(stub.requests().len(), 2);

    let passing = gateway.redeliver(&rejected, &json!({"limits": "bypass"})).await;
    gateway.becomes(&passing, "accepted").await;
    gateway.lead_becomes(&id, "sold").await;
    gateway.finish().await;
}

#[tokio::test]
async fn a_rejected_redelivery_goes_to_nobody_else_and_an_accepted_one_sells_an_unsold_lead() {
    let stub = Stub::script([no(), no(), yes()]).await;
    let other = Stub::script([no(), yes()]).await;
    let world = World::new(
        &[buyer("one", &stub.url("/"), "", "", RULES), buyer("two", &other.url("/"), "", "", RULES)].concat(),
    );
    let gateway = world.start().await;
    let id = gateway.post(&lead("zoe@example.com")).await.at("/lead_id");
    let unsold = gateway.lead_becomes(&id, "unsold").await;
    let old = unsold["deliveries"].as_array().unwrap().iter().find(|delivery| text_at(delivery, "/contract") == "one");
    let old = old.unwrap();

    let again = gateway.redeliver(old, &json!({})).await;
    gateway.becomes(&again, "rejected").await;
    assert_eq!(text_at(&gateway.lead(&id).await, "/status"), "unsold");
    assert_eq!(other.requests().len(), 1, "nobody else is offered it because of that");

    let again = gateway.redeliver(old, &json!({})).await;
    gateway.becomes(&again, "accepted").await;
    assert_eq!(text_at(&gateway.lead(&id).await, "/status"), "sold");
    gateway.finish().await;
}

#[tokio::test]
async fn what_is_unfinished_cannot_be_redelivered_nor_what_is_finished_be_cancelled_or_resolved() {
    let (release, held) = watch::channel(false);
    let stub =
        Stub::script([Behaviour::close_after_reading(), yes().after(Step::Until(held)), yes(), no(), yes()]).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", HOLD, RULES));
    let gateway = world.start().await;
    let (_, unknown) = gateway.brought_to("a@example.com", "unknown").await;
    let (_, sending) = gateway.brought_to("b@example.com", "sending").await;
    stub.wait_for_requests(2).await;
    let (_, accepted) = gateway.brought_to("c@example.com", "accepted").await;
    let (_, rejected) = gateway.brought_to("d@example.com", "rejected").await;
    gateway.pause("contracts/one").await;
    let (_, queued) = gateway.brought_to("e@example.com", "queued").await;

    let resolve = json!({"verdict": "accepted"});
    for (delivery, redeliver, resolved, cancel) in [
        (&unknown, 409, 200, 409),
        (&sending, 409, 409, 409),
        (&accepted, 202, 409, 409),
        (&rejected, 202, 409, 409),
        (&queued, 409, 409, 200),
    ] {
        let state = text_at(delivery, "/state");
        assert_eq!(gateway.act_on(delivery, "redeliver", &json!({})).await, redeliver, "redeliver {state}");
        assert_eq!(gateway.act_on(delivery, "cancel", &json!({})).await, cancel, "cancel {state}");
        assert_eq!(gateway.act_on(delivery, "resolve", &resolve).await, resolved, "resolve {state}");
    }
    assert_eq!(gateway.act_on(&unknown, "resolve", &resolve).await, 409, "once");
    assert_eq!(gateway.act_on(&queued, "cancel", &json!({})).await, 409, "once");
    release.send_replace(true);
    gateway.becomes(&text_at(&sending, "/id"), "accepted").await;
    gateway.resume("contracts/one").await;
    gateway.eventually("/v1/deliveries?state=queued", |list| list["items"] == json!([])).await;
    gateway.eventually("/v1/deliveries?state=sending", |list| list["items"] == json!([])).await;
    gateway.finish().await;
}

#[tokio::test]
async fn acts_need_their_role_an_existing_delivery_and_a_body_that_makes_sense() {
    let stub = Stub::start(Behaviour::close_after_reading()).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", ""));
    let mut gateway = world.start().await;
    let (id, unknown) = gateway.brought_to("a@example.com", "unknown").await;
    for (act, body, status) in [
        ("resolve", json!({"verdict": "duplicate"}), 422),
        ("resolve", json!({"verdict": "maybe"}), 422),
        ("resolve", json!({}), 422),
        ("resolve", json!({"verdict": "accepted", "resaon": "typo"}), 422),
        ("redeliver", json!({"limits": "ignore"}), 422),
        ("cancel", json!({"why": "typo"}), 422),
    ] {
        assert_eq!(gateway.act_on(&unknown, act, &body).await, status, "{act} {body}");
    }
    let nobody = json!({"id": id});
    for (act, body) in [("redeliver", json!({})), ("cancel", json!({})), ("resolve", json!({"verdict": "accepted"}))] {
        assert_eq!(gateway.act_on(&nobody, act, &body).await, 404, "{act}");
    }
    for path in ["/v1/partners/nobody/pause", "/v1/contracts/media/pause", "/v1/sources/one/resume"] {
        assert_eq!(gateway.act(path, &json!({})).await.status, 404, "{path}");
    }
    gateway.token = world.new_token("looks-only", "viewer");
    for path in [format!("/v1/deliveries/{}/cancel", text_at(&unknown, "/id")), "/v1/sources/acme/pause".to_owned()] {
        assert_eq!(gateway.act(&path, &json!({})).await.status, 403, "{path}");
    }
    gateway.token = "nobody".to_owned();
    assert_eq!(gateway.act("/v1/sources/acme/pause", &json!({})).await.status, 401);
    gateway.stop().await;
}

// Resolve

#[tokio::test]
async fn an_unknown_delivery_resolved_as_accepted_sells_the_lead_and_keeps_its_place() {
    let stub = Stub::script([Behaviour::close_after_reading(), yes()]).await;
    let other = Stub::start(yes()).await;
    let world = World::new(
        &[buyer("one", &stub.url("/"), "limits = { daily = 1 }", "when_full = \"skip\"", ""), backup(&other)].concat(),
    );
    let gateway = world.start().await;
    let (id, unknown) = gateway.brought_to("zoe@example.com", "unknown").await;

    let answer = gateway
        .act(
            &format!("/v1/deliveries/{}/resolve", text_at(&unknown, "/id")),
            &json!({"verdict": "accepted", "reason": "they have it"}),
        )
        .await;

    assert_eq!((answer.status, &*answer.at("/state"), &*answer.at("/verdict")), (200, "accepted", "accepted"));
    assert_eq!(answer.at("/reason"), "they have it");
    assert_eq!(answer.at("/attempts/0/verdict"), "unknown", "what came of the attempt stays as it was");
    assert_eq!(text_at(&gateway.lead(&id).await, "/status"), "sold");
    let next = gateway.post_and_wait(&lead("ann@example.com")).await;
    assert_eq!(states(&gateway.lead(&next.at("/lead_id")).await), ["skipped", "accepted"]);
    assert_eq!((stub.requests().len(), other.requests().len()), (1, 1));
    gateway.finish().await;
}

#[tokio::test]
async fn an_unknown_delivery_resolved_as_rejected_gives_its_place_back_and_the_next_candidate_gets_the_lead() {
    let stub = Stub::script([Behaviour::close_after_reading(), yes()]).await;
    let other = Stub::start(yes()).await;
    let world = World::new(
        &[buyer("one", &stub.url("/"), "limits = { daily = 1 }", "when_full = \"skip\"", ""), backup(&other)].concat(),
    );
    let gateway = world.start().await;
    let (id, unknown) = gateway.brought_to("zoe@example.com", "unknown").await;
    assert_eq!(gateway.act_on(&unknown, "resolve", &json!({"verdict": "rejected"})).await, 200);
    let sold = gateway.lead_becomes(&id, "sold").await;
    assert_eq!(states(&sold), ["rejected", "accepted"]);
    let next = gateway.post_and_wait(&lead("ann@example.com")).await;
    assert_eq!(states(&gateway.lead(&next.at("/lead_id")).await), ["accepted"]);
    assert_eq!((stub.requests().len(), other.requests().len()), (2, 1));
    gateway.finish().await;
}

// Cancel

#[tokio::test]
async fn a_cancelled_delivery_frees_its_slot_and_offers_the_lead_to_nobody_else() {
    let stub = Stub::start(no()).await;
    let (c, d) = (Stub::start(yes()).await, Stub::start(yes()).await);
    let world = World::with(
        "distribution = \"broadcast\"\nsell_to = 2",
        "",
        &[
            buyer("a", &stub.url("/"), "", &format!("priority = 1\n{HOLD}"), RULES),
            buyer("b", &stub.url("/"), "", &format!("priority = 2\n{HOLD}"), RULES),
            buyer("c", &c.url("/"), "", "priority = 3", ""),
            buyer("d", &d.url("/"), "", "priority = 4", ""),
        ]
        .concat(),
    );
    let gateway = world.start().await;
    gateway.pause("partners/a").await;
    gateway.pause("contracts/b").await;
    let answer = gateway.post_and_wait(&lead("zoe@example.com")).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let lead = gateway.lead(&answer.at("/lead_id")).await;
    assert_eq!(states(&lead), ["queued", "queued"]);

    assert_eq!(gateway.act_on(&lead["deliveries"][0], "cancel", &json!({"reason": "a test"})).await, 200);

    let lead = gateway.lead(&answer.at("/lead_id")).await;
    assert_eq!(states(&lead), ["cancelled", "queued"]);
    assert_eq!(text_at(&lead, "/deliveries/0/reason"), "a test");
    gateway.resume("partners/a").await;
    gateway.resume("contracts/b").await;
    gateway
        .eventually(&format!("/v1/leads/{}", answer.at("/lead_id")), |lead| {
            states(lead) == ["cancelled", "rejected", "accepted", "accepted"]
        })
        .await;
    assert_eq!(stub.requests().len(), 1, "the cancelled one was not sent");
    gateway.finish().await;
}

#[tokio::test]
async fn with_its_only_delivery_cancelled_a_lead_is_unsold_and_untried_ones_stay_so() {
    let (stub, other) = (Stub::start(yes()).await, Stub::start(yes()).await);
    let world = World::new(&[buyer("one", &stub.url("/"), "", HOLD, ""), backup(&other)].concat());
    let gateway = world.start().await;
    gateway.pause("contracts/one").await;
    let (id, queued) = gateway.brought_to("zoe@example.com", "queued").await;
    assert_eq!(gateway.act_on(&queued, "cancel", &json!({})).await, 200);
    let lead = gateway.lead(&id).await;
    assert_eq!((text_at(&lead, "/status"), text_at(&lead, "/reason")), ("unsold".to_owned(), "no_buyer".to_owned()));
    assert_eq!(text_at(&lead, "/candidates/1/outcome"), "untried");
    gateway.resume("contracts/one").await;
    gateway.finish().await;
    assert_eq!(stub.requests().len() + other.requests().len(), 0);
}

#[tokio::test]
async fn a_retry_after_an_unknown_attempt_that_is_cancelled_stays_unknown() {
    let stub = Stub::start(Behaviour::close_after_reading()).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "on_unknown = \"retry\"", ""));
    let gateway = world.start().await;
    let id = gateway.post(&lead("zoe@example.com")).await.at("/lead_id");
    let path = format!("/v1/deliveries?lead={id}");
    let list = gateway.eventually(&path, |list| text_at(list, "/items/0/due_at") != "null").await;
    assert_eq!(gateway.act_on(&list["items"][0], "cancel", &json!({})).await, 200);
    let unknown = gateway.last_delivery_becomes(&id, "unknown").await;
    assert_eq!(text_at(&unknown, "/due_at"), "null");
    assert_eq!(text_at(&gateway.lead(&id).await, "/status"), "pending");
    assert_eq!(gateway.act_on(&unknown, "redeliver", &json!({})).await, 409);
    assert_eq!(gateway.act_on(&unknown, "resolve", &json!({"verdict": "rejected"})).await, 200);
    gateway.lead_becomes(&id, "unsold").await;
    gateway.finish().await;
}

// Pause and resume

#[tokio::test]
async fn a_pause_governs_the_very_next_lead_survives_a_restart_and_its_end_wakes_what_waits() {
    let clock = Clock::manual(at("2026-11-21T09:30:00Z"));
    let (stub, other) = (Stub::start(yes()).await, Stub::start(yes()).await);
    let filters = |contract: &str| format!("{contract}\nfilters = {{ field = \"name\", exists = true }}");
    let world = World::new(&[buyer("one", &stub.url("/"), "", &filters(HOLD), ""), backup(&other)].concat());
    let mut gateway = world.start_inside(clock.clone()).await;
    for what in ["partners/one", "contracts/one"] {
        let before = stub.requests().len();
        assert_eq!(gateway.post_and_wait(&lead("before@example.com")).await.at("/status"), "sold");
        gateway.pause(what).await;
        let answer = gateway.post_and_wait(&lead("zoe@example.com")).await;
        assert_eq!(answer.status, 202, "{what}");
        let held = gateway.last_delivery_becomes(&answer.at("/lead_id"), "queued").await;
        assert_eq!(text_at(&held, "/held/reason"), "paused", "{what}");
        assert_eq!(text_at(&held, "/held/until"), "null", "{what}: nobody knows until when");
        gateway.stop().await;

        gateway = world.start_inside(clock.clone()).await;
        let held = gateway.last_delivery_becomes(&answer.at("/lead_id"), "queued").await;
        assert_eq!(text_at(&held, "/held/reason"), "paused", "{what} after a restart");
        assert_eq!(stub.requests().len(), before + 1, "{what}");
        gateway.resume(what).await;
        // The clock stands: only the bell can have woken it.
        gateway.lead_becomes(&answer.at("/lead_id"), "sold").await;
    }
    gateway.finish().await;
}

#[tokio::test]
async fn a_paused_contract_is_passed_over_by_default_and_waited_at_when_nobody_else_takes_the_lead() {
    let (stub, other) = (Stub::start(yes()).await, Stub::script([yes(), no()]).await);
    let world = World::new(
        &[buyer("one", &stub.url("/"), "", "", ""), buyer("two", &other.url("/"), "", "priority = 2", RULES)].concat(),
    );
    let gateway = world.start().await;
    gateway.pause("contracts/one").await;
    let sold = gateway.post_and_wait(&lead("zoe@example.com")).await;
    let sold = gateway.lead(&sold.at("/lead_id")).await;
    assert_eq!(states(&sold), ["skipped", "accepted"]);
    assert_eq!(text_at(&sold, "/deliveries/0/reason"), "paused");
    let waits = gateway.post_and_wait(&lead("ann@example.com")).await;
    assert_eq!(waits.status, 202);
    assert_eq!(states(&gateway.lead(&waits.at("/lead_id")).await), ["skipped", "rejected", "queued"]);
    gateway.resume("contracts/one").await;
    gateway.lead_becomes(&waits.at("/lead_id"), "sold").await;
    gateway.finish().await;
}

#[tokio::test]
async fn a_paused_source_is_refused_and_a_partners_pause_leaves_its_sources_alone() {
    let stub = Stub::start(yes()).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", ""));
    let gateway = world.start().await;
    gateway.pause("partners/media").await;
    assert_eq!(gateway.post_and_wait(&lead("a@example.com")).await.status, 200);
    gateway.pause("sources/acme").await;
    let refused = gateway.post(&lead("b@example.com")).await;
    assert_eq!((refused.status, &*refused.at("/type")), (403, "/problems/source-paused"));
    gateway.stop().await;
    let gateway = world.start().await;
    assert_eq!(gateway.post(&lead("b@example.com")).await.status, 403, "after a restart");
    gateway.resume("sources/acme").await;
    assert_eq!(gateway.post_and_wait(&lead("b@example.com")).await.status, 200);
    gateway.finish().await;
}

// gateway apply

#[tokio::test]
async fn applied_prices_filters_limits_and_templates_govern_the_next_lead_of_a_running_gateway() {
    let (stub, other) = (Stub::start(yes()).await, Stub::start(yes()).await);
    let network = |price: &str, contract: &str| {
        [buyer("one", &stub.url("/"), "", contract, "").replace("31.00", price), backup(&other)].concat()
    };
    let world = World::new(&network("31.00", "when_full = \"skip\""));
    let gateway = world.start().await;
    let sold = gateway.post_and_wait(&lead("a@example.com")).await;
    assert_eq!(text_at(&gateway.lead(&sold.at("/lead_id")).await, "/deliveries/0/price"), "31.00");

    world.write("network/buyers.toml", &network("40.00", "when_full = \"skip\"\nlimits = { daily = 2 }"));
    world.write("templates/lead.json.hbs", "{\"v\": 2, \"mail\": \"{{lead.email}}\"}");
    let shown = run(&world, 0, &["apply", "network", "--dry-run"]);
    assert!(shown.contains("~ contract one") && shown.contains("price: \"31.00\" → \"40.00\""), "{shown}");
    assert!(shown.contains("2 resources would change (dry run)"), "{shown}");
    let sold = gateway.post_and_wait(&lead("b@example.com")).await;
    assert_eq!(text_at(&gateway.lead(&sold.at("/lead_id")).await, "/deliveries/0/price"), "31.00", "only shown");

    let shown = run(&world, 0, &["apply", "network"]);
    assert!(shown.contains("2 resources applied"), "{shown}");
    // Two places are used up: the limit counts what was sold before it.
    let sold = gateway.post_and_wait(&lead("c@example.com")).await;
    let sold = gateway.lead(&sold.at("/lead_id")).await;
    assert_eq!(states(&sold), ["skipped", "accepted"]);
    assert_eq!(text_at(&sold, "/deliveries/0/reason"), "full");

    world.write("network/buyers.toml", &network("40.00", "filters = { field = \"name\", equals = \"nobody\" }"));
    run(&world, 0, &["apply", "network"]);
    let sold = gateway.post_and_wait(&lead("d@example.com")).await;
    assert_eq!(text_at(&gateway.lead(&sold.at("/lead_id")).await, "/candidates/0/contract"), "backup");

    world.write("network/buyers.toml", &network("41.00", ""));
    run(&world, 0, &["apply", "network/buyers.toml"]);
    let sold = gateway.post_and_wait(&lead("e@example.com")).await;
    assert_eq!(text_at(&gateway.lead(&sold.at("/lead_id")).await, "/deliveries/0/price"), "41.00");
    assert!(stub.requests().last().unwrap().text().starts_with("{\"v\": 2"));
    assert_eq!(run(&world, 0, &["apply", "network"]).trim(), "Nothing differs.");
    gateway.finish().await;
}

#[tokio::test]
async fn faults_in_the_files_refuse_everything_and_name_their_place() {
    let stub = Stub::start(yes()).await;
    let good = buyer("one", &stub.url("/"), "", "", "");
    let world = World::new(&good);
    let gateway = world.start().await;
    for (bad, place) in [
        (good.replace("price =", "prize ="), "buyers.toml line"),
        (good.replace("31.00", "cheap"), "contract one price"),
        (good.replace("lead.json.hbs", "missing.json.hbs"), "missing.json.hbs"),
        (good.replace("campaign = \"solar\"", "campaign = \"lunar\""), "there is no campaign `lunar`"),
    ] {
        world.write("network/buyers.toml", &bad);
        world.write("network/more.toml", &buyer("two", &stub.url("/"), "", "", ""));
        let shown = run(&world, 1, &["apply", "network"]);
        assert!(shown.contains(place), "{place}: {shown}");
        assert_eq!(gateway.get("/v1/contracts").await["items"].as_array().unwrap().len(), 1, "{place}");
    }
    world.write("network/buyers.toml", &good.replace("price =", "prize ="));
    let shown = run(&world, 1, &["apply", "network"]);
    assert!(shown.contains("unknown key `prize`; did you mean `price`?"), "{shown}");
    assert_eq!(gateway.post_and_wait(&lead("a@example.com")).await.at("/status"), "sold");
    gateway.finish().await;
}

#[tokio::test]
async fn what_the_files_do_not_have_is_deleted_by_prune_alone_and_what_waited_there_goes_to_the_next() {
    let (stub, other) = (Stub::start(yes()).await, Stub::start(yes()).await);
    let world = World::new(&[buyer("one", &stub.url("/"), "", HOLD, ""), backup(&other)].concat());
    let gateway = world.start().await;
    gateway.pause("contracts/one").await;
    let (id, _) = gateway.brought_to("zoe@example.com", "queued").await;
    world.write("network/buyers.toml", &backup(&other));

    let shown = run(&world, 0, &["apply", "network"]);
    assert!(shown.contains("contract one is only in the store; --prune deletes it"), "{shown}");
    assert_eq!(states(&gateway.lead(&id).await), ["queued"]);

    let shown = run(&world, 0, &["apply", "network", "--prune"]);
    assert!(shown.contains("- contract one") && shown.contains("- partner one"), "{shown}");
    let sold = gateway.lead_becomes(&id, "sold").await;
    assert_eq!(states(&sold), ["failed", "accepted"]);
    assert_eq!(text_at(&sold, "/deliveries/0/reason"), "the contract was deleted");
    gateway.finish().await;
    assert_eq!((stub.requests().len(), other.requests().len()), (0, 1));
}

#[tokio::test]
async fn what_was_changed_elsewhere_since_the_last_apply_is_overwritten_by_force_alone() {
    let stub = Stub::start(yes()).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", ""));
    world.start().await.stop().await;
    // As a console would.
    let store = rusqlite::Connection::open(world.path("data/gateway.db")).unwrap();
    let changed = store
        .execute(
            "UPDATE resource SET document = replace(document, '31.00', '35.00'), version = version + 1 WHERE id = 'one'
             AND kind = 'contract'",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    store
        .execute(
            "INSERT INTO resource_history (kind, id, version, document, changed_at, changed_by)
             SELECT kind, id, version, document, 0, 'console' FROM resource WHERE id = 'one' AND kind = 'contract'",
            [],
        )
        .unwrap();
    drop(store);
    let gateway = world.start().await;
    world.write("network/buyers.toml", &buyer("one", &stub.url("/"), "", "weight = 3", ""));
    let shown = run(&world, 1, &["apply", "network"]);
    assert!(shown.contains("contract one was changed elsewhere since the last apply"), "{shown}");
    assert!(shown.contains("--force"), "{shown}");
    assert_eq!(text_at(&gateway.get("/v1/contracts/one").await, "/price"), "35.00");
    run(&world, 0, &["apply", "network", "--force"]);
    assert_eq!(text_at(&gateway.get("/v1/contracts/one").await, "/price"), "31.00");
    run(&world, 0, &["apply", "network"]);
    gateway.finish().await;
}

#[tokio::test]
async fn a_queue_follows_its_contract_to_a_new_url() {
    let (wrong, right) = (Stub::start(Behaviour::reply(404, "")).await, Stub::start(yes()).await);
    let world = World::new(&buyer("one", &wrong.url("/"), "", HOLD, "retry = { first = \"1ms\" }"));
    let gateway = world.start().await;
    let first = gateway.post(&lead("a@example.com")).await.at("/lead_id");
    // Its breaker is open, and so it and the next one wait.
    wrong.wait_for_requests(1).await;
    let path = format!("/v1/deliveries?lead={first}");
    gateway.eventually(&path, |list| text_at(list, "/items/0/held/reason") == "breaker").await;
    let second = gateway.post_and_wait(&lead("b@example.com")).await.at("/lead_id");

    world.write("network/buyers.toml", &buyer("one", &right.url("/"), "", HOLD, "retry = { first = \"1ms\" }"));
    run(&world, 0, &["apply", "network"]);

    for lead in [first, second] {
        gateway.lead_becomes(&lead, "sold").await;
    }
    assert_eq!((wrong.requests().len(), right.requests().len()), (1, 2));
    gateway.finish().await;
}

#[tokio::test]
async fn apply_works_without_a_running_gateway_and_a_start_says_what_differs() {
    let stub = Stub::start(yes()).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", ""));
    world.start().await.stop().await;
    world.write("network/buyers.toml", &buyer("one", &stub.url("/"), "", "", "").replace("31.00", "32.00"));
    let gateway = world.start().await;
    assert_eq!(text_at(&gateway.get("/v1/contracts/one").await, "/price"), "31.00", "the store is used");
    gateway.stop().await;
    let shown = run(&world, 0, &["apply", "network"]);
    assert!(shown.contains("1 resource applied"), "{shown}");
    let gateway = world.start().await;
    assert_eq!(text_at(&gateway.get("/v1/contracts/one").await, "/price"), "32.00");
    let report: Value = serde_json::from_str(&run(&world, 0, &["--json", "apply", "network"])).unwrap();
    assert_eq!((&report["applied"], &report["changes"]), (&json!(0), &json!([])));
    gateway.finish().await;
}

// The other commands

#[tokio::test]
async fn a_tokens_name_is_given_once_with_or_without_a_running_gateway() {
    let world = World::new("");
    run(&world, 0, &["token", "new", "ann", "--role", "viewer"]);
    let again = run(&world, 1, &["token", "new", "ann", "--role", "admin"]);
    assert!(again.contains("there is a token called `ann` already; choose another name"), "{again}");
    let mut gateway = world.start().await;
    let again = run(&world, 1, &["token", "new", "ann", "--role", "admin"]);
    assert!(again.contains("there is a token called `ann` already; choose another name"), "{again}");
    gateway.token = run(&world, 0, &["token", "new", "bob", "--role", "support"]).lines().next().unwrap().to_owned();
    gateway.pause("sources/acme").await;
    let stored = all_bytes(&world.path("data"));
    let secret = gateway.token.as_bytes();
    assert!(!stored.windows(secret.len()).any(|part| part == secret), "only its hash is stored");
    gateway.stop().await;
}

#[test]
fn check_names_every_fault_with_its_line_or_key() {
    let world = World::new("");
    assert!(run(&world, 0, &["check"]).contains(": good. 1 campaigns, 1 partners, 1 sources, 0 contracts"));
    let broken = [
        buyer("price", "http://x.example/", "", "", "").replace("31.00", "cheap"),
        buyer("zone", "http://x.example/", "", "", "").replace("Europe/London", "Europe/Londres"),
        buyer("hours", "http://x.example/", "schedule = { mon = \"9-5\" }", "", ""),
        buyer("rule", "http://x.example/", "", "", "[contract.endpoint.response]\naccepted = { json = '$[' }"),
        buyer("template", "http://x.example/", "", "", "").replace("lead.json", "bad.json"),
        buyer("filter", "http://x.example/", "", "filters = { field = \"postcod\", exists = true }", ""),
    ];
    world.write("network/buyers.toml", &broken.concat());
    world.write("templates/bad.json.hbs", "{\n\"a\": \"{{lead.emial}}\"\n}");
    let shown = run(&world, 1, &["check"]);
    for fault in [
        "contract price price",
        "partner zone",
        "partner hours",
        "contract rule endpoint.response.accepted",
        "bad.json.hbs line 2",
        "is it `email`?",
    ] {
        assert!(shown.contains(fault), "{fault} is missing in\n{shown}");
    }
    let report: Value = serde_json::from_str(&run(&world, 1, &["--json", "check"])).unwrap();
    assert!(report["faults"].as_array().unwrap().len() >= 5, "{report:#}");

    world.write("network/buyers.toml", "[[partner]]\nid = \"x\"\nkind = \"buyer\"\ntimezon = \"UTC\"\n");
    world.write("network/other.toml", "[[campaign]\n");
    let shown = run(&world, 1, &["check"]);
    assert!(shown.contains("buyers.toml line 4: unknown key `timezon`; did you mean `timezone`?"), "{shown}");
    assert!(shown.contains("other.toml line 1"), "{shown}");
}

#[test]
fn an_unknown_configuration_key_names_the_nearest_and_the_environment_is_named_as_the_place() {
    let world = World::new("");
    world.configure("[leads]\nretension = \"90d\"");
    let shown = run(&world, 1, &["check"]);
    assert!(shown.contains("gateway.toml line ") && shown.contains("did you mean `retention`?"), "{shown}");
    world.configure("");
    let mut overridden = std::process::Command::new(env!("CARGO_BIN_EXE_gateway"));
    overridden.arg("--config").arg(world.path("gateway.toml")).arg("check").env("GATEWAY__LEADS__RETENSION", "90d");
    let (code, shown) = told(&overridden.output().unwrap());
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("GATEWAY__LEADS__RETENSION: unknown key"), "{shown}");
    assert!(shown.contains("did you mean `retention`?"), "{shown}");
    std::fs::remove_file(world.path("gateway.toml")).unwrap();
    let missing = run(&world, 1, &["check"]);
    assert!(missing.contains("gateway.toml cannot be read"), "{missing}");
}

#[test]
fn misuse_ends_with_2_and_says_what_is_right() {
    let world = World::new("");
    for (arguments, said) in [
        (&["aply", "network"][..], "similar subcommand"),
        (&["apply"], "<PATH>"),
        (&["apply", "network", "--prun"], "--prune"),
        (&["render", "one"], "<LEAD>"),
        (&["token", "new", "ann"], "--role"),
        (&["token", "new", "ann", "--role", "boss"], "use viewer, support or admin"),
        (&[], "Usage"),
    ] {
        let shown = run(&world, 2, arguments);
        assert!(shown.contains(said), "{arguments:?}: {shown}");
    }
    assert!(run(&world, 0, &["--help"]).contains("gateway demo"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn render_and_send_show_the_request_and_send_says_how_it_was_judged() {
    let (taker, refuser, lost) =
        (Stub::start(yes()).await, Stub::start(no()).await, Stub::start(Behaviour::close_after_reading()).await);
    let network = [
        buyer("taker", &taker.url("/leads"), "", "", &format!("headers = {{ X-Key = \"file:key\" }}\n{RULES}")),
        buyer("refuser", &refuser.url("/"), "limits = { daily = 1 }", "", RULES),
        buyer("lost", &lost.url("/"), "", "", ""),
    ];
    let world = World::new(&network.concat());
    world.write("key", "a-very-secret-key");
    world.write("lead.json", r#"{"email": "zoe@example.com", "name": "Zoë \"Z\" O'Neil"}"#);

    let shown = run(&world, 0, &["render", "taker", "lead.json"]);
    assert!(shown.starts_with(&format!("POST {}", taker.url("/leads"))), "{shown}");
    assert!(shown.contains("\"email\": \"zoe@example.com\", \"name\": \"Zoë \\\"Z\\\" O'Neil\""), "{shown}");
    assert!(!shown.contains("a-very-secret-key"), "{shown}");
    assert_eq!(taker.connections(), 0);

    let shown = run(&world, 0, &["send", "taker", "lead.json"]);
    for part in ["HTTP 200", "verdict   accepted", "rule accepted, json $.ok, found `true`"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(taker.requests()[0].header("x-key"), Some("a-very-secret-key"));
    assert!(run(&world, 1, &["send", "refuser", "lead.json"]).contains("verdict   rejected"));
    let shown = run(&world, 1, &["send", "lost", "lead.json"]);
    assert!(shown.contains("no reply after") && shown.contains("verdict   unknown"), "{shown}");
    let shown: Value = serde_json::from_str(&run(&world, 0, &["--json", "send", "taker", "lead.json"])).unwrap();
    assert_eq!((text_at(&shown, "/verdict"), text_at(&shown, "/response/status")), ("accepted".into(), "200".into()));

    assert!(run(&world, 1, &["render", "takr", "lead.json"]).contains("there are: lost, refuser, taker"));
    assert!(run(&world, 1, &["send", "taker", "nothing.json"]).contains("nothing.json cannot be read"));
    world.write("lead.json", r#"{"email": "nobody", "bill": "-3"}"#);
    let shown = run(&world, 1, &["send", "taker", "lead.json"]);
    assert!(shown.contains("  email: ") && shown.contains("  bill: "), "every wrong field: {shown}");
    assert_eq!(taker.requests().len(), 2);
    // Outside the store: it was never opened.
    assert!(!world.path("data").exists());
}

#[tokio::test]
async fn a_store_that_another_gateway_uses_is_refused_with_what_to_do() {
    let world = World::new("");
    let gateway = world.start().await;
    let shown = run(&world, 1, &["serve"]);
    assert!(shown.contains("another gateway uses it; stop that one"), "{shown}");
    gateway.finish().await;
}

#[test]
fn a_command_whose_reader_has_gone_or_whose_disk_is_full_does_not_panic() {
    let world = World::new("");
    let gateway = env!("CARGO_BIN_EXE_gateway");
    let config = world.path("gateway.toml").display().to_string();
    let ends = |to: std::process::Stdio| {
        let mut command = std::process::Command::new(gateway);
        command.args(["--config", &config, "check"]).stdout(to).stderr(std::process::Stdio::piped()).output().unwrap()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let gone = ends(writer.into());
    assert_eq!((gone.status.code(), String::from_utf8_lossy(&gone.stderr).into_owned()), (Some(0), String::new()));
    let full = ends(std::fs::File::options().write(true).open("/dev/full").unwrap().into());
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&full.stderr).contains("the output cannot be written"));
    // Nor where what is wrong cannot be told.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(gateway);
    let ended = command.args(["--config", "/nowhere.toml", "check"]).stderr(full).status().unwrap();
    assert_eq!(ended.code(), Some(1));
}

#[tokio::test]
async fn an_apply_reads_secrets_again_even_where_nothing_differs() {
    let stub = Stub::start(Behaviour::ok("yes")).await;
    let world = World::new("");
    world.write("partner-key", "first-of-the-partner\n");
    world.write("source-key", "first-key-of-the-source\n");
    let file = |name: &str| world.path(name).display().to_string();
    let headers = format!("headers = {{ X-Api-Key = \"file:{}\" }}\n", file("partner-key"));
    world.write("network/buyers.toml", &buyer("one", &stub.url("/"), "", "", &headers));
    let base = std::fs::read_to_string(world.path("network/base.toml")).unwrap();
    world.write("network/base.toml", &base.replace(KEY, &format!("file:{}", file("source-key"))));
    let gateway = world.start().await;
    let post = async |key: &str, email: &str| {
        let request = gateway.client.post(gateway.url("/v1/campaigns/solar/leads?wait=30")).bearer_auth(key);
        gateway.send(request.json_body(&json!({"email": email}))).await.status
    };
    assert_eq!(post("first-key-of-the-source", "a@example.com").await, 200);
    world.write("partner-key", "second-of-the-partner\n");
    world.write("source-key", "second-key-of-the-source\n");
    assert_eq!(run(&world, 0, &["apply", "network", "--dry-run"]).trim(), "Nothing differs.");
    assert_eq!(post("second-key-of-the-source", "b@example.com").await, 401, "a dry run changes nothing");
    assert_eq!(run(&world, 0, &["apply", "network"]).trim(), "Nothing differs.");
    assert_eq!(post("first-key-of-the-source", "b@example.com").await, 401);
    assert_eq!(post("second-key-of-the-source", "b@example.com").await, 200);
    let sent: Vec<_> = stub.requests().iter().map(|request| request.header("x-api-key").unwrap().to_owned()).collect();
    assert_eq!(sent, ["first-of-the-partner", "second-of-the-partner"]);
    gateway.finish().await;
}
