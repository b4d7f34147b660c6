//! Fuzzing, within bounds: every input of the kept corpus (`fixtures/fuzz/TARGET`), and as many made out of them as a few
//! seconds allow. The seed is fixed, so that a run says the same tomorrow: on another machine it only comes further or less far.
//! `make fuzz` looks for longer, and from another seed each time; what it finds goes into the corpus with its mending.

mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lead_gateway::clock;
use mutate::{Draw, mutate};
use targets::{TARGETS, Target};

/// What each target may take in a usual run of the tests …
const SECONDS: u64 = 4;
/// … and how many inputs it gets at most: as many as were looked at before it was called good.
const INPUTS: u64 = 20_000;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The files below `dir`, whatever they are called.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The kept corpus of a target, and fixtures of other tests that are of its kind.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    files(&root("fixtures/fuzz").join(target), &mut paths);
    assert!(!paths.is_empty(), "fixtures/fuzz/{target} has no input");
    let more: &[&str] = match target {
        "intake-json" => &["fixtures/leads/json"],
        "intake-form" => &["fixtures/leads/form"],
        "intake-multipart" => &["fixtures/leads/multipart"],
        "intake-xml" => &["fixtures/leads/xml"],
        "render-template" => &["templates"],
        "verdict-reply" => &["fixtures/verdict"],
        "config" => &["config"],
        _ => &[],
    };
    for dir in more {
        files(&root(dir), &mut paths);
    }
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .map(|bytes| bytes[..bytes.len().min(8_192)].to_vec())
        .collect()
}

/// What stands in `FUZZ_SECONDS` or `FUZZ_SEED`.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one input; where it panics, keeps it and says where.
fn run((name, target): Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_ok() {
        return;
    }
    let sum = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let kept = root("target/fuzz").join(name);
    std::fs::create_dir_all(&kept).unwrap();
    let file = kept.join(format!("{sum:016x}"));
    std::fs::write(&file, input).unwrap();
    panic!(
        "{name} breaks on {} ({:?}); mend it, and keep the input in fixtures/fuzz/{name}",
        file.display(),
        String::from_utf8_lossy(input)
    );
}

fn fuzz(name: &str) {
    let target = *TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let mut pool = corpus(name);
    for input in &pool {
        run(target, input);
    }
    let kept = pool.len();
    let longest = Duration::from_secs(asked("FUZZ_SECONDS").unwrap_or(SECONDS));
    let many = if asked("FUZZ_SECONDS").is_some() { u64::MAX } else { INPUTS };
    let mut draw = Draw::new(asked("FUZZ_SEED").unwrap_or(20_261_121));
    let (began, mut inputs, mut slowest) = (clock::instant(), 0, Duration::ZERO);
    while inputs < many && began.elapsed() < longest {
        // Every other one is near to what is kept: what was mutated often is refused at its first byte.
        let among = if draw.below(2) == 0 { kept } else { pool.len() };
        let (one, other) = (draw.below(among), draw.below(pool.len()));
        let input = mutate(&mut draw, &pool[one], &pool[other]);
        let started = clock::instant();
        run(target, &input);
        slowest = slowest.max(started.elapsed());
        inputs += 1;
        // Some of the new ones are built upon.
        if draw.below(16) == 0 {
            if pool.len() < kept + 512 {
                pool.push(input);
            } else {
                let old = kept + draw.below(512);
                pool[old] = input;
            }
        }
    }
    eprintln!("{name}: {inputs} inputs from {kept} kept ones, the slowest took {slowest:?}");
}

macro_rules! fuzzed {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            fuzz($name);
        })*

        #[test]
        fn every_target_has_its_test_and_its_corpus() {
            let tested = [$($name),*];
            assert_eq!(TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), tested);
            let mut dirs: Vec<_> = std::fs::read_dir(root("fixtures/fuzz")).unwrap().map(|dir| dir.unwrap().file_name().into_string().unwrap()).collect();
            dirs.sort();
            let mut names = tested.to_vec();
            names.sort_unstable();
            assert_eq!(dirs, names);
        }
    };
}

fuzzed! {
    no_bytes_break_the_json_of_a_post: "intake-json",
    no_bytes_break_the_form_of_a_post: "intake-form",
    no_bytes_break_the_multipart_form_of_a_post: "intake-multipart",
    no_bytes_break_the_xml_of_a_post: "intake-xml",
    no_value_breaks_what_is_rendered: "render-value",
    no_template_breaks_rendering: "render-template",
    no_reply_breaks_a_verdict: "verdict-reply",
    no_rules_break_a_verdict: "verdict-rules",
    no_text_breaks_the_configuration: "config",
}
