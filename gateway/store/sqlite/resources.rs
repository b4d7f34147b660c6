//! Resources, pauses and tokens in SQLite.

use super::audit::insert_audit;
use super::writer::Tx;
use super::{Sqlite, rows};
use crate::model::id::ContractId;
use crate::store::resources::{is_changed_elsewhere, mark};
use crate::store::{Audit, Changes, Kind, PausedKind, ResourceChange, StoreError, StoredResource, TokenRecord};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};
use std::sync::atomic::Ordering;

/// What [`Changes`] counts, as the store keeps it.
const NETWORK: usize = 0;
const PAUSES: usize = 1;
const TOKENS: usize = 2;
/// Changes of resources at a time from which on they fill the writer's cache.
const MANY: usize = 1_000;

impl Sqlite {
    #[expect(clippy::unused_async, reason = "the other engine asks its server")]
    pub(in crate::store) async fn changes(&self) -> Result<Changes, StoreError> {
        let [network, pauses, tokens] =
            [NETWORK, PAUSES, TOKENS].map(|what| self.changed[what].load(Ordering::Acquire));
        Ok(Changes { network, pauses, tokens })
    }

    /// After its commit: whoever sees the new number reads what is new.
    fn count_change(&self, what: usize) {
        self.changed[what].fetch_add(1, Ordering::Release);
    }

    pub(in crate::store) async fn read_resources<T, F>(&self, mut into: T, mut take: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut T, StoredResource<'_>) + Send + 'static,
    {
        self.read(move |conn| {
            let mut select =
                conn.prepare_cached("SELECT kind, id, version, document, applied FROM resource ORDER BY kind, id")?;
            let mut found = select.query([])?;
            while let Some(row) = found.next()? {
                let text = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str()?);
                let document = text(3)?;
                let applied = row.get_ref(4)?.as_str_or_null().map_err(rusqlite::Error::from)?;
                let one = StoredResource {
                    kind: rows::word(row, 0, Kind::from_word)?,
                    id: text(1)?,
                    version: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                    document,
                    changed_elsewhere: is_changed_elsewhere(document, applied),
                };
                take(&mut into, one);
            }
            drop(found);
            Ok(into)
        })
        .await
    }

    pub(in crate::store) async fn apply(
        &self,
        changes: Vec<ResourceChange>,
        who: String,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let many = changes.len() >= MANY;
        let applied = self
            .commit(move |tx| {
                for change in &changes {
                    let now: Option<i64> = tx
                        .statement("SELECT version FROM resource WHERE kind = ?1 AND id = ?2")?
                        .query_row((change.kind.as_str(), &change.id), |row| row.get(0))
                        .optional()?;
                    if now != change.from.map(rows::count) {
                        return Ok(false);
                    }
                }
                for change in &changes {
                    write(tx, change, &who, at)?;
                }
                Ok(true)
            })
            .await?;
        if applied {
            self.count_change(NETWORK);
        }
        if many {
            // What the writer's cache holds of a large network's pages is of no use to leads, who have to make room for
            // it all the same. Nothing depends on it.
            let _ = self.commit(|tx| tx.connection().execute_batch("PRAGMA shrink_memory")).await;
        }
        Ok(applied)
    }

    pub(in crate::store) async fn has_contract(&self, id: ContractId) -> Result<bool, StoreError> {
        self.read(move |conn| {
            let mut select = conn.prepare_cached("SELECT 1 FROM resource WHERE kind = 'contract' AND id = ?1")?;
            Ok(select.exists([id.as_str()])?)
        })
        .await
    }

    pub(in crate::store) async fn paused(&self) -> Result<Vec<(PausedKind, String)>, StoreError> {
        self.read(|conn| {
            let mut select = conn.prepare_cached("SELECT kind, id FROM paused")?;
            let found = select.query_map([], |row| Ok((rows::word(row, 0, PausedKind::from_word)?, row.get(1)?)))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(in crate::store) async fn set_paused(
        &self,
        kind: PausedKind,
        id: String,
        paused: bool,
        at: Timestamp,
        audit: Audit,
    ) -> Result<(), StoreError> {
        self.commit(move |tx| {
            if paused {
                tx.statement(
                    "INSERT INTO paused (kind, id, since, by) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                )?
                .execute(params![kind.as_str(), id, at.as_microsecond(), audit.who])?;
            } else {
                tx.statement("DELETE FROM paused WHERE kind = ?1 AND id = ?2")?.execute((kind.as_str(), &id))?;
            }
            tx.forget_paused();
            insert_audit(tx, &audit, at)
        })
        .await?;
        self.count_change(PAUSES);
        Ok(())
    }

    pub(in crate::store) async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.read(|conn| {
            let mut select = conn.prepare_cached("SELECT name, hash, role FROM token ORDER BY name")?;
            let found = select
                .query_map([], |row| Ok(TokenRecord { name: row.get(0)?, hash: row.get(1)?, role: row.get(2)? }))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(in crate::store) async fn add_token(
        &self,
        token: TokenRecord,
        at: Timestamp,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        let new = self
            .commit(move |tx| {
                let added = tx
                .statement(
                    "INSERT INTO token (name, hash, role, created_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                )?
                .execute(params![token.name, token.hash, token.role, at.as_microsecond()])?;
                if added > 0 {
                    insert_audit(tx, &audit, at)?;
                }
                Ok(added > 0)
            })
            .await?;
        if new {
            self.count_change(TOKENS);
        }
        Ok(new)
    }
}

/// Writes one change, and its version into the history.
fn write(tx: &Tx<'_, '_>, change: &ResourceChange, who: &str, at: Timestamp) -> rusqlite::Result<()> {
    let (kind, id, at) = (change.kind.as_str(), change.id.as_str(), at.as_microsecond());
    // A resource that comes back after it was deleted goes on counting its versions.
    let last: Option<i64> = tx
        .statement("SELECT max(version) FROM resource_history WHERE kind = ?1 AND id = ?2")?
        .query_row((kind, id), |row| row.get(0))?;
    let version = last.unwrap_or(0) + 1;
    match &change.document {
        Some(document) => tx
            .statement(
                "INSERT INTO resource (kind, id, version, document, applied, changed_at, changed_by)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, document = excluded.document,
                     applied = excluded.applied, changed_at = excluded.changed_at, changed_by = excluded.changed_by",
            )?
            .execute(params![kind, id, version, document, mark(document), at, who])?,
        None => tx.statement("DELETE FROM resource WHERE kind = ?1 AND id = ?2")?.execute((kind, id))?,
    };
    tx.statement(
        "INSERT INTO resource_history (kind, id, version, document, changed_at, changed_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![kind, id, version, change.document, at, who])
    .map(drop)
}
