//! How fast, and what it costs: source load → gateway → partner, in one command (`make bench`), in turns with nginx as a
//! bare proxy on the same machine in the same minutes. docs/performance.md says how to read it.
//!
//! The program has three roles: this one, which starts everything and does the arithmetic, and the processes `sink` (the
//! partner) and `load` (the sources), which it starts as itself. Whatever it starts lives on free ports of 127.0.0.1 and in
//! a temporary directory, and ends with it.
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "figures that people read, and counts far below the limits of their types"
)]

#[path = "throughput/clock.rs"]
mod clock;
#[path = "throughput/figures.rs"]
mod figures;
#[path = "throughput/fill.rs"]
mod fill;
#[path = "throughput/gateway.rs"]
mod gateway;
#[path = "throughput/histogram.rs"]
mod histogram;
#[path = "throughput/lead.rs"]
mod lead;
#[path = "throughput/load.rs"]
mod load;
#[path = "throughput/machine.rs"]
mod machine;
#[path = "throughput/measure.rs"]
mod measure;
#[path = "throughput/network.rs"]
mod network;
#[path = "throughput/nginx.rs"]
mod nginx;
#[path = "throughput/postgres.rs"]
mod postgres;
#[path = "throughput/process.rs"]
mod process;
#[path = "throughput/report.rs"]
mod report;
#[path = "throughput/scenarios.rs"]
mod scenarios;
#[path = "throughput/servers.rs"]
mod servers;
#[path = "throughput/sink.rs"]
mod sink;
#[path = "throughput/wire.rs"]
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;

use measure::Bench;
use process::Scratch;
use report::{Finding, Verdict};
use scenarios::{ALL, Scenario, Sizes};

/// Measures the gateway in turns with nginx as a bare proxy.
#[derive(Debug, Parser)]
#[command(name = "throughput")]
struct Options {
    /// Which scenarios, by name, with commas between; all without.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Name the scenarios, with what they must reach, and end.
    #[arg(long)]
    list: bool,
    /// Seconds of load for each scenario, all its turns together; nginx has as many.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Turns that the gateway and nginx take.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections of the load.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Leads of the scenario `burst`.
    #[arg(long, default_value_t = 200_000)]
    burst: u64,
    /// Deliveries in the store in the scenario `large`; 10000000 take some 30 GB.
    #[arg(long, default_value_t = 1_000_000)]
    stored: u64,
    /// Unfinished deliveries in the scenario `start`; some 3 KB each.
    #[arg(long, default_value_t = 1_000_000)]
    waiting: u64,
    /// Partners in the scenario `network`; five contracts and a source for each.
    #[arg(long, default_value_t = 10_000)]
    partners: u64,
    /// Where the stores are made: the disk that is measured. By default the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The report to write.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/REPORT.json"))]
    report: PathBuf,
    /// That it is `cargo bench` who asks.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["sink", kind, delay] => {
            process::end_with_parent();
            let delay = Duration::from_millis(delay.parse().unwrap_or_default());
            sink::run(*kind == "soap", delay).map(|()| true)
        }
        ["load", spec] => {
            process::end_with_parent();
            load::run(Path::new(spec)).map(|()| true)
        }
        words if words.contains(&"--bench") => run(&Options::parse()),
        _ => {
            eprintln!("throughput: measures only when asked to, by `make bench`");
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("throughput: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every scenario could be measured, and nothing was lost or delivered twice. (To be short of a figure is no
/// failure: it is what the report is for.)
fn run(options: &Options) -> anyhow::Result<bool> {
    if options.list {
        for Scenario { name, about, must, goal, .. } in ALL {
            println!("{name:10}{about}\n{:10}must: {must}; goal: {goal}", "");
        }
        return Ok(true);
    }
    anyhow::ensure!(options.rounds > 0 && options.seconds > 0.0, "--rounds and --seconds are at least 1");
    let chosen = choose(&options.scenarios)?;
    process::end_all_when_interrupted()?;
    let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&base).with_context(|| format!("{} cannot be made", base.display()))?;
    let file_system = machine::file_system(&base);
    anyhow::ensure!(
        !["tmpfs", "ramfs"].iter().any(|kind| file_system.starts_with(kind)),
        "{} is in memory ({file_system}), where a sync costs nothing; --dir names a directory on a disk",
        base.display()
    );
    let scratch = Scratch::new(&base, "bench-")?;
    let disk = machine::measure_disk(scratch.path())?;
    let machine = machine::describe(scratch.path(), disk);
    println!("{}", serde_json::to_string_pretty(&machine)?);

    let bench = Bench::new(base, scratch, options.seconds, options.rounds, options.connections);
    let Options { burst, stored, waiting, partners, .. } = *options;
    let sizes = Sizes { burst, stored, waiting, partners };
    let mut findings = Vec::new();
    for Scenario { name, about, run, .. } in chosen {
        eprintln!("{name}: {about}");
        let finding = run(&bench, &sizes).unwrap_or_else(|error| {
            eprintln!("  FAILED: {error:#}");
            Finding { fault: Some(format!("{error:#}")), ..Finding::new(name) }
        });
        findings.push(finding);
        bench.clear().context("what a scenario wrote cannot be removed")?;
        // Whatever happens later, this is written.
        write_report(options, &sizes, &machine, &findings)?;
    }
    report::print(&findings);
    let short = findings.iter().flat_map(|one| &one.checks).filter(|one| one.verdict == Verdict::Short).count();
    let failed = findings.iter().filter(|one| one.fault.is_some()).count();
    println!(
        "\n{short} figures short of what they must be, {failed} scenarios failed\nreport: {}",
        options.report.display()
    );
    Ok(failed == 0)
}

fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let known = || ALL.iter().map(|one| one.name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        let found = ALL.iter().find(|one| one.name == name);
        found.with_context(|| format!("there is no scenario `{name}`; there are {}", known()))
    };
    names.iter().map(find).collect()
}

fn write_report(
    options: &Options,
    sizes: &Sizes,
    machine: &serde_json::Value,
    findings: &[Finding],
) -> anyhow::Result<()> {
    let report = json!({
        "date": lead_gateway::clock::Clock::system().now().to_string(),
        "seconds": options.seconds,
        "rounds": options.rounds,
        "connections": options.connections,
        "sizes": sizes,
        "lead_bytes": lead::body(0).len(),
        "machine": machine,
        "scenarios": findings,
    });
    if let Some(directory) = options.report.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(&options.report, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("{} cannot be written", options.report.display()))
}
