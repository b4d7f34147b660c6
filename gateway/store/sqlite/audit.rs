//! What people did, kept in SQLite.

use jiff::Timestamp;
use rusqlite::params;

use super::writer::Tx;
use crate::store::Audit;

pub(super) fn insert_audit(tx: &Tx<'_, '_>, audit: &Audit, at: Timestamp) -> rusqlite::Result<()> {
    tx.statement("INSERT INTO audit (at, who, action, subject, reason) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![at.as_microsecond(), audit.who, audit.action, audit.subject, audit.reason])
        .map(drop)
}
