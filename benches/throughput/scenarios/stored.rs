//! Many deliveries in the store: finished ones of months, and unfinished ones of an outage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use lead_gateway::clock::{self, Clock};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Sizes;
use super::steady::{leads, simple};
use crate::clock::nanos;
use crate::figures::{median, quantile, ratio};
use crate::fill;
use crate::gateway::World;
use crate::lead::{Posts, Regions};
use crate::measure::{Bench, Length, Subject};
use crate::network::{self, Format};
use crate::report::{Check, Finding};
use crate::servers::Sink;
use crate::wire;

/// The finished leads are of so many days up to yesterday.
const DAYS: i64 = 60;
/// How often somebody searches during the load.
const SEARCH_EVERY: Duration = Duration::from_millis(100);

/// A store with many deliveries against an empty one, in turns; with somebody who searches for their leads.
pub fn large(bench: &Bench, sizes: &Sizes) -> anyhow::Result<Finding> {
    let sink = Sink::start("sink", false, Duration::ZERO)?;
    let network = network::simple(&sink.url(), Format::Json);
    let world = World::new(bench.scratch.path(), "large", &network, None, None)?;
    take_one(&world, false)?;
    let day = SignedDuration::from_hours(24);
    let now = Clock::system().now();
    let began = clock::instant();
    fill::copies(&world.directory.join("data/gateway.db"), sizes.stored, now - day * i32::try_from(DAYS)?, now - day)?;
    let filled = began.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(world.directory.join("data/gateway.db"))?.len();
    eprintln!("  {} deliveries written in {filled:.0} s, {} MiB", sizes.stored, bytes >> 20);

    let gateway = world.start("gateway")?;
    let (address, token) = (gateway.address, world.token()?);
    let full = Subject::new(vec![gateway], sink_for_loads(sink)?, world.books, leads());
    let empty = simple(bench, "empty", Format::Json, None)?;
    full.warm_up(bench)?;
    empty.warm_up(bench)?;
    let (mut some, mut none, mut took, mut rounds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 1..=bench.rounds {
        let one = empty.load(bench, Length::Seconds(bench.turn()), None)?;
        let stop = Arc::new(AtomicBool::new(false));
        let searching = std::thread::spawn({
            let (stop, token, stored, seed) = (Arc::clone(&stop), token.clone(), sizes.stored, number as u64);
            move || search(address, &token, stored, seed, &stop)
        });
        let other = full.load(bench, Length::Seconds(bench.turn()), None);
        stop.store(true, Ordering::Relaxed);
        let searches = searching.join().map_err(|_| anyhow::anyhow!("the searches broke off"))??;
        let other = other?;
        eprintln!(
            "  turn {number}: empty {:.0}/s, with {} {:.0}/s; {} searches, p95 {:.1} ms",
            one.delivered_rate,
            sizes.stored,
            other.delivered_rate,
            searches.len(),
            quantile(&searches, 0.95)
        );
        none.push(one.delivered_rate);
        some.push(other.delivered_rate);
        took.extend(searches);
        rounds.push(json!({ "empty": one, "full": other }));
    }
    let peak = full.peak_mib();
    full.end()?;
    empty.end()?;
    let mut finding = Finding::new("large");
    finding.checks.push(Check::at_least("rate / an empty store's", ratio(median(&some), median(&none)), 0.9, 1.0));
    finding.checks.push(Check::at_most("search p95, ms", quantile(&took, 0.95), 200.0, 50.0));
    finding.notes.push(format!(
        "{} deliveries of {DAYS} days, {} MiB: {:.0}/s, empty {:.0}/s; {} searches under load, p50 {:.1} ms",
        sizes.stored,
        bytes >> 20,
        median(&some),
        median(&none),
        took.len(),
        quantile(&took, 0.5)
    ));
    finding.details = json!({
        "stored": sizes.stored, "bytes": bytes, "fill_seconds": filled, "peak_mib": peak, "search_ms": took, "rounds": rounds,
    });
    Ok(finding)
}

/// The sample's delivery is none of the loads'.
fn sink_for_loads(sink: Sink) -> anyhow::Result<Sink> {
    wire::get(sink.address, "/-/reset", None)?;
    Ok(sink)
}

/// Milliseconds of searches for leads of the store by their e-mail addresses, each of which must be found.
fn search(
    address: std::net::SocketAddr,
    token: &str,
    stored: u64,
    seed: u64,
    stop: &AtomicBool,
) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = ((took.len() as u64 + 1) * 7_919 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let email = fill::email(number % stored.max(1));
        let began = clock::instant();
        let page: Value = wire::json(address, &format!("/v1/leads?email={email}"), Some(token))?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        anyhow::ensure!(
            page["items"].as_array().is_some_and(|items| items.len() == 1),
            "{email} was not found: {page}"
        );
        std::thread::sleep(SEARCH_EVERY);
    }
    Ok(took)
}

/// A start upon so many that wait, as after an outage.
pub fn start(bench: &Bench, sizes: &Sizes) -> anyhow::Result<Finding> {
    let sink = sink_for_loads(Sink::start("sink", false, Duration::ZERO)?)?;
    let network = network::simple(&sink.url(), Format::Json);
    let world = World::new(bench.scratch.path(), "start", &network, None, None)?;
    take_one(&world, true)?;
    let database = world.directory.join("data/gateway.db");
    let now = Clock::system().now();
    let minute = |minutes: i64| -> Timestamp { now - SignedDuration::from_mins(minutes) };
    let began = clock::instant();
    fill::copies(&database, sizes.waiting, minute(60), minute(2))?;
    rusqlite::Connection::open(&database)?.execute("DELETE FROM paused", [])?;
    eprintln!("  {} waiting deliveries written in {:.0} s", sizes.waiting, began.elapsed().as_secs_f64());

    let gateway = world.start("gateway")?;
    let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
    let ready = seconds(gateway.spawned, gateway.ready);
    let began = clock::instant();
    while sink.count()?.requests == 0 {
        anyhow::ensure!(began.elapsed() < Duration::from_mins(2), "nothing was delivered in two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
    let first = seconds(gateway.spawned, sink.count()?.first_at);
    let (from, counted) = (nanos(), sink.count()?.requests);
    while seconds(from, nanos()) < bench.turn() && sink.count()?.requests <= sizes.waiting {
        std::thread::sleep(Duration::from_millis(50));
    }
    let drained = sink.count()?.requests - counted;
    let rate = ratio(drained as f64, seconds(from, sink.count()?.last_at));
    let peak = crate::machine::peak_mib(gateway.process.pid());
    gateway.process.end()?;

    let report = sink.report()?;
    let states = world.books.states(Uuid::nil(), "")?;
    let count = |state: &str| states.iter().find(|(one, _)| one == state).map_or(0, |(_, count)| *count);
    anyhow::ensure!(report.distinct == report.requests, "DELIVERED TWICE: {report:?}");
    anyhow::ensure!(
        count("accepted") == report.distinct && count("queued") + report.distinct == sizes.waiting + 1,
        "LOST OR NOT RECORDED: {report:?}, in the store {states:?}"
    );
    let mut finding = Finding::new("start");
    finding.checks.push(Check::at_most("ready, s", ready, 5.0, 1.0));
    finding.checks.push(Check::at_most("first delivery, s", first, 2.0, 1.0));
    finding.notes.push(format!(
        "{} waiting: ready after {ready:.2} s, first delivery after {first:.2} s, then {rate:.0}/s; RSS {peak:.0} MiB",
        sizes.waiting
    ));
    finding.details =
        json!({ "waiting": sizes.waiting, "ready": ready, "first": first, "drain_rate": rate, "peak_mib": peak });
    Ok(finding)
}

/// One lead that the gateway itself took, to be copied: delivered, or waiting at a paused contract.
fn take_one(world: &World, paused: bool) -> anyhow::Result<()> {
    let gateway = world.start("gateway")?;
    if paused {
        let answer = wire::post(gateway.address, "/v1/contracts/buyer/pause", Some(&world.token()?), "{}")?;
        anyhow::ensure!(answer.status == 200, "the contract was not paused: {}", answer.body);
    }
    let target = leads().pop().context("no campaign")?;
    let mut post = Vec::new();
    Posts::new(std::slice::from_ref(&target), Regions { first: 0, count: 1 }, 1).write(0, nanos(), &mut post);
    let text = String::from_utf8(post)?;
    let (_, body) = text.split_once("\r\n\r\n").context("a post has a body")?;
    let answer = wire::post(gateway.address, &target.path, Some(&target.key), body)?;
    anyhow::ensure!(answer.status == 202, "the sample was answered {}: {}", answer.status, answer.body);
    let began = clock::instant();
    while !paused && world.books.is_working("")? {
        anyhow::ensure!(began.elapsed() < Duration::from_secs(30), "the sample was not delivered");
        std::thread::sleep(Duration::from_millis(10));
    }
    gateway.process.end()
}
