//! When to try again.
//!
//! The crate `backoff` is named by the design and no longer maintained (RUSTSEC-2025-0012), so it is used here alone,
//! and only for the doubling: its own jitter and its own clock would bring ambient randomness and time.

use std::fmt;
use std::time::{Duration, Instant};

use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;
use jiff::{SignedDuration, Timestamp};

use crate::model::contract::Retry;

/// The longest `Retry-After` that is honoured.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// How far a pause may be off its interval, either way: it spreads the leads that failed together.
const JITTER: f64 = 0.2;

/// Doublings after which any `first` (at least a millisecond) has passed any `max` (at most a hundred years).
const DOUBLINGS: u32 = 64;

/// What to do with a retryable delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// The next attempt is due then.
    At(Timestamp),
    /// It has failed.
    GiveUp(GiveUp),
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// `max_attempts` were made.
    AttemptsUsed(u32),
    /// The next one would fall beyond `give_up_after`.
    TooLate(Duration),
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttemptsUsed(1) => f.write_str("the one attempt was made"),
            Self::AttemptsUsed(made) => write!(f, "all {made} attempts were made"),
            Self::TooLate(limit) => write!(f, "the next attempt would come later than {limit:?} after the first"),
        }
    }
}

/// What is known of a delivery when its last attempt turned out retryable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Attempts so far, the last one included.
    pub attempts: u32,
    /// When the first one started.
    pub first_at: Timestamp,
    /// How long it has been held in all since then; that does not count.
    pub held: Duration,
    /// What the last reply asked for.
    pub retry_after: Option<Duration>,
}

/// When the next attempt is due, or why there is none. `draw` is uniform in `0.0..1.0`.
#[must_use]
pub fn plan(retry: &Retry, tried: Tried, now: Timestamp, draw: f64) -> Again {
    if tried.attempts >= retry.max_attempts {
        return Again::GiveUp(GiveUp::AttemptsUsed(tried.attempts));
    }
    let asked = tried.retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
    let pause = next_delay(retry, tried.attempts, draw).max(asked);
    let too_late = Again::GiveUp(GiveUp::TooLate(retry.give_up_after.0));
    let Ok(due) = now.checked_add(pause) else { return too_late };

    let held = SignedDuration::try_from(tried.held).unwrap_or(SignedDuration::MAX);
    let limit = SignedDuration::try_from(retry.give_up_after.0).unwrap_or(SignedDuration::MAX);
    if due.duration_since(tried.first_at).saturating_sub(held) > limit { too_late } else { Again::At(due) }
}

/// The pause after so many attempts: `first`, doubled after each further one up to `max`, give or take a fifth by
/// `draw`, and never more than `max`.
#[must_use]
pub fn next_delay(retry: &Retry, attempts_made: u32, draw: f64) -> Duration {
    let at_rest = crate::clock::instant();
    let mut intervals = ExponentialBackoff {
        current_interval: retry.first.0,
        initial_interval: retry.first.0,
        randomization_factor: 0.0,
        multiplier: 2.0,
        max_interval: retry.max.0,
        start_time: at_rest,
        max_elapsed_time: None,
        clock: AtRest(at_rest),
    };
    for _ in 1..attempts_made.min(DOUBLINGS) {
        intervals.next_backoff();
    }
    let interval = intervals.current_interval.min(retry.max.0);
    let spread = 1.0 + JITTER * (2.0 * draw.clamp(0.0, 1.0) - 1.0);
    Duration::try_from_secs_f64(interval.as_secs_f64() * spread).unwrap_or(retry.max.0).min(retry.max.0)
}

/// A clock that stands still: only the intervals are wanted.
struct AtRest(Instant);

impl backoff::Clock for AtRest {
    fn now(&self) -> Instant {
        self.0
    }
}
