//! Whether the store takes writes now. What the engine finds out while it commits is told here; whoever would only add to
//! its trouble asks first: runners start nothing, posts are refused at once, `/readyz` says why.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Store, StoreError};
use crate::clock;

/// A commit that takes longer than this hangs. The sync of a busy disk takes tenths of a second.
const HANGS_AFTER: Duration = Duration::from_secs(2);
/// Without a commit for so long, nobody knows whether one would succeed.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// Bytes written to see whether a commit would succeed.
const PROBE: u32 = 1;
/// After a failure: as much as some leads, so that a disk with room for nothing else is not called well.
const PROBE_AFTER_TROUBLE: u32 = 64 << 10;

/// What keeps the store from taking writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The last commit failed, for this reason, and not through what was to be written.
    Fails(String),
    /// The present commit is under way for longer than any should be.
    Hangs,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fails(why) => write!(f, "commits fail: {why}"),
            Self::Hangs => f.write_str("a commit hangs"),
        }
    }
}

impl Store {
    /// What keeps it from taking writes now, as far as is known.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.health().told.borrow().clone()
    }

    /// Returns once no trouble is known.
    pub async fn well(&self) {
        // The sender lives as long as the store.
        let _ = self.health().told.subscribe().wait_for(Option::is_none).await;
    }

    /// Finds out what nobody else would: that a commit hangs; and, where none was made for a while or the last one failed,
    /// whether one would succeed. To be called about every second.
    ///
    /// # Errors
    /// When the store takes no writes.
    pub async fn look_after(&self) -> Result<(), StoreError> {
        match self.health().look() {
            Some(bytes) => on_engine!(self, db => db.probe(bytes).await),
            None => Ok(()),
        }
    }

    fn health(&self) -> &Health {
        on_engine!(self, db => db.health())
    }
}

/// What is known of an engine's commits, in each of the lanes that commit beside each other.
#[derive(Debug)]
pub(super) struct Health {
    told: watch::Sender<Option<Trouble>>,
    lanes: Mutex<Vec<Commits>>,
}

#[derive(Debug, Clone)]
struct Commits {
    /// Since when the present one is under way.
    under_way: Option<Instant>,
    /// It is under way for too long.
    hangs: bool,
    /// Why the last one failed, if it did.
    fails: Option<String>,
    /// When the last one ended.
    last: Instant,
}

impl Health {
    /// That of an engine with so many lanes, which are counted from 0.
    pub(super) fn of(lanes: usize) -> Self {
        let commits = Commits { under_way: None, hangs: false, fails: None, last: clock::instant() };
        Self { told: watch::Sender::new(None), lanes: Mutex::new(vec![commits; lanes]) }
    }

    /// A commit begins.
    pub(super) fn began(&self, lane: usize) {
        self.lanes()[lane].under_way = Some(clock::instant());
    }

    /// It succeeded.
    pub(super) fn works(&self, lane: usize) {
        self.change(lane, |commits| {
            commits.end();
            commits.fails = None;
        });
    }

    /// It failed through no fault of what was to be written.
    pub(super) fn fails(&self, lane: usize, why: &str) {
        self.change(lane, |commits| {
            commits.end();
            commits.fails = Some(why.to_owned());
        });
    }

    /// It ended, and says nothing about the engine.
    pub(super) fn ended(&self, lane: usize) {
        self.change(lane, Commits::end);
    }

    /// What a commit beside the lanes showed, for all of them.
    pub(super) fn probed(&self, fails: Option<&str>) {
        let mut lanes = self.lanes();
        for commits in lanes.iter_mut() {
            commits.fails = fails.map(str::to_owned);
            commits.last = clock::instant();
        }
        self.tell(&lanes);
    }

    /// Looks at the clock; returns how much should be written to try it, if a commit should be tried, for nobody else may.
    fn look(&self) -> Option<u32> {
        let mut lanes = self.lanes();
        for commits in lanes.iter_mut() {
            commits.hangs = commits.under_way.is_some_and(|since| since.elapsed() > HANGS_AFTER);
        }
        self.tell(&lanes);
        if lanes.iter().any(|commits| commits.hangs) {
            return None;
        }
        if lanes.iter().any(|commits| commits.fails.is_some()) {
            return Some(PROBE_AFTER_TROUBLE);
        }
        let idle = |commits: &Commits| commits.under_way.is_none() && commits.last.elapsed() > IDLE_AFTER;
        lanes.iter().all(idle).then_some(PROBE)
    }

    fn change(&self, lane: usize, change: impl FnOnce(&mut Commits)) {
        let mut lanes = self.lanes();
        change(&mut lanes[lane]);
        self.tell(&lanes);
    }

    /// A lane that works does not speak for one that does not.
    fn tell(&self, lanes: &[Commits]) {
        let fails = lanes.iter().find_map(|commits| commits.fails.clone()).map(Trouble::Fails);
        let hangs = lanes.iter().any(|commits| commits.hangs).then_some(Trouble::Hangs);
        let trouble = fails.or(hangs);
        self.told.send_if_modified(|told| {
            let changed = *told != trouble;
            if changed {
                if let Some(trouble) = &trouble {
                    tracing::error!(store.trouble = %trouble, "the store takes no writes: posts are answered 503, nothing is sent");
                } else {
                    tracing::info!("the store takes writes again");
                }
                *told = trouble;
            }
            changed
        });
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Commits>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Commits {
    fn end(&mut self) {
        (self.under_way, self.hangs, self.last) = (None, false, clock::instant());
    }
}
