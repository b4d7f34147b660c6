//! Routing: which contracts may have a lead, in which order, and who is next. Pure: it reads no clock, draws no random
//! number and asks nobody; what it needs is handed to it.
//!
//! 1. [`candidates`], once, when a lead has come in: the campaign's contracts in the order in which they are offered it.
//! 2. [`advance`](advance::advance), then and after every end of a delivery: which deliveries to make now, or how it ended.
//!
//! - [`filters`]: which leads a contract wants
//! - [`advance`]: moving on

pub mod advance;
pub mod filters;

use std::borrow::Borrow;
use std::cmp::Ordering;

use filters::Filters;

use crate::model::campaign::{Campaign, Distribution};
use crate::model::contract::Contract;
use crate::model::id::{ContractId, PartnerId};
use crate::model::lead::{Candidate, Lead};

/// What routing knows of a contract, compiled once when a network is loaded.
#[derive(Debug, Clone)]
pub struct RoutedContract {
    /// Its id.
    pub id: ContractId,
    /// The buyer.
    pub partner: PartnerId,
    /// 1 first.
    pub priority: u32,
    /// Its share among equals.
    pub weight: u32,
    /// Which leads it wants; `None` = all.
    pub filters: Option<Filters>,
}

/// What is wrong with a contract's filters as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct Fault {
    /// The key within the contract, such as `filters.all[0].min`.
    pub at: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl RoutedContract {
    /// Compiles what routing needs of a contract of `campaign`.
    ///
    /// # Errors
    /// Every fault of its filters.
    pub fn compile(contract: &Contract, campaign: &Campaign) -> Result<Self, Vec<Fault>> {
        Ok(Self {
            id: contract.id.clone(),
            partner: contract.partner.clone(),
            priority: contract.priority,
            weight: contract.weight,
            filters: contract.filters.as_ref().map(|filter| Filters::compile(filter, campaign)).transpose()?,
        })
    }
}

/// All `contracts` of the lead's campaign as its candidates: first those whose filters match, in the order in which they
/// are offered the lead, then the others by id, each with its reason.
///
/// - `priority`: 1 first; ties are drawn by weight
/// - `weighted`: drawn by weight, one after the other; weight 0 comes only after everybody else
/// - `round_robin`: who waited longest for a turn; `turns` gives the number of each contract's last turn, 0 = none yet.
///   The caller numbers turns upwards, gives the lead's to who is offered it first ([`advance::Next::first_offered`])
///   before it routes the campaign's next lead, and keeps it in the accept commit; so the rotation is exact over time
///   and restarts, and who was shut keeps its turn.
/// - `broadcast`: by priority, then by id, for all are offered it at once
/// - `auction`: reserved; as `priority`
///
/// `draw` gives uniform numbers in `0.0..1.0`, of which as many are drawn as there are matching contracts.
pub fn candidates<C: Borrow<RoutedContract>>(
    lead: &Lead,
    contracts: &[C],
    distribution: Distribution,
    draw: &mut dyn FnMut() -> f64,
    turns: &dyn Fn(&ContractId) -> u64,
) -> Vec<Candidate> {
    let mut matching: Vec<&RoutedContract> = Vec::with_capacity(contracts.len());
    let mut filtered: Vec<(&RoutedContract, String)> = Vec::new();
    for contract in contracts.iter().map(Borrow::borrow) {
        match contract.filters.as_ref().map_or(Ok(()), |filters| filters.check(lead)) {
            Ok(()) => matching.push(contract),
            Err(reason) => filtered.push((contract, reason)),
        }
    }
    // Whatever order they came in, the same draw gives the same candidates.
    matching.sort_by(|one, other| one.id.cmp(&other.id));
    match distribution {
        Distribution::Priority | Distribution::Auction => {
            matching = drawn(matching, draw);
            matching.sort_by_key(|contract| contract.priority);
        }
        Distribution::Weighted => matching = drawn(matching, draw),
        Distribution::RoundRobin => matching.sort_by_cached_key(|contract| turns(&contract.id)),
        Distribution::Broadcast => matching.sort_by_key(|contract| contract.priority),
    }
    filtered.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
    let matching = matching.into_iter().map(|contract| (contract, None));
    let filtered = filtered.into_iter().map(|(contract, reason)| (contract, Some(reason)));
    matching
        .chain(filtered)
        .map(|(contract, filtered)| Candidate {
            contract: contract.id.clone(),
            partner: contract.partner.clone(),
            filtered,
        })
        .collect()
}

/// A weighted draw without replacement, all at once: each waits an exponential time at the rate of its weight, and the
/// first to come is first (Efraimidis and Spirakis, 2006). Those of weight 0 follow, in an even draw.
fn drawn<'a>(contracts: Vec<&'a RoutedContract>, draw: &mut dyn FnMut() -> f64) -> Vec<&'a RoutedContract> {
    let mut waiting: Vec<(bool, f64, &RoutedContract)> = contracts
        .into_iter()
        .map(|contract| {
            let last = contract.weight == 0;
            let time = -(1.0 - draw()).ln() / f64::from(contract.weight.max(1));
            (last, time, contract)
        })
        .collect();
    waiting.sort_by(|one, other| match one.0.cmp(&other.0) {
        Ordering::Equal => one.1.total_cmp(&other.1),
        order => order,
    });
    waiting.into_iter().map(|(_, _, contract)| contract).collect()
}
