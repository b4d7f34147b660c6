//! `gateway_stage_seconds`: how long the stages of a lead take. Recorded straight into buckets, for there are some six
//! samples a lead: looked up by name and kept until somebody reads them, they would cost more than what they measure.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The series' name.
const NAME: &str = "gateway_stage_seconds";

/// The upper bounds of the buckets, and how they are written: seconds.
const BOUNDS: [(Duration, &str); 15] = [
    (Duration::from_millis(1), "0.001"),
    (Duration::from_millis(2), "0.002"),
    (Duration::from_millis(5), "0.005"),
    (Duration::from_millis(10), "0.01"),
    (Duration::from_millis(20), "0.02"),
    (Duration::from_millis(50), "0.05"),
    (Duration::from_millis(100), "0.1"),
    (Duration::from_millis(200), "0.2"),
    (Duration::from_millis(500), "0.5"),
    (Duration::from_secs(1), "1"),
    (Duration::from_secs(2), "2"),
    (Duration::from_secs(5), "5"),
    (Duration::from_secs(10), "10"),
    (Duration::from_secs(30), "30"),
    (Duration::from_mins(1), "60"),
];

/// A stage's histogram.
struct Stage {
    name: &'static str,
    /// How many fell between a bound and the one before it; the last one has those beyond all.
    counts: [AtomicU64; BOUNDS.len() + 1],
    /// All of them together, the bits of an `f64`: seconds.
    sum: AtomicU64,
}

impl Stage {
    const fn new(name: &'static str) -> Self {
        Self { name, counts: [const { AtomicU64::new(0) }; BOUNDS.len() + 1], sum: AtomicU64::new(0) }
    }

    fn record(&self, took: Duration) {
        let bucket = BOUNDS.iter().take_while(|(bound, _)| took > *bound).count();
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let add = |sum| Some((f64::from_bits(sum) + took.as_secs_f64()).to_bits());
        // Ends with the first one that nobody else comes between; it refuses nothing.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Its lines; none where it has never been passed.
    fn write(&self, out: &mut String) {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let (count, sum) = (counts.iter().sum::<u64>(), f64::from_bits(self.sum.load(Ordering::Relaxed)));
        if count == 0 {
            return;
        }
        let stage = self.name;
        let mut below = 0;
        for (within, (_, bound)) in counts.iter().zip(BOUNDS) {
            below += within;
            let _ = writeln!(out, "{NAME}_bucket{{stage=\"{stage}\",le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{NAME}_bucket{{stage=\"{stage}\",le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{NAME}_sum{{stage=\"{stage}\"}} {sum}");
        let _ = writeln!(out, "{NAME}_count{{stage=\"{stage}\"}} {count}");
    }
}

/// Every stage that is measured.
static STAGES: [Stage; 7] = [
    Stage::new("intake"),
    Stage::new("accept_commit"),
    Stage::new("token"),
    Stage::new("render"),
    Stage::new("attempt_commit"),
    Stage::new("dispatch"),
    Stage::new("completion_commit"),
];

/// A stage took so long.
pub(super) fn record(stage: &'static str, took: Duration) {
    let known = STAGES.iter().find(|known| known.name == stage);
    debug_assert!(known.is_some(), "{stage} is no stage that is measured");
    if let Some(known) = known {
        known.record(took);
    }
}

/// Adds the series to what `/metrics` answers.
pub(super) fn write(out: &mut String, help: &str) {
    let mut lines = String::new();
    STAGES.iter().for_each(|stage| stage.write(&mut lines));
    if !lines.is_empty() {
        let _ = writeln!(out, "# HELP {NAME} {help}\n# TYPE {NAME} histogram\n{lines}");
    }
}

#[cfg(test)]
mod tests {
    use metrics::Recorder as _;
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

    use super::*;

    #[test]
    fn a_stage_is_written_as_the_exporter_writes_a_histogram() {
        let bounds: Vec<f64> = BOUNDS.iter().map(|(_, written)| written.parse().unwrap()).collect();
        assert_eq!(bounds, BOUNDS.map(|(bound, _)| bound.as_secs_f64()));
        let exporter = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(NAME.to_owned()), &bounds)
            .unwrap()
            .build_recorder();
        exporter.describe_histogram(NAME.into(), None, "help".into());
        let (ours, key) = (Stage::new("render"), metrics::Key::from_parts(NAME, &[("stage", "render")]));
        let metadata = metrics::Metadata::new("", metrics::Level::INFO, None);
        let theirs = exporter.register_histogram(&key, &metadata);
        // At each bound, beside it, and far from all.
        let each_side = |(bound, _): (Duration, _)| {
            [bound.saturating_sub(Duration::from_micros(3)), bound, bound + Duration::from_micros(3)]
        };
        let samples = BOUNDS.into_iter().flat_map(each_side);
        for took in samples.chain([Duration::ZERO, Duration::from_hours(30)]) {
            ours.record(took);
            theirs.record(took.as_secs_f64());
        }
        let mut written = String::new();
        ours.write(&mut written);
        let theirs = exporter.handle().render();
        let theirs = theirs.strip_prefix(&format!("# HELP {NAME} help\n# TYPE {NAME} histogram\n")).unwrap();
        assert_eq!(written, theirs.trim_end().to_owned() + "\n");
    }

    #[test]
    fn a_stage_that_was_never_passed_is_not_shown() {
        let mut written = String::new();
        Stage::new("token").write(&mut written);
        assert_eq!(written, "");
    }
}
