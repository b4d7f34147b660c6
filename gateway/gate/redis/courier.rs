//! What Redis is told behind everybody's back: places that are free again, what it must no longer believe, and, now and
//! then, what the store really holds.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Shared;
use super::script::{args, counts, numbers};
use crate::clock;
use crate::gate::{Paused, Ticket};
use crate::model::id::{ContractId, PartnerId};
use crate::model::limit::PlaceKey;

/// Errands that may wait; beyond it counters are dropped instead, and loaded again.
const WAITING: usize = 8192;
/// Errands under way at once: one round trip for all of them.
const AT_ONCE: usize = 64;
/// Counters that may be in doubt; what is beyond it is found by the comparison with the store.
const DOUBTS: usize = 100_000;
/// How often what is owed is tried again.
const AGAIN_EVERY: Duration = Duration::from_millis(500);
/// Contracts of one comparison with the store.
const PAGE: usize = 100;

/// Places of one partner that are free again.
pub(super) struct Errand {
    pub(super) partner: PartnerId,
    /// To be counted one less.
    pub(super) free: Vec<PlaceKey>,
    /// What the store said when it refused.
    pub(super) said: Vec<(PlaceKey, u64)>,
    /// Given back by the store, or by a ticket that took them at this epoch and given-back number.
    pub(super) ticket: Option<(u64, u64)>,
}

impl Errand {
    /// What becomes of a ticket whose attempt was not made.
    pub(super) fn of_ticket(partner: PartnerId, ticket: &Ticket, said: &[(PlaceKey, u64)]) -> Self {
        let free = ticket.counted().map(|place| place.key.clone()).collect();
        Self { partner, free, said: said.to_vec(), ticket: Some(ticket.as_of.shared) }
    }
}

/// Where errands wait.
pub(super) struct Errands {
    queue: mpsc::Sender<Errand>,
    queued: AtomicU64,
    done: watch::Sender<u64>,
    owed: Mutex<Owed>,
    touched: Mutex<HashSet<ContractId>>,
}

/// What Redis must be told as soon as it answers.
#[derive(Default)]
struct Owed {
    /// Counters that may be wrong, by partner: dropped, so that the next take has them loaded.
    counters: HashMap<PartnerId, HashSet<PlaceKey>>,
    many: usize,
    /// Pauses that changed: their partner, and what.
    pauses: HashSet<(PartnerId, Paused)>,
    /// Partners whose rules changed, with the version of the network.
    versions: HashMap<PartnerId, u64>,
}

impl Errands {
    pub(super) fn new() -> (Self, mpsc::Receiver<Errand>) {
        let (queue, waiting) = mpsc::channel(WAITING);
        let errands = Self {
            queue,
            queued: AtomicU64::new(0),
            done: watch::Sender::new(0),
            owed: Mutex::default(),
            touched: Mutex::default(),
        };
        (errands, waiting)
    }

    /// Queues an errand; gives it back if there is no room.
    pub(super) fn send(&self, errand: Errand) -> Result<(), Errand> {
        let room = self.queue.try_reserve();
        match room {
            Ok(room) => {
                self.queued.fetch_add(1, Ordering::AcqRel);
                room.send(errand);
                Ok(())
            }
            Err(_) => Err(errand),
        }
    }

    /// How many have been queued so far, and whether all of them are done.
    pub(super) fn queued(&self) -> (u64, bool) {
        let queued = self.queued.load(Ordering::Acquire);
        (queued, *self.done.borrow() >= queued)
    }

    /// Waits until so many are done.
    pub(super) async fn until(&self, queued: u64, within: Duration) -> bool {
        let mut done = self.done.subscribe();
        matches!(tokio::time::timeout(within, done.wait_for(|done| *done >= queued)).await, Ok(Ok(_)))
    }

    /// Redis was asked about this contract.
    pub(super) fn touch(&self, contract: &ContractId) {
        let mut touched = lock(&self.touched);
        if !touched.contains(contract) {
            touched.insert(contract.clone());
        }
    }

    /// These counters may be wrong in Redis.
    pub(super) fn doubt<'a>(&self, partner: &PartnerId, keys: impl Iterator<Item = &'a PlaceKey>) {
        let mut owed = lock(&self.owed);
        let Owed { counters, many, .. } = &mut *owed;
        let of_partner = counters.entry(partner.clone()).or_default();
        for key in keys {
            if *many < DOUBTS && of_partner.insert(key.clone()) {
                *many += 1;
            }
        }
    }

    pub(super) fn owe_pause(&self, partner: PartnerId, who: Paused) {
        lock(&self.owed).pauses.insert((partner, who));
    }

    pub(super) fn owe_version(&self, partner: PartnerId, version: u64) {
        let mut owed = lock(&self.owed);
        let known = owed.versions.entry(partner).or_default();
        *known = version.max(*known);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the errands, for ever: whatever waits goes at once, and then whatever has come meanwhile.
pub(super) async fn run(shared: Arc<Shared>, waiting: Arc<tokio::sync::Mutex<mpsc::Receiver<Errand>>>) {
    let mut waiting = waiting.lock().await;
    // Where it broke off, some are neither waiting nor done.
    let gone = shared.errands.queued.load(Ordering::Acquire).saturating_sub(waiting.len() as u64);
    shared.errands.done.send_modify(|done| *done = gone.max(*done));
    let mut batch = Vec::with_capacity(AT_ONCE);
    loop {
        let many = waiting.recv_many(&mut batch, AT_ONCE).await;
        if many == 0 {
            return;
        }
        let mut under_way = JoinSet::new();
        for errand in batch.drain(..) {
            let shared = Arc::clone(&shared);
            under_way.spawn(async move { shared.run_errand(errand).await });
        }
        while under_way.join_next().await.is_some() {}
        shared.errands.done.send_modify(|done| *done += many as u64);
    }
}

/// Delivers what is owed whenever Redis answers, for ever.
pub(super) async fn settle_debts(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(AGAIN_EVERY) => {}
            () = shared.link.connected() => {}
        }
        if shared.link.up().is_some() {
            shared.pay().await;
        }
    }
}

/// Compares counters with the store, for ever.
pub(super) async fn compare(shared: Arc<Shared>) {
    let mut suspects = HashMap::new();
    loop {
        tokio::time::sleep(shared.reconcile_every).await;
        if shared.link.up().is_some() {
            shared.compare(&mut suspects).await;
        }
    }
}

impl Shared {
    async fn run_errand(&self, errand: Errand) {
        let Errand { partner, free, said, ticket } = &errand;
        let mut all: Vec<PlaceKey> = free.clone();
        all.extend(said.iter().map(|(key, _)| key.clone()).filter(|key| !free.contains(key)));
        let mut keys = vec![self.state_key(partner)];
        keys.extend(all.iter().map(|key| self.counter_key(partner, key)));
        let (epoch, given_back) = ticket.unwrap_or_default();
        let mut told = args([&if ticket.is_some() { "hand_back" } else { "settle" }, &epoch, &given_back]);
        for key in &all {
            told.push(if free.contains(key) { "1" } else { "0" }.to_owned());
            told.push(said.iter().find(|(other, _)| other == key).map_or_else(String::new, |(_, n)| n.to_string()));
        }
        let answer = match self.link.up() {
            Some(up) => self.scripts.give_back.run(&self.link, &up, &keys, &told, &mut self.link.patience()).await.ok(),
            None => None,
        };
        match answer.as_ref().and_then(counts) {
            Some((mark, now)) => {
                let known = all.iter().zip(now).filter_map(|(key, used)| used.map(|used| (key, used)));
                self.mirror.paid(free, known, mark.stamp());
            }
            None => self.undelivered(&errand),
        }
    }

    /// Redis could not be told, or nobody knows whether it was.
    pub(super) fn undelivered(&self, errand: &Errand) {
        self.mirror.write_off(&errand.free);
        self.errands.doubt(&errand.partner, errand.free.iter().chain(errand.said.iter().map(|(key, _)| key)));
    }

    /// Tells Redis what it must no longer believe. What cannot be told stays owed.
    pub(super) async fn pay(&self) {
        let Owed { counters, pauses, versions, .. } = std::mem::take(&mut *lock(&self.errands.owed));
        for (partner, version) in versions {
            if !self.void_rules(&partner, version).await {
                self.errands.owe_version(partner, version);
            }
        }
        for (partner, who) in pauses {
            if !self.void_pause(&partner, &who).await {
                self.errands.owe_pause(partner, who);
            }
        }
        for (partner, keys) in counters {
            let mut names = vec![self.state_key(&partner)];
            names.extend(keys.iter().map(|key| self.counter_key(&partner, key)));
            if !self.void(&names, None, &[]).await {
                self.errands.doubt(&partner, keys.iter());
            }
        }
    }

    /// The partner's rules of networks before `version` are no longer in force.
    pub(super) async fn void_rules(&self, partner: &PartnerId, version: u64) -> bool {
        self.void(&[self.state_key(partner)], Some(&version.to_string()), &[]).await
    }

    /// The partner's or contract's pause must be asked of the store again.
    pub(super) async fn void_pause(&self, partner: &PartnerId, who: &Paused) -> bool {
        let field = match who {
            Paused::Partner(_) => "paused".to_owned(),
            Paused::Contract(contract) => format!("paused/{contract}"),
        };
        self.void(&[self.state_key(partner)], Some(""), &[field]).await
    }

    /// Runs void.lua; `version` is `None` where only counters are dropped. Whether it was done for sure.
    pub(super) async fn void(&self, keys: &[String], version: Option<&str>, fields: &[String]) -> bool {
        let Some(up) = self.link.up() else { return false };
        let epoch = version.map_or_else(String::new, |_| new_epoch().to_string());
        let mut told = args([&epoch, &super::KEEP_STATE, &version.unwrap_or_default()]);
        told.extend_from_slice(fields);
        self.scripts.void.run(&self.link, &up, keys, &told, &mut self.link.patience()).await.is_ok()
    }

    /// Compares the counters of contracts that were asked about with the store. One that differs in two comparisons, and
    /// in the same way, so that nothing was under way, is set to what the store holds.
    async fn compare(&self, suspects: &mut HashMap<PlaceKey, (u64, u64)>) {
        let touched: Vec<ContractId> = std::mem::take(&mut *lock(&self.errands.touched)).into_iter().collect();
        let mut found = HashMap::new();
        for page in touched.chunks(PAGE) {
            if self.compare_page(page, suspects, &mut found).await.is_none() {
                page.iter().for_each(|contract| self.errands.touch(contract));
            }
        }
        *suspects = found;
    }

    async fn compare_page(
        &self,
        page: &[ContractId],
        suspects: &HashMap<PlaceKey, (u64, u64)>,
        found: &mut HashMap<PlaceKey, (u64, u64)>,
    ) -> Option<()> {
        let now = self.clock.now();
        let mut seen: HashMap<PlaceKey, (PartnerId, u64)> = HashMap::new();
        for contract in page {
            let Ok(rules) = self.mirror.rules_of(contract) else { continue };
            let partner = rules.partner();
            self.compare_pauses(partner, contract).await?;
            let keys: Vec<PlaceKey> = rules.present(now).places().map(|place| place.key.clone()).collect();
            let counts = self.peek(partner, &keys).await?;
            seen.extend(keys.into_iter().zip(counts).filter_map(|(key, n)| Some((key, (partner.clone(), n?)))));
        }
        let held: HashMap<PlaceKey, u64> =
            super::told(self.truth.counts(seen.keys().cloned().collect())).await.ok()?.into_iter().collect();
        for (key, (partner, used)) in seen {
            let holds = held.get(&key).copied().unwrap_or(0);
            if used == holds {
                continue;
            }
            if suspects.get(&key) == Some(&(used, holds)) && !self.mirror.is_under_way(&key) {
                self.correct(&partner, &[(key, Some(used), holds)]).await?;
                continue;
            }
            found.insert(key, (used, holds));
        }
        // Looked at again, also if nobody asks about them any more.
        for contract in page {
            let Ok(rules) = self.mirror.rules_of(contract) else { continue };
            if rules.present(now).places().any(|place| found.contains_key(&place.key)) {
                self.errands.touch(contract);
            }
        }
        Some(())
    }

    /// A pause that Redis knows and the store does not is over: whoever ended it died before he could say so here.
    async fn compare_pauses(&self, partner: &PartnerId, contract: &ContractId) -> Option<()> {
        let believed = [Paused::Partner(partner.clone()), Paused::Contract(contract.clone())];
        if !believed.iter().any(|who| self.mirror.is_paused(who)) {
            return Some(());
        }
        let (of_partner, of_contract) = super::told(self.truth.paused(partner.clone(), contract.clone())).await.ok()?;
        for (who, is_paused) in believed.into_iter().zip([of_partner, of_contract]) {
            if self.mirror.is_paused(&who) && !is_paused {
                self.mirror.set_paused(who.clone(), false);
                if !self.void_pause(partner, &who).await {
                    self.errands.owe_pause(partner.clone(), who);
                }
            }
        }
        Some(())
    }

    /// What counters of one partner are in Redis.
    pub(super) async fn peek(&self, partner: &PartnerId, keys: &[PlaceKey]) -> Option<Vec<Option<u64>>> {
        let up = self.link.up()?;
        let mut cmd = ::redis::cmd("MGET");
        for key in keys {
            cmd.arg(self.counter_key(partner, key));
        }
        numbers(&self.link.ask(&up, &cmd, &mut self.link.patience()).await.ok()?)
    }

    /// Sets counters, each from what it was to what the store holds.
    pub(super) async fn correct(&self, partner: &PartnerId, sets: &[(PlaceKey, Option<u64>, u64)]) -> Option<()> {
        let up = self.link.up()?;
        let mut keys = vec![self.state_key(partner)];
        let mut told = Vec::new();
        for (key, was, holds) in sets {
            keys.push(self.counter_key(partner, key));
            told.push(was.map_or_else(String::new, |was| was.to_string()));
            told.push(holds.to_string());
            told.push(super::keep(key).to_string());
        }
        let answer = self.scripts.correct.run(&self.link, &up, &keys, &told, &mut self.link.patience()).await.ok()?;
        let (mark, now) = counts(&answer)?;
        let known = sets.iter().zip(now).filter_map(|((key, ..), used)| used.map(|used| (key, used)));
        self.mirror.saw(known, mark.stamp());
        Some(())
    }
}

/// A number that no earlier state of a partner has; never 0, which says that there is none.
pub(super) fn new_epoch() -> u64 {
    // Below 2^53: Lua's numbers are doubles.
    (u64::from_le_bytes(clock::random_bytes()) >> 12) | 1
}
