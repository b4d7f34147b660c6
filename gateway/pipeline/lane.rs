//! The way to one contract's endpoint: how many attempts at once, how fast, and whether it works at all. What is learnt
//! of an endpoint outlives changes of the network that leave the endpoint alone.
//!
//! Several gateways divide an endpoint's `concurrency` and `rate` evenly; each has one at once at the least, so that its
//! deliveries are never stuck. What `adaptive` finds out needs no dividing: each finds its own share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::clock;
use crate::directory::ContractEntry;
use crate::dispatch::breaker::{self, Breaker, Health, Stand};
use crate::dispatch::concurrency::{Adaptive, Load};
use crate::model::contract::{Auth, Concurrency, Contract, Endpoint};
use crate::model::delivery::{Class, Judgement, Verdict};
use crate::model::id::ContractId;
use crate::model::units::Rate;
use crate::pace::Pace;

/// What an attempt takes beyond the endpoint's `timeout`: its commit before, and its recording after.
const AROUND_AN_EXCHANGE: Duration = Duration::from_secs(30);

/// How long an endpoint whose `url` could not be reached is delivered to at its `backup_url` first.
const BACKUP_FIRST: Duration = Duration::from_secs(30);

/// The right to one attempt. Its place among the open requests of its endpoint is free when the reply is there
/// ([`Permit::replied`]); dropping it frees that and the one among all that is under way.
#[derive(Debug)]
pub struct Permit {
    lane: Arc<Lane>,
    breaker: Option<breaker::Permit>,
    open: bool,
}

/// What all lanes together may have under way, so that sockets and memory stay bounded however many contracts open at
/// the same instant. A lane may always have one; beyond half of the whole, no more than its share.
#[derive(Debug)]
struct Crowd {
    at_most: usize,
    under_way: AtomicUsize,
    /// Lanes that have any.
    lanes: AtomicUsize,
}

impl Crowd {
    /// Whether a lane that has so many under way may have one more.
    fn lets(&self, running: usize) -> bool {
        let under_way = self.under_way.load(Ordering::Acquire);
        let share = || self.at_most / 2 / self.lanes.load(Ordering::Acquire).max(1);
        running == 0 || (under_way < self.at_most && (under_way < self.at_most / 2 || running < share()))
    }

    fn enter(&self, running: usize) {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        if running == 0 {
            self.lanes.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn leave(&self, running: usize) {
        self.under_way.fetch_sub(1, Ordering::AcqRel);
        if running == 0 {
            self.lanes.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Whether a lane may have one more attempt under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// It may.
    Free,
    /// Not until one of its own requests is answered.
    Full,
    /// Not until one of its own or of the others' has ended.
    Crowded,
}

/// One contract's way out.
#[derive(Debug)]
pub struct Lane {
    crowd: Arc<Crowd>,
    /// Requests that are open at the endpoint, or about to be.
    open: AtomicUsize,
    /// Attempts that are under way: also those whose outcome is being recorded.
    running: AtomicUsize,
    at_once: AtOnce,
    pace: Option<SharedPace>,
    gateways: Arc<AtomicUsize>,
    breaker: Mutex<Breaker>,
    unreachable: Mutex<Option<Instant>>,
}

/// How many attempts may run at the same time.
#[derive(Debug)]
enum AtOnce {
    Fixed(usize),
    Adaptive(Mutex<Adaptive>),
}

impl AtOnce {
    fn limit(&self, gateways: usize) -> usize {
        match self {
            Self::Fixed(many) => (*many / gateways).max(1),
            Self::Adaptive(adaptive) => adaptive.lock().unwrap_or_else(PoisonError::into_inner).limit(),
        }
    }
}

/// This gateway's part of an endpoint's rate.
#[derive(Debug)]
struct SharedPace {
    rate: Rate,
    /// The pace, and for how many gateways it was made.
    part: ArcSwap<(usize, Pace)>,
}

impl SharedPace {
    fn new(rate: Rate, gateways: usize, now: Instant) -> Self {
        Self { rate, part: ArcSwap::from_pointee((gateways, Pace::never_above(rate.part_of(gateways), now))) }
    }

    fn ready(&self, gateways: usize, now: Instant) -> Result<(), Duration> {
        let part = self.part.load();
        if part.0 == gateways {
            return part.1.ready(now);
        }
        let pace = Pace::never_above(self.rate.part_of(gateways), now);
        // What may go at once was sent under the old division.
        while pace.ready(now).is_ok() {}
        self.part.store(Arc::new((gateways, pace)));
        self.part.load().1.ready(now)
    }
}

/// The longest that an attempt may take, from its permit on.
fn longest_attempt(endpoint: &Endpoint) -> Duration {
    let token =
        if matches!(endpoint.auth.as_deref(), Some(Auth::Oauth2(_))) { endpoint.timeout.0 } else { Duration::ZERO };
    AROUND_AN_EXCHANGE.saturating_add(endpoint.longest_exchange()).saturating_add(token)
}

impl Lane {
    fn new(endpoint: &Endpoint, crowd: Arc<Crowd>, gateways: &Arc<AtomicUsize>) -> Self {
        Self {
            crowd,
            open: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            at_once: match endpoint.concurrency {
                Concurrency::Fixed(many) => AtOnce::Fixed(many.max(1) as usize),
                Concurrency::Adaptive => AtOnce::Adaptive(Mutex::default()),
            },
            pace: endpoint.rate.map(|rate| SharedPace::new(rate, sharing(gateways), clock::instant())),
            gateways: Arc::clone(gateways),
            breaker: Mutex::new(Breaker::new(longest_attempt(endpoint))),
            unreachable: Mutex::default(),
        }
    }

    /// Whether one more may run at once.
    #[must_use]
    pub fn space(&self) -> Space {
        let open = self.open.load(Ordering::Acquire);
        let lets = self.crowd.lets(self.running.load(Ordering::Acquire));
        match (open < self.at_once.limit(sharing(&self.gateways)), lets) {
            (false, _) => Space::Full,
            (true, false) => Space::Crowded,
            (true, true) => Space::Free,
        }
    }

    /// Whether the endpoint could not be reached at its `url` a moment ago.
    #[must_use]
    pub fn backup_first(&self) -> bool {
        let since = *self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| clock::instant().duration_since(since) < BACKUP_FIRST)
    }

    /// The endpoint's `url` could, or could not, be reached.
    pub fn reached(&self, it_was: bool) {
        let now = (!it_was).then(clock::instant);
        *self.unreachable.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Takes one of the pace.
    ///
    /// # Errors
    /// How long to wait until one is there.
    pub fn pace(&self) -> Result<(), Duration> {
        self.pace.as_ref().map_or(Ok(()), |pace| pace.ready(sharing(&self.gateways), clock::instant()))
    }

    /// Leave to make one attempt, if one more may run and the breaker lets it.
    #[must_use]
    pub fn permit(self: &Arc<Self>, now: Timestamp) -> Option<Permit> {
        let limit = self.at_once.limit(sharing(&self.gateways));
        let more = |open: usize| (open < limit).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        self.crowd.enter(self.running.fetch_add(1, Ordering::AcqRel));
        // From here on dropping it makes room again.
        let mut permit = Permit { lane: Arc::clone(self), breaker: None, open: true };
        permit.breaker = Some(self.breaker().allow(now).ok()?);
        Some(permit)
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
    /// The lane it is for.
    #[must_use]
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// No request is open any more: another may be, while this one's outcome is recorded.
    pub fn replied(&mut self) {
        if std::mem::take(&mut self.open) {
            self.lane.open.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Tells the lane what came of the attempt, which took so long.
    pub fn learn(&mut self, judgement: &Judgement, status: Option<u16>, took: Duration, now: Timestamp) {
        if let AtOnce::Adaptive(adaptive) = &self.lane.at_once {
            let running = self.lane.open.load(Ordering::Acquire);
            let mut adaptive = adaptive.lock().unwrap_or_else(PoisonError::into_inner);
            adaptive.learn(load(judgement, status, took), running, clock::instant());
        }
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

impl Drop for Permit {
    fn drop(&mut self) {
        self.replied();
        let running = self.lane.running.fetch_sub(1, Ordering::AcqRel);
        self.lane.crowd.leave(running - 1);
    }
}

/// What an attempt says about the load that its endpoint bears.
fn load(judgement: &Judgement, status: Option<u16>, took: Duration) -> Load {
    match (judgement.class, judgement.verdict, status) {
        // Also with a 500: SOAP 1.1 has every fault come as one.
        (Class::Response, Verdict::Accepted | Verdict::Rejected | Verdict::Duplicate, _) => Load::Answered(took),
        (Class::Timeout | Class::Reset, ..) | (_, _, Some(429 | 500..)) => Load::Overload,
        (Class::Response, _, Some(_)) => Load::Answered(took),
        _ => Load::Unclear,
    }
}

/// The lanes of every contract, by contract, kept while its endpoint stays the same.
#[derive(Debug)]
pub struct Lanes {
    crowd: Arc<Crowd>,
    by_contract: RwLock<HashMap<ContractId, Known>>,
    gateways: Arc<AtomicUsize>,
}

fn sharing(gateways: &AtomicUsize) -> usize {
    gateways.load(Ordering::Relaxed).max(1)
}

/// A lane, and the contract whose endpoint it was made for.
type Known = (Arc<Contract>, Arc<Lane>);

impl Lanes {
    /// No lane yet; all together may have so many attempts under way.
    #[must_use]
    pub fn new(at_most: usize) -> Self {
        let crowd = Crowd { at_most: at_most.max(1), under_way: AtomicUsize::new(0), lanes: AtomicUsize::new(0) };
        Self { crowd: Arc::new(crowd), by_contract: RwLock::default(), gateways: Arc::new(AtomicUsize::new(1)) }
    }

    /// How many attempts are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.crowd.under_way.load(Ordering::Acquire)
    }

    /// So many gateways send; whether that is new.
    pub fn share_among(&self, gateways: usize) -> bool {
        self.gateways.swap(gateways, Ordering::Relaxed) != gateways
    }

    /// The contract's lane: the one it has, or a new one where its endpoint is new or has changed.
    pub fn lane(&self, entry: &ContractEntry) -> Arc<Lane> {
        let contract = &entry.contract;
        if let Some((of, lane)) = self.known().get(&contract.id)
            && Arc::ptr_eq(of, contract)
        {
            return Arc::clone(lane);
        }
        let mut lanes = self.by_contract.write().unwrap_or_else(PoisonError::into_inner);
        let lane = match lanes.get(&contract.id) {
            Some((of, lane)) if of.endpoint == contract.endpoint => Arc::clone(lane),
            _ => Arc::new(Lane::new(&contract.endpoint, Arc::clone(&self.crowd), &self.gateways)),
        };
        lanes.insert(contract.id.clone(), (Arc::clone(contract), Arc::clone(&lane)));
        lane
    }

    /// The lanes there are: a contract that has had no lead yet has none.
    #[must_use]
    pub fn all(&self) -> Vec<(ContractId, Arc<Lane>)> {
        self.known().iter().map(|(id, (_, lane))| (id.clone(), Arc::clone(lane))).collect()
    }

    fn known(&self) -> RwLockReadGuard<'_, HashMap<ContractId, Known>> {
        self.by_contract.read().unwrap_or_else(PoisonError::into_inner)
    }
}
