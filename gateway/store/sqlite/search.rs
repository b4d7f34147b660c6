//! Searches in SQLite, by keyset.

use super::Sqlite;
use super::days::tables;
use super::deliveries::{DELIVERY_COLUMNS, delivery_of};
use super::leads::{LEAD_COLUMNS, LEADS, lead_of};
use super::lookups::look_up;
use super::refusals::{REFUSAL_COLUMNS, refusal_of};
use crate::model::delivery::DeliveryState;
use crate::store::days::{ID_SLACK_MICROS, day_of, id_bound};
use crate::store::search::page;
use crate::store::{
    DeliveryRecord, DeliverySearch, LeadRecord, LeadSearch, Page, RefusalRecord, RefusalSearch, StoreError,
};
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};
use uuid::Uuid;

/// Ids looked up at a time.
const LOOKED_UP: usize = 1_000;

/// Conditions of a query with their values, in step.
#[derive(Default, Clone)]
struct Where {
    sql: Vec<String>,
    values: Vec<Value>,
}

impl Where {
    /// Adds a condition with one `?`, where there is a value.
    fn and(&mut self, sql: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.sql.push(sql.to_owned());
            self.values.push(value.into());
        }
    }

    fn and_one_of(&mut self, column: &str, not: bool, values: impl IntoIterator<Item = Value>) {
        let before = self.values.len();
        self.values.extend(values);
        let marks = vec!["?"; self.values.len() - before].join(", ");
        self.sql.push(format!("{column} {}IN ({marks})", if not { "NOT " } else { "" }));
    }

    /// From `from` inclusive to `to` exclusive; by id too, so that nothing outside is read.
    fn and_between(&mut self, column: &str, from: Option<Timestamp>, to: Option<Timestamp>) {
        let id = |micros: i64| blob(id_bound(micros));
        self.and(&format!("{column} >= ?"), micros(from));
        self.and(&format!("{column} < ?"), micros(to));
        self.and("id >= ?", micros(from).map(|from| id(from.saturating_sub(ID_SLACK_MICROS))));
        self.and("id < ?", micros(to).map(|to| id(to.saturating_add(ID_SLACK_MICROS))));
    }

    fn clause(&self) -> String {
        if self.sql.is_empty() { String::new() } else { format!(" WHERE {}", self.sql.join(" AND ")) }
    }
}

fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_microsecond)
}

fn blob(id: Uuid) -> Value {
    Value::Blob(id.as_bytes().to_vec())
}

fn text(text: impl AsRef<str>) -> Value {
    Value::Text(text.as_ref().to_owned())
}

impl Sqlite {
    pub(in crate::store) async fn find_leads(&self, search: LeadSearch) -> Result<Page<LeadRecord>, StoreError> {
        let hashes: Vec<Vec<[u8; 16]>> = search
            .lookups
            .iter()
            .map(|(kind, values)| values.iter().map(|value| self.lookup_hash(kind, value)).collect())
            .collect();
        self.search(move |conn| {
            let mut conditions = Where::default();
            conditions.and("source = ?", search.source.map(|id| text(id.as_str())));
            conditions.and("campaign = ?", search.campaign.map(|id| text(id.as_str())));
            conditions.and("status = ?", search.status.map(|status| text(status.as_str())));
            conditions.and("test = ?", search.test);
            conditions.and_between("received_at", search.from, search.to);
            let select = format!("SELECT {LEAD_COLUMNS} FROM {LEADS}");
            let items = newest(conn, &select, &conditions, &hashes, search.cursor, search.limit, lead_of)?;
            Ok(page(items, search.limit, |record| record.lead.id.0))
        })
        .await
    }

    pub(in crate::store) async fn find_deliveries(
        &self,
        search: DeliverySearch,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        let hashes: Vec<Vec<[u8; 16]>> =
            search.reference.iter().map(|reference| vec![self.lookup_hash("reference", reference)]).collect();
        self.search(move |conn| {
            let mut conditions = Where::default();
            conditions.and("lead = ?", search.lead.map(|id| blob(id.0)));
            conditions.and("partner = ?", search.partner.map(|id| text(id.as_str())));
            conditions.and("contract = ?", search.contract.map(|id| text(id.as_str())));
            conditions.and("campaign = ?", search.campaign.map(|id| text(id.as_str())));
            conditions.and("source = ?", search.source.map(|id| text(id.as_str())));
            match search.state {
                // Said in the text, so that their indexes serve: they are few among many.
                Some(few @ (DeliveryState::Sending | DeliveryState::Unknown)) => {
                    conditions.sql.push(format!("state = '{few}'"));
                }
                state => conditions.and("state = ?", state.map(|state| text(state.as_str()))),
            }
            conditions.and("verdict = ?", search.verdict.map(|verdict| text(verdict.as_str())));
            conditions.and("instr(lower(reason), lower(?)) > 0", search.reason.map(text));
            conditions.and(
                "EXISTS (SELECT 1 FROM attempt WHERE attempt.delivery = delivery.id AND attempt.number = delivery.attempt_count
                         AND attempt.status_code = ?)",
                search.status_code.map(i64::from),
            );
            if let Some((held, shut)) = search.held {
                if held {
                    conditions.and("state = ?", Some(text(DeliveryState::Queued.as_str())));
                    conditions.and("(due_at IS NULL OR due_at <= ?)", micros(Some(search.now)));
                    conditions.and_one_of("contract", false, shut.iter().map(|id| text(id.as_str())));
                } else {
                    // Not queued, not yet due, or at an open gate.
                    conditions.values.push(Value::Integer(search.now.as_microsecond()));
                    let marks = vec!["?"; shut.len()].join(", ");
                    conditions.values.extend(shut.iter().map(|id| text(id.as_str())));
                    conditions.sql.push(format!("(state <> 'queued' OR due_at > ? OR contract NOT IN ({marks}))"));
                }
            }
            conditions.and_between("created_at", search.from, search.to);
            let select = format!("SELECT {DELIVERY_COLUMNS} FROM delivery");
            let items = newest(conn, &select, &conditions, &hashes, search.cursor, search.limit, delivery_of)?;
            Ok(page(items, search.limit, |record| record.delivery.id.0))
        })
        .await
    }

    pub(in crate::store) async fn find_refusals(
        &self,
        search: RefusalSearch,
    ) -> Result<Page<RefusalRecord>, StoreError> {
        self.search(move |conn| {
            let (first, last) = (search.from.map_or(0, day_of), search.to.map_or(u32::MAX, day_of));
            let wanted = search.limit as usize + 1;
            let mut items = Vec::new();
            for day in tables(conn, "refusal")?.into_iter().filter(|day| (first..=last).contains(day)) {
                let mut conditions = Where::default();
                conditions.and("id < ?", search.cursor.map(blob));
                conditions.and("id = ?", search.request_id.map(|id| blob(id.0)));
                conditions.and("source = ?", search.source.as_ref().map(|id| text(id.as_str())));
                conditions.and("at >= ?", micros(search.from));
                conditions.and("at < ?", micros(search.to));
                let left = wanted - items.len();
                let sql = format!(
                    "SELECT {REFUSAL_COLUMNS} FROM refusal_{day}{} ORDER BY id DESC LIMIT {left}",
                    conditions.clause()
                );
                let mut select = conn.prepare(&sql)?;
                for item in select.query_map(params_from_iter(conditions.values), refusal_of)? {
                    items.push(item?);
                }
                if items.len() >= wanted {
                    break;
                }
            }
            Ok(page(items, search.limit, |record| record.request_id.0))
        })
        .await
    }
}

/// One more than `limit` of the rows below `cursor`, newest first; where there are `hashes`, of those looked up.
fn newest<T>(
    conn: &Connection,
    select: &str,
    conditions: &Where,
    hashes: &[Vec<[u8; 16]>],
    cursor: Option<Uuid>,
    limit: u32,
    of: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let wanted = limit as usize + 1;
    let (mut items, mut below) = (Vec::new(), cursor);
    loop {
        let mut conditions = conditions.clone();
        conditions.and("id < ?", below.map(blob));
        let found = if hashes.is_empty() { Vec::new() } else { look_up(conn, hashes, below, LOOKED_UP)? };
        if !hashes.is_empty() {
            conditions.and_one_of("id", false, found.iter().copied().map(blob));
        }
        let sql = format!("{select}{} ORDER BY id DESC LIMIT {}", conditions.clause(), wanted - items.len());
        for item in conn.prepare(&sql)?.query_map(params_from_iter(conditions.values), of)? {
            items.push(item?);
        }
        // The other conditions may have left little of what was looked up: then look further.
        if items.len() >= wanted || found.len() < LOOKED_UP {
            return Ok(items);
        }
        below = found.last().copied();
    }
}
