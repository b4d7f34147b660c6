//! Counts of latencies, in slots that are each less than one per cent wide: recording is an addition, whatever the value.
//!
//! (The crate for this, hdrhistogram, had its last release in 2023; what is needed of it is these lines.)

/// Slots for each doubling, as a power of two: 128, so a slot is at most 1/128 of its value wide.
const FINE: u32 = 7;
const SLOTS: usize = (65 - FINE as usize) << FINE;

/// How often each latency came, nanoseconds.
pub struct Histogram {
    slots: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { slots: vec![0; SLOTS], count: 0, max: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, nanos: u64) {
        self.slots[slot(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// The latencies that people read, milliseconds.
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.count,
            p50: self.at(0.5),
            p99: self.at(0.99),
            p999: self.at(0.999),
            max: self.max as f64 / 1e6,
        }
    }

    /// What this part of them did not exceed, milliseconds; 0 of none.
    fn at(&self, part: f64) -> f64 {
        let wanted = (self.count as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (slot, count) in self.slots.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return upper(slot).min(self.max) as f64 / 1e6;
            }
        }
        0.0
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

fn slot(value: u64) -> usize {
    let shift = (64 - value.leading_zeros()).saturating_sub(FINE + 1);
    ((shift as usize) << FINE) + (value >> shift) as usize
}

/// The greatest value of a slot.
fn upper(slot: usize) -> u64 {
    let shift = (slot >> FINE).saturating_sub(1);
    let first = (slot - (shift << FINE)) as u64;
    ((first + 1) << shift).wrapping_sub(1)
}
