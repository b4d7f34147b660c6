//! Resources, pauses and tokens in PostgreSQL. Every change counts up its version in the row that all gateways ask a few
//! times a second, in the same transaction.

use std::collections::HashMap;

use super::write::Write;
use super::{Postgres, rows};
use crate::model::id::ContractId;
use crate::store::resources::{is_changed_elsewhere, mark};
use crate::store::{Audit, Changes, Kind, PausedKind, ResourceChange, StoreError, StoredResource, TokenRecord};
use deadpool_postgres::Transaction;
use jiff::Timestamp;

/// Resources that are read at a time.
const AT_A_TIME: i32 = 250;
/// Changes of resources that are written by one statement.
const AT_ONCE: usize = 1_000;

impl Postgres {
    pub(in crate::store) async fn changes(&self) -> Result<Changes, StoreError> {
        let db = self.vital_session().await?;
        let sql = "SELECT network, pauses, tokens FROM change";
        let Some(row) = rows::query_opt(&db, sql, &[]).await? else {
            return Err(StoreError::Failed("the table `change` has lost its row; insert it again".to_owned()));
        };
        Ok(Changes { network: rows::count(&row, 0)?, pauses: rows::count(&row, 1)?, tokens: rows::count(&row, 2)? })
    }

    pub(in crate::store) async fn read_resources<T, F>(&self, mut into: T, mut take: F) -> Result<T, StoreError>
    where
        F: FnMut(&mut T, StoredResource<'_>),
    {
        let mut session = self.session().await?;
        let tx = session.transaction().await?;
        // In the order of their bytes, as the embedded engine gives them, whatever the database's language.
        let sql = "SELECT kind, id, version, document, applied FROM resource
                   ORDER BY kind COLLATE \"C\", id COLLATE \"C\"";
        let statement = tx.prepare_cached(sql).await?;
        // All as of one instant, but not all in memory.
        let portal = tx.bind(&statement, &[]).await?;
        loop {
            let found = tx.query_portal(&portal, AT_A_TIME).await?;
            if found.is_empty() {
                return Ok(into);
            }
            for row in &found {
                let document = row.try_get(3)?;
                let one = StoredResource {
                    kind: rows::word(row, 0, Kind::from_word)?,
                    id: row.try_get(1)?,
                    version: rows::count(row, 2)?,
                    document,
                    changed_elsewhere: is_changed_elsewhere(document, row.try_get(4)?),
                };
                take(&mut into, one);
            }
        }
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
        for changes in changes.chunks(AT_ONCE) {
            if !are_as_expected(tx, changes).await? {
                return Ok(false);
            }
        }
        for changes in changes.chunks(AT_ONCE) {
            write_resources(tx, changes, &who, at).await?;
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

/// Whether each resource is at the version that its change expects.
async fn are_as_expected(tx: &Transaction<'_>, changes: &[ResourceChange]) -> Result<bool, StoreError> {
    let versions = versions(
        tx,
        "SELECT kind, id, version FROM resource JOIN unnest($1::text[], $2::text[]) AS named (kind, id) USING (kind, id)",
        changes,
    )
    .await?;
    Ok(changes.iter().all(|change| versions.get(&key(change)).copied() == change.from))
}

/// Writes changes, and their versions into the history: four statements for all of them.
async fn write_resources(
    tx: &Transaction<'_>,
    changes: &[ResourceChange],
    who: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    let at = at.as_microsecond();
    // A resource that comes back after it was deleted goes on counting its versions.
    let last = versions(
        tx,
        "SELECT kind, id, max(version) FROM resource_history
         JOIN unnest($1::text[], $2::text[]) AS named (kind, id) USING (kind, id) GROUP BY kind, id",
        changes,
    )
    .await?;
    let version = |change: &ResourceChange| {
        let last = last.get(&key(change)).copied().unwrap_or(0);
        i64::try_from(last).unwrap_or(i64::MAX).saturating_add(1)
    };
    let (set, deleted): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.document.is_some());
    let documents: Vec<&str> = set.iter().filter_map(|change| change.document.as_deref()).collect();
    let marks: Vec<String> = documents.iter().map(|document| mark(document)).collect();
    let set_versions: Vec<i64> = set.iter().map(|change| version(change)).collect();
    let (kinds, ids) = keys(&set);
    rows::execute(
        tx,
        "INSERT INTO resource (kind, id, version, document, applied, changed_at, changed_by)
         SELECT kind, id, version, document, applied, $6, $7
         FROM unnest($1::text[], $2::text[], $3::int8[], $4::text[], $5::text[])
             AS changed (kind, id, version, document, applied)
         ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, document = excluded.document,
             applied = excluded.applied, changed_at = excluded.changed_at, changed_by = excluded.changed_by",
        &[&kinds, &ids, &set_versions, &documents, &marks, &at, &who],
    )
    .await?;
    let (kinds, ids) = keys(&deleted);
    rows::execute(
        tx,
        "DELETE FROM resource USING unnest($1::text[], $2::text[]) AS named (kind, id)
         WHERE resource.kind = named.kind AND resource.id = named.id",
        &[&kinds, &ids],
    )
    .await?;
    let all: Vec<&ResourceChange> = changes.iter().collect();
    let all_versions: Vec<i64> = changes.iter().map(version).collect();
    let documents: Vec<Option<&str>> = changes.iter().map(|change| change.document.as_deref()).collect();
    let (kinds, ids) = keys(&all);
    rows::execute(
        tx,
        "INSERT INTO resource_history (kind, id, version, document, changed_at, changed_by)
         SELECT kind, id, version, document, $5, $6
         FROM unnest($1::text[], $2::text[], $3::int8[], $4::text[]) AS changed (kind, id, version, document)",
        &[&kinds, &ids, &all_versions, &documents, &at, &who],
    )
    .await
    .map(drop)
}

/// Versions by kind and id, as `sql` finds them for the kinds and ids of `changes`.
async fn versions(
    tx: &Transaction<'_>,
    sql: &str,
    changes: &[ResourceChange],
) -> Result<HashMap<(String, String), u64>, StoreError> {
    let (kinds, ids) = keys(&changes.iter().collect::<Vec<_>>());
    let found = rows::query(tx, sql, &[&kinds, &ids]).await?;
    found.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), rows::count(row, 2)?))).collect()
}

fn key(change: &ResourceChange) -> (String, String) {
    (change.kind.as_str().to_owned(), change.id.clone())
}

fn keys<'a>(changes: &[&'a ResourceChange]) -> (Vec<&'static str>, Vec<&'a str>) {
    changes.iter().map(|change| (change.kind.as_str(), change.id.as_str())).unzip()
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
