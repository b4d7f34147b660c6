//! Gate and store together against a model: random histories of tickets, grants, refusals, places given back, counts told
//! late or at the wrong moment, clocks that jump over midnights in three zones, and crashes at any point of it. However
//! it goes, the store grants exactly what the limits have left, and once all is quiet the gate lets through exactly that.
//!
//! Another gate or another store is another line at the end of this file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lead_gateway::clock::{self, Clock};
use lead_gateway::gate::memory::MemoryGate;
use lead_gateway::gate::rules::{GateRules, PartnerRules};
use lead_gateway::gate::{Answer, AsOf, Gate, RedisGate, Servers, Settings, Ticket, limits};
use lead_gateway::model::contract::Contract;
use lead_gateway::model::delivery::{DeliveryState, Verdict};
use lead_gateway::model::id::{ContractId, DeliveryId, LeadId};
use lead_gateway::model::limit::{Limits, OwnerKind, Place, PlaceKey};
use lead_gateway::model::partner::Partner;
use lead_gateway::pipeline::StoreTruth;
use lead_gateway::store::{Accept, Accepted, Change, Granted, LeadStep, Step, Stepped, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::servers::redis::Redis;
use crate::store::suite::{Case, end};

/// Partners: their zones and limits (daily, monthly, total).
const PARTNERS: [(&str, &str, [u64; 3]); 3] = [
    ("akl", "Pacific/Auckland", [2, 0, 0]),
    ("lon", "Europe/London", [3, 6, 0]),
    ("nyc", "America/New_York", [0, 4, 0]),
];
/// Contracts: their partners and limits.
const CONTRACTS: [(&str, usize, [u64; 3]); 4] =
    [("a", 0, [0, 0, 7]), ("b", 1, [2, 0, 0]), ("c", 1, [0, 0, 0]), ("d", 2, [1, 0, 0])];
/// Shortly before London sets its clocks back; within two weeks New York does, and a month ends.
const BEGIN: &str = "2026-10-24T21:30:00Z";

type Rules = HashMap<ContractId, Arc<GateRules>>;

fn rules() -> Rules {
    let limits = |[daily, monthly, total]: [u64; 3]| {
        format!("limits = {{ daily = {daily}, monthly = {monthly}, total = {total} }}")
    };
    let partners = PARTNERS.map(|(id, zone, of)| {
        let text = format!("id = \"{id}\"\nkind = \"buyer\"\ntimezone = \"{zone}\"\n{}", limits(of));
        let partner: Partner = toml::from_str(&text).unwrap();
        Arc::new(PartnerRules::compile(&partner).unwrap())
    });
    CONTRACTS
        .map(|(id, partner, of)| {
            let text = format!(
                "id = \"{id}\"\npartner = \"{}\"\ncampaign = \"solar\"\n{}\n\
                 [endpoint]\nmethod = \"json\"\nurl = \"https://partner.example/leads\"\n",
                PARTNERS[partner].0,
                limits(of)
            );
            let contract: Contract = toml::from_str(&text).unwrap();
            (contract.id.clone(), Arc::new(GateRules::compile(Arc::clone(&partners[partner]), &contract).unwrap()))
        })
        .into()
}

/// A store that can crash.
struct Disk {
    open: Arc<dyn Fn() -> Store + Send + Sync>,
    /// What a crash at this moment leaves behind.
    crashed: Box<dyn Fn() -> Disk>,
}

impl Disk {
    fn case(&self) -> Case {
        let open = Arc::clone(&self.open);
        Case::new(Box::new(move || open()))
    }
}

/// What can be expected of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It lives as long as its process.
    LivesAndDies,
    /// It stands outside, and may lose all it knew at any moment.
    Forgets,
}

/// What may happen; indexes are taken modulo how many there are.
#[derive(Debug, Clone)]
enum Act {
    /// A lead arrives for a contract.
    Post(usize),
    /// A waiting delivery asks the gate.
    Take(usize),
    /// Something that is on its way between gate and store arrives.
    Arrive(usize),
    /// An attempt ends, or a person resolves an unknown one.
    End(usize, u8),
    /// Somebody asks the store for its counts, to tell the gate later.
    Ask,
    /// All that is on its way arrives, the latest first or last, and gate and store are compared.
    Quiet(bool),
    /// Time passes, minutes.
    Pass(i64),
    /// The gateway dies, and another one starts.
    Crash,
    /// The gate loses all it knew.
    Forget,
}

fn acts(kind: Kind) -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        5 => any::<usize>().prop_map(Act::Post),
        8 => any::<usize>().prop_map(Act::Take),
        14 => any::<usize>().prop_map(Act::Arrive),
        5 => (any::<usize>(), any::<u8>()).prop_map(|(which, how)| Act::End(which, how)),
        4 => Just(Act::Ask),
        2 => any::<bool>().prop_map(Act::Quiet),
        2 => prop_oneof![0..90_i64, 300..2_000_i64].prop_map(Act::Pass),
        1 => Just(Act::Crash),
        u32::from(kind == Kind::Forgets) => Just(Act::Forget),
    ];
    prop::collection::vec(act, 1..120)
}

#[derive(Debug, Clone)]
struct Delivery {
    id: DeliveryId,
    lead: LeadId,
    contract: usize,
    state: DeliveryState,
    attempts: u32,
    /// What it owns, as the model has it.
    places: Vec<PlaceKey>,
    /// Between gate and store: not to be touched by anything else.
    busy: bool,
}

/// On its way between gate and store; arrives in any order.
#[derive(Debug)]
enum Flight {
    /// Let through by the gate; its commit comes.
    Ticket { delivery: usize, ticket: Ticket },
    /// Refused by the store; the gate is to hear it.
    Refused { delivery: usize, ticket: Ticket, counts: Vec<(PlaceKey, u64)> },
    /// Granted by the store; the gate is to hear it.
    Granted { delivery: usize, ticket: Ticket, earlier: Vec<PlaceKey> },
    /// Given back to the store; the gate is to hear it.
    GivenBack(Vec<PlaceKey>),
    /// Asked of the store; the gate is to hear it.
    Counts { counts: Vec<(PlaceKey, u64)>, as_of: AsOf },
}

struct World {
    disk: Disk,
    case: Case,
    history: usize,
    gate: Gate,
    deliveries: Vec<Delivery>,
    flights: Vec<Flight>,
    /// The model: how many of each are taken.
    taken: BTreeMap<PlaceKey, u64>,
    keys: BTreeSet<PlaceKey>,
}

fn id(contract: usize) -> ContractId {
    CONTRACTS[contract].0.parse().unwrap()
}

/// The places of one lead at a contract, with their limits.
fn places(contract: usize, now: Timestamp) -> Vec<Place> {
    let (own, partner, own_limits) = CONTRACTS[contract];
    let (name, zone, partner_limits) = PARTNERS[partner];
    let tz = TimeZone::get(zone).unwrap();
    let of = |kind, owner, [daily, monthly, total]: [u64; 3]| {
        limits::places(kind, owner, &Limits { daily, monthly, total }, &tz, now).map(|(place, _)| place)
    };
    let partner = of(OwnerKind::Partner, name, partner_limits);
    partner.into_iter().chain(of(OwnerKind::Contract, own, own_limits)).collect()
}

/// What a gate is made with: its rules, the store that it may ask, its clock, and the number of its history.
struct Start {
    rules: Rules,
    store: Store,
    clock: Clock,
    history: usize,
}

/// Runs histories. `make` gives the gate of a process that starts, with these rules; `forget` takes from a gate outside of
/// the process what it knew.
fn run<F, Fut>(disk: fn() -> Disk, kind: Kind, make: F, forget: impl Fn())
where
    F: Fn(Start) -> Fut,
    Fut: Future<Output = Gate>,
{
    let history = AtomicUsize::new(0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases: 30, failure_persistence: None, ..Config::default() });
    runner
        .run(&acts(kind), |acts| {
            runtime.block_on(async {
                let mut world = World::new(disk(), history.fetch_add(1, Ordering::Relaxed), &make).await;
                for act in &acts {
                    if matches!(act, Act::Forget) {
                        forget();
                    }
                    world.act(act, kind, &make).await;
                }
                world.be_quiet(kind, false).await;
                world.act(&Act::Crash, kind, &make).await;
                world.be_quiet(kind, false).await;
            });
            Ok(())
        })
        .unwrap();
}

impl World {
    async fn new<F, Fut>(disk: Disk, history: usize, make: &F) -> Self
    where
        F: Fn(Start) -> Fut,
        Fut: Future<Output = Gate>,
    {
        let case = disk.case();
        case.clock.set(BEGIN.parse().unwrap());
        let gate = make(start(&case, history)).await;
        let (deliveries, flights, taken, keys) = Default::default();
        Self { disk, case, history, gate, deliveries, flights, taken, keys }
    }

    async fn act<F, Fut>(&mut self, act: &Act, kind: Kind, make: &F)
    where
        F: Fn(Start) -> Fut,
        Fut: Future<Output = Gate>,
    {
        match act {
            Act::Post(n) => self.post(n % CONTRACTS.len()).await,
            Act::Take(n) => self.take(*n).await,
            Act::Arrive(n) => {
                if let Some(n) = n.checked_rem(self.flights.len()) {
                    let flight = self.flights.swap_remove(n);
                    self.arrive(flight).await;
                }
            }
            Act::End(n, how) => self.end(*n, *how).await,
            Act::Ask => self.ask().await,
            Act::Quiet(latest_first) => self.be_quiet(kind, *latest_first).await,
            Act::Pass(minutes) => self.case.pass(SignedDuration::from_mins(*minutes)),
            Act::Crash => self.crash(make).await,
            Act::Forget => {}
        }
    }

    fn used(&self, key: &PlaceKey) -> u64 {
        self.taken.get(key).copied().unwrap_or(0)
    }

    /// One of those deliveries that `may`.
    fn pick(&self, n: usize, may: impl Fn(&Delivery) -> bool) -> Option<usize> {
        let those: Vec<usize> = (0..self.deliveries.len()).filter(|n| may(&self.deliveries[*n])).collect();
        n.checked_rem(those.len()).map(|n| those[n])
    }

    async fn post(&mut self, contract: usize) {
        let new = self.case.delivery(CONTRACTS[contract].0);
        let accept = Accept { deliveries: vec![new.clone()], ..self.case.lead("a@example.com") };
        let lead = accept.lead.id;
        assert_eq!(self.case.store().accept(accept).await.unwrap(), Accepted::Stored);
        self.deliveries.push(Delivery {
            id: new.id,
            lead,
            contract,
            state: DeliveryState::Queued,
            attempts: 0,
            places: Vec::new(),
            busy: false,
        });
    }

    async fn take(&mut self, n: usize) {
        let Some(n) = self.pick(n, |one| one.state == DeliveryState::Queued && !one.busy) else { return };
        let Delivery { contract, places: owned, .. } = self.deliveries[n].clone();
        let now = self.case.now();
        let answer = match owned.is_empty() {
            true => self.gate.take(&id(contract), now, false).await,
            false => self.gate.take_again(&id(contract), now, &owned).await,
        };
        // It may refuse without a reason, and one outside may fail to answer; what it lets through it must describe well.
        if let Ok(Answer::Open(ticket)) = answer {
            assert_eq!(ticket.places, places(contract, now));
            self.deliveries[n].busy = true;
            self.flights.push(Flight::Ticket { delivery: n, ticket });
        }
    }

    async fn arrive(&mut self, flight: Flight) {
        match flight {
            Flight::Ticket { delivery, ticket } if self.case.now() >= ticket.valid_until => {
                self.gate.hand_back(&ticket, &[]);
                self.deliveries[delivery].busy = false;
            }
            Flight::Ticket { delivery, ticket } => self.start(delivery, ticket).await,
            Flight::Refused { delivery, ticket, counts } => {
                self.gate.hand_back(&ticket, &counts);
                self.deliveries[delivery].busy = false;
            }
            Flight::Granted { delivery, ticket, earlier } => {
                self.gate.made(&ticket);
                self.settle(earlier);
                self.deliveries[delivery].busy = false;
            }
            Flight::GivenBack(keys) => self.settle(keys),
            Flight::Counts { counts, as_of } => self.gate.reconcile(&counts, as_of).await,
        }
    }

    fn settle(&self, keys: Vec<PlaceKey>) {
        if !keys.is_empty() {
            let places: Vec<Place> = keys.into_iter().map(|key| Place { key, limit: None }).collect();
            self.gate.settle(&places, true);
        }
    }

    /// The attempt commit: granted exactly if the model has a place of each.
    async fn start(&mut self, n: usize, ticket: Ticket) {
        let delivery = self.deliveries[n].clone();
        self.keys.extend(ticket.places.iter().map(|place| place.key.clone()));
        let new: Vec<&Place> = ticket.places.iter().filter(|place| !delivery.places.contains(&place.key)).collect();
        let full: Vec<(PlaceKey, u64)> = new
            .iter()
            .map(|place| (place.key.clone(), self.used(&place.key), place.limit))
            .filter(|(_, used, limit)| limit.is_some_and(|limit| *used >= limit))
            .map(|(key, used, _)| (key, used))
            .collect();
        match self.case.start(delivery.id, delivery.attempts + 1, &ticket.places).await {
            Granted::Go(mut earlier) => {
                assert!(full.is_empty(), "granted beyond {full:?}");
                let keys: Vec<PlaceKey> = ticket.places.iter().map(|place| place.key.clone()).collect();
                let mut expected = delivery.places.clone();
                expected.retain(|key| !keys.contains(key));
                earlier.sort();
                expected.sort();
                assert_eq!(earlier, expected);
                for place in new {
                    *self.taken.entry(place.key.clone()).or_default() += 1;
                }
                self.untake(&earlier);
                let moved = &mut self.deliveries[n];
                (moved.state, moved.places) = (DeliveryState::Sending, keys);
                moved.attempts += 1;
                self.flights.push(Flight::Granted { delivery: n, ticket, earlier });
            }
            Granted::Full(mut counts) => {
                let mut full = full;
                counts.sort();
                full.sort();
                assert_eq!(counts, full, "refused, and there was room");
                self.flights.push(Flight::Refused { delivery: n, ticket, counts });
            }
            other => panic!("{other:?}"),
        }
    }

    fn untake(&mut self, keys: &[PlaceKey]) {
        for key in keys {
            *self.taken.get_mut(key).unwrap() -= 1;
        }
    }

    async fn end(&mut self, n: usize, how: u8) {
        let open = [DeliveryState::Sending, DeliveryState::Unknown];
        let Some(n) = self.pick(n, |one| open.contains(&one.state) && !one.busy) else { return };
        let unknown = self.deliveries[n].state == DeliveryState::Unknown;
        let (to, verdict, give_back) = match how % if unknown { 2 } else { 5 } {
            0 => (DeliveryState::Accepted, Verdict::Accepted, false),
            1 => (DeliveryState::Rejected, Verdict::Rejected, true),
            2 => (DeliveryState::Queued, Verdict::Retryable, true),
            3 => (DeliveryState::Queued, Verdict::Unknown, false),
            _ => (DeliveryState::Unknown, Verdict::Unknown, false),
        };
        let given_back = self.step(n, to, verdict, give_back).await;
        if !given_back.is_empty() {
            self.flights.push(Flight::GivenBack(given_back));
        }
    }

    async fn step(&mut self, n: usize, to: DeliveryState, verdict: Verdict, give_back: bool) -> Vec<PlaceKey> {
        let one = self.deliveries[n].clone();
        let step = Step {
            delivery: one.id,
            lead: one.lead,
            from: one.state,
            attempts: one.attempts,
            at: self.case.now(),
            change: Change {
                verdict: Some(verdict),
                give_back,
                unknown: verdict == Verdict::Unknown,
                ..Change::to(to)
            },
            attempt: (one.state == DeliveryState::Sending).then(|| std::sync::Arc::new(end(one.attempts, verdict))),
            then: LeadStep::Untouched,
            audit: None,
        };
        let expected = if give_back { one.places.clone() } else { Vec::new() };
        assert_eq!(self.case.step(step).await, Stepped::Done(expected.clone()));
        self.untake(&expected);
        let moved = &mut self.deliveries[n];
        moved.state = to;
        if give_back {
            moved.places.clear();
        }
        expected
    }

    /// Asks the store, as of now.
    async fn ask(&mut self) {
        let keys: Vec<PlaceKey> = self.keys.iter().cloned().collect();
        let as_of = self.gate.as_of(&keys).await;
        let counts = self.case.store().places(keys).await.unwrap();
        self.flights.push(Flight::Counts { counts, as_of });
    }

    /// The process dies: what was on its way is lost, what was committed is not.
    async fn crash<F, Fut>(&mut self, make: &F)
    where
        F: Fn(Start) -> Fut,
        Fut: Future<Output = Gate>,
    {
        let now = self.case.now();
        self.disk = (self.disk.crashed)();
        self.case = self.disk.case();
        self.case.clock.set(now);
        self.flights.clear();
        self.deliveries.iter_mut().for_each(|one| one.busy = false);
        self.gate = make(start(&self.case, self.history)).await;
        self.compare().await;
        // As a start does: counts first, then what was open.
        let as_of = self.gate.as_of(&[]).await;
        self.gate.reconcile(&self.case.store().all_places().await.unwrap(), as_of).await;
        for record in self.case.store().open_attempts(None, 500, jiff::Timestamp::MAX).await.unwrap() {
            let n = self.deliveries.iter().position(|one| one.id == record.delivery.id).unwrap();
            assert_eq!(self.deliveries[n].state, DeliveryState::Sending);
            self.step(n, DeliveryState::Unknown, Verdict::Unknown, false).await;
        }
        assert!(self.deliveries.iter().all(|one| one.state != DeliveryState::Sending), "an open attempt was not found");
    }

    /// The store holds what the model holds, counted either way.
    async fn compare(&self) {
        let store = self.case.store();
        let taken: BTreeMap<_, _> = self.taken.clone().into_iter().filter(|(_, used)| *used > 0).collect();
        let kept: BTreeMap<_, _> = store.all_places().await.unwrap().into_iter().collect();
        assert_eq!(kept, taken);
        assert_eq!(store.recount_places().await.unwrap().into_iter().collect::<BTreeMap<_, _>>(), taken);
    }

    /// All that is on its way arrives. Then a gate keeps nobody waiting for nothing, and once it is told the counts, it
    /// has exactly what the store has left. (Before that it may have too few counted: of a place given back while
    /// somebody asked the store it may hear twice. The store refuses what it then lets through.)
    async fn be_quiet(&mut self, kind: Kind, latest_first: bool) {
        while !self.flights.is_empty() {
            let flight = self.flights.remove(if latest_first { self.flights.len() - 1 } else { 0 });
            self.arrive(flight).await;
        }
        self.compare().await;
        let now = self.case.now();
        if kind == Kind::LivesAndDies {
            for (contract, (name, ..)) in CONTRACTS.iter().enumerate() {
                let (gate, left) = (self.gate.left(&id(contract), now).unwrap(), self.left(contract));
                assert!(gate >= left, "{name} has {left:?} left, and the gate lets through {gate:?}");
            }
        }
        let began = clock::instant();
        while let Err(wrong) = self.agrees(now).await {
            // A gate outside hears some of it behind everybody's back.
            assert!(kind == Kind::Forgets && began.elapsed() < Duration::from_secs(30), "{wrong}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells the gate the counts; whether it then lets through exactly what is left.
    async fn agrees(&mut self, now: Timestamp) -> Result<(), String> {
        self.gate.flush().await;
        self.ask().await;
        while let Some(flight) = self.flights.pop() {
            self.arrive(flight).await;
        }
        for (contract, (name, ..)) in CONTRACTS.iter().enumerate() {
            let left = self.left(contract);
            let mut tickets = Vec::new();
            while let Ok(Answer::Open(ticket)) = self.gate.take(&id(contract), now, false).await {
                tickets.push(ticket);
                assert!(tickets.len() <= 100, "a limit that does not hold");
            }
            for ticket in &tickets {
                self.gate.hand_back(ticket, &[]);
            }
            if Some(tickets.len() as u64) != left {
                return Err(format!("{name} has {left:?} left, and the gate lets {} through", tickets.len()));
            }
            let again = self.gate.left(&id(contract), now).unwrap();
            if again != left {
                return Err(format!("{name} has {left:?} left, and the gate says {again:?}"));
            }
        }
        Ok(())
    }

    /// How many more a contract may have now, by the model.
    fn left(&self, contract: usize) -> Option<u64> {
        places(contract, self.case.now())
            .iter()
            .filter_map(|place| place.limit.map(|limit| limit.checked_sub(self.used(&place.key)).expect("a limit")))
            .min()
    }
}

/// A directory of its own. The files of a store at rest, copied while it is open, are what a kill leaves of it.
fn sqlite() -> Disk {
    sqlite_in(Arc::new(tempfile::tempdir().unwrap()))
}

fn sqlite_in(dir: Arc<tempfile::TempDir>) -> Disk {
    let path: PathBuf = dir.path().to_owned();
    Disk {
        open: Arc::new(move || Store::open(&path).unwrap()),
        crashed: Box::new(move || {
            let copy = tempfile::tempdir().unwrap();
            for file in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
                // Shared memory does not outlive its processes.
                if !file.file_name().to_string_lossy().ends_with("-shm") {
                    std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
                }
            }
            sqlite_in(Arc::new(copy))
        }),
    }
}

fn start(case: &Case, history: usize) -> Start {
    Start { rules: rules(), store: case.store(), clock: case.clock.clone(), history }
}

#[test]
fn however_it_goes_the_memory_gate_lets_through_exactly_what_the_store_on_sqlite_has_left() {
    let make = async |start: Start| {
        let gate = Gate::Memory(MemoryGate::new());
        gate.install(start.rules, 1).await;
        gate
    };
    run(sqlite, Kind::LivesAndDies, make, || {});
}

#[test]
fn however_it_goes_the_redis_gate_lets_through_exactly_what_the_store_on_sqlite_has_left() {
    let redis = Redis::start();
    let make = async |start: Start| {
        let settings = Settings {
            servers: Servers::One(redis.url()),
            username: None,
            password: None,
            ca_pem: None,
            // What one history leaves is nothing to the next; what a crash leaves is there.
            prefix: format!("history{}", start.history),
            call_timeout: Duration::from_secs(20),
            reconcile_every: Duration::from_millis(50),
        };
        let truth = Arc::new(StoreTruth::new(start.store, Arc::new(AtomicU64::new(1))));
        let gate = Gate::Redis(Box::new(RedisGate::open(settings, truth, start.clock).await.unwrap()));
        gate.install(start.rules, 1).await;
        gate
    };
    run(sqlite, Kind::Forgets, make, || drop(redis.command(&["FLUSHALL"])));
}
