//! Partitions of one day (UTC) each: exchanges, look-ups and refusals. Dropping a day is dropping its partitions.
//!
//! They are made ahead, beside the parent and then attached to it: that stops nobody who writes, whereas making them as
//! partitions would wait for everybody. What was not made ahead is made when it is first needed.

use deadpool_postgres::{GenericClient, Object};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::rows;
use crate::store::StoreError;

/// What is kept by the day.
pub(super) const PARENTS: [&str; 3] = ["exchange", "found_by", "refusal"];
/// What was, by older versions: it is dropped in its time, like the others.
const PAST_PARENTS: [&str; 1] = ["lookup"];

/// Of all gateways on a database one makes partitions at a time: any number that nobody else uses.
const LOCK: i64 = 0x6461_7973;

/// Whether a row could not be written because its day has no partition.
pub(super) fn is_missing(error: &tokio_postgres::Error) -> bool {
    // Its own condition has no code of its own; no table of ours has another one of this class without a name.
    error.as_db_error().is_some_and(|error| *error.code() == SqlState::CHECK_VIOLATION && error.constraint().is_none())
}

/// Makes the partitions of `day` where they are missing: one round trip, a transaction of its own.
pub(super) async fn ensure(client: &Client, day: u32) -> Result<(), tokio_postgres::Error> {
    let missing = PARENTS.map(|parent| {
        format!(
            "IF to_regclass('{parent}_{day}') IS NULL THEN
                 CREATE TABLE {parent}_{day} (LIKE {parent} INCLUDING ALL);
                 ALTER TABLE {parent} ATTACH PARTITION {parent}_{day} FOR VALUES FROM ({day}) TO ({});
             END IF;",
            day + 1
        )
    });
    let missing = missing.concat();
    client.batch_execute(&format!("DO $$ BEGIN PERFORM pg_advisory_xact_lock({LOCK}); {missing} END $$")).await
}

/// Every partition there is: its parent and its day.
pub(super) async fn of(db: &impl GenericClient) -> Result<Vec<(&'static str, u32)>, StoreError> {
    let found = rows::query(
        db,
        "SELECT parent.relname::text, child.relname::text FROM pg_inherits
         JOIN pg_class parent ON parent.oid = inhparent JOIN pg_class child ON child.oid = inhrelid
         WHERE inhparent = ANY(ARRAY['exchange'::regclass, 'found_by'::regclass, 'refusal'::regclass, 'lookup'::regclass])",
        &[],
    )
    .await?;
    let mut partitions = Vec::new();
    for row in &found {
        let (parent, child): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let parent = PARENTS.into_iter().chain(PAST_PARENTS).find(|one| *one == parent);
        let day = child.rsplit_once('_').and_then(|(_, day)| day.parse().ok());
        partitions.extend(parent.zip(day));
    }
    Ok(partitions)
}

/// Drops one partition; `false` when somebody is using it: then another time. Writers of other days wait at most for a
/// moment, for it takes the parent's lock.
pub(super) async fn drop(session: &mut Object, parent: &str, day: u32) -> Result<bool, StoreError> {
    let tx = session.transaction().await?;
    // First its own lock, with patience: who reads an old day, or vacuums it, holds nobody else up.
    let dropped = tx
        .batch_execute(&format!(
            "SET LOCAL lock_timeout = '3s'; LOCK TABLE {parent}_{day} IN ACCESS EXCLUSIVE MODE;
             SET LOCAL lock_timeout = '200ms'; DROP TABLE {parent}_{day}"
        ))
        .await;
    match dropped {
        Ok(()) => {
            tx.commit().await?;
            Ok(true)
        }
        // In use; or another gateway was first.
        Err(error)
            if error.code().is_some_and(|code| {
                [&SqlState::LOCK_NOT_AVAILABLE, &SqlState::T_R_DEADLOCK_DETECTED, &SqlState::UNDEFINED_TABLE]
                    .contains(&code)
            }) =>
        {
            tracing::debug!(store.partition = format!("{parent}_{day}"), "in use; it is dropped another time");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
