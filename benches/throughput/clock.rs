//! One clock for all the processes of a benchmark.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on the machine's monotonic clock, which every process reads alike.
pub fn nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
