//! A store's part towards gates, as simple and exact as can be: what it has granted, what is paused, which network is the
//! newest.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lead_gateway::gate::{Gate, Paused, Ticket, Told, Truth};
use lead_gateway::model::id::{ContractId, PartnerId};
use lead_gateway::model::limit::{Place, PlaceKey};

#[derive(Default)]
pub struct Books {
    used: Mutex<HashMap<PlaceKey, u64>>,
    paused: Mutex<HashSet<Paused>>,
    pub version: AtomicU64,
    /// How often it refused what a gate let through.
    pub refusals: AtomicUsize,
    /// How often a gate asked for counts.
    pub asked: AtomicUsize,
}

impl Books {
    /// Takes the ticket's places, or says which are full.
    pub fn grant(&self, ticket: &Ticket) -> Result<(), Vec<(PlaceKey, u64)>> {
        let mut used = self.used.lock().unwrap();
        let wanted = || ticket.places.iter().filter(|place| !ticket.owned.contains(&place.key));
        let has = |used: &HashMap<PlaceKey, u64>, key: &PlaceKey| used.get(key).copied().unwrap_or(0);
        let full: Vec<(PlaceKey, u64)> = wanted()
            .filter(|place| place.limit.is_some_and(|limit| has(&used, &place.key) >= limit))
            .map(|place| (place.key.clone(), has(&used, &place.key)))
            .collect();
        if !full.is_empty() {
            self.refusals.fetch_add(1, Ordering::SeqCst);
            return Err(full);
        }
        for place in wanted() {
            *used.entry(place.key.clone()).or_default() += 1;
        }
        Ok(())
    }

    pub fn give_back(&self, places: &[Place]) {
        let mut used = self.used.lock().unwrap();
        for place in places {
            *used.get_mut(&place.key).unwrap() -= 1;
        }
    }

    pub fn set(&self, counts: &[(PlaceKey, u64)]) {
        self.used.lock().unwrap().extend(counts.iter().cloned());
    }

    pub fn used(&self, key: &str) -> u64 {
        self.used.lock().unwrap().get(&PlaceKey::from_text(key)).copied().unwrap_or(0)
    }

    pub fn pause(&self, who: Paused, paused: bool) {
        let mut all = self.paused.lock().unwrap();
        if paused {
            all.insert(who)
        } else {
            all.remove(&who)
        };
    }
}

impl Truth for Books {
    fn counts(&self, keys: Vec<PlaceKey>) -> Told<'_, Vec<(PlaceKey, u64)>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let used = self.used.lock().unwrap();
        let counts = keys.into_iter().filter_map(|key| used.get(&key).copied().map(|n| (key, n))).collect();
        Box::pin(std::future::ready(Ok(counts)))
    }

    fn paused(&self, partner: PartnerId, contract: ContractId) -> Told<'_, (bool, bool)> {
        let all = self.paused.lock().unwrap();
        let both = (all.contains(&Paused::Partner(partner)), all.contains(&Paused::Contract(contract)));
        Box::pin(std::future::ready(Ok(both)))
    }

    fn version(&self) -> Told<'_, u64> {
        Box::pin(std::future::ready(Ok(self.version.load(Ordering::SeqCst))))
    }
}

/// A gate under test, and the store's part towards it.
pub struct Subject {
    gate: Gate,
    pub books: Arc<Books>,
}

impl Subject {
    pub fn new(gate: Gate, books: Arc<Books>) -> Self {
        Self { gate, books }
    }

    /// As a person's pause goes: stored, then told.
    pub async fn set_paused(&self, who: Paused, paused: bool) {
        self.books.pause(who.clone(), paused);
        self.gate.set_paused(who, paused).await;
    }
}

impl std::ops::Deref for Subject {
    type Target = Gate;

    fn deref(&self) -> &Gate {
        &self.gate
    }
}
