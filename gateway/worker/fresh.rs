//! Leads that wait in memory, so that their attempts need not read them: so many at most, all contracts together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::lead::Lead;
use crate::store::DeliveryRecord;

/// Leads that may wait in memory, all contracts together; beyond it they are read again when their turn comes.
const LEADS: usize = 10_000;
/// How many of them a long queue leaves to others: one that does not move must not take them all.
const LEFT_BY_LONG_QUEUES: usize = LEADS / 2;

/// A lead kept in memory.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// The lead.
    pub lead: Arc<Lead>,
    /// The delivery as it was read with its lead; `None`: it has only just arrived, and has no past.
    pub record: Option<Box<DeliveryRecord>>,
    /// The right to keep it.
    pub permit: Arc<OwnedSemaphorePermit>,
}

impl Fresh {
    /// What its attempt need not read.
    pub(super) fn known(self) -> (Arc<Lead>, Option<Box<DeliveryRecord>>) {
        (self.lead, self.record)
    }
}

/// Bounds what is kept.
#[derive(Debug, Clone)]
pub(super) struct Memory(Arc<Semaphore>);

impl Memory {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(LEADS)))
    }

    /// How many more leads a queue may keep.
    pub(super) fn room(&self, is_long: bool) -> usize {
        self.0.available_permits().saturating_sub(if is_long { LEFT_BY_LONG_QUEUES } else { 0 })
    }

    /// Keeps a lead, and the delivery that was read with it, if there is room for it.
    pub(super) fn keep(&self, lead: Arc<Lead>, record: Option<Box<DeliveryRecord>>) -> Option<Fresh> {
        let permit = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Fresh { lead, record, permit: Arc::new(permit) })
    }
}
