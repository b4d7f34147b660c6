//! Several gateways on one store: who lives, and whose deliveries are whose.
//!
//! A start of a gateway is an *incarnation* with a token of its own and a lease, by the database's clock, that it renews by
//! heartbeats. Deliveries carry the token of the incarnation that made them. When a lease has ended, another gateway makes
//! itself the owner of that token, and so of all that waits there, without rewriting a single delivery.
//!
//! What keeps a gateway that was stopped and goes on later from doing harm: the commit of an attempt is refused to whoever
//! is not the owner any more, and no byte is sent after the lease as the sender itself measures it
//! ([`Store::send_before`]), which ends before the database's. An attempt that was committed and not concluded is left
//! alone until its deadline.
//!
//! The embedded store has one gateway, kept alone by a lock on its directory: no lease, nobody to take over.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use uuid::Uuid;

use super::{Store, StoreError};
use crate::clock::{self, Uptime};

/// How long a lease lasts without a heartbeat. With [`HEARTBEAT_EVERY`] and a look at the others at each of them, what a
/// dead gateway left is taken over within 13 s.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// How often a lease is renewed.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// So much earlier than the database does a gateway itself believe its lease to end: more than clocks drift apart in the
/// length of a lease.
const MARGIN: Duration = Duration::from_millis(500);

/// Who joins.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// For people: host and process.
    pub name: String,
    /// It keeps its gate to itself, so it must be alone.
    pub alone: bool,
}

/// Whether a gateway may be one of those on this store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// It is.
    Member,
    /// These are there already, and one of them, or the newcomer, keeps its gate to itself.
    Taken(Vec<String>),
}

/// What a heartbeat found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Tokens that were made this gateway's own just now: there may be work behind them.
    pub adopted: usize,
    /// Somebody else owns what this gateway had: it goes on as a new incarnation.
    pub reborn: bool,
}

impl Store {
    /// Whether several gateways may be on it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.fleet().is_some()
    }

    /// Makes this gateway one of those on the store.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn join(&self, newcomer: &Newcomer) -> Result<Joined, StoreError> {
        on_engine!(self, db => db.join(newcomer).await)
    }

    /// For a command that works beside the gateways, and delivers nothing: what it makes is one of theirs to deliver, or the
    /// next one's to start. Says whether any lives.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn attend(&self, name: &str) -> Result<bool, StoreError> {
        on_engine!(self, db => db.attend(name).await)
    }

    /// Renews the lease; if it may `adopt`, takes over what gateways without one have left.
    ///
    /// # Errors
    /// When the store fails: the lease runs on towards its end.
    pub async fn heartbeat(&self, adopt: bool) -> Result<Heartbeat, StoreError> {
        on_engine!(self, db => db.heartbeat(adopt).await)
    }

    /// Says, for whoever asks [`Store::in_force_at`], which version of the network is in force at this gateway
    /// ([`super::Changes::network`]).
    ///
    /// # Errors
    /// When the store fails: the next heartbeat says it.
    pub async fn in_force(&self, network: u64) -> Result<(), StoreError> {
        on_engine!(self, db => db.in_force(network).await)
    }

    /// At how many gateways this version of the network is in force, or a later one; and how many live. On the embedded
    /// store nobody is counted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn in_force_at(&self, network: u64) -> Result<(u64, u64), StoreError> {
        on_engine!(self, db => db.in_force_at(network).await)
    }

    /// Gives the lease up, so that others take over at once what is left.
    ///
    /// # Errors
    /// When the store fails: they do when it has ended.
    pub async fn leave(&self) -> Result<(), StoreError> {
        on_engine!(self, db => db.leave().await)
    }

    /// From then on nothing may be sent, for others may have taken it over; `None`: nobody can.
    #[must_use]
    pub fn send_before(&self) -> Option<Uptime> {
        self.fleet().and_then(|fleet| fleet.member().until)
    }

    /// How many gateways share the work, this one included, as of the last heartbeat.
    #[must_use]
    pub fn gateways(&self) -> usize {
        self.fleet().map_or(1, |fleet| fleet.member().live.max(1))
    }
}

/// What this process is among the gateways on its store, as of its last heartbeat.
pub(super) struct Fleet {
    member: ArcSwap<Member>,
    /// The version of the network that is in force here.
    pub(super) network: AtomicU64,
    /// As what it joined; `None` before that.
    pub(super) joined_as: ArcSwapOption<Newcomer>,
}

/// One incarnation's knowledge of itself.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Its token: what it makes carries it.
    pub(super) token: Uuid,
    /// The tokens that it owns, its own first: their queues are its own.
    pub(super) owned: Vec<Uuid>,
    /// Until then nobody else takes its deliveries over: nothing may be sent later.
    pub(super) until: Option<Uptime>,
    /// How many gateways live, this one included.
    pub(super) live: usize,
}

impl Fleet {
    /// A member without a lease: it makes deliveries, and may send none.
    pub(super) fn new(token: Uuid) -> Self {
        let over = Some(clock::uptime());
        Self {
            member: ArcSwap::from_pointee(Member { token, owned: vec![token], until: over, live: 1 }),
            network: AtomicU64::new(0),
            joined_as: ArcSwapOption::empty(),
        }
    }

    /// What it knows now.
    pub(super) fn member(&self) -> Arc<Member> {
        self.member.load_full()
    }

    /// Takes over what a heartbeat brought.
    pub(super) fn set(&self, member: Member) {
        self.member.store(Arc::new(member));
    }
}

/// The end of a lease that was asked for at `asked`: no later than the database has it, whose clock looked later.
pub(super) fn lease_from(asked: Uptime) -> Uptime {
    asked.after(LEASE.saturating_sub(MARGIN))
}
