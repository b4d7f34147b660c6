//! Who did what, and why.

use jiff::Timestamp;
use rusqlite::params;

use super::writer::Tx;

/// One act of a person.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The token's name, or `cli`.
    pub who: String,
    /// Such as `redeliver`.
    pub action: &'static str,
    /// What it was done to, such as `delivery/0199…`.
    pub subject: String,
    /// In their words.
    pub reason: Option<String>,
}

pub(super) fn insert_audit(tx: &Tx<'_>, audit: &Audit, at: Timestamp) -> rusqlite::Result<()> {
    tx.statement("INSERT INTO audit (at, who, action, subject, reason) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![at.as_microsecond(), audit.who, audit.action, audit.subject, audit.reason])
        .map(drop)
}
