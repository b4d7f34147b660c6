//! The embedded store has one gateway.

use super::Sqlite;
use crate::store::StoreError;
use crate::store::fleet::{Heartbeat, Joined, Newcomer};

#[expect(clippy::unused_async, reason = "the seam is that of a store with several gateways")]
impl Sqlite {
    pub(in crate::store) async fn join(&self, _: &Newcomer) -> Result<Joined, StoreError> {
        // The lock on its directory has kept it alone.
        Ok(Joined::Member)
    }

    pub(in crate::store) async fn attend(&self, _: &str) -> Result<bool, StoreError> {
        // Had one been running, it would have been asked instead.
        Ok(false)
    }

    pub(in crate::store) async fn heartbeat(&self, _: bool) -> Result<Heartbeat, StoreError> {
        Ok(Heartbeat::default())
    }

    pub(in crate::store) async fn in_force(&self, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    pub(in crate::store) async fn in_force_at(&self, _: u64) -> Result<(u64, u64), StoreError> {
        Ok((0, 0))
    }

    pub(in crate::store) async fn leave(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
