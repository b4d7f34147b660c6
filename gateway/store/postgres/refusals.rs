//! Refused posts in PostgreSQL.

use super::writer::Work;
use super::{Postgres, rows};
use crate::model::id::RequestId;
use crate::store::{Message, RefusalRecord, StoreError};
use std::sync::Arc;
use tokio_postgres::Row;

/// The columns that [`refusal_of`] reads, in its order.
pub(super) const REFUSAL_COLUMNS: &str =
    "id, source, campaign, at, request_head, request_body, request_truncated, status, answer";

pub(super) fn refusal_of(row: &Row) -> Result<RefusalRecord, StoreError> {
    Ok(RefusalRecord {
        request_id: RequestId(row.try_get(0)?),
        source: rows::parsed(row, 1)?,
        campaign: row.try_get(2)?,
        at: rows::time(row, 3)?,
        request: Message { head: row.try_get(4)?, body: row.try_get(5)?, truncated: row.try_get(6)? },
        status: rows::small(row, 7)?,
        answer: row.try_get(8)?,
    })
}

impl Postgres {
    pub(in crate::store) async fn refuse(&self, refusal: RefusalRecord) -> Result<(), StoreError> {
        self.writer.commit(Work::Refuse(Arc::new(refusal))).await.map(drop)
    }
}
