//! What a shared gate asks when it has nothing to go by: the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::gate::{Told, Truth};
use crate::model::id::{ContractId, PartnerId};
use crate::model::limit::PlaceKey;
use crate::store::{PausedKind, Store, StoreError};

/// The store, as the gate may ask it.
#[derive(Debug)]
pub struct StoreTruth {
    store: Store,
    /// The newest version of the network that is stored.
    version: Arc<AtomicU64>,
}

impl StoreTruth {
    /// The truth of a store, whose newest network has the version that stands in `version`.
    #[must_use]
    pub fn new(store: Store, version: Arc<AtomicU64>) -> Self {
        Self { store, version }
    }
}

impl Truth for StoreTruth {
    fn counts(&self, keys: Vec<PlaceKey>) -> Told<'_, Vec<(PlaceKey, u64)>> {
        Box::pin(async move { self.store.places(keys).await.map_err(told) })
    }

    fn paused(&self, partner: PartnerId, contract: ContractId) -> Told<'_, (bool, bool)> {
        Box::pin(async move {
            let all = self.store.paused().await.map_err(told)?;
            let is = |kind: PausedKind, id: &str| all.iter().any(|(other, name)| *other == kind && name == id);
            Ok((is(PausedKind::Partner, partner.as_str()), is(PausedKind::Contract, contract.as_str())))
        })
    }

    fn version(&self) -> Told<'_, u64> {
        Box::pin(async move {
            if self.store.is_shared() {
                return self.store.changes().await.map(|changes| changes.network).map_err(told);
            }
            Ok(self.version.load(Ordering::Acquire))
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "map_err hands it over")]
fn told(error: StoreError) -> String {
    error.to_string()
}
