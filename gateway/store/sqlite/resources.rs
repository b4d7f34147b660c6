//! Resources, pauses and tokens in SQLite.

use super::audit::insert_audit;
use super::{Sqlite, rows};
use crate::model::id::ContractId;
use crate::store::{Audit, Changes, Kind, PausedKind, ResourceChange, ResourceRecord, StoreError, TokenRecord};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};
use std::sync::atomic::Ordering;

/// What [`Changes`] counts, as the store keeps it.
const NETWORK: usize = 0;
const PAUSES: usize = 1;
const TOKENS: usize = 2;

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

    pub(in crate::store) async fn resources(&self) -> Result<Vec<ResourceRecord>, StoreError> {
        self.read(|conn| {
            let mut select = conn.prepare_cached(
                "SELECT kind, id, version, document, applied IS NOT document FROM resource ORDER BY kind, id",
            )?;
            let found = select.query_map([], |row| {
                Ok(ResourceRecord {
                    kind: rows::word(row, 0, Kind::from_word)?,
                    id: row.get(1)?,
                    version: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                    document: row.get(3)?,
                    changed_elsewhere: row.get(4)?,
                })
            })?;
            Ok(found.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(in crate::store) async fn apply(
        &self,
        changes: Vec<ResourceChange>,
        who: String,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let applied = self.commit(move |tx| {
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
                let key = (change.kind.as_str(), change.id.as_str());
                // A resource that comes back after it was deleted goes on counting its versions.
                let last: Option<i64> = tx
                    .statement("SELECT max(version) FROM resource_history WHERE kind = ?1 AND id = ?2")?
                    .query_row(key, |row| row.get(0))?;
                let version = last.unwrap_or(0) + 1;
                match &change.document {
                    Some(document) => tx
                        .statement(
                            "INSERT INTO resource (kind, id, version, document, applied, changed_at, changed_by)
                             VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6)
                             ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, document = excluded.document,
                                 applied = excluded.applied, changed_at = excluded.changed_at, changed_by = excluded.changed_by",
                        )?
                        .execute(params![key.0, key.1, version, document, at.as_microsecond(), who])?,
                    None => tx.statement("DELETE FROM resource WHERE kind = ?1 AND id = ?2")?.execute(key)?,
                };
                tx.statement(
                    "INSERT INTO resource_history (kind, id, version, document, changed_at, changed_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![key.0, key.1, version, change.document, at.as_microsecond(), who])?;
            }
            Ok(true)
        })
        .await?;
        if applied {
            self.count_change(NETWORK);
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
