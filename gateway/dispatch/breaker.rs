//! A contract's breaker: stops sending to an endpoint that is in trouble, and finds out when it is well again.
//!
//! ```text
//!            5 troubles in a row, or one misconfiguration
//!   closed ────────────────────────────────────────────▶ open ──30 s, then double, at most 10 min──▶ half-open
//!     ▲                                                   ▲                                            │
//!     │                                                   └──────────────the probe is in trouble───────┤
//!     └──────────────────────────a definite answer─────────────────────────────────────────────────────┘
//! ```
//!
//! Pure: time is an argument, and the caller keeps it behind its own lock.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::delivery::{Class, Judgement, Verdict};

/// Troubles in a row that open it.
pub const THRESHOLD: u32 = 5;

/// How long it stays open at first.
pub const OPEN_FIRST: Duration = Duration::from_secs(30);

/// How long it stays open at most, after doubling.
pub const OPEN_MAX: Duration = Duration::from_mins(10);

/// What an attempt says about the endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It gave a definite answer.
    Well,
    /// It is there, but the answer settles nothing: a 429, a reply that no rule explains, a crash of our own.
    Unclear,
    /// It could not be reached, fell silent, broke off, or said it is in trouble (5xx).
    Trouble,
    /// It refuses us: our settings are wrong, and every lead would meet the same.
    Misconfigured,
}

impl Health {
    /// What a judged attempt says; `status` is its reply's.
    #[must_use]
    pub fn of(judgement: &Judgement, status: Option<u16>) -> Self {
        match (judgement.class, judgement.verdict) {
            (Class::Configuration, _) => Self::Misconfigured,
            (Class::NotSent | Class::Timeout | Class::Reset | Class::Incomplete, _) => Self::Trouble,
            (Class::Response, Verdict::Accepted | Verdict::Rejected | Verdict::Duplicate) => Self::Well,
            (Class::Response, _) if status.is_some_and(|status| status >= 500) => Self::Trouble,
            (Class::Response | Class::Crash, _) => Self::Unclear,
        }
    }
}

/// Leave to make one attempt. Give it back with [`Breaker::record`], also when the attempt was not made after all
/// ([`Health::Unclear`]); one that is lost ends by itself.
#[derive(Debug)]
#[must_use = "record what came of it"]
pub struct Permit {
    /// The probe's number; `None` while the breaker is closed.
    probe: Option<u64>,
}

/// How a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// Attempts pass.
    Closed,
    /// None passes before then. While a probe is out that is when the probe is given up for lost; its report may come
    /// sooner, so ask again after every [`Breaker::record`].
    Open {
        /// The next time at which an attempt can pass.
        until: Timestamp,
    },
    /// The next attempt passes as a probe.
    HalfOpen,
}

/// One endpoint's breaker.
#[derive(Debug)]
pub struct Breaker {
    /// How long a probe may be out before another may be sent: longer than an exchange can take.
    probe_for: Duration,
    phase: Phase,
    /// Probes so far, to tell them apart.
    probes: u64,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed { troubles: u32 },
    Open { until: Timestamp, lasted: Duration, probe: Option<Probe> },
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    number: u64,
    lost_at: Timestamp,
}

impl Breaker {
    /// A closed one. `probe_for`: how long an attempt can take at most, from its permit to its record.
    #[must_use]
    pub fn new(probe_for: Duration) -> Self {
        Self { probe_for, phase: Phase::Closed { troubles: 0 }, probes: 0 }
    }

    /// How it stands, without asking for a permit.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> Stand {
        match self.phase {
            Phase::Closed { .. } => Stand::Closed,
            Phase::Open { until, .. } if now < until => Stand::Open { until },
            Phase::Open { probe: Some(Probe { lost_at, .. }), .. } if now < lost_at => Stand::Open { until: lost_at },
            Phase::Open { .. } => Stand::HalfOpen,
        }
    }

    /// Leave to make an attempt.
    ///
    /// # Errors
    /// While it is open, or half-open with its one probe out: the time to ask again.
    pub fn allow(&mut self, now: Timestamp) -> Result<Permit, Timestamp> {
        match self.state(now) {
            Stand::Closed => Ok(Permit { probe: None }),
            Stand::Open { until } => Err(until),
            Stand::HalfOpen => {
                self.probes += 1;
                let number = self.probes;
                if let Phase::Open { probe, .. } = &mut self.phase {
                    *probe = Some(Probe { number, lost_at: after(now, self.probe_for) });
                }
                Ok(Permit { probe: Some(number) })
            }
        }
    }

    /// What came of an attempt.
    ///
    /// Attempts that started before it opened, and probes given up for lost, count only when they end well.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is used up by its record")]
    pub fn record(&mut self, now: Timestamp, permit: Permit, health: Health) {
        match (&mut self.phase, health) {
            (_, Health::Well) => self.phase = Phase::Closed { troubles: 0 },
            (Phase::Closed { .. }, Health::Unclear) => {}
            (Phase::Closed { troubles }, Health::Trouble) => {
                *troubles += 1;
                if *troubles >= THRESHOLD {
                    self.open(now, OPEN_FIRST);
                }
            }
            (Phase::Closed { .. }, Health::Misconfigured) => self.open(now, OPEN_FIRST),
            (Phase::Open { probe, lasted, .. }, _) => {
                if permit.probe.is_none() || probe.map(|probe| probe.number) != permit.probe {
                    return;
                }
                *probe = None;
                if health != Health::Unclear {
                    let longer = lasted.saturating_mul(2).min(OPEN_MAX);
                    self.open(now, longer);
                }
            }
        }
    }

    fn open(&mut self, now: Timestamp, lasted: Duration) {
        self.phase = Phase::Open { until: after(now, lasted), lasted, probe: None };
    }
}

fn after(now: Timestamp, time: Duration) -> Timestamp {
    now.checked_add(time).unwrap_or(Timestamp::MAX)
}
