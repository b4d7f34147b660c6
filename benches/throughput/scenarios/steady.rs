//! One partner, and as much as goes: measured in turns with nginx.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::Sizes;
use crate::figures::median;
use crate::gateway::World;
use crate::lead::Target;
use crate::machine;
use crate::measure::{Bench, Length, Subject, in_turns};
use crate::network::{self, Format};
use crate::postgres::Postgres;
use crate::report::{Check, Finding};
use crate::servers::{Redis, Sink};

/// How long a post waits for its outcome, in the scenario that waits.
const WAIT: &str = "?wait=30";
/// The load that finds the steady rate, where no scenario before has measured it.
const FINDING_SECONDS: f64 = 10.0;

pub fn asynchronous(bench: &Bench, _: &Sizes) -> anyhow::Result<Finding> {
    let subject = simple(bench, "async", Format::Json, None)?;
    let measured = in_turns(bench, &subject)?;
    bench.steady.set(Some(measured.delivered_rate));
    subject.end()?;
    Ok(Finding::ratio("async", measured, 0.3, 0.5))
}

pub fn waiting(bench: &Bench, _: &Sizes) -> anyhow::Result<Finding> {
    let mut subject = simple(bench, "wait", Format::Json, None)?;
    for target in &mut subject.targets {
        target.path.push_str(WAIT);
    }
    let measured = in_turns(bench, &subject)?;
    subject.end()?;
    let answered: u64 = measured.rounds.iter().map(|round| round.load.accepted()).sum();
    let in_time: u64 = measured.rounds.iter().filter_map(|round| round.load.statuses.get(&200)).sum();
    let mut finding = Finding::ratio("wait", measured, 0.25, 0.45);
    finding.notes.push(format!("{in_time} of {answered} posts were answered with their outcome"));
    Ok(finding)
}

pub fn soap(bench: &Bench, _: &Sizes) -> anyhow::Result<Finding> {
    let subject = simple(bench, "soap", Format::Soap, None)?;
    let measured = in_turns(bench, &subject)?;
    subject.end()?;
    Ok(Finding::ratio("soap", measured, 0.15, 0.3))
}

pub fn redis(bench: &Bench, _: &Sizes) -> anyhow::Result<Finding> {
    let redis = Redis::start(bench.scratch.path())?;
    let mut subject = simple(bench, "redis", Format::Json, Some(&redis.url()))?;
    subject.beside = vec![("redis".to_owned(), redis.process.pid())];
    let measured = in_turns(bench, &subject)?;
    subject.end()?;
    Ok(Finding::ratio("redis", measured, 0.2, 0.4))
}

pub fn fleet(bench: &Bench, _: &Sizes) -> anyhow::Result<Finding> {
    let postgres = Postgres::start(&bench.base)?;
    let redis = Redis::start(bench.scratch.path())?;
    let sink = Sink::start("sink", false, Duration::ZERO)?;
    let network = network::simple(&sink.url(), Format::Json);
    let (url, gate): (String, String) = (postgres.url(), redis.url());
    let store: Option<(&str, PathBuf)> = Some((&url, postgres.psql()));
    let world = World::new(bench.scratch.path(), "fleet", &network, store, Some(&gate))?;
    let gateways = vec![world.start("gateway 1")?, world.start("gateway 2")?];
    let mut subject = Subject::new(gateways, sink, world.books, leads());
    subject.beside = vec![("redis".to_owned(), redis.process.pid()), ("postgres".to_owned(), postgres.process.pid())];
    let measured = in_turns(bench, &subject)?;
    subject.end()?;
    Ok(Finding::ratio("fleet", measured, 0.08, 0.16))
}

pub fn half(bench: &Bench, _: &Sizes) -> anyhow::Result<Finding> {
    let rate = steady_rate(bench)? / 2.0;
    let subject = simple(bench, "half", Format::Json, None)?;
    subject.warm_up(bench)?;
    let (mut p99, mut disk, mut rounds) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=bench.rounds {
        let sync = machine::measure_disk(bench.scratch.path())?;
        let round = subject.load(bench, Length::Seconds(bench.turn()), Some(rate))?;
        eprintln!(
            "  turn {number}: {rate:.0}/s posted, acceptance p50 {:.2} p99 {:.2} p999 {:.2} ms, sync p99 {:.2} ms",
            round.load.latency.p50, round.load.latency.p99, round.load.latency.p999, sync.sync_p99_ms
        );
        p99.push(round.load.latency.p99);
        disk.push(sync.sync_p99_ms);
        rounds.push(round);
    }
    subject.end()?;
    let (p99, sync) = (median(&p99), median(&disk));
    let mut finding = Finding::new("half");
    finding.checks.push(Check::at_most("acceptance p99, ms", p99, 3.0 * sync + 2.0, 1.5 * sync + 1.0));
    finding.notes.push(format!("{rate:.0} leads/s; the disk's sync p99 was {sync:.2} ms"));
    if rounds.iter().any(|round| round.backlog_grew) {
        finding.notes.push("THE BACKLOG GREW".to_owned());
    }
    finding.details = json!({ "rate": rate, "sync_p99_ms": disk, "rounds": rounds });
    Ok(finding)
}

/// What the embedded store delivers: as measured before, or measured now.
pub fn steady_rate(bench: &Bench) -> anyhow::Result<f64> {
    if let Some(rate) = bench.steady.get() {
        return Ok(rate);
    }
    let subject = simple(bench, "steady", Format::Json, None)?;
    subject.warm_up(bench)?;
    let rate = subject.load(bench, Length::Seconds(FINDING_SECONDS), None)?.delivered_rate;
    subject.end()?;
    eprintln!("  the steady rate, measured in {FINDING_SECONDS:.0} s: {rate:.0}/s");
    bench.steady.set(Some(rate));
    Ok(rate)
}

/// One gateway on an embedded store, one partner.
pub fn simple(bench: &Bench, name: &str, format: Format, gate: Option<&str>) -> anyhow::Result<Subject> {
    let sink = Sink::start("sink", format == Format::Soap, Duration::ZERO)?;
    let world = World::new(bench.scratch.path(), name, &network::simple(&sink.url(), format), None, gate)?;
    let gateway = world.start("gateway")?;
    Ok(Subject::new(vec![gateway], sink, world.books, leads()))
}

/// The campaign of [`network::simple`].
pub fn leads() -> Vec<Target> {
    vec![Target { path: network::path("leads"), key: network::key("leads") }]
}
