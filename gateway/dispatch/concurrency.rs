//! How many requests a partner bears at once, found by trying (`concurrency = "adaptive"`).
//!
//! Additive increase, multiplicative decrease, as TCP does it: each full round of answers that came as quickly as this
//! partner's best ones allows one more; an overload (a time-out, a broken connection, 429, 503 and other 5xx) takes a third off,
//! at most once a second, for the requests that were under way together tell of the same overload. Answers that take more
//! than twice as long as the best ones hold the number where it is: more at once would only wait there instead of here.
//!
//! Pure: time is an argument, and the caller keeps it behind its own lock.

use std::time::{Duration, Instant};

/// Where it begins.
pub const START: u32 = 4;
/// The most it finds.
pub const MOST: u32 = 128;
/// The pause between two decreases.
const CALM: Duration = Duration::from_secs(1);
/// After so many answers the best latency is looked for anew, for partners change.
const ANEW_AFTER: u32 = 1_000;
/// Latencies below this are all alike: what differs there is our own scheduling.
const QUICK: Duration = Duration::from_millis(20);

/// What an attempt says about the load that its partner bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// It was answered, after so long.
    Answered(Duration),
    /// It was too much.
    Overload,
    /// It says nothing.
    Unclear,
}

/// The number at present, and what it is based on.
#[derive(Debug, Clone)]
pub struct Adaptive {
    limit: f64,
    best: Option<Duration>,
    answers: u32,
    lowered: Option<Instant>,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { limit: f64::from(START), best: None, answers: 0, lowered: None }
    }
}

impl Adaptive {
    /// How many may run at once now; at least one.
    #[must_use]
    pub fn limit(&self) -> usize {
        // Between 1 and MOST.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "kept between 1 and MOST")]
        let whole = self.limit as usize;
        whole.max(1)
    }

    /// Takes note of an attempt that ended while `running` ran, itself included.
    pub fn learn(&mut self, load: Load, running: usize, now: Instant) {
        match load {
            Load::Unclear => {}
            Load::Overload => {
                if self.lowered.is_none_or(|at| now.duration_since(at) >= CALM) {
                    self.limit = (self.limit * 2.0 / 3.0).max(1.0);
                    self.lowered = Some(now);
                }
            }
            Load::Answered(latency) => {
                self.answers += 1;
                if self.answers >= ANEW_AFTER {
                    (self.answers, self.best) = (0, None);
                }
                let best = self.best.map_or(latency, |best| best.min(latency));
                self.best = Some(best);
                let slow = latency > best.max(QUICK) * 2;
                // A number that is not used up proves nothing.
                if !slow && running >= self.limit() {
                    self.limit = (self.limit + 1.0 / self.limit).min(f64::from(MOST));
                }
            }
        }
    }
}
