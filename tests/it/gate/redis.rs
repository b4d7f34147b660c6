//! The gate that several gateways share: alone it passes the suite, and with others on one Redis, whatever happens to
//! that Redis, no more is granted than there are places, and no less than is asked for.

mod gateway;
mod servers;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use lead_gateway::clock::{self, Clock};
use lead_gateway::gate::{Answer, Gate, GateUnavailable, Paused, RedisGate, Servers, Settings, Ticket, Truth as _};
use lead_gateway::model::delivery::ShutReason;
use lead_gateway::model::id::ContractId;
use lead_gateway::model::limit::PlaceKey;

use super::books::{Books, Subject};
use super::{Network, at, network, suite};
use crate::servers::proxy::Proxy;
use crate::servers::redis::Redis;

/// Long enough that a busy machine breaks no circuit by itself.
const CALM: Duration = Duration::from_secs(20);

fn noon() -> Timestamp {
    at("2026-11-21T12:00:00Z") // a Saturday
}

fn settings(servers: Servers, prefix: &str, call_timeout: Duration) -> Settings {
    Settings {
        servers,
        username: None,
        password: None,
        ca_pem: None,
        prefix: prefix.to_owned(),
        call_timeout,
        reconcile_every: Duration::from_millis(200),
    }
}

async fn open(settings: Settings, books: &Arc<Books>, network: Network) -> Subject {
    let truth = Arc::clone(books);
    let gate = RedisGate::open(settings, truth, Clock::manual(noon())).await.unwrap();
    let gate = Gate::Redis(Box::new(gate));
    gate.install(network, 1).await;
    Subject::new(gate, Arc::clone(books))
}

#[test]
fn the_redis_gate_passes_the_suite() {
    let redis = Redis::start();
    let nth = AtomicUsize::new(0);
    suite::run(async |network| {
        // A gate of its own each, on the same server.
        let prefix = format!("suite{}", nth.fetch_add(1, Ordering::SeqCst));
        let mut settings = settings(Servers::One(redis.url()), &prefix, CALM);
        // The suite's places are granted by no store that could be asked.
        settings.reconcile_every = Duration::from_hours(1);
        open(settings, &Arc::default(), network).await
    });
}

const DAY: &str = "contract/c/d2026-11-21";
/// What has not come by then does not come.
const PATIENCE: Duration = Duration::from_mins(1);

fn c() -> ContractId {
    "c".parse().unwrap()
}

fn limited(daily: u64) -> Network {
    network("", &[("c", &format!("limits = {{ daily = {daily} }}"))])
}

fn one(redis: &Redis) -> Settings {
    settings(Servers::One(redis.url()), "t", CALM)
}

/// Waits until `done` says so.
async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = clock::instant() + PATIENCE;
    while !done().await {
        assert!(clock::instant() < deadline, "it did not come to pass: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the pipeline does for an attempt: the gate's ticket, the store's grant, and the gate told of it.
async fn attempt(gate: &Subject) -> Result<Ticket, Option<ShutReason>> {
    match gate.take(&c(), noon(), false).await {
        Ok(Answer::Open(ticket)) => match gate.books.grant(&ticket) {
            Ok(()) => {
                gate.made(&ticket);
                Ok(ticket)
            }
            Err(counts) => {
                gate.hand_back(&ticket, &counts);
                Err(None)
            }
        },
        Ok(Answer::Shut(shut)) => Err(Some(shut.reason)),
        Err(_) => Err(None),
    }
}

/// What the pipeline does with a "full" that matters: it asks the store.
async fn confirm(gate: &Subject) {
    let key = [PlaceKey::from_text(DAY)];
    let as_of = gate.as_of(&key).await;
    let held: HashMap<PlaceKey, u64> = gate.books.counts(key.to_vec()).await.unwrap().into_iter().collect();
    let held: Vec<(PlaceKey, u64)> = key.iter().map(|key| (key.clone(), held.get(key).copied().unwrap_or(0))).collect();
    gate.reconcile(&held, as_of).await;
}

/// Everybody wants one, all the time, a third of all attempts is rejected, and in the end every place is taken.
async fn sell_out(gates: &[Arc<Subject>], limit: u64) {
    let books = Arc::clone(&gates[0].books);
    let deadline = clock::instant() + PATIENCE;
    let mut sellers = tokio::task::JoinSet::new();
    for nth in 0..gates.len() * 8 {
        let (gate, books) = (Arc::clone(&gates[nth % gates.len()]), Arc::clone(&books));
        sellers.spawn(async move {
            let mut turn = nth;
            while books.used(DAY) < limit {
                assert!(clock::instant() < deadline, "short: {} of {limit} were taken", books.used(DAY));
                turn += 1;
                match attempt(&gate).await {
                    Ok(ticket) if turn.is_multiple_of(3) => {
                        books.give_back(&ticket.places);
                        gate.settle(&ticket.places, true);
                    }
                    Ok(_) => {}
                    Err(Some(ShutReason::Full)) => confirm(&gate).await,
                    Err(_) => {}
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    while let Some(ended) = sellers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(books.used(DAY), limit);
}

/// When all is quiet, what Redis has is what the store has.
async fn agree(gates: &[Arc<Subject>], redis: &Redis) {
    eventually("Redis has what the store has", async || {
        for gate in gates {
            // Asking makes it look.
            let _ = gate.look(&c(), noon()).await;
        }
        let counted = redis.command(&["GET", &format!("t:{{brightroof}}:{DAY}")]);
        counted.is_empty() || counted == gates[0].books.used(DAY).to_string()
    })
    .await;
}

/// A load on two gates while `harm` is done to what is between them and Redis, or to Redis.
async fn harmed(settings: Settings, mut harm: impl AsyncFnMut(usize)) -> Vec<Arc<Subject>> {
    const LIMIT: u64 = 400;
    let books = Arc::default();
    let mut gates = Vec::new();
    for _ in 0..2 {
        gates.push(Arc::new(open(settings.clone(), &books, limited(LIMIT)).await));
    }
    let over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (gates, over) = (gates.clone(), Arc::clone(&over));
        async move {
            sell_out(&gates, LIMIT).await;
            over.store(true, Ordering::SeqCst);
        }
    });
    let mut nth = 0;
    while !over.load(Ordering::SeqCst) && !load.is_finished() {
        harm(nth).await;
        nth += 1;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    load.await.unwrap();
    assert!(nth > 0, "no harm was done");
    gates
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_race_for_a_limit_and_the_store_never_has_to_refuse() {
    let redis = Redis::start();
    for limit in [1, 7, 1000] {
        let books = Arc::default();
        let settings = settings(Servers::One(redis.url()), &format!("race{limit}"), CALM);
        let settings = Settings { reconcile_every: Duration::from_hours(1), ..settings };
        let mut gates = Vec::new();
        for _ in 0..2 {
            gates.push(Arc::new(open(settings.clone(), &books, limited(limit)).await));
        }
        // Both have looked before the race, so that neither doubts what it finds during it.
        for gate in &gates {
            if let Ok(ticket) = attempt(gate).await {
                books.give_back(&ticket.places);
                gate.settle(&ticket.places, true);
                gate.flush().await;
            }
        }
        let mut takers = tokio::task::JoinSet::new();
        for nth in 0..64 {
            let gate = Arc::clone(&gates[nth % 2]);
            takers.spawn(async move {
                let mut taken = 0;
                for _ in 0..40 {
                    taken += u64::from(attempt(&gate).await.is_ok());
                }
                taken
            });
        }
        let mut taken = 0;
        while let Some(ended) = takers.join_next().await {
            taken += ended.unwrap();
        }
        assert_eq!((taken, books.used(DAY)), (limit, limit));
        assert_eq!(books.refusals.load(Ordering::SeqCst), 0, "a gate let more through than there were places");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_everything_again_and_again_costs_no_place() {
    let redis = Redis::start();
    let gates = harmed(one(&redis), async |_| drop(redis.command(&["FLUSHALL"]))).await;
    agree(&gates, &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_single_keys_and_scripts_costs_no_place() {
    let redis = Redis::start();
    let gates = harmed(one(&redis), async |nth| {
        redis.command(&["SCRIPT", "FLUSH"]);
        // As eviction would: whichever it is.
        let keys = redis.command(&["KEYS", "t:*"]);
        if let Some(key) = keys.lines().nth(nth % keys.lines().count().max(1)) {
            redis.command(&["DEL", key]);
        }
    })
    .await;
    agree(&gates, &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_and_comes_back_empty_costs_no_place() {
    let mut redis = Redis::start();
    let settings = Settings { call_timeout: Duration::from_millis(250), ..one(&redis) };
    let gates = harmed(settings, async |nth| {
        if nth < 3 {
            redis.kill();
            tokio::time::sleep(Duration::from_millis(50)).await;
            redis.restart();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    agree(&gates, &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_and_replies_that_are_late_or_lost_cost_no_place() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port).await;
    let settings =
        Settings { call_timeout: Duration::from_millis(250), ..settings(Servers::One(proxy.url()), "t", CALM) };
    let gates = harmed(settings, async |nth| match nth % 4 {
        0 => proxy.cut(),
        1 => {
            // What was asked is done, and nobody hears of it.
            proxy.mute(true);
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.cut();
            proxy.mute(false);
        }
        2 => {
            proxy.close(true);
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.close(false);
        }
        _ => {
            proxy.delay(Duration::from_millis(400));
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.delay(Duration::ZERO);
        }
    })
    .await;
    eventually("Redis is there again", async || gates.iter().all(|gate| gate.is_up())).await;
    agree(&gates, &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_is_one_round_trip_and_a_look_at_an_open_contract_none() {
    let redis = Redis::start();
    let books = Arc::new(Books::default());
    let settings = Settings { reconcile_every: Duration::from_hours(1), ..one(&redis) };
    let gate = open(settings, &books, limited(5)).await;
    let tickets = [attempt(&gate).await.unwrap(), attempt(&gate).await.unwrap(), attempt(&gate).await.unwrap()];
    // From here on Redis knows the scripts.
    books.give_back(&tickets[0].places);
    gate.settle(&tickets[0].places, true);
    gate.flush().await;
    let calls = || {
        let stats = redis.command(&["INFO", "commandstats"]);
        let of = |line: &str| line.split_once("calls=").and_then(|(_, n)| n.split(',').next()?.parse::<u64>().ok());
        // What asks: the probe of the connection is a SET of its own.
        ["cmdstat_evalsha:", "cmdstat_eval:", "cmdstat_mget:"]
            .iter()
            .filter_map(|name| stats.lines().find(|line| line.starts_with(name)).and_then(of))
            .sum::<u64>()
            // Within a script.
            - stats.lines().find(|line| line.starts_with("cmdstat_mget:")).and_then(of).unwrap_or(0)
    };
    let before = calls();
    for _ in 0..3 {
        assert_eq!(gate.look(&c(), noon()).await.unwrap(), None);
        attempt(&gate).await.unwrap();
    }
    assert_eq!(calls() - before, 3);
    // It is full, and that is asked every time, lest another gateway have given one back.
    assert!(gate.look(&c(), noon()).await.unwrap().is_some());
    assert_eq!(calls() - before, 4);
    // An attempt's places are told of behind its back, several in one round trip.
    gate.settle(&tickets[1].places, true);
    gate.flush().await;
    assert_eq!(calls() - before, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_and_a_limit_govern_the_next_take_of_every_gateway() {
    let redis = Redis::start();
    let books = Arc::new(Books::default());
    books.version.store(1, Ordering::SeqCst);
    let here = open(one(&redis), &books, limited(5)).await;
    let there = open(one(&redis), &books, limited(5)).await;
    attempt(&there).await.unwrap();
    for who in [Paused::Contract(c()), Paused::Partner("brightroof".parse().unwrap())] {
        here.set_paused(who.clone(), true).await;
        assert_eq!(attempt(&there).await.unwrap_err(), Some(ShutReason::Paused));
        assert_eq!(there.look(&c(), noon()).await.unwrap().map(|shut| shut.reason), Some(ShutReason::Paused));
        here.set_paused(who, false).await;
        attempt(&there).await.unwrap();
    }
    // Three are taken. One gateway has the new network, the other has yet to hear of it.
    books.version.store(2, Ordering::SeqCst);
    here.install(limited(3), 2).await;
    assert_eq!(there.take(&c(), noon(), false).await, Err(GateUnavailable::Behind { mine: 1, theirs: 2 }));
    assert_eq!(attempt(&here).await.unwrap_err(), Some(ShutReason::Full));
    there.install(limited(3), 2).await;
    assert_eq!(attempt(&there).await.unwrap_err(), Some(ShutReason::Full));
    // Hours, too; and where Redis has forgotten everything, an old network is not loaded into it again.
    books.version.store(3, Ordering::SeqCst);
    here.install(network("schedule = { mon = \"09:00-17:00\" }", &[("c", "limits = { daily = 9 }")]), 3).await;
    redis.command(&["FLUSHALL"]);
    assert_eq!(there.take(&c(), noon(), false).await, Err(GateUnavailable::Behind { mine: 2, theirs: 3 }));
    assert_eq!(attempt(&here).await.unwrap_err(), Some(ShutReason::Closed));
    // A store that was restored has an older network than Redis: it is the store that counts.
    books.version.store(1, Ordering::SeqCst);
    let restored = open(one(&redis), &books, limited(9)).await;
    attempt(&restored).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_store_decides_and_nobody_waits_twice() {
    let redis = Redis::start();
    let books = Arc::default();
    let settings = Settings { call_timeout: Duration::from_millis(500), ..one(&redis) };
    let gate = open(settings.clone(), &books, limited(60)).await;
    attempt(&gate).await.unwrap();
    redis.stop();
    let began = clock::instant();
    for _ in 0..59 {
        attempt(&gate).await.unwrap();
    }
    // One waits for the time-out. Were it each, it would be half a minute.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert!(!gate.is_up());
    assert_eq!(attempt(&gate).await.unwrap_err(), Some(ShutReason::Full));
    redis.go_on();
    eventually("Redis is there again", async || gate.is_up()).await;
    let gates = [Arc::new(gate)];
    agree(&gates, &redis).await;
    assert_eq!(attempt(&gates[0]).await.unwrap_err(), Some(ShutReason::Full));
    // A gateway starts without it, too.
    redis.stop();
    let late = open(settings, &books, limited(60)).await;
    assert!(!late.is_up());
    assert_eq!(attempt(&late).await.unwrap_err(), None, "only the store knows that it is full");
    assert_eq!(attempt(&late).await.unwrap_err(), Some(ShutReason::Full));
    redis.go_on();
    eventually("Redis is there again", async || late.is_up()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_told_is_told_when_redis_is_there_again() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port).await;
    let books = Arc::new(Books::default());
    // Only what is owed may bring it right here.
    let calm = |servers| Settings { reconcile_every: Duration::from_hours(1), ..settings(servers, "t", CALM) };
    let cut_off = open(calm(Servers::One(proxy.url())), &books, limited(1)).await;
    let other = open(calm(Servers::One(redis.url())), &books, limited(1)).await;
    let ticket = attempt(&cut_off).await.unwrap();
    proxy.close(true);
    eventually("the connection's end is seen", async || !cut_off.is_up()).await;
    books.give_back(&ticket.places);
    cut_off.settle(&ticket.places, true);
    cut_off.set_paused(Paused::Contract(c()), true).await;
    proxy.close(false);
    eventually("the pause is known", async || attempt(&other).await == Err(Some(ShutReason::Paused))).await;
    cut_off.set_paused(Paused::Contract(c()), false).await;
    eventually("the place is free", async || attempt(&other).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tickets_of_a_gateway_that_was_killed_come_free_by_themselves() {
    let redis = Redis::start();
    let books = Arc::default();
    let killed = open(one(&redis), &books, limited(3)).await;
    let other = open(one(&redis), &books, limited(3)).await;
    // It has asked before, so that nothing is loaded anew.
    attempt(&other).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(killed.take(&c(), noon(), false).await.unwrap(), Answer::Open(_)));
    }
    drop(killed);
    assert_eq!(attempt(&other).await.unwrap_err(), Some(ShutReason::Full));
    eventually("the two are free", async || attempt(&other).await.is_ok()).await;
    attempt(&other).await.unwrap();
    assert_eq!(books.used(DAY), 3);
}
