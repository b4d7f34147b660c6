//! How fast: at most so many in a time. Used toward partners (dispatch) and against sources (intake), and knows neither.
//!
//! Built on governor's cell rate algorithm (GCRA): some may go at once, the rest evenly. The time is an argument.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::model::units::Rate;

/// Lets through at a pace. Shared by reference; asking takes a few atomic steps and no lock.
#[derive(Debug)]
pub struct Pace {
    limiter: RateLimiter<NotKeyed, InMemoryState, HandClock, NoOpMiddleware<Nanos>>,
    hand: HandClock,
    start: Instant,
}

impl Pace {
    /// For a receiver that counts: **no** window of `rate.per` ever sees more than `rate.count`.
    ///
    /// A tenth of the count, at least one, may go at once; the rest follows evenly. The price of the guarantee is that
    /// a long rush goes at a little more than nine tenths of the rate: `50/10s` sends 5 at once and then one every
    /// 217 ms, which is 50 in the first ten seconds and 46 in any later ones.
    #[must_use]
    pub fn never_above(rate: Rate, start: Instant) -> Self {
        let burst = (rate.count / 10).max(1);
        // In a window there fit the burst and what is replenished in less than `per`: burst + (count - burst).
        let intervals = rate.count - burst + 1;
        Self::new(burst, rate.per, intervals, start)
    }

    /// For a sender that should not be refused needlessly: the whole count may come at once, and is replenished evenly.
    ///
    /// Over a long time it is `rate` exactly; a window that begins with a full burst may see up to twice the count.
    #[must_use]
    pub fn with_bursts(rate: Rate, start: Instant) -> Self {
        Self::new(rate.count, rate.per, rate.count, start)
    }

    fn new(burst: u32, per: Duration, intervals: u32, start: Instant) -> Self {
        // Rounded up to whole nanoseconds, so that it is never too fast. A hundred years (the longest `per`) and a full
        // burst of it stay within what governor can count.
        let each = per.as_nanos().div_ceil(u128::from(intervals.max(1))).clamp(1, u128::from(u64::MAX));
        let each = Duration::from_nanos(u64::try_from(each).unwrap_or(u64::MAX));
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(each).unwrap_or(Quota::per_second(burst)).allow_burst(burst);
        let hand = HandClock::default();
        Self { limiter: RateLimiter::direct_with_clock(quota, hand.clone()), hand, start }
    }

    /// Takes one place in the pace.
    ///
    /// # Errors
    /// How long to wait before asking again; nothing was taken. Others may ask in between.
    pub fn ready(&self, now: Instant) -> Result<(), Duration> {
        let now = self.hand.set(now.saturating_duration_since(self.start));
        // At least a millisecond: the timers are no finer.
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(now).max(Duration::from_millis(1)))
    }
}

/// A clock that shows what it was set to; it never goes back.
#[derive(Debug, Clone, Default)]
struct HandClock(Arc<AtomicU64>);

impl HandClock {
    fn set(&self, to: Duration) -> Nanos {
        let to = u64::try_from(to.as_nanos()).unwrap_or(u64::MAX);
        Nanos::new(self.0.fetch_max(to, Ordering::AcqRel).max(to))
    }
}

impl Clock for HandClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.load(Ordering::Acquire))
    }
}
