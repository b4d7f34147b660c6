//! How a gateway is measured: a load, the wait until all of it is delivered and recorded, and the books: what was
//! acknowledged must have reached the partner once, and be in the store as accepted. In turns with the yardstick.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use lead_gateway::clock::{self, Clock};
use serde::Serialize;
use uuid::Uuid;

use super::clock::nanos;
use super::figures::{median, ratio, spread};
use super::gateway::{Books, Counters, Gateway};
use super::histogram::Percentiles;
use super::lead::{Regions, Target};
use super::load::{Outcome, Spec};
use super::machine;
use super::nginx::{Nginx, Turn};
use super::process::Scratch;
use super::servers::{Load, Sink};

/// How often the backlog is looked at during a load.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// How long the deliveries of a load may take after its end, beside ten times its own length.
const DRAIN_WITHIN: Duration = Duration::from_mins(5);
/// The gateway refreshes its counters every 5 s.
const COUNTERS_AFTER: Duration = Duration::from_millis(5_600);
/// Loads in search of the highest rate that can be kept up, and how long they last.
const PROBES: usize = 4;
const PROBE_SECONDS: f64 = 6.0;
/// The load before the first measurement: connections are made, statements prepared, files grown.
const WARM_UP: f64 = 2.0;

/// What all scenarios share.
pub struct Bench {
    pub seconds: f64,
    pub rounds: usize,
    pub connections: usize,
    /// Where directories of servers are made that need one elsewhere.
    pub base: PathBuf,
    /// The rate of the first scenario, for those that are measured by it.
    pub steady: Cell<Option<f64>>,
    nginx: OnceCell<Nginx>,
    runs: Cell<u64>,
    // Last: its files go after those who use them.
    pub scratch: Scratch,
}

impl Bench {
    pub fn new(base: PathBuf, scratch: Scratch, seconds: f64, rounds: usize, connections: usize) -> Self {
        let (steady, nginx, runs) = (Cell::new(None), OnceCell::new(), Cell::new(0));
        Self { seconds, rounds, connections, base, steady, nginx, runs, scratch }
    }

    /// Removes what the scenarios so far have written; nginx goes on.
    pub fn clear(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(self.scratch.path())?.flatten() {
            if entry.file_name() != "nginx" && entry.path().is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// The seconds of one turn.
    pub fn turn(&self) -> f64 {
        self.seconds / self.rounds as f64
    }

    /// The number of a new load, which makes its leads others than those of every other.
    pub fn run(&self) -> u64 {
        self.runs.set(self.runs.get() + 1);
        self.runs.get()
    }

    /// The yardstick's turn: half the time with our load, half with wrk.
    fn nginx_turn(&self, seconds: f64) -> anyhow::Result<Turn> {
        if self.nginx.get().is_none() {
            let nginx = Nginx::start(self.scratch.path(), self.connections)?;
            let _ = self.nginx.set(nginx);
        }
        let nginx = self.nginx.get().context("nginx was not started")?;
        nginx.turn((seconds / 2.0).max(1.0), self.run())
    }
}

/// One or several gateways on one store, with the partner that they deliver to.
pub struct Subject {
    pub gateways: Vec<Gateway>,
    pub sink: Sink,
    pub books: Books,
    pub targets: Vec<Target>,
    pub regions: Regions,
    /// The books are of contracts whose ids begin so; of all, empty.
    pub contracts: &'static str,
    /// Servers whose CPU is theirs: name and pid.
    pub beside: Vec<(String, u32)>,
    /// Deliveries that are older are not of these loads.
    pub since: Uuid,
    acknowledged: Cell<u64>,
    /// Posts that were refused, or left without an answer: they may have been stored nevertheless.
    doubtful: Cell<u64>,
}

/// How one load ends.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    Seconds(f64),
    Posts(u64),
}

/// What came of one load.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub load: Outcome,
    /// A second, during the load: posts that were acknowledged, and leads that reached the partner.
    pub accepted_rate: f64,
    pub delivered_rate: f64,
    /// From the first post until the last lead reached the partner, all of them, a second.
    pub overall_rate: f64,
    /// Acknowledged and not yet at the partner when the load ended; how fast they went from there, a second.
    pub left_at_end: u64,
    pub drain_rate: f64,
    /// The same every quarter of a second.
    pub backlog: Vec<i64>,
    pub backlog_grew: bool,
    pub since_posted: Percentiles,
    /// Microseconds of CPU for each lead.
    pub cpu_micros: BTreeMap<String, f64>,
    /// From the first post until everything was recorded.
    pub worked_seconds: f64,
}

impl Subject {
    pub fn new(gateways: Vec<Gateway>, sink: Sink, books: Books, targets: Vec<Target>) -> Self {
        Self {
            gateways,
            sink,
            books,
            targets,
            regions: Regions { first: 0, count: 1 },
            contracts: "",
            beside: Vec::new(),
            since: Clock::system().uuid(),
            acknowledged: Cell::new(0),
            doubtful: Cell::new(0),
        }
    }

    /// A load for this subject.
    pub fn spec(&self, bench: &Bench, length: Length, rate: Option<f64>) -> Spec {
        let (seconds, posts) = match length {
            Length::Seconds(seconds) => (seconds, u64::MAX),
            Length::Posts(posts) => (3_600.0, posts),
        };
        Spec {
            addresses: self.gateways.iter().map(|gateway| gateway.address).collect(),
            targets: self.targets.clone(),
            regions: self.regions,
            connections: bench.connections,
            seconds,
            posts,
            rate,
            run: bench.run(),
        }
    }

    /// One load, until everything that it brought is delivered and recorded.
    ///
    /// # Errors
    /// When something was delivered twice, lost, or not delivered in time.
    pub fn load(&self, bench: &Bench, length: Length, rate: Option<f64>) -> anyhow::Result<Round> {
        let cpu_before = self.cpu();
        let before = self.sink.count()?.requests;
        let load = Load::start(bench.scratch.path(), &self.spec(bench, length, rate))?;
        let mut backlog = Vec::new();
        let mut sampled = clock::instant();
        while !load.is_over() {
            std::thread::sleep(Duration::from_millis(5));
            if sampled.elapsed() >= SAMPLE_EVERY {
                sampled = clock::instant();
                let arrived = self.sink.count()?.requests - before;
                backlog.push(load.accepted().cast_signed() - arrived.cast_signed());
            }
        }
        let (ended, at_end) = (nanos(), self.sink.count()?.requests - before);
        let load = load.outcome().map_err(|error| self.explain(error))?;
        self.acknowledged.set(self.acknowledged.get() + load.accepted());
        self.doubtful.set(self.doubtful.get() + load.refused() + load.errors);

        let last = self.wait_until_drained(before + load.accepted(), load.seconds)?;
        let since_posted = self.check_books()?;
        let leads = load.accepted().max(1) as f64;
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
        let left_at_end = load.accepted().saturating_sub(at_end);
        let mut cpu_micros: BTreeMap<String, f64> = BTreeMap::from([("load".to_owned(), load.cpu_micros / leads)]);
        for (name, micros) in self.cpu() {
            let earlier = cpu_before.get(&name).copied().unwrap_or_default();
            cpu_micros.insert(name, (micros - earlier) / leads);
        }
        Ok(Round {
            accepted_rate: ratio(load.accepted() as f64, load.seconds),
            delivered_rate: ratio(at_end as f64, seconds(load.began_at, ended)),
            overall_rate: ratio(load.accepted() as f64, seconds(load.began_at, last)),
            left_at_end,
            drain_rate: ratio(left_at_end as f64, seconds(ended, last)),
            backlog_grew: grew(&backlog, load.accepted()),
            backlog,
            since_posted,
            cpu_micros,
            worked_seconds: seconds(load.began_at, nanos()),
            load,
        })
    }

    /// A load that failed, by a gateway that has ended.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match self.gateways.iter().find_map(Gateway::last_words) {
            Some(words) => error.context(format!("the gateway has ended; its last words: {words}")),
            None => error,
        }
    }

    /// Waits until so many requests have come and nothing is queued or under way; when the last request came.
    fn wait_until_drained(&self, requests: u64, load_seconds: f64) -> anyhow::Result<u64> {
        let within = DRAIN_WITHIN + Duration::from_secs_f64(load_seconds * 10.0);
        let began = clock::instant();
        loop {
            let count = self.sink.count()?;
            if count.requests >= requests && !self.books.is_working(self.contracts)? {
                return Ok(count.last_at);
            }
            if began.elapsed() > within {
                let states = self.books.states(self.since, self.contracts)?;
                anyhow::bail!(
                    "LOST OR LATE: {} of {requests} reached the partner within {} s; deliveries in the store: {states:?}",
                    count.requests,
                    within.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(if count.requests < requests { 20 } else { 100 }));
        }
    }

    /// What was acknowledged reached the partner once, and is recorded so.
    fn check_books(&self) -> anyhow::Result<Percentiles> {
        let report = self.sink.report()?;
        let states = self.books.states(self.since, self.contracts)?;
        let accepted = states.iter().find(|(state, _)| state == "accepted").map_or(0, |(_, count)| *count);
        let (acknowledged, doubtful) = (self.acknowledged.get(), self.doubtful.get());
        let told = format!(
            "{acknowledged} acknowledged, {doubtful} refused or without an answer; the partner had {} requests with {} \
             different keys; deliveries in the store: {states:?}",
            report.requests, report.distinct
        );
        anyhow::ensure!(report.unkept == 0, "more requests than the sink can keep the keys of: {told}");
        anyhow::ensure!(report.unkeyed == 0, "requests without an idempotency key: {told}");
        anyhow::ensure!(report.distinct == report.requests, "DELIVERED TWICE: {told}");
        anyhow::ensure!(report.distinct >= acknowledged, "LOST: {told}");
        anyhow::ensure!(report.distinct <= acknowledged + doubtful, "DELIVERED WITHOUT BEING ACCEPTED: {told}");
        anyhow::ensure!(accepted == report.distinct, "DELIVERED AND NOT RECORDED SO: {told}");
        Ok(report.since_posted)
    }

    /// Microseconds that each process has had so far; several gateways have their own names.
    fn cpu(&self) -> BTreeMap<String, f64> {
        let mut all: BTreeMap<String, f64> = BTreeMap::new();
        let own = self.gateways.iter().map(|gateway| &gateway.process).chain([&self.sink.process]);
        for (name, pid) in
            own.map(|process| (&process.name, process.pid())).chain(self.beside.iter().map(|(n, p)| (n, *p)))
        {
            *all.entry(name.clone()).or_default() += machine::cpu_micros_of_all(pid);
        }
        all
    }

    /// The most memory of each gateway, MiB; the largest counts.
    pub fn peak_mib(&self) -> f64 {
        self.gateways.iter().map(|gateway| machine::peak_mib(gateway.process.pid())).fold(0.0, f64::max)
    }

    fn counters(&self) -> anyhow::Result<Counters> {
        let mut all = Counters::default();
        for gateway in &self.gateways {
            let one = gateway.counters()?;
            all.commits += one.commits;
            all.jobs += one.jobs;
            all.commit_micros += one.commit_micros;
        }
        Ok(all)
    }

    /// A short load before the first that counts.
    pub fn warm_up(&self, bench: &Bench) -> anyhow::Result<()> {
        self.load(bench, Length::Seconds(WARM_UP), None).context("warming up failed").map(drop)
    }

    /// Ends the gateways in order, each of which must end well.
    pub fn end(self) -> anyhow::Result<()> {
        for gateway in self.gateways {
            gateway.process.end()?;
        }
        Ok(())
    }
}

/// Whether the backlog at the end of a load is clearly more than it was once the load had settled.
fn grew(backlog: &[i64], leads: u64) -> bool {
    let mean = |part: &[i64]| ratio(part.iter().sum::<i64>() as f64, part.len() as f64);
    let quarter = backlog.len() / 4;
    let room = (leads as f64 * 0.02).max(512.0);
    if quarter == 0 {
        return backlog.last().is_some_and(|last| *last as f64 > room);
    }
    mean(&backlog[backlog.len() - quarter..]) - mean(&backlog[quarter..2 * quarter]) > room
}

/// What several turns say together: medians.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub accepted_rate: f64,
    pub delivered_rate: f64,
    /// With as much posted as goes.
    pub flat_out_rate: f64,
    /// The lowest and the highest of the turns.
    pub delivered_spread: [f64; 2],
    pub nginx_rate: f64,
    pub nginx_spread: [f64; 2],
    pub nginx_cpu_micros: f64,
    /// Of the medians; and of each turn with the yardstick's turn before it, the lowest and the highest.
    pub ratio: f64,
    pub ratio_spread: [f64; 2],
    pub acceptance: Percentiles,
    pub since_posted: Percentiles,
    pub cpu_micros: BTreeMap<String, f64>,
    pub peak_mib: f64,
    pub commits_per_second: f64,
    pub leads_per_commit: f64,
    pub writes_per_commit: f64,
    pub commit_ms: f64,
    pub backlog_grew: bool,
    pub backlog_most: i64,
    /// Whether it did not grow, at the rate that counts.
    pub is_kept_up: bool,
    pub refused: u64,
    pub errors: u64,
    pub rounds: Vec<Round>,
    pub nginx: Vec<Turn>,
    /// Where it grew: the load at the highest rate at which it does not, which is the one that counts.
    pub kept_up: Option<Round>,
}

/// Measures a subject in turns with the yardstick.
pub fn in_turns(bench: &Bench, subject: &Subject) -> anyhow::Result<Measured> {
    subject.warm_up(bench)?;
    let warm = clock::instant();
    let (mut turns, mut rounds, mut before) = (Vec::new(), Vec::new(), None);
    for number in 1..=bench.rounds {
        let turn = bench.nginx_turn(bench.turn())?;
        if before.is_none() {
            std::thread::sleep(COUNTERS_AFTER.saturating_sub(warm.elapsed()));
            before = Some(subject.counters()?);
        }
        let round = subject.load(bench, Length::Seconds(bench.turn()), None)?;
        eprintln!(
            "  turn {number}: nginx {:.0}/s (wrk {:.0}), accepted {:.0}/s, delivered {:.0}/s, backlog at the end {}",
            turn.own, turn.wrk, round.accepted_rate, round.delivered_rate, round.left_at_end
        );
        turns.push(turn);
        rounds.push(round);
    }
    std::thread::sleep(COUNTERS_AFTER);
    let (before, after) = (before.unwrap_or_default(), subject.counters()?);
    let commits = after.commits - before.commits;
    let leads: f64 = rounds.iter().map(|round| round.load.accepted() as f64).sum();
    let worked: f64 = rounds.iter().map(|round| round.worked_seconds).sum();

    let of = |read: fn(&Round) -> f64| rounds.iter().map(read).collect::<Vec<f64>>();
    let (delivered, best) = (of(|round| round.delivered_rate), turns.iter().map(Turn::best).collect::<Vec<_>>());
    let ratios: Vec<f64> = delivered.iter().zip(&best).map(|(ours, theirs)| ratio(*ours, *theirs)).collect();
    let backlog_grew = rounds.iter().filter(|round| round.backlog_grew).count() * 2 > rounds.len();
    let flat_out = median(&delivered);
    let kept_up =
        if backlog_grew { kept_up(bench, subject, flat_out, median(&of(|round| round.accepted_rate)))? } else { None };
    let delivered_rate = kept_up.as_ref().map_or(flat_out, |round| round.delivered_rate);
    let counted = kept_up.as_ref().map_or(rounds.as_slice(), std::slice::from_ref);
    let of = |read: fn(&Round) -> f64| counted.iter().map(read).collect::<Vec<f64>>();
    let names = rounds.first().map(|round| round.cpu_micros.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let cpu_micros = names
        .into_iter()
        .map(|name| {
            let each: Vec<f64> = counted.iter().filter_map(|round| round.cpu_micros.get(&name).copied()).collect();
            let middle = median(&each);
            (name, middle)
        })
        .collect();
    Ok(Measured {
        accepted_rate: median(&of(|round| round.accepted_rate)),
        delivered_rate,
        flat_out_rate: flat_out,
        delivered_spread: spread(&delivered),
        nginx_rate: median(&best),
        nginx_spread: spread(&best),
        nginx_cpu_micros: median(&turns.iter().map(|turn| turn.cpu_micros).collect::<Vec<_>>()),
        ratio: ratio(delivered_rate, median(&best)),
        ratio_spread: spread(&ratios),
        acceptance: Percentiles::median(&counted.iter().map(|round| round.load.latency).collect::<Vec<_>>()),
        since_posted: Percentiles::median(&counted.iter().map(|round| round.since_posted).collect::<Vec<_>>()),
        cpu_micros,
        peak_mib: subject.peak_mib(),
        commits_per_second: ratio(commits, worked),
        leads_per_commit: ratio(leads, commits),
        writes_per_commit: ratio(after.jobs - before.jobs, commits),
        commit_ms: ratio((after.commit_micros - before.commit_micros) / 1e3, commits),
        backlog_grew,
        backlog_most: rounds.iter().flat_map(|round| round.backlog.iter().copied()).max().unwrap_or(0),
        is_kept_up: !backlog_grew || kept_up.is_some(),
        refused: rounds.iter().map(|round| round.load.refused()).sum(),
        errors: rounds.iter().map(|round| round.load.errors).sum(),
        rounds,
        nginx: turns,
        kept_up,
    })
}

/// The highest rate, between what is delivered and what is accepted when as much is posted as goes, at which the backlog does
/// not grow: posts that need not wait would else take the cores from the deliveries, without end. `None`: not even the
/// lowest could be kept up.
fn kept_up(bench: &Bench, subject: &Subject, delivered: f64, accepted: f64) -> anyhow::Result<Option<Round>> {
    let (mut low, mut high) = (delivered, accepted);
    for _ in 0..PROBES {
        let rate = f64::midpoint(low, high);
        let round = subject.load(bench, Length::Seconds(PROBE_SECONDS.min(bench.turn())), Some(rate))?;
        eprintln!("  at {rate:.0}/s the backlog {}", if round.backlog_grew { "grew" } else { "did not grow" });
        if round.backlog_grew { high = rate } else { low = rate }
    }
    // What was kept up for a moment must be kept up for a whole turn.
    for rate in [low, low * 0.96, low * 0.9] {
        let round = subject.load(bench, Length::Seconds(bench.turn()), Some(rate))?;
        if !round.backlog_grew {
            return Ok(Some(round));
        }
    }
    Ok(None)
}
