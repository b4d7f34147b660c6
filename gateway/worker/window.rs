//! What of a contract's queue is in memory: the first so many, in order; the rest stays in the store. So a backlog of
//! any size costs the same memory, and a short queue costs no reads.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::fresh::Fresh;
use crate::model::id::DeliveryId;
use crate::store::{QueueKey, Queued};
use jiff::Timestamp;

/// A waiting delivery; one that brings its lead along need not be read again.
#[derive(Debug, Clone)]
pub struct Item {
    /// What the queue knows of it.
    pub queued: Queued,
    /// Its lead, where there is memory to spare.
    pub lead: Option<Fresh>,
    /// How long it has been held since it became ready, the present hold not counted.
    pub held: Duration,
    /// Since when it is held now.
    pub held_since: Option<Timestamp>,
}

impl Item {
    /// One whose lead has to be read.
    #[must_use]
    pub fn stored(queued: Queued) -> Self {
        Self { queued, lead: None, held: Duration::ZERO, held_since: None }
    }

    /// It is held no longer.
    pub(super) fn release(&mut self, now: Timestamp) {
        if let Some(since) = self.held_since.take() {
            self.held += Duration::try_from(now.duration_since(since)).unwrap_or_default();
        }
    }
}

/// Both sides of a contract's queue: what is ready, by arrival, and what is to be tried again, by when it is due.
#[derive(Debug)]
pub struct Window {
    ready: Side,
    due: Side,
    /// Taken out and being worked on, but in the store still waiting: not to be taken in twice.
    in_hand: HashSet<DeliveryId>,
    /// While a page is being read: what has left `in_hand` since. The page may still show it as it was before.
    left: Option<HashSet<DeliveryId>>,
}

#[derive(Debug)]
struct Side {
    items: BTreeMap<QueueKey, Item>,
    /// How many of them have no lead with them. Those that have are bounded by their permits.
    bare: usize,
    /// How many may have none.
    capacity: usize,
    /// The store may have more behind the boundary.
    more: bool,
    /// While there is more: what ranks up to here is in memory (or was worked off), what ranks behind it is only in
    /// the store.
    boundary: Option<QueueKey>,
    /// The first of what was left to the store since the last refill began, which that refill may not have seen.
    missed: Option<QueueKey>,
    /// The first of what was left to the store since [`Window::left_since`] was last asked.
    left: Option<QueueKey>,
}

impl Side {
    fn insert(&mut self, key: QueueKey, item: Item) {
        // What a person lets pass the limits is not to wait behind those that wait at them.
        let in_order = !item.queued.bypass_limits;
        if in_order && self.more && self.boundary.is_none_or(|boundary| key > boundary) {
            self.miss(key);
            return;
        }
        self.put(key, item);
        self.shed(self.capacity);
    }

    fn put(&mut self, key: QueueKey, item: Item) {
        self.bare += usize::from(item.lead.is_none());
        let before = self.items.insert(key, item);
        self.bare -= usize::from(before.is_some_and(|before| before.lead.is_none()));
    }

    fn take(&mut self, key: &QueueKey) -> Option<Item> {
        let item = self.items.remove(key)?;
        self.bare -= usize::from(item.lead.is_none());
        Some(item)
    }

    fn miss(&mut self, key: QueueKey) {
        self.missed = Some(self.missed.map_or(key, |first| first.min(key)));
        self.left = Some(self.left.map_or(key, |first| first.min(key)));
    }

    /// Leaves the last ones to the store.
    fn shed(&mut self, capacity: usize) {
        while self.bare > capacity
            && let Some(key) = self.last_in_order()
        {
            self.take(&key);
            self.more = true;
            self.miss(key);
            self.boundary = self.last_in_order();
        }
    }

    fn last_in_order(&self) -> Option<QueueKey> {
        self.items.iter().rev().find(|(_, item)| !item.queued.bypass_limits).map(|(key, _)| *key)
    }
}

/// Which side of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// By arrival.
    Ready,
    /// By when it is due.
    Due,
}

/// A page that the store is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refill {
    /// For which side.
    pub which: Which,
    /// What follows this.
    pub after: Option<QueueKey>,
    /// At most so many.
    pub limit: usize,
}

impl Window {
    /// An empty window; `more` when the store may hold waiting deliveries.
    #[must_use]
    pub fn new(capacity: usize, more: bool) -> Self {
        let side =
            || Side { items: BTreeMap::new(), bare: 0, capacity, more, boundary: None, missed: None, left: None };
        Self { ready: side(), due: side(), in_hand: HashSet::new(), left: None }
    }

    /// The store may hold more than is here.
    pub fn expect_more(&mut self) {
        for side in [&mut self.ready, &mut self.due] {
            // Everything is read from the beginning: what is here already keeps its place.
            (side.more, side.boundary) = (true, None);
        }
    }

    /// Takes in a delivery that has just been stored as waiting.
    pub fn push(&mut self, item: Item, now: Timestamp) {
        // What was taken out is back: an attempt of it ended, and it is to be tried again.
        self.done(item.queued.id);
        match item.queued.due_at {
            Some(due) if due > now => self.due.insert((due, item.queued.id), item),
            _ => self.ready.insert((item.queued.received_at, item.queued.id), item),
        }
    }

    /// Moves what has become due to the ready side.
    pub fn mature(&mut self, now: Timestamp) {
        while let Some((&key, _)) = self.due.items.first_key_value()
            && key.0 <= now
            && let Some(item) = self.due.take(&key)
        {
            self.ready.insert((item.queued.received_at, item.queued.id), item);
        }
    }

    /// When the next retry in memory is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.items.first_key_value().map(|(key, _)| key.0)
    }

    /// Which page to ask the store for, if one is needed now.
    pub fn wants(&mut self) -> Option<Refill> {
        for which in [Which::Due, Which::Ready] {
            let in_hand = self.in_hand.len();
            let side = self.side(which);
            // Without a boundary nobody can say what of the store is here: it is read at once.
            if side.more && (side.boundary.is_none() || side.items.len() <= side.capacity / 4) {
                side.missed = None;
                let refill = Refill { which, after: side.boundary, limit: side.capacity + in_hand };
                self.left = Some(HashSet::new());
                return Some(refill);
            }
        }
        None
    }

    /// Takes in the page that was asked for.
    pub fn fill(&mut self, refill: Refill, page: Vec<Item>) {
        let complete = page.len() < refill.limit;
        let in_hand = std::mem::take(&mut self.in_hand);
        let left = self.left.take().unwrap_or_default();
        let side = self.side(refill.which);
        for item in page {
            let queued = &item.queued;
            let rank = match refill.which {
                Which::Ready => queued.received_at,
                Which::Due => queued.due_at.unwrap_or(queued.received_at),
            };
            let key = (rank, queued.id);
            // What was left to the store may be missing from this page: it is read again from there on.
            if side.missed.is_some_and(|first| first <= key) {
                break;
            }
            side.boundary = side.boundary.max(Some(key));
            if !in_hand.contains(&queued.id) && !left.contains(&queued.id) {
                // What a push brought in the meantime knows more.
                if !side.items.contains_key(&key) {
                    side.put(key, item);
                }
            }
        }
        side.more = !complete || side.missed.is_some();
        side.shed(side.capacity * 2);
        self.in_hand = in_hand;
    }

    /// The first that is ready.
    #[must_use]
    pub fn first(&self) -> Option<&Item> {
        self.ready.items.values().next()
    }

    /// The ready ones in memory, in order.
    pub fn ready(&self) -> impl Iterator<Item = &Item> {
        self.ready.items.values()
    }

    /// The ready ones in memory, in order, to be marked.
    pub fn ready_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        self.ready.items.values_mut()
    }

    /// Keeps no leads of the ready ones, and of these no more than may be without.
    pub fn forget_leads(&mut self) {
        for item in self.ready.items.values_mut() {
            item.lead = None;
        }
        self.ready.bare = self.ready.items.len();
        self.ready.shed(self.ready.capacity);
    }

    /// Takes a ready one out to be worked on; [`Window::done`] must follow.
    pub fn take(&mut self, queued: &Queued) -> Option<Item> {
        let item = self.ready.take(&(queued.received_at, queued.id))?;
        self.in_hand.insert(queued.id);
        Some(item)
    }

    /// The delivery no longer waits in the store, or is to be waited for again with [`Window::push`].
    pub fn done(&mut self, id: DeliveryId) {
        if self.in_hand.remove(&id)
            && let Some(left) = &mut self.left
        {
            left.insert(id);
        }
    }

    /// Whether more ready ones are in the store than here.
    #[must_use]
    pub fn has_more_ready(&self) -> bool {
        self.ready.more
    }

    /// The first of the ready ones that were left to the store since this was last asked: whoever goes through those there
    /// may have missed it.
    pub fn left_since(&mut self) -> Option<QueueKey> {
        self.ready.left.take()
    }

    /// Whether more are in the store than here.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.ready.more || self.due.more
    }

    /// How many are in memory: ready, and to be tried again.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.ready.items.len(), self.due.items.len())
    }

    fn side(&mut self, which: Which) -> &mut Side {
        match which {
            Which::Ready => &mut self.ready,
            Which::Due => &mut self.due,
        }
    }
}
