//! The window on a contract's queue against a model: a store that always knows who waits, read in pages that may be out
//! of date by the time they arrive.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use lead_gateway::model::id::{DeliveryId, LeadId};
use lead_gateway::model::lead::{Fields, Lead, Meta};
use lead_gateway::store::{QueueKey, Queued};
use lead_gateway::worker::fresh::Fresh;
use lead_gateway::worker::window::{Item, Refill, Which, Window};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::sync::Semaphore;
use uuid::Uuid;

const CAPACITY: usize = 8;
/// Leads that may be in memory with their deliveries.
const LEADS: usize = 12;

fn second(number: u32) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(number))
}

/// Something that happens around a window.
#[derive(Debug, Clone)]
enum Event {
    /// Leads arrive, received so many seconds ago (a redelivery is older than it is long in the queue).
    Arrive(Vec<u32>),
    /// The runner looks, as it does: reads a page where one is wanted, with these things happening while it is read; then
    /// takes up to so many of the first.
    Look { before_the_read: Vec<Event>, after_the_read: Vec<Event>, take: usize },
    /// One that was taken ends: for good, or is to be tried again in so many seconds, or at once (0).
    End { which: prop::sample::Index, again: Option<u32> },
    /// Time passes.
    Pass(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let small = prop_oneof![
        4 => prop::collection::vec(0..30_u32, 1..12).prop_map(Event::Arrive),
        6 => (any::<prop::sample::Index>(), prop::option::of(0..40_u32))
            .prop_map(|(which, again)| Event::End { which, again }),
    ];
    let few = move || prop::collection::vec(small.clone(), 0..4);
    let any_event = prop_oneof![
        3 => prop::collection::vec(0..30_u32, 1..12).prop_map(Event::Arrive),
        6 => (few(), few(), 0..8_usize).prop_map(|(before_the_read, after_the_read, take)| Event::Look {
            before_the_read,
            after_the_read,
            take
        }),
        5 => (any::<prop::sample::Index>(), prop::option::of(0..40_u32))
            .prop_map(|(which, again)| Event::End { which, again }),
        2 => (0..20_u32).prop_map(Event::Pass),
    ];
    prop::collection::vec(any_event, 1..80)
}

struct World {
    window: Window,
    /// Bounds the leads in memory.
    leads: Arc<Semaphore>,
    now: u32,
    next: u128,
    /// Who waits, as the store has it; also those in hand, whose attempt has not been stored yet.
    store: HashMap<DeliveryId, Queued>,
    in_hand: Vec<Queued>,
    handed_out: HashMap<DeliveryId, usize>,
}

impl World {
    fn new(backlog: &[u32]) -> Self {
        let mut world = Self {
            window: Window::new(CAPACITY, !backlog.is_empty()),
            leads: Arc::new(Semaphore::new(LEADS)),
            now: 1_000,
            next: 0,
            store: HashMap::new(),
            in_hand: Vec::new(),
            handed_out: HashMap::new(),
        };
        for ago in backlog {
            // Some of the backlog is to be tried again.
            let due = (ago % 3 == 0).then(|| second(1_000 + ago));
            world.arrives(*ago, due);
        }
        world
    }

    fn arrives(&mut self, ago: u32, due_at: Option<Timestamp>) -> Queued {
        self.next += 1;
        let received_at = second(self.now - ago);
        let queued = Queued {
            id: DeliveryId(Uuid::from_u128(self.next)),
            lead: LeadId(Uuid::from_u128(self.next)),
            received_at,
            waits: false,
            had_unknown: false,
            bypass_limits: false,
            due_at,
            since: received_at,
        };
        self.store.insert(queued.id, queued.clone());
        queued
    }

    /// With its lead, if there is room for one; every third has none in any case.
    fn item(&self, queued: Queued) -> Item {
        let permit =
            Arc::clone(&self.leads).try_acquire_owned().ok().filter(|_| !queued.id.0.as_u128().is_multiple_of(3));
        let fresh = permit.map(|permit| {
            let lead = Lead {
                id: queued.lead,
                campaign: "solar".parse().unwrap(),
                source: "acme".parse().unwrap(),
                received_at: queued.received_at,
                test: false,
                meta: Meta::default(),
                fields: Fields::default(),
            };
            Fresh { lead: Arc::new(lead), record: None, permit: Arc::new(permit) }
        });
        Item { lead: fresh, ..Item::stored(queued) }
    }

    fn happens(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Arrive(leads) => {
                for ago in leads {
                    let queued = self.arrives(*ago, None);
                    self.window.push(self.item(queued), second(self.now));
                }
            }
            Event::Look { before_the_read, after_the_read, take } => {
                self.look(before_the_read, after_the_read)?;
                for _ in 0..*take {
                    self.take()?;
                }
            }
            Event::End { which, again } if !self.in_hand.is_empty() => {
                let queued = self.in_hand.swap_remove(which.index(self.in_hand.len()));
                self.ends(queued, *again);
            }
            Event::End { .. } => {}
            Event::Pass(seconds) => self.now += seconds,
        }
        self.is_in_bounds()
    }

    /// As the pipeline does: first the store, then the queue, then the runner's own word.
    fn ends(&mut self, mut queued: Queued, again: Option<u32>) {
        match again {
            None => {
                self.store.remove(&queued.id);
                self.window.done(queued.id);
            }
            // It was not sent after all.
            Some(0) => {
                self.window.done(queued.id);
                self.window.push(Item::stored(queued), second(self.now));
            }
            Some(seconds) => {
                queued.due_at = Some(second(self.now + seconds));
                self.store.insert(queued.id, queued.clone());
                self.window.push(Item::stored(queued.clone()), second(self.now));
                self.window.done(queued.id);
            }
        }
    }

    fn look(&mut self, before: &[Event], after: &[Event]) -> Result<bool, TestCaseError> {
        let refill = self.window.wants();
        if let Some(refill) = refill {
            for event in before {
                self.happens(event)?;
            }
            let page = self.page(refill);
            for event in after {
                self.happens(event)?;
            }
            let page = page.into_iter().map(|queued| self.item(queued)).collect();
            self.window.fill(refill, page);
        }
        self.window.mature(second(self.now));
        Ok(refill.is_some())
    }

    fn page(&self, refill: Refill) -> Vec<Queued> {
        let now = second(self.now);
        let mut sorted: BTreeMap<QueueKey, Queued> = BTreeMap::new();
        for queued in self.store.values() {
            let rank = match refill.which {
                Which::Ready if queued.due_at.is_none_or(|due| due <= now) => queued.received_at,
                Which::Ready => continue,
                Which::Due => match queued.due_at {
                    Some(due) => due,
                    None => continue,
                },
            };
            sorted.insert((rank, queued.id), queued.clone());
        }
        let after = refill.after;
        let page = sorted.into_iter().filter(|(key, _)| after.is_none_or(|after| *key > after));
        page.take(refill.limit).map(|(_, queued)| queued).collect()
    }

    fn take(&mut self) -> Result<(), TestCaseError> {
        let Some(first) = self.window.first().map(|item| item.queued.clone()) else { return Ok(()) };
        let first_key = (first.received_at, first.id);
        let in_order = self.window.ready().all(|item| (item.queued.received_at, item.queued.id) >= first_key);
        prop_assert!(in_order, "not the first of those in memory");
        let item = self.window.take(&first);
        prop_assert!(item.is_some());
        prop_assert!(!self.in_hand.iter().any(|other| other.id == first.id), "handed out while in hand");
        let stored = self.store.get(&first.id);
        prop_assert!(stored.is_some(), "handed out when it had ended");
        prop_assert_eq!(stored.and_then(|stored| stored.due_at), first.due_at, "handed out as it was before");
        prop_assert!(first.due_at.is_none_or(|due| due <= second(self.now)), "handed out before it was due");
        *self.handed_out.entry(first.id).or_default() += 1;
        self.in_hand.push(first);
        Ok(())
    }

    fn is_in_bounds(&self) -> Result<(), TestCaseError> {
        let (ready, due) = self.window.len();
        let most = 2 * CAPACITY + LEADS;
        prop_assert!(ready <= most && due <= most, "{ready} and {due} are in memory");
        Ok(())
    }

    /// Works everything off, and finds everybody who waits.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        while let Some(queued) = self.in_hand.pop() {
            self.ends(queued, None);
        }
        self.now += 100;
        let mut looks = 0;
        loop {
            let read = self.look(&[], &[])?;
            self.is_in_bounds()?;
            if self.window.first().is_none() {
                if read {
                    looks += 1;
                    prop_assert!(looks < 1_000, "it reads on and on");
                    continue;
                }
                break;
            }
            self.take()?;
            let Some(queued) = self.in_hand.pop() else { break };
            self.ends(queued, None);
        }
        let lost: HashSet<_> = self.store.keys().collect();
        prop_assert!(lost.is_empty(), "{} wait in the store, and nobody knows: {lost:?}", lost.len());
        Ok(())
    }
}

#[test]
fn whatever_happens_nothing_is_lost_nothing_is_handed_out_twice_and_memory_is_bounded() {
    let config = Config { cases: 1_000, failure_persistence: None, ..Config::default() };
    let backlog = prop::collection::vec(0..60_u32, 0..60);
    TestRunner::new(config)
        .run(&(backlog, events()), |(backlog, events)| {
            let mut world = World::new(&backlog);
            for event in &events {
                world.happens(event)?;
            }
            world.drain()
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_backlog_is_handed_out_in_the_order_it_arrived() {
    let mut world = World::new(&[]);
    world.window = Window::new(CAPACITY, true);
    let mut expected: Vec<QueueKey> = (0..200_u32)
        .map(|number| {
            let queued = world.arrives(number * 7 % 200, None);
            (queued.received_at, queued.id)
        })
        .collect();
    expected.sort();
    let mut order = Vec::new();
    while order.len() < 200 {
        world.look(&[], &[]).unwrap();
        world.take().unwrap();
        let Some(queued) = world.in_hand.pop() else { continue };
        order.push((queued.received_at, queued.id));
        world.ends(queued, None);
    }
    assert_eq!(order, expected);
}

#[test]
fn what_is_pushed_while_a_page_is_read_and_ranks_before_its_end_is_not_lost() {
    let mut world = World::new(&[]);
    world.window = Window::new(CAPACITY, true);
    for ago in 19..=30 {
        world.arrives(ago, None);
    }
    // Nobody is to be tried again; then the ready ones are asked for.
    world.look(&[], &[]).unwrap();
    let refill = world.window.wants().unwrap();
    assert_eq!(refill.which, Which::Ready);
    let page = world.page(refill);
    // Received earlier than the page's last, stored after the page was read.
    let late = world.arrives(25, None);
    world.window.push(Item::stored(late.clone()), second(world.now));
    world.window.fill(refill, page.into_iter().map(Item::stored).collect());
    world.drain().unwrap();
    assert_eq!(world.handed_out[&late.id], 1);
}
