//! What operators see: log lines and metrics. Neither ever carries a lead's value, a body or a secret; labels are ids
//! from the configuration and words of fixed vocabularies.

mod counts;
mod stages;

pub use counts::Counts;

use std::io::IsTerminal as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::model::delivery::{Class, Delivery, DeliveryState, Verdict};
use crate::store::CommitStats;

/// Starts logging: text on a terminal, JSON lines otherwise, unless configured. Later calls have no effect.
pub fn start_logging(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // A subscriber that is already there (a test's) stays.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.with_ansi(terminal).try_init() };
}

/// What was counted.
#[derive(Debug, Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// What `/metrics` answers.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.0.render();
        stages::write(&mut text, "How long a stage took");
        text
    }
}

/// Starts counting. Where a recorder is already installed (a second gateway in one process), counting goes on there.
#[must_use]
pub fn start_metrics() -> Metrics {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        describe();
    }
    Metrics(handle)
}

fn describe() {
    describe_counter!("gateway_leads_total", "Posts answered, by source, campaign and result");
    describe_counter!("gateway_deliveries_total", "Deliveries that reached a state, by partner, contract and state");
    describe_counter!("gateway_attempts_total", "Attempts that ended, by partner, contract, verdict and class");
    describe_counter!("gateway_gate_answers_total", "What gates answered, by contract and answer");
    describe_gauge!("gateway_queue_depth", "Deliveries waiting at a contract");
    describe_gauge!("gateway_queue_oldest_seconds", "Age of the oldest ready delivery at a contract");
    describe_gauge!("gateway_unknown_deliveries", "Deliveries whose outcome a person must decide");
    describe_gauge!("gateway_gate_up", "1 while what the gate counts in answers; 0: the store alone keeps the limits");
    describe_gauge!("gateway_breaker_open", "1 while a contract's breaker is open");
    describe_gauge!("gateway_fleet_gateways", "Gateways that live on the same store, this one included");
    describe_counter!("gateway_store_commits_total", "Commits of the store");
    describe_counter!("gateway_store_commit_jobs_total", "Writes in those commits");
    describe_counter!("gateway_store_commit_microseconds_total", "Time spent in them, syncs included");
    describe_counter!("gateway_store_commit_failures_total", "Commits that failed");
    describe_gauge!("gateway_attempts_under_way", "Attempts under way, all contracts together");
    describe_gauge!("gateway_store_trouble", "1 while the store takes no writes");
    describe_gauge!("gateway_store_bytes", "The store's size on disk");
}

/// How many attempts are under way.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
pub fn under_way(attempts: usize) {
    gauge!("gateway_attempts_under_way").set(attempts as f64);
}

/// Whether the store takes no writes now.
pub fn store_trouble(trouble: bool) {
    gauge!("gateway_store_trouble").set(if trouble { 1.0 } else { 0.0 });
}

/// A post was answered; `counts` are the source's.
pub fn lead_answered(counts: &Counts, source: &str, campaign: &str, result: &'static str) {
    counts.one(["gateway_leads_total", result, ""], || {
        counter!("gateway_leads_total", "source" => source.to_owned(), "campaign" => campaign.to_owned(), "result" => result)
    });
}

/// A stage took so long: `intake` (the whole post), `accept_commit`, `token`, `render`, `attempt_commit`, `dispatch`,
/// `completion_commit`.
pub fn stage(stage: &'static str, took: Duration) {
    stages::record(stage, took);
}

/// A delivery reached a state; `counts` are those of its contract, if that is still there and its partner's.
pub fn delivery_ended(counts: Option<&Counts>, delivery: &Delivery, state: DeliveryState) {
    counts.unwrap_or(&Counts::default()).one(["gateway_deliveries_total", state.as_str(), ""], || {
        counter!("gateway_deliveries_total", "partner" => delivery.partner.to_string(),
                 "contract" => delivery.contract.to_string(), "state" => state.as_str())
    });
}

/// An attempt ended; `counts` are those of its contract, if that is still its partner's.
pub fn attempt_ended(counts: Option<&Counts>, delivery: &Delivery, verdict: Verdict, class: Class) {
    counts.unwrap_or(&Counts::default()).one(["gateway_attempts_total", verdict.as_str(), class.as_str()], || {
        counter!("gateway_attempts_total", "partner" => delivery.partner.to_string(),
                 "contract" => delivery.contract.to_string(), "verdict" => verdict.as_str(), "class" => class.as_str())
    });
}

/// A gate answered: `open`, or why it is shut; `counts` are the contract's.
pub fn gate_answered(counts: &Counts, contract: &str, answer: &'static str) {
    counts.one(
        ["gateway_gate_answers_total", answer, ""],
        || counter!("gateway_gate_answers_total", "contract" => contract.to_owned(), "answer" => answer),
    );
}

/// What waits at a contract; `None` leaves the depth as it was.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
pub fn queue(contract: &str, depth: Option<u64>, oldest: Option<Timestamp>, now: Timestamp) {
    if let Some(depth) = depth {
        gauge!("gateway_queue_depth", "contract" => contract.to_owned()).set(depth as f64);
    }
    let age = oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0));
    gauge!("gateway_queue_oldest_seconds", "contract" => contract.to_owned()).set(age);
}

/// How many deliveries a person must decide.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
pub fn unknown(deliveries: u64) {
    gauge!("gateway_unknown_deliveries").set(deliveries as f64);
}

/// How many gateways share the work.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
pub fn gateways(living: usize) {
    gauge!("gateway_fleet_gateways").set(living as f64);
}

/// Whether what the gate counts in answers.
pub fn gate(up: bool) {
    gauge!("gateway_gate_up").set(if up { 1.0 } else { 0.0 });
}

/// Whether a contract's breaker is open.
pub fn breaker(contract: &str, open: bool) {
    gauge!("gateway_breaker_open", "contract" => contract.to_owned()).set(if open { 1.0 } else { 0.0 });
}

/// What the store's writer has done, and how large the store is.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
pub fn store(stats: &CommitStats, bytes: u64) {
    counter!("gateway_store_commits_total").absolute(stats.commits.load(Ordering::Relaxed));
    counter!("gateway_store_commit_jobs_total").absolute(stats.jobs.load(Ordering::Relaxed));
    counter!("gateway_store_commit_microseconds_total").absolute(stats.micros.load(Ordering::Relaxed));
    counter!("gateway_store_commit_failures_total").absolute(stats.failures.load(Ordering::Relaxed));
    gauge!("gateway_store_bytes").set(bytes as f64);
}
