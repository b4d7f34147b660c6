//! The way to one contract's endpoint: how many attempts at once, how fast, and whether it works at all. What is learnt
//! of an endpoint outlives changes of the network that leave the endpoint alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock;
use crate::directory::ContractEntry;
use crate::dispatch::breaker::{self, Breaker, Health, Stand};
use crate::model::contract::Endpoint;
use crate::model::delivery::Judgement;
use crate::model::id::ContractId;
use crate::pace::Pace;

/// What an attempt takes beyond the endpoint's `timeout`: its commit before, and its recording after.
const AROUND_AN_EXCHANGE: Duration = Duration::from_secs(30);

/// The right to one attempt. Dropping it frees the place among those that run at once.
#[derive(Debug)]
pub struct Permit {
    _running: OwnedSemaphorePermit,
    lane: Arc<Lane>,
    breaker: Option<breaker::Permit>,
}

/// One contract's way out.
#[derive(Debug)]
pub struct Lane {
    running: Arc<Semaphore>,
    pace: Option<Pace>,
    breaker: Mutex<Breaker>,
}

impl Lane {
    fn new(endpoint: &Endpoint) -> Self {
        Self {
            running: Arc::new(Semaphore::new(endpoint.concurrency.max(1) as usize)),
            pace: endpoint.rate.map(|rate| Pace::never_above(rate, clock::instant())),
            breaker: Mutex::new(Breaker::new(endpoint.timeout.0 + AROUND_AN_EXCHANGE)),
        }
    }

    /// Whether one more may run at once.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.running.available_permits() > 0
    }

    /// Takes one of the pace.
    ///
    /// # Errors
    /// How long to wait until one is there.
    pub fn pace(&self) -> Result<(), Duration> {
        self.pace.as_ref().map_or(Ok(()), |pace| pace.ready(clock::instant()))
    }

    /// Leave to make one attempt, if one more may run and the breaker lets it.
    #[must_use]
    pub fn permit(self: &Arc<Self>, now: Timestamp) -> Option<Permit> {
        let running = Arc::clone(&self.running).try_acquire_owned().ok()?;
        let breaker = self.breaker().allow(now).ok()?;
        Some(Permit { _running: running, lane: Arc::clone(self), breaker: Some(breaker) })
    }

    /// Until when the breaker lets nobody through, if it is open.
    #[must_use]
    pub fn broken_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self.breaker().state(now) {
            Stand::Open { until } => Some(until),
            Stand::Closed | Stand::HalfOpen => None,
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Tells the breaker what came of the attempt.
    pub fn learn(&mut self, judgement: &Judgement, status: Option<u16>, now: Timestamp) {
        if let Some(permit) = self.breaker.take() {
            self.lane.breaker().record(now, permit, Health::of(judgement, status));
        }
    }

    /// No attempt was made after all.
    pub fn unused(mut self, now: Timestamp) {
        if let Some(permit) = self.breaker.take() {
            self.lane.breaker().record(now, permit, Health::Unclear);
        }
    }
}

/// The lanes of every contract, by contract, kept while its endpoint stays the same.
#[derive(Debug, Default)]
pub struct Lanes(RwLock<HashMap<ContractId, Known>>);

/// A lane, and the endpoint that it was made for.
type Known = (Arc<Endpoint>, Arc<Lane>);

impl Lanes {
    /// The contract's lane: the one it has, or a new one where its endpoint is new or has changed.
    pub fn lane(&self, entry: &ContractEntry) -> Arc<Lane> {
        let endpoint = &entry.contract.endpoint;
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&entry.contract.id).cloned();
        if let Some((same, lane)) = known
            && *same == *endpoint
        {
            return lane;
        }
        let lane = Arc::new(Lane::new(endpoint));
        let mut lanes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (same, kept) =
            lanes.entry(entry.contract.id.clone()).or_insert_with(|| (Arc::new(endpoint.clone()), Arc::clone(&lane)));
        if **same != *endpoint {
            (*same, *kept) = (Arc::new(endpoint.clone()), lane);
        }
        Arc::clone(kept)
    }
}
