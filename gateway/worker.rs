//! Drives the pipeline: a queue and a runner for each contract, so that one slow partner costs the others nothing;
//! recovery at start; housekeeping; drain at the end.

mod fleet;
pub mod fresh;
mod housekeeping;
mod keeper;
mod queue;
mod recovery;
mod runner;
pub mod window;

pub use queue::QueueView;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::model::id::{ContractId, PartnerId};
use crate::model::lead::Lead;
use crate::pipeline::{Pipeline, Queues};
use crate::store::{Queued, StoreError};
use crate::tasks;
use fresh::Memory;
use queue::Queue;
use window::Item;

/// Contracts that open at the same time, after a hold or at a start: a midnight opens thousands at one instant, and whoever
/// is open already must hardly notice. Each has its turn until its first attempt is through, or a moment at most.
const OPENINGS: usize = 8;
/// Pause between two tries to recover while the store fails.
const RECOVER_AGAIN: Duration = Duration::from_millis(500);

/// The worker. One per process; cheap to clone.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

struct Inner {
    pipeline: Arc<Pipeline>,
    queues: RwLock<HashMap<ContractId, Arc<Queue>>>,
    tasks: TaskTracker,
    stop: watch::Sender<bool>,
    ready: watch::Sender<bool>,
    /// Leads are taken, and nothing moves: see [`Worker::stand_by`].
    standing_by: AtomicBool,
    keep: Keep,
    /// Held while the work of gateways that have gone is taken up.
    taking_over: Arc<tokio::sync::Mutex<()>>,
    /// Queues that this gateway owns may hold what it has not seen.
    look_again: AtomicBool,
    /// What keeps the lease, on a store with several gateways.
    lease: Mutex<Option<tokio::task::AbortHandle>>,
    memory: Memory,
    openings: Arc<Semaphore>,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Exchanges and refused posts.
    pub captures: Duration,
    /// Finished leads.
    pub leads: Duration,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Worker")
    }
}

impl Worker {
    /// Connects a worker to the pipeline. Nothing moves until [`Worker::recover`] has run.
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>, keep: Keep) -> Self {
        let inner = Arc::new(Inner {
            pipeline,
            queues: RwLock::default(),
            tasks: TaskTracker::new(),
            stop: watch::Sender::new(false),
            ready: watch::Sender::new(false),
            standing_by: AtomicBool::new(false),
            keep,
            taking_over: Arc::default(),
            look_again: AtomicBool::new(false),
            lease: Mutex::default(),
            memory: Memory::new(),
            openings: Arc::new(Semaphore::new(OPENINGS)),
        });
        inner.pipeline.connect(Arc::new(Handle(Arc::downgrade(&inner))));
        Self(inner)
    }

    /// Finds everything unfinished and carries on with it; then keeps house until the drain. A store that fails is tried
    /// again for as long as it takes.
    ///
    /// # Errors
    /// When the store was closed meanwhile.
    pub async fn recover(&self) -> Result<recovery::Found, StoreError> {
        let inner = &self.0;
        let (weak, stop) = (Arc::downgrade(inner), inner.stop.subscribe());
        inner.for_good("keeper", move || keeper::look_after(weak.clone(), stop.clone()));
        let (weak, stop) = (Arc::downgrade(inner), inner.stop.subscribe());
        inner.for_good("lookups", move || keeper::sort_lookups(weak.clone(), stop.clone()));
        let mut told = false;
        let found = loop {
            match recovery::recover(inner).await {
                Ok(found) => break found,
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(error) if told => tracing::debug!(store.error = %error, "recovery waits for the store"),
                Err(error) => {
                    tracing::error!(store.error = %error, "recovery waits for the store, and goes on with it");
                }
            }
            told = true;
            tokio::time::sleep(RECOVER_AGAIN).await;
        };
        inner.ready.send_replace(true);
        let (weak, stop) = (Arc::downgrade(inner), inner.stop.subscribe());
        inner.for_good("housekeeping", move || housekeeping::keep_house(weak.clone(), stop.clone()));
        Ok(found)
    }

    /// For a command that works on a store without a gateway: learns what leads cannot be taken without (pauses and
    /// counts), and moves nothing. What it takes waits for the next start.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stand_by(&self) -> Result<(), StoreError> {
        recovery::learn(&self.0.pipeline).await?;
        self.0.standing_by.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether leads can be taken: recovery is done, or it is not this process's.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.0.ready.borrow() || self.0.standing_by.load(Ordering::Relaxed)
    }

    /// Waits until recovery is done, at most `within`; returns whether it is.
    pub async fn becomes_ready(&self, within: Duration) -> bool {
        let mut ready = self.0.ready.subscribe();
        let waited = tokio::time::timeout(within, ready.wait_for(|ready| *ready)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Keeps this gateway's lease, from its joining until its drain is over.
    pub fn keep_lease(&self) {
        if self.0.pipeline.store.is_shared() {
            self.0.pipeline.lanes.share_among(self.0.pipeline.store.gateways());
            let weak = Arc::downgrade(&self.0);
            // Without a lease nothing is sent: it must be kept through faults of our own, too.
            let lease = tokio::spawn(tasks::for_good("lease", move || fleet::keep_lease(weak.clone())));
            *self.0.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease.abort_handle());
        }
    }

    /// Stops starting attempts and waits for those under way, at most `within`; returns whether all ended. What still
    /// waits is then left to the other gateways.
    pub async fn drain(&self, within: Duration) -> bool {
        self.0.stop.send_replace(true);
        self.0.tasks.close();
        let ended = tokio::time::timeout(within, self.0.tasks.wait()).await.is_ok();
        if let Some(lease) = self.0.lease.lock().unwrap_or_else(PoisonError::into_inner).take() {
            lease.abort();
        }
        if let Err(error) = self.0.pipeline.store.leave().await {
            tracing::warn!(store.error = %error, "the lease could not be given up; it ends by itself");
        }
        ended
    }

    /// What waits at each contract, for staff and metrics.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueView> {
        self.0.all_queues().iter().map(|queue| queue.view()).collect()
    }
}

impl Inner {
    fn all_queues(&self) -> Vec<Arc<Queue>> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn queue(self: &Arc<Self>, contract: &ContractId, more: bool) -> Arc<Queue> {
        let known = self.queues.read().unwrap_or_else(PoisonError::into_inner).get(contract).cloned();
        if let Some(queue) = known {
            if more {
                queue.window().expect_more();
            }
            return queue;
        }
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(contract.clone()).or_insert_with(|| {
            let queue = Arc::new(Queue::new(contract.clone(), more));
            let (waiting, pipeline, tasks) = (Arc::clone(&queue), Arc::clone(&self.pipeline), self.tasks.clone());
            let (ready, stop, openings) = (self.ready.subscribe(), self.stop.subscribe(), Arc::clone(&self.openings));
            let (memory, stopped) = (self.memory.clone(), stop.clone());
            self.for_good("runner", move || {
                let (queue, pipeline, tasks) = (Arc::clone(&waiting), Arc::clone(&pipeline), tasks.clone());
                let (stop, openings, memory) = (stop.clone(), Arc::clone(&openings), memory.clone());
                let runner = runner::Runner::new(queue, pipeline, tasks, stop, openings, memory);
                // Not before recovery has found every attempt that was open: what a runner starts is none of those.
                let (mut ready, mut stopped) = (ready.clone(), stopped.clone());
                async move {
                    let go = tokio::select! {
                        ready = ready.wait_for(|ready| *ready) => ready.is_ok(),
                        _ = stopped.wait_for(|stop| *stop) => false,
                    };
                    if go {
                        runner.run().await;
                    }
                }
            });
            queue
        });
        Arc::clone(queue)
    }

    /// Runs a task that must not end before the drain: where it breaks off, it begins anew.
    fn for_good<F, R>(&self, what: &'static str, begin: F)
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(tasks::for_good(what, begin));
    }
}

/// The pipeline's way to the queues. Weak: the pipeline must not keep its own worker alive.
struct Handle(std::sync::Weak<Inner>);

impl Queues for Handle {
    fn push(&self, contract: &ContractId, queued: Queued, lead: Option<Arc<Lead>>) {
        let Some(inner) = self.0.upgrade() else { return };
        let now: Timestamp = inner.pipeline.clock.now();
        let queue = inner.queue(contract, false);
        let kept = lead.filter(|_| !queue.is_shut() && inner.memory.room(queue.is_long()) > 0);
        let fresh = kept.and_then(|lead| inner.memory.keep(lead, None));
        queue.push(Item { lead: fresh, ..Item::stored(queued) }, now);
    }

    fn freed(&self, partner: &PartnerId) {
        let Some(inner) = self.0.upgrade() else { return };
        let network = inner.pipeline.directory.network();
        let queues = inner.queues.read().unwrap_or_else(PoisonError::into_inner);
        for contract in network.contracts_of(partner) {
            if let Some(queue) = queues.get(contract) {
                queue.wake();
            }
        }
    }

    fn changed(&self) {
        let Some(inner) = self.0.upgrade() else { return };
        for queue in inner.all_queues() {
            queue.wake();
        }
    }
}
