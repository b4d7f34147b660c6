//! Applying files to the network: what differs, what may be done about it, and doing it, in a store alone or under a
//! running gateway.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::App;
use crate::clock;
use crate::directory::changes::{Comparison, What};
use crate::directory::{Fault, Network, Reader, ResourceSet};
use crate::store::{Kind, ResourceChange, Store, StoreError};
use crate::tasks;

/// How to apply.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Flags {
    /// Only say what would change.
    pub dry_run: bool,
    /// Also what was changed elsewhere since the last apply.
    pub force: bool,
    /// Delete what the files do not have.
    pub prune: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// What differs, for people, in order.
    pub changes: Vec<String>,
    /// Why nothing was done.
    pub refused: Vec<String>,
    /// What was left as it is, and why.
    pub notes: Vec<String>,
    /// How many resources were changed.
    pub applied: usize,
    /// Where several gateways may be: at how many of them all this is in force, and how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<(u64, u64)>,
}

/// How long a gateway may take to follow a change: it looks three times a second, and compiles a large network in seconds.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until what was applied is in force at every gateway on the store, and so in the Redis that they share; at how many
/// of them it is, and how many there are.
///
/// # Errors
/// When the store fails.
pub async fn followed(store: &Store) -> Result<(u64, u64), StoreError> {
    let applied = store.changes().await?.network;
    let began = clock::instant();
    loop {
        let (there, all) = store.in_force_at(applied).await?;
        if there >= all || began.elapsed() > FOLLOWED_WITHIN {
            return Ok((there, all));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl App {
    /// Applies files under the running gateway: stored first, then in force for the next lead.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn apply(&self, files: ResourceSet, flags: Flags, who: &str) -> Result<Report, StoreError> {
        let _one_at_a_time = self.changing.lock().await;
        let pipeline = &self.pipeline;
        let before = Some(pipeline.directory.network());
        let (report, network) = apply(&pipeline.store, files, flags, who, pipeline.clock.now(), before).await?;
        // Also where nothing differs: a secret behind a `file:` reference may have changed.
        if let Some(network) = network {
            let version = self.next_version().await?;
            pipeline.gate.install(network.gate_rules(), version).await;
            pipeline.directory.install(network);
            pipeline.network_changed();
        }
        Ok(report)
    }
}

/// Applies files to a store. The network that results is compiled first: one with faults is not stored.
///
/// # Errors
/// When the store fails.
pub async fn apply(
    store: &Store,
    files: ResourceSet,
    flags: Flags,
    who: &str,
    now: jiff::Timestamp,
    before: Option<Arc<Network>>,
) -> Result<(Report, Option<Network>), StoreError> {
    let files = Arc::new(files);
    let looked_at = (Comparison::with(Arc::clone(&files)), Reader::beside(before.clone()));
    let (compared, left) = store
        .read_resources(looked_at, move |(compared, left), one| {
            let stays = !compared.see(one) && !flags.prune;
            if stays {
                left.take_stored(one);
            }
        })
        .await?;
    let plan = move || plan(compared, files, left, flags, before.as_deref());
    let Planned { mut report, changes, network } = tasks::aside(plan).await;
    if flags.dry_run || !report.refused.is_empty() {
        return Ok((report, None));
    }
    // Gateways that follow the store read what is behind `file:` references again also where nothing differs.
    if changes.is_empty() && !store.is_shared() {
        return Ok((report, network));
    }
    let count = changes.len();
    if store.apply(changes, who.to_owned(), now).await? {
        report.applied = count;
        Ok((report, network))
    } else {
        report.refused.push("the network was changed by somebody else at the same moment; try again".to_owned());
        Ok((report, None))
    }
}

/// What an apply would do.
struct Planned {
    report: Report,
    changes: Vec<ResourceChange>,
    /// What results, if it can be used.
    network: Option<Network>,
}

/// `left` is what the files do not have, and the store keeps.
fn plan(
    compared: Comparison,
    files: Arc<ResourceSet>,
    left: Reader,
    flags: Flags,
    before: Option<&Network>,
) -> Planned {
    let mut report = Report::default();
    let mut changes = Vec::new();
    for difference in compared.differences() {
        if difference.what == What::Removed && !flags.prune {
            // A template that no file uses any more may still be used by a contract that stays.
            if difference.kind != Kind::Template {
                report
                    .notes
                    .push(format!("{} {} is only in the store; --prune deletes it", difference.kind, difference.id));
            }
            continue;
        }
        report.changes.push(difference.to_string());
        if difference.changed_elsewhere && !flags.force {
            report.refused.push(format!(
                "{} {} was changed elsewhere since the last apply; export it and merge, or use --force to overwrite it",
                difference.kind, difference.id
            ));
        }
        changes.push(difference.into_change());
    }
    let files = Arc::unwrap_or_clone(files);
    let network = match left.finish().and_then(|left| Network::compile(&with(files, left), before)) {
        Ok(network) => Some(network),
        Err(faults) => {
            report.refused.extend(faults.iter().map(Fault::to_string));
            None
        }
    };
    Planned { report, changes, network }
}

/// What the files say, and beside it what is left that only the store has.
fn with(files: ResourceSet, left: ResourceSet) -> ResourceSet {
    let mut set = files;
    set.campaigns.extend(left.campaigns);
    set.partners.extend(left.partners);
    set.sources.extend(left.sources);
    set.contracts.extend(left.contracts);
    set.templates.extend(left.templates);
    set
}
