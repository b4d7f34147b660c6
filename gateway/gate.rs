//! The gate: may this contract have one lead more now, and if not, why and until when?
//!
//! It answers from memory, or from a Redis that several gateways share, so that a shut contract costs no work at the
//! store. **The gate may refuse; only the store grants**: a [`Ticket`] names the places that the attempt's commit must
//! take, and the store refuses when a count here was too low. Counts come from [`Gate::reconcile`], at start and whenever
//! the store disagreed; a counter that the gate was never told about starts at 0. Between the two the gate counts by
//! itself: [`Gate::take`] counts one in every place; then either [`Gate::made`] says that the commit took them, and
//! [`Gate::settle`] later what was given back, or [`Gate::hand_back`] that there was no attempt.
//!
//! - [`schedule`]: weekly hours in a time zone
//! - [`limits`]: periods, their bounds and the places in them
//! - [`rules`]: what is compiled of one contract and its partner
//! - [`memory`]: the gate of a single gateway
//! - [`mod@redis`]: the gate that several gateways share

pub mod limits;
pub mod memory;
mod redis;
pub mod rules;
pub mod schedule;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::delivery::ShutReason;
use crate::model::id::{ContractId, PartnerId};
use crate::model::limit::{Place, PlaceKey};
use memory::MemoryGate;
use rules::GateRules;

pub use self::redis::{OpenFault, RedisGate, Servers, Settings};

/// The gate of this process.
#[derive(Debug)]
pub enum Gate {
    /// Counts in this process: for a single gateway.
    Memory(MemoryGate),
    /// Counts in Redis: for any number of gateways.
    Redis(Box<RedisGate>),
}

/// What a shared gate asks when it has nothing to go by, or doubts what it has: the store, by way of whoever puts gate
/// and store together.
pub trait Truth: Send + Sync + 'static {
    /// How many each of `keys` really has taken; those not answered have none.
    fn counts(&self, keys: Vec<PlaceKey>) -> Told<'_, Vec<(PlaceKey, u64)>>;
    /// Whether the partner, and whether the contract, is paused.
    fn paused(&self, partner: PartnerId, contract: ContractId) -> Told<'_, (bool, bool)>;
    /// The newest version of the network that is stored.
    fn version(&self) -> Told<'_, u64>;
}

/// An answer of [`Truth`] to come; the error says why there is none.
pub type Told<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// What [`Gate::take`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Go on: one place of each kind is counted.
    Open(Ticket),
    /// Wait or move on: nothing is counted.
    Shut(Shut),
}

/// Leave to make one attempt now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// What the attempt's commit takes: the partner's and the contract's day, month and total at that instant, limited
    /// or not. None for an attempt that bypasses the limits.
    pub places: Vec<Place>,
    /// Those of them that the delivery owns already, from an attempt whose outcome is unknown: not counted again.
    pub owned: Vec<PlaceKey>,
    /// From this instant on the ticket says nothing: a period has ended, or the hours have.
    pub valid_until: Timestamp,
    /// When it was given, as [`Gate::reconcile`] wants to know.
    pub as_of: AsOf,
}

/// A moment in the gate's own order of events: what the store is asked after it, it says as of then or later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AsOf {
    /// Of this process's events.
    event: u64,
    /// For a ticket: the epoch and the given-back number of its partner's shared state.
    shared: (u64, u64),
    /// What the shared counters were.
    seen: Vec<(PlaceKey, Option<u64>)>,
}

impl Ticket {
    /// What the gate has counted for it.
    fn counted(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| !self.owned.contains(&place.key))
    }
}

/// Why a contract may not have one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    /// The first that applies of paused, closed, full.
    pub reason: ShutReason,
    /// The first instant at which, as far as is known, it is open again: hours and periods together. `None` while
    /// paused, for a pause ends when a person says so, and where `never`.
    pub until: Option<Timestamp>,
    /// No time will open it: a total is used up, or partner and contract have no hours in common.
    pub never: bool,
    /// The partner's IANA zone, for people.
    pub timezone: Arc<str>,
}

/// What a pause stops.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Paused {
    /// A partner, and so all its contracts.
    Partner(PartnerId),
    /// One contract.
    Contract(ContractId),
}

/// The gate cannot say. Not knowing is no reason to pass a contract over: wait, or ask the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateUnavailable {
    /// The contract is in no network that was installed.
    #[error("the gate has no rules for contract {0}; it is not in the network that is loaded")]
    NoRules(ContractId),
    /// A newer network is in force than this gateway has: it must load it before it may go on.
    #[error("network version {theirs} is in force and this gateway still has {mine}; it is loaded in a moment")]
    Behind {
        /// The version that was installed here.
        mine: u64,
        /// The version that is in force.
        theirs: u64,
    },
    /// The shared state must be loaded, and the store does not say with what.
    #[error("the store does not say what is paused and taken: {0}")]
    Untold(String),
    /// The shared state kept changing while it was loaded.
    #[error("the gate's shared state of {0} changed again and again while it was loaded")]
    Unsettled(ContractId),
}

/// What is wrong with hours or a time zone as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct Fault {
    /// The key within the resource, such as `schedule.mon-fri`.
    pub at: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

/// Places may be given back, by a commit that is under way.
#[derive(Debug)]
pub struct Returning<'a> {
    gate: &'a MemoryGate,
    owners: [String; 2],
}

impl Drop for Returning<'_> {
    fn drop(&mut self) {
        self.owners.iter().for_each(|owner| self.gate.end_return(owner));
    }
}

impl Gate {
    /// Whether `contract` is shut at `now`. Counts nothing: for routing before a lead is committed, and for views.
    pub async fn look(&self, contract: &ContractId, now: Timestamp) -> Result<Option<Shut>, GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.look(contract, now),
            Self::Redis(gate) => gate.look(contract, now).await,
        }
    }

    /// Checks pause, hours and limits, and if all are open counts one in every place, in one step: of any number of
    /// callers at once exactly as many are let through as there are places.
    ///
    /// `bypass_limits` checks no limit and takes no place; pause and hours hold nevertheless.
    pub async fn take(
        &self,
        contract: &ContractId,
        now: Timestamp,
        bypass_limits: bool,
    ) -> Result<Answer, GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.take(contract, now, bypass_limits, &[]),
            Self::Redis(gate) => gate.take(contract, now, bypass_limits, &[]).await,
        }
    }

    /// As [`Gate::take`], for a delivery that still owns places: its own are neither checked nor counted again.
    pub async fn take_again(
        &self,
        contract: &ContractId,
        now: Timestamp,
        owned: &[PlaceKey],
    ) -> Result<Answer, GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.take(contract, now, false, owned),
            Self::Redis(gate) => gate.take(contract, now, false, owned).await,
        }
    }

    /// The attempt was not made after all: what was counted for its ticket is free for the next. `counts` is what the
    /// store said when it refused, if it did. Waits for nobody.
    pub fn hand_back(&self, ticket: &Ticket, counts: &[(PlaceKey, u64)]) {
        match self {
            Self::Memory(gate) => gate.hand_back(ticket, counts),
            Self::Redis(gate) => gate.hand_back(ticket, counts),
        }
    }

    /// How many more `contract` may have in the present periods of itself and its partner; `None` = no limit. Says
    /// nothing about pause and hours. For waking no more waiting deliveries than there are places. Waits for nobody: a
    /// shared gate says what this process last heard.
    pub fn left(&self, contract: &ContractId, now: Timestamp) -> Result<Option<u64>, GateUnavailable> {
        self.memory().left(contract, now)
    }

    /// The attempt's commit took what the ticket names. Waits for nobody, since it stands between that commit and the
    /// request's first byte.
    pub fn made(&self, ticket: &Ticket) {
        self.memory().made(ticket);
    }

    /// After an attempt's completion: places given back are free for the next; kept ones stay counted. Waits for nobody.
    pub fn settle(&self, places: &[Place], given_back: bool) {
        match self {
            Self::Memory(gate) => gate.settle(places, given_back),
            Self::Redis(gate) => gate.settle(places, given_back),
        }
    }

    /// A commit begins that may give back places of this partner and this contract. Until what is returned is dropped, after
    /// [`Gate::settle`], nobody can say what of that the store's counts have.
    #[must_use]
    pub fn returning(&self, partner: &PartnerId, contract: &ContractId) -> Returning<'_> {
        let owners = [format!("partner/{partner}"), format!("contract/{contract}")];
        owners.iter().for_each(|owner| self.memory().begin_return(owner));
        Returning { gate: self.memory(), owners }
    }

    /// Sets counters to what the store really holds; those not named are left alone. So are those that changed after
    /// `as_of`, which was taken before the store was asked, those of tickets whose commit is under way, and those of owners
    /// whose places are on their way back ([`Gate::returning`]): nobody can say what of that the store's count has.
    pub async fn reconcile(&self, counts: &[(PlaceKey, u64)], as_of: AsOf) {
        match self {
            Self::Memory(gate) => gate.reconcile(counts, &as_of),
            Self::Redis(gate) => gate.reconcile(counts, &as_of).await,
        }
    }

    /// Now, in the gate's own order of events, for a reconciliation of `keys`. A shared gate does not overwrite shared
    /// counters but those of `keys`; it loads by itself what it lacks.
    pub async fn as_of(&self, keys: &[PlaceKey]) -> AsOf {
        match self {
            Self::Memory(gate) => gate.as_of(),
            Self::Redis(gate) => gate.as_of(keys).await,
        }
    }

    /// Pauses or resumes, as the store already has it; governs the next `take`, of every gateway that shares this gate,
    /// when this returns.
    pub async fn set_paused(&self, who: Paused, paused: bool) {
        match self {
            Self::Memory(gate) => gate.set_paused(who, paused),
            Self::Redis(gate) => gate.set_paused(who, paused).await,
        }
    }

    /// Somebody else has paused or resumed, or this gateway starts: as [`Gate::set_paused`], without telling others.
    pub fn learn_paused(&self, who: Paused, paused: bool) {
        self.memory().set_paused(who, paused);
    }

    /// Who is paused, as far as this gateway has heard.
    #[must_use]
    pub fn paused(&self) -> Vec<Paused> {
        self.memory().paused()
    }

    /// Takes over a new network, all at once. Counts and pauses stay. `version` grows with every network that is stored;
    /// when this returns, no gateway that shares this gate goes by older rules where they differ.
    pub async fn install(&self, rules: HashMap<ContractId, Arc<GateRules>>, version: u64) {
        match self {
            Self::Memory(gate) => gate.install(rules),
            Self::Redis(gate) => gate.install(rules, version).await,
        }
    }

    /// Waits, not for long, until what was given back here is known to those that share this gate; for the end of a
    /// process.
    pub async fn flush(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(gate) => gate.flush().await,
        }
    }

    /// Whether it has to be asked over a network.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// What it counts in: `memory` or `redis`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
        }
    }

    /// Whether what it counts in answers. While it does not, the gate goes by what this process last heard, and the
    /// store alone keeps the limits.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(gate) => gate.is_up(),
        }
    }

    fn memory(&self) -> &MemoryGate {
        match self {
            Self::Memory(gate) => gate,
            Self::Redis(gate) => gate.mirror(),
        }
    }
}
