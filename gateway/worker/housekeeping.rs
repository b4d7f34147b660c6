//! What happens by the clock: retention once an hour, gauges every few seconds.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::{Inner, recovery};
use crate::model::id::ContractId;
use crate::telemetry;

/// How often gauges are refreshed.
const GAUGES_EVERY: Duration = Duration::from_secs(5);
/// Gauge rounds between two counts of long backlogs: a minute.
const COUNT_EVERY: u32 = 12;
/// Gauge rounds between two tidyings: an hour.
const TIDY_EVERY: u32 = 720;
/// … and after one that failed: a minute.
const TIDY_AGAIN: u32 = 12;

pub(super) async fn keep_house(inner: Weak<Inner>, mut stop: watch::Receiver<bool>) {
    let (mut round, mut tidy_in) = (0_u32, 0_u32);
    let mut quiet = Quiet::default();
    loop {
        {
            let Some(inner) = inner.upgrade() else { return };
            if tidy_in == 0 {
                // A stop need not wait for it: what is left is done another time.
                tidy_in = tokio::select! {
                    done = tidy(&inner) => if done { TIDY_EVERY } else { TIDY_AGAIN },
                    _ = stop.wait_for(|stop| *stop) => return,
                };
            }
            tidy_in -= 1;
            gauges(&inner, &mut quiet, round.is_multiple_of(COUNT_EVERY)).await;
            look_at_queues(&inner, round).await;
        }
        round = round.wrapping_add(1);
        tokio::select! {
            () = tokio::time::sleep(GAUGES_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// What was stored and never announced, by a fault of the gateway's own, is found. (With several gateways, their heartbeats
/// see to it.)
async fn look_at_queues(inner: &Arc<Inner>, round: u32) {
    let due = round > 0 && round.is_multiple_of(COUNT_EVERY);
    if due
        && !inner.pipeline.store.is_shared()
        && let Err(error) = recovery::take_up_queues(inner).await
    {
        tracing::warn!(store.error = %error, "the queues could not be looked at; they are in a minute");
    }
}

/// Whether it could be done.
async fn tidy(inner: &Inner) -> bool {
    let pipeline = &inner.pipeline;
    match pipeline.store.tidy(pipeline.clock.now(), inner.keep.captures, inner.keep.leads).await {
        Ok(forgotten) if forgotten == crate::store::Forgotten::default() => true,
        Ok(forgotten) => {
            tracing::info!(
                tables = forgotten.days,
                leads = forgotten.leads,
                places = forgotten.places,
                "dropped what is past its retention"
            );
            true
        }
        Err(error) => {
            tracing::warn!(store.error = %error, "retention could not run; it is tried again in a minute");
            false
        }
    }
}

/// Contracts whose gauges say that nothing is the matter. They are left so until something is: with tens of thousands of
/// contracts most are quiet.
#[derive(Default)]
struct Quiet {
    queues: HashSet<ContractId>,
    breakers: HashSet<ContractId>,
}

/// Whether a gauge must be told: unless it was told already that all is quiet.
fn is_news(quiet: &mut HashSet<ContractId>, contract: &ContractId, is_quiet: bool) -> bool {
    if is_quiet {
        !quiet.contains(contract) && quiet.insert(contract.clone())
    } else {
        quiet.remove(contract);
        true
    }
}

async fn gauges(inner: &Inner, quiet: &mut Quiet, count: bool) {
    let pipeline = &inner.pipeline;
    let now = pipeline.clock.now();
    for queue in inner.all_queues() {
        let view = queue.view();
        if !is_news(&mut quiet.queues, &view.contract, view.waiting() == 0 && !view.more) {
            continue;
        }
        let depth = match (view.more, count) {
            (false, _) => Some(view.waiting()),
            // A long backlog is counted in the store, which takes a moment, and so not every time.
            (true, true) => pipeline.store.queue_length(view.contract.clone()).await.ok(),
            (true, false) => None,
        };
        telemetry::queue(view.contract.as_str(), depth, view.oldest, now);
    }
    telemetry::gate(pipeline.gate.is_up());
    if let Ok(unknown) = pipeline.store.unknown_count().await {
        telemetry::unknown(unknown);
    }
    for (contract, lane) in pipeline.lanes.all() {
        let open = lane.broken_until(now).is_some();
        if is_news(&mut quiet.breakers, &contract, !open) {
            telemetry::breaker(contract.as_str(), open);
        }
    }
    telemetry::under_way(pipeline.lanes.under_way());
    telemetry::store(pipeline.store.commit_stats(), pipeline.store.size_on_disk());
}
