//! One contract's waiting deliveries: the window on the store, and the bell that wakes its runner.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::window::{Item, Window};
use crate::model::id::ContractId;

/// Deliveries of one contract kept in memory: at most this many ready, and as many to be tried again; those with their leads
/// not counted, which all contracts together have so many of.
pub(super) const WINDOW: usize = 256;

/// One contract's queue.
pub(super) struct Queue {
    pub(super) contract: ContractId,
    window: Mutex<Window>,
    bell: Notify,
    /// Its contract is shut, as far as its runner knows.
    shut: AtomicBool,
}

/// What waits at a contract.
#[derive(Debug, Clone)]
pub struct QueueView {
    /// The contract.
    pub contract: ContractId,
    /// In memory: ready to go when the gate lets them.
    pub ready: usize,
    /// In memory: to be tried again later.
    pub due: usize,
    /// Whether the store holds more than that.
    pub more: bool,
    /// When the oldest ready one was received.
    pub oldest: Option<Timestamp>,
}

impl QueueView {
    /// How many wait, as far as memory knows.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        (self.ready + self.due) as u64
    }
}

impl Queue {
    /// An empty queue; `more` when the store may hold waiting deliveries of it.
    pub(super) fn new(contract: ContractId, more: bool) -> Self {
        Self {
            contract,
            window: Mutex::new(Window::new(WINDOW, more)),
            bell: Notify::new(),
            shut: AtomicBool::new(false),
        }
    }

    /// Takes in a delivery that has just been stored as waiting.
    pub(super) fn push(&self, item: Item, now: Timestamp) {
        self.window().push(item, now);
        self.wake();
    }

    /// Whether it has so many in memory that others are to have theirs first.
    pub(super) fn is_long(&self) -> bool {
        self.window().len().0 >= WINDOW
    }

    /// Whether it keeps no leads: while its contract is shut, others have the use of that memory.
    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    /// Its contract has opened, or is shut.
    pub(super) fn shut(&self, is_shut: bool) {
        let was = self.shut.swap(is_shut, Ordering::Relaxed);
        if is_shut && !was {
            self.window().forget_leads();
        }
    }

    /// Makes the runner look again. A bell rung while nobody listens is heard by the next who does.
    pub(super) fn wake(&self) {
        self.bell.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.bell.notified().await;
    }

    pub(super) fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view(&self) -> QueueView {
        let window = self.window();
        let (ready, due) = window.len();
        QueueView {
            contract: self.contract.clone(),
            ready,
            due,
            more: window.has_more(),
            oldest: window.first().map(|item| item.queued.received_at),
        }
    }
}
