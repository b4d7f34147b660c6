//! Refused posts in SQLite.

use super::{Sqlite, rows};
use crate::model::id::RequestId;
use crate::store::days::day_of;
use crate::store::{Message, RefusalRecord, StoreError};
use rusqlite::{Row, params};

impl Sqlite {
    pub(in crate::store) async fn refuse(&self, refusal: RefusalRecord) -> Result<(), StoreError> {
        self.commit(move |tx| {
            let day = day_of(refusal.at);
            tx.ensure_day(day)?;
            tx.statement_of_day(
                "INSERT INTO refusal_{day} (id, source, campaign, at, request_head, request_body, request_truncated, status, answer)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
                day,
            )?
            .execute(params![
                refusal.request_id.0.as_bytes(),
                refusal.source.as_str(),
                refusal.campaign,
                refusal.at.as_microsecond(),
                refusal.request.head,
                refusal.request.body,
                refusal.request.truncated,
                refusal.status,
                refusal.answer,
            ])
            .map(drop)
        })
        .await
    }
}

/// The columns that [`refusal_of`] reads, in its order.
pub(super) const REFUSAL_COLUMNS: &str =
    "id, source, campaign, at, request_head, request_body, request_truncated, status, answer";

pub(super) fn refusal_of(row: &Row<'_>) -> rusqlite::Result<RefusalRecord> {
    Ok(RefusalRecord {
        request_id: RequestId(rows::uuid(row, 0)?),
        source: rows::parsed(row, 1)?,
        campaign: row.get::<_, String>(2)?,
        at: rows::time(row, 3)?,
        request: Message { head: row.get(4)?, body: row.get(5)?, truncated: row.get(6)? },
        status: row.get(7)?,
        answer: row.get(8)?,
    })
}
