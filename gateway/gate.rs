//! The gate: may this contract have one lead more now, and if not, why and until when?
//!
//! It answers from memory (later from Redis, shared by several gateways), so that a shut contract costs no work at the
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

pub mod limits;
pub mod memory;
pub mod rules;
pub mod schedule;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::delivery::ShutReason;
use crate::model::id::{ContractId, PartnerId};
use crate::model::limit::{Place, PlaceKey};
use memory::MemoryGate;
use rules::GateRules;

/// The gate of this process.
#[derive(Debug)]
pub enum Gate {
    /// Counts in this process: for a single gateway.
    Memory(MemoryGate),
}

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AsOf(u64);

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

#[expect(clippy::unused_async, reason = "the seam is async because a shared gate answers over the network")]
impl Gate {
    /// Whether `contract` is shut at `now`. Counts nothing: for routing before a lead is committed, and for views.
    pub async fn look(&self, contract: &ContractId, now: Timestamp) -> Result<Option<Shut>, GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.look(contract, now),
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
        }
    }

    /// The attempt was not made after all: what was counted for its ticket is free for the next. `counts` is what the
    /// store said when it refused, if it did.
    pub async fn hand_back(&self, ticket: &Ticket, counts: &[(PlaceKey, u64)]) -> Result<(), GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.hand_back(ticket, counts),
        }
        Ok(())
    }

    /// How many more `contract` may have in the present periods of itself and its partner; `None` = no limit. Says
    /// nothing about pause and hours. For waking no more waiting deliveries than there are places.
    pub async fn left(&self, contract: &ContractId, now: Timestamp) -> Result<Option<u64>, GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.left(contract, now),
        }
    }

    /// The attempt's commit took what the ticket names.
    pub async fn made(&self, ticket: &Ticket) -> Result<(), GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.made(ticket),
        }
        Ok(())
    }

    /// After an attempt's completion: places given back are free for the next; kept ones stay counted.
    pub async fn settle(&self, places: &[Place], given_back: bool) -> Result<(), GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.settle(places, given_back),
        }
        Ok(())
    }

    /// Sets counters to what the store really holds; those not named are left alone. So are those that changed after
    /// `as_of`, which was taken before the store was asked, and those of tickets whose commit is under way: nobody can
    /// say what of that the store's count has.
    pub async fn reconcile(&self, counts: &[(PlaceKey, u64)], as_of: AsOf) -> Result<(), GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.reconcile(counts, as_of),
        }
        Ok(())
    }

    /// Now, in the gate's own order of events.
    #[must_use]
    pub fn as_of(&self) -> AsOf {
        match self {
            Self::Memory(gate) => gate.as_of(),
        }
    }

    /// Pauses or resumes; governs the next `take`.
    pub async fn set_paused(&self, who: Paused, paused: bool) -> Result<(), GateUnavailable> {
        match self {
            Self::Memory(gate) => gate.set_paused(who, paused),
        }
        Ok(())
    }

    /// Takes over a new network, all at once. Counts and pauses stay.
    pub fn install(&self, rules: HashMap<ContractId, Arc<GateRules>>) {
        match self {
            Self::Memory(gate) => gate.install(rules),
        }
    }
}
