//! Bringing the schema up to date, by one gateway at a time.

use tokio_postgres::{Client, Error};

use super::describe;
use crate::clock;

/// Schema changes in order; the table `migration` says which of them a database has.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_start.sql"), include_str!("migrations/0002_found_by.sql")];
/// Of all gateways on a database one migrates, the others wait for it: any number that nobody else uses.
const LOCK: i64 = 0x6c65_6164_6777;

/// Applies what is missing.
///
/// # Errors
/// In words, when it cannot, or the schema is that of a newer gateway.
pub(super) async fn migrate(client: &Client) -> Result<(), String> {
    let sql = |error: Error| {
        format!(
            "its schema cannot be brought up to date: {}; the user must own its tables and may CREATE in its schema",
            describe(&error)
        )
    };
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(sql)?;
    // The lock goes with the session, which ends after this.
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS migration (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
        )
        .await
        .map_err(sql)?;
    let row = client.query_one("SELECT coalesce(max(version), 0) FROM migration", &[]).await.map_err(sql)?;
    let have: i32 = row.get(0);
    let known = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    if have > known {
        return Err(format!(
            "it was written by a newer gateway (schema {have}, this one knows {known}); run that version"
        ));
    }
    let missing = (1..=known).zip(MIGRATIONS).skip(usize::try_from(have).unwrap_or(0));
    for (version, migration) in missing {
        // Schema changes are transactional here: all of it, or nothing. An index over many rows may take longer than a
        // session may otherwise idle; nothing idles in here.
        let whole = format!("BEGIN; {migration}; INSERT INTO migration (version) VALUES ({version}); COMMIT");
        client.batch_execute(&whole).await.map_err(sql)?;
        tracing::info!(store.schema = version, "the database's schema was brought up to date");
    }
    Ok(())
}

/// The key of this store's look-up hashes; the first gateway on it draws it.
pub(super) async fn lookup_key(client: &Client) -> Result<[u8; 32], Error> {
    let drawn = clock::random_bytes::<32>();
    client
        .execute(
            "INSERT INTO meta (key, value) VALUES ('lookup_key', $1) ON CONFLICT (key) DO NOTHING",
            &[&drawn.as_slice()],
        )
        .await?;
    let row = client.query_one("SELECT value FROM meta WHERE key = 'lookup_key'", &[]).await?;
    let kept: &[u8] = row.get(0);
    // Written by the line above, whoever wrote it.
    Ok(kept.try_into().unwrap_or(drawn))
}
