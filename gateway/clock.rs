//! Time and randomness, as arguments. Nothing else in the gateway may ask the machine for either (clippy forbids it),
//! so a test can hold the clock and replay a draw.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rand::Rng;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use uuid::{ContextV7, Uuid};

/// The gateway's source of wall-clock time, ids and random draws. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    source: Source,
    /// Keeps UUIDv7 ids strictly increasing within one process (RFC 9562, section 6.2).
    ids: Mutex<ContextV7>,
}

enum Source {
    System,
    Manual(watch::Sender<Timestamp>),
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

impl Clock {
    /// The machine's own clock.
    #[must_use]
    pub fn system() -> Self {
        Self::with(Source::System)
    }

    /// A clock that stands at `start` until [`Clock::set`] moves it.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self::with(Source::Manual(watch::Sender::new(start)))
    }

    fn with(source: Source) -> Self {
        Self(Arc::new(Inner { source, ids: Mutex::new(ContextV7::new()) }))
    }

    /// Now, cut to whole microseconds: the precision that the stores keep.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this file is the one place that may ask for the time")]
    pub fn now(&self) -> Timestamp {
        let now = match &self.0.source {
            Source::System => Timestamp::now(),
            Source::Manual(at) => *at.borrow(),
        };
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// Moves a manual clock; has no effect on the machine's.
    pub fn set(&self, at: Timestamp) {
        if let Source::Manual(now) = &self.0.source {
            now.send_replace(at);
        }
    }

    /// Returns once the clock has reached `at`.
    pub async fn sleep_until(&self, at: Timestamp) {
        match &self.0.source {
            // A wall clock may be set back while we sleep, and a long tokio sleep would not notice it being set
            // forward: look again at least every minute.
            Source::System => loop {
                let left = at.duration_since(self.now());
                if !left.is_positive() {
                    return;
                }
                let left = Duration::try_from(left).unwrap_or_default();
                tokio::time::sleep(left.min(Duration::from_mins(1))).await;
            },
            Source::Manual(now) => {
                let mut seen = now.subscribe();
                // The sender lives in `self`, so waiting cannot fail.
                let _ = seen.wait_for(|now| *now >= at).await;
            }
        }
    }

    /// A new UUIDv7 carrying the present time, greater than every one before it from this clock.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        let now = self.now();
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let nanos = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
        let ids = self.0.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Uuid::new_v7(uuid::Timestamp::from_unix(&*ids, seconds, nanos))
    }
}

/// A monotonic instant, for measuring how long something took.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this file is the one place that may ask for the time")]
pub fn instant() -> Instant {
    Instant::now()
}

/// How long the machine has been up, the time that it slept included: for leases, which run on for others while this machine
/// sleeps. (Of being paused from outside, as by a hypervisor, it knows nothing.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    /// So much later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// How long it is until then; nothing once it is past.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

/// Now, by the machine's uptime.
#[must_use]
pub fn uptime() -> Uptime {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let now = clock_gettime(CLOCK);
    let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    Uptime(Duration::new(seconds, nanos))
}

/// A uniform random number in `0.0..1.0`.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this file is the one place that may draw at random")]
pub fn draw() -> f64 {
    rand::RngExt::random::<f64>(&mut rand::rng())
}

/// Random bytes for keys and tokens, from the operating system's generator by way of a CSPRNG.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this file is the one place that may draw at random")]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// An id that says nothing but that it is another one (UUIDv4).
#[must_use]
pub fn random_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(random_bytes()).into_uuid()
}
