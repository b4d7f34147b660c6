//! Counts of latencies, to a hundredth of their value.

/// The longest that is told from longer ones, nanoseconds: ten minutes.
const LONGEST: u64 = 600_000_000_000;
/// Digits that are kept: to two, a latency is known to a hundredth.
const DIGITS: u8 = 2;

/// How often each latency came, nanoseconds.
pub struct Histogram(hdrhistogram::Histogram<u64>);

impl Histogram {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(hdrhistogram::Histogram::new_with_bounds(1, LONGEST, DIGITS)?))
    }

    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// The latencies that people read, milliseconds; zeros of none.
    pub fn percentiles(&self) -> Percentiles {
        let at = |part: f64| self.0.value_at_quantile(part) as f64 / 1e6;
        Percentiles {
            count: self.0.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max() as f64 / 1e6,
        }
    }
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Percentiles {
    /// The median of each, over several measurements.
    pub fn median(all: &[Self]) -> Self {
        let of = |read: fn(&Self) -> f64| super::figures::median(&all.iter().map(read).collect::<Vec<_>>());
        Self {
            count: all.iter().map(|one| one.count).sum(),
            p50: of(|one| one.p50),
            p99: of(|one| one.p99),
            p999: of(|one| one.p999),
            max: all.iter().map(|one| one.max).fold(0.0, f64::max),
        }
    }
}
