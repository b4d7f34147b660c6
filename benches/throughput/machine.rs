//! What the figures were measured on, and what processes cost, from /proc.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use lead_gateway::clock;
use serde_json::{Value, json};

use super::figures::quantile;

/// Clock ticks a second in /proc: USER_HZ, 100 on every Linux that this runs on.
const TICKS: f64 = 100.0;
/// Syncs of a measurement of the disk, and the bytes before each: a small commit's pages in the log.
const SYNCS: usize = 1_000;
const SYNCED: usize = 16 << 10;

/// How long the disk takes to sync, milliseconds.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Disk {
    pub sync_p50_ms: f64,
    pub sync_p99_ms: f64,
}

/// Overwrites pieces of a file that is there, one after another, and syncs each.
pub fn measure_disk(directory: &Path) -> anyhow::Result<Disk> {
    let path = directory.join("sync");
    let file = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    let piece = vec![b'x'; SYNCED];
    for n in 0..SYNCS {
        file.write_all_at(&piece, (n * SYNCED) as u64)?;
    }
    file.sync_all()?;
    let mut took = Vec::with_capacity(SYNCS);
    for n in 0..SYNCS {
        file.write_all_at(&piece, (n * SYNCED) as u64)?;
        let began = clock::instant();
        file.sync_data()?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(path)?;
    Ok(Disk { sync_p50_ms: quantile(&took, 0.5), sync_p99_ms: quantile(&took, 0.99) })
}

/// The machine, for the report.
pub fn describe(store: &Path, disk: Disk) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_mib": memory.unwrap_or_default() >> 10,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": read("/proc/loadavg").trim(),
        "store_directory": store.display().to_string(),
        "store_file_system": file_system(store),
        "disk": disk,
        "versions": {
            "gateway": version(env!("CARGO_BIN_EXE_gateway"), &["--version"]),
            "nginx": super::process::program("nginx", "").map(|nginx| version(nginx, &["-v"])).unwrap_or_default(),
            "wrk": super::process::program("wrk", "").map(|wrk| version(wrk, &["-v"])).unwrap_or_default(),
            "redis": version("redis-server", &["--version"]),
            "postgres": super::postgres::programs().map(|bin| version(bin.join("postgres"), &["--version"])).unwrap_or_default(),
        },
    })
}

/// The first line in which a program says who it is.
fn version(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return String::new() };
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
}

/// The type and the device of the file system that holds a path.
pub fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut best = ("", String::new());
    for line in mounts.lines() {
        let mut words = line.split(' ');
        if let (Some(device), Some(at), Some(kind)) = (words.next(), words.next(), words.next())
            && path.starts_with(at)
            && at.len() >= best.0.len()
        {
            best = (at, format!("{kind} on {device}"));
        }
    }
    best.1
}

/// Microseconds of CPU that a process has had, its children that have ended included.
pub fn cpu_micros(pid: u32) -> f64 {
    // "pid (name) state …": the name may hold anything. utime, stime, cutime, cstime are fields 14 to 17.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = rest.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS * 1e6
}

/// Whether a process of ours has not ended.
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// As [`cpu_micros`], with its children that live.
pub fn cpu_micros_of_all(pid: u32) -> f64 {
    cpu_micros(pid) + children_of(pid).into_iter().map(cpu_micros_of_all).sum::<f64>()
}

/// The most memory that a process ever had, MiB.
pub fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

fn children_of(parent: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    threads
        .flat_map(|thread| {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        })
        .collect()
}
