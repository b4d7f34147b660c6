//! Becoming one of the gateways on a store.

use std::time::Duration;

use anyhow::bail;

use crate::clock;
use crate::store::{Joined, Newcomer, Store};

/// Longer than a lease: by then a gateway that was killed is known to be gone, and one that lives has renewed its own.
const GONE_AFTER: Duration = Duration::from_secs(13);
/// How often it is tried meanwhile.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Makes this gateway one of those on the store; with a gate of its own (`[gate] url = "memory"`) the only one.
///
/// # Errors
/// When the store fails, or another gateway lives there and one of the two keeps its gate to itself.
pub(super) async fn join(store: &Store, alone: bool) -> anyhow::Result<()> {
    let newcomer = Newcomer { name: name(), alone };
    let began = clock::instant();
    loop {
        let others = match store.join(&newcomer).await? {
            Joined::Member => return Ok(()),
            Joined::Taken(others) => others,
        };
        if began.elapsed() > GONE_AFTER {
            bail!(
                "gate.url: another gateway ({}) works on this store, and {} counts limits in its own memory; several \
                 gateways need one Redis: set gate.url = \"redis://…\" at each of them, or stop the other one",
                others.join(", "),
                if alone { "this one" } else { "it" },
            );
        }
        if began.elapsed() < AGAIN_AFTER {
            tracing::warn!(
                fleet.others = %others.join(", "),
                "another gateway is, or was until a moment ago, on this store; waiting for its lease to end"
            );
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Host and process, for people.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}/{}", if host.is_empty() { "gateway" } else { host }, std::process::id())
}
