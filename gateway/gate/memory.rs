//! The gate of a single gateway: counts and pauses in this process, lost with it and told again by the store. It is also
//! what a shared gate remembers of its answers ([`Stamp`]).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};

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
    /// Owners with commits under way that give places back: the store may have done so, and this has not heard of it yet.
    returning: HashMap<String, u64>,
    sweep_after: Option<Timestamp>,
}

/// Which of two answers of a shared gate about one partner is the newer: within an epoch that with more changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) epoch: u64,
    pub(super) changes: u64,
}

/// One counter.
#[derive(Debug, Default)]
struct Count {
    used: u64,
    /// Of those, taken by a ticket whose commit is under way: the store may have them already, or not yet.
    under_way: u64,
    /// Of those, free again, and the shared gate has not heard of it yet.
    owed: u64,
    /// When one was last taken or given back.
    changed: u64,
    /// When one was last given back by the store.
    given_back: u64,
    /// As of which answer of the shared gate `used` is.
    stamp: Stamp,
}

impl MemoryGate {
    /// A gate without rules, counts or pauses.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`super::Gate::look`], at once.
    ///
    /// # Errors
    /// When it has no rules for the contract.
    pub fn look(&self, contract: &ContractId, now: Timestamp) -> Result<Option<Shut>, GateUnavailable> {
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
                for place in present.places().filter(|place| !owned.contains(&place.key)) {
                    counted.count(&place.key).used += 1;
                }
                counted.begin(present.places().map(|place| &place.key).filter(|key| !owned.contains(key)));
            }
            (shut.map(|reason| (reason, full)), AsOf { event: counted.events, ..AsOf::default() })
        };
        if let Some((reason, full)) = shut {
            return Ok(Answer::Shut(rules.shut(now, reason, full)));
        }
        Ok(Answer::Open(present.ticket(open_until.unwrap_or(now), bypass_limits, owned, as_of)))
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
            let count = counted.count(&place.key);
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
        counted.refused(counts, &ticket.as_of);
    }

    pub(super) fn reconcile(&self, counts: &[(PlaceKey, u64)], as_of: &AsOf) {
        let mut counted = self.lock();
        for (key, used) in counts {
            if counted.returning.contains_key(key.owner()) {
                continue;
            }
            let count = counted.count(key);
            if count.under_way == 0 && count.changed <= as_of.event {
                count.used = used.saturating_add(count.owed);
            }
        }
    }

    /// A commit is under way that gives places of this owner back.
    pub(super) fn begin_return(&self, owner: &str) {
        *self.lock().returning.entry(owner.to_owned()).or_default() += 1;
    }

    /// It has ended, and what it gave back was settled.
    pub(super) fn end_return(&self, owner: &str) {
        let mut counted = self.lock();
        if let Some(many) = counted.returning.get_mut(owner) {
            *many -= 1;
            if *many == 0 {
                counted.returning.remove(owner);
            }
        }
    }

    pub(super) fn as_of(&self) -> AsOf {
        AsOf { event: self.lock().events, ..AsOf::default() }
    }

    pub(super) fn set_paused(&self, who: Paused, paused: bool) {
        let mut counted = self.lock();
        if paused {
            counted.paused.insert(who);
        } else {
            counted.paused.remove(&who);
        }
    }

    pub(super) fn paused(&self) -> Vec<Paused> {
        self.lock().paused.iter().cloned().collect()
    }

    pub(super) fn is_paused(&self, who: &Paused) -> bool {
        self.lock().paused.contains(who)
    }

    pub(super) fn install(&self, rules: HashMap<ContractId, Arc<GateRules>>) {
        self.rules.store(Arc::new(rules));
    }

    // ---- for a shared gate ----

    /// What the shared gate said of counters; an answer that is overtaken by a newer one says nothing.
    pub(super) fn saw<'a>(&self, counts: impl Iterator<Item = (&'a PlaceKey, u64)>, stamp: Stamp) {
        self.lock().saw(counts, stamp);
    }

    /// The shared gate counted one in each of `keys`, which now have so many.
    pub(super) fn took(&self, counts: &[(&PlaceKey, u64)], counted: &[&PlaceKey], stamp: Stamp, now: Timestamp) -> u64 {
        let mut inner = self.lock();
        inner.sweep(now);
        inner.saw(counts.iter().copied(), stamp);
        inner.begin(counted.iter().copied());
        inner.events
    }

    /// Free again, and the shared gate will hear of it: by the store, or by a ticket whose commit was not made.
    pub(super) fn owe(&self, keys: &[PlaceKey], by_store: bool) {
        let mut counted = self.lock();
        let now = counted.event();
        for key in keys {
            let count = counted.count(key);
            count.owed += 1;
            count.changed = now;
            if by_store {
                count.given_back = now;
            } else {
                count.under_way = count.under_way.saturating_sub(1);
            }
        }
    }

    /// The shared gate has heard that they are free, and says how many there are now.
    pub(super) fn paid<'a>(&self, keys: &[PlaceKey], counts: impl Iterator<Item = (&'a PlaceKey, u64)>, stamp: Stamp) {
        let mut counted = self.lock();
        counted.saw(counts, stamp);
        for key in keys {
            let count = counted.count(key);
            count.owed = count.owed.saturating_sub(1);
        }
    }

    /// The shared gate could not be told: they are free here.
    pub(super) fn write_off(&self, keys: &[PlaceKey]) {
        let mut counted = self.lock();
        for key in keys {
            let count = counted.count(key);
            count.owed = count.owed.saturating_sub(1);
            count.used = count.used.saturating_sub(1);
        }
    }

    /// What the store said when it refused a ticket's commit.
    pub(super) fn refused(&self, counts: &[(PlaceKey, u64)], as_of: &AsOf) {
        self.lock().refused(counts, as_of);
    }

    /// Whether a commit is under way here that takes one of `key`, or may give one back.
    pub(super) fn is_under_way(&self, key: &PlaceKey) -> bool {
        let counted = self.lock();
        counted.returning.contains_key(key.owner()) || counted.by_key.get(key).is_some_and(|count| count.under_way > 0)
    }

    /// How many counters are held: for a gauge, and to see that it stays bounded.
    #[must_use]
    pub fn counters(&self) -> usize {
        self.lock().by_key.len()
    }

    pub(super) fn rules_of(&self, contract: &ContractId) -> Result<Arc<GateRules>, GateUnavailable> {
        self.rules.load().get(contract).cloned().ok_or_else(|| GateUnavailable::NoRules(contract.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        // Nothing panics while it is held, and every single change leaves it whole.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn used_of(&self, key: &PlaceKey) -> u64 {
        self.by_key.get(key).map_or(0, |count| count.used.saturating_sub(count.owed))
    }

    fn count(&mut self, key: &PlaceKey) -> &mut Count {
        self.by_key.entry(key.clone()).or_default()
    }

    /// One was counted in each of `keys` for a ticket whose commit is now under way.
    fn begin<'a>(&mut self, keys: impl Iterator<Item = &'a PlaceKey>) {
        let now = self.event();
        for key in keys {
            let count = self.count(key);
            count.under_way += 1;
            count.changed = now;
        }
    }

    fn refused(&mut self, counts: &[(PlaceKey, u64)], as_of: &AsOf) {
        for (key, used) in counts {
            let is_returning = self.returning.contains_key(key.owner());
            let count = self.count(key);
            let said = used.saturating_add(count.owed);
            if is_returning {
                // It may have what is on its way back, or not. Too many here is put right when that is settled.
                count.used = count.used.max(said);
            } else if count.given_back <= as_of.event {
                count.used = said;
            }
        }
    }

    fn saw<'a>(&mut self, counts: impl Iterator<Item = (&'a PlaceKey, u64)>, stamp: Stamp) {
        for (key, used) in counts {
            let count = self.count(key);
            if count.stamp.epoch != stamp.epoch || count.stamp.changes <= stamp.changes {
                (count.used, count.stamp) = (used, stamp);
            }
        }
    }

    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
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
        self.by_key.retain(|key, _| !key.is_past(now));
        self.sweep_after = now.checked_add(SWEEP_EVERY).ok();
    }
}
