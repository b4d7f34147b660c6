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

/// What is known of an engine's commits.
#[derive(Debug)]
pub(super) struct Health {
    told: watch::Sender<Option<Trouble>>,
    commits: Mutex<Commits>,
}

#[derive(Debug)]
struct Commits {
    /// Since when the present one is under way.
    under_way: Option<Instant>,
    /// When the last one ended.
    last: Instant,
}

impl Default for Health {
    fn default() -> Self {
        let commits = Commits { under_way: None, last: clock::instant() };
        Self { told: watch::Sender::new(None), commits: Mutex::new(commits) }
    }
}

impl Health {
    /// A commit begins.
    pub(super) fn began(&self) {
        self.commits().under_way = Some(clock::instant());
    }

    /// It succeeded.
    pub(super) fn works(&self) {
        self.ended();
        self.tell(None);
    }

    /// It failed through no fault of what was to be written.
    pub(super) fn fails(&self, why: &str) {
        self.ended();
        self.tell(Some(Trouble::Fails(why.to_owned())));
    }

    /// It ended, and says nothing about the engine.
    pub(super) fn ended(&self) {
        let mut commits = self.commits();
        (commits.under_way, commits.last) = (None, clock::instant());
    }

    /// Looks at the clock; returns how much should be written to try it, if a commit should be tried, for nobody else may.
    fn look(&self) -> Option<u32> {
        let commits = self.commits();
        if let Some(since) = commits.under_way {
            let hangs = since.elapsed() > HANGS_AFTER;
            drop(commits);
            if hangs {
                self.tell(Some(Trouble::Hangs));
            }
            return None;
        }
        let idle = commits.last.elapsed() > IDLE_AFTER;
        drop(commits);
        if self.told.borrow().is_some() { Some(PROBE_AFTER_TROUBLE) } else { idle.then_some(PROBE) }
    }

    fn tell(&self, trouble: Option<Trouble>) {
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

    fn commits(&self) -> std::sync::MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
