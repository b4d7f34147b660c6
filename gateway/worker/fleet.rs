//! One of several gateways: keeps its lease, carries on with what dead ones left, and shares each partner's concurrency
//! and pace with the living. On the embedded store there is nothing to do.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Inner, recovery};
use crate::store::{HEARTBEAT_EVERY, StoreError};
use crate::telemetry;

/// A heartbeat that takes longer has failed: the next one must come before the lease ends.
const BEAT_WITHIN: Duration = Duration::from_secs(4);
/// Heartbeats between two looks into queues that were taken over: their makers may have added to them since (a command
/// that works beside the gateways does).
const LOOK_AGAIN: u32 = 5;

/// Keeps the lease until it is aborted; through every failure of the store.
pub(super) async fn keep_lease(inner: Weak<Inner>) {
    let mut round = 0_u32;
    loop {
        tokio::time::sleep(HEARTBEAT_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        round = round.wrapping_add(1);
        match tokio::time::timeout(BEAT_WITHIN, beat(&inner, round)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(store.error = %error, "the lease could not be renewed; it is tried again"),
            Err(_) => tracing::warn!("the lease could not be renewed in time; it is tried again"),
        }
    }
}

async fn beat(inner: &Arc<Inner>, round: u32) -> Result<(), StoreError> {
    let pipeline = &inner.pipeline;
    // A gateway that drains takes over nothing: the next one does.
    let adopt = !*inner.stop.borrow();
    let heard = pipeline.store.heartbeat(adopt).await?;
    let gateways = pipeline.store.gateways();
    if pipeline.lanes.share_among(gateways) {
        tracing::info!(fleet.gateways = gateways, "each partner's concurrency and rate are shared by so many gateways");
        pipeline.network_changed();
    }
    telemetry::gateways(gateways);
    if heard.reborn {
        tracing::warn!("the lease had ended and another gateway carries on with what waited here; going on afresh");
    }
    if !adopt {
        return Ok(());
    }
    if heard.adopted > 0 {
        tracing::info!(fleet.adopted = heard.adopted, "carrying on with the deliveries of gateways that have gone");
    }
    if heard.adopted > 0 || round.is_multiple_of(LOOK_AGAIN) {
        inner.look_again.store(true, Ordering::Release);
    }
    // Beside the heartbeats, which must not wait for it; once at a time.
    if let Ok(turn) = Arc::clone(&inner.taking_over).try_lock_owned() {
        let inner = Arc::clone(inner);
        tokio::spawn(async move {
            if let Err(error) = take_over(&inner).await {
                tracing::warn!(store.error = %error, "what gateways have left could not be taken up yet");
            }
            drop(turn);
        });
    }
    Ok(())
}

async fn take_over(inner: &Arc<Inner>) -> Result<(), StoreError> {
    if inner.look_again.swap(false, Ordering::AcqRel)
        && let Err(error) = recovery::take_up_queues(inner).await
    {
        // The next heartbeat does it.
        inner.look_again.store(true, Ordering::Release);
        return Err(error);
    }
    recovery::conclude_lost_attempts(inner).await.map(drop)
}
