//! Several gateways on one PostgreSQL and one Redis: what one leaves another carries on with, what one is told governs
//! all, and a partner sees one gateway however many there are.

mod postgres_faults;
mod race;
mod redis_faults;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lead_gateway::clock;
use serde_json::{Value, json};

use crate::harness::{Gateway, JsonBody as _, KEY, World, buyer, lead, text_at};
use crate::partner_stub::{Behaviour, Step, Stub};
use crate::servers::postgres::Postgres;
use crate::servers::redis::Redis;
use crate::servers::state;

const OK: &str = r#"{"ok": true}"#;

/// How long a takeover may take, the slowness of a busy machine included (15 s is what is promised for an idle one).
const TAKEOVER: Duration = Duration::from_secs(25);

/// The servers that several gateways share.
struct Shared {
    postgres: Postgres,
    redis: Redis,
}

impl Shared {
    fn start() -> Self {
        Self { postgres: Postgres::start(), redis: Redis::start() }
    }

    fn world(&self, network: &str) -> World {
        World::shared(network, &self.postgres.database(), &format!("url = \"{}\"", self.redis.url()))
    }
}

fn signal(gateway: &Gateway, signal: &str) {
    let sent = Command::new("kill").arg(format!("-{signal}")).arg(gateway.pid().to_string()).status().unwrap();
    assert!(sent.success());
}

/// How often each delivery and each person reached the partner.
fn sent_to(stub: &Stub) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut deliveries, mut people) = (BTreeSet::new(), BTreeSet::new());
    for request in stub.requests() {
        let delivery = request.header("idempotency-key").unwrap().to_owned();
        assert!(deliveries.insert(delivery.clone()), "delivery {delivery} was sent twice");
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let email = text_at(&body, "/email");
        assert!(people.insert(email.clone()), "{email} was sent twice");
    }
    (deliveries, people)
}

#[tokio::test]
async fn a_second_gateway_beside_one_with_a_gate_of_its_own_is_refused() {
    let postgres = Postgres::start();
    let world = World::shared("", &postgres.database(), "url = \"memory\"");
    let first = world.start().await;
    let second = world.run(&["serve"]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("gate.url") && said.contains("memory") && said.contains("redis://"), "{said}");
    // One that was killed is no reason to refuse its successor, once its lease has ended.
    first.kill();
    let third = world.start().await;
    third.finish().await;
}

#[tokio::test]
async fn what_a_killed_gateway_left_waiting_is_delivered_by_another_and_what_was_open_is_unknown() {
    let shared = Shared::start();
    let hangs = Stub::start(Behaviour::hang_after_reading()).await;
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let network = [
        buyer(
            "hangs",
            &hangs.url("/"),
            "",
            "priority = 1\nfilters = { field = \"name\", equals = \"open\" }",
            "timeout = \"2s\"",
        ),
        buyer("takes", &takes.url("/"), "", "priority = 2\nwhen_paused = \"hold\"", ""),
    ];
    let world = shared.world(&network.concat());
    let (first, second) = (world.start().await, world.start().await);
    // They wait at the first gateway, for a pause …
    assert_eq!(first.act("/v1/partners/takes/pause", &json!({})).await.status, 200);
    let mut waiting = Vec::new();
    for number in 0..20 {
        waiting.push(first.post(&lead(&format!("w{number}@example.com"))).await.at("/lead_id"));
    }
    // … and one is open there when it is killed.
    let open = first.post(&json!({"email": "open@example.com", "name": "open"})).await.at("/lead_id");
    hangs.wait_for_requests(1).await;
    first.kill();
    let killed = clock::instant();
    assert_eq!(second.act("/v1/partners/takes/resume", &json!({})).await.status, 200);
    for id in &waiting {
        second.lead_becomes(id, "sold").await;
    }
    assert!(killed.elapsed() < TAKEOVER, "the takeover took {:?}", killed.elapsed());
    let open = second.last_delivery_becomes(&open, "unknown").await;
    assert_eq!(text_at(&open, "/attempts/0/class"), "crash");
    assert_eq!(sent_to(&takes).1.len(), waiting.len());
    assert_eq!(hangs.count(), 1);
    second.stop().await;
}

#[tokio::test]
async fn a_gateway_that_was_stopped_past_its_lease_sends_nothing_that_another_has() {
    let shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    // An attempt that is given up soon, so that the test need not wait long for its deadline.
    let world = shared.world(&buyer("takes", &takes.url("/"), "", "", "timeout = \"1s\"\nconnect_timeout = \"1s\""));
    let other = world.start().await;
    // Each is stopped around its third attempt: before its commit, between that and the sending, and with the request on
    // its way. What becomes of it meanwhile, and how the attempt ends.
    let (mut stopped, mut answers) = (Vec::new(), Vec::new());
    for (point, meanwhile, class) in [
        ("attempt.ticket", "accepted", "response"),
        ("attempt.committed", "unknown", "not_sent"),
        ("dispatch.handed_over", "unknown", "timeout"),
    ] {
        let mut command = world.command(&["serve"]);
        command.env("GATEWAY_TEST_POINT", format!("stop:{point}:3"));
        let gateway = world.start_as(command).await;
        let id = loop {
            // It may stop before it answers.
            let email = format!("{point}.{}@example.com", answers.len());
            let post = gateway.client.post(gateway.url("/v1/campaigns/solar/leads")).bearer_auth(KEY);
            answers.push(tokio::spawn(post.json_body(&lead(&email)).timeout(Duration::from_mins(3)).send()));
            let is_it = |lead: &Value| text_at(lead, "/fields/email") == email;
            let all = |page: &Value| page["items"].as_array().is_some_and(|all| all.iter().any(is_it));
            let page = other.eventually("/v1/leads?limit=50", all).await;
            let id = text_at(page["items"].as_array().unwrap().iter().find(|lead| is_it(lead)).unwrap(), "/lead_id");
            let is_sold = async || text_at(&other.lead(&id).await, "/status") == "sold";
            while state(gateway.pid()) != 'T' && !is_sold().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if state(gateway.pid()) == 'T' {
                break id;
            }
        };
        stopped.push((gateway, point, id, meanwhile, class));
    }
    for (_, point, id, meanwhile, _) in &stopped {
        // Another one takes it over; of an attempt that was committed it says, past its deadline, that nobody can know.
        let path = format!("/v1/leads/{id}");
        let taken_over = other.eventually(&path, |lead| {
            lead["deliveries"].as_array().is_some_and(|all| all.iter().any(|one| text_at(one, "/state") == *meanwhile))
        });
        tokio::time::timeout(Duration::from_mins(1), taken_over).await.unwrap_or_else(|_| panic!("stopped at {point}"));
    }
    for (gateway, ..) in &stopped {
        signal(gateway, "CONT");
    }
    // The one that goes on knows better: what was not sent may be sent now, by whoever has it; what has its time-out behind
    // it stays unknown.
    for (_, _, id, _, class) in &stopped {
        let delivery = text_at(&other.lead(id).await, "/deliveries/0/id");
        let ends = |delivery: &Value| text_at(delivery, "/attempts/0/class") == *class;
        other.eventually(&format!("/v1/deliveries/{delivery}"), ends).await;
        if *class != "timeout" {
            other.lead_becomes(id, "sold").await;
        }
    }
    for (gateway, point, ..) in stopped {
        // It works on, as one of the gateways that there are.
        let after = gateway.post_and_wait(&lead(&format!("{point}.after@example.com"))).await;
        assert_eq!(after.at("/status"), "sold", "stopped at {point}");
        gateway.stop().await;
    }
    let posted = answers.len();
    for answer in answers {
        assert_eq!(answer.await.unwrap().unwrap().status(), 202);
    }
    // Each once, whatever was going on.
    assert_eq!(sent_to(&takes).1.len(), posted + 3);
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pause_or_resume_whose_teller_died_reaches_every_gateway_all_the_same() {
    let shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let world = shared.world(&buyer("takes", &takes.url("/"), "", "when_paused = \"hold\"", ""));
    let (one, other) = (world.start().await, world.start().await);
    assert_eq!(one.act("/v1/contracts/takes/pause", &json!({})).await.status, 200);
    let held = other.post(&lead("held@example.com")).await.at("/lead_id");
    let paused = |page: &Value| text_at(page, "/items/0/held/reason") == "paused";
    other.eventually("/v1/deliveries?held=true", paused).await;
    // As whoever resumed it left it when he died: the database knows, and Redis does not.
    shared.postgres.psql(&world.store_url(), "DELETE FROM paused; UPDATE change SET pauses = pauses + 1");
    other.lead_becomes(&held, "sold").await;
    one.finish().await;
    other.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_that_cannot_use_the_newest_network_ends_nothing_that_it_takes_over() {
    let shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let world = shared.world("");
    let behind = world.start().await;
    let with_key = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("NEW_PARTNERS_KEY", "a-key-that-only-some-have");
        command
    };
    let able = world.start_as(with_key(&["serve"])).await;
    let endpoint = "headers = { X-Key = \"env:NEW_PARTNERS_KEY\" }";
    world.write("network/new.toml", &buyer("takes", &takes.url("/"), "", "when_paused = \"hold\"", endpoint));
    let applied = with_key(&["apply", world.path("network").to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&applied.stdout);
    assert!(applied.status.success() && said.contains("In force at 1 of 2 gateways"), "{applied:?}");
    assert_eq!(able.act("/v1/contracts/takes/pause", &json!({})).await.status, 200);
    let waits = able.post(&lead("waits@example.com")).await.at("/lead_id");
    able.kill();
    // It is not deleted: the one that has it now only does not know it.
    let began = clock::instant();
    while !world.log().contains("the newest network is not in force here") {
        assert!(began.elapsed() < TAKEOVER, "nobody took it over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(text_at(&behind.lead(&waits).await, "/deliveries/0/state"), "queued");
    let able = world.start_as(with_key(&["serve"])).await;
    assert_eq!(able.act("/v1/contracts/takes/resume", &json!({})).await.status, 200);
    behind.stop().await;
    able.lead_becomes(&waits, "sold").await;
    able.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_restart_fails_no_post_and_loses_no_lead() {
    let shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let world = shared.world(&buyer("takes", &takes.url("/"), "", "", ""));
    world.configure_server("stop_notice = \"1s\"");
    let mut gateways = vec![world.start().await, world.start().await];
    let addresses = Arc::new(std::sync::RwLock::new(gateways.iter().map(|one| one.address).collect::<Vec<_>>()));
    let (stop, posted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let client = gateways[0].client.clone();
    // Does what a proxy does: asks who is ready, five times a second, and posts to those.
    let ready = Arc::new(std::sync::RwLock::new(addresses.read().unwrap().clone()));
    let prober = tokio::spawn({
        let (addresses, ready, client, stop) =
            (Arc::clone(&addresses), Arc::clone(&ready), client.clone(), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let all = addresses.read().unwrap().clone();
                let mut answering = Vec::new();
                for address in all {
                    let answer = client.get(format!("http://{address}/readyz")).send().await;
                    if answer.is_ok_and(|answer| answer.status().is_success()) {
                        answering.push(address);
                    }
                }
                *ready.write().unwrap() = answering;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let posters: Vec<_> = (0..4)
        .map(|poster| {
            let (ready, client) = (Arc::clone(&ready), client.clone());
            let (stop, posted) = (Arc::clone(&stop), Arc::clone(&posted));
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for number in 0_usize.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let address = {
                        let ready = ready.read().unwrap();
                        ready[(poster + number) % ready.len()]
                    };
                    let url = format!("http://{address}/v1/campaigns/solar/leads");
                    let email = format!("r{poster}.{number}@example.com");
                    let answer = client.post(url).bearer_auth(KEY).json_body(&lead(&email)).send().await.unwrap();
                    assert_eq!(answer.status(), 202);
                    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
                    ids.push(text_at(&answer, "/lead_id"));
                    posted.fetch_add(1, Ordering::Relaxed);
                }
                ids
            })
        })
        .collect();
    let more = async |by: usize| {
        let wanted = posted.load(Ordering::Relaxed) + by;
        while posted.load(Ordering::Relaxed) < wanted {
            assert!(!posters.iter().any(tokio::task::JoinHandle::is_finished), "a post failed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    more(50).await;
    for _ in 0..2 {
        let old = gateways.remove(0);
        let new = world.start().await;
        addresses.write().unwrap().push(new.address);
        gateways.push(new);
        more(20).await;
        let gone = old.address;
        old.stop().await;
        addresses.write().unwrap().retain(|address| *address != gone);
        // Its lease is given up for good.
        let living = "SELECT count(*) FROM gateway WHERE owner = token AND until > clock_timestamp()";
        assert_eq!(shared.postgres.psql(&world.store_url(), living), gateways.len().to_string());
        more(50).await;
    }
    stop.store(true, Ordering::Relaxed);
    prober.await.unwrap();
    let mut ids = Vec::new();
    for poster in posters {
        ids.extend(poster.await.unwrap());
    }
    for id in &ids {
        gateways[0].lead_becomes(id, "sold").await;
    }
    assert_eq!(sent_to(&takes).1.len(), ids.len());
    for gateway in gateways {
        gateway.finish().await;
    }
}

#[tokio::test]
async fn what_one_gateway_is_told_governs_the_others_within_a_second() {
    let shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let world = shared.world(&buyer("takes", &takes.url("/"), "", "", ""));
    let (one, other) = (world.start().await, world.start().await);
    assert_eq!(other.post_and_wait(&lead("a@example.com")).await.at("/status"), "sold");

    // A pause governs the very next lead, wherever it comes in.
    assert_eq!(one.act("/v1/contracts/takes/pause", &json!({})).await.status, 200);
    let held = other.post(&lead("b@example.com")).await.at("/lead_id");
    let path = format!("/v1/leads/{held}");
    // Where the other gateway had not heard of it yet, the lead was offered, and waits in a second delivery.
    let waits = |lead: &Value| {
        let last = lead["deliveries"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
        text_at(&last, "/held/reason") == "paused"
    };
    other.eventually(&path, waits).await;
    assert_eq!(takes.count(), 1);
    assert_eq!(one.act("/v1/contracts/takes/resume", &json!({})).await.status, 200);
    let resumed = clock::instant();
    other.lead_becomes(&held, "sold").await;
    assert!(resumed.elapsed() < Duration::from_secs(5), "it took {:?}", resumed.elapsed());

    // A source, too.
    assert_eq!(one.act("/v1/sources/acme/pause", &json!({})).await.status, 200);
    let paused = clock::instant();
    while other.post(&lead("c@example.com")).await.status != 403 {
        assert!(paused.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(one.act("/v1/sources/acme/resume", &json!({})).await.status, 200);

    // The network, applied by a command that talks to the database alone; and a new token.
    world.write(
        "network/buyers.toml",
        &buyer("takes", &takes.url("/new"), "", "price = \"7.00\"", "").replacen("price = \"31.00\"\n", "", 1),
    );
    let applied = world.run(&["apply", world.path("network").to_str().unwrap()]);
    assert!(applied.status.success(), "{applied:?}");
    let applied = clock::instant();
    for gateway in [&one, &other] {
        gateway.eventually("/v1/contracts/takes", |contract| text_at(contract, "/price") == "7.00").await;
    }
    assert!(applied.elapsed() < Duration::from_secs(5), "it took {:?}", applied.elapsed());
    let token = world.new_token("newcomer", "viewer");
    let made = clock::instant();
    for gateway in [&one, &other] {
        while gateway.client.get(gateway.url("/v1/leads")).bearer_auth(&token).send().await.unwrap().status() != 200 {
            assert!(made.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_key_and_one_person_are_one_lead_whichever_gateways_they_come_to() {
    let shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let url = shared.postgres.database();
    let gate = format!("url = \"{}\"", shared.redis.url());
    let world = World::shared(&buyer("takes", &takes.url("/"), "", "", ""), &url, &gate);
    let base = std::fs::read_to_string(world.path("network/base.toml")).unwrap();
    let dedupe = "currency = \"GBP\"\ndedupe = [{ fields = [\"phone\"], window = \"30d\" }]";
    world.write("network/base.toml", &base.replacen("currency = \"GBP\"", dedupe, 1));
    let gateways = [world.start().await, world.start().await];
    for round in 0..20 {
        let body = json!({"email": format!("k{round}@example.com"), "phone": format!("+44207946{round:04}")});
        let posts = (0..8).map(|n| {
            let gateway = &gateways[n % 2];
            let request =
                gateway.client.post(gateway.url("/v1/campaigns/solar/leads")).bearer_auth(KEY).json_body(&body);
            // Four with one key, four without.
            gateway.send(if n < 4 { request.header("idempotency-key", format!("key-{round}")) } else { request })
        });
        let answers = futures_all(posts).await;
        let keyed: BTreeSet<String> =
            answers[..4].iter().filter(|answer| answer.status != 409).map(|answer| answer.at("/lead_id")).collect();
        assert!(keyed.len() <= 1, "one key gave several leads: {answers:?}");
        let fresh: BTreeSet<String> = answers
            .iter()
            .filter(|answer| answer.status < 400 && answer.at("/reason") != "duplicate")
            .map(|answer| answer.at("/lead_id"))
            .collect();
        assert_eq!(fresh.len(), 1, "one person is one lead: {answers:?}");
    }
    takes.wait_for_requests(20).await;
    for gateway in gateways {
        gateway.finish().await;
    }
    assert_eq!(takes.count(), 20);
}

async fn futures_all<F: Future + Send>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in pending.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *slot = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_partner_sees_no_more_open_requests_and_no_higher_rate_from_two_gateways_than_from_one() {
    let shared = Shared::start();
    let slow = Stub::start(Behaviour::ok(OK).after(Step::Pause(Duration::from_millis(100)))).await;
    let paced = Stub::start(Behaviour::ok(OK)).await;
    let only = |name: &str| format!("filters = {{ field = \"name\", equals = \"{name}\" }}");
    let world = shared.world(
        &[
            buyer("slow", &slow.url("/"), "", &only("slow"), "concurrency = 4"),
            buyer("paced", &paced.url("/"), "", &only("paced"), "rate = \"20/1s\""),
        ]
        .concat(),
    );
    let gateways = [world.start().await, world.start().await];
    for gateway in &gateways {
        // From the second heartbeat on each knows of the other.
        let path = gateway.url("/metrics");
        let began = clock::instant();
        loop {
            let metrics = gateway.client.get(&path).send().await.unwrap().text().await.unwrap();
            if metrics.lines().any(|line| line == "gateway_fleet_gateways 2") {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it never heard of the other");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let mut ids = Vec::new();
    for number in 0..40 {
        for name in ["slow", "paced"] {
            let lead = json!({"email": format!("{name}{number}@example.com"), "name": name});
            ids.push(gateways[number % 2].post(&lead).await.at("/lead_id"));
        }
    }
    for id in &ids {
        gateways[0].lead_becomes(id, "sold").await;
    }
    assert!(slow.most_at_once() <= 4, "{} were open at once", slow.most_at_once());
    assert!(slow.most_at_once() > 2, "both gateways send");
    let times: Vec<_> = paced.requests().iter().map(|request| request.at).collect();
    // What leaves at a pace may still arrive a little closer together.
    let window = Duration::from_millis(900);
    for (first, time) in times.iter().enumerate() {
        let within = times[first..].iter().take_while(|later| later.duration_since(*time) < window).count();
        assert!(within <= 20, "{within} requests within {window:?}");
    }
    for gateway in gateways {
        gateway.finish().await;
    }
}

#[tokio::test]
async fn what_a_command_makes_is_delivered_by_a_gateway_that_runs_or_by_the_next_that_starts() {
    let shared = Shared::start();
    let takes = Stub::start(Behaviour::ok(OK)).await;
    let world = shared.world(&buyer("takes", &takes.url("/"), "", "", ""));
    let gateway = world.start().await;
    let sold = gateway.post_and_wait(&lead("again@example.com")).await.at("/lead_id");
    let delivery = text_at(&gateway.lead(&sold).await, "/deliveries/0/id");
    let again = || {
        let output = world.run(&["redeliver", &delivery, "--reason", "the partner lost it"]);
        assert!(output.status.success(), "{output:?}");
    };
    again();
    takes.wait_for_more_requests(2, TAKEOVER).await;
    gateway.stop().await;
    again();
    let gateway = world.start().await;
    takes.wait_for_more_requests(3, TAKEOVER).await;
    let done = |lead: &Value| lead["deliveries"].as_array().is_some_and(|all| all.len() == 3);
    gateway.eventually(&format!("/v1/leads/{sold}"), done).await;
    gateway.eventually("/v1/deliveries?state=sending", |page| page["items"] == json!([])).await;
    gateway.finish().await;
}
