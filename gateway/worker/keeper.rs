//! Looks after the store: finds out that it is in trouble, and that it is well again; then makes sure that nothing was left
//! lying meanwhile.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;

use super::{Inner, recovery};
use crate::store::Trouble;
use crate::telemetry;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn look_after(inner: Weak<Inner>, mut stop: watch::Receiver<bool>) {
    let mut was: Option<Trouble> = None;
    loop {
        // Not held while it sleeps: the worker must be able to end.
        let Some(store) = inner.upgrade().map(|inner| inner.pipeline.store.clone()) else { return };
        // Its trouble is told where it is found; what fails for another reason says nothing about it.
        if let Err(error) = store.look_after().await {
            tracing::debug!(store.error = %error, "the store was tried");
        }
        let now = store.trouble();
        telemetry::store_trouble(now.is_some());
        if was.is_some() && now.is_none() {
            let Some(inner) = inner.upgrade() else { return };
            // A commit may have been called a failure that was none: its deliveries are in no queue yet.
            if let Err(error) = recovery::take_up_queues(&inner).await {
                tracing::warn!(store.error = %error, "the queues could not be looked at yet");
                was = Some(Trouble::Hangs);
            } else {
                was = None;
            }
        } else {
            was = now;
        }
        drop(store);
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Sorts what leads are found by, whenever there is enough of it.
pub(super) async fn sort_lookups(inner: Weak<Inner>, mut stop: watch::Receiver<bool>) {
    loop {
        let Some(store) = inner.upgrade().map(|inner| inner.pipeline.store.clone()) else { return };
        let again = if store.trouble().is_some() { Ok(false) } else { store.sort_lookups().await };
        drop(store);
        match again {
            Ok(true) if !*stop.borrow() => continue,
            Ok(_) => {}
            // It is all there, and found; only slower.
            Err(error) => tracing::warn!(store.error = %error, "look-ups could not be sorted yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
