//! The gate of a single gateway: counts and pauses in this process, lost with it and told again by the store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};

use super::limits::is_past;
use super::rules::{Full, GateRules, reason};
use super::{Answer, AsOf, GateUnavailable, Paused, Shut, Ticket};
use crate::model::id::ContractId;
use crate::model::limit::{Place, PlaceKey};

/// Counts of past periods are dropped this often.
const SWEEP_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// See [`super::Gate`], whose methods these are.
#[derive(Debug, Default)]
pub struct MemoryGate {
    rules: ArcSwap<HashMap<ContractId, Arc<GateRules>>>,
    /// Held for a few look-ups and never across an await: checking and counting are one step.
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    /// Absent = 0. Bounded by the owners that ever were in the network, times their present periods.
    by_key: HashMap<PlaceKey, Count>,
    /// What happened so far, in number.
    events: u64,
    paused: HashSet<Paused>,
    sweep_after: Option<Timestamp>,
}

/// One counter.
#[derive(Debug, Default)]
struct Count {
    used: u64,
    /// Of those, taken by a ticket whose commit is under way: the store may have them already, or not yet.
    under_way: u64,
    /// When one was last taken or given back.
    changed: AsOf,
    /// When one was last given back by the store.
    given_back: AsOf,
}

impl MemoryGate {
    /// A gate without rules, counts or pauses.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn look(&self, contract: &ContractId, now: Timestamp) -> Result<Option<Shut>, GateUnavailable> {
        let rules = self.rules_of(contract)?;
        let open = rules.open_until(now).is_some();
        let present = rules.present(now);
        let (paused, full) = {
            let counted = self.lock();
            (counted.is_paused(&rules), present.full(|key| counted.used_of(key)))
        };
        Ok(reason(paused, open, full).map(|reason| rules.shut(now, reason, full)))
    }

    pub(super) fn take(
        &self,
        contract: &ContractId,
        now: Timestamp,
        bypass_limits: bool,
        owned: &[PlaceKey],
    ) -> Result<Answer, GateUnavailable> {
        let rules = self.rules_of(contract)?;
        let open_until = rules.open_until(now);
        let present = rules.present(now);
        let (shut, as_of) = {
            let mut counted = self.lock();
            // Nothing stands in the way of a place that it has.
            let others = |key: &PlaceKey| if owned.contains(key) { 0 } else { counted.used_of(key) };
            let full = if bypass_limits { Full::No } else { present.full(others) };
            let shut = reason(counted.is_paused(&rules), open_until.is_some(), full);
            if shut.is_none() && !bypass_limits {
                counted.sweep(now);
                let now = counted.event();
                for place in present.places().filter(|place| !owned.contains(&place.key)) {
                    let count = counted.by_key.entry(place.key.clone()).or_default();
                    count.used += 1;
                    count.under_way += 1;
                    count.changed = now;
                }
            }
            (shut.map(|reason| (reason, full)), AsOf(counted.events))
        };
        if let Some((reason, full)) = shut {
            return Ok(Answer::Shut(rules.shut(now, reason, full)));
        }
        let hours_end = open_until.unwrap_or(now);
        Ok(Answer::Open(if bypass_limits {
            Ticket { places: Vec::new(), owned: Vec::new(), valid_until: hours_end, as_of }
        } else {
            let places: Vec<Place> = present.places().cloned().collect();
            Ticket { places, owned: owned.to_vec(), valid_until: hours_end.min(present.until), as_of }
        }))
    }

    pub(super) fn left(&self, contract: &ContractId, now: Timestamp) -> Result<Option<u64>, GateUnavailable> {
        let present = self.rules_of(contract)?.present(now);
        let counted = self.lock();
        let left = |place: &Place| place.limit.map(|limit| limit.saturating_sub(counted.used_of(&place.key)));
        Ok(present.places().filter_map(left).min())
    }

    pub(super) fn settle(&self, places: &[Place], given_back: bool) {
        if !given_back {
            return;
        }
        let mut counted = self.lock();
        let now = counted.event();
        for place in places {
            let count = counted.by_key.entry(place.key.clone()).or_default();
            count.used = count.used.saturating_sub(1);
            (count.changed, count.given_back) = (now, now);
        }
    }

    pub(super) fn made(&self, ticket: &Ticket) {
        let mut counted = self.lock();
        let now = counted.event();
        for place in ticket.counted() {
            if let Some(count) = counted.by_key.get_mut(&place.key) {
                count.under_way = count.under_way.saturating_sub(1);
                count.changed = now;
            }
        }
    }

    pub(super) fn hand_back(&self, ticket: &Ticket, counts: &[(PlaceKey, u64)]) {
        let mut counted = self.lock();
        let now = counted.event();
        for place in ticket.counted() {
            if let Some(count) = counted.by_key.get_mut(&place.key) {
                count.used = count.used.saturating_sub(1);
                count.under_way = count.under_way.saturating_sub(1);
                count.changed = now;
            }
        }
        // The store has just said that these are full, so nothing under way can be missing from them.
        for (key, used) in counts {
            let count = counted.by_key.entry(key.clone()).or_default();
            if count.given_back <= ticket.as_of {
                count.used = *used;
            }
        }
    }

    pub(super) fn reconcile(&self, counts: &[(PlaceKey, u64)], as_of: AsOf) {
        let mut counted = self.lock();
        for (key, used) in counts {
            let count = counted.by_key.entry(key.clone()).or_default();
            if count.under_way == 0 && count.changed <= as_of {
                count.used = *used;
            }
        }
    }

    pub(super) fn as_of(&self) -> AsOf {
        AsOf(self.lock().events)
    }

    pub(super) fn set_paused(&self, who: Paused, paused: bool) {
        let mut counted = self.lock();
        if paused {
            counted.paused.insert(who);
        } else {
            counted.paused.remove(&who);
        }
    }

    pub(super) fn install(&self, rules: HashMap<ContractId, Arc<GateRules>>) {
        self.rules.store(Arc::new(rules));
    }

    /// How many counters are held: for a gauge, and to see that it stays bounded.
    #[must_use]
    pub fn counters(&self) -> usize {
        self.lock().by_key.len()
    }

    fn rules_of(&self, contract: &ContractId) -> Result<Arc<GateRules>, GateUnavailable> {
        self.rules.load().get(contract).cloned().ok_or_else(|| GateUnavailable::NoRules(contract.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        // Nothing panics while it is held, and every single change leaves it whole.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn used_of(&self, key: &PlaceKey) -> u64 {
        self.by_key.get(key).map_or(0, |count| count.used)
    }

    fn event(&mut self) -> AsOf {
        self.events += 1;
        AsOf(self.events)
    }

    fn is_paused(&self, rules: &GateRules) -> bool {
        !self.paused.is_empty()
            && (self.paused.contains(&Paused::Contract(rules.contract().clone()))
                || self.paused.contains(&Paused::Partner(rules.partner().clone())))
    }

    fn sweep(&mut self, now: Timestamp) {
        if self.sweep_after.is_some_and(|at| now < at) {
            return;
        }
        self.by_key.retain(|key, _| !is_past(key, now));
        self.sweep_after = now.checked_add(SWEEP_EVERY).ok();
    }
}
