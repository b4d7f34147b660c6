//! Many partners, some of them bad; many leads at once; many resources.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use lead_gateway::clock;
use serde_json::json;

use super::Sizes;
use super::steady::{simple, steady_rate};
use crate::figures::{median, ratio, spread};
use crate::gateway::World;
use crate::lead::{Regions, Target};
use crate::measure::{Bench, Length, Subject};
use crate::network::{self, Contract, Format};
use crate::process::free_port;
use crate::report::{Check, Finding};
use crate::servers::{Load, Sink};

/// Partners that are well, that refuse connections, and that answer after [`SLOW`].
const WELL: u64 = 30;
const DEAD: u64 = 10;
const SLOWS: u64 = 10;
const SLOW: Duration = Duration::from_secs(5);
/// Leads a second for each of the bad ones: more than a slow one takes, with 16 attempts at a time.
const FOR_EACH_BAD: f64 = 10.0;

/// The same load on two gateways in turns, one of which also has leads for the bad partners.
pub fn partners(bench: &Bench, _: &Sizes) -> anyhow::Result<Finding> {
    let slow = Sink::start("slow sink", false, SLOW)?;
    let dead = format!("http://127.0.0.1:{}/leads", free_port()?);
    let world = |name: &str| -> anyhow::Result<Subject> {
        let sink = Sink::start("sink", false, Duration::ZERO)?;
        let mut network = [network::introducer(), network::campaign("leads")].concat();
        for n in 0..WELL + DEAD + SLOWS {
            let (kind, url) = match n {
                n if n < WELL => ("well", sink.url()),
                n if n < WELL + DEAD => ("dead", dead.clone()),
                _ => ("slow", slow.url()),
            };
            let id = format!("{kind}{n}");
            let region = Some(n);
            let contract = Contract {
                id: &id,
                partner: &id,
                campaign: "leads",
                url: &url,
                format: Format::Json,
                concurrency: 16,
                region,
            };
            network += &(network::buyer(&id) + &contract.toml());
        }
        let world = World::new(bench.scratch.path(), name, &network, None, None)?;
        let gateway = world.start("gateway")?;
        let mut subject = Subject::new(vec![gateway], sink, world.books, super::steady::leads());
        subject.regions = Regions { first: 0, count: WELL };
        subject.contracts = "well";
        Ok(subject)
    };
    let (alone, beside) = (world("partners-alone")?, world("partners-beside")?);
    alone.warm_up(bench)?;
    beside.warm_up(bench)?;
    let (mut before, mut after, mut rounds) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=bench.rounds {
        let without = alone.load(bench, Length::Seconds(bench.turn()), None)?;
        let mut spec =
            beside.spec(bench, Length::Seconds(bench.turn() + 2.0), Some(FOR_EACH_BAD * (DEAD + SLOWS) as f64));
        spec.regions = Regions { first: WELL, count: DEAD + SLOWS };
        spec.connections = 8;
        let bad = Load::start(bench.scratch.path(), &spec)?;
        // They are in trouble before it counts.
        std::thread::sleep(Duration::from_secs(1));
        let with = beside.load(bench, Length::Seconds(bench.turn()), None)?;
        let bad = bad.outcome()?;
        anyhow::ensure!(bad.errors + bad.refused() == 0, "leads for bad partners were refused: {bad:?}");
        eprintln!(
            "  turn {number}: alone {:.0}/s, beside {} bad ones {:.0}/s",
            without.delivered_rate,
            DEAD + SLOWS,
            with.delivered_rate
        );
        before.push(without.delivered_rate);
        after.push(with.delivered_rate);
        rounds.push(json!({ "alone": without, "beside": with, "bad": bad }));
    }
    alone.end()?;
    // Attempts at slow partners may be under way.
    beside.end()?;
    let mut finding = Finding::new("partners");
    finding.checks.push(Check::at_least("healthy rate / alone", ratio(median(&after), median(&before)), 0.9, 0.98));
    finding.notes.push(format!(
        "healthy: {:.0}/s alone, {:.0}/s beside {DEAD} dead and {SLOWS} slow ones",
        median(&before),
        median(&after)
    ));
    finding.details = json!({ "rounds": rounds });
    Ok(finding)
}

/// So many leads as fast as they are taken.
pub fn burst(bench: &Bench, sizes: &Sizes) -> anyhow::Result<Finding> {
    /// Fewer are drained before that can be measured: then the rate of the whole burst counts.
    const DRAINED: u64 = 5_000;
    let steady = steady_rate(bench)?;
    let subject = simple(bench, "burst", Format::Json, None)?;
    subject.warm_up(bench)?;
    let round = subject.load(bench, Length::Posts(sizes.burst), None)?;
    let peak = subject.peak_mib();
    subject.end()?;
    let (what, rate) =
        if round.left_at_end >= DRAINED { ("draining", round.drain_rate) } else { ("all of it", round.overall_rate) };
    let refused = round.load.refused() + round.load.errors;
    let mut finding = Finding::new("burst");
    finding.checks.push(Check::at_most("posts refused", refused as f64, 0.0, 0.0));
    finding.checks.push(Check::at_most("RSS at its highest, MiB", peak, 256.0, 256.0));
    finding.checks.push(Check::at_least("drain rate / steady rate", ratio(rate, steady), 0.9, 1.0));
    finding.notes.push(format!(
        "{} leads accepted at {:.0}/s; {} were left, drained at {:.0}/s; {what} counts, against {steady:.0}/s",
        round.load.accepted(),
        round.accepted_rate,
        round.left_at_end,
        round.drain_rate
    ));
    finding.details = json!({ "peak_mib": peak, "steady": steady, "round": round });
    Ok(finding)
}

/// Contracts of a campaign, each for one region.
const REGIONS: u64 = 5;
/// Their concurrency: with so many, the attempts of all together are what bounds them.
const CONCURRENCY: u32 = 64;

/// A large network against a small one, in turns: each lead has five contracts, one of which wants it, in both.
pub fn network(bench: &Bench, sizes: &Sizes) -> anyhow::Result<Finding> {
    let small = {
        let sink = Sink::start("sink", false, Duration::ZERO)?;
        let network = network::introducer() + &many(1, REGIONS, &sink.url());
        let world = World::new(bench.scratch.path(), "network-small", &network, None, None)?;
        subject(world.start("gateway")?, sink, world, 1)
    };
    let sink = Sink::start("sink", false, Duration::ZERO)?;
    let world = World::new(bench.scratch.path(), "network-large", &network::introducer(), None, None)?;
    let files = world.directory.join("large");
    std::fs::create_dir_all(&files)?;
    std::fs::write(files.join("base.toml"), network::introducer())?;
    std::fs::write(files.join("many.toml"), many(sizes.partners, sizes.partners, &sink.url()))?;
    let gateway = world.start("gateway")?;
    let began = clock::instant();
    let path = files.to_str().context("the directory's name is no text")?;
    world.run(&["apply", path])?;
    let apply = began.elapsed().as_secs_f64();
    let large = subject(gateway, sink, world, sizes.partners);
    eprintln!("  applied in {apply:.2} s, RSS then {:.0} MiB", large.peak_mib());

    small.warm_up(bench)?;
    large.warm_up(bench)?;
    let (mut few, mut all, mut rounds) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=bench.rounds {
        let one = small.load(bench, Length::Seconds(bench.turn()), None)?;
        let other = large.load(bench, Length::Seconds(bench.turn()), None)?;
        eprintln!("  turn {number}: small {:.0}/s, large {:.0}/s", one.delivered_rate, other.delivered_rate);
        few.push(one.delivered_rate);
        all.push(other.delivered_rate);
        rounds.push(json!({ "small": one, "large": other }));
    }
    let peak = large.peak_mib();
    small.end()?;
    large.end()?;
    let mut finding = Finding::new("network");
    finding.checks.push(Check::at_least("rate / a small network's", ratio(median(&all), median(&few)), 0.95, 0.95));
    finding.checks.push(Check::at_most("apply, s", apply, 5.0, 5.0));
    finding.checks.push(Check::at_most("RSS at its highest, MiB", peak, 512.0, 512.0));
    finding.notes.push(format!(
        "{} partners, {} contracts, {} campaigns and sources: {:.0}/s ({:.0?}), small {:.0}/s",
        sizes.partners,
        sizes.partners * REGIONS,
        sizes.partners,
        median(&all),
        spread(&all),
        median(&few)
    ));
    finding.details = json!({ "apply_seconds": apply, "peak_mib": peak, "rounds": rounds });
    Ok(finding)
}

fn subject(gateway: crate::gateway::Gateway, sink: Sink, world: World, campaigns: u64) -> Subject {
    let targets = (0..campaigns)
        .map(|n| Target { path: network::path(&format!("campaign{n}")), key: network::key(&format!("campaign{n}")) })
        .collect();
    let mut subject = Subject::new(vec![gateway], sink, world.books, targets);
    subject.regions = Regions { first: 0, count: REGIONS };
    subject
}

/// So many campaigns with a source each, and so many partners; five contracts on each campaign, of five partners.
fn many(campaigns: u64, partners: u64, url: &str) -> String {
    let mut text = String::new();
    for n in 0..campaigns {
        text += &network::campaign(&format!("campaign{n}"));
    }
    for n in 0..partners {
        text += &network::buyer(&format!("partner{n}"));
    }
    for n in 0..campaigns * REGIONS {
        let (campaign, region) = (n / REGIONS, n % REGIONS);
        let contract = Contract {
            id: &format!("contract{n}"),
            partner: &format!("partner{}", (campaign + region) % partners),
            campaign: &format!("campaign{campaign}"),
            url,
            format: Format::Json,
            concurrency: CONCURRENCY,
            region: Some(region),
        };
        let _ = write!(text, "{}", contract.toml());
    }
    text
}
