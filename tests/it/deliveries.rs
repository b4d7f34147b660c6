//! The pipeline end to end, against partners that behave in every bad way: what is tried again, what is never sent
//! twice, who gets the lead next, and what staff and sources see of it (promise 4; CONTRACT 6).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lead_gateway::clock::{self, Clock};
use lead_gateway::pipeline::Space;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{Gateway, JsonBody as _, KEY, World, at, buyer, text_at};
use crate::partner_stub::{Authority, Behaviour, Step, Stub, Unconnectable, refused};

/// Three tries in quick succession.
const HASTY: &str = "retry = { max_attempts = 3, first = \"1ms\" }";

/// For partners that cannot be reached.
const IMPATIENT: &str = "connect_timeout = \"200ms\"\ntimeout = \"300ms\"\n";

/// For partners that fall silent once they were sent something: that takes its time on a machine that is busy.
const PATIENT: &str = "connect_timeout = \"3s\"\ntimeout = \"3s\"\n";

/// What the partners' replies mean.
const RULES: &str = r"
[contract.endpoint.response]
accepted = { json = '$.ok', equals = true }
rejected = { json = '$.ok', equals = false }
duplicate = { json = '$.dup', equals = true }
reason = { json = '$.why' }
";

fn yes() -> Behaviour {
    Behaviour::ok(r#"{"ok": true}"#)
}

fn no() -> Behaviour {
    Behaviour::ok(r#"{"ok": false, "why": "not our area"}"#)
}

fn already() -> Behaviour {
    Behaviour::ok(r#"{"dup": true}"#)
}

/// A lead that only the contract of this name, and those without a filter, want.
fn lead_for(name: &str) -> Value {
    json!({"email": format!("{name}@example.com"), "name": name})
}

/// A contract that only wants the leads of its own name.
fn picky(id: &str, url: &str, contract: &str, endpoint: &str) -> String {
    let filters = format!("{contract}\nfilters = {{ field = \"name\", equals = \"{id}\" }}");
    buyer(id, url, "", &filters, endpoint)
}

/// Takes every lead that nobody before it took.
fn backup(stub: &Stub) -> String {
    buyer("backup", &stub.url("/"), "", "priority = 9", "")
}

fn items(list: &Value) -> Vec<Value> {
    list.as_array().unwrap().clone()
}

/// This text of each.
fn each(list: &Value, pointer: &str) -> Vec<String> {
    items(list).iter().map(|item| text_at(item, pointer)).collect()
}

impl Gateway {
    /// Posts without waiting; the lead's id.
    async fn take(&self, lead: &Value) -> String {
        let answer = self.post(lead).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        answer.at("/lead_id")
    }

    /// The lead's delivery to this contract, with its attempts, once it is in this state.
    async fn delivery_to(&self, contract: &str, lead: &str, state: &str) -> Value {
        let path = format!("/v1/deliveries?lead={lead}&contract={contract}");
        let list = self.eventually(&path, |list| text_at(list, "/items/0/state") == state).await;
        self.get(&format!("/v1/deliveries/{}", text_at(&list, "/items/0/id"))).await
    }
}

// What was not sent

#[tokio::test]
async fn what_was_not_sent_is_tried_again_and_when_the_attempts_are_used_up_the_next_candidate_gets_it() {
    let last = Stub::start(yes()).await;
    let untrusted = Stub::start_tls(yes(), Authority::new().serve(&["127.0.0.1"])).await;
    let plain = Stub::start(Behaviour::malformed()).await;
    let unconnectable = Unconnectable::start().await;
    let troubles = [
        ("refused", format!("http://{}/", refused().await)),
        ("silent", format!("http://{}/", unconnectable.address)),
        ("untrusted", untrusted.url("/")),
        ("not-tls", plain.url("/").replace("http:", "https:")),
        ("literal", "http://10.1.2.3/".to_owned()),
        ("hexadecimal", "http://0x0a010203/".to_owned()),
        ("metadata", "http://169.254.169.254/latest".to_owned()),
        ("nameless", "http://no-such-partner.invalid/".to_owned()),
    ];
    let impatient = format!("{IMPATIENT}{HASTY}");
    let contracts = troubles.iter().map(|(id, url)| picky(id, url, "", &impatient)).collect::<String>();
    let world = World::new(&(contracts + &backup(&last)));
    let gateway = world.start().await;

    let mut leads = Vec::new();
    for (id, _) in &troubles {
        leads.push((*id, gateway.take(&lead_for(id)).await));
    }
    for (id, lead) in &leads {
        let lead = gateway.lead_becomes(lead, "sold").await;
        assert_eq!(each(&lead["deliveries"], "/contract"), [*id, "backup"], "{id}");
        let failed = gateway.delivery_to(id, &text_at(&lead, "/lead_id"), "failed").await;
        assert_eq!(each(&failed["attempts"], "/number"), ["1", "2", "3"], "{id}");
        assert_eq!(each(&failed["attempts"], "/class"), ["not_sent"; 3], "{id}: {failed:#}");
        assert_eq!(text_at(&failed, "/verdict"), "retryable", "{id}");
        assert!(text_at(&failed, "/reason").starts_with("all 3 attempts were made; last: "), "{failed:#}");
    }
    assert_eq!(untrusted.requests().len(), 0);
    assert_eq!(last.requests().len(), troubles.len(), "once each");
    gateway.finish().await;
}

#[tokio::test]
async fn a_private_address_that_is_not_allowed_is_reached_neither_by_name_nor_as_a_literal() {
    let private = Stub::start(yes()).await;
    let port = private.address().port();
    let world = World::new(
        &[
            buyer("name", &format!("http://localhost:{port}/"), "", "priority = 1", HASTY),
            buyer("literal", &format!("http://127.0.0.1:{port}/"), "", "priority = 2", HASTY),
            buyer("mapped", &format!("http://[::ffff:127.0.0.1]:{port}/"), "", "priority = 3", HASTY),
        ]
        .concat(),
    );
    let config = std::fs::read_to_string(world.path("gateway.toml")).unwrap();
    world.write("gateway.toml", &config.replace("allow = [\"127.0.0.0/8\"]", "allow = []"));
    let gateway = world.start().await;

    let lead = gateway.take(&lead_for("zoe")).await;

    let lead = gateway.lead_becomes(&lead, "unsold").await;
    assert_eq!(each(&lead["candidates"], "/outcome"), ["failed", "failed", "failed"]);
    for delivery in items(&lead["deliveries"]) {
        assert!(text_at(&delivery, "/reason").contains("[egress] allow"), "{delivery:#}");
    }
    assert_eq!(private.connections(), 0);
    gateway.finish().await;
}

// What was sent, and then trouble

/// Every way in which it cannot be known whether the partner has the lead, and its class.
fn losses() -> Vec<(&'static str, Behaviour, &'static str)> {
    vec![
        ("reset-unread", Behaviour::reset_before_reading(), "reset"),
        ("reset-read", Behaviour::reset_after_reading(), "reset"),
        ("closed", Behaviour::close_after_reading(), "reset"),
        ("closed-mid-head", Behaviour::close_mid_head(), "reset"),
        ("hangs-at-once", Behaviour::hang_at_once(), "timeout"),
        ("hangs-after-reading", Behaviour::hang_after_reading(), "timeout"),
        ("hangs-mid-head", Behaviour::hang_mid_head(), "timeout"),
        ("hangs-mid-body", Behaviour::hang_mid_body("{\"ok\":"), "timeout"),
        ("closed-mid-body", Behaviour::close_mid_body("{\"ok\":"), "incomplete"),
        ("malformed", Behaviour::malformed(), "incomplete"),
        ("endless", Behaviour::endless_body(), "incomplete"),
        ("huge", Behaviour::huge(50 << 20), "incomplete"),
        ("bomb", Behaviour::gzip_bomb(8 << 20), "incomplete"),
        ("error-500", Behaviour::reply(500, "oops"), "response"),
        ("unexplained", Behaviour::ok("{\"status\": \"?\"}"), "response"),
    ]
}

/// A partner for each loss, then `then` for what comes after it; and a backup.
async fn lossy(on_unknown: &str, then: &[Behaviour]) -> (World, BTreeMap<&'static str, (Stub, &'static str)>, Stub) {
    let mut partners = BTreeMap::new();
    let mut network = String::new();
    for (id, loss, class) in losses() {
        let stub = Stub::script([loss].into_iter().chain(then.iter().cloned())).await;
        let timeout = if class == "timeout" { PATIENT } else { "" };
        let terms = format!("on_unknown = \"{on_unknown}\"");
        network += &picky(id, &stub.url("/"), &terms, &[timeout, HASTY, RULES].concat());
        partners.insert(id, (stub, class));
    }
    let last = Stub::start(yes()).await;
    (World::new(&(network + &backup(&last))), partners, last)
}

#[tokio::test]
async fn once_a_byte_was_sent_a_loss_is_unknown_and_under_review_nobody_gets_the_lead_again() {
    let (world, partners, last) = lossy("review", &[]).await;
    let gateway = world.start().await;
    let mut leads = Vec::new();
    for id in partners.keys() {
        leads.push((*id, gateway.take(&lead_for(id)).await));
    }
    for (id, lead) in &leads {
        let unknown = gateway.delivery_to(id, lead, "unknown").await;
        assert_eq!(each(&unknown["attempts"], "/class"), [partners[id].1], "{id}: {unknown:#}");
        assert_eq!(text_at(&unknown, "/verdict"), "unknown", "{id}");
        assert_ne!(text_at(&unknown, "/reason"), "null", "{id}");
        let lead = gateway.lead(lead).await;
        assert_eq!(text_at(&lead, "/status"), "pending", "{id}");
        assert_eq!(items(&lead["deliveries"]).len(), 1, "{id}: {lead:#}");
    }
    // A restart does not make them known.
    gateway.stop().await;
    world.start().await.stop().await;
    assert_eq!(last.requests().len(), 0);
    for (id, (stub, _)) in &partners {
        assert_eq!(stub.connections(), 1, "{id} was sent to again");
    }
}

#[tokio::test]
async fn under_retry_a_loss_is_sent_again_to_the_same_partner_with_the_same_key_and_never_two_at_a_time() {
    let (world, partners, last) = lossy("retry", &[yes()]).await;
    let gateway = world.start().await;
    let mut leads = Vec::new();
    for id in partners.keys() {
        leads.push((*id, gateway.take(&lead_for(id)).await));
    }
    for (id, lead) in &leads {
        let (stub, class) = &partners[id];
        let accepted = gateway.delivery_to(id, lead, "accepted").await;
        assert_eq!(each(&accepted["attempts"], "/class"), [*class, "response"], "{id}: {accepted:#}");
        assert_eq!(each(&accepted["attempts"], "/verdict"), ["unknown", "accepted"], "{id}");
        let ended: Timestamp = at(&text_at(&accepted, "/attempts/0/ended_at"));
        assert!(ended <= at(&text_at(&accepted, "/attempts/1/started_at")), "{id}: two attempts at the same time");
        for request in stub.requests() {
            assert_eq!(request.header("idempotency-key"), Some(&*text_at(&accepted, "/id")), "{id}");
        }
        assert_eq!(text_at(&gateway.lead(lead).await, "/status"), "sold", "{id}");
    }
    assert_eq!(last.requests().len(), 0);
    gateway.finish().await;
}

#[tokio::test]
async fn after_a_loss_only_a_yes_or_a_duplicate_settles_the_delivery() {
    let loss = Behaviour::close_after_reading;
    let cases = [
        ("yes", vec![loss(), yes()], "accepted", "accepted", 2),
        ("already", vec![loss(), already()], "accepted", "accepted", 2),
        ("no", vec![loss(), no()], "unknown", "rejected", 2),
        ("busy-then-no", vec![loss(), Behaviour::reply(503, ""), no()], "unknown", "rejected", 3),
        ("busy-to-the-end", vec![loss(), Behaviour::reply(503, "")], "unknown", "retryable", 3),
        ("lost-to-the-end", vec![loss()], "unknown", "unknown", 3),
    ];
    let last = Stub::start(yes()).await;
    let mut stubs = Vec::new();
    let mut network = backup(&last);
    for (id, script, ..) in &cases {
        let stub = Stub::script(script.clone()).await;
        network += &picky(id, &stub.url("/"), "on_unknown = \"retry\"", &format!("{HASTY}{RULES}"));
        stubs.push(stub);
    }
    let world = World::new(&network);
    let gateway = world.start().await;
    for (id, _, state, verdict, attempts) in &cases {
        let lead = gateway.take(&lead_for(id)).await;
        let ended = gateway.delivery_to(id, &lead, state).await;
        assert_eq!(text_at(&ended, "/verdict"), *verdict, "{id}");
        assert_eq!(text_at(&ended, "/attempt_count"), attempts.to_string(), "{id}");
        let status = if *state == "accepted" { "sold" } else { "pending" };
        assert_eq!(text_at(&gateway.lead(&lead).await, "/status"), status, "{id}");
    }
    gateway.stop().await;
    assert_eq!(last.requests().len(), 0, "nobody else is offered what a partner may have");
    for ((id, .., attempts), stub) in cases.iter().zip(&stubs) {
        assert_eq!(stub.requests().len(), *attempts, "{id}");
    }
}

#[tokio::test]
async fn under_next_a_loss_is_offered_to_the_next_candidate_and_a_waiting_source_hears_of_the_sale() {
    let (world, partners, last) = lossy("next", &[]).await;
    let gateway = world.start().await;
    for (id, (_, class)) in &partners {
        let answer = gateway.post_and_wait(&lead_for(id)).await;
        assert_eq!((answer.status, &*answer.at("/status")), (200, "sold"), "{id}: {}", answer.text);
        let lead = gateway.lead(&answer.at("/lead_id")).await;
        assert_eq!(each(&lead["deliveries"], "/state"), ["unknown", "accepted"], "{id}");
        let unknown = gateway.delivery_to(id, &answer.at("/lead_id"), "unknown").await;
        assert_eq!(each(&unknown["attempts"], "/class"), [*class], "{id}");
    }
    gateway.stop().await;
    assert_eq!(last.requests().len(), partners.len());
    for (id, (stub, _)) in &partners {
        assert_eq!(stub.connections(), 1, "{id} was sent to again");
    }
}

#[tokio::test]
async fn every_attempt_carries_the_deliverys_id_under_the_endpoints_name_for_it_or_not_at_all() {
    let busy = || Stub::script([Behaviour::reply(503, ""), yes()]);
    let (usual, named, without) = (busy().await, busy().await, busy().await);
    let world = World::new(
        &[
            picky("usual", &usual.url("/"), "", HASTY),
            picky("named", &named.url("/"), "", &format!("{HASTY}\nidempotency_header = \"X-Request-Ref\"")),
            picky("without", &without.url("/"), "", &format!("{HASTY}\nidempotency_header = false")),
        ]
        .concat(),
    );
    let gateway = world.start().await;
    for (id, stub, header) in
        [("usual", &usual, "Idempotency-Key"), ("named", &named, "X-Request-Ref"), ("without", &without, "")]
    {
        let lead = gateway.take(&lead_for(id)).await;
        let accepted = gateway.delivery_to(id, &lead, "accepted").await;
        assert_eq!(stub.requests().len(), 2, "{id}");
        for request in stub.requests() {
            for name in ["Idempotency-Key", "X-Request-Ref"] {
                let expected = (name == header).then(|| text_at(&accepted, "/id"));
                assert_eq!(request.header(name), expected.as_deref(), "{id} {name}");
            }
            assert!(request.text().contains(&text_at(&accepted, "/id")), "{id}: `delivery.id` in the template");
        }
    }
    gateway.finish().await;
}

// Statuses

#[tokio::test]
async fn a_partner_that_asks_for_patience_is_tried_again_when_it_says_and_not_before() {
    let start = at("2026-11-21T09:30:00Z");
    let clock = Clock::manual(start);
    let mut network = String::new();
    let mut stubs = Vec::new();
    for status in [408, 425, 429, 503] {
        let busy = Behaviour::reply_with(status, &[("Retry-After", "120")], "");
        let stub = Stub::script([busy, yes()]).await;
        network += &picky(&format!("s{status}"), &stub.url("/"), "", "");
        stubs.push((format!("s{status}"), stub));
    }
    let plain = Stub::script([Behaviour::reply(503, ""), Behaviour::reply(503, ""), yes()]).await;
    network += &picky("plain", &plain.url("/"), "", "");
    let world = World::new(&network);
    let gateway = world.start_inside(clock.clone()).await;

    let mut leads = Vec::new();
    for (id, _) in &stubs {
        let lead = gateway.take(&lead_for(id)).await;
        let waiting = gateway
            .eventually(&format!("/v1/deliveries?lead={lead}"), |list| text_at(list, "/items/0/due_at") != "null")
            .await;
        assert_eq!(text_at(&waiting, "/items/0/due_at"), "2026-11-21T09:32:00.000000Z", "{id}");
        assert_eq!(text_at(&waiting, "/items/0/state"), "queued", "{id}");
        assert_eq!(text_at(&waiting, "/items/0/verdict"), "retryable", "{id}");
        leads.push(lead);
    }
    let slow = gateway.take(&lead_for("plain")).await;
    let due = async |attempts: &str| {
        let path = format!("/v1/deliveries?lead={slow}");
        let waiting = gateway
            .eventually(&path, |list| {
                text_at(list, "/items/0/attempt_count") == attempts && text_at(list, "/items/0/due_at") != "null"
            })
            .await;
        at(&text_at(&waiting, "/items/0/due_at"))
    };
    let first = due("1").await;
    let pause = first.duration_since(start);
    assert!((8..=12).contains(&pause.as_secs()), "10 s, give or take a fifth: {pause}");

    clock.set(first - SignedDuration::from_millis(1));
    // Nothing to wait for: what must not come. The other queues' answers give it time.
    assert_eq!(text_at(&gateway.post_and_wait(&lead_for("nobody")).await.json(), "/status"), "unsold");
    assert_eq!(plain.requests().len(), 1);
    clock.set(first);
    let second = due("2").await;
    let pause = second.duration_since(first);
    assert!((16..=24).contains(&pause.as_secs()), "twice as long: {pause}");
    clock.set(second);
    gateway.lead_becomes(&slow, "sold").await;

    for (id, stub) in &stubs {
        assert_eq!(stub.requests().len(), 1, "{id} was asked too early");
    }
    clock.set(at("2026-11-21T09:32:00Z"));
    for lead in &leads {
        gateway.lead_becomes(lead, "sold").await;
    }
    gateway.finish().await;
}

#[tokio::test]
async fn a_misconfigured_endpoint_is_not_sent_to_again_until_a_probe_finds_it_well() {
    let elsewhere = Stub::start(yes()).await;
    for status in [401, 403, 404, 302] {
        let start = at("2026-11-21T09:30:00Z");
        let clock = Clock::manual(start);
        let wrong = match status {
            302 => Behaviour::redirect(&elsewhere.url("/")),
            status => Behaviour::reply(status, ""),
        };
        let stub = Stub::script([wrong.clone(), wrong, yes()]).await;
        let world = World::new(&buyer("one", &stub.url("/"), "", "when_paused = \"hold\"", ""));
        let gateway = world.start_inside(clock.clone()).await;

        let first = gateway.take(&lead_for("first")).await;
        let path = format!("/v1/deliveries?lead={first}");
        let tried = gateway.eventually(&path, |list| text_at(list, "/items/0/due_at") != "null").await;
        let attempts = gateway.get(&format!("/v1/deliveries/{}", text_at(&tried, "/items/0/id"))).await;
        assert_eq!(each(&attempts["attempts"], "/class"), ["configuration"], "{status}");
        assert_eq!(text_at(&attempts, "/verdict"), "retryable", "{status}");

        let answer = gateway.post_and_wait(&lead_for("second")).await;
        assert_eq!(answer.status, 202, "{status}: a held lead's source need not wait");
        let second = gateway.delivery_to("one", &answer.at("/lead_id"), "queued").await;
        assert_eq!(text_at(&second, "/held/reason"), "breaker", "{status}: {second:#}");
        assert_eq!(text_at(&second, "/held/until"), "2026-11-21T09:30:30.000000Z", "{status}");
        assert_eq!(text_at(&second, "/held/timezone"), "Europe/London", "{status}");

        // The first probe fails, and the breaker opens for twice as long; the second one closes it.
        clock.set(at("2026-11-21T09:30:30Z"));
        stub.wait_for_requests(2).await;
        let path = format!("/v1/deliveries/{}", text_at(&second, "/id"));
        gateway.eventually(&path, |second| text_at(second, "/held/until") == "2026-11-21T09:31:30.000000Z").await;
        assert_eq!(stub.requests().len(), 2, "{status}: one probe at a time");
        clock.set(at("2026-11-21T09:31:30Z"));
        gateway.lead_becomes(&first, "sold").await;
        gateway.lead_becomes(&answer.at("/lead_id"), "sold").await;
        assert_eq!(stub.requests().len(), 4, "{status}");
        gateway.finish().await;
    }
    assert_eq!(elsewhere.connections(), 0, "a redirect is not followed");
}

#[tokio::test]
async fn with_others_to_offer_them_to_leads_pass_a_broken_endpoint_over() {
    let (wrong, last) = (Stub::start(Behaviour::reply(404, "")).await, Stub::start(yes()).await);
    let world = World::new(&[buyer("wrong", &wrong.url("/"), "", "priority = 1", ""), backup(&last)].concat());
    let gateway = world.start().await;
    let first = gateway.post_and_wait(&lead_for("first")).await;
    assert_eq!((first.status, &*first.at("/status")), (200, "sold"), "an untried candidate comes first");

    let second = gateway.post_and_wait(&lead_for("second")).await;

    assert_eq!((second.status, &*second.at("/status")), (200, "sold"));
    let second = gateway.lead(&second.at("/lead_id")).await;
    assert_eq!(each(&second["deliveries"], "/state"), ["skipped", "accepted"]);
    assert_eq!(text_at(&second, "/deliveries/0/reason"), "paused", "as which an open breaker counts");
    assert_eq!(text_at(&second, "/deliveries/0/attempt_count"), "0");
    assert_eq!(wrong.requests().len(), 1);
    gateway.finish().await;
}

#[tokio::test]
async fn a_lead_whose_only_buyer_is_broken_waits_until_it_is_well_again() {
    let clock = Clock::manual(at("2026-11-21T09:30:00Z"));
    let stub = Stub::script([Behaviour::reply(404, ""), yes()]).await;
    // With every default, above all when_paused = "next".
    let world = World::new(&buyer("one", &stub.url("/"), "", "", ""));
    let gateway = world.start_inside(clock.clone()).await;
    let lead = gateway.take(&lead_for("first")).await;
    let path = format!("/v1/deliveries?lead={lead}");
    gateway.eventually(&path, |list| text_at(list, "/items/0/due_at") != "null").await;

    // Its retry falls due while the breaker is open: there is nobody else, and so it waits.
    clock.set(at("2026-11-21T09:30:15Z"));
    gateway.eventually(&path, |list| text_at(list, "/items/0/held/reason") == "breaker").await;
    assert_eq!(text_at(&gateway.lead(&lead).await, "/status"), "pending");

    clock.set(at("2026-11-21T09:30:30Z"));
    gateway.lead_becomes(&lead, "sold").await;
    assert_eq!(stub.requests().len(), 2);
    gateway.finish().await;
}

#[tokio::test]
async fn the_contract_says_what_a_5xx_and_an_unexplained_reply_mean() {
    let failing = Stub::script([Behaviour::reply(500, ""), yes()]).await;
    let unclear = Stub::start(Behaviour::ok("<html>Welcome</html>")).await;
    let last = Stub::start(yes()).await;
    let world = World::new(
        &[
            picky("failing", &failing.url("/"), "", &format!("{HASTY}\non_5xx = \"retry\"{RULES}")),
            picky("unclear", &unclear.url("/"), "", &format!("unmatched = \"rejected\"{RULES}")),
            backup(&last),
        ]
        .concat(),
    );
    let gateway = world.start().await;
    let lead = gateway.take(&lead_for("failing")).await;
    let accepted = gateway.delivery_to("failing", &lead, "accepted").await;
    assert_eq!(each(&accepted["attempts"], "/verdict"), ["retryable", "accepted"]);

    let answer = gateway.post_and_wait(&lead_for("unclear")).await;
    assert_eq!(answer.at("/status"), "sold");
    let lead = gateway.lead(&answer.at("/lead_id")).await;
    assert_eq!(each(&lead["deliveries"], "/state"), ["rejected", "accepted"]);
    gateway.finish().await;
}

#[tokio::test]
async fn a_soap_fault_is_judged_by_whom_it_blames_whatever_its_status() {
    let fault11 = |code: &str| {
        format!(
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault>\
             <faultcode>s:{code}</faultcode><faultstring>said so</faultstring></s:Fault></s:Body></s:Envelope>"
        )
    };
    let fault12 = |code: &str| {
        format!(
            "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"><s:Body><s:Fault><s:Code><s:Value>s:{code}\
             </s:Value></s:Code><s:Reason><s:Text xml:lang=\"en\">said so</s:Text></s:Reason></s:Fault></s:Body></s:Envelope>"
        )
    };
    let cases = [
        ("client", "soap11", fault11("Client"), "rejected", "response"),
        ("server", "soap11", fault11("Server"), "failed", "response"),
        ("version", "soap11", fault11("VersionMismatch"), "failed", "configuration"),
        ("sender", "soap12", fault12("Sender"), "rejected", "response"),
        ("receiver", "soap12", fault12("Receiver"), "failed", "response"),
        ("understand", "soap12", fault12("MustUnderstand"), "failed", "configuration"),
    ];
    let last = Stub::start(yes()).await;
    let mut network = backup(&last);
    let mut stubs = Vec::new();
    for (id, method, fault, ..) in &cases {
        let stub = Stub::start(Behaviour::reply_with(500, &[("Content-Type", "text/xml")], fault)).await;
        let contract = picky(id, &stub.url("/"), "", "action = \"urn:SubmitLead\"\nretry = { max_attempts = 1 }");
        network += &contract.replace("\"json\"", &format!("\"{method}\"")).replace("lead.json.hbs", "lead.xml.hbs");
        stubs.push(stub);
    }
    let world = World::new(&network);
    world.write("templates/lead.xml.hbs", "<Submit xmlns=\"urn:x\"><Email>{{lead.email}}</Email></Submit>");
    let gateway = world.start().await;
    for ((id, method, _, state, class), stub) in cases.iter().zip(&stubs) {
        let answer = gateway.post_and_wait(&lead_for(id)).await;
        assert_eq!(answer.at("/status"), "sold", "{id}: the next candidate has it");
        let ended = gateway.delivery_to(id, &answer.at("/lead_id"), state).await;
        assert_eq!(each(&ended["attempts"], "/class"), [*class], "{id}");
        assert!(text_at(&ended, "/reason").contains("said so"), "{id}: {ended:#}");
        let request = &stub.requests()[0];
        let (kind, action) = (request.header("content-type").unwrap(), request.header("soapaction"));
        match *method {
            "soap11" => assert_eq!((kind, action), ("text/xml; charset=utf-8", Some("\"urn:SubmitLead\""))),
            _ => assert!(kind.contains("action=\"urn:SubmitLead\"") && action.is_none(), "{kind}"),
        }
    }
    gateway.finish().await;
}

// What a reply brings

#[tokio::test]
async fn price_reference_and_redirect_of_the_reply_reach_those_they_are_for() {
    let stub = Stub::start(Behaviour::ok(
        r#"{"ok": true, "price": "44.50", "ref": "BR-77", "next": "https://partner.example/thanks?x=1&y=2"}"#,
    ))
    .await;
    let odd = Stub::start(Behaviour::ok(r#"{"ok": true, "price": "a lot"}"#)).await;
    let rules = format!(
        "{RULES}price = {{ json = '$.price' }}\nreference = {{ json = '$.ref' }}\nredirect_url = {{ json = '$.next' }}"
    );
    let world =
        World::new(&[picky("good", &stub.url("/"), "", &rules), picky("odd", &odd.url("/"), "", &rules)].concat());
    let gateway = world.start().await;

    let answer = gateway.post_and_wait(&lead_for("good")).await;

    assert_eq!((answer.status, &*answer.at("/status")), (200, "sold"));
    assert_eq!(answer.at("/redirect_url"), "https://partner.example/thanks?x=1&y=2");
    assert_eq!(answer.at("/payout"), "12.50");
    assert!(!answer.text.contains("44.50") && !answer.text.contains("BR-77"), "not the source's: {}", answer.text);
    let found = gateway.get("/v1/deliveries?reference=BR-77").await;
    assert_eq!(each(&found["items"], "/lead_id"), [answer.at("/lead_id")]);
    assert_eq!(text_at(&found, "/items/0/price"), "44.50");
    assert_eq!(gateway.get("/v1/deliveries?reference=BR-78").await["items"], json!([]));

    let answer = gateway.post_and_wait(&lead_for("odd")).await;
    let delivery = gateway.delivery_to("odd", &answer.at("/lead_id"), "accepted").await;
    assert_eq!(text_at(&delivery, "/price"), "31.00", "an unreadable price leaves the contract's");
    gateway.finish().await;
}

#[tokio::test]
async fn a_lead_that_cannot_be_rendered_is_not_attempted_and_goes_to_the_next() {
    let (stub, last) = (Stub::start(yes()).await, Stub::start(yes()).await);
    let network = buyer("broken", &stub.url("/"), "limits = { daily = 1 }", "", "");
    let world = World::new(&[network.replace("lead.json.hbs", "broken.json.hbs"), backup(&last)].concat());
    world.write("templates/broken.json.hbs", "[1\n{{#if lead.phone}}\n2\n{{/if}}\n]");
    let gateway = world.start().await;
    for n in 0..2 {
        let lead = json!({"email": format!("z{n}@example.com"), "phone": "020 7946 0000"});
        let answer = gateway.post_and_wait(&lead).await;
        assert_eq!((answer.status, &*answer.at("/status")), (200, "sold"), "{}", answer.text);
        let failed = gateway.delivery_to("broken", &answer.at("/lead_id"), "failed").await;
        assert!(text_at(&failed, "/reason").starts_with("broken.json.hbs line 2"), "{failed:#}");
        assert!(!text_at(&failed, "/reason").contains("7946"), "no values in a reason");
        assert_eq!((failed["attempts"].clone(), failed["attempt_count"].clone()), (json!([]), json!(0)));
    }
    // Its one place was not used up.
    let answer = gateway.post_and_wait(&lead_for("plain")).await;
    gateway.delivery_to("broken", &answer.at("/lead_id"), "accepted").await;
    gateway.finish().await;
}

// While a source waits

#[tokio::test]
async fn while_a_source_waits_untried_candidates_come_before_a_retry() {
    let (busy, second) = (Stub::start(Behaviour::reply(503, "")).await, Stub::start(yes()).await);
    let world = World::new(&[buyer("busy", &busy.url("/"), "", "", ""), backup(&second)].concat());
    let gateway = world.start().await;

    let answer = gateway.post_and_wait(&lead_for("waiting")).await;
    assert_eq!((answer.status, &*answer.at("/status")), (200, "sold"), "{}", answer.text);
    let failed = gateway.delivery_to("busy", &answer.at("/lead_id"), "failed").await;
    assert_eq!(text_at(&failed, "/due_at"), "null");
    assert_eq!(text_at(&failed, "/attempt_count"), "1");

    // Nobody waits for this one: it is tried again before anybody else is asked.
    let lead = gateway.take(&lead_for("patient")).await;
    let path = format!("/v1/deliveries?lead={lead}");
    gateway.eventually(&path, |list| text_at(list, "/items/0/due_at") != "null").await;
    assert_eq!(items(&gateway.lead(&lead).await["deliveries"]).len(), 1);
    assert_eq!(second.requests().len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn with_no_candidate_left_the_waiting_source_is_told_that_it_is_pending_and_the_retry_comes_in_time() {
    let clock = Clock::manual(at("2026-11-21T09:30:00Z"));
    let (no, busy) = (Stub::start(no()).await, Stub::script([Behaviour::reply(503, ""), yes()]).await);
    let world = World::new(
        &[
            buyer("first", &no.url("/"), "", "priority = 1", RULES),
            buyer("busy", &busy.url("/"), "", "priority = 2", ""),
        ]
        .concat(),
    );
    let gateway = world.start_inside(clock.clone()).await;
    let answer = gateway.post_and_wait(&lead_for("waiting")).await;
    assert_eq!((answer.status, &*answer.at("/status")), (202, "pending"), "{}", answer.text);
    let queued = gateway.delivery_to("busy", &answer.at("/lead_id"), "queued").await;
    clock.set(at(&text_at(&queued, "/due_at")));
    let lead = gateway.lead_becomes(&answer.at("/lead_id"), "sold").await;
    assert_eq!(each(&lead["deliveries"], "/state"), ["rejected", "accepted"]);
    assert_eq!(text_at(&lead, "/deliveries/0/reason"), "not our area");
    gateway.finish().await;
}

#[tokio::test]
async fn a_retry_is_not_given_up_for_a_candidate_that_is_only_passed_over() {
    let (release, held) = watch::channel(false);
    let busy = Stub::script([Behaviour::reply_with(503, &[("Retry-After", "1")], ""), yes()]).await;
    let slow = Stub::start(yes().after(Step::Until(held))).await;
    let shut = Stub::start(yes()).await;
    let world = World::with(
        "distribution = \"broadcast\"\nsell_to = 2",
        "",
        &[
            buyer("busy", &busy.url("/"), "", "priority = 1", "retry = { first = \"1ms\" }"),
            buyer("slow", &slow.url("/"), "", "priority = 2", ""),
            buyer("shut", &shut.url("/"), "", "priority = 3", ""),
        ]
        .concat(),
    );
    let gateway = world.start().await;
    assert_eq!(gateway.act("/v1/contracts/shut/pause", &json!({})).await.status, 200);
    let (client, url) = (gateway.client.clone(), gateway.url("/v1/campaigns/solar/leads?wait=30"));
    let waiting = tokio::spawn(client.post(url).bearer_auth(KEY).json_body(&lead_for("zoe")).send());
    slow.wait_for_requests(1).await;
    busy.wait_for_requests(2).await;
    gateway.eventually("/v1/deliveries?contract=busy", |list| text_at(list, "/items/0/state") == "accepted").await;
    release.send_replace(true);
    waiting.await.unwrap().unwrap();
    gateway.eventually("/v1/deliveries?contract=slow", |list| text_at(list, "/items/0/state") == "accepted").await;
    gateway.finish().await;
    assert_eq!(shut.requests().len(), 0);
}

// Many at once

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_partner_delays_nobody_else() {
    let slow = Stub::start(yes().after(Step::Pause(Duration::from_secs(2)))).await;
    let fast = Stub::start(yes()).await;
    let world = World::new(
        &[picky("slow", &slow.url("/"), "", "concurrency = 2"), picky("fast", &fast.url("/"), "", "")].concat(),
    );
    let gateway = world.start().await;
    for n in 0..4 {
        gateway.take(&json!({"email": format!("s{n}@example.com"), "name": "slow"})).await;
    }
    slow.wait_for_requests(2).await;
    for n in 0..50 {
        let answer = gateway.post_and_wait(&json!({"email": format!("f{n}@example.com"), "name": "fast"})).await;
        assert_eq!(answer.at("/status"), "sold");
    }
    let done = gateway.get("/v1/deliveries?contract=slow&state=accepted").await;
    assert_eq!((fast.requests().len(), done["items"].clone()), (50, json!([])), "all done before the slow ones");
    gateway.eventually("/v1/deliveries?contract=slow&state=accepted", |list| items(&list["items"]).len() == 4).await;
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partner_never_sees_more_open_requests_than_its_concurrency_nor_more_in_any_window_than_its_rate() {
    let (release, held) = watch::channel(false);
    let narrow = Stub::start(yes().after(Step::Until(held)).after(Step::Pause(Duration::from_millis(5)))).await;
    let paced = Stub::start(yes()).await;
    let world = World::new(
        &[
            picky("narrow", &narrow.url("/"), "", "concurrency = 3"),
            picky("paced", &paced.url("/"), "", "rate = \"40/1s\""),
        ]
        .concat(),
    );
    let gateway = world.start().await;
    for n in 0..100 {
        gateway.take(&json!({"email": format!("n{n}@example.com"), "name": "narrow"})).await;
        gateway.take(&json!({"email": format!("p{n}@example.com"), "name": "paced"})).await;
    }
    narrow.wait_for_requests(3).await;
    release.send_replace(true);
    for contract in ["narrow", "paced"] {
        let path = format!("/v1/deliveries?contract={contract}&state=accepted&limit=500");
        gateway.eventually(&path, |list| items(&list["items"]).len() == 100).await;
    }
    assert_eq!(narrow.most_at_once(), 3, "never more, and as many as may be");
    let times: Vec<_> = paced.requests().iter().map(|request| request.at).collect();
    // What leaves at a pace may still arrive a little closer together: give the window that much less.
    let window = Duration::from_millis(950);
    for (first, time) in times.iter().enumerate() {
        let within = times[first..].iter().take_while(|later| later.duration_since(*time) < window).count();
        assert!(within <= 40, "{within} requests within {window:?}");
    }
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_lead_before_silence_is_delivered_at_once() {
    let stub = Stub::start(yes()).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", "concurrency = 1"));
    let gateway = world.start().await;
    for n in 0..1000 {
        let began = clock::instant();
        let answer = gateway.post_and_wait(&lead_for(&format!("n{n}"))).await;
        assert_eq!((answer.status, &*answer.at("/status")), (200, "sold"), "lead {n}: {}", answer.text);
        assert!(began.elapsed() < Duration::from_secs(2), "lead {n} took {:?}: a lost wake-up?", began.elapsed());
    }
    assert_eq!(stub.requests().len(), 1000);
    gateway.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_survives_a_restart_and_is_delivered_once_and_in_the_order_in_which_it_came() {
    const LEADS: usize = 5_000;
    let (one, many) = (Stub::start(yes()).await, Stub::start(yes()).await);
    let hold = "when_paused = \"hold\"\nhold_for = \"7d\"";
    // One at a time shows the order, and takes its time; the rest goes the usual way.
    let world = World::new(
        &[
            picky("one", &one.url("/"), hold, "concurrency = 1"),
            buyer("many", &many.url("/"), "", &format!("priority = 2\n{hold}"), ""),
        ]
        .concat(),
    );
    let gateway = world.start().await;
    for contract in ["one", "many"] {
        let paused = gateway.act(&format!("/v1/contracts/{contract}/pause"), &json!({})).await;
        assert_eq!(paused.status, 200, "{}", paused.text);
    }
    let posters: Vec<_> = (0..16)
        .map(|poster| {
            let (client, url) = (gateway.client.clone(), gateway.url("/v1/campaigns/solar/leads"));
            tokio::spawn(async move {
                let mut received = BTreeMap::new();
                for n in (poster..LEADS).step_by(16) {
                    let email = format!("n{n}@example.com");
                    let lead = json!({"email": email, "name": if n.is_multiple_of(10) { "one" } else { "any" }});
                    let answer = client.post(&url).bearer_auth(KEY).json_body(&lead).send().await.unwrap();
                    assert_eq!(answer.status(), 202);
                    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
                    received.insert(email, at(&text_at(&answer, "/received_at")));
                }
                received
            })
        })
        .collect();
    let mut received = BTreeMap::new();
    for poster in posters {
        received.extend(poster.await.unwrap());
    }
    gateway.stop().await;

    let gateway = world.start().await;
    for contract in ["one", "many"] {
        let held = gateway.get(&format!("/v1/deliveries?held=true&limit=1&contract={contract}")).await;
        assert_eq!(text_at(&held, "/items/0/held/reason"), "paused");
    }
    assert_eq!(one.requests().len() + many.requests().len(), 0, "a pause outlives a restart");
    for contract in ["one", "many"] {
        assert_eq!(gateway.act(&format!("/v1/contracts/{contract}/resume"), &json!({})).await.status, 200);
    }
    for state in ["queued", "sending"] {
        gateway.eventually(&format!("/v1/deliveries?state={state}&limit=1"), |list| list["items"] == json!([])).await;
    }
    let emails = |stub: &Stub| {
        let email = |body: &[u8]| text_at(&serde_json::from_slice(body).unwrap(), "/email");
        stub.requests().iter().map(|request| email(&request.body)).collect::<Vec<_>>()
    };
    let (in_order, rest) = (emails(&one), emails(&many));
    assert_eq!((in_order.len(), rest.len()), (LEADS / 10, LEADS - LEADS / 10));
    assert_eq!(in_order.iter().chain(&rest).collect::<BTreeSet<_>>().len(), LEADS, "each once");
    assert!(in_order.iter().map(|email| received[email]).is_sorted(), "in the order of their arrival");
    gateway.finish().await;
}

// Stops and crashes

#[tokio::test]
async fn an_attempt_that_was_open_at_a_kill_is_unknown_and_follows_the_contracts_policy_after_the_restart() {
    let (held, release) = watch::channel(false);
    let slow = || Behaviour::hang_after_reading();
    let review = Stub::script([slow(), yes()]).await;
    let retry = Stub::script([slow(), already()]).await;
    let next = Stub::script([slow(), yes()]).await;
    let last = Stub::start(yes()).await;
    let endpoint = format!("retry = {{ first = \"1ms\" }}{RULES}");
    let world = World::new(
        &[
            picky("review", &review.url("/"), "", &endpoint),
            picky("retry", &retry.url("/"), "on_unknown = \"retry\"", &endpoint),
            picky("next", &next.url("/"), "on_unknown = \"next\"", &endpoint),
            backup(&last),
        ]
        .concat(),
    );
    let gateway = world.start().await;
    let mut leads = BTreeMap::new();
    for (id, stub) in [("review", &review), ("retry", &retry), ("next", &next)] {
        leads.insert(id, gateway.take(&lead_for(id)).await);
        stub.wait_for_requests(1).await;
    }
    gateway.kill();
    drop((held, release));

    let gateway = world.start().await;
    let unknown = gateway.delivery_to("review", &leads["review"], "unknown").await;
    assert_eq!(each(&unknown["attempts"], "/class"), ["crash"]);
    assert_eq!(text_at(&unknown, "/attempts/0/verdict"), "unknown");

    let accepted = gateway.delivery_to("retry", &leads["retry"], "accepted").await;
    assert_eq!(each(&accepted["attempts"], "/class"), ["crash", "response"]);
    assert_eq!(text_at(&gateway.lead(&leads["retry"]).await, "/status"), "sold", "a duplicate after an unknown one");

    let sold = gateway.lead_becomes(&leads["next"], "sold").await;
    assert_eq!(each(&sold["deliveries"], "/state"), ["unknown", "accepted"]);
    gateway.stop().await;
    assert_eq!((review.requests().len(), next.requests().len()), (1, 1), "nothing is sent again blindly");
    assert_eq!((retry.requests().len(), last.requests().len()), (2, 1));
}

#[tokio::test]
async fn a_restart_takes_only_the_attempts_of_the_killed_gateway_for_lost_and_not_those_it_begins_itself() {
    const OPEN: usize = 16;
    const LEADS: usize = 200;
    let hangs = (0..OPEN).map(|_| Behaviour::hang_after_reading());
    let stub = Stub::script(hangs.chain([yes().after(Step::Pause(Duration::from_millis(20)))])).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", &format!("concurrency = {OPEN}")));
    let gateway = world.start().await;
    for n in 0..LEADS {
        gateway.take(&lead_for(&format!("n{n}"))).await;
    }
    stub.wait_for_requests(OPEN).await;
    gateway.kill();

    let gateway = world.start().await;
    let count = async |state: &str, count: usize| {
        let path = format!("/v1/deliveries?state={state}&limit=500");
        gateway.eventually(&path, |list| items(&list["items"]).len() == count).await;
    };
    count("accepted", LEADS - OPEN).await;
    count("unknown", OPEN).await;
    gateway.stop().await;
    assert_eq!(stub.requests().len(), LEADS, "each once");
}

#[tokio::test]
async fn a_stop_lets_the_attempt_under_way_finish_and_the_next_start_carries_on_with_the_rest() {
    let (release, held) = watch::channel(false);
    let stub = Stub::script([yes().after(Step::Until(held)), yes()]).await;
    let world = World::new(&buyer("one", &stub.url("/"), "", "", "concurrency = 1"));
    let gateway = world.start().await;
    let mut leads = vec![gateway.take(&lead_for("first")).await];
    stub.wait_for_requests(1).await;
    for n in 0..3 {
        leads.push(gateway.take(&lead_for(&format!("n{n}"))).await);
    }
    let address = gateway.address;
    let stopping = tokio::spawn(gateway.stop());
    // It has heard of the stop once it takes no more connections.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!stopping.is_finished(), "it must wait for the attempt");
    release.send_replace(true);
    stopping.await.unwrap();
    assert_eq!(stub.requests().len(), 1, "no attempt is begun while stopping");

    let gateway = world.start().await;
    let first = gateway.delivery_to("one", &leads[0], "accepted").await;
    assert_eq!(each(&first["attempts"], "/class"), ["response"], "recorded before the end");
    for lead in &leads {
        gateway.lead_becomes(lead, "sold").await;
    }
    assert_eq!(stub.requests().len(), 4, "each once");
    gateway.finish().await;
}

#[tokio::test]
async fn the_next_may_be_sent_while_the_outcome_of_the_one_before_is_recorded() {
    let partner = Stub::start(yes()).await;
    let world = World::new(&buyer("bright", &partner.url("/"), "", "", "concurrency = 1"));
    let gateway = world.start_inside(Clock::manual(at("2026-06-15T11:00:00Z"))).await;
    let pipeline = &gateway.app().pipeline;
    let network = pipeline.directory.network();
    let lane = pipeline.lanes.lane(network.contract(&"bright".parse().unwrap()).unwrap());
    let now = pipeline.clock.now();
    let mut first = lane.permit(now).unwrap();
    assert!(lane.permit(now).is_none() && lane.space() == Space::Full);
    first.replied();
    // It is still under way, and counts among all that is.
    assert_eq!((lane.space(), pipeline.lanes.under_way()), (Space::Free, 1));
    let second = lane.permit(now).unwrap();
    assert_eq!((lane.space(), pipeline.lanes.under_way()), (Space::Full, 2));
    drop(first);
    assert_eq!((lane.space(), pipeline.lanes.under_way()), (Space::Full, 1));
    drop(second);
    assert_eq!((lane.space(), pipeline.lanes.under_way()), (Space::Free, 0));
    gateway.finish().await;
}
