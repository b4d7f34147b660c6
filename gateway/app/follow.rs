//! Follows what other gateways and commands change in the store that they share: the network, pauses, staff tokens. A
//! change is in force everywhere within a second. (An attempt's commit sees a pause at once, wherever it was made.)

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{App, next, told};
use crate::api::access::Tokens;
use crate::clock;
use crate::directory::{Network, Reader};
use crate::store::{Changes, PausedKind, StoreError};
use crate::tasks;

/// How often the store is asked whether anything has changed: one row.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// An answer that takes longer is none; the next look asks again. (What follows from a change may take longer: a large
/// network is read and compiled in seconds.)
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often a network is tried again that cannot be used here: compiling it is work.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What this gateway has in memory.
struct Known {
    changes: Changes,
    /// The version of a network that could not be used, told already, and when it was last tried.
    refused: Option<(u64, Instant)>,
    paused: HashSet<(PausedKind, String)>,
}

/// Follows changes until the app is gone; through every failure of the store. `changes` is what was in force when the app
/// was opened.
pub(super) async fn follow(app: Weak<App>, changes: Changes) {
    let mut known = Known { changes, refused: None, paused: HashSet::new() };
    // What was paused before the first look is known to the gate; what is resumed from now on must be seen.
    let mut first = true;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(app) = app.upgrade() else { return };
        match look(&app, &mut known, first).await {
            Ok(()) => first = false,
            Err(error) => tracing::warn!("changes by others cannot be followed now; trying again: {error:#}"),
        }
    }
}

async fn look(app: &App, known: &mut Known, first: bool) -> anyhow::Result<()> {
    let pipeline = &app.pipeline;
    let now = tokio::time::timeout(ANSWER_WITHIN, pipeline.store.changes()).await.context("the store is slow")??;
    if first {
        pipeline.store.in_force(known.changes.network).await?;
    }
    let refused = known.refused.filter(|(version, _)| *version == now.network);
    let may_be_tried = refused.is_none_or(|(_, last)| last.elapsed() >= TRY_AGAIN_AFTER);
    if now.network != known.changes.network && may_be_tried {
        if app.reload(refused.is_none()).await? {
            known.changes.network = now.network;
            pipeline.store.in_force(now.network).await?;
        } else {
            // A secret's file may only be late on this machine.
            known.refused = Some((now.network, clock::instant()));
        }
    }
    if now.pauses != known.changes.pauses || first {
        let paused: HashSet<_> = pipeline.store.paused().await?.into_iter().collect();
        if first {
            // What was read at the start may have been resumed before this look.
            for (kind, id) in pipeline.directory.network().pausable() {
                if !paused.contains(&(kind, id.clone())) {
                    pipeline.learn_paused(kind, &id, false);
                }
            }
        }
        // The gate may have heard elsewhere of what was over before it was seen here.
        let before: HashSet<_> =
            std::mem::take(&mut known.paused).into_iter().chain(pipeline.believed_paused()).collect();
        let resumed = before.difference(&paused).map(|who| (who, false));
        let since = resumed.chain(paused.difference(&before).map(|who| (who, true)));
        for ((kind, id), is_paused) in since {
            if first {
                pipeline.learn_paused(*kind, id, is_paused);
            } else {
                // Redis is told by everybody who hears of it: the one who did it may have died before he could.
                pipeline.mark_paused(*kind, id, is_paused).await;
            }
        }
        known.paused = paused;
        known.changes.pauses = now.pauses;
        pipeline.network_changed();
    }
    if now.tokens != known.changes.tokens {
        app.api.tokens.store(Arc::new(Tokens::new(pipeline.store.tokens().await?)));
        known.changes.tokens = now.tokens;
    }
    Ok(())
}

impl App {
    /// The version of a network that is about to be put in force; asked before the network is read, so that it never says
    /// more than is there.
    pub(super) async fn next_version(&self) -> Result<u64, StoreError> {
        let pipeline = &self.pipeline;
        let changes = pipeline.store.changes().await?;
        Ok(next(&self.version, &pipeline.store, changes, &pipeline.clock))
    }

    /// Takes the network over as the store has it; whether it could be used. If not, the present one stays, and `tell` says
    /// why.
    async fn reload(&self, tell: bool) -> anyhow::Result<bool> {
        let _one_at_a_time = self.changing.lock().await;
        let pipeline = &self.pipeline;
        let version = self.next_version().await?;
        let before = pipeline.directory.network();
        let reader = Reader::beside(Some(Arc::clone(&before)));
        let reader = pipeline.store.read_resources(reader, Reader::take_stored).await?;
        let network = tasks::aside(move || reader.finish().and_then(|set| Network::compile(&set, Some(&before)))).await;
        match network {
            Ok(network) => {
                pipeline.gate.install(network.gate_rules(), version).await;
                pipeline.directory.install(network);
                pipeline.network_changed();
                tracing::info!("the network was changed elsewhere, and is in force here");
                Ok(true)
            }
            Err(faults) if !tell => {
                tracing::debug!(network.faults = faults.len(), "the network cannot be used here yet");
                Ok(false)
            }
            Err(faults) => {
                let error = told("the network was changed elsewhere and cannot be used here", &faults);
                tracing::error!("{error:#}; the one before stays in force until it can be");
                Ok(false)
            }
        }
    }
}
