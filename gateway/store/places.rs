//! Place counts: how much of each limit's period is taken, in the same commit as what took it.

use super::{Store, StoreError};
use crate::model::limit::PlaceKey;
use std::collections::HashMap;

impl Store {
    /// What is really taken, for a gate that must be told: those of `keys` that have any.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn places(&self, keys: Vec<PlaceKey>) -> Result<Vec<(PlaceKey, u64)>, StoreError> {
        on_engine!(self, db => db.places(keys).await)
    }

    /// Every count there is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn all_places(&self) -> Result<Vec<(PlaceKey, u64)>, StoreError> {
        on_engine!(self, db => db.all_places().await)
    }

    /// The counts as they follow from the deliveries that own places; equal to [`Store::all_places`] for partners and
    /// contracts and periods that are not past, as long as retention has deleted no delivery. For tests and audits: reads every delivery.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn recount_places(&self) -> Result<HashMap<PlaceKey, u64>, StoreError> {
        on_engine!(self, db => db.recount_places().await)
    }
}
