//! What was under way when a gateway stopped is found and carried on: at its next start, or by another gateway. Attempts
//! that were open are unknown, for nobody can say how far they came; what waits is taken up from the store page by page.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::failpoint;
use crate::pipeline::Pipeline;
use crate::store::{DeliveryRecord, StoreError};

/// Rows read at a time.
const PAGE: u32 = 500;
/// How often a lost attempt is tried to be concluded, with pauses: what fails for a moment must not be taken for damage.
const TRIES: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What a start found unfinished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Attempts that were open.
    pub open_attempts: usize,
    /// Contracts with waiting deliveries.
    pub queues: usize,
}

/// Tells gate and directory what the store knows: counts, and what is paused.
pub(super) async fn learn(pipeline: &Pipeline) -> Result<(), StoreError> {
    let as_of = pipeline.gate.as_of(&[]).await;
    let (mut places, now) = (pipeline.store.all_places().await?, pipeline.clock.now());
    places.retain(|(key, _)| !key.is_past(now));
    pipeline.gate.reconcile(&places, as_of).await;
    for (kind, id) in pipeline.store.paused().await? {
        pipeline.learn_paused(kind, &id, true);
    }
    Ok(())
}

/// Has every contract with waiting deliveries read them from the store; how many there are.
pub(super) async fn take_up_queues(inner: &Arc<Inner>) -> Result<usize, StoreError> {
    let contracts = inner.pipeline.store.contracts_with_queue().await?;
    for contract in &contracts {
        inner.queue(contract, true).wake();
    }
    Ok(contracts.len())
}

pub(super) async fn recover(inner: &Arc<Inner>) -> Result<Found, StoreError> {
    learn(&inner.pipeline).await?;
    // Queues first: what becomes of the open attempts may have to wait in them, and must find them complete.
    let queues = take_up_queues(inner).await?;
    let open_attempts = conclude_lost_attempts(inner).await?;
    Ok(Found { open_attempts, queues })
}

/// Records the attempts that nobody can conclude any more as unknown.
pub(super) async fn conclude_lost_attempts(inner: &Arc<Inner>) -> Result<usize, StoreError> {
    let pipeline = &inner.pipeline;
    let (mut after, mut found) = (None, 0);
    loop {
        let page = pipeline.store.open_attempts(after, PAGE, pipeline.clock.now()).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.delivery.id);
        found += page.len();
        for record in page {
            failpoint::pass("recovery.open_attempt");
            conclude(pipeline, record).await?;
        }
    }
}

/// Records one of them. One that cannot be concluded, again and again and with a store that is well, is told and passed by:
/// the others must not wait for it.
async fn conclude(pipeline: &Pipeline, record: DeliveryRecord) -> Result<(), StoreError> {
    let mut tries = 0;
    while let Err(error) = pipeline.lost_attempt(record.clone()).await {
        tries += 1;
        if pipeline.store.trouble().is_some() || matches!(error, StoreError::Closed | StoreError::Busy) {
            return Err(error);
        }
        if tries == TRIES {
            tracing::error!(
                delivery.id = %record.delivery.id, store.error = %error,
                "a lost attempt cannot be concluded; its delivery is left as it is"
            );
            return Ok(());
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
    Ok(())
}
