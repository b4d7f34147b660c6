//! The gate that several gateways share, in Redis (6.2 or later, or Valkey; one server, Sentinel or Cluster).
//!
//! **Everything in Redis is a copy**: pauses and counts of the store, rules of the network. What a script does not find,
//! or finds out of date, is loaded there and then by whoever asked, from [`Truth`]; what is no longer so is voided, not
//! overwritten. So an empty restart, FLUSHALL, an evicted key or a lost script heal at the very next take, and two
//! gateways that change the same thing cannot leave the older of two changes behind: who loads asks the store after the
//! voiding. All keys of a partner have one hash tag, so a Cluster keeps them together:
//!
//! ```text
//! PREFIX:{acme}:state               epoch, changes, version of the rules that hold at least, who is paused
//! PREFIX:{acme}:rules/acme-solar    of one contract: limits, and hours as instants of UTC for two weeks
//! PREFIX:{acme}:partner/acme/d2026-11-21, …      one counter a place: six for each contract
//! ```
//!
//! - **One round trip** answers a take (`take.lua`). What it says is kept in a mirror, a [`MemoryGate`]: [`RedisGate::look`]
//!   believes it where it is open, since the take will verify that, and asks where it is shut.
//! - **Too low is harmless**: the store refuses, says its counts, and they are set. **Too high** keeps deliveries waiting,
//!   so only givings-back are guarded against (`given_back`): a count that was asked before one is not loaded after it.
//! - **In doubt, a counter is dropped.** A call whose effect is unclear, a giving-back that cannot be delivered: the next
//!   take loads what the store has. After every reconnection each contract's copies are dropped when it is first asked
//!   about, for the server may be another one, or have lost writes.
//! - **Away or slow**: one call's time is waited once, then nobody waits (`link.rs`). The mirror answers, and the store
//!   grants or refuses, exactly as ever.
//! - Counters that nobody can account for (of a gateway that was killed between gate and commit) come down by comparison
//!   with the store, when they have stood still for a while (`courier.rs`).

mod courier;
mod link;
mod question;
mod script;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio_util::task::AbortOnDropHandle;

pub use link::{OpenFault, Servers, Settings};

use super::memory::MemoryGate;
use super::rules::{GateRules, Present};
use super::{Answer, AsOf, GateUnavailable, Paused, Shut, Ticket, Told, Truth};
use crate::clock::Clock;
use crate::model::id::{ContractId, PartnerId};
use crate::model::limit::{Place, PlaceKey};
use crate::tasks;
use courier::{Errand, Errands};
use link::Link;
use question::{Unanswered, Verified};
use script::Scripts;

/// How long copies are kept that nobody loads anew, seconds: what is no longer used must go by itself.
const KEEP_RULES: i64 = 15 * 86_400;
const KEEP_STATE: i64 = 40 * 86_400;
/// How long the store may take to say what is to be loaded.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Loads of different contracts at once.
const LOADERS: usize = 64;
/// How long a flush waits at most.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// See the module, and [`super::Gate`], whose methods these are.
pub struct RedisGate {
    shared: Arc<Shared>,
    _tasks: [AbortOnDropHandle<()>; 4],
}

impl std::fmt::Debug for RedisGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisGate({})", self.shared.prefix)
    }
}

/// What the gate and its tasks share.
struct Shared {
    link: Link,
    scripts: Scripts,
    prefix: String,
    reconcile_every: Duration,
    clock: Clock,
    truth: Arc<dyn Truth>,
    mirror: MemoryGate,
    installed: ArcSwap<Installed>,
    verified: Mutex<Verified>,
    /// One load of a contract, and one look through a partner's copies, at a time.
    loaders: Vec<tokio::sync::Mutex<()>>,
    errands: Errands,
}

/// The network that is in force here.
#[derive(Default)]
struct Installed {
    rules: HashMap<ContractId, Arc<GateRules>>,
    version: u64,
    /// The version that last changed a partner's rules, as far as was seen here.
    changed: HashMap<PartnerId, u64>,
    /// The version that was installed first.
    first: u64,
}

impl RedisGate {
    /// Connects, and opens the gate also where Redis cannot be reached now.
    ///
    /// # Errors
    /// When the settings cannot be used, Redis does not let us in, or is too old.
    pub async fn open(settings: Settings, truth: Arc<dyn Truth>, clock: Clock) -> Result<Self, OpenFault> {
        let link = Link::new(&settings)?;
        link.open().await?;
        let (errands, waiting) = Errands::new();
        let shared = Arc::new(Shared {
            link,
            scripts: Scripts::default(),
            prefix: settings.prefix,
            reconcile_every: settings.reconcile_every,
            clock,
            truth,
            mirror: MemoryGate::new(),
            installed: ArcSwap::default(),
            verified: Mutex::default(),
            loaders: std::iter::repeat_with(tokio::sync::Mutex::default).take(LOADERS).collect(),
            errands,
        });
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
        let [keeper, runner, debtor, comparer] = std::array::from_fn(|_| Arc::clone(&shared));
        let keep = async move |shared: Arc<Shared>| shared.link.keep().await;
        let tasks = [
            tokio::spawn(tasks::for_good("redis", move || keep(Arc::clone(&keeper)))),
            tokio::spawn(tasks::for_good("redis errands", move || {
                courier::run(Arc::clone(&runner), Arc::clone(&waiting))
            })),
            tokio::spawn(tasks::for_good("redis debts", move || courier::settle_debts(Arc::clone(&debtor)))),
            tokio::spawn(tasks::for_good("redis comparison", move || courier::compare(Arc::clone(&comparer)))),
        ];
        Ok(Self { shared, _tasks: tasks.map(AbortOnDropHandle::new) })
    }

    pub(super) fn mirror(&self) -> &MemoryGate {
        &self.shared.mirror
    }

    pub(super) fn is_up(&self) -> bool {
        self.shared.link.up().is_some()
    }

    pub(super) async fn look(&self, contract: &ContractId, now: Timestamp) -> Result<Option<Shut>, GateUnavailable> {
        let Some(shut) = self.mirror().look(contract, now)? else { return Ok(None) };
        match self.shared.ask(contract, now, false, false, &[]).await {
            Ok(Answer::Open(_)) => Ok(None),
            Ok(Answer::Shut(shut)) => Ok(Some(shut)),
            Err(Unanswered::Away | Unanswered::Unclear) => Ok(Some(shut)),
            Err(Unanswered::Cannot(why)) => Err(why),
        }
    }

    pub(super) async fn take(
        &self,
        contract: &ContractId,
        now: Timestamp,
        bypass_limits: bool,
        owned: &[PlaceKey],
    ) -> Result<Answer, GateUnavailable> {
        let shared = &self.shared;
        match shared.ask(contract, now, true, bypass_limits, owned).await {
            Ok(answer) => Ok(answer),
            Err(Unanswered::Cannot(why)) => Err(why),
            Err(Unanswered::Away | Unanswered::Unclear) => {
                // The store decides alone; what Redis may have counted, and what it has not, it must forget.
                let answer = self.mirror().take(contract, now, bypass_limits, owned)?;
                let rules = self.mirror().rules_of(contract)?;
                if !bypass_limits {
                    shared.errands.doubt(rules.partner(), rules.present(now).places().map(|place| &place.key));
                }
                Ok(answer)
            }
        }
    }

    pub(super) fn hand_back(&self, ticket: &Ticket, counts: &[(PlaceKey, u64)]) {
        let shared = &self.shared;
        let Some(partner) = shared.partner_of(ticket.places.iter().map(|place| &place.key)) else { return };
        let errand = Errand::of_ticket(partner, ticket, counts);
        shared.mirror.owe(&errand.free, false);
        shared.mirror.refused(counts, &ticket.as_of);
        shared.send(errand);
    }

    pub(super) fn settle(&self, places: &[Place], given_back: bool) {
        let shared = &self.shared;
        if !given_back {
            return;
        }
        let Some(partner) = shared.partner_of(places.iter().map(|place| &place.key)) else { return };
        let free: Vec<PlaceKey> = places.iter().map(|place| place.key.clone()).collect();
        shared.mirror.owe(&free, true);
        shared.send(Errand { partner, free, said: Vec::new(), ticket: None });
    }

    pub(super) async fn as_of(&self, keys: &[PlaceKey]) -> AsOf {
        let shared = &self.shared;
        let mut as_of = shared.mirror.as_of();
        for (partner, keys) in shared.by_partner(keys.iter()) {
            let keys: Vec<PlaceKey> = keys.into_iter().cloned().collect();
            if let Some(counts) = shared.peek(&partner, &keys).await {
                as_of.seen.extend(keys.into_iter().zip(counts));
            }
        }
        as_of
    }

    pub(super) async fn reconcile(&self, counts: &[(PlaceKey, u64)], as_of: &AsOf) {
        let shared = &self.shared;
        shared.mirror.reconcile(counts, as_of);
        // What was given back here before is known there before.
        shared.errands.until(shared.errands.queued().0, FLUSH_WITHIN).await;
        let seen: HashMap<&PlaceKey, Option<u64>> = as_of.seen.iter().map(|(key, used)| (key, *used)).collect();
        for (partner, keys) in shared.by_partner(counts.iter().map(|(key, _)| key)) {
            let keys: HashSet<&PlaceKey> = keys.into_iter().collect();
            let sets: Vec<(PlaceKey, Option<u64>, u64)> = counts
                .iter()
                .filter(|(key, _)| keys.contains(key) && !shared.mirror.is_under_way(key))
                .filter_map(|(key, holds)| Some((key.clone(), *seen.get(key)?, *holds)))
                .filter(|(_, was, holds)| *was != Some(*holds))
                .collect();
            if !sets.is_empty() {
                // Where it cannot be told, a reconnection or the next comparison sees to it.
                let _ = shared.correct(&partner, &sets).await;
            }
        }
    }

    pub(super) async fn set_paused(&self, who: Paused, paused: bool) {
        let shared = &self.shared;
        shared.mirror.set_paused(who.clone(), paused);
        let partner = match &who {
            Paused::Partner(partner) => Some(partner.clone()),
            Paused::Contract(contract) => shared.mirror.rules_of(contract).ok().map(|rules| rules.partner().clone()),
        };
        // A contract that is in no network is asked about by nobody.
        let Some(partner) = partner else { return };
        if !shared.void_pause(&partner, &who).await {
            shared.errands.owe_pause(partner, who);
        }
    }

    pub(super) async fn install(&self, rules: HashMap<ContractId, Arc<GateRules>>, version: u64) {
        let shared = &self.shared;
        let before = shared.installed.load_full();
        let first = before.version == 0;
        // What is new is loaded when it is first asked about, so that a start or a large network writes nothing ahead.
        let differ: HashSet<PartnerId> = before
            .rules
            .iter()
            .filter(|(contract, old)| rules.get(*contract).is_none_or(|new| !old.same_as(new)))
            .map(|(_, old)| old.partner().clone())
            .collect();
        let mut changed = before.changed.clone();
        changed.extend(differ.iter().map(|partner| (partner.clone(), version)));
        shared.installed.store(Arc::new(Installed {
            rules: rules.clone(),
            version,
            changed,
            first: if first { version } else { before.first },
        }));
        shared.mirror.install(rules);
        let mut under_way = tokio::task::JoinSet::new();
        for partner in differ {
            if under_way.len() >= LOADERS {
                let _ = under_way.join_next().await;
            }
            let shared = Arc::clone(shared);
            under_way.spawn(async move {
                if !shared.void_rules(&partner, version).await {
                    shared.errands.owe_version(partner, version);
                }
            });
        }
        while under_way.join_next().await.is_some() {}
    }

    pub(super) async fn flush(&self) {
        if self.is_up() {
            self.shared.pay().await;
        }
        self.shared.errands.until(self.shared.errands.queued().0, FLUSH_WITHIN).await;
    }
}

impl Shared {
    fn send(&self, errand: Errand) {
        if errand.free.is_empty() && errand.said.is_empty() {
            return;
        }
        if let Err(errand) = self.errands.send(errand) {
            self.undelivered(&errand);
        }
    }

    // ---- names ----

    fn state_key(&self, partner: &PartnerId) -> String {
        format!("{}:{{{partner}}}:state", self.prefix)
    }

    fn rules_key(&self, partner: &PartnerId, contract: &ContractId) -> String {
        format!("{}:{{{partner}}}:rules/{contract}", self.prefix)
    }

    fn counter_key(&self, partner: &PartnerId, key: &PlaceKey) -> String {
        format!("{}:{{{partner}}}:{key}", self.prefix)
    }

    /// All keys of a take.
    fn keys(&self, rules: &GateRules, present: &Present, bypass: bool) -> Vec<String> {
        let partner = rules.partner();
        let mut keys = vec![self.state_key(partner), self.rules_key(partner, rules.contract())];
        if !bypass {
            keys.extend(present.places().map(|place| self.counter_key(partner, &place.key)));
        }
        keys
    }

    /// The partner whose places these are: of one delivery, so of one partner.
    fn partner_of<'a>(&self, mut keys: impl Iterator<Item = &'a PlaceKey>) -> Option<PartnerId> {
        keys.find_map(|key| self.owner(key))
    }

    /// Whose counter this is; `None` for campaigns and sources, which have no gate, and contracts that are no more.
    fn owner(&self, key: &PlaceKey) -> Option<PartnerId> {
        let (kind, rest) = key.as_str().split_once('/')?;
        let (owner, _) = rest.split_once('/')?;
        match kind {
            "partner" => owner.parse().ok(),
            "contract" => {
                let contract: ContractId = owner.parse().ok()?;
                self.installed.load().rules.get(&contract).map(|rules| rules.partner().clone())
            }
            _ => None,
        }
    }

    fn by_partner<'a>(&self, keys: impl Iterator<Item = &'a PlaceKey>) -> HashMap<PartnerId, Vec<&'a PlaceKey>> {
        let mut by_partner: HashMap<PartnerId, Vec<&PlaceKey>> = HashMap::new();
        for key in keys {
            if let Some(partner) = self.owner(key) {
                by_partner.entry(partner).or_default().push(key);
            }
        }
        by_partner
    }
}

/// Asks the truth, for so long.
async fn told<T>(asked: Told<'_, T>) -> Result<T, String> {
    tokio::time::timeout(TOLD_WITHIN, asked).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// How long a counter is kept, seconds: a day or two beyond its period. A total's is kept as long as anybody asks about
/// it within so many days of its loading, and is then loaded again.
fn keep(key: &PlaceKey) -> i64 {
    let period = key.as_str().rsplit('/').next().and_then(|name| name.chars().next());
    let days = match period {
        Some('d') => 3,
        Some('m') => 34,
        _ => 40,
    };
    days * 86_400
}
