//! Follows what other gateways and commands change in the store that they share: the network, pauses, staff tokens. A
//! change is in force everywhere within a second. (An attempt's commit sees a pause at once, wherever it was made.)

use std::collections::HashSet;
use std::sync::Weak;
use std::time::Duration;

use super::{App, next, told};
use crate::api::access::Tokens;
use crate::directory::{Network, ResourceSet};
use crate::store::{Changes, PausedKind, StoreError};

/// How often the store is asked whether anything has changed: one row.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// An answer that takes longer is none; the next look asks again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What this gateway has in memory.
struct Known {
    changes: Changes,
    /// The version of a network that could not be used, told already.
    refused: Option<u64>,
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
        match tokio::time::timeout(ANSWER_WITHIN, look(&app, &mut known, first)).await {
            Ok(Ok(())) => first = false,
            Ok(Err(error)) => tracing::warn!("changes by others cannot be followed now; trying again: {error:#}"),
            Err(_) => tracing::warn!("changes by others cannot be followed now; trying again: the store is slow"),
        }
    }
}

async fn look(app: &App, known: &mut Known, first: bool) -> anyhow::Result<()> {
    let pipeline = &app.pipeline;
    let now = pipeline.store.changes().await?;
    if now.network != known.changes.network {
        // One that cannot be used here is tried at every look: a secret's file may only be late on this machine.
        if app.reload(known.refused != Some(now.network)).await? {
            known.changes.network = now.network;
        } else {
            known.refused = Some(now.network);
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
        for (kind, id) in known.paused.difference(&paused) {
            pipeline.learn_paused(*kind, id, false);
        }
        for (kind, id) in paused.difference(&known.paused) {
            pipeline.learn_paused(*kind, id, true);
        }
        known.paused = paused;
        known.changes.pauses = now.pauses;
        pipeline.network_changed();
    }
    if now.tokens != known.changes.tokens {
        app.api.tokens.store(std::sync::Arc::new(Tokens::new(pipeline.store.tokens().await?)));
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
        let records = pipeline.store.resources().await?;
        let before = pipeline.directory.network();
        let network = ResourceSet::from_records(&records).and_then(|set| Network::compile(&set, Some(&before)));
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
