//! Resources, pauses and tokens in PostgreSQL. Every change counts up its version in the row that all gateways ask a few
//! times a second, in the same transaction.

use super::write::Write;
use super::{Postgres, rows};
use crate::model::id::ContractId;
use crate::store::{Audit, Changes, Kind, PausedKind, ResourceChange, ResourceRecord, StoreError, TokenRecord};
use deadpool_postgres::Transaction;
use jiff::Timestamp;

impl Postgres {
    pub(in crate::store) async fn changes(&self) -> Result<Changes, StoreError> {
        let db = self.vital_session().await?;
        let sql = "SELECT network, pauses, tokens FROM change";
        let Some(row) = rows::query_opt(&db, sql, &[]).await? else {
            return Err(StoreError::Failed("the table `change` has lost its row; insert it again".to_owned()));
        };
        Ok(Changes { network: rows::count(&row, 0)?, pauses: rows::count(&row, 1)?, tokens: rows::count(&row, 2)? })
    }

    pub(in crate::store) async fn resources(&self) -> Result<Vec<ResourceRecord>, StoreError> {
        let db = self.session().await?;
        // In the order of their bytes, as the embedded engine gives them, whatever the database's language.
        let sql = "SELECT kind, id, version, document, applied IS DISTINCT FROM document FROM resource
                   ORDER BY kind COLLATE \"C\", id COLLATE \"C\"";
        let found = rows::query(&db, sql, &[]).await?;
        found
            .iter()
            .map(|row| {
                Ok(ResourceRecord {
                    kind: rows::word(row, 0, Kind::from_word)?,
                    id: row.try_get(1)?,
                    version: rows::count(row, 2)?,
                    document: row.try_get(3)?,
                    changed_elsewhere: row.try_get(4)?,
                })
            })
            .collect()
    }

    pub(in crate::store) async fn apply(
        &self,
        changes: Vec<ResourceChange>,
        who: String,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut session = self.session().await?;
        let write = Write::begin(&mut session).await?;
        let tx = &write.tx;
        // Whoever else applies waits here: what is compared below stays as it is.
        rows::execute(tx, "UPDATE change SET network = network + 1", &[]).await?;
        for change in &changes {
            let sql = "SELECT version FROM resource WHERE kind = $1 AND id = $2";
            let row = rows::query_opt(tx, sql, &[&change.kind.as_str(), &change.id]).await?;
            let now = row.as_ref().map(|row| rows::count(row, 0)).transpose()?;
            if now != change.from {
                return Ok(false);
            }
        }
        for change in &changes {
            write_resource(tx, change, &who, at).await?;
        }
        write.commit(self).await?;
        Ok(true)
    }

    pub(in crate::store) async fn has_contract(&self, id: ContractId) -> Result<bool, StoreError> {
        let db = self.session().await?;
        let select = "SELECT 1 FROM resource WHERE kind = 'contract' AND id = $1";
        Ok(rows::query_opt(&db, select, &[&id.as_str()]).await?.is_some())
    }

    pub(in crate::store) async fn paused(&self) -> Result<Vec<(PausedKind, String)>, StoreError> {
        let db = self.session().await?;
        let found = rows::query(&db, "SELECT kind, id FROM paused", &[]).await?;
        found.iter().map(|row| Ok((rows::word(row, 0, PausedKind::from_word)?, row.try_get(1)?))).collect()
    }

    pub(in crate::store) async fn set_paused(
        &self,
        kind: PausedKind,
        id: String,
        paused: bool,
        at: Timestamp,
        audit: Audit,
    ) -> Result<(), StoreError> {
        let mut session = self.session().await?;
        let write = Write::begin(&mut session).await?;
        let tx = &write.tx;
        // Attempt commits hold it in a mode that this one excludes: none that did not see the pause commits after it.
        tx.batch_execute("LOCK TABLE paused IN EXCLUSIVE MODE").await?;
        if paused {
            rows::execute(
                tx,
                "INSERT INTO paused (kind, id, since, by) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                &[&kind.as_str(), &id, &at.as_microsecond(), &audit.who],
            )
            .await?;
        } else {
            rows::execute(tx, "DELETE FROM paused WHERE kind = $1 AND id = $2", &[&kind.as_str(), &id]).await?;
        }
        rows::execute(tx, "UPDATE change SET pauses = pauses + 1", &[]).await?;
        insert_audit(tx, &audit, at).await?;
        write.commit(self).await
    }

    pub(in crate::store) async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let db = self.session().await?;
        let found = rows::query(&db, "SELECT name, hash, role FROM token ORDER BY name COLLATE \"C\"", &[]).await?;
        found
            .iter()
            .map(|row| {
                let hash = <[u8; 32]>::try_from(row.try_get::<_, &[u8]>(1)?)
                    .map_err(|_| rows::bad(row, 1, "a token's hash has 32 bytes"))?;
                Ok(TokenRecord { name: row.try_get(0)?, hash, role: row.try_get(2)? })
            })
            .collect()
    }

    pub(in crate::store) async fn add_token(
        &self,
        token: TokenRecord,
        at: Timestamp,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        let mut session = self.session().await?;
        let write = Write::begin(&mut session).await?;
        let tx = &write.tx;
        let added = rows::execute(
            tx,
            "INSERT INTO token (name, hash, role, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[&token.name, &token.hash.as_slice(), &token.role, &at.as_microsecond()],
        )
        .await?;
        if added == 0 {
            return Ok(false);
        }
        rows::execute(tx, "UPDATE change SET tokens = tokens + 1", &[]).await?;
        insert_audit(tx, &audit, at).await?;
        write.commit(self).await?;
        Ok(true)
    }
}

async fn write_resource(
    tx: &Transaction<'_>,
    change: &ResourceChange,
    who: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    let (kind, id, at) = (change.kind.as_str(), &change.id, at.as_microsecond());
    // A resource that comes back after it was deleted goes on counting its versions.
    let last = "SELECT coalesce(max(version), 0) FROM resource_history WHERE kind = $1 AND id = $2";
    let last: i64 = tx.query_one(&tx.prepare_cached(last).await?, &[&kind, id]).await?.try_get(0)?;
    let version = last + 1;
    if let Some(document) = &change.document {
        rows::execute(
            tx,
            "INSERT INTO resource (kind, id, version, document, applied, changed_at, changed_by)
             VALUES ($1, $2, $3, $4, $4, $5, $6)
             ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, document = excluded.document,
                 applied = excluded.applied, changed_at = excluded.changed_at, changed_by = excluded.changed_by",
            &[&kind, id, &version, document, &at, &who],
        )
        .await?;
    } else {
        rows::execute(tx, "DELETE FROM resource WHERE kind = $1 AND id = $2", &[&kind, id]).await?;
    }
    rows::execute(
        tx,
        "INSERT INTO resource_history (kind, id, version, document, changed_at, changed_by) VALUES ($1, $2, $3, $4, $5, $6)",
        &[&kind, id, &version, &change.document, &at, &who],
    )
    .await
    .map(drop)
}

/// Writes down what a person did.
pub(super) async fn insert_audit(tx: &Transaction<'_>, audit: &Audit, at: Timestamp) -> Result<(), StoreError> {
    rows::execute(
        tx,
        "INSERT INTO audit (at, who, action, subject, reason) VALUES ($1, $2, $3, $4, $5)",
        &[&at.as_microsecond(), &audit.who, &audit.action, &audit.subject, &audit.reason],
    )
    .await
    .map(drop)
}
