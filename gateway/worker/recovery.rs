//! At start: what was under way is found and carried on. Attempts that were open are unknown, for nobody can say how
//! far they came; what waits is taken up from the store page by page.

use std::sync::Arc;

use super::Inner;
use crate::pipeline::Pipeline;
use crate::store::StoreError;

/// Rows read at a time.
const PAGE: u32 = 500;

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
    let as_of = pipeline.gate.as_of();
    pipeline.reconcile(&pipeline.store.all_places().await?, as_of).await;
    for (kind, id) in pipeline.store.paused().await? {
        pipeline.mark_paused(kind, &id, true).await;
    }
    Ok(())
}

pub(super) async fn recover(inner: &Arc<Inner>) -> Result<Found, StoreError> {
    let pipeline = &inner.pipeline;
    let mut found = Found::default();
    learn(pipeline).await?;

    // Queues first: what becomes of the open attempts may have to wait in them, and must find them complete.
    for contract in pipeline.store.contracts_with_queue().await? {
        inner.queue(&contract, true).wake();
        found.queues += 1;
    }
    let mut after = None;
    loop {
        let page = pipeline.store.open_attempts(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.delivery.id);
        found.open_attempts += page.len();
        for record in page {
            pipeline.lost_attempt(record).await?;
        }
    }
    Ok(found)
}
